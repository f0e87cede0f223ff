"""Stopping remote jobs: ask, look, ask again, and see them ended.

A request that was accepted is not yet a stop, and a 404 is not an end: a job counts as stopped when the service shows
it as over, or has not known it for as long as a wait tolerates. What is not confirmed is requested again within the
time there is (a repetition does no harm), and then said. Where the service refuses to show the job, a refusal to stop
it because it has ended is the only confirmation there is, so the request is repeated for that, too.
"""

from __future__ import annotations

import asyncio
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.exceptions import doubt_about
from airflow_provider_sequentum.jobs.port import NOT_FOUND_TOLERANCE, Sender, steady_clock

if TYPE_CHECKING:
    from airflow_provider_sequentum.api import AsyncSequentumClient, Call

LONGEST_REQUEST = 10.0
"""Seconds after which a request is given up, its repetitions included: other jobs wait to be stopped."""

AT_ONCE = datetime.min.replace(tzinfo=UTC)

# Few tasks need it, and re compiles a text on first use.
_SAYS_OVER = (
    r"(?i)\b(?:is|was|has|been|already)\s+(?:already\s+)?(?:over|ended|finished|completed|stopped|cancell?ed|failed)\b"
    r"|\b(?:no longer|not) running\b"
)

R = TypeVar("R")

log = logging.getLogger(__name__)


class JobStopper(ABC, Generic[R]):
    """Decides how one job is stopped: which request comes next, and what the answers mean. ``now`` is passed in.

    When it is over, it says what became of the job. ``R`` is the record of the job that the service answers with.

    :param name: how log lines name the job.
    """

    poll_interval: ClassVar[timedelta]
    """Time between two looks at the job."""

    repeat_interval: ClassVar[timedelta]
    """Time after which a request is repeated that the job shows no sign of."""

    stopped: ClassVar[str]
    """The status of a job that was stopped, as a participle: ``stopped``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_over = False
        self.confirmed = False
        """Whether the service was seen to have ended the job, or not to know it any more."""
        self.seen: R | None = None
        """The last record of the job; ``None`` if none was read, or if the service no longer knows the job."""
        self.is_hidden = False
        """Whether the service refuses to show the job."""
        self._is_said_over = False
        self._failures = 0
        self._request_at: datetime | None = AT_ONCE
        self._poll_at = AT_ONCE
        self._gives_up_at: datetime | None = None
        self._missing_since: datetime | None = None

    @property
    def sentence(self) -> str:
        """What became of the job, for the reader of the task's error."""
        status = None if self.seen is None else self.status_of(self.seen)
        if not self.confirmed:
            last = f" (last seen: {status})" if status is not None else ""
            return f"The provider could not confirm that it ended{last}. {doubt_about('It')}"
        if self.is_hidden:
            return "The service does not show it, and says that it is over."
        if status is None:
            return "The service no longer knows it."
        if status.lower() == self.stopped:
            return f"It has been {self.stopped}."
        return f"It had already ended with status {status}."

    def due(self) -> datetime:
        """Return when the next request is to be sent."""
        return min(filter(None, (self._poll_at, self._request_at)))

    def check_time(self, now: datetime) -> None:
        """Give up when the time is over."""
        # While the service says that it does not know the job, the time goes on until that counts.
        if self._missing_since is None and self._gives_up_at is not None and now >= self._gives_up_at:
            self.is_over = True

    @abstractmethod
    def next_call(self, now: datetime) -> Call[Any]:
        """Return the request to send now: one that stops the job, or a look at it."""

    def answered(self, call: Call[Any], answer: Any, now: datetime) -> None:
        """Take in the answer to a request."""
        if call.changes_something:
            self._is_said_over = False
            self._sent(None, now)
            return
        self._missing_since, self._poll_at, self.seen = None, now + self.poll_interval, answer
        self.is_hidden = False
        self.is_over = self.confirmed = self._has_ended(answer, now)

    def failed(self, call: Call[Any], error: SequentumError, now: datetime) -> None:
        """Take in that a request failed."""
        if call.changes_something:
            log.warning("%s: the stop request failed. (%s)", self.name, error)
            self._is_said_over = _says_it_is_over(error)
            self._sent(error, now)
        else:
            self._not_shown(error, now)
        if self.is_hidden and self._is_said_over:
            self.is_over = self.confirmed = True

    def _not_shown(self, error: SequentumError, now: datetime) -> None:
        self._poll_at = now + self.poll_interval
        self.is_hidden = _is_refused_for_good(error)
        if self.is_hidden and self._request_at is None:
            self._request_at = now + self.repeat_interval
        self._missing_since = (self._missing_since or now) if error.status_code == 404 else None
        if self._missing_since is not None and now - self._missing_since >= NOT_FOUND_TOLERANCE:
            self.seen, self.is_over, self.confirmed = None, True, True
        elif self._missing_since is None:
            log.warning("%s: its status could not be read. (%s)", self.name, error)

    def _pause_before_repetition(self, error: SequentumError | None) -> timedelta | None:
        """Return how long to wait before a request to stop the job is repeated; ``None`` if it need not be.

        What failed in passing is repeated, whether it may have acted or not, since that does no harm. The pauses grow,
        because a service that fails may be overloaded, and there may be many jobs to stop.
        """
        if error is None or not error.transient:
            self._failures = 0
            return None
        self._failures += 1
        return min(self.poll_interval * (1 << min(self._failures - 1, 10)), self.repeat_interval)

    @abstractmethod
    def status_of(self, seen: R) -> str:
        """Return the status in a record of the job."""

    @abstractmethod
    def _sent(self, error: SequentumError | None, now: datetime) -> None:
        """Take in that the last request was one to stop the job, and the error that it met."""

    @abstractmethod
    def _has_ended(self, seen: R, now: datetime) -> bool:
        """Return whether a record of the job shows that it has ended."""


