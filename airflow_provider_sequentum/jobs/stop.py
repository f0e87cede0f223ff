"""Stopping remote jobs: request the stop, poll, repeat the request, and confirm that the job has ended.

Neither an accepted request nor a single 404 means that the job has ended. A job counts as stopped when the service
shows it as ended, or has returned 404 for as long as a wait tolerates. Until then, the request is repeated while there
is time, which does no harm; after that, the error of the task says that the job may be running. If the service refuses
to show the job, the only possible confirmation is that it refuses to stop it because it has ended.
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

MAX_REQUEST_SECONDS = 10.0
"""Maximum duration of a request in seconds, including its retries: other jobs wait to be stopped."""

AT_ONCE = datetime.min.replace(tzinfo=UTC)

# A string, because few tasks need it, and re compiles it on first use.
_SAYS_OVER = (
    r"(?i)\b(?:is|was|has|been|already)\s+(?:already\s+)?(?:over|ended|finished|completed|stopped|cancell?ed|failed)\b"
    r"|\b(?:no longer|not) running\b"
)

R = TypeVar("R")

log = logging.getLogger(__name__)


class JobStopper(ABC, Generic[R]):
    """Decides how one job is stopped: which request comes next, and what the responses mean. ``now`` is passed in.

    At the end, it knows what happened to the job. ``R`` is the service's record of the job.

    :param name: how log lines name the job.
    """

    poll_interval: ClassVar[timedelta]
    """Time between two polls of the job."""

    repeat_interval: ClassVar[timedelta]
    """Time after which a stop request is repeated if it shows no effect."""

    stopped: ClassVar[str]
    """The status of a job that was stopped, in lower case."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_over = False
        self.confirmed = False
        """Whether the job is known to have ended, or is no longer known to the service."""
        self.seen: R | None = None
        """The last record of the job; ``None`` if none was read, or if the service no longer knows the job."""
        self.is_hidden = False
        """Whether the service refuses to show the job."""
        self._is_said_over = False
        self._is_unread = False
        """Whether the last poll failed, which is only logged once."""
        self._failures = 0
        self._request_at: datetime | None = AT_ONCE
        self._poll_at = AT_ONCE
        self._gives_up_at: datetime | None = None
        self._missing_since: datetime | None = None

    @property
    def sentence(self) -> str:
        """What happened to the job, as a sentence for the task's error message."""
        status = None if self.seen is None else self.status_of(self.seen)
        if not self.confirmed:
            last = f" (last seen: {status})" if status is not None else ""
            return f"The provider could not confirm that it ended{last}. {doubt_about('It')}"
        if self.is_hidden:
            return "The service does not show it, but states that it is over."
        if status is None:
            return "The service no longer knows it."
        if status.lower() == self.stopped:
            return f"It has been {self.stopped}."
        return f"It had already ended with status {status}."

    def due(self) -> datetime:
        """Return when the next request is to be sent."""
        return min(filter(None, (self._poll_at, self._request_at)))

    def check_time(self, now: datetime) -> None:
        """Give up when the time is up."""
        # While the service returns 404, polling continues until the 404 counts as an end.
        if self._missing_since is None and self._gives_up_at is not None and now >= self._gives_up_at:
            self.is_over = True

    @abstractmethod
    def next_call(self, now: datetime) -> Call[Any]:
        """Return the request to send now: a stop request or a poll."""

    def answered(self, call: Call[Any], response: Any, now: datetime) -> None:
        """Process the response to a request."""
        if call.changes_something:
            self._is_said_over = False
            self._sent(None, now)
            return
        self._missing_since, self._poll_at, self.seen = None, now + self.poll_interval, response
        self.is_hidden = self._is_unread = False
        self.is_over = self.confirmed = self._has_ended(response, now)

    def failed(self, call: Call[Any], error: SequentumError, now: datetime) -> None:
        """Process the failure of a request."""
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
        elif self._missing_since is None and not self._is_unread:
            self._is_unread = True
            log.warning("%s: its status could not be read; trying again. (%s)", self.name, error)

    def _pause_before_repetition(self, error: SequentumError | None) -> timedelta | None:
        """Return how long to wait before a stop request is repeated; ``None`` if it does not have to be.

        After a temporary error the request is repeated even if it may have taken effect, since that does no harm. The
        pauses grow, because the service may be overloaded and there may be many jobs to stop.
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
        """Process the result of a stop request."""

    @abstractmethod
    def _has_ended(self, seen: R, now: datetime) -> bool:
        """Return whether a record of the job shows that it has ended."""


def stop_jobs(port: Sender, stoppers: Sequence[JobStopper[Any]]) -> None:
    """Stop jobs: request all stops, then wait until all jobs have ended.

    Only the rate limit of the key delays the requests. Neither ``requests_per_minute`` nor a pause after a 429 does,
    because a running job costs credits.

    No error is raised. The stoppers and the log show for which jobs it could not be confirmed that they have ended.
    """
    # The deadline does not apply to the stop itself.
    deadline, port.deadline = port.deadline, None
    while (stopper := _next(stoppers, port.now())) is not None:
        port.sleep(max((stopper.due() - port.now()).total_seconds(), 0.0))
        call = replace(stopper.next_call(port.now()), is_of_stop=True)
        try:
            response = port.send(call, within=MAX_REQUEST_SECONDS)
        except SequentumError as error:
            stopper.failed(call, error, port.now())
        else:
            stopper.answered(call, response, port.now())
    port.deadline = deadline


async def astop_jobs(client: AsyncSequentumClient, stoppers: Sequence[JobStopper[Any]]) -> None:
    """Do what :func:`stop_jobs` does, on the event loop of a triggerer."""
    now = steady_clock()
    while (stopper := _next(stoppers, now())) is not None:
        await asyncio.sleep(max((stopper.due() - now()).total_seconds(), 0.0))
        call = replace(stopper.next_call(now()), is_of_stop=True)
        try:
            response = await client.send(call, within=MAX_REQUEST_SECONDS)
        except SequentumError as error:
            stopper.failed(call, error, now())
        else:
            stopper.answered(call, response, now())


def _next(stoppers: Sequence[JobStopper[Any]], now: datetime) -> JobStopper[Any] | None:
    """Return the stopper that is due first; if none is left, log what happened to the jobs."""
    for stopper in stoppers:
        stopper.check_time(now)
    left = [stopper for stopper in stoppers if not stopper.is_over]
    if left:
        return min(left, key=JobStopper.due)
    for stopper in stoppers:
        log.log(logging.INFO if stopper.confirmed else logging.WARNING, "%s: %s", stopper.name, stopper.sentence)
    return None


def is_rate_limited(error: SequentumError | None) -> bool:
    """Return whether a stop request was refused because of the rate limit, so that the job's time to end has not
    started: if many jobs are stopped together, it may take minutes until each has been asked.
    """
    return error is not None and error.status_code == 429


def _says_it_is_over(error: SequentumError) -> bool:
    """Return whether the service refuses to stop a job because it has ended.

    A 409 is documented as a conflict with the job's state, but its messages are not documented. So this only counts if
    the service refuses to show the status.
    """
    return error.status_code == 409 and re.search(_SAYS_OVER, str(error)) is not None


def _is_refused_for_good(error: SequentumError) -> bool:
    """Return whether the service would refuse this request again."""
    return error.status_code in (400, 401, 403, 405, 422)
