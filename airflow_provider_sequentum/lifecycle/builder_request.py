"""What a task asks of the Agent Builder, checked before anything is sent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_sequentum.api import Call
    from airflow_provider_sequentum.api.agent_builder import SessionStarted


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRequest:
    """
    A session to be started, or one to go on with, and what to say in it.

    :param prompt: what the agent shall do.
    :param url: the page to begin at, instead of a prompt.
    :param space_id: the space the agent is saved into; the service's default when ``None``.
    :param session_id: a session of somebody else to go on with, instead of starting one.
    :param followups: messages, each sent when the session is ready for it.
    :raises ValueError: not exactly one of ``prompt``, ``url`` and ``session_id`` is set, or a follow-up is empty.
    """

    prompt: str | None = None
    url: str | None = None
    space_id: int | None = None
    session_id: str | None = None
    followups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        given = [name for name in ("prompt", "url", "session_id") if (getattr(self, name) or "").strip()]
        if len(given) != 1:
            found = " and ".join(given) if given else "none of them"
            raise ValueError(f"Exactly one of prompt, url and session_id has to be given; found {found}.")
        for number, message in enumerate(self.followups, 1):
            if not message.strip():
                raise ValueError(f"Follow-up {number} of {len(self.followups)} is empty.")

    def check(self) -> None:
        """
        Check what only the API client knows: the prompt's length, and what a session's id may look like.

        :raises ValueError: one of them is wrong.
        """
        from airflow_provider_sequentum.api import agent_builder

        if self.session_id is None:
            self.call()
        else:
            agent_builder.status(self.session_id)

    def call(self) -> Call[SessionStarted]:
        """
        Return the call that starts the session. It is not safe to repeat: each one is a billed session.

        :raises SequentumConfigurationError: the prompt is too short or too long.
        """
        from airflow_provider_sequentum.api import agent_builder

        prompt = self.prompt if (self.prompt or "").strip() else None
        return agent_builder.start(prompt=prompt, url=self.url, space_id=self.space_id)

    def fingerprint(self) -> str:
        """Return a digest of everything that makes this piece of work what it is."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def parse_messages(value: object) -> tuple[str, ...]:
    """
    Return messages given as a list or as a single string; ``None`` means none.

    :raises ValueError: it is neither, or not all of them are strings.
    """
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if isinstance(value, Sequence) and all(isinstance(message, str) for message in value):
        return tuple(value)
    raise ValueError("followups must be a list of strings, or one string.")
