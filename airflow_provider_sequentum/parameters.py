"""Parsing of parameters.

One rule applies to all parameters: ``None`` and an empty string mean *unset*, so the default applies; 0 is 0; a bool is
not a number; a string that contains a number is that number, because a rendered template is a string; and the results
of native rendering (dates, decimals, the output of mapped tasks) are accepted.

Every ``parse_`` function returns the value, or raises ``ValueError`` with a message that lacks the name of the
parameter: ``must be a positive whole number, not 'abc'``. :func:`parse_named` puts the name in front of it, and
:func:`optional` adds the default for an unset parameter.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from numbers import Real
from typing import Any, Literal, TypeVar
from uuid import UUID

OnTimeout = Literal["stop", "leave"]
OnClear = Literal["rerun", "join"]
OnEmpty = Literal["succeed", "warn", "skip", "fail"]
OnPartial = Literal["fail", "warn"]
OnDrift = Literal["fail", "warn", "skip"]
OnUnchanged = Literal["succeed", "skip"]
OnAmbiguousStart = Literal["fail", "adopt", "start"]
OnAmbiguousSession = Literal["fail", "start"]
OnLostSession = Literal["fail", "start"]
OnReady = Literal["finish", "fail", "cancel"]
RetryMode = Literal["restart_or_new", "restart", "new"]
CreditLimitPeriod = Literal["dag_run", "day", "month"]
RunEnding = Literal["succeeded", "any"]
FileFormat = Literal["parquet"]
FileKind = Literal["delivered", "extracted", "logs", "screenshots"]

T = TypeVar("T")
D = TypeVar("D")

LARGEST_ID = 2**63 - 1

_FINE_TIMES = ("datetime64[ns]", "timedelta64[ns]")

_MAX_DIGITS = 400
"""No float has more digits before its decimal point."""

LAST_YEAR = 3000
"""Times from this year on, or before 1970, are mistakes, and arithmetic with them may overflow."""

_NO_DELIMITERS = frozenset('"\r\n\0')
_SURROGATES = range(0xD800, 0xE000)

MAX_DURATION = timedelta(days=3660)
"""Longer durations are mistakes, and could not be added to a date."""


def is_unset(value: object) -> bool:
    """Return whether a parameter was left unset."""
    return value is None or (isinstance(value, str) and not value.strip())


def check_one_agent(agent_id: object, agent_name: object) -> None:
    """Check that one of the two parameters is set.

    :raises ValueError: none or both of them are. The message has no full stop.
    """
    if is_unset(agent_id) != is_unset(agent_name):
        return
    found = "neither has a value (the task or template that it comes from may have returned None)"
    raise ValueError(f"Give either agent_id or agent_name: {found if is_unset(agent_id) else 'both have a value'}")


def parse_named(name: str, parse: Callable[[Any], T], value: object) -> T:
    """Return the parsed value of a parameter.

    :raises ValueError: the value is invalid; the message starts with ``name`` and has no full stop.
    """
    try:
        return parse(value)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None


def optional(parse: Callable[[Any], T], default: D) -> Callable[[Any], T | D]:
    """Return a ``parse_`` function that returns the default if the parameter is unset."""
    return lambda value: default if is_unset(value) else parse(value)


def parse_id(value: object) -> int:
    """Return an id given as an int or a string of digits."""
    number = _whole_number(value)
    if number is None or not 0 < number <= LARGEST_ID:
        raise ValueError(f"must be a positive whole number, not {shown(value)}")
    return number


def parse_version(value: object) -> int | Literal["pinned"]:
    """Return the number of an agent's version, or ``pinned``."""
    if value == "pinned":
        return "pinned"
    try:
        return parse_id(value)
    except ValueError:
        raise ValueError(f"must be a positive whole number or 'pinned', not {shown(value)}") from None


def parse_count(value: object) -> int:
    """Return a whole number of 0 or more."""
    number = _whole_number(value)
    if number is None or not 0 <= number <= LARGEST_ID:
        raise ValueError(f"must be a whole number of 0 or more, not {shown(value)}")
    return number


