"""Cancelling a session that is no longer needed, and confirming that it has ended.

A single-shot server has no ``cancel``; there, ``stop`` ends a session. On other servers ``stop`` only interrupts it, so
it is sent only if ``cancel`` is unknown. A cancellation emits no event, so the status is polled.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_sequentum.api import agent_builder
from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.exceptions import doubt_about
from airflow_provider_sequentum.jobs.port import Sender
from airflow_provider_sequentum.jobs.stop import MAX_REQUEST_SECONDS, JobStopper, is_rate_limited, stop_jobs
from airflow_provider_sequentum.sessions.state import Session, SessionState, state_of

if TYPE_CHECKING:
    from airflow_provider_sequentum.api import Call
    from airflow_provider_sequentum.api.agent_builder import SessionStatus

CANCEL_GRACE = timedelta(seconds=45)
"""How long a session may take to end."""

log = logging.getLogger(__name__)


class SessionStopper(JobStopper["SessionStatus"]):
    """Decides how to cancel a session.

    :param session: the last known state of the session.
    """

    poll_interval = timedelta(seconds=2)
    repeat_interval = timedelta(seconds=10)
    stopped = "cancelled"

    def __init__(self, session: Session) -> None:
        super().__init__(session.name)
        self._session = session
        self._uses_stop = False

    @property
    def sentence(self) -> str:
        """What happened to the session, and the agent that exists, if any."""
        # A single-shot server saves the agent as soon as there is one, and cancelling does not remove it.
        saved = (self.seen.agent_id if self.seen is not None else None) or self._session.agent_id
        return super().sentence if saved is None else f"{super().sentence} Agent {saved} exists."

    def session(self, now: datetime) -> Session:
        """Return the session as it is known now."""
        if self.seen is not None:
            return self._session.observe_status(self.seen, now)
        return self._session.entering(SessionState.GONE, now) if self.confirmed else self._session

    def next_call(self, now: datetime) -> Call[Any]:
        """Return the request to send now: a cancellation or a poll."""
        if self._request_at is not None and now >= self._request_at:
            if self._gives_up_at is None:  # the first of several requests
                log.info("%s: cancelling it.", self.name)
            end = agent_builder.stop if self._uses_stop else agent_builder.cancel
            return end(self._session.session_id)
        return agent_builder.status(self._session.session_id)

    def status_of(self, seen: SessionStatus) -> str:
        """Return the session's status."""
        return seen.status

    def _sent(self, error: SequentumError | None, now: datetime) -> None:
        if not is_rate_limited(error):
            self._gives_up_at = self._gives_up_at or now + CANCEL_GRACE
        if error is not None and error.status_code in (404, 405) and not self._uses_stop:
            self._uses_stop = True  # sent next, immediately
            return
        pause = self._pause_before_repetition(error) or self.repeat_interval
        self._poll_at, self._request_at, self._uses_stop = now, now + pause, False

    def _has_ended(self, seen: SessionStatus, now: datetime) -> bool:  # noqa: ARG002
        return state_of(seen).is_over


def is_unseen(session: Session | None) -> bool:
    """Return whether a session only counts as gone because the service does not show it."""
    return session is not None and session.state is SessionState.GONE and session.agent_id is None


def cancel_unseen(port: Sender, session: Session) -> str:
    """Request the end of a session that the service does not show, because it may only be hidden from the key.

    :return: what happened to it, as a sentence; empty if these requests are answered with 404, too.
    """
    log.info("%s: cancelling it, in case it is only hidden.", session.name)
    for end in (agent_builder.cancel, agent_builder.stop):
        try:
            port.send(end(session.session_id), within=MAX_REQUEST_SECONDS)
        except SequentumError as error:
            if error.status_code not in (404, 405):
                return f"{session.name} could not be cancelled. {doubt_about('It')} ({error})"
        else:
            return f"{session.name} was asked to end; the service accepted the request, but does not show its result."
    return ""


def cancel_session(port: Sender, session: Session) -> SessionStopper:
    """Cancel a session and wait until it has ended; see :func:`.stop_jobs`.

    :return: what happened to it.
    """
    stopper = SessionStopper(session)
    stop_jobs(port, [stopper])
    return stopper
