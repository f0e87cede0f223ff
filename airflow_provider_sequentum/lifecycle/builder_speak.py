"""
Speaking in a session: follow-ups and the finish, each once.

A message is announced in the record before it is sent. Where its fate is unknown, because the answer was lost or the
worker was killed, the session itself tells: one that was ready and does something has taken the message.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

from airflow_provider_sequentum.api.errors import (
    BadRequest,
    Conflict,
    MethodNotAllowed,
    NotFound,
    RefusedByServer,
    SequentumError,
    UnprocessableRequest,
)
from airflow_provider_sequentum.lifecycle.builder_record import SessionRecord, Verb
from airflow_provider_sequentum.lifecycle.builder_session import (
    Action,
    BuilderSession,
    Finish,
    FollowUp,
    SessionState,
    Turn,
    next_action,
)
from airflow_provider_sequentum.lifecycle.builder_wait import EventSink, look_at
from airflow_provider_sequentum.lifecycle.procedure import Procedure, now, remember, say, send, sleep, warn

if TYPE_CHECKING:
    from airflow_provider_sequentum.api import Call

T = TypeVar("T")

LOOKS_FOR_A_REACTION = (0.0, 5.0, 10.0, 15.0)
"""Seconds before each look for a sign that a message was taken: ``TURN_GRACE`` in all."""

DELIVERIES = 2
"""How often a request is sent at most within one try; again only when the one before is seen to have had no effect."""

_NOT_OFFERED = (NotFound, MethodNotAllowed)
_REFUSALS = (BadRequest, Conflict, UnprocessableRequest, RefusedByServer, *_NOT_OFFERED)


class SingleShotServer(Exception):
    """The server has no endpoint for follow-ups."""


class MessageAmbiguous(Exception):
    """A follow-up was sent, its answer was lost, and neither events nor status tell whether it was taken."""


class RefusedInSession(Exception):
    """The session is ready, and the service refuses the request nevertheless."""


def speak(
    record: SessionRecord,
    followups: tuple[str, ...],
    on_ready: str,
    agent_name: str | None,
    sink: EventSink | None = None,
) -> Procedure[tuple[SessionRecord, Action]]:
    """
    Say what is to be said in the session now; return when only waiting helps, or nothing is left to say.

    :param record: the record of a session that was just looked at.
    :param followups: the messages.
    :param on_ready: see :func:`~.builder_session.next_action`.
    :param agent_name: the name the agent is saved under; the service chooses one when ``None``.
    :param sink: gets the events read on the way.
    :return: the record, and what is to be done next by somebody else.
    :raises SingleShotServer: there are follow-ups, and the server takes none.
    :raises MessageAmbiguous: a follow-up may or may not have been taken.
    :raises RefusedInSession: the service refused a follow-up or the finish.
    :raises SequentumError: the service could not be asked. If a request is in doubt, the record says so.
    """
    from airflow_provider_sequentum.api import agent_builder

    if record.announced is not None:
        record, _ = yield from _find_out(record, record.announced, sink)
    while True:
        session = session_of(record)
        action = next_action(session, len(followups), on_ready, (yield from now()))
        if isinstance(action, FollowUp):
            yield from say(f"Sending follow-up {action.index + 1} of {len(followups)}.")
            message = agent_builder.followup(session.session_id, followups[action.index])
            record = yield from _deliver(record, Verb.FOLLOWUP, message, lambda heard, _, __: heard.heard(), sink)
        elif isinstance(action, Finish):
            yield from say(f"Finishing session {session.session_id}.")
            finish = agent_builder.finish(session.session_id, agent_name)
            record = yield from _deliver(
                record,
                Verb.FINISH,
                finish,
                lambda heard, saved, at: heard.finished(saved.agent_id, saved.agent_name or agent_name, at),
                sink,
            )
            record = yield from _look_back(record, sink)
        else:
            return record, action


def session_of(record: SessionRecord) -> BuilderSession:
    """
    Return the record's session.

    :raises ValueError: it has none. The procedures here are for sessions that have been started.
    """
    if record.session is None:
        raise ValueError("The record holds no session.")
    return record.session


def _deliver(
    record: SessionRecord,
    verb: Verb,
    call: Call[T],
    accepted: Callable[[BuilderSession, T, datetime], BuilderSession],
    sink: EventSink | None,
) -> Procedure[SessionRecord]:
    """Send the request so that it takes effect once, and return the record in which its fate is known."""
    delivery = 0
    while True:
        delivery += 1
        record = record.announcing(verb, (yield from now()))
        yield from remember(record.to_json())
        try:
            answer = yield from send(call)
        except SequentumError as error:
            # A request that is sent again may meet the late effect of the one before.
            is_met = delivery > 1 and isinstance(error, Conflict)
            if not is_met and (not error.may_have_acted or isinstance(error, RefusedByServer)):
                return (yield from _after_a_refusal(record, verb, error, sink))
            yield from warn(f"The request is in doubt; looking whether it was taken. ({error})")
            record, taken = yield from _find_out(record, verb, sink)
            if taken:
                return record
            if delivery == DELIVERIES:
                raise
        else:
            record = record.settled(accepted(session_of(record), answer, (yield from now())))
            yield from remember(record.to_json())
            return record


def _look_back(record: SessionRecord, sink: EventSink | None) -> Procedure[SessionRecord]:
    """Take in what the session's last events say of the agent. It is saved by now, so no failure is raised."""
    try:
        session = yield from look_at(session_of(record), sink)
    except SequentumError as error:
        yield from warn(f"Could not look at the session after its end: {error}")
        return record
    return record.seeing(session)


def _after_a_refusal(
    record: SessionRecord, verb: Verb, error: SequentumError, sink: EventSink | None
) -> Procedure[SessionRecord]:
    """Nothing was done. Find out whether the session is why; if it is as it was, the request is at fault."""
    record = record.settled(session_of(record).unheard())
    yield from remember(record.to_json())
    if not isinstance(error, _REFUSALS):
        raise error
    session = yield from look_at(session_of(record), sink)
    if session.state is SessionState.READY:
        if not isinstance(error, _NOT_OFFERED):
            raise RefusedInSession(str(error)) from error
        if verb is Verb.FOLLOWUP:
            raise SingleShotServer(str(error)) from error
        yield from say("The server finishes sessions by itself; waiting for it.")
        session = session.without_finish()
    record = record.seeing(session)
    yield from remember(record.to_json())
    return record


def _find_out(record: SessionRecord, verb: Verb, sink: EventSink | None) -> Procedure[tuple[SessionRecord, bool]]:
    """Find out whether the announced request was taken, and return the record that says so."""
    session, taken = session_of(record), False
    for pause in LOOKS_FOR_A_REACTION:
        yield from sleep(pause)
        session = yield from look_at(session, sink, strict=True)
        reacted = verb is Verb.FOLLOWUP and session.turn is not Turn.SAID
        taken = reacted or session.state not in (SessionState.READY, SessionState.UNKNOWN)
        if taken:
            break
    if verb is Verb.FOLLOWUP:
        can_tell = session.events_offered and session.state is not SessionState.UNKNOWN
        if not taken and not can_tell:
            raise MessageAmbiguous(session.session_id)
        session = session.heard() if taken else session.unheard()
    yield from say(f"The {verb.value} was {'taken' if taken else 'not taken'} by the service.")
    record = record.settled(session)
    yield from remember(record.to_json())
    return record, taken