def parse_amount(value: object) -> float:
    """Return a number of 0 or more, such as an amount of credits."""
    number = _number(value)
    if number is None or number < 0:
        raise ValueError(f"must be a number of 0 or more, not {shown(value)}")
    return number


def parse_seconds(value: object) -> float:
    """Return a duration in seconds, given as a number of 0 or more or as a ``timedelta``."""
    number = value.total_seconds() if isinstance(value, timedelta) else _number(value)
    if number is None or not 0 <= number <= MAX_DURATION.total_seconds():
        raise ValueError(
            f"must be a number of seconds or a timedelta, from 0 to {MAX_DURATION.days} days, not {shown(value)}"
        )
    return number


def parse_time(value: object) -> datetime:
    """Return a point in time given as an aware ``datetime`` or as ISO 8601 text with an offset."""
    try:
        moment = datetime.fromisoformat(value.strip()) if isinstance(value, str) else value
    except ValueError:
        moment = None
    if not isinstance(moment, datetime) or moment.tzinfo is None or not 1970 <= moment.year < LAST_YEAR:
        raise ValueError(f"must be a time with an offset, such as 2026-01-31T06:00:00+00:00, not {shown(value)}")
    return moment


def parse_flag(value: object) -> bool:
    """Return a bool given as a bool, or as the text that a template renders it to."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    raise ValueError(f"must be True or False, not {shown(value)}")


def parse_texts(value: object) -> list[str]:
    """Return a list of strings given as one string or as several."""
    texts = [value] if isinstance(value, str) and not is_unset(value) else value
    if isinstance(texts, str) or not isinstance(texts, Sequence) or not texts or not all(map(_is_filled, texts)):
        raise ValueError(f"must be a string or a list of at least one, not {shown(value)}")
    return list(texts)


def _is_filled(value: object) -> bool:
    return isinstance(value, str) and value != ""


def parse_text(value: object) -> str:
    """Return a string."""
    if isinstance(value, str):
        _check_can_be_stored(value)
        return value
    raise ValueError(f"must be a string, not {shown(value)}")


def parse_encoding(value: object) -> str:
    """Return the name of an encoding that Python knows."""
    encoding = parse_text(value)
    try:
        "".encode(encoding)
    except (LookupError, UnicodeError):
        raise ValueError(f"must be the name of an encoding, such as 'utf-8', not {shown(value)}") from None
    return encoding


def parse_delimiter(value: object) -> str:
    """Return the delimiter of CSV files. White space, such as a tab, does not mean unset."""
    if not isinstance(value, str) or len(value) != 1 or value in _NO_DELIMITERS or ord(value) in _SURROGATES:
        raise ValueError(f"must be one character, no quote and no line break, not {shown(value)}")
    return value


def parse_messages(value: object) -> tuple[str, ...]:
    """Return messages given as a list (including the lazy list of mapped tasks) or as one string."""
    try:
        messages = [value] if isinstance(value, str) else plain(value)
    except TypeError:
        messages = None
    if not isinstance(messages, list) or not all(isinstance(message, str) for message in messages):
        raise ValueError(f"must be a list of strings or one string, not {shown(value)}")
    for number, message in enumerate(messages, 1):
        if is_unset(message):
            raise ValueError(f"must hold no empty message: number {number} of {len(messages)} is empty")
        _check_can_be_stored(message)
    return tuple(messages)


def parse_choice(value: object, names: Collection[str]) -> str:
    """Return ``value`` if it is one of these."""
    if isinstance(value, str) and value in names:
        return value
    one_of = "one of " if len(names) > 1 else ""
    raise ValueError(f"must be {one_of}{', '.join(map(repr, names))}, not {shown(value)}")


def parse_json_object(value: object) -> str:
    """Return a mapping, or a string with a JSON object, as the JSON text that the API takes."""
    try:
        parsed = json.loads(value) if isinstance(value, str) else value
        if isinstance(parsed, Mapping):
            return json.dumps(plain(parsed), sort_keys=True, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        if value == "None":
            raise ValueError(f"must be a JSON object, not {shown(value)}") from None
        is_python = isinstance(value, str) and value.lstrip().startswith("{'")
        hint = "; it looks like a dict that a template rendered without '| tojson'" if is_python else ""
        raise ValueError(f"must be a JSON object: {error}{hint}") from None
    raise ValueError(f"must be a JSON object, not {shown(value)}")


def _check_can_be_stored(text: str) -> None:
    """Reject text that neither a request nor Airflow's database accepts, before anything is started."""
    if "\0" in text or (not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)):
        raise ValueError(f"must have no NUL character and no half of a surrogate pair, as in {shown(text)}")


