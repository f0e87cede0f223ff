"""Acquiring the one session that an attempt of a task works with: start it, join it, or use the given one.

Sessions cannot be listed, and no POST request of the API is idempotent. So the intent is saved before the start and the
session after it, and a start whose response was lost is only repeated if the DAG author has asked for that.
"""

from __future__ import annotations

import logging

from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.exceptions import AgentBuilderEnded, AgentBuilderException
from airflow_provider_sequentum.jobs.port import Port
from airflow_provider_sequentum.runs.describe import counted, format_time
from airflow_provider_sequentum.sessions.describe import session_lost
from airflow_provider_sequentum.sessions.record import Request, SessionRecord
from airflow_provider_sequentum.sessions.state import Session, SessionState
from airflow_provider_sequentum.sessions.stop import cancel_session, cancel_unseen, is_unseen
from airflow_provider_sequentum.sessions.wait import EventTaker, look_at

log = logging.getLogger(__name__)


def acquire_session(
    port: Port, previous: SessionRecord | None, new: SessionRecord, take: EventTaker | None = None
) -> SessionRecord:
    """Return the record of the session that this attempt works with. Start one only if earlier attempts left none.

    :param previous: the record of an earlier attempt.
    :param new: the record of this attempt.
    :param take: receives the events that are read.
    :raises AgentBuilderEnded: an earlier start is ambiguous, or the service does not know the session.
    :raises AgentBuilderException: the session to be replaced by a new one could not be cancelled.
    :raises SequentumError: the service refused a request or could not be reached. If it is uncertain whether a start
        took effect, the record shows that.
    """
    config = new.config
    if previous is None or (previous.session is None and previous.pending is None):
        return _start_or_join_given(port, new, take)
    was_cleared = new.max_tries is not None and previous.was_cleared(new.max_tries)
    if previous.session is None:
        when = format_time(previous.requested_at)
        # A user who clears the task after this error wants another session.
        if not was_cleared and config.on_ambiguous_start == "fail":
            raise _start_ambiguous(f"An earlier attempt was about to start a session at {when} and was interrupted.")
        log.warning("A session may have been started at %s, but its id is unknown. Starting another one.", when)
        return _start_or_join_given(port, new, None)
    # Messages sent in a given session cannot be undone, so a cleared task with the same parameters continues there.
    is_given_again = previous.session.session_id == config.session_id
    if not previous.is_same_work(config.fingerprint()) or (was_cleared and not is_given_again):
        _give_up_session(port, previous, new, was_cleared=was_cleared)
        return _start_or_join_given(port, new, take)
    session = look_at(port, previous.session, take)
    # From here on, the deadlines of this attempt apply to the session.
    record = previous.joined_by(new).updated(config=config, session=session)
    is_lost = is_unseen(session)
    if is_lost and (config.is_given or config.on_lost_session == "fail"):
        port.save(record)
        raise session_lost(config, session.session_id)
    if config.is_given or not (is_lost or session.state in (SessionState.ERROR, SessionState.CANCELLED)):
        followups = counted(session.sent, "follow-up")
        log.info("Continuing %s: %s, %s sent.", session.name, session.state.value, followups)
        port.save(record)
        return record
    fate = cancel_unseen(port, session) if is_lost else ""
    over = f"{session.name} of an earlier attempt is over ({session.state.value}); starting a new one. {fate}"
    log.warning("%s", over.rstrip())
    return _start(port, new)


def _start_or_join_given(port: Port, new: SessionRecord, take: EventTaker | None) -> SessionRecord:
    if new.config.session_id is None:
        return _start(port, new)
    given = Session(session_id=new.config.session_id)
    # From now on this task owns the session, even if the first poll fails.
    port.save(new.seen(given))
    # Its earlier events were logged by the task that started it. Here, they are only used for the summary.
    session = look_at(port, given, take, narrate=False)
    port.save(new.seen(session))
    if session.state is SessionState.GONE:
        raise session_lost(new.config, session.session_id)
    log.info("Continuing %s: %s.", session.name, session.state.value)
    return new.seen(session)


def _start(port: Port, new: SessionRecord) -> SessionRecord:
    call = new.config.start_call()
    record, before = new.sending(Request.START, port.now()), port.record
    try:
        port.save(record)
    except BaseException:
        port.record = before  # nothing was sent
        raise
    try:
        started = port.send(call)
    except SequentumError as error:
        if not error.may_have_acted:
            port.save(None)  # nothing was started, so nothing is in doubt
            raise
        if new.config.on_ambiguous_start == "fail":
            raise _start_ambiguous(f"The response to the start was lost: {error}") from error
        raise  # the intent is kept, and the next attempt starts another session
    record = record.resolved(Session.started(started.session_id, port.now()))
    port.save(record)
    log.info("Started %s.", record.name)
    return record


def _start_ambiguous(cause: str) -> AgentBuilderEnded:
    return AgentBuilderEnded(
        f"{cause} No other session was started. Check Sequentum Cloud, then clear the task to start a session; or set "
        "on_ambiguous_start='start'.",
        reason="ambiguous",
    )


def _give_up_session(port: Port, previous: SessionRecord, new: SessionRecord, *, was_cleared: bool) -> None:
    """Cancel the session of an earlier attempt, unless it is to be kept.

    :raises AgentBuilderException: it could not be confirmed that the session ended.
    """
    session = previous.known_session
    why = "The task was cleared" if was_cleared else "The parameters of the task have changed"
    if session.session_id == new.config.session_id:
        log.info("%s: continuing %s from where it is now.", why, session.name)
    elif session.state.is_over:
        log.info("%s: starting over; %s has ended.", why, session.name)
    elif new.config.keep_session:
        log.info("%s: starting over; %s is left as it is.", why, session.name)
    else:
        log.info("%s: cancelling %s and starting over.", why, session.name)
        stopper = cancel_session(port, session)
        if not stopper.confirmed:
            raise AgentBuilderException(
                f"{session.name} should be replaced, but nothing was started. {stopper.sentence} A retry cancels it "
                "again.",
                session_id=session.session_id,
            )
        port.save(previous.seen(stopper.session(port.now())))
