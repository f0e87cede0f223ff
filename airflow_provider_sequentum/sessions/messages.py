"""Sending the follow-ups and the finish of a session, each exactly once.

A message is saved in the record before it is sent. If it is unknown whether the service received it, because the
response was lost or the worker was killed, the state of the session shows it: a session that was ready and is working
has received the message.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from airflow_provider_sequentum.api import agent_builder
from airflow_provider_sequentum.api.errors import RefusedByServer, SequentumError
from airflow_provider_sequentum.exceptions import AgentBuilderEnded
from airflow_provider_sequentum.jobs.port import Port
from airflow_provider_sequentum.sessions.describe import ended, task_to_clear
from airflow_provider_sequentum.sessions.record import Request, SessionRecord
from airflow_provider_sequentum.sessions.state import Action, SessionState, Turn, next_action
from airflow_provider_sequentum.sessions.wait import EventTaker, look_at

if TYPE_CHECKING:
    from airflow_provider_sequentum.api import Call

REACTION_DELAYS = (0.0, 5.0, 10.0, 15.0)
"""Seconds before each check whether a message was received: ``TURN_GRACE`` in total."""

BUSY_DELAYS = (5.0, 10.0, 20.0)
"""Seconds before each repetition of a request that was refused with 409 although the session is ready."""

MAX_DELIVERIES = 2
"""How often to send a request in one attempt. It is only sent again if the previous request had no effect."""

_NOT_OFFERED = (404, 405)
_REFUSALS = (400, 409, 422, *_NOT_OFFERED)

log = logging.getLogger(__name__)


def send_pending(port: Port, record: SessionRecord, take: EventTaker | None = None) -> tuple[SessionRecord, Action]:
    """Send pending messages to the session, until the task has to wait or nothing is left to send.

    :param record: the record of a session that was just polled.
    :param take: receives the events that are read.
    :return: the record, and what the caller has to do next.
    :raises AgentBuilderEnded: the server accepts no follow-ups, it refused a request although the session is ready, or
        it is unknown whether a follow-up was received.
    :raises SequentumError: the service could not be reached. If it is uncertain whether a request was received, the
        record shows that.
    """
    config = record.config
    if record.pending is not None:
        record, _ = _find_out(port, record, record.pending, take)
    while True:
        session = record.known_session
        action = next_action(session, len(config.followups), config.when_ready, port.now())
        if action is Action.FOLLOW_UP:
            log.info("Sending follow-up %d of %d.", session.sent + 1, len(config.followups))
            followup = agent_builder.followup(session.session_id, config.followups[session.sent])
            record = _deliver(port, record, Request.FOLLOWUP, followup, take)
        elif action is Action.FINISH:
            log.info("Finishing %s.", session.name)
            finish = agent_builder.finish(session.session_id, config.agent_name)
            record = _deliver(port, record, Request.FINISH, finish, take)
            try:
                record = record.seen(look_at(port, record.known_session, take))
            except SequentumError as error:  # the agent has been saved by now
                log.warning("Could not check the session after its end: %s", error)
        else:
            return record, action


def _deliver(
    port: Port, record: SessionRecord, request: Request, call: Call[Any], take: EventTaker | None
) -> SessionRecord:
    """Send the request so that it takes effect once, and return the record with its result."""
    deliveries, delays = 0, list(BUSY_DELAYS)
    while True:
        record = record.sending(request, port.now())
        port.save(record)
        try:
            response = port.send(call)
        except SequentumError as error:
            is_refusal = isinstance(error, RefusedByServer) or error.status_code in _REFUSALS
            # If the request was sent before, a conflict may be its late effect, and errors that do not concern the
            # session do not prove that it had none.
            is_late_effect = record.doubted is request and (error.status_code == 409 or not is_refusal)
            is_certain = not error.may_have_acted or is_refusal
            if is_certain and not is_late_effect:
                record, is_passing = _after_refusal(port, record, request, error, take, may_wait=bool(delays))
                if not is_passing:
                    return record
                log.warning(
                    "%s cannot accept the request now; trying again in %g s. (%s)", record.name, delays[0], error
                )
                port.sleep(delays.pop(0))
                continue
            log.warning("The response was lost; checking whether the request was received. (%s)", error)
            record, is_taken = _find_out(port, record, request, take)
            if is_taken or record.known_session.state is SessionState.UNKNOWN:
                return record
            deliveries += 1
            if deliveries == MAX_DELIVERIES:
                raise
        else:
            session = record.known_session
            if request is Request.FOLLOWUP:
                session = session.acknowledged()
            else:
                name = response.agent_name or record.config.agent_name
                session = session.finished(response.agent_id, name, port.now())
            record = record.resolved(session)
            port.save(record)
            return record


def _after_refusal(
    port: Port,
    record: SessionRecord,
    request: Request,
    error: SequentumError,
    take: EventTaker | None,
    *,
    may_wait: bool,
) -> tuple[SessionRecord, bool]:
    """Find out whether the state of the session is the reason for a refusal. If it has not changed, the request is.

    :return: the record, and whether to send the request again because the conflict may be temporary.
    """
    record = record.resolved(record.known_session.rejected(), doubted=record.doubted)
    port.save(record)
    if not (isinstance(error, RefusedByServer) or error.status_code in _REFUSALS):
        raise error
    session = look_at(port, record.known_session, take)
    record = record.seen(session)
    if session.state is SessionState.READY:
        # A server that counts the events of a session takes messages, so a 404 may pass there.
        may_pass = error.status_code == 409 or (error.status_code == 404 and session.last_index >= 0)
        if may_pass and may_wait:
            return record, True
        if error.status_code not in _NOT_OFFERED:
            raise _refused(record, f"{error} The agent was not saved. Correct this, then clear")
        if request is Request.FOLLOWUP:
            cause = f"This server builds an agent from one prompt and accepts no follow-ups: {error}"
            raise _refused(record, f"{cause} Put everything into the prompt, then clear")
        log.info("The server finishes sessions by itself; waiting for it.")
        record = record.seen(session.updated(has_finish=False))
    port.save(record)
    return record, False


def _find_out(
    port: Port, record: SessionRecord, request: Request, take: EventTaker | None
) -> tuple[SessionRecord, bool]:
    """Find out whether the pending request was received, and return the updated record."""
    session, is_taken = record.known_session, False
    for delay in REACTION_DELAYS:
        port.sleep(delay)
        session = look_at(port, session, take, is_strict=True)
        has_reacted = request is Request.FOLLOWUP and session.turn is not Turn.SENT
        is_taken = has_reacted or session.state not in (SessionState.READY, SessionState.UNKNOWN)
        if is_taken:
            break
    if request is Request.FOLLOWUP:
        if not is_taken and not (session.has_events and session.state is not SessionState.UNKNOWN):
            raise ended(
                session,
                f"A follow-up was sent to {session.name} and its response was lost. It is unknown whether it was "
                "received, so it was not sent again.",
                reason="ambiguous",
            )
        session = session.acknowledged() if is_taken else session.rejected()
    if is_taken or session.state is not SessionState.UNKNOWN:
        log.info("The %s was %s by the service.", request.value, "received" if is_taken else "not received")
    record = record.resolved(session, doubted=None if is_taken else request)
    port.save(record)
    return record, is_taken


def _refused(record: SessionRecord, message: str) -> AgentBuilderEnded:
    return ended(record.known_session, f"{message} {task_to_clear(record.config)}.", reason="refused")
