"""One try of a task that works with one Agent Builder session: hold it, speak in it, wait, say what its end means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_sequentum.exceptions import (
    AgentBuilderAmbiguous,
    AgentBuilderSessionLost,
    AgentBuilderSkipped,
    AgentBuilderTimeout,
    SequentumException,
)
from airflow_provider_sequentum.hooks.sequentum import SequentumHook
from airflow_provider_sequentum.lifecycle.builder_cancel import cancel_session
from airflow_provider_sequentum.lifecycle.builder_open import SessionPolicy, open_session
from airflow_provider_sequentum.lifecycle.builder_record import SessionRecord, Verb
from airflow_provider_sequentum.lifecycle.builder_request import SessionRequest
from airflow_provider_sequentum.lifecycle.builder_session import (
    Action,
    AskPerson,
    BuilderSession,
    Cancel,
    Done,
    SessionState,
)
from airflow_provider_sequentum.lifecycle.builder_speak import session_of, speak
from airflow_provider_sequentum.lifecycle.builder_wait import look_at, read_again, wait_for_turn
from airflow_provider_sequentum.lifecycle.procedure import Procedure
from airflow_provider_sequentum.operators.session_ending import CAUSES, complete, exception_for, fate_of, summarize
from airflow_provider_sequentum.operators.session_files import (
    ScreenshotFolder,
    save_stored_conversation,
    storage_path,
)
from airflow_provider_sequentum.operators.task_state import TaskState
from airflow_provider_sequentum.operators.termination import WorkerShutDown, is_left_to_next_try
from airflow_provider_sequentum.reporting.links import SCREENSHOT_LINK_KEY, SESSION_LINK_KEY, SESSION_SUMMARY_KEY
from airflow_provider_sequentum.task_try import has_tries_left, max_tries
from airflow_provider_sequentum.triggers.agent_builder import AgentBuilderTrigger
from airflow_provider_sequentum.triggers.timing import deferral_timeout

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath
    from airflow.sdk.types import Logger

T = TypeVar("T")

STATE_KEY = "sequentum_session"
SESSION_ID_KEY = "session_id"


def session_left_behind(context: Mapping[str, Any]) -> str | None:
    """Return the session that an earlier try has recorded and that was not over then; ``None`` if there is none."""
    try:
        session = SessionRecord.from_json(TaskState(context, STATE_KEY).read()).session
    except ValueError:  # none, or one that can't be read
        return None
    return session.session_id if session is not None and not session.state.is_over else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """How a task handles its session: what :class:`~.agent_builder.AgentBuilderOperator` says of these parameters."""

    policy: SessionPolicy
    on_ready: str
    agent_name: str | None
    poll_interval: float
    screenshots_path: str | None
    conversation_path: str | None


class SessionTask:
    """
    One try of a task that works with one session.

    :param request: the session to start or to go on with, and what to say in it.
    :param options: how to handle it.
    :param hook: the connection.
    :param context: the task's context.
    :param deadline: when this try gives up.
    :param log: the task's log.
    :raises ValueError: one of the paths leads nowhere.
    """

    def __init__(
        self,
        request: SessionRequest,
        options: SessionOptions,
        hook: SequentumHook,
        context: Mapping[str, Any],
        deadline: datetime | None,
        log: Logger,
    ) -> None:
        self._request = request
        self._options = options
        self._hook = hook
        self._context = context
        self._deadline = deadline
        self._log = log
        self._state = TaskState(context, STATE_KEY)
        self._record: SessionRecord | None = None
        self._kept: SessionRecord | None = None
        self._told_in_triggerer: Procedure[None] | None = None
        self._is_waiting = False
        self._screenshots: ScreenshotFolder | None = None
        if options.screenshots_path:
            folder = storage_path("screenshots_path", options.screenshots_path)
            self._screenshots = ScreenshotFolder(folder, self._announce_screenshot, log)
        self._conversation: ObjectStoragePath | None = None
        if options.conversation_path:
            self._conversation = storage_path("conversation_path", options.conversation_path)

    def begin(self) -> None:
        """Start a session, or get hold of the one that is given or that an earlier try left."""
        # Held from now on: if this is the last try and it fails, the session of the one before has to end.
        self._record = self._kept = left_behind = self._read_record()
        opening = open_session(
            self._request, self._options.policy, max_tries(self._context), left_behind, self._screenshots
        )
        self._hold(self._perform(opening))
        if self._screenshots is not None:
            self._screenshots.recall(self._session().session_id)

    def resume(self, record: SessionRecord, before: SessionRecord | None = None) -> None:
        """
        Go on with the session after a deferral.

        :param record: what the trigger handed over.
        :param before: the record before the deferral: the trigger has read events since, but saved no screenshots.
        """
        if self._state.is_durable:
            self._kept = record  # its session was kept before the deferral
        self._hold(record)
        session = session_of(record)
        if before is not None:
            self._told_in_triggerer = read_again(session, session_of(before).cursor, narrate=True)
        if self._screenshots is not None and before is not None:
            self._perform(read_again(session, session_of(before).cursor, self._screenshots))
        self._hold(record.seeing(self._perform(look_at(session, self._screenshots))))

    def resume_from_summary(self, summary: Mapping[str, Any]) -> None:
        """
        Go on with the session after a deferral of which nothing was handed over.

        :param summary: what this try said of the session. Before Airflow 3.3 nothing else of it is left.
        """
        session = BuilderSession(session_id=summary["session_id"], sent=summary["followups_sent"])
        tries = max_tries(self._context)
        record = SessionRecord(fingerprint=self._request.fingerprint(), max_tries=tries, session=session)
        self.resume(self._read_record() or record)

    def speak(self) -> Action:
        """Say what is to be said now, and return what is to be done next."""
        options = self._options
        speaking = speak(self._held(), self._request.followups, options.on_ready, options.agent_name, self._screenshots)
        record, action = self._perform(speaking)
        self._hold(record)
        return action

    def check_deadline(self) -> None:
        """
        Give up if the time is over.

        :raises AgentBuilderTimeout: it is.
        """
        if self._deadline is not None and datetime.now(UTC) >= self._deadline:
            session = self._session()
            raise AgentBuilderTimeout(
                f"Agent Builder session {session.session_id} was still {session.state.value} when the task's time was "
                f"over (timeout or execution_timeout). {fate_of(self._options.policy)}",
                session_id=session.session_id,
            )

    def wait(self) -> None:
        """Wait on the worker until the session needs somebody again."""
        waiting = wait_for_turn(self._session(), self._options.poll_interval, self._deadline, self._screenshots)
        self._is_waiting = True
        try:
            session = self._perform(waiting)
        finally:
            self._is_waiting = False
        self._hold(self._held().seeing(session))

    def keep_what_the_triggerer_told(self) -> None:
        """
        Tell in the worker's log what the triggerer has told since the last deferral.

        Airflow 3 begins the triggerer's log of a try anew at each deferral, so the next one would wipe that out.
        """
        if self._told_in_triggerer is not None:
            self._log.info("Told in the triggerer before, whose log begins anew with the next deferral:")
            self._perform(self._told_in_triggerer)
            self._told_in_triggerer = None

    def trigger(self) -> AgentBuilderTrigger:
        """Return the trigger that waits in the triggerer."""
        return AgentBuilderTrigger(
            sequentum_conn_id=self._hook.sequentum_conn_id,
            record=self._held().to_json(),
            poll_interval=self._options.poll_interval,
            deadline=self._deadline.isoformat() if self._deadline else None,
            cancel_on_kill=not self._options.policy.keep_session,
        )

    def deferral_timeout(self) -> timedelta | None:
        """Return the timeout to defer with: a backstop behind the trigger's own deadline."""
        return deferral_timeout(self._deadline, datetime.now(UTC))

    def conclude(self, action: Action) -> int | None:
        """
        Say what the session's end means.

        :return: the agent's id; ``None`` if the session is left to somebody else.
        """
        session = self._session()
        match action:
            case Done(agent_id):
                self._log.info("Agent %s is built: %s.", agent_id, session.agent_name or "without a name")
                if self._conversation is not None:
                    save_stored_conversation(self._hook, session.session_id, self._conversation, self._log)
                return agent_id
            case AskPerson():
                self._log.info("Session %s is ready and is left to whoever goes on with it.", session.session_id)
                return None
            case Cancel():
                if self._hook.perform(cancel_session(session.session_id)):
                    self._hold(self._held().seeing(session.entering(SessionState.CANCELLED, datetime.now(UTC))))
                raise AgentBuilderSkipped(f"Session {session.session_id} was cancelled, because on_ready='cancel'.")
        raise exception_for(action, session, self._request, self._options.policy)

    @contextmanager
    def responsibility(self) -> Iterator[None]:
        """End the session when the task fails inside and no try follows that could go on with it."""
        try:
            yield
        except Exception as error:
            is_final = isinstance(error, (AirflowFailException, AgentBuilderTimeout)) or not self._next_try_goes_on()
            if is_final and not isinstance(error, AgentBuilderSessionLost):
                self.cancel()
            raise

    def _next_try_goes_on(self) -> bool:
        """Whether a next try follows that finds the session and knows what was said in it."""
        record = self._record
        if record is None or record.session is None or not has_tries_left(self._context):
            return False
        if self._kept is not None and self._kept.session is not None:
            return self._kept.session.session_id == record.session.session_id
        # Without a record only a given session is found, and what may have been said in it would be said again.
        nothing_said = record.session.sent == 0 and record.announced is not Verb.FOLLOWUP
        return self._request.session_id is not None and nothing_said

    def kill(self) -> None:
        """
        End the session because the task is being killed.

        This runs in a signal handler, in the middle of whatever the task was doing.

        :raises WorkerShutDown: Airflow still wants the task, so the session is left to the next try.
        """
        is_saving = self._screenshots is not None and self._screenshots.is_saving  # which may ask the supervisor
        if self._is_waiting and not is_saving and self._next_try_goes_on() and is_left_to_next_try(self._context):
            raise WorkerShutDown(
                f"The worker is being shut down. Session {self._session().session_id} goes on: the next try joins it."
            )
        if self._record is not None and self._record.announced is Verb.START:
            self._log.warning(
                "A session was being started and its id is not known. If the service has started it, it goes on: look "
                "in Sequentum Cloud."
            )
        self.cancel()

    def cancel(self) -> None:
        """Cancel the session, unless it is over or to be kept. Everything that goes wrong is said in the log."""
        session = self._record.session if self._record is not None else None
        if session is None or session.state.is_over:
            return
        if self._options.policy.keep_session:
            self._log.warning("Session %s is left as it is, because of keep_session.", session.session_id)
            return
        try:
            self._hook.perform_apart(cancel_session(session.session_id), urgent=True)
        except SequentumException as error:
            self._log.warning("Session %s could not be cancelled: %s", session.session_id, error)

    def _perform(self, procedure: Procedure[T]) -> T:
        try:
            return self._hook.perform(procedure, self._remember)
        except tuple(CAUSES) as cause:
            session_id = self._record.session.session_id if self._record and self._record.session else None
            kind, message = CAUSES[type(cause)]
            told = complete(message, cause, self._request, self._options.policy)
            raise kind(f"{told} (connection {self._hook.sequentum_conn_id!r})", session_id=session_id) from cause

    def _held(self) -> SessionRecord:
        if self._record is None:
            raise RuntimeError("A session has to be begun or resumed first.")
        return self._record

    def _session(self) -> BuilderSession:
        return session_of(self._held())

    def _hold(self, record: SessionRecord) -> None:
        """Keep the record for the next try, and tell downstream tasks and the person watching what it holds."""
        ti, session = self._context["ti"], session_of(record)
        if self._record != record:
            self._remember(record.to_json())
        link = self._hook.session_link(session.session_id)
        ti.xcom_push(key=SESSION_ID_KEY, value=session.session_id)
        ti.xcom_push(key=SESSION_LINK_KEY, value=link)
        ti.xcom_push(key=SESSION_SUMMARY_KEY, value={**summarize(session, datetime.now(UTC)), "link": link})

    def _announce_screenshot(self, link: str) -> None:
        self._context["ti"].xcom_push(key=SCREENSHOT_LINK_KEY, value=link)

    def _remember(self, record: dict[str, Any] | None) -> None:
        self._record = SessionRecord.from_json(record) if record is not None else None
        self._state.keep(record)
        if self._state.is_durable:
            self._kept = self._record

    def _read_record(self) -> SessionRecord | None:
        try:
            stored = self._state.read()
            return SessionRecord.from_json(stored) if stored is not None else None
        except ValueError as error:
            raise AgentBuilderAmbiguous(
                f"{error} Nothing was sent. Look at the sessions in Sequentum Cloud, then delete the key "
                f"{STATE_KEY!r} from the task's state store."
            ) from error
