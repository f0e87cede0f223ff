"""Looking at a session, and waiting until it needs somebody again: the same for worker and triggerer."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from airflow_provider_sequentum.api.errors import AnswerLost, MethodNotAllowed, NotFound, RateLimited, SequentumError
from airflow_provider_sequentum.jobs.port import WAITING_SHARE, fault_tolerance
from airflow_provider_sequentum.lifecycle.builder_findings import one_line, progress_line
from airflow_provider_sequentum.lifecycle.builder_session import BuilderSession, SessionState
from airflow_provider_sequentum.lifecycle.procedure import Procedure, now, say, send, sleep, warn
from airflow_provider_sequentum.runs.describe import QUIET_INTERVALS, format_seconds

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.agent_builder import EventPage, SessionEvent, SessionStatus

LOOKS_FOR_A_LOST_SESSION = (5.0, 10.0, 15.0, 30.0)
"""Seconds before each further look at a session that the service suddenly doesn't know: that may pass."""

EventSink = Callable[[str, "SessionEvent"], None]
"""Gets the session's id and every event as it is read, for what is kept outside of memory."""


def look_at(
    session: BuilderSession, sink: EventSink | None = None, *, narrate: bool = True, strict: bool = False
) -> Procedure[BuilderSession]:
    """
    Return the session as it is now, with the events since the last look.

    The status is what counts: a cancellation emits no event. Events are fetched only when there are some, because the
    request for them is held by the server until there are.

    :param sink: gets the events.
    :param narrate: tell the person watching about them.
    :param strict: fail when the events can't be read, because something is to be learnt from there being none.
    :raises SequentumError: the status could not be read.
    """
    status = yield from _read_status(session)
    if status is None:
        return session.observe_not_found((yield from now()))
    was = session.state
    session = session.observe_status(status, (yield from now()))
    if session.state is SessionState.UNKNOWN and was is not SessionState.UNKNOWN:
        yield from warn(
            f"Session {session.session_id} has the status {one_line(status.status)!r}, which this version does not "
            "know. Waiting goes on, up to the deadline."
        )
    return (yield from _read_events(session, status.last_event_index, sink, narrate=narrate, strict=strict))


def _read_status(session: BuilderSession) -> Procedure[SessionStatus | None]:
    """Return the status; ``None`` if the service doesn't know the session."""
    from airflow_provider_sequentum.api import agent_builder

    for pause in (*_pauses_before_it_is_lost(session, (yield from now())), None):
        try:
            return (yield from send(agent_builder.status(session.session_id), WAITING_SHARE))
        except NotFound:
            if pause is not None:
                yield from sleep(pause)
    return None


def _pauses_before_it_is_lost(session: BuilderSession, moment: datetime) -> tuple[float, ...]:
    """A session that was seen and has no agent yet is given time: once it is given up, nobody goes on with it."""
    is_wanted = session.since is not None and session.agent_id is None and not session.state.is_over
    return LOOKS_FOR_A_LOST_SESSION if is_wanted and not session.is_young(moment) else ()


def _read_events(
    session: BuilderSession,
    last_event_index: int | None,
    sink: EventSink | None,
    *,
    narrate: bool,
    strict: bool,
    no_further: bool = False,
) -> Procedure[BuilderSession]:
    """
    Take in the events up to the index, or the next page of them when the server doesn't say how many there are.

    :param no_further: leave out the later events that the last page may hold.
    """
    from airflow_provider_sequentum.api.agent_builder import LONGEST_PAGE

    longest_page = LONGEST_PAGE
    while session.events_offered and (last_event_index is None or session.cursor < last_event_index):
        page = yield from _next_page(session, longest_page, long_poll=last_event_index is None, strict=strict)
        if page is None:
            return session.without_events()
        for event in page.events:
            if no_further and (event.event_index or 0) > (last_event_index or 0):
                return session
            line = progress_line(event) if narrate else None
            if line is not None:
                yield from say(line[1], line[0])
            if sink is not None:
                sink(session.session_id, event)
            session = session.observe_event(event, (yield from now()))
        if page.is_cut and not page.events:
            longest_page *= 2
        elif not page.is_cut and (last_event_index is None or not page.events):
            break
    return session


