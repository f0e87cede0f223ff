"""The requests of the API server to the service: shared by all viewers, within a small share of the key's budget.

A page never waits for the service. It gets the known answer with its age, and leaves a question. A thread for each
connection sends the most urgent question whenever a request is allowed. Only questions of open pages are sent.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar, cast

from airflow_provider_sequentum.api import Call, Reply, SequentumClient
from airflow_provider_sequentum.exceptions import (
    SequentumConnectionNotFound,
    SequentumException,
    client_errors_as_exceptions,
)
from airflow_provider_sequentum.hooks.connection import SequentumConnection

T = TypeVar("T")

REQUESTS_PER_MINUTE = 4
"""Requests that one API server process sends for one key."""

SHARE = 0.2
"""The share of the key's budget that they may use, including all other requests of this process."""

WINDOW = 63.0
"""Seconds. The latency of requests varies, so a minute at the service can be a little less here."""
WANTED_FOR = 45.0
"""Seconds for which an answer is kept up to date after a page last asked for it. Open pages ask every ten seconds."""
FORGOTTEN_AFTER = 3600.0
"""Seconds after which an answer is dropped if no page has asked for it."""
MAX_REQUEST_SECONDS = 20.0
RETRY_AFTER = 60.0
"""Seconds until a question is asked again after an error."""
HEAD_START = 60.0
"""Initial lateness of a question without an answer, as if its answer were a minute out of date."""

