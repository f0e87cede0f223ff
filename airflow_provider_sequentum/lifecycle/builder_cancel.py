"""Ending a session that nobody wants any more."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from airflow_provider_sequentum.api.errors import MethodNotAllowed, NotFound, SequentumError
from airflow_provider_sequentum.lifecycle.builder_session import SessionState
from airflow_provider_sequentum.lifecycle.procedure import Procedure, now, say, send, sleep, warn

if TYPE_CHECKING:
    from airflow_provider_sequentum.api import Call

CANCEL_GRACE = timedelta(seconds=20)
"""How long to look for the end of a session that was cancelled."""

LOOK_INTERVAL = 2.0


def cancel_session(session_id: str) -> Procedure[bool]:
    """
    Cancel the session and look whether it has ended.

    A single-shot server has no ``cancel``; there ``stop`` ends a session. No event tells of a cancellation, so the
    status is asked. No error is raised: a cancellation that could not be confirmed is said in the log, with the
    session's id.

    :return: whether the session was seen to have ended.
    """
    from airflow_provider_sequentum.api import agent_builder

    yield from say(f"Cancelling Agent Builder session {session_id}.")
    offered = yield from _send_if_offered(agent_builder.cancel(session_id))
    if not offered:
        yield from _send_if_offered(agent_builder.stop(session_id))
    ended, seen = yield from _wait_for_the_end(session_id)
    if ended:
        yield from say(f"Agent Builder session {session_id} has ended: {seen}.")
    else:
        yield from warn(
            f"Could not confirm that Agent Builder session {session_id} has ended (last seen: {seen}). It may still "
            "be going and costing credits: look at it in Sequentum Cloud."
        )
    return ended


def _send_if_offered(call: Call[None]) -> Procedure[bool]:
    try:
        yield from send(call)
    except (NotFound, MethodNotAllowed):
        return False
    except SequentumError as error:
        yield from warn(f"The service did not take the request: {error}")
    return True


def _wait_for_the_end(session_id: str) -> Procedure[tuple[bool, str]]:
    from airflow_provider_sequentum.api import agent_builder

    until = (yield from now()) + CANCEL_GRACE
    seen = "no answer"
    while True:
        try:
            seen = (yield from send(agent_builder.status(session_id))).status
        except NotFound:
            return True, "the service no longer knows it"
        except SequentumError as error:
            yield from warn(f"Could not look at Agent Builder session {session_id}: {error}")
        if seen in (state.value for state in SessionState if state.is_over):
            return True, seen
        if (yield from now()) >= until:
            return False, seen
        yield from sleep(LOOK_INTERVAL)