def _next_page(
    session: BuilderSession, longest_page: int, *, long_poll: bool, strict: bool
) -> Procedure[EventPage | None]:
    """Return the next events, none if they can't be had now, ``None`` if the server has no events at all."""
    from airflow_provider_sequentum.api import agent_builder

    call = agent_builder.events(session.session_id, session.cursor, longest_page)
    try:
        return (yield from send(call, WAITING_SHARE))
    except MethodNotAllowed:
        return None
    except SequentumError as error:
        if long_poll and isinstance(error, NotFound):
            return None  # A server whose status counts events has them, so there a 404 is a fault that may pass.
        ran_out = long_poll and isinstance(error, AnswerLost)  # no news, and the server held the request until it did
        if strict and not ran_out:
            raise
        if not ran_out:
            # Events only tell of progress; what is decided rests on the status.
            yield from warn(f"Could not read the events of Agent Builder session {session.session_id}: {error}")
        return agent_builder.EventPage()


def wait_for_turn(
    session: BuilderSession, poll_interval: float, deadline: datetime | None, sink: EventSink | None = None
) -> Procedure[BuilderSession]:
    """
    Wait until the session is ready for a message, is over, or the deadline has passed; return it as it is then.

    :param poll_interval: seconds between two looks.
    :param deadline: when to give up; ``None`` waits as long as it takes.
    :param sink: gets the events.
    :raises SequentumError: looking at the session failed in a way that can't pass, or for too long. The session goes
        on.
    """
    progress = SessionProgress()
    faults_since: datetime | None = None
    while True:
        looked = False
        try:
            session = yield from look_at(session, sink)
            looked, faults_since = True, None
        except RateLimited:
            faults_since = None  # The key is busy, which is no fault: the look comes later.
        except SequentumError as error:
            moment = yield from now()
            if faults_since is None:
                faults_since = moment
                yield from warn(
                    f"Could not look at Agent Builder session {session.session_id}, will look again: {error}"
                )
            if moment - faults_since >= fault_tolerance(error):
                raise
        moment = yield from now()
        if (looked and not session.must_wait(moment)) or (deadline is not None and moment >= deadline):
            return session
        line = progress.line(session, moment)
        if line is not None:
            yield from say(line)
        yield from sleep(_pause(poll_interval, moment, deadline))


class SessionProgress:
    """Decides when a session that tells of nothing is worth a line all the same: ever more rarely."""

    def __init__(self) -> None:
        self._seen: object = None
        self._quiet = 0
        self._next_line: datetime | None = None

    def line(self, session: BuilderSession, now: datetime) -> str | None:
        """Return the line to log, or ``None``."""
        seen = (session.state, session.cursor)
        if seen != self._seen or self._next_line is None:
            self._seen, self._quiet = seen, 0
        elif now < self._next_line:
            return None
        self._next_line = now + timedelta(seconds=QUIET_INTERVALS[min(self._quiet, len(QUIET_INTERVALS) - 1)])
        self._quiet += 1
        if self._quiet == 1:
            return None  # the events have just told of it
        since = f" for {format_seconds((now - session.since).total_seconds())}" if session.since is not None else ""
        return f"Session {session.session_id} is {session.state.value}{since}."


def _pause(poll_interval: float, moment: datetime, deadline: datetime | None) -> float:
    if deadline is None:
        return poll_interval
    return max(0.0, min(poll_interval, (deadline - moment).total_seconds()))


def read_again(
    session: BuilderSession, after: int, sink: EventSink | None = None, *, narrate: bool = False
) -> Procedure[None]:
    """
    Read the events from ``after`` on up to the session's cursor once more, which were read somewhere else before.

    :param after: index of the last event that is not wanted.
    :param sink: gets the events.
    :param narrate: tell the person watching about them.
    """
    earlier = BuilderSession(session_id=session.session_id, cursor=after, events_offered=session.events_offered)
    yield from _read_events(earlier, session.cursor, sink, narrate=narrate, strict=False, no_further=True)