def plain(value: Any) -> Any:
    """Return a value, such as the result of native rendering, in JSON types.

    Times become ISO 8601 text, durations become seconds, decimals become numbers, and sets and other sequences
    (including the lazy ones of mapped tasks) become lists. Numbers and arrays of NumPy and pandas become Python's.

    :raises TypeError: the value cannot be represented in JSON.
    :raises ValueError: a text in it could not be stored, or two keys of a mapping are equal in JSON.
    """
    if isinstance(value, str) and not isinstance(value, Enum):
        _check_can_be_stored(value)
        return value
    for kinds, form in _FORMS:
        if isinstance(value, kinds):
            return form(value)
    if value is None or type(value).__name__ == "NAType":  # pandas' missing value
        return None
    if isinstance(value, (bool, int, float)):
        return value
    if type(value).__module__ == "numpy" and value.dtype.name in _FINE_TIMES:
        # Python has no nanoseconds, so NumPy would convert such times to plain numbers.
        value = value.astype(value.dtype.name.replace("ns", "us"))
    if callable(as_list := getattr(value, "tolist", None)):
        return plain(as_list())
    is_sequence = isinstance(value, Iterable) or callable(getattr(value, "__getitem__", None))
    if is_sequence and not isinstance(value, (bytes, bytearray)):
        return [plain(item) for item in value]
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _object(value: Mapping[Any, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, item in value.items():
        name = plain(key)
        name = name if isinstance(name, str) else str(name)
        if name in found:
            raise ValueError(f"two keys are {shown(name)} in JSON")
        found[name] = plain(item)
    return found


_FORMS: tuple[tuple[type | tuple[type, ...], Callable[[Any], Any]], ...] = (
    (Enum, lambda value: plain(value.value)),  # before int and str, which it may be as well
    (Decimal, lambda value: int(value) if _is_whole(value) else float(value)),
    ((date, time), lambda value: value.isoformat() if value == value else None),  # noqa: PLR0124 - pandas' NaT is none
    (timedelta, timedelta.total_seconds),
    (UUID, str),
    (Mapping, _object),
    (AbstractSet, lambda value: sorted((plain(item) for item in value), key=repr)),
)


def shown(value: object) -> str:
    """Return a value for an error message, shortened if it is long."""
    if value == "None":
        return "'None', the text of a template whose value is None"
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, a list in a list in a list
        return f"this {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _whole_number(value: object) -> int | None:
    if isinstance(value, str):
        text = value.strip()
        return int(text) if text.isascii() and text.isdecimal() and len(text) <= 20 else None
    if isinstance(value, bool):
        return None
    if isinstance(value, Decimal):
        return int(value) if _is_whole(value) else None
    try:
        return operator.index(value)  # type: ignore[arg-type]  # whatever stands for a whole number, NumPy's too
    except TypeError:
        return None


def _is_whole(value: Decimal) -> bool:
    """Return whether a decimal is a whole number, of a size that does not take minutes to write out."""
    return value.is_finite() and value.adjusted() < _MAX_DIGITS and value == value.to_integral_value()


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (Real, str, Decimal)):
        return _whole_number(value)
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
