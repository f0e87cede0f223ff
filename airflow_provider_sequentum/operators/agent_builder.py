"""The operator that builds an agent with the Agent Builder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.providers.common.compat.sdk import AirflowException, BaseOperator, conf

from airflow_provider_sequentum.exceptions import SequentumRequestRefused
from airflow_provider_sequentum.lifecycle.arguments import parse_choice, parse_id, parse_seconds
from airflow_provider_sequentum.lifecycle.choices import ON_AMBIGUOUS_SESSION, ON_LOST_SESSION, ON_READY
from airflow_provider_sequentum.operators.termination import Termination
from airflow_provider_sequentum.reporting.links import (
    SESSION_SUMMARY_KEY,
    AgentBuilderScreenshotLink,
    AgentBuilderSessionLink,
)
from airflow_provider_sequentum.task_try import (
    DEFERRAL_FAILED,
    begun_at,
    current_context,
    deferral_timed_out,
    execution_deadline,
    pushed_by_this_try,
)

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_sequentum.operators.session_task import SessionTask

T = TypeVar("T")

DEFAULT_POLL_INTERVAL = 10.0


class AgentBuilderOperator(BaseOperator):
    """
    Turn a prompt, or a page, into an agent by a conversation with the Sequentum Agent Builder.

    Returns the agent's id, in every mode; ``None`` if the session is left ready (``finish=False``). The session's id is
    under the XCom key ``session_id``, a summary under ``session``: status, agent, sample of the extracted data, last
    message, elapsed time.

    A session is never started twice for the same piece of work, and no message is sent twice. On Airflow 3.3 and later
    a new try goes on in the session an earlier one started, with the message that comes next. On older versions there
    is no place that outlives a try; there a retry begins a new session.

    .. seealso:: https://docs.sequentum.com/agent-builder/sessions

    :param prompt: what the agent shall do, 10 to 5000 characters. Give this, ``url`` or ``session_id``.
    :param url: the page to begin at, instead of a prompt.
    :param session_id: a session that another task left ready, to go on with.
    :param space_id: the space the agent is saved into. Default: the key's default space.
    :param agent_name: the name the agent is saved under. Default: the service chooses one.
    :param followups: messages, each sent when the session is ready for it. A single string is one message.
    :param finish: end the conversation in this task, in the way ``on_ready`` says. With ``False`` the session is left
        ready for another task, or for a person.
    :param on_ready: what to do when the session is ready and nothing is left to say: ``finish`` saves the agent
        (default), ``fail`` fails the task, ``cancel`` cancels the session and skips the task. Only with
        ``finish=True``.
    :param keep_session: leave the session alone when the task is killed, cleared, or fails. By default it is cancelled
        as soon as no try follows that could go on with it.
    :param on_ambiguous_start: what to do when the answer to the start was lost: ``fail`` (default), or ``start``
        another session with the next try. Sessions can't be listed, so the lost one can't be found.
    :param on_lost_session: what to do when the service no longer knows the session of an earlier try: ``fail``
        (default) or ``start`` a new one.
    :param deferrable: wait in the triggerer, which takes no worker slot. Default: ``[operators] default_deferrable``.
    :param poll_interval: seconds between two looks at the session. Default 10; most builds take one or two minutes.
    :param timeout: seconds or ``timedelta`` this try takes at most. Default: no limit.
    :param screenshots_path: folder for the builder's screenshots, as any ``ObjectStoragePath``. Default: they are
        dropped.
    :param conversation_path: file for the stored conversation, as any ``ObjectStoragePath``. Default: it is not
        fetched.
    :param sequentum_conn_id: the connection.
    :raises AgentBuilderFailed: the session ended without an agent; a retry begins a new one.
    :raises AgentBuilderTimeout: ``timeout`` has passed, or ``execution_timeout`` while the task was deferred.
    :raises AgentBuilderCancelled: somebody cancelled the session; not retried.
    :raises AgentBuilderUnanswered: ``on_ready="fail"``, and the session is ready; not retried.
    :raises AgentBuilderRefused: the session is over, or the service refuses a message or the agent's name; not retried.
    :raises AgentBuilderAmbiguous: the answer to a start or a follow-up was lost; not retried.
    :raises AgentBuilderSessionLost: the service doesn't know the session; not retried.
    :raises AgentBuilderSkipped: ``on_ready="cancel"``, and the session is ready; the task is skipped.
    :raises ValueError: ``on_ready`` is set and ``finish`` is false, or a choice is not one, or
        ``poll_interval`` no number of seconds above 0.
    """

    template_fields: Sequence[str] = (
        "prompt",
        "url",
        "session_id",
        "space_id",
        "agent_name",
        "followups",
        "timeout",
        "screenshots_path",
        "conversation_path",
        "sequentum_conn_id",
    )
    operator_extra_links = (AgentBuilderSessionLink(), AgentBuilderScreenshotLink())
    ui_color = "#e9e6f5"

    def __init__(
        self,
        *,
        prompt: str | None = None,
        url: str | None = None,
        session_id: str | None = None,
        space_id: int | str | None = None,
        agent_name: str | None = None,
        followups: Sequence[str] | str | None = None,
        finish: bool = True,
        on_ready: str = "finish",
        keep_session: bool = False,
        on_ambiguous_start: str = "fail",
        on_lost_session: str = "fail",
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poll_interval: float = DEFAULT_POLL_INTERVAL,
        timeout: float | str | timedelta | None = None,
        screenshots_path: str | None = None,
        conversation_path: str | None = None,
        sequentum_conn_id: str = "sequentum_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.prompt = prompt
        self.url = url
        self.session_id = session_id
        self.space_id = space_id
        self.agent_name = agent_name
        self.followups = followups
        self.finish = finish
        self.on_ready = parse_choice("on_ready", on_ready, ON_READY)
        if not finish and on_ready != "finish":
            raise ValueError("finish=False leaves the session ready; on_ready only applies with finish=True.")
        self.keep_session = keep_session
        self.on_ambiguous_start = parse_choice("on_ambiguous_start", on_ambiguous_start, ON_AMBIGUOUS_SESSION)
        self.on_lost_session = parse_choice("on_lost_session", on_lost_session, ON_LOST_SESSION)
        self.deferrable = deferrable
        self.poll_interval = parse_seconds("poll_interval", poll_interval)
        self.timeout = timeout
        self.screenshots_path = screenshots_path
        self.conversation_path = conversation_path
        self.sequentum_conn_id = sequentum_conn_id
        self._task: SessionTask | None = None
        self._termination = Termination()

    def execute(self, context: Context) -> int | None:
        """Begin the session, or go on with the one an earlier try left. Returns the agent's id."""
        with self._termination.ends_work():
            task = self._session_task(context)
            with task.responsibility():
                task.begin()
                return self._converse(task)

    def execute_complete(self, context: Context, event: Mapping[str, Any] | None = None) -> int | None:
        """Go on with the conversation after the trigger has fired. Returns the agent's id."""
        from airflow_provider_sequentum.triggers.session_event import read_session_event

        news = read_session_event(event)
        task = self._session_task(context)
        with task.responsibility():
            task.resume(news.record, news.before)
            if news.error is not None:
                raise news.error
            return self._converse(task)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """
        Resume after a deferral, also after one that Airflow itself ended.

        Airflow drops everything that was handed on when its deferral timeout passes, because no triggerer was there to
        notice the deadline, and when the trigger broke. The session is found by what this try left before it deferred.
        After a broken trigger the wait goes on, on the worker.
        """
        with self._termination.ends_work():
            try:
                return super().resume_execution(next_method, next_kwargs, context)
            except AirflowException as error:
                summary = self._summary(context) if next_method == DEFERRAL_FAILED else None
                if summary is None:
                    raise
                task = self._session_task(context)
                with task.responsibility():
                    task.resume_from_summary(summary)
                    if not deferral_timed_out(next_kwargs):
                        self.log.warning("The trigger broke (%s); waiting for the session on the worker.", error)
                        task.wait()
                    return self._converse(task)

    def on_kill(self) -> None:
        """
        Cancel the session: the task was killed on the worker, or its ``execution_timeout`` passed there.

        A worker that is shut down while the task is waiting leaves the session to the next try, if there is one.
        """
        self._termination.end_after(self._end_session)

    def _end_session(self) -> None:
        if self._task is not None:
            self._task.kill()
        elif (context := current_context()) is not None and (summary := self._summary(context)) is not None:
            # Airflow 2.11 does not resume a deferred task whose execution_timeout has passed: it only calls this.
            self._abandon(summary["session_id"])

    def _abandon(self, session_id: str) -> None:
        from airflow_provider_sequentum.hooks.sequentum import SequentumHook
        from airflow_provider_sequentum.lifecycle.builder_cancel import cancel_session

        if not self.keep_session:
            SequentumHook(self.sequentum_conn_id).perform_apart(cancel_session(session_id), urgent=True)

    def _converse(self, task: SessionTask) -> int | None:
        from airflow_provider_sequentum.lifecycle.builder_session import Wait

        while isinstance(action := task.speak(), Wait):
            task.check_deadline()
            if self.deferrable:
                task.keep_what_the_triggerer_told()
                self.defer(trigger=task.trigger(), method_name="execute_complete", timeout=task.deferral_timeout())
            task.wait()
        return task.conclude(action)

    def _summary(self, context: Context) -> dict[str, Any] | None:
        """Return what this try said of its session before it deferred."""
        summary: dict[str, Any] | None = pushed_by_this_try(context, SESSION_SUMMARY_KEY)
        return summary

    def _deadline(self, context: Context) -> datetime | None:
        timeout = self._checked(parse_seconds, "timeout", self.timeout)
        bounds = [
            begun_at(context, datetime.now(UTC)) + timedelta(seconds=timeout) if timeout else None,
            # A worker watches execution_timeout itself; while a task is deferred, Airflow 3 does not.
            execution_deadline(context, self.execution_timeout) if self.deferrable else None,
        ]
        return min((bound for bound in bounds if bound is not None), default=None)

    def _session_task(self, context: Context) -> SessionTask:
        from airflow_provider_sequentum.operators.session_task import session_left_behind

        try:
            self._task = self._checked_task(context)
        except SequentumRequestRefused:
            # The DAG was changed since the session began, and nobody goes on with it.
            session_id = (self._summary(context) or {}).get("session_id") or session_left_behind(context)
            if session_id is not None:
                self._abandon(session_id)
            raise
        return self._task

    def _checked_task(self, context: Context) -> SessionTask:
        from airflow_provider_sequentum.hooks.sequentum import SequentumHook
        from airflow_provider_sequentum.lifecycle.builder_open import SessionPolicy
        from airflow_provider_sequentum.lifecycle.builder_request import SessionRequest, parse_messages
        from airflow_provider_sequentum.operators.session_task import SessionOptions, SessionTask

        request = self._checked(
            SessionRequest,
            prompt=self.prompt or None,
            url=self.url or None,
            session_id=self.session_id or None,
            space_id=self._checked(parse_id, "space_id", self.space_id) if self.space_id else None,
            followups=self._checked(parse_messages, self.followups),
        )
        self._checked(request.check)
        options = SessionOptions(
            policy=SessionPolicy(
                on_ambiguous_start=self.on_ambiguous_start,
                on_lost_session=self.on_lost_session,
                keep_session=self.keep_session,
            ),
            on_ready=self.on_ready if self.finish else "leave",
            agent_name=self.agent_name or None,
            poll_interval=self.poll_interval or DEFAULT_POLL_INTERVAL,
            screenshots_path=self.screenshots_path or None,
            conversation_path=self.conversation_path or None,
        )
        hook, deadline = SequentumHook(self.sequentum_conn_id), self._deadline(context)
        return self._checked(SessionTask, request, options, hook, context, deadline, self.log)

    def _checked(self, parse: Callable[..., T], *arguments: Any, **named: Any) -> T:
        try:
            return parse(*arguments, **named)
        except ValueError as error:
            raise SequentumRequestRefused(
                f"{error} Nothing was sent (connection {self.sequentum_conn_id!r})."
            ) from error
