"""Arguments of endpoint functions: checked before anything is sent, and put into the API's form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any
from urllib.parse import quote

from airflow_provider_sequentum.api.errors import SequentumConfigurationError

_LONGEST_SESSION_ID = 256


def as_id(value: int | str, name: str) -> int:
    """Return an id as the integer it is; templates render ids as strings.

    :raises SequentumConfigurationError: when it is not a whole number above 0.
    """
    text = str(value).strip()
    if isinstance(value, bool) or not (text.isascii() and text.isdecimal()) or len(text) > 19 or int(text) == 0:
        raise SequentumConfigurationError(f"{name} must be a whole number above 0, not {text[:40]!r}.")
    return int(text)


def as_session_segment(session_id: str) -> str:
    """Return a session id as one segment of a path, whatever characters it has.

    :raises SequentumConfigurationError: when it is empty, over-long or a dot segment.
    """
    if not session_id.strip() or len(session_id) > _LONGEST_SESSION_ID or session_id in (".", ".."):
        raise SequentumConfigurationError(f"{session_id[:40]!r} is no session id of the Agent Builder.")
    return quote(session_id, safe="")


def as_json_text(parameters: Mapping[str, Any] | str | None) -> str | None:
    """Return input parameters as the JSON text the API takes. A string is passed on as it is.

    :raises SequentumConfigurationError: when a value has no JSON form.
    """
    if parameters is None or isinstance(parameters, str):
        return parameters
    try:
        return json.dumps(parameters, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise SequentumConfigurationError(f"input_parameters cannot be written as JSON: {error}") from None


def as_time_text(value: date | str) -> str:
    """Return a date or a time as ISO 8601 text, times in UTC. A time without a zone is taken as UTC."""
    if isinstance(value, datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=UTC)
        return aware.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return value.isoformat() if isinstance(value, date) else value


def only_given(**values: Any) -> dict[str, Any]:
    """Return the values which are not ``None``: what the caller did not set is not sent."""
    return {name: _wire_value(value) for name, value in values.items() if value is not None}


def only_given_query(**values: date | str | int | None) -> dict[str, str | int]:
    """Return query parameters that are not ``None``; booleans in lower case, times in UTC."""
    given: dict[str, str | int] = {}
    for name, value in values.items():
        if isinstance(value, bool):
            given[name] = str(value).lower()
        elif value is not None:
            given[name] = _wire_value(value)
    return given


def _wire_value(value: Any) -> Any:
    return as_time_text(value) if isinstance(value, date) else value
