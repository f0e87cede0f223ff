"""Waiting until a session needs an answer: the decisions that worker and triggerer share, and their loops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_provider_sequentum.api import agent_builder
from airflow_provider_sequentum.api.errors import ResponseLost, SequentumError
from airflow_provider_sequentum.jobs.port import NOT_FOUND_TOLERANCE, WAITING_SHARE, Sender, fault_tolerance
from airflow_provider_sequentum.jobs.record import JobEvent
from airflow_provider_sequentum.runs.describe import OutageProgress
from airflow_provider_sequentum.sessions.describe import SessionProgress, progress_line
from airflow_provider_sequentum.sessions.state import Session, SessionState

if TYPE_CHECKING:
    from airflow_provider_sequentum.api import AsyncSequentumClient, Call, Reply
    from airflow_provider_sequentum.api.agent_builder import EventPage, SessionEvent, SessionStatus

NOT_YET_FOUND_INTERVAL = 5.0
"""Seconds between two polls of a session that the service does not know."""

HIGHLIGHT_PAGE = 256 * 1024
"""Bytes to request in order to read a single event."""

log = logging.getLogger(__name__)

EventTaker = Callable[["SessionEvent"], None]
"""Receives every event as it is read."""


class TurnEvent(JobEvent):
    """The event of the trigger that waits for a session.

    :param session: the last known state of the session.
    :param is_deadline: whether the wait ended because its deadline passed.
    """

    session: Session
    is_deadline: bool = False


class SessionPoller:
    """Decides what to request about a session, and what the responses mean. ``now`` is passed in.

    A poll reads the status, which is decisive, because a cancellation emits no event. Events are only requested if
    there are any, because the server holds the request until there are.

    :param session: the last known state of the session.
    :param poll_interval: seconds between two polls.
    :param deadline: when to give up; ``None`` means never.
    :param take: receives the events.
    :param narrate: log the events.
    :param is_patient: tolerate errors as a wait does. Otherwise each error except a 404 is raised.
    :param is_strict: also raise if events cannot be read, because the absence of an event matters.
    """

    def __init__(
        self,
        session: Session,
        *,
        poll_interval: float = NOT_YET_FOUND_INTERVAL,
        deadline: datetime | None = None,
        take: EventTaker | None = None,
        narrate: bool = True,
        is_patient: bool = True,
        is_strict: bool = False,
    ) -> None:
        self.session = session
        self.is_missing = False
        """Whether the last poll was answered with a 404 that does not count yet."""
        self._interval = poll_interval
        self._deadline = deadline
        self._take = take
        self._narrate = narrate
        self._is_patient = is_patient
        self._is_strict = is_strict
        self._progress = SessionProgress()
        self.was_seen = False
        """Whether the last poll returned the session."""
        self._outage = OutageProgress()
        self._missing_since: datetime | None = None
        self._asks_status = self._asks_events = False
        self._until: int | None = None
        self._longest_page = 0

    def begin(self) -> None:
        """Start a poll."""
        self._asks_status, self._asks_events, self.was_seen = True, False, False

    def next_call(self) -> Call[Any] | None:
        """Return the next request of the poll; ``None`` if it is over."""
        if self._asks_status:
            return agent_builder.status(self.session.session_id)
        if self._asks_events:
            return agent_builder.events(self.session.session_id, self.session.cursor, self._longest_page)
        return None

    def answered(self, reply: Reply[Any], now: datetime) -> None:
        """Process the response to a request."""
        if self._asks_status:
            self._asks_status, self.was_seen = False, True
            self._missing_since, self.is_missing = None, False
            if (line := self._outage.answered(self.session.name, now)) is not None:
                log.info("%s", line)
            self._observe_status(reply.value, now)
        else:
            self._observe_page(reply.value, now, reply.served_at)

    def failed(self, error: SequentumError, now: datetime) -> None:
        """Process the failure of a request.

        :raises SequentumError: ``error`` itself, if it is not temporary or has lasted too long.
        """
        if not self._asks_status:
            self._asks_events = False
            self._events_failed(error)
            return
        self._asks_status = False
        if error.status_code == 404:
            self._not_found(error, now)
            return
        self._missing_since, self.is_missing = None, False
        if not self._is_patient:
            raise error
        if self.deadline_passed(now):
            return
        if error.status_code == 429:
            self._outage = OutageProgress()  # exceeding the rate limit is not a fault: the next poll comes later
            return
        self._tolerate(error, now)

    def is_done(self, now: datetime) -> bool:
        """Return whether the wait is over: the session needs an answer, has ended, or the deadline has passed."""
        return (self.was_seen and not self.session.must_wait(now)) or self.deadline_passed(now)

    def deadline_passed(self, now: datetime) -> bool:
        """Return whether the wait has to give up."""
        return self._deadline is not None and now >= self._deadline

    def time_left(self, now: datetime) -> float | None:
        """Return the seconds until the deadline; ``None`` if there is none."""
        return None if self._deadline is None else max((self._deadline - now).total_seconds(), 0.0)

    def pause(self, now: datetime) -> float:
        """Return the seconds until the next poll, but not beyond the deadline; log that the wait continues."""
        if (line := self._progress.line(self.session, now)) is not None:
            log.info("%s", line)
        interval = min(self._interval, NOT_YET_FOUND_INTERVAL) if self.is_missing else self._interval
        left = self.time_left(now)
        return interval if left is None else min(interval, left)

    def _observe_status(self, status: SessionStatus, now: datetime) -> None:
        was = self.session.state
        self.session = self.session.observe_status(status, now)
        if self.session.state is SessionState.UNKNOWN and was is not SessionState.UNKNOWN:
            log.warning(
                "%s has the status %r, which this version does not know. The task keeps waiting until its deadline.",
                self.session.name,
                status.status,
            )
        self._until, self._longest_page = status.last_event_index, agent_builder.MAX_PAGE_SIZE
        self._asks_events = self.session.has_events and self._has_more()

    def _not_found(self, error: SequentumError, now: datetime) -> None:
        """Process a 404: the session was torn down, never existed, or is not known yet. Single 404s happen, too."""
        self.was_seen = True
        if self.session.state.is_over:
            return
        first = self._missing_since is None
        self._missing_since = self._missing_since or now
        # A session whose agent is known is torn down soon after its end, so nothing is lost.
        if self.session.agent_id is not None or now - self._missing_since >= NOT_FOUND_TOLERANCE:
            self.session, self.is_missing = self.session.entering(SessionState.GONE, now), False
            return
        self.was_seen, self.is_missing = False, True
        if first:
            log.warning("The service does not know %s; checking again. (%s)", self.session.name, error)

    def _tolerate(self, error: SequentumError, now: datetime) -> None:
        line = self._outage.failed(self.session.name, error, now)
        if now - (self._outage.since or now) >= fault_tolerance(error):
            raise error
        if line is not None:
            log.warning("%s", line)

    def _has_more(self) -> bool:
        return self._until is None or self.session.cursor < self._until

    def _observe_page(self, page: EventPage, now: datetime, served_at: datetime | None) -> None:
        for event in page.events:
            if self._narrate and (line := progress_line(event)) is not None:
                log.log(line[0], "%s", line[1])
            if self._take is not None:
                self._take(event)
            self.session = self.session.observe_event(event, now, served_at)
        self._longest_page = _next_page(page, self._longest_page)
        # Only one page is requested from a server that does not state the number of events.
        is_last = not page.is_cut and (self._until is None or not page.events)
        self._asks_events = not is_last and self._has_more()

    def _events_failed(self, error: SequentumError) -> None:
        is_long_poll = self._until is None
        # A server whose status counts events does have them, so a 404 is a temporary error there.
        if error.status_code == 405 or (is_long_poll and error.status_code == 404):
            self.session = self.session.updated(has_events=False)
            return
        if is_long_poll and isinstance(error, ResponseLost):
            return  # no news: the server held the request until it timed out
        if self._is_strict:
            raise error
        # Events are informative only; decisions are based on the status.
        log.warning("Could not read the events of %s: %s", self.session.name, error)


def poll(port: Sender, poller: SessionPoller) -> None:
    """Send the requests of a poll.

    :raises SequentumError: polling failed with an error that is not temporary, or for too long. The session may be
        active.
    """
    while (call := poller.next_call()) is not None:
        try:
            reply = port.exchange(call, budget_share=WAITING_SHARE)
        except SequentumError as error:
            poller.failed(error, port.now())
        else:
            poller.answered(reply, port.now())


def wait_for_turn(port: Sender, poller: SessionPoller, note: Callable[[Session], None] = lambda _: None) -> Session:
    """Wait on the worker until the session needs an answer, has ended, or the deadline has passed.

    :param note: called with the session after each poll.
    :raises SequentumError: see :func:`poll`.
    """
    while True:
        poller.begin()
        poll(port, poller)
        note(poller.session)
        now = port.now()
        if poller.is_done(now):
            return poller.session
        port.sleep(poller.pause(now))


async def apoll(client: AsyncSequentumClient, poller: SessionPoller) -> None:
    """Do what :func:`poll` does, on the event loop of a triggerer."""
    while (call := poller.next_call()) is not None:
        try:
            reply = await client.exchange(call, budget_share=WAITING_SHARE, within=poller.time_left(_now()))
        except SequentumError as error:
            poller.failed(error, _now())
        else:
            poller.answered(reply, _now())


async def await_turn(client: AsyncSequentumClient, poller: SessionPoller) -> bool:
    """Do what :func:`wait_for_turn` does, on the event loop of a triggerer; return whether the deadline has passed."""
    while True:
        poller.begin()
        await apoll(client, poller)
        now = _now()
        if poller.is_done(now):
            return poller.deadline_passed(now)
        await asyncio.sleep(poller.pause(now))


def look_at(
    port: Sender, session: Session, take: EventTaker | None = None, *, narrate: bool = True, is_strict: bool = False
) -> Session:
    """Poll the session, with the events since the last poll, and return it.

    While the service does not know the session, it is polled again, for as long as a wait tolerates that.

    :raises SequentumError: the status could not be read.
    """
    poller = SessionPoller(session, take=take, narrate=narrate, is_patient=False, is_strict=is_strict)
    while True:
        poller.begin()
        poll(port, poller)
        if not poller.is_missing or (port.deadline is not None and port.now() >= port.deadline):
            return poller.session
        port.sleep(NOT_YET_FOUND_INTERVAL)


def read_again(
    port: Sender,
    session: Session,
    after: int,
    take: EventTaker,
    until: int | None = None,
    longest_page: int = agent_builder.MAX_PAGE_SIZE,
) -> bool:
    """Read events again that were read by another process, and return whether the last one was found.

    :param after: the index before the first event.
    :param until: the index of the last event; ``None`` for the session's cursor.
    :param longest_page: bytes to request at once, unless an event is longer.
    """
    cursor, size = after, longest_page
    until = session.cursor if until is None else until
    while session.has_events and cursor < until:
        try:
            page = port.send(agent_builder.events(session.session_id, cursor, size), budget_share=WAITING_SHARE)
        except SequentumError as error:
            log.warning("Could not read the events of %s again: %s", session.name, error)
            break
        for event in page.events:
            if (event.event_index or 0) > until:
                return cursor == until
            take(event)
            cursor = event.event_index or cursor
        if not page.events and not page.is_cut:
            break
        size = _next_page(page, size)
    return cursor == until


def _next_page(page: EventPage, size: int) -> int:
    """Return how much to request next. If a cut page has no event, the first event is longer than the page."""
    return size * 2 if page.is_cut and not page.events else size


def _now() -> datetime:
    return datetime.now(UTC)
