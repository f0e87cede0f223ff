"""The operator that builds an agent with the Agent Builder."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import conf

from airflow_provider_sequentum.airflow_compat.task_attempt import task_facts
from airflow_provider_sequentum.operators.remote_job import RemoteJobOperator
from airflow_provider_sequentum.parameters import OnAmbiguousSession, OnLostSession, OnReady
from airflow_provider_sequentum.reporting.links import (
    SCREENSHOT_LINK_KEY,
    AgentBuilderScreenshotLink,
    AgentBuilderSessionLink,
    publish_session,
)

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, ObjectStoragePath

    from airflow_provider_sequentum.sessions.attempt import SessionAttempt
    from airflow_provider_sequentum.sessions.record import SessionConfig, SessionRecord
    from airflow_provider_sequentum.triggers.agent_builder import AgentBuilderTrigger


class AgentBuilderOperator(RemoteJobOperator["SessionAttempt"]):
    """Build an agent from a prompt, or from a page, in a session of the Sequentum Agent Builder.

    Returns the agent id in every mode; ``None`` if the session is left ready (``finish=False``). Pushes the session id
    under the XCom key ``session_id``, and a summary under ``session``: status, agent, sample of the extracted data,
    last message, elapsed time.

    On Airflow 3.3 and later, a session is never started twice for the same task instance and prompt, and no message is
    sent twice: a new attempt continues the session that an earlier one started, with the next message. Older versions
    keep nothing between attempts. There, a retry starts a new session.

    .. seealso:: https://docs.sequentum.com/agent-builder/sessions

    :param prompt: what the agent should do, 10 to 5000 characters. Give this, ``url`` or ``session_id``.
    :param url: the page to start at, instead of a prompt.
    :param session_id: a session to continue, which another task left ready.
    :param space_id: the space in which the agent is saved. Default: the key's default space.
    :param agent_name: the name under which the agent is saved. Default: the service chooses one.
    :param followups: messages, each of which is sent when the session is ready for it. A single string is one message.
    :param finish: end the conversation in this task, as described by ``on_ready``. With ``False``, the session is left
        ready for another task, or for a person.
    :param on_ready: what to do when the session is ready and nothing is left to send: ``finish`` saves the agent
        (default), ``fail`` fails the task, ``cancel`` cancels the session and skips the task. Only with
        ``finish=True``.
    :param keep_session: keep the session when the task is killed, is cleared or fails. By default, the session is
        cancelled as soon as there is no further attempt that could continue it.
    :param on_ambiguous_start: what to do if the response to the start was lost: ``fail`` (default), or ``start``
        another session in the next attempt. Sessions cannot be listed, so the lost one cannot be found.
    :param on_lost_session: what to do if the service no longer knows the session of an earlier attempt: ``fail``
        (default) or ``start`` a new one.
    :param deferrable: wait in the triggerer, without occupying a worker slot. Default: ``[operators]
        default_deferrable``.
    :param poll_interval: seconds between two polls of the session. Default 10; most builds take one or two minutes.
    :param timeout: how long the attempt may take, in seconds or as a ``timedelta``. Default: no limit.
    :param screenshots_path: folder for the builder's screenshots, as any ``ObjectStoragePath``. Default: they are
        dropped.
    :param conversation_path: file for the stored conversation, as any ``ObjectStoragePath``. Default: it is not
        fetched.
    :param sequentum_conn_id: the Airflow connection to Sequentum Cloud.
    :raises AgentBuilderFailed: the session ended without an agent; a retry starts a new one.
    :raises AgentBuilderTimeout: ``timeout`` expired, or ``execution_timeout`` did while the task was deferred.
    :raises AgentBuilderEnded: this task can no longer use the session; not retried. Its ``reason`` says why.
    :raises SequentumSkipped: ``on_ready="cancel"``, and the session is ready; the task is skipped.
    :raises SequentumRequestRefused: a parameter is invalid, or parameters contradict each other; nothing was sent.
    """

    template_fields: Sequence[str] = (
        "prompt",
        "url",
        "session_id",
        "space_id",
        "agent_name",
        "followups",
        "finish",
        "on_ready",
        "keep_session",
        "on_ambiguous_start",
        "on_lost_session",
        "deferrable",
        "poll_interval",
        "timeout",
        "screenshots_path",
        "conversation_path",
        "sequentum_conn_id",
    )
    operator_extra_links = (AgentBuilderSessionLink(), AgentBuilderScreenshotLink())
    ui_color = "#e9e6f5"
    state_key = "sequentum_session"
    __supports_durable_execution: ClassVar[bool] = True

    def __init__(
        self,
        *,
        prompt: str | None = None,
        url: str | None = None,
        session_id: str | None = None,
        space_id: int | str | None = None,
        agent_name: str | None = None,
        followups: Sequence[str] | str | None = None,
        finish: bool | str = True,
        on_ready: OnReady | str = "finish",
        keep_session: bool | str = False,
        on_ambiguous_start: OnAmbiguousSession | str = "fail",
        on_lost_session: OnLostSession | str = "fail",
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poll_interval: float | str | timedelta = 10.0,
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
        self.on_ready = on_ready
        self.keep_session = keep_session
        self.on_ambiguous_start = on_ambiguous_start
        self.on_lost_session = on_lost_session
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        self.timeout = timeout
        self.screenshots_path = screenshots_path
        self.conversation_path = conversation_path
        self.sequentum_conn_id = sequentum_conn_id

    def _new_attempt(self, context: Context) -> SessionAttempt:
        from airflow_provider_sequentum.sessions.record import SessionConfig

        return self._make_attempt(SessionConfig.of(self), None, context)

    def _attempt_from_record(self, value: object, context: Context) -> SessionAttempt:
        from airflow_provider_sequentum.sessions.record import SessionRecord

        record = SessionRecord.from_json(value)
        return self._make_attempt(record.config, record, context)

    def _attempt_from_ids(self, values: list[object], context: Context) -> SessionAttempt | None:
        from airflow_provider_sequentum.sessions.record import SessionConfig, SessionRecord, session_id_in
        from airflow_provider_sequentum.sessions.state import Session

        session_id = session_id_in(values)
        if session_id is None:
            return None
        keep_session = str(self.keep_session).strip().lower() == "true"
        config = SessionConfig(sequentum_conn_id=self.sequentum_conn_id, keep_session=keep_session)
        return self._make_attempt(config, SessionRecord(config=config, session=Session(session_id=session_id)), context)

    def _make_attempt(self, config: SessionConfig, record: SessionRecord | None, context: Context) -> SessionAttempt:
        from airflow_provider_sequentum.sessions.attempt import SessionAttempt
        from airflow_provider_sequentum.sessions.files import ScreenshotFolder

        port = self._port(context, config.sequentum_conn_id, record)
        folder, conversation = self._place("screenshots_path", config), self._place("conversation_path", config)
        screenshots = None
        if folder is not None:
            screenshots = ScreenshotFolder(
                folder, lambda link: port.push_link(SCREENSHOT_LINK_KEY, link), port.asking_airflow
            )

        def publish(summary: dict[str, Any]) -> None:
            publish_session(port, summary)

        return SessionAttempt(port, task_facts(context, self), config, publish, screenshots, conversation)

    def _place(self, parameter: str, config: SessionConfig) -> ObjectStoragePath | None:
        from airflow_provider_sequentum.sessions.files import storage_path

        path = getattr(config, parameter)
        try:
            return storage_path(parameter, path) if path is not None else None
        except ValueError as error:
            # The session has to have an owner, whatever became of the storage since the parameters were checked.
            self.log.warning("Continuing without it: %s", error)
            return None

    def _trigger(self, attempt: SessionAttempt) -> AgentBuilderTrigger:
        from airflow_provider_sequentum.triggers.agent_builder import AgentBuilderTrigger

        record = attempt.known_record
        deadline = record.earliest_deadline
        return AgentBuilderTrigger(
            sequentum_conn_id=attempt.config.sequentum_conn_id,
            session=record.known_session.to_json(),
            poll_interval=attempt.config.poll_interval,
            deadline=deadline.isoformat() if deadline is not None else None,
            stop_on_kill=not attempt.config.keep_session,
            successor_may_join=attempt.config.is_given,
        )
