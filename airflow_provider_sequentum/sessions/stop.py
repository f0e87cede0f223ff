"""Cancelling a session that nobody waits for any more, and seeing it ended.

A request that was accepted is not yet an end, and neither is a 404: a session counts as ended when its status says so,
or when the service has not known it for as long as a wait tolerates. What is not confirmed is requested again within
the time there is (a cancellation is harmless to repeat), and then said. A cancellation emits no event, so the status is
what is read.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.jobs.port import NOT_FOUND_TOLERANCE, Port
from airflow_provider_sequentum.sessions.state import state_of

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


@dataclass(frozen=True, slots=True)
class CancelResult:
    """What became of a session that was to be cancelled.

    :param confirmed: whether it was seen to have ended, or not to be known any more.
    :param status: its last status, where one was read.
    """

    confirmed: bool
    status: SessionStatus | None = None

    @property
    def sentence(self) -> str:
        """What the reader of the task's error has to know."""
        if not self.confirmed:
            fate = "It could not be confirmed that it has ended: it may be running and costing credits. Look at it in "
            fate += "Sequentum Cloud."
        elif self.status is None:
            fate = "The service no longer knows it."
        elif self.status.status == "cancelled":
            fate = "It has been cancelled."
        else:
            fate = f"By then it had ended as {self.status.status}."
        # A single-shot server saves the agent as soon as there is one, and cancelling does not remove it.
        saved = self.status.agent_id if self.status is not None else None
        return fate if saved is None else f"{fate} Agent {saved} exists."


class SessionStopper:
    """Decides how a session is cancelled: which request comes next, and what the answers mean. ``now`` is passed in.

    A single-shot server has no ``cancel``; there ``stop`` ends a session. On other servers ``stop`` only interrupts
    it, so it is sent only where ``cancel`` is not known.

    :param session_id: the session.
    :param now: the time.
    """

    def __init__(self, session_id: str, now: datetime) -> None:
        self.session_id = session_id
        self.result: CancelResult | None = None
        self._cancel_at: datetime | None = now
        self._uses_stop = False
        self._poll_at = now
        self._gives_up_at = now + CANCEL_GRACE
        self._missing_since: datetime | None = None
        self._status: SessionStatus | None = None

    def due(self) -> datetime:
        """Return when the next request is to be sent."""
        return min(filter(None, (self._poll_at, self._cancel_at)))

    def next_call(self, now: datetime) -> Call[Any]:
        """Return the request to send now: a cancellation or a look."""
        from airflow_provider_sequentum.api import agent_builder

        if self._cancel_at is not None and now >= self._cancel_at:
            self._poll_at = now
            end = agent_builder.stop if self._uses_stop else agent_builder.cancel
            return end(self.session_id)
        return agent_builder.status(self.session_id)

    def answered(self, call: Call[Any], status: SessionStatus | None, now: datetime) -> None:
        """Take in the answer to a request."""
        if call.changes_something:
            self._requested(now)
            return
        self._missing_since, self._status = None, status
        self._poll_at = now + POLL_INTERVAL
        if status is not None and state_of(status).is_over:
            self.result = CancelResult(confirmed=True, status=status)
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
        if self._missing_since is not None and now - self._missing_since >= NOT_FOUND_TOLERANCE:
            self.result = CancelResult(confirmed=True)
        elif self._missing_since is None:
            log.warning("Could not look at Agent Builder session %s: %s", self.session_id, error)
        self._check_time(now)

    def _requested(self, now: datetime) -> None:
        self._cancel_at, self._uses_stop = now + REPEAT_INTERVAL, False
        self._check_time(now)

    def _check_time(self, now: datetime) -> None:
        # While the service says that it does not know the session, the time goes on until that counts.
        if self.result is None and self._missing_since is None and now >= self._gives_up_at:
            self.result = CancelResult(confirmed=False, status=self._status)

    def log_result(self) -> None:
        """Log what became of the session."""
        result = self.result or CancelResult(confirmed=False)
        level = logging.INFO if result.confirmed else logging.WARNING
        log.log(level, "Agent Builder session %s was told to end. %s", self.session_id, result.sentence)


def cancel_session(port: Port, session_id: str) -> CancelResult:
    """Cancel a session and watch it end. No error is raised: what cannot be confirmed is in the result and in the log.

    :param session_id: the session.
    :return: what became of it.
    """
    stopper = _stopper(session_id, port.now())
    while stopper.result is None:
        port.sleep(max((stopper.due() - port.now()).total_seconds(), 0.0))
        call = stopper.next_call(port.now())
        try:
            answer = port.send(call, within=LONGEST_REQUEST)
        except SequentumError as error:
            stopper.failed(call, error, port.now())
        else:
            stopper.answered(call, answer, port.now())
    stopper.log_result()
    return stopper.result


async def acancel_session(client: AsyncSequentumClient, session_id: str) -> CancelResult:
    """Do what :func:`cancel_session` does, on the event loop of a triggerer."""
    stopper = _stopper(session_id, _now())
    while stopper.result is None:
        await asyncio.sleep(max((stopper.due() - _now()).total_seconds(), 0.0))
        call = stopper.next_call(_now())
        try:
            answer = await client.send(call, within=LONGEST_REQUEST)
        except SequentumError as error:
            stopper.failed(call, error, _now())
        else:
            stopper.answered(call, answer, _now())
    stopper.log_result()
    return stopper.result


def _stopper(session_id: str, now: datetime) -> SessionStopper:
    log.info("Cancelling Agent Builder session %s.", session_id)
    return SessionStopper(session_id, now)


def _now() -> datetime:
    return datetime.now(UTC)
