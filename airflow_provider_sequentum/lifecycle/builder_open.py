"""
Getting hold of the one session a task works with: started, joined, or given.

Sessions can't be listed, and no POST of the API is idempotent. So the intent is remembered before the start and the
session after it, and a start whose answer was lost is never repeated unless the DAG author said so.
"""

from __future__ import annotations

from dataclasses import dataclass

from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.lifecycle.builder_cancel import cancel_session
from airflow_provider_sequentum.lifecycle.builder_record import SessionRecord, Verb
from airflow_provider_sequentum.lifecycle.builder_request import SessionRequest
from airflow_provider_sequentum.lifecycle.builder_session import BuilderSession, SessionState
from airflow_provider_sequentum.lifecycle.builder_wait import EventSink, look_at
from airflow_provider_sequentum.lifecycle.procedure import Procedure, now, remember, say, send, warn


class StartAmbiguous(Exception):
    """A start was sent, its answer was lost, and sessions can't be listed."""


class SessionLost(Exception):
    """The service does not know the session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPolicy:
    """
    What the DAG author chose.

    :param on_ambiguous_start: what to do when a start's answer was lost: ``fail``, or ``start`` another session.
    :param on_lost_session: what to do when the service no longer knows an earlier try's session: ``fail`` or ``start``.
    :param keep_session: leave a session alone that is no longer wanted, instead of cancelling it.
    """

    on_ambiguous_start: str = "fail"
    on_lost_session: str = "fail"
    keep_session: bool = False


def open_session(
    request: SessionRequest,
    policy: SessionPolicy,
    max_tries: int,
    left_behind: SessionRecord | None,
    sink: EventSink | None = None,
) -> Procedure[SessionRecord]:
    """
    Return the record of the session this try works with, starting one only if the earlier tries left none to go on
    with.

    :param max_tries: the task instance's ``max_tries``, which names the logical attempt.
    :param left_behind: the record of an earlier try.
    :param sink: gets the events read on the way.
    :raises StartAmbiguous: see :class:`SessionPolicy`.
    :raises SessionLost: see :class:`SessionPolicy`; always for a given session.
    :raises SequentumError: the service refused, or could not be asked. If a start is in doubt, the record says so.
    """
    if left_behind is None:
        return (yield from _begin(request, policy, max_tries, sink))
    if left_behind.session is None:
        return (yield from _after_a_lost_start(request, policy, max_tries, left_behind))
    cleared = left_behind.max_tries != max_tries
    if cleared or left_behind.fingerprint != request.fingerprint():
        yield from _give_up(request, policy, left_behind.session, cleared)
        return (yield from _begin(request, policy, max_tries, sink))
    session = yield from look_at(left_behind.session, sink)
    record = left_behind.seeing(session)
    if request.session_id is not None or not _is_useless(session):
        if session.state is SessionState.GONE and session.agent_id is None:
            raise SessionLost(session.session_id)
        yield from say(
            f"Going on with session {session.session_id}: {session.state.value}, {session.sent} follow-ups sent."
        )
        yield from remember(record.to_json())
        return record
    if session.state is SessionState.GONE and policy.on_lost_session == "fail":
        raise SessionLost(session.session_id)
    yield from warn(f"Session {session.session_id} of an earlier try is {session.state.value}; starting a new one.")
    return (yield from _start(request, policy, max_tries))


def _is_useless(session: BuilderSession) -> bool:
    if session.state is SessionState.GONE:
        return session.agent_id is None
    return session.state in (SessionState.ERROR, SessionState.CANCELLED)


def _begin(
    request: SessionRequest, policy: SessionPolicy, max_tries: int, sink: EventSink | None
) -> Procedure[SessionRecord]:
    if request.session_id is None:
        return (yield from _start(request, policy, max_tries))
    # Its earlier events were told of by the task that started it; here they only fill the summary.
    session = yield from look_at(BuilderSession(session_id=request.session_id), sink, narrate=False)
    if session.state is SessionState.GONE:
        raise SessionLost(session.session_id)
    yield from say(f"Going on with session {session.session_id}: {session.state.value}.")
    record = SessionRecord(fingerprint=request.fingerprint(), max_tries=max_tries, session=session)
    yield from remember(record.to_json())
    return record


def _start(request: SessionRequest, policy: SessionPolicy, max_tries: int) -> Procedure[SessionRecord]:
    call = request.call()
    record = SessionRecord(fingerprint=request.fingerprint(), max_tries=max_tries)
    record = record.announcing(Verb.START, (yield from now()))
    yield from remember(record.to_json())
    try:
        started = yield from send(call)
    except SequentumError as error:
        if not error.may_have_acted:
            yield from remember(None)  # nothing was started, so there is nothing to be in doubt about
            raise
        if policy.on_ambiguous_start == "fail":
            raise StartAmbiguous(str(error)) from error
        raise  # the intent stays, and the next try starts another session
    record = record.settled(BuilderSession.started(started.session_id, (yield from now())))
    yield from remember(record.to_json())
    yield from say(f"Agent Builder session {started.session_id} has been started.")
    return record


def _after_a_lost_start(
    request: SessionRequest, policy: SessionPolicy, max_tries: int, left_behind: SessionRecord
) -> Procedure[SessionRecord]:
    when = left_behind.announced_at
    # Clearing the task is how a person, having looked, says: start anew.
    if left_behind.max_tries == max_tries and policy.on_ambiguous_start == "fail":
        raise StartAmbiguous(f"An earlier try was about to start a session at {when} and was interrupted")
    yield from warn(f"A session may have been started at {when} and is not known. Another one is started.")
    return (yield from _start(request, policy, max_tries))


def _give_up(request: SessionRequest, policy: SessionPolicy, session: BuilderSession, cleared: bool) -> Procedure[None]:
    why = "The task was cleared" if cleared else "The task asks for something else than its earlier try"
    if session.session_id == request.session_id or session.state.is_over:
        yield from say(f"{why}: its session {session.session_id} is not gone on with from where it was.")
    elif policy.keep_session:
        yield from say(f"{why}: a new session is started, and session {session.session_id} is left as it is.")
    else:
        yield from say(f"{why}: its session {session.session_id} is given up.")
        yield from cancel_session(session.session_id)