def stop_jobs(port: Sender, stoppers: Sequence[JobStopper[Any]]) -> None:
    """Stop jobs: ask all of them to stop, then watch all of them end.

    The requests wait only for the limit of the key: neither ``requests_per_minute`` nor a pause after a 429 may keep a
    job going that costs credits.

    No error is raised: what cannot be confirmed is in the stoppers and in the log, with the job's name.
    """
    # A deadline bounds what comes before a stop and not the stop itself.
    deadline, port.deadline = port.deadline, None
    while (stopper := _next(stoppers, port.now())) is not None:
        port.sleep(max((stopper.due() - port.now()).total_seconds(), 0.0))
        call = replace(stopper.next_call(port.now()), is_of_stop=True)
        try:
            answer = port.send(call, within=LONGEST_REQUEST)
        except SequentumError as error:
            stopper.failed(call, error, port.now())
        else:
            stopper.answered(call, answer, port.now())
    port.deadline = deadline


async def astop_jobs(client: AsyncSequentumClient, stoppers: Sequence[JobStopper[Any]]) -> None:
    """Do what :func:`stop_jobs` does, on the event loop of a triggerer."""
    now = steady_clock()
    while (stopper := _next(stoppers, now())) is not None:
        await asyncio.sleep(max((stopper.due() - now()).total_seconds(), 0.0))
        call = replace(stopper.next_call(now()), is_of_stop=True)
        try:
            answer = await client.send(call, within=LONGEST_REQUEST)
        except SequentumError as error:
            stopper.failed(call, error, now())
        else:
            stopper.answered(call, answer, now())


def _next(stoppers: Sequence[JobStopper[Any]], now: datetime) -> JobStopper[Any] | None:
    """Return the one that is due first; when there is none left, log what became of all."""
    for stopper in stoppers:
        stopper.check_time(now)
    left = [stopper for stopper in stoppers if not stopper.is_over]
    if left:
        return min(left, key=JobStopper.due)
    for stopper in stoppers:
        log.log(logging.INFO if stopper.confirmed else logging.WARNING, "%s: %s", stopper.name, stopper.sentence)
    return None


def _says_it_is_over(error: SequentumError) -> bool:
    """Return whether the service refuses to end a job because it has ended.

    409 is documented as a conflict with the state of what it concerns, but its texts are not, so this counts only
    where the status itself is refused.
    """
    return error.status_code == 409 and re.search(_SAYS_OVER, str(error)) is not None


def _is_refused_for_good(error: SequentumError) -> bool:
    """Return whether the service will not answer this question, however often it is asked."""
    return error.status_code in (400, 401, 403, 405, 422)
