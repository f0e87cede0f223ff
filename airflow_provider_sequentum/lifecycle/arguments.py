"""What a DAG author may write for an argument, and what it means: templates render to strings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any


def parse_id(name: str, value: object) -> int:
    """
    Return an id given as an int or as a string of digits.

    :param name: the argument's name, for the message.
    :raises ValueError: it is neither.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdecimal() and int(value) > 0:
        return int(value)
    raise ValueError(f"{name} must be a positive whole number, not {_shown(value)}.")


def parse_count(name: str, value: object) -> int | None:
    """
    Return a whole number of 0 or more, given as an int or as a string of digits; ``None`` and an empty string stay
    unset.

    :raises ValueError: it is neither.
    """
    if value is None or value == "":
        return None
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdecimal():
        return int(value)
    raise ValueError(f"{name} must be a whole number of 0 or more, not {_shown(value)}.")


def parse_credits(value: float | str | None) -> float | None:
    """
    Return an amount of credits of 0 or more; ``None`` and an empty string stay unset.

    :raises ValueError: it is none.
    """
    if value is None or value == "":
        return None
    try:
        credits_ = float(value)
    except (TypeError, ValueError):
        credits_ = -1.0
    if not 0 <= credits_ < float("inf"):
        raise ValueError(f"min_credits must be a number of credits of 0 or more, not {_shown(value)}.")
    return credits_


def parse_input_parameters(value: Mapping[str, Any] | str | None) -> str | None:
    """
    Return input parameters as the JSON text the API takes.

    :param value: a mapping, or a string with a JSON object. ``None`` and an empty string mean no parameters.
    :raises ValueError: it is not a JSON object.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        parsed = json.loads(value) if isinstance(value, str) else value
        if isinstance(parsed, Mapping):
            return json.dumps(dict(parsed), sort_keys=True, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"input_parameters must be a JSON object: {error}.") from None
    raise ValueError(f"input_parameters must be a JSON object, not {_shown(value)}.")


def parse_seconds(name: str, value: float | str | timedelta | None) -> float | None:
    """
    Return a duration in seconds; ``None`` stays ``None``.

    :raises ValueError: it is not a number of seconds above 0 or a ``timedelta``.
    """
    if value is None:
        return None
    try:
        seconds = value.total_seconds() if isinstance(value, timedelta) else float(value)
    except (TypeError, ValueError):
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{name} must be a number of seconds above 0 or a timedelta, not {_shown(value)}.")
    return seconds


def parse_time(name: str, value: datetime | str | None) -> datetime | None:
    """
    Return a moment given as an aware ``datetime`` or as ISO 8601 text with an offset; ``None`` stays ``None``.

    :raises ValueError: it is neither.
    """
    if value is None:
        return None
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value.strip())
    except (AttributeError, ValueError):
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError(
            f"{name} must be a time with an offset, such as 2026-01-31T06:00:00+00:00, not {_shown(value)}."
        )
    return moment


def parse_choice(name: str, value: object, choices: tuple[str, ...]) -> str:
    """
    Return ``value`` if it is one of ``choices``.

    :raises ValueError: it is not.
    """
    if value in choices:
        return str(value)
    raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {_shown(value)}.")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
