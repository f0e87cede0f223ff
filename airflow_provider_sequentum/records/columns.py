"""The types of the columns of a table, how they are chosen, and which values are valid for them.

Readers of the table rely on a type. So it is chosen once, and :func:`typed_array` refuses a value that is not valid for
it, instead of rounding, truncating or omitting the value.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import Any

from airflow_provider_sequentum.records.formats import library

LARGE_INTEGER = "large integer"
"""The type in :func:`choose_types` of integers that are not all exact in a ``number``."""

_DATE = r"[1-9]\d{3}-\d\d-\d\d"
_TIME = r"\d\d:\d\d:\d\d(\.\d{1,6})?"
CELLS: Mapping[str, str] = {
    "integer": r"^(0|-?[1-9]\d{0,18})$",
    # A double represents 15 digits exactly. The bounds prevent overflow and rounding to zero.
    "number": r"^-?(0|[1-9]\d{0,14})(\.\d{1,30})?([eE][+-]?\d{1,2})?$",
    "boolean": r"^(true|false|True|False|TRUE|FALSE)$",
    "date": rf"^{_DATE}$",
    "timestamp": rf"^{_DATE}[ T]{_TIME}$",
    "timestamptz": rf"^{_DATE}[ T]{_TIME}Z$",
}
"""The patterns of CSV cells that convert to a type without loss of information. The first type that matches is used."""

DIGITS_OF_MANTISSA = r"^-?0*\.?0*|\.|[eE].*$"

_PLAIN_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?")
_ANY_NUMBER = re.compile(r"-?(0|[1-9]\d{0,308})(\.\d{1,400})?([eE][+-]?\d{1,3})?")
_ARROW = {
    "string": "string",
    "integer": "int64",
    "number": "double",
    "boolean": "bool",
    "date": "date32",
    "time": "time64[us]",
    "timestamp": "timestamp[us]",
    "binary": "binary",
}
_DECIMAL = re.compile(r"decimal\(\s*(\d{1,2})\s*,\s*(\d{1,2})\s*\)")
_EXACT = Context(prec=100, traps=[Inexact, InvalidOperation])
_EXACT_IN_DOUBLE = 2**53
_PURPOSE = "Columns with types"


class Misfit(ValueError):
    """A value that is not valid for the type of its column.

    :param place: the index of the value in the column, from 0.
    """

    def __init__(self, place: int, value: object) -> None:
        super().__init__(f"{value!r:.100}")
        self.place = place


def parse_type(name: object) -> str:
    """Return the normalized name of a column type.

    :raises ValueError: there is no such type. The message is a predicate, to follow the name of the parameter.
    """
    text = name.strip().lower() if isinstance(name, str) else ""
    if text in _ARROW or text == "timestamptz":
        return text
    if found := _DECIMAL.fullmatch(text):
        precision, scale = map(int, found.groups())
        if 0 < precision <= 38 and scale <= precision:
            return f"decimal({precision},{scale})"
    raise ValueError(
        f"must be one of {', '.join([*_ARROW, 'timestamptz'])} or decimal(precision,scale) with at most 38 digits, not "
        f"{name!r:.80}"
    )


def arrow_type(name: str) -> Any:
    """Return the Arrow type for the name of a column type."""
    arrow = library("pyarrow", "arrow", _PURPOSE)
    if name == "timestamptz":
        return arrow.timestamp("us", "UTC")
    if found := _DECIMAL.fullmatch(name):
        return arrow.decimal128(*map(int, found.groups()))
    return arrow.type_for_alias(_ARROW[name])


def type_of_parquet(kind: Any) -> str | None:
    """Return the type for the values of a Parquet column; ``None`` if the column cannot have values."""
    types = library("pyarrow", "arrow", _PURPOSE).types
    if types.is_decimal128(kind) and 0 <= kind.scale <= kind.precision:
        return f"decimal({kind.precision},{kind.scale})"
    for is_kind, name in (
        (types.is_null, None),
        (types.is_uint64, "decimal(20,0)"),
        (types.is_int64, LARGE_INTEGER),
        (types.is_integer, "integer"),
        (types.is_floating, "number"),
        (types.is_boolean, "boolean"),
        (types.is_date, "date"),
        (types.is_time, "time"),
        (types.is_binary, "binary"),
        (types.is_large_binary, "binary"),
        (types.is_fixed_size_binary, "binary"),
    ):
        if is_kind(kind):
            return name
    if types.is_timestamp(kind):
        return "timestamp" if kind.tz is None else "timestamptz"
    return "string"


def choose_types(
    found: Iterable[Mapping[str, str | None]], declared: Mapping[str, str], remembered: Mapping[str, str]
) -> dict[str, str]:
    """Return the type of each column of files that belong to one table.

    A declared type takes precedence, then the type that the table had before. A new column has the type for which all
    of its values in all files are valid, or else ``string``. A column without values is a ``string``.

    :param found: for each file, the types of its values by column; ``None`` for a column without values.
    """
    chosen: dict[str, str | None] = {}
    for columns in found:
        for column, kind in columns.items():
            chosen[column] = kind if column not in chosen else _common(chosen[column], kind)
    values = {column: "integer" if kind == LARGE_INTEGER else kind or "string" for column, kind in chosen.items()}
    return {column: declared.get(column) or remembered.get(column) or kind for column, kind in values.items()}


def _common(one: str | None, other: str | None) -> str | None:
    if one == other or other is None:
        return one
    if one is None:
        return other
    both = {one, other}
    if both == {"integer", LARGE_INTEGER}:
        return LARGE_INTEGER
    return "number" if both == {"integer", "number"} else "string"


def typed_array(values: Sequence[Any], name: str, as_text: Callable[[Any], str]) -> Any:
    """Return the values of a column as an Arrow array.

    Text is parsed: ``7`` is an ``integer``, but ``007`` and ``7 EUR`` are not. In a column that is not text, an empty
    string is a missing value.

    :param values: the values that the record reader yields, without lists and objects.
    :param name: the type of the column.
    :param as_text: converts a value that is not text for a text column.
    :raises Misfit: a value is not valid for the type, so that it would be lost or changed.
    """
    arrow = library("pyarrow", "arrow", _PURPOSE)
    kind = arrow_type(name)
    if name == "string":
        texts = [value if value is None or type(value) is str else as_text(value) for value in values]
        return arrow.array(texts, kind)
    values = [None if value == "" and type(value) is str else value for value in values]
    is_decimal = name.startswith("decimal")  # with too many digits, Arrow silently reads another decimal
    cells = [value if type(value) is str and not is_decimal else None for value in values]
    others = [
        None if cell is not None else _held(place, value, name)
        for place, (value, cell) in enumerate(zip(values, cells, strict=True))
    ]
    if all(cell is None for cell in cells):
        return arrow.array(others, kind)
    parsed = _parsed(arrow, cells, name, kind)
    if all(value is None for value in others):
        return parsed
    return library("pyarrow.compute", "arrow", _PURPOSE).coalesce(parsed, arrow.array(others, kind))


def _held(place: int, value: Any, name: str) -> Any:
    """Convert a value that is not text to one that Arrow accepts for the type."""
    if value is None:
        return None
    held: Any = None
    if name == "integer":
        held = _integer(value)
    elif name == "number":
        held = _number(value)
    elif name == "date":
        held = _date(value)
    elif name in ("timestamp", "timestamptz"):
        held = _moment(value, has_zone=name == "timestamptz")
    elif name.startswith("decimal"):
        held = _decimal(value, name)
    elif isinstance(value, {"boolean": bool, "time": dt.time, "binary": bytes}[name]):
        held = value
    if held is None:
        raise Misfit(place, value)
    return held


def _integer(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        return None
    if isinstance(value, float) and not (value.is_integer() and abs(value) <= _EXACT_IN_DOUBLE):
        return None
    if isinstance(value, Decimal) and not (value.is_finite() and value == value.to_integral_value()):
        return None
    return int(value) if -(2**63) <= value < 2**63 else None


def _number(value: Any) -> float | None:
    if isinstance(value, float):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, Decimal)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    is_exact = number == value if isinstance(value, int) else Decimal(repr(number)) == value
    return number if is_exact else None


def _decimal(value: Any, name: str) -> Decimal | None:
    kind = arrow_type(name)
    if isinstance(value, str):
        number = Decimal(value) if _PLAIN_NUMBER.fullmatch(value) else Decimal("nan")
    elif isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        return None
    else:
        number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if not number.is_finite() or (number and number.adjusted() >= kind.precision - kind.scale):
        return None
    try:
        return number.quantize(Decimal((0, (1,), -kind.scale)), context=_EXACT)
    except Inexact:
        return None


def _date(value: Any) -> dt.date | None:
    if isinstance(value, dt.datetime):  # how a workbook stores a date
        return value.date() if value.tzinfo is None and value.time() == dt.time() else None
    return value if isinstance(value, dt.date) else None


def _moment(value: Any, *, has_zone: bool) -> dt.datetime | None:
    if not isinstance(value, dt.datetime) or (value.tzinfo is not None) != has_zone:
        return None
    # Timestamps of pandas have nanoseconds, which the column would drop.
    return value if getattr(value, "nanosecond", 0) == 0 else None


def _parsed(arrow: Any, cells: Sequence[str | None], name: str, kind: Any) -> Any:
    compute = library("pyarrow.compute", "arrow", _PURPOSE)
    texts = arrow.array(cells, arrow.string())
    is_plain = compute.match_substring_regex(texts, CELLS.get(name, "$^"))
    if name == "number":
        is_short = compute.less_equal(compute.utf8_length(mantissas(texts)), 15)
        is_plain = compute.and_(is_plain, is_short)
        for place, plain in enumerate(is_plain.to_pylist()):
            if plain is False and not _is_exact(cells[place]):
                raise Misfit(place, cells[place])
    elif compute.all(is_plain).as_py() is False:
        place = is_plain.to_pylist().index(False)
        raise Misfit(place, cells[place])
    try:
        return texts.cast(kind)
    except arrow.ArrowInvalid:  # for example, February 31
        raise _first_misfit(arrow, texts, kind) from None


def mantissas(texts: Any) -> Any:
    """Return the significant digits of numbers."""
    compute = library("pyarrow.compute", "arrow", _PURPOSE)
    return compute.replace_substring_regex(texts, DIGITS_OF_MANTISSA, "")


def _is_exact(cell: str | None) -> bool:
    """Whether a double keeps all digits of a cell, as for 0.30000000000000004, but not for an id of twenty digits."""
    if cell is None or not _ANY_NUMBER.fullmatch(cell):
        return False
    number = float(cell)
    return abs(number) != float("inf") and Decimal(repr(number)) == Decimal(cell)


def _first_misfit(arrow: Any, texts: Any, kind: Any) -> Misfit:
    for place in range(len(texts)):
        try:
            texts.slice(place, 1).cast(kind)
        except arrow.ArrowInvalid:
            return Misfit(place, texts[place].as_py())
    raise AssertionError("each value can be cast, but not all of them")