NOT_HERE = (
    "This API server cannot find the connection {!r}, so it cannot send requests to the service. This is expected if "
    "only the workers have the connection, in their own secrets backend or environment."
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Question(Generic[T]):
    """A question to the service. Two questions are equal if their connections and names are.

    :param conn_id: the connection.
    :param name: what the question is about.
    :param ask: sends at most one request with a client and returns the answer.
    :param fresh_for: seconds for which an answer is good enough.
    :param weight: how urgent it is, compared with others of the same age.
    """

    conn_id: str
    name: str
    ask: Callable[[SequentumClient], T] = field(compare=False)
    fresh_for: float = field(default=15.0, compare=False)
    weight: float = field(default=1.0, compare=False)


@dataclass(frozen=True, slots=True)
class Known(Generic[T]):
    """The state of a question.

    :param value: the last answer; ``None`` if there was none.
    :param at: when it arrived.
    :param problem: why the last request failed.
    :param failed_at: when it failed.
    :param is_waiting: whether it will be sent as soon as a request is allowed.
    """

    value: T | None = None
    at: datetime | None = None
    problem: str | None = None
    failed_at: datetime | None = None
    is_waiting: bool = False


@dataclass(slots=True)
class _Entry:
    question: Question[Any]
    wanted_at: float
    due_at: float
    known: Known[Any] = field(default_factory=Known)
    turn: int = 0

    def urgency(self, now: float) -> tuple[float, int]:
        """Return the order of the question: by lateness, and first come, first served at equal lateness."""
        return (now - self.due_at) * self.question.weight, -self.turn


class ServiceCache:
    """The answers of the service, shared by all requests of this process.

    :param new_client: opens a client for a connection id; raises ``SequentumException``.
    :param clock: returns the time in seconds.
    :param sleep: waits.
    """

    def __init__(
        self,
        new_client: Callable[[str], SequentumClient] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._new_client = new_client or client_of
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._entries: dict[Question[Any], _Entry] = {}
        self._sent: dict[str, deque[float]] = {}
        self._at_work: set[str] = set()
        self._turns = 0
        self._forgot_at = clock()

    def look(self, question: Question[T]) -> Known[T]:
        """Return the known answer, and have the question sent if it is outdated."""
        with self._lock:
            now = self._clock()
            self._forget(now)
            entry = self._entries.setdefault(question, _Entry(question, now, now - HEAD_START))
            entry.question, entry.wanted_at = question, now
            is_waiting = now >= entry.due_at
            if is_waiting and question.conn_id not in self._at_work:
                self._at_work.add(question.conn_id)
                name = f"sequentum-ui-{question.conn_id}"
                threading.Thread(target=self._work, args=(question.conn_id,), name=name, daemon=True).start()
            return cast("Known[T]", replace(entry.known, is_waiting=is_waiting))

    def peek(self, question: Question[T]) -> Known[T]:
        """Return the known answer, without a request to the service."""
        with self._lock:
            entry = self._entries.get(question)
            return Known() if entry is None else cast("Known[T]", entry.known)

    def expire(self, conn_id: str) -> None:
        """Treat all answers of a connection as outdated, because something was changed."""
        with self._lock:
            for entry in self._entries.values():
                if entry.question.conn_id == conn_id:
                    entry.due_at = min(entry.due_at, self._clock() - HEAD_START)

    def _work(self, conn_id: str) -> None:
        """Send the questions for a connection until none is left."""
        try:
            while not self._is_done(conn_id):
                self._ask_next(conn_id)
        except BaseException:
            with self._lock:
                self._at_work.discard(conn_id)
            raise

    def _is_done(self, conn_id: str) -> bool:
        with self._lock:
            is_done = not self._wanted(conn_id)
            if is_done:
                self._at_work.discard(conn_id)
            return is_done

    def _ask_next(self, conn_id: str) -> None:
        question: Question[Any] | None = None
        try:
            with self._new_client(conn_id) as client:
                self._wait_for_room(client)
                # The question is chosen once it may be sent, because another one may have become more urgent.
                question = self._most_urgent(conn_id)
                if question is None:
                    return
                with client_errors_as_exceptions(conn_id):
                    answer = question.ask(client)
        except SequentumConnectionNotFound:
            self._failed(conn_id, None, NOT_HERE.format(conn_id))
        except SequentumException as error:
            self._failed(conn_id, question, str(error))
        except Exception:  # whatever the error, the pages have to show that they are outdated, and why
            log.exception("Could not ask Sequentum Cloud for the UI (connection %r).", conn_id)
            self._failed(conn_id, question, "An unexpected error; see the API server's log.")
        else:
            with self._lock:
                self._store(question, Known(answer, datetime.now(UTC)), question.fresh_for)

    def _wait_for_room(self, client: SequentumClient) -> None:
        """Wait until another request with the client's key is allowed, and count it."""
        settings = client.settings
        key = hashlib.sha256(f"{settings.origin} {settings.api_key}".encode()).hexdigest()
        while True:
            with self._lock:
                now = self._clock()
                sent = self._sent.setdefault(key, deque())
                while sent and now - sent[0] >= WINDOW:
                    sent.popleft()
                if len(sent) < REQUESTS_PER_MINUTE:
                    sent.append(now)
                    return
                wait = sent[0] + WINDOW - now
            self._sleep(wait)

    def _wanted(self, conn_id: str) -> list[_Entry]:
        now = self._clock()
        return [
            entry
            for entry in self._entries.values()
            if entry.question.conn_id == conn_id and now >= entry.due_at and now - entry.wanted_at < WANTED_FOR
        ]

    def _most_urgent(self, conn_id: str) -> Question[Any] | None:
        with self._lock:
            now = self._clock()
            entry = max(self._wanted(conn_id), key=lambda entry: entry.urgency(now), default=None)
            return None if entry is None else entry.question

    def _failed(self, conn_id: str, question: Question[Any] | None, problem: str) -> None:
        """Store why there is no answer to a question; ``None`` means all questions for the connection."""
        with self._lock:
            asked = None if question is None else self._entries.get(question)
            for entry in self._wanted(conn_id) if asked is None else [asked]:
                known = replace(entry.known, problem=problem, failed_at=datetime.now(UTC))
                self._store(entry.question, known, RETRY_AFTER)

    def _store(self, question: Question[Any], known: Known[Any], good_for: float) -> None:
        now = self._clock()
        entry = self._entries.setdefault(question, _Entry(question, now, now))
        self._turns += 1
        entry.known, entry.due_at, entry.turn = known, now + good_for, self._turns

    def _forget(self, now: float) -> None:
        if now - self._forgot_at < WINDOW:
            return
        self._forgot_at = now
        old = [question for question, entry in self._entries.items() if now - entry.wanted_at >= FORGOTTEN_AFTER]
        for question in old:
            del self._entries[question]


def client_of(conn_id: str) -> SequentumClient:
    """Open a client that sends each request once: an unanswered question is sent again when it is its turn.

    :raises SequentumException: the connection is unknown here, or invalid.
    """
    settings = replace(SequentumConnection(conn_id).settings, max_attempts=1)
    with client_errors_as_exceptions(conn_id):
        return SequentumClient(settings)


def asking(call: Call[T]) -> Callable[[SequentumClient], Reply[T]]:
    """Return the function that sends a call and returns its value with the time of the service."""
    return lambda client: client.exchange(call, budget_share=SHARE, within=MAX_REQUEST_SECONDS)
