"""What a task asks of the Agent Builder, and what one attempt of the task leaves for the next."""

from collections.abc import Iterable
from datetime import datetime
from enum import Enum
from typing import Annotated, Any, Self, TypeGuard

from pydantic import Field

from airflow_provider_sequentum import parameters as p
from airflow_provider_sequentum.api import agent_builder
from airflow_provider_sequentum.api.agent_builder import SessionStarted
from airflow_provider_sequentum.api.call import LONGEST_SESSION_ID, Call
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
    """A session to be started, or one to continue, what to say in it, and how to handle it.

    See the parameters of :class:`~airflow_provider_sequentum.operators.agent_builder.AgentBuilderOperator`.
    """

    # Only a start needs these two, and they may be long: they are not kept.
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
            config._check()  # noqa: SLF001 - its own
        except ValueError as error:
            conn_id = config.sequentum_conn_id
            raise SequentumRequestRefused(f"{error} Nothing was sent (connection {conn_id!r}).") from None
        return config

    def _check(self) -> None:
        """Raise ``ValueError`` if parameters contradict each other, or the API client knows that one is of no use."""
        given = [name for name in ("prompt", "url", "session_id") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "none of them"
            raise ValueError(f"Give exactly one of prompt, url and session_id, not {found}.")
        if not self.finish and self.on_ready != "finish":
            raise ValueError("on_ready applies with finish=True only: finish=False leaves the session ready.")
        for name in ("screenshots_path", "conversation_path"):
            if (path := getattr(self, name)) is not None:
                storage_path(name, path)
        if self.session_id is None:
            self.start_call()
        else:
            agent_builder.status(self.session_id)

    @property
    def is_given(self) -> bool:
        """Whether the session is one that another task started."""
        return self.session_id is not None

    @property
    def when_ready(self) -> str:
        """What to do when the session is ready and nothing is left to send: ``on_ready``, or ``leave``."""
        return self.on_ready if self.finish else "leave"

    def start_call(self) -> Call[SessionStarted]:
        """Return the call that starts the session. It is not safe to repeat: each one is a billed session.

        :raises SequentumConfigurationError: the prompt is too short or too long.
        """
        return agent_builder.start(prompt=self.prompt, url=self.url, space_id=self.space_id)

    def fingerprint(self) -> str:
        """Return a digest of what starts the session, or of its id, and of the follow-ups."""
        return fingerprint(self.prompt, self.url, self.space_id, self.session_id, self.followups)


class Request(Enum):
    """The requests that must not be sent twice."""

    START = "start"
    FOLLOWUP = "follow-up"
    FINISH = "finish"


class SessionRecord(JobRecord):
    """The record of one logical attempt at a build, which a retry continues and a clear ends.

    Apart from the follow-ups, which are as long as the DAG author wrote them, it is smaller than 4 kB.

    :param config: what was asked for. A resumed task works from it and reads no argument of the operator again.
    :param pending: the request that was about to be sent, at ``requested_at``; ``None`` once its fate is known.
    :param doubted: the request that was sent and showed no effect, so that it may be sent again; its effect may still
        come, also in a later attempt. ``None`` once it was taken.
    :param session: the session, once the service has answered the start.
    """

    config: SessionConfig = SessionConfig()
    pending: Request | None = None
    doubted: Request | None = None
    session: Session | None = None

    @property
    def known_session(self) -> Session:
        """The session.

        :raises RuntimeError: it has none. What asks for it works with sessions that have been started.
        """
        if self.session is None:
            raise RuntimeError("The record holds no session.")
        return self.session

    @property
    def name(self) -> str:
        """How log lines and errors name the session."""
        return self.session.name if self.session is not None else "An Agent Builder session"

    def sending(self, request: Request, now: datetime) -> Self:
        """Return the record in which ``request`` is about to be sent."""
        session = self.session
        if session is not None and request is Request.FOLLOWUP:
            session = session.sending(now)
        return self.updated(pending=request, requested_at=now, session=session)

    def resolved(self, session: Session, *, doubted: Request | None = None) -> Self:
        """Return the record in which the fate of the pending request is known."""
        return self.updated(pending=None, doubted=doubted, session=session)

    def seen(self, session: Session) -> Self:
        """Return the record with the session as it was seen now."""
        return self.updated(session=session)


def session_id_in(values: Iterable[object]) -> str | None:
    """Return the session that records or events of another version name, as far as it can be determined."""
    named = (value.get("session_id") for value in objects_in(values))
    return next((found for found in named if _is_session_id(found)), None)


def _is_session_id(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and 0 < len(value.strip()) <= LONGEST_SESSION_ID
