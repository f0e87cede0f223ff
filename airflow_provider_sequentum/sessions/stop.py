"""Cancelling a session that nobody waits for any more, and seeing it ended.

A request that was accepted is not yet an end, and neither is a 404: a session counts as ended when its status says so,
or when the service has not known it for as long as a wait tolerates. What is not confirmed is requested again within
the time there is (a cancellation is harmless to repeat), and then said. A cancellation emits no event, so the status is
what is read.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_sequentum.api import agent_builder
from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.jobs.port import NOT_FOUND_TOLERANCE, Port
from airflow_provider_sequentum.sessions.state import Session, SessionState

if TYPE_CHECKING:
    from airflow_provider_sequentum.api import AsyncSequentumClient, Call
    from airflow_provider_sequentum.api.agent_builder import SessionStatus

CANCEL_GRACE = timedelta(seconds=45)
"""How long a session gets to end."""

POLL_INTERVAL = timedelta(seconds=2)
"""Time between two looks at a session that is being cancelled."""

REPEAT_INTERVAL = timedelta(seconds=10)
"""Time after which a cancellation is requested again that the session shows no sign of."""

LONGEST_REQUEST = 10.0
"""Seconds after which a request is given up, its repetitions included."""

log = logging.getLogger(__name__)


class SessionStopper:
    """Decides how a session is cancelled: which request comes next, and what the answers mean. ``now`` is passed in.

    A single-shot server has no ``cancel``; there ``stop`` ends a session. On other servers ``stop`` only interrupts
    it, so it is sent only where ``cancel`` is not known.

    :param session: the session as it was seen last.
    :param now: the time.
    """

    def __init__(self, session: Session, now: datetime) -> None:
        self.session = session
        self.is_done = False
        self._cancel_at: datetime | None = now
        self._uses_stop = False
        self._poll_at = now
        self._gives_up_at = now + CANCEL_GRACE
        self._missing_since: datetime | None = None
        log.info("Cancelling %s.", session.name)

    def pause(self, now: datetime) -> float:
        """Return the seconds until the next request is to be sent."""
        due = min(filter(None, (self._poll_at, self._cancel_at)))
        return max((due - now).total_seconds(), 0.0)

    def next_call(self, now: datetime) -> Call[Any]:
        """Return the request to send now: a cancellation or a look."""
        if self._cancel_at is not None and now >= self._cancel_at:
            self._poll_at = now
            end = agent_builder.stop if self._uses_stop else agent_builder.cancel
            return end(self.session.session_id)
        return agent_builder.status(self.session.session_id)

    def answered(self, status: SessionStatus | None, now: datetime) -> None:
        """Take in the answer to a request; only a look has a status for one."""
        if status is None:
            self._requested(now)
            return
        self._missing_since, self._poll_at = None, now + POLL_INTERVAL
        self.session = self.session.observe_status(status, now)
        self._check_time(now)

    def failed(self, call: Call[Any], error: SequentumError, now: datetime) -> None:
        """Take in that a request failed."""
        if call.changes_something:
            if error.status_code in (404, 405) and not self._uses_stop:
                self._uses_stop = True  # the next request, at once
                return
            log.warning("The service rejected the request: %s", error)
            self._requested(now)
            return
        self._poll_at = now + POLL_INTERVAL
        self._missing_since = (self._missing_since or now) if error.status_code == 404 else None
        if self._missing_since is None:
            log.warning("Could not look at %s: %s", self.session.name, error)
        elif now - self._missing_since >= NOT_FOUND_TOLERANCE:
            self.session = self.session.entering(SessionState.GONE, now)
        self._check_time(now)

    def _requested(self, now: datetime) -> None:
        self._cancel_at, self._uses_stop = now + REPEAT_INTERVAL, False
        self._check_time(now)

    def _check_time(self, now: datetime) -> None:
        # While the service says that it does not know the session, the time goes on until that counts.
        is_late = self._missing_since is None and now >= self._gives_up_at
        self.is_done = self.session.state.is_over or is_late
        if self.is_done:
            level = logging.INFO if self.session.state.is_over else logging.WARNING
            log.log(level, "%s was told to end. %s", self.session.name, what_became_of(self.session))


def what_became_of(session: Session) -> str:
    """Return what the reader of the task's error has to know of a session that was to be cancelled."""
    if not session.state.is_over:
        fate = "It could not be confirmed that it has ended: it may be running and costing credits. Look at it in "
        fate += "Sequentum Cloud."
    elif session.state is SessionState.GONE:
        fate = "The service no longer knows it."
    elif session.state is SessionState.CANCELLED:
        fate = "It has been cancelled."
    else:
        fate = f"By then it had ended as {session.state.value}."
    # A single-shot server saves the agent as soon as there is one, and cancelling does not remove it.
    return fate if session.agent_id is None else f"{fate} Agent {session.agent_id} exists."


def cancel_session(port: Port, session: Session) -> Session:
    """Cancel a session and watch it end. No error is raised: what cannot be confirmed is in the result and in the log.

    :return: the session as it is then. It has ended for certain if its state says so.
    """
    stopper = SessionStopper(session, port.now())
    while not stopper.is_done:
        port.sleep(stopper.pause(port.now()))
        call = stopper.next_call(port.now())
        try:
            answer = port.send(call, within=LONGEST_REQUEST)
        except SequentumError as error:
            stopper.failed(call, error, port.now())
        else:
            stopper.answered(answer, port.now())
    return stopper.session


async def acancel_session(client: AsyncSequentumClient, session: Session) -> Session:
    """Do what :func:`cancel_session` does, on the event loop of a triggerer."""
    stopper = SessionStopper(session, _now())
    while not stopper.is_done:
        await asyncio.sleep(stopper.pause(_now()))
        call = stopper.next_call(_now())
        try:
            answer = await client.send(call, within=LONGEST_REQUEST)
        except SequentumError as error:
            stopper.failed(call, error, _now())
        else:
            stopper.answered(answer, _now())
    return stopper.session


def _now() -> datetime:
    return datetime.now(UTC)
