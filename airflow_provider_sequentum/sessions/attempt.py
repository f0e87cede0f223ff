"""One attempt of a task that works with one session: acquire the session, send messages, wait, evaluate the result."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_provider_sequentum.api import agent_builder
from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.exceptions import (
    AgentBuilderEnded,
    AgentBuilderTimeout,
    SequentumSkipped,
    SequentumUnavailable,
)
from airflow_provider_sequentum.jobs.attempt import JobAttempt, TaskFacts
from airflow_provider_sequentum.jobs.port import Port
from airflow_provider_sequentum.jobs.record import read_event
from airflow_provider_sequentum.jobs.stop import MAX_REQUEST_SECONDS
from airflow_provider_sequentum.sessions.describe import (
    Highlights,
    failure_for,
    progress_line,
    session_summary,
    what_starts_over,
)
from airflow_provider_sequentum.sessions.files import ScreenshotFolder, save_conversation
from airflow_provider_sequentum.sessions.messages import send_pending
from airflow_provider_sequentum.sessions.record import Request, SessionConfig, SessionRecord
from airflow_provider_sequentum.sessions.start import acquire_session
from airflow_provider_sequentum.sessions.state import Action, Session, SessionState, next_action
from airflow_provider_sequentum.sessions.stop import cancel_session, cancel_unseen
from airflow_provider_sequentum.sessions.wait import (
    HIGHLIGHT_PAGE,
    SessionPoller,
    TurnEvent,
    look_at,
    read_again,
    wait_for_turn,
)

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    from airflow_provider_sequentum.api.agent_builder import SessionEvent

HOW_TO_LOOK = (
    "A session may have been started, but its id is unknown: it may be running and costing credits. The API cannot "
    "list sessions; find it among the Agent Builder's sessions in Sequentum Cloud, and cancel it there."
)

log = logging.getLogger(__name__)


class SessionAttempt(JobAttempt[SessionRecord]):
    """One attempt of a task that works with one session.

    :param config: the session to start or to continue, what to send, and how to handle the session.
    :param publish: pushes the summary of the session: ``publish(summary)``.
    :param screenshots: where to save screenshots; ``None`` drops them.
    :param conversation: where to save the conversation; ``None`` does not fetch it.
    """

    config: SessionConfig
    record_type = SessionRecord

    def __init__(
        self,
        port: Port,
        task: TaskFacts,
        config: SessionConfig,
        publish: Callable[[dict[str, Any]], None],
        screenshots: ScreenshotFolder | None = None,
        conversation: ObjectStoragePath | None = None,
    ) -> None:
        super().__init__(port, task, config)
        self._publish = publish
        self._screenshots = screenshots
        self._conversation = conversation
        self._highlights = Highlights()
        self._logged_in_triggerer: list[tuple[int, str]] = []
        self._agent_id: int | None = None

    @property
    def name(self) -> str:
        """The name of the session in log lines and errors."""
        return (self.record or SessionRecord()).name

    @property
    def result(self) -> int | None:
        """The agent's id; ``None`` if the session is left ready."""
        return self._agent_id

    @property
    def can_be_joined(self) -> bool:
        """Whether the session is known."""
        return self.record is not None and self.record.session is not None

    @property
    def may_be_running(self) -> bool:
        """Whether a session that this attempt owns may be running."""
        record = self.record
        if record is None:
            return False
        if record.session is None:
            return record.pending is Request.START
        return not record.session.state.is_over

    def abandoned(self, message: str) -> AgentBuilderEnded:
        """Return the exception, which is not retried, for a session that the next attempt would not find."""
        session = self.known_record.session
        session_id = session.session_id if session is not None else None
        return AgentBuilderEnded(message, reason="ambiguous", session_id=session_id)

    @property
    def _is_found_without_record(self) -> bool:
        # Only a given session is found again, and messages that may have been sent would be repeated.
        record = self.known_record
        if not self.config.is_given or record.pending is Request.FOLLOWUP:
            return False
        return record.known_session.sent == 0

    def start_or_join(self) -> bool:
        """Start a session, or take over the given one or that of an earlier attempt."""
        new = self.new_record()
        self.port.deadline = new.earliest_deadline
        try:
            record = acquire_session(self.port, self.record, new, self._take)
        except SequentumError as error:
            self._give_up_if_late(error)
            return True
        self._show(record)
        session_id = record.known_session.session_id
        log.info("See the session in Sequentum Cloud: %s", self.port.hook.session_link(session_id))
        if self._screenshots is not None:
            self._screenshots.publish_latest(session_id)
        return True

    def wait(self) -> None:
        """Wait on the worker until the session needs an answer.

        :raises SequentumError: the session could no longer be polled.
        """
        if self.is_released:
            return
        record = self.known_record
        poller = SessionPoller(
            record.known_session,
            poll_interval=self.config.poll_interval,
            deadline=record.earliest_deadline,
            take=self._take,
        )
        try:
            session = wait_for_turn(self.port, poller, self._note)
        finally:
            self.port.record = record.seen(poller.session)
        if not poller.was_seen:
            # No time was left for a request. The known state is old, and messages sent since may not have a response.
            self._give_up()
            return
        self._show(record.seen(session))

    def resume(self, event: object) -> None:
        """Process the event of the trigger, and poll the session again."""
        record = self.known_record
        before = record.known_session
        seen = read_event(TurnEvent, event)
        session = seen.session
        if session.session_id != before.session_id:
            raise SequentumUnavailable("The trigger's event cannot be read: it is for another session.")
        self._note(session)
        record = self.known_record
        if seen.error is not None:
            raise seen.exception()
        if not seen.is_deadline:
            # The trigger saves nothing, and Airflow 3 only keeps the triggerer's log of the last deferral.
            read_again(self.port, session, before.cursor, self._take_again)
            try:
                record = record.seen(look_at(self.port, session, self._take))
            except SequentumError as error:
                self._give_up_if_late(error)
                return
        self._show(record)

    def conclude(self) -> bool:
        """Send the pending messages and evaluate the session's state; return whether the task is done."""
        if self.is_released:
            return True  # the task succeeded at its deadline
        if self.config.deferrable and self._next_action(self.known_record.known_session) is Action.FOLLOW_UP:
            self._repeat_log_of_triggerer()
        try:
            record, action = send_pending(self.port, self.known_record, self._take)
        except SequentumError as error:
            self._give_up_if_late(error)
            return True
        if action is Action.CANCEL:
            self._cancel_and_skip(record)
        self._show(record)
        session = record.known_session
        if action is Action.DONE:
            self._succeed(session)
        elif action is Action.LEAVE:
            log.info("%s is ready and is left to the task or person that continues it.", session.name)
        elif action is not Action.WAIT:
            failure = failure_for(action, session, self.config, self.task, self._highlights.last_message)
            self._publish_note(session, str(failure))
            raise failure
        elif self.is_out_of_time:
            self._give_up()
        else:
            if self.config.deferrable:
                self._repeat_log_of_triggerer()
            return False
        return True

    def release(self, *, is_retried: bool, is_killed: bool = False) -> str | None:
        """Decide what happens to the session when this attempt ends; see :meth:`.JobAttempt.release`."""
        if self.is_released:
            return None
        session = None if self.record is None else self.record.session
        if session is not None and session.state is SessionState.GONE and not self.config.keep_session:
            # The service may show the session again, and no task needs it any more, whether its agent was saved or not.
            self.is_released, self.port.deadline = True, None
            if is_killed:
                self.port.hurry()
            return cancel_unseen(self.port, session) or None
        if not self.may_be_running:
            return None
        if session is None or self.config.keep_session:
            fate = self.stop()
        elif is_retried and not self.task.keeps_records and self._is_found_without_record:
            fate = f"{self.name} is left as it is. The next attempt continues it."
        else:
            return super().release(is_retried=is_retried, is_killed=is_killed)
        self.is_released = True
        return fate

    def stop(self, *, is_killed: bool = False) -> str:  # noqa: ARG002 - there is only one way to end a session
        """Cancel the session, unless it is to be kept, and return what happened to it, as a sentence."""
        record = self.known_record
        if record.session is None:
            self.stop_failed = self.config.on_ambiguous_start == "fail"
            return HOW_TO_LOOK
        if self.config.keep_session:
            return f"{self.name} is left as it is (keep_session)."
        stopper = cancel_session(self.port, record.known_session)
        self.stop_failed = not stopper.confirmed
        self.port.record = record.seen(stopper.session(self.port.now()))
        fate = f"{self.name} was asked to end. {stopper.sentence}"
        self._publish_note(stopper.session(self.port.now()), fate)
        return fate

    def _publish_note(self, session: Session, note: str) -> None:
        """Publish the summary of the session with a note. A failure to do so is only logged."""
        if self.port.is_asking_airflow:
            return
        try:
            self._publish(self._summary(session, note=note))
        except Exception as error:  # noqa: BLE001 - what happened to the session must not get lost
            log.warning("The session's summary could not be pushed: %s", error)

    def _succeed(self, session: Session) -> None:
        self._agent_id = session.agent_id
        log.info("Agent %s is built: %s.", session.agent_id, session.agent_name or "without a name")
        if self._conversation is not None:
            save_conversation(self.port, session.session_id, self._conversation)

    def _cancel_and_skip(self, record: SessionRecord) -> NoReturn:
        self.port.record = record
        stopper = cancel_session(self.port, record.known_session)
        self.is_released = True
        self._show(record.seen(stopper.session(self.port.now())))
        raise SequentumSkipped(f"{record.name} was asked to end (on_ready='cancel'). {stopper.sentence}")

    # The deadline

    def _give_up_if_late(self, error: SequentumError) -> None:
        """Raise ``error``, unless it was only caused by the deadline."""
        if not self.is_out_of_time or not self.may_be_running:
            raise error
        log.warning("The time was up before the response arrived. (%s)", error)
        self._give_up()

    def _give_up(self) -> None:
        """Cancel the session because the time is up. Return normally if its agent has been built by then.

        :raises AgentBuilderTimeout: there is no agent.
        """
        record = self.known_record
        state = record.session.state.value if record.session else "being started"
        message = f"{record.name} was still {state} when {record.timeout_name} passed."
        self.port.deadline = None
        if record.session is None:
            self.is_released = True
            raise AgentBuilderTimeout(f"{message} {HOW_TO_LOOK}")
        session, sentence = self._end_at_deadline(record.session)
        self.is_released = True
        is_done = self._next_action(session) is Action.DONE and session.state.is_over
        message = f"{message} {sentence}"
        self._save_and_publish(record.resolved(session), note=None if is_done else message)
        if not is_done:
            if session.state.is_over:
                message += f" {what_starts_over(self.config, self.task)}"
            raise AgentBuilderTimeout(message, session_id=session.session_id, agent_id=session.agent_id)
        self._succeed(session)

    def _next_action(self, session: Session) -> Action:
        return next_action(session, len(self.config.followups), self.config.when_ready, self.port.now())

    def _end_at_deadline(self, session: Session) -> tuple[Session, str]:
        """Cancel the session or, with ``keep_session``, poll it once."""
        if not self.config.keep_session:
            stopper = cancel_session(self.port, session)
            self.stop_failed = not stopper.confirmed
            return stopper.session(self.port.now()), stopper.sentence
        try:
            status = self.port.send(agent_builder.status(session.session_id), within=MAX_REQUEST_SECONDS)
        except SequentumError as error:
            log.warning("Could not check %s: %s", session.name, error)
        else:
            session = session.observe_status(status, self.port.now())
        return session, "It is left as it is (keep_session)."

    # Events

    def _take(self, event: SessionEvent) -> None:
        self._highlights.take(event)
        if self._screenshots is not None:
            self._screenshots.take(self.known_record.known_session.session_id, event)

    def _take_again(self, event: SessionEvent) -> None:
        self._take(event)
        if (line := progress_line(event)) is not None:
            self._logged_in_triggerer.append(line)

    def _repeat_log_of_triggerer(self) -> None:
        """Log the lines of the triggerer again, because its log is overwritten by the next deferral."""
        if self._logged_in_triggerer:
            log.info("Repeated from the triggerer's log, which the next deferral overwrites:")
        for level, line in self._logged_in_triggerer:
            log.log(level, "%s", line)
        self._logged_in_triggerer.clear()

    def _note(self, session: Session) -> None:
        """Note the state of the session, and save it if its agent has become known.

        The service soon forgets a session that has ended, and the next attempt would not find out its agent.
        """
        known, self.port.record = self.known_record, self.known_record.seen(session)
        if session.agent_id is not None and known.known_session.agent_id is None:
            self.port.save(self.port.record)

    def _show(self, record: SessionRecord) -> None:
        """Save the record and publish the session."""
        session = record.known_session
        self.port.record = record
        for index in self._highlights.missing(session):
            if not read_again(self.port, session, index - 1, self._highlights.take, index, HIGHLIGHT_PAGE):
                self._highlights.give_up(index)
        self._save_and_publish(record)

    def _save_and_publish(self, record: SessionRecord, note: str | None = None) -> None:
        self.port.save(record)
        self._publish(self._summary(record.known_session, note=note))

    def _summary(self, session: Session, note: str | None = None) -> dict[str, Any]:
        return session_summary(session, self._highlights, self.port.now(), note=note)
