"""The port of a procedure: what it needs from outside to start, watch and stop a remote job.

A procedure is a plain function whose first argument is a port. On a worker the port is a client and the task's state;
in a test it is a fake that can raise before any step, which is what a killed worker does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from airflow_provider_sequentum.api.errors import RefusedByServer, SequentumError, UnexpectedResponse

if TYPE_CHECKING:
    from airflow_provider_sequentum.api import Call, Reply
    from airflow_provider_sequentum.jobs.record import Stored
    from airflow_provider_sequentum.jobs.siblings import Announced, Announcement, Claim

T = TypeVar("T")

FAULT_TOLERANCE = timedelta(minutes=10)
"""How long a wait tolerates that there is no usable response. The job keeps running in the meantime."""

NOT_FOUND_TOLERANCE = timedelta(minutes=1)
"""How long a 404 has to last before the job counts as gone: it may be new, and single 404s happen."""

WAITING_SHARE = 0.8
"""The share of the key's request budget that waits may use, so that there is always room for a start."""

OPTIONAL_SHARE = 0.5
"""The share that optional requests may use, such as bills, schedule checks and diagnostics."""


_SINCE_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""A clock that cannot be set, and that continues while the machine is suspended."""


def steady_clock() -> Callable[[], datetime]:
    """Return a clock that starts at the current time and is not affected by changes of the system clock.

    Such a change could turn a pause of seconds into hours, or end a wait immediately.
    """
    began_at, began = datetime.now(UTC), time.clock_gettime(_SINCE_BOOT)
    return lambda: began_at + timedelta(seconds=time.clock_gettime(_SINCE_BOOT) - began)


class Sender(Protocol):
    """What it takes to poll a job, wait for it and stop it.

    :param deadline: when the attempt gives up; no request and no pause lasts longer. ``None``, which a stop sets, means
        never.
    """

    deadline: datetime | None

    def send(self, call: Call[T], *, budget_share: float = 1.0, within: float | None = None) -> T:
        """Send a request and return the parsed response; see :meth:`.SequentumClient.send`."""

    def exchange(self, call: Call[T], *, budget_share: float = 1.0, within: float | None = None) -> Reply[T]:
        """Send a request and return the parsed response with its time; see :meth:`.SequentumClient.exchange`."""

    def now(self) -> datetime:
        """Return the time as an aware UTC ``datetime``."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


class Port(Sender, Protocol):
    """What the owner of a job also needs: storage for its record, and messages to and from other tasks.

    :param record: the record that was last read or saved.
    :param is_recorded: whether that record is stored where the task's next attempt will find it.
    :param hook: the connection.
    :param is_asking_airflow: whether a request to Airflow's supervisor is in progress.
    """

    record: Stored | None
    is_recorded: bool
    hook: Any
    is_asking_airflow: bool

    def connect(self) -> None:
        """Look up the connection. If that fails, it is certain that nothing was sent."""

    def save(self, record: Stored | None) -> None:
        """Save the record for the task's next attempt; ``None`` deletes the stored one."""

    def claim(self, claim: Claim) -> None:
        """Tell the mapped siblings which job this task has started or is about to start."""

    def claims(self) -> list[Claim]:
        """Return what the mapped siblings have claimed."""

    def announce(self, announcement: Announcement) -> Announcement:
        """Tell the other tasks of the DAG run what this task starts; return the announcement with the task's ids."""

    def announcements(self) -> Announced:
        """Return what the other tasks of the DAG run have announced."""

    def push(self, key: str, value: object) -> None:
        """Push an XCom for downstream tasks and users."""

    def raise_interruption(self) -> None:
        """Raise the exception with which Airflow interrupted the last request, if it has not been raised yet."""

    def asking_airflow(self) -> AbstractContextManager[None]:
        """Mark a request to Airflow's supervisor; see ``is_asking_airflow``."""

    def hurry(self) -> None:
        """Ignore the request budget from now on, because the task is being killed."""

    def close(self) -> None:
        """Close the client that :meth:`hurry` opened, if any."""


def fault_tolerance(error: SequentumError) -> timedelta:
    """Return how long a wait tolerates ``error``: not at all, unless it may be temporary."""
    if error.status_code == 404:
        return NOT_FOUND_TOLERANCE
    passing = error.transient or (isinstance(error, UnexpectedResponse) and not isinstance(error, RefusedByServer))
    return FAULT_TOLERANCE if passing else timedelta(0)
