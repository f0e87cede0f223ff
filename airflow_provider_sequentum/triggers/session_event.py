"""
The event of a session trigger, written and read in one place.

It is checked when it is read: an event that can't be understood is never taken for success.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_sequentum.exceptions import SequentumException, SequentumUnavailable
from airflow_provider_sequentum.hooks.errors import exception_named
from airflow_provider_sequentum.lifecycle.builder_record import SessionRecord


@dataclass(frozen=True, slots=True)
class SessionNews:
    """
    The news of one wait.

    :param record: the record, with the session as the trigger saw it last.
    :param before: the record as the trigger was given it.
    :param error: why the trigger could not go on looking; ``None`` if the wait is over.
    """

    record: SessionRecord
    before: SessionRecord
    error: SequentumException | None


def turn_event(record: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the event of a wait that is over, in plain JSON values."""
    return {"record": dict(record), "error": None, "trigger": dict(arguments)}


def error_event(error: SequentumException, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the event of a wait that could not go on, in plain JSON values."""
    fault = {"kind": type(error).__name__, "message": str(error)}
    return {"record": arguments["record"], "error": fault, "trigger": dict(arguments)}


def read_session_event(event: Mapping[str, Any] | None) -> SessionNews:
    """
    Return what the event says.

    :raises SequentumUnavailable: it can't be understood. The session may still be going; the next try finds out.
    """
    try:
        if not isinstance(event, Mapping):
            raise TypeError("there is none")
        arguments, fault = event["trigger"], event["error"]
        news = SessionNews(
            record=SessionRecord.from_json(event["record"]),
            before=SessionRecord.from_json(arguments["record"]),
            error=_exception(fault["kind"], fault["message"]) if fault is not None else None,
        )
        if news.record.session is None or news.before.session is None:
            raise ValueError("it holds no session")
        if news.record.session.session_id != news.before.session.session_id:
            raise ValueError("it speaks of another session")
    except (KeyError, TypeError, ValueError) as error:
        raise SequentumUnavailable(
            f"The trigger's event can't be understood ({type(error).__name__}: {error}). The session may still be "
            "going; the next try finds out."
        ) from error
    return news


def _exception(kind: object, message: object) -> SequentumException:
    return exception_named(kind, f"{message} As far as is known the session goes on.")
