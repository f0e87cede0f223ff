"""Records as Arrow batches and as a data frame.

Batches are built from the records that the record reader yields, in two passes: the first one determines the type of
each column over the whole file, the second one fills the batches. So all batches of a file have the same schema, and no
value is lost:

* A column of integers within 64 bits is ``int64``. If some values have fractions, it is ``double``, provided that a
  double represents each integer exactly. Booleans, dates, times and lists have types as well, and so have objects,
  whose fields are those of all records.
* Any other column, such as one with numbers and words, is text: each value as it is written in the file or, if the file
  has no text for it, as Python and JSON write it.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_sequentum.records.columns import CELLS, LARGE_INTEGER, arrow_type, mantissas
from airflow_provider_sequentum.records.formats import RecordsUnreadable, library

Records = Iterator[dict[str, Any]]

MAX_COLUMNS = 100_000
"""The maximum number of different keys in the records of a file, or in the objects in one of their fields."""

_ROWS = 10_000
_BATCH_WEIGHT = 16 * 1024 * 1024
_VALUE_WEIGHT = 16
_EXACT_IN_DOUBLE = 2**53


def batches_of(read: Callable[[], Records], name: str, *, is_text: bool) -> Iterator[Any]:
    """Yield records as ``pyarrow.RecordBatch``.

    :param read: reads the records from the start each time it is called.
    :param name: the name of the file, for error messages.
    :param is_text: whether all values are text whose types have to be inferred, as in a CSV file.
    :raises RecordsUnreadable: ``read`` raises it, or the records have more than :data:`MAX_COLUMNS` different keys.
    """
    arrow = library("pyarrow", "arrow", "Reading into Arrow")
    columns = _observed(read(), name, is_text=is_text)
    schema = columns.schema()
    try:
        for chunk in chunks(read(), columns=len(schema)):
            yield _batch(arrow, schema, [columns.array(column, chunk) for column in schema.names], len(chunk))
    except (arrow.ArrowException, OverflowError) as error:
        raise RecordsUnreadable(f"{name!r} cannot be read into Arrow: {error}.") from error


def column_types(records: Records, name: str, *, is_text: bool) -> dict[str, str | None]:
    """Return the type of each column of flat records, in the form that :func:`~.columns.choose_types` takes.

    The parameters are those of :func:`batches_of`.
    """
    return _observed(records, name, is_text=is_text).types()


def _observed(records: Records, name: str, *, is_text: bool) -> _CellTypes | _ValueTypes:
    arrow = library("pyarrow", "arrow", "Reading into Arrow")
    columns = _CellTypes(arrow) if is_text else _ValueTypes(arrow, name)
    for chunk in chunks(records, columns=0):
        columns.observe(chunk)
    return columns


def text_batches(rows: Iterator[list[str]]) -> Iterator[Any]:
    """Yield the rows of a CSV file, whose first row has the column names, as ``pyarrow.RecordBatch`` of text."""
    arrow = library("pyarrow", "arrow", "Reading into Arrow")
    names = next(rows)

    def batch() -> Any:
        columns = (cells[place :: len(names)] for place in range(len(names)))
        return arrow.RecordBatch.from_arrays([arrow.array(column, arrow.string()) for column in columns], names)

    # All cells are in one list. With a list for each row, the garbage collector would scan them again and again.
    cells: list[str] = []
    weight = 0
    for row in rows:
        cells += row
        weight += sum(map(len, row))
        if len(cells) >= _ROWS * len(names) or weight + len(cells) * _VALUE_WEIGHT > _BATCH_WEIGHT:
            yield batch()
            cells, weight = [], 0
    if cells:
        yield batch()


def frame_of(batches: Iterable[Any]) -> Any:
    """Return batches as one ``pandas.DataFrame``, in which a column has one type, although schemas of files may differ.

    Where a file has no values in a column, the values are missing. If the types of files have nothing in common, such
    as those of numbers and words, the column is text. A column of integers with missing values gets a nullable integer
    type of pandas, because floats would round large integers. Lists and objects are the same as in records.
    """
    pandas = library("pandas", "pandas", "A data frame")
    arrow = library("pyarrow", "pandas", "A data frame")
    batches = list(batches)
    names = dict.fromkeys(column for batch in batches for column in batch.schema.names)
    if any(batch.schema != batches[0].schema for batch in batches):
        for column in names:
            batches = _with_one_type(arrow, batches, column)
    gaps = {
        column
        for column in names
        if any(column not in batch.schema.names or batch.column(column).null_count for batch in batches)
    }

    def series(column: str, values: Any) -> Any:
        kind = values.type
        if arrow.types.is_nested(kind):
            return pandas.Series(values.to_pylist(), dtype=object)
        if arrow.types.is_integer(kind) and column in gaps:
            nullable = str(kind).replace("int", "Int").replace("u", "U")
            return values.to_pandas(types_mapper={kind: pandas.api.types.pandas_dtype(nullable)}.get)
        return values.to_pandas()

    frames = [
        pandas.DataFrame(
            {column: series(column, batch.column(column)) for column in batch.schema.names},
            index=range(batch.num_rows),
        )
        for batch in batches
    ]
    return pandas.concat(frames, ignore_index=True) if frames else pandas.DataFrame()


def _with_one_type(arrow: Any, batches: list[Any], column: str) -> list[Any]:
    """Return batches in which a column has the same type wherever it exists."""
    found = [batch.column(column) for batch in batches if column in batch.schema.names]
    if len({values.type for values in found}) == 1:
        return batches
    filled = [values for values in found if _has_values(arrow, values)] or found[:1]
    schemas = [arrow.schema([(column, values.type)]) for values in filled]
    try:
        kind = arrow.unify_schemas(schemas, promote_options="permissive").field(0).type
        cast = [values.cast(kind) if _has_values(arrow, values) else arrow.nulls(len(values), kind) for values in found]
    except (arrow.ArrowInvalid, arrow.ArrowTypeError):  # nothing in common, or integers that a double would round
        texts = ([None if value is None else as_text(value) for value in values.to_pylist()] for values in found)
        cast = [arrow.array(values, arrow.string()) for values in texts]
    following = iter(cast)
    return [
        batch.set_column(batch.schema.names.index(column), column, next(following))
        if column in batch.schema.names
        else batch
        for batch in batches
    ]


def _has_values(arrow: Any, values: Any) -> bool:
    if arrow.types.is_string(values.type):
        return any(values.to_pylist())
    return bool(values.null_count < len(values))


def _batch(arrow: Any, schema: Any, arrays: list[Any], rows: int) -> Any:
    if not arrays:  # records without keys have nothing but their number
        return arrow.RecordBatch.from_struct_array(arrow.array([{}] * rows, type=arrow.struct([])))
    return arrow.RecordBatch.from_arrays(arrays, schema=schema)


def chunks(records: Records, columns: int) -> Iterator[list[dict[str, Any]]]:
    """Yield records in lists of bounded size, whatever the size of a record."""
    chunk: list[dict[str, Any]] = []
    weight = 0
    for record in records:
        chunk.append(record)
        weight += max(_weight(record), columns * _VALUE_WEIGHT)
        if len(chunk) == _ROWS or weight > _BATCH_WEIGHT:
            yield chunk
            chunk, weight = [], 0
    if chunk:
        yield chunk


def _weight(value: Any) -> int:
    if isinstance(value, str):
        return len(value) + _VALUE_WEIGHT
    if isinstance(value, dict):
        return sum(map(_weight, value.values())) + _VALUE_WEIGHT
    if isinstance(value, list):
        return sum(map(_weight, value)) + _VALUE_WEIGHT
    return _VALUE_WEIGHT


class _CellTypes:
    """The types of the columns of a CSV file. An empty cell is an empty string in a text column, otherwise missing."""

    def __init__(self, arrow: Any) -> None:
        self._arrow = arrow
        self._compute = library("pyarrow.compute", "arrow", "Reading into Arrow")
        self._kinds = [(pattern, arrow_type(name)) for name, pattern in CELLS.items()]
        self._possible: dict[str, list[tuple[str, Any]]] = {}
        self._has_values: set[str] = set()

    def observe(self, chunk: list[dict[str, Any]]) -> None:
        for column in chunk[0]:
            possible = self._possible.setdefault(column, list(self._kinds))
            if possible:
                cells = self._without_empty(self._text(column, chunk))
                if cells.null_count < len(cells):
                    self._has_values.add(column)
                possible[:] = [kind for kind in possible if self._fits(cells, *kind)]

    def schema(self) -> Any:
        return self._arrow.schema([(column, self._type(column)) for column in self._possible])

    def types(self) -> dict[str, str | None]:
        return {column: self._name(column) for column in self._possible}

    def array(self, column: str, chunk: list[dict[str, Any]]) -> Any:
        cells, kind = self._text(column, chunk), self._type(column)
        return cells if kind == self._arrow.string() else self._without_empty(cells).cast(kind)

    def _type(self, column: str) -> Any:
        possible = self._possible[column]
        return possible[0][1] if possible and column in self._has_values else self._arrow.string()

    def _name(self, column: str) -> str | None:
        possible = [kind for _, kind in self._possible[column]]
        if column not in self._has_values or not possible:
            return "string" if column in self._has_values else None
        if possible[0] == self._arrow.int64() and self._arrow.float64() not in possible:
            return LARGE_INTEGER
        return next(name for name in CELLS if arrow_type(name) == possible[0])

    def _text(self, column: str, chunk: list[dict[str, Any]]) -> Any:
        return self._arrow.array([record[column] for record in chunk], type=self._arrow.string())

    def _without_empty(self, cells: Any) -> Any:
        return self._compute.if_else(self._compute.equal(cells, ""), None, cells)

    def _fits(self, cells: Any, pattern: str, kind: Any) -> bool:
        compute = self._compute
        if compute.all(compute.match_substring_regex(cells, pattern)).as_py() is False:
            return False
        if kind == self._arrow.float64():
            return compute.all(compute.less_equal(compute.utf8_length(mantissas(cells)), 15)).as_py() is not False
        try:
            cells.cast(kind)
        except self._arrow.ArrowInvalid:  # for example, February 31
            return False
        return True


@dataclass
class _Kind:
    """The type that all values in one place of the records have in common.

    :param name: the name of an Arrow type, or ``list``, ``object`` or ``large int64`` (not all integers are exact in
        a double); ``null`` as long as there is no value, and ``mixed`` if the values have no type in common.
    :param items: the common type of the items of lists.
    :param fields: the common types of the fields of objects.
    """

    name: str = "null"
    items: _Kind | None = None
    fields: dict[str, _Kind] = field(default_factory=dict)

    def observe(self, value: Any) -> None:
        if value is None or self.name == "mixed":
            return
        name = _kind_of(value)
        if name != self.name:
            self.name = name if self.name == "null" else _COMMON.get(frozenset((name, self.name)), "mixed")
        if name == "list":
            self.items = self.items or _Kind()
            for item in value:
                self.items.observe(item)
        elif name == "object":
            for key, inner in value.items():
                self.fields.setdefault(key, _Kind()).observe(inner)
            if len(self.fields) > MAX_COLUMNS:
                self.name = "mixed"

    def has_mixed(self) -> bool:
        """Return whether values have to be converted before Arrow accepts them."""
        inner = [self.items] if self.items else self.fields.values()
        return self.name == "mixed" or any(kind.has_mixed() for kind in inner)

    def arrow_type(self, arrow: Any) -> Any:
        if self.name == "list":
            return arrow.list_((self.items or _Kind()).arrow_type(arrow))
        if self.name == "object":
            return arrow.struct([(key, kind.arrow_type(arrow)) for key, kind in self.fields.items()])
        return arrow.type_for_alias({"mixed": "string", "large int64": "int64"}.get(self.name, self.name))

    def convert(self, value: Any) -> Any:
        """Return a value in which everything of mixed types is converted to text."""
        if value is None:
            return None
        if self.name == "mixed":
            return as_text(value)
        if self.name == "list" and self.items:
            return [self.items.convert(item) for item in value]
        if self.name == "object":
            return {key: self.fields[key].convert(inner) for key, inner in value.items()}
        return value


_COMMON = {frozenset(("int64", "large int64")): "large int64", frozenset(("int64", "double")): "double"}
_KINDS = {
    bool: "bool",
    float: "double",
    str: "string",
    list: "list",
    dict: "object",
    dt.datetime: "timestamp[us]",
    dt.time: "time64[us]",
    dt.timedelta: "duration[us]",
}

_TYPES: dict[str, str | None] = {
    "null": None,
    "bool": "boolean",
    "int64": "integer",
    "large int64": LARGE_INTEGER,
    "double": "number",
    "timestamp[us]": "timestamp",
    "time64[us]": "time",
}


def _kind_of(value: Any) -> str:
    if type(value) is int:
        if abs(value) <= _EXACT_IN_DOUBLE:
            return "int64"
        return "large int64" if -(2**63) <= value < 2**63 else "mixed"
    return _KINDS.get(type(value), "mixed")


def as_text(value: Any) -> str:
    """Return a value as Python and JSON write it."""
    if isinstance(value, str):
        return value
    if isinstance(value, (dict, list, bool, float)):
        return json.dumps(value, ensure_ascii=False)
    try:
        return str(value)
    except ValueError:
        return hex(value)


class _ValueTypes:
    """The types of the columns of records with typed values. If a record lacks a key, the value is missing."""

    def __init__(self, arrow: Any, name: str) -> None:
        self._arrow = arrow
        self._name = name
        self._columns: dict[str, _Kind] = {}

    def observe(self, chunk: list[dict[str, Any]]) -> None:
        for record in chunk:
            for column, value in record.items():
                kind = self._columns.get(column)
                if kind is None:
                    kind = self._columns[column] = _Kind()
                kind.observe(value)
            if len(self._columns) > MAX_COLUMNS:
                raise RecordsUnreadable(
                    f"{self._name!r} has records with more than {MAX_COLUMNS:,} different keys: too many for columns. "
                    "Read it record by record."
                )

    def schema(self) -> Any:
        return self._arrow.schema([(column, kind.arrow_type(self._arrow)) for column, kind in self._columns.items()])

    def types(self) -> dict[str, str | None]:
        return {column: _TYPES.get(kind.name, "string") for column, kind in self._columns.items()}

    def array(self, column: str, chunk: list[dict[str, Any]]) -> Any:
        kind = self._columns[column]
        values = [record.get(column) for record in chunk]
        if kind.has_mixed():
            values = [kind.convert(value) for value in values]
        return self._arrow.array(values, type=kind.arrow_type(self._arrow))
