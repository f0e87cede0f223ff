"""What one try of a task leaves for the next: its session, what was said in it, and what was about to be said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Any

from airflow_provider_sequentum.lifecycle.builder_findings import Findings
from airflow_provider_sequentum.lifecycle.builder_session import BuilderSession, SessionState, Turn

FORMAT = 1
"""Raised when the fields change their meaning."""


class Verb(Enum):
    """The requests that must not be sent twice."""

    START = "start"
    FOLLOWUP = "follow-up"
    FINISH = "finish"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRecord:
    """
    The record of one logical attempt at the build, which a retry continues and a clear ends.

    :param fingerprint: digest of what was asked for; a changed one is a new piece of work.
    :param max_tries: the task instance's ``max_tries``. Airflow raises it whenever the task is cleared, and only then,
        so it names the logical attempt.
    :param announced: the request that was about to be sent; ``None`` once its fate is known.
    :param announced_at: when.
    :param session: the session, once the service has answered the start.
    """

    fingerprint: str
    max_tries: int
    announced: Verb | None = None
    announced_at: datetime | None = None
    session: BuilderSession | None = None

    def announcing(self, verb: Verb, now: datetime) -> SessionRecord:
        """Return the record in which ``verb`` is about to be sent."""
        session = self.session.speaking(now) if self.session is not None and verb is Verb.FOLLOWUP else self.session
        return replace(self, announced=verb, announced_at=now, session=session)

    def settled(self, session: BuilderSession | None) -> SessionRecord:
        """Return the record in which the fate of the announced request is known."""
        return replace(self, announced=None, announced_at=None, session=session)

    def seeing(self, session: BuilderSession) -> SessionRecord:
        """Return the record with the session as it was seen now."""
        return replace(self, session=session)

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON values."""
        return {"format": FORMAT, **_plain(asdict(self))}

    @classmethod
    def from_json(cls, value: object) -> SessionRecord:
        """
        Read what :meth:`to_json` wrote.

        :raises ValueError: it can't be read. That is never taken for "no record": it could hide a session that goes on.
        """
        try:
            if not isinstance(value, Mapping) or value["format"] != FORMAT:
                raise ValueError("unknown format")
            return cls(
                fingerprint=value["fingerprint"],
                max_tries=value["max_tries"],
                announced=Verb(value["announced"]) if value["announced"] is not None else None,
                announced_at=_moment(value["announced_at"]),
                session=_session(value["session"]) if value["session"] is not None else None,
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"The record of the Agent Builder session can't be read ({error}).") from None


def _session(value: Mapping[str, Any]) -> BuilderSession:
    fields = dict(value)
    fields |= {name: _moment(fields[name]) for name in ("said_at", "since", "started_at")}
    return BuilderSession(
        **fields
        | {
            "state": SessionState(fields["state"]),
            "turn": Turn(fields["turn"]),
            "findings": Findings(**fields["findings"]),
        }
    )


def _moment(value: str | None) -> datetime | None:
    return datetime.fromisoformat(value) if value is not None else None


def _plain(value: Any) -> Any:
    match value:
        case Mapping():
            return {key: _plain(item) for key, item in value.items()}
        case list():
            return [_plain(item) for item in value]
        case datetime():
            return value.isoformat()
        case Enum():
            return value.value
    return value
