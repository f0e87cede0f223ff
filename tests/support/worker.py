"""A worker: the port of procedures, on the fake service and its clock. It can be killed before any step."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from types import SimpleNamespace
from typing import Any, TypeVar

from airflow_provider_sequentum.api.call import Call, Reply
from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.jobs.record import Stored
from airflow_provider_sequentum.jobs.siblings import Announced, Announcement, Claim
from tests.support.service import Clock, FakeService, not_reached

T = TypeVar("T")

PACKAGE = "airflow_provider_sequentum"


class Killed(BaseException):
    """The worker process died. A ``BaseException``, because nothing gets a chance to handle a SIGKILL."""


class _LogLines(logging.Handler):
    """Gives what the package logs to the worker that was made last."""

    worker: Worker | None = None

    def emit(self, entry: logging.LogRecord) -> None:
        if self.worker is not None:
            text = entry.getMessage()
            self.worker.said.append(text)
            if entry.levelno >= logging.WARNING:
                self.worker.warned.append(text)


LOG_LINES = _LogLines()


@dataclass
class Worker:
    """A port like the real ones.

    :param service: answers its calls and has its clock.
    :param steps_left: something happens before it takes a further step: by default it dies, and stays dead.
    :param interrupt: what happens then instead, once; it may raise anything.
    """

    service: Any
    """A ``FakeService`` or a ``FakeBuilder``: both have a clock."""
    steps_left: int | None = None
    interrupt: Callable[[], None] | None = None
    said: list[str] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)
    """What of it was logged as a warning."""
    sent: list[tuple[datetime, Call[Any], float]] = field(default_factory=list)
    """When each call was sent, the call, and the share of the budget that it may fill."""
    kept: list[dict[str, Any] | None] = field(default_factory=list)
    """What was saved, one after the other."""
    siblings: list[Claim] = field(default_factory=list)
    claimed: list[Claim] = field(default_factory=list)
    announced: list[Announcement] = field(default_factory=list)
    others: Announced = field(default_factory=Announced)
    """What the other tasks of the DAG run have announced."""
    pushed: dict[str, Any] = field(default_factory=dict)
    deadline: datetime | None = None
    log_level: int = logging.DEBUG
    """From which level on it hears what is logged."""
    record: Stored | None = None
    is_recorded: bool = False
    is_asking_airflow: bool = False
    hook: Any = field(
        default_factory=lambda: SimpleNamespace(
            sequentum_conn_id="sequentum_default",
            run_link=lambda agent_id, run_id: f"https://ui/{agent_id}/{run_id}",
            session_link=lambda session_id: f"https://ui/{session_id}",
        )
    )

    def __post_init__(self) -> None:
        logger = logging.getLogger(PACKAGE)
        LOG_LINES.worker = self
        if LOG_LINES not in logger.handlers:
            logger.addHandler(LOG_LINES)
        if logger.level != self.log_level:  # to set a level makes every logger find its own out again
            logger.setLevel(self.log_level)

    @property
    def saved(self) -> dict[str, Any] | None:
        """What was saved last."""
        return self.kept[-1] if self.kept else None

    def send(self, call: Call[T], *, budget_share: float = 1.0, within: float | None = None) -> T:
        return self.exchange(call, budget_share=budget_share, within=within).value

    def exchange(self, call: Call[T], *, budget_share: float = 1.0, within: float | None = None) -> Reply[T]:
        self.step()
        if self.deadline is not None and self.now() >= self.deadline:
            raise not_reached(call)  # the client sends nothing when no time is left
        self.sent.append((self.service.clock.now, call, budget_share))
        reply: Reply[T] = self.service.exchange(call)
        return reply

    def now(self) -> datetime:
        now: datetime = self.service.clock.now
        return now

    def sleep(self, seconds: float) -> None:
        self.step()
        left = None if self.deadline is None else max((self.deadline - self.now()).total_seconds(), 0.0)
        self.service.clock.sleep(seconds if left is None else min(seconds, left))

    def save(self, record: Stored | None) -> None:
        self.record, self.is_recorded = record, False
        self.step()
        self.kept.append(None if record is None else record.to_json())
        self.is_recorded = record is not None

    def claim(self, claim: Claim) -> None:
        self.claimed.append(claim)

    def claims(self) -> list[Claim]:
        return list(self.siblings)

    def announce(self, announcement: Announcement) -> Announcement:
        self.step()
        placed = announcement.updated(task_id="run_agent")
        self.announced.append(placed)
        return placed

    def announcements(self) -> Announced:
        self.step()
        return self.others

    def push(self, key: str, value: object) -> None:
        self.step()
        self.pushed[key] = value

    def connect(self) -> None:
        """Nothing to look up."""

    def raise_interruption(self) -> None:
        """Nothing is postponed: what interrupts a step is raised there."""

    def asking_airflow(self) -> AbstractContextManager[None]:
        return nullcontext()

    def hurry(self) -> None:
        self.deadline = None

    def close(self) -> None:
        self.is_asking_airflow = False

    def step(self) -> None:
        """Take a step, unless something happens first."""
        if self.steps_left is None:
            return
        if self.steps_left > 0:
            self.steps_left -= 1
            return
        if self.interrupt is None:
            raise Killed
        self.steps_left, happens = None, self.interrupt
        happens()


class Answering(Worker):
    """A port whose calls are all answered by one function."""

    def __init__(self, answer: Callable[[Call[Any]], Any]) -> None:
        super().__init__(FakeService(Clock()))
        self.answer = answer

    def exchange(self, call: Call[Any], *, budget_share: float = 1.0, within: float | None = None) -> Reply[Any]:
        self.sent.append((self.now(), call, budget_share))
        answer = self.answer(call)
        if isinstance(answer, SequentumError):
            raise answer
        return Reply(answer, None)


def answering(value: Any) -> Answering:
    """Return a port whose calls are all answered with one value."""
    return Answering(lambda _: value)
