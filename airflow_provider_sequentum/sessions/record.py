"""The configuration of a task that uses the Agent Builder, and the record that an attempt leaves for the next."""

from collections.abc import Iterable
from datetime import datetime
from enum import Enum
from typing import Annotated, Any, Self, TypeGuard

from pydantic import Field

from airflow_provider_sequentum import parameters as p
from airflow_provider_sequentum.api import agent_builder
from airflow_provider_sequentum.api.agent_builder import SessionStarted
from airflow_provider_sequentum.api.call import MAX_SESSION_ID_LENGTH, Call
from airflow_provider_sequentum.exceptions import SequentumRequestRefused
from airflow_provider_sequentum.jobs.record import (
    Flag,
    Id,
    JobConfig,
    JobRecord,
    Messages,
    Seconds,
    Text,
    choice_of,
    fingerprint,
    objects_in,
)
from airflow_provider_sequentum.sessions.files import storage_path
from airflow_provider_sequentum.sessions.state import Session


class SessionConfig(JobConfig):
    """The session to start or to continue, what to send, and how to handle the session.

    See the parameters of :class:`~airflow_provider_sequentum.operators.agent_builder.AgentBuilderOperator`.
    """

    # These two are only needed for a start, and may be long, so they are not stored.
    prompt: Text | None = Field(default=None, exclude=True)
    url: Text | None = Field(default=None, exclude=True)
    session_id: Text | None = None
    space_id: Id | None = None
    agent_name: Text | None = None
    followups: Messages = ()
    finish: Flag = True
    on_ready: Annotated[str, choice_of(p.OnReady)] = "finish"
    keep_session: Flag = False
    on_ambiguous_start: Annotated[str, choice_of(p.OnAmbiguousSession)] = "fail"
    on_lost_session: Annotated[str, choice_of(p.OnLostSession)] = "fail"
    poll_interval: Seconds = 10.0
    screenshots_path: Text | None = None
    conversation_path: Text | None = None

    @classmethod
    def of(cls, parameters: object, **more: Any) -> Self:
        """Parse the attributes of an operator; see :meth:`.Configuration.of`."""
        config = super().of(parameters, **more)
        try:
            config._check()  # noqa: SLF001 - of the same class
        except ValueError as error:
            conn_id = config.sequentum_conn_id
            raise SequentumRequestRefused(f"{error} Nothing was sent (connection {conn_id!r}).") from None
        return config

    def _check(self) -> None:
        """Raise ``ValueError`` if parameters contradict each other, or if the API client rejects one."""
        given = [name for name in ("prompt", "url", "session_id") if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"{' and '.join(given)} have" if given else "none of them has"
            raise ValueError(f"Give exactly one of prompt, url and session_id: {found} a value.")
        if self.session_id == "None":
            raise ValueError(f"session_id must be the id of a session, not {p.shown(self.session_id)}.")
        if not self.finish and self.on_ready != "finish":
            raise ValueError("on_ready only applies with finish=True: finish=False leaves the session ready.")
        for name in ("screenshots_path", "conversation_path"):
            if (path := getattr(self, name)) is not None:
                storage_path(name, path)
        if self.session_id is None:
            self.start_call()
        else:
            agent_builder.status(self.session_id)

    @property
    def is_given(self) -> bool:
        """Whether the session was started by another task."""
        return self.session_id is not None

    @property
    def when_ready(self) -> str:
        """What to do when the session is ready and nothing is left to send: ``on_ready``, or ``leave``."""
        return self.on_ready if self.finish else "leave"

    def start_call(self) -> Call[SessionStarted]:
        """Return the request that starts the session. It must not be repeated: each is a billed session.

        :raises SequentumConfigurationError: the prompt is too short or too long.
        """
        return agent_builder.start(prompt=self.prompt, url=self.url, space_id=self.space_id)

    def fingerprint(self) -> str:
        """Return a hash of the start parameters or the id of the session, and of the follow-ups."""
        return fingerprint(self.prompt, self.url, self.space_id, self.session_id, self.followups)


class Request(Enum):
    """The requests that must not be sent twice."""

    START = "start"
    FOLLOWUP = "follow-up"
    FINISH = "finish"


class SessionRecord(JobRecord):
    """The record of one logical attempt at a build. A retry continues it, and a clear ends it.

    Apart from the follow-ups, whose length is up to the DAG author, it is smaller than 4 kB.

    :param config: the configuration. A resumed task uses it and does not read the arguments of the operator again.
    :param pending: the request that was about to be sent, at ``requested_at``; ``None`` once its result is known.
    :param doubted: the request that was sent without an effect, so that it may be sent again; it may still take effect,
        even in a later attempt. ``None`` once it was received.
    :param session: the session, once the service has responded to the start.
    """

    config: SessionConfig = SessionConfig()
    pending: Request | None = None
    doubted: Request | None = None
    session: Session | None = None

    @property
    def known_session(self) -> Session:
        """The session.

        :raises RuntimeError: there is none. Only code for sessions that have been started uses this property.
        """
        if self.session is None:
            raise RuntimeError("The record has no session.")
        return self.session

    @property
    def name(self) -> str:
        """The name of the session in log lines and errors."""
        return self.session.name if self.session is not None else "An Agent Builder session"

    def sending(self, request: Request, now: datetime) -> Self:
        """Return the record to save before ``request`` is sent."""
        session = self.session
        if session is not None and request is Request.FOLLOWUP:
            session = session.sending(now)
        return self.updated(pending=request, requested_at=now, session=session)

    def resolved(self, session: Session, *, doubted: Request | None = None) -> Self:
        """Return the record once the result of the pending request is known."""
        return self.updated(pending=None, doubted=doubted, session=session)

    def seen(self, session: Session) -> Self:
        """Return the record with the current state of the session."""
        return self.updated(session=session)


def session_id_in(values: Iterable[object]) -> str | None:
    """Return the session id in records or events of another version; ``None`` if there is none."""
    named = (value.get("session_id") for value in objects_in(values))
    return next((found for found in named if _is_session_id(found)), None)


def _is_session_id(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and 0 < len(value.strip()) <= MAX_SESSION_ID_LENGTH
