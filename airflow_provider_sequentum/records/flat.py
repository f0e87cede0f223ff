"""Records with flat columns: numbers, booleans, dates and times, text or binary values, but no lists or objects.

Flat columns can be compared in tables and loaded into databases, and they keep their types from run to run, whereas the
type of an object would change with every new field. Lists and objects become JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from airflow_provider_sequentum.records.formats import library


def flat_records(records: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield records in which lists and objects are replaced by JSON text.

    The same value always has the same text, whatever the other records of the file contain: keys are sorted, and keys
    without a value are omitted, because a column of objects has every key that any of the objects has.
    """
    for record in records:
        yield {key: _json(value) if isinstance(value, (list, dict)) else value for key, value in record.items()}


def flat_batch(batch: Any) -> Any:
    """Return a ``pyarrow.RecordBatch`` with the same columns, flat as in :func:`flat_records`."""
    arrow = library("pyarrow", "arrow", "Reading into Arrow")
    columns = [_flat(column, arrow) for column in batch.columns]
    if not columns:
        return batch
    return arrow.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _flat(column: Any, arrow: Any) -> Any:
    types = arrow.types
    if types.is_dictionary(column.type):
        return _flat(column.dictionary_decode(), arrow)
    if types.is_time(column.type):
        return column.cast(arrow.time64("us"))
    if types.is_float16(column.type):
        return column.cast(arrow.float32())
    if types.is_large_binary(column.type) or types.is_fixed_size_binary(column.type):
        return column.cast(arrow.binary())
    kept = (
        types.is_boolean,
        types.is_integer,
        types.is_floating,
        types.is_decimal128,
        types.is_date,
        types.is_timestamp,
        types.is_binary,
        types.is_string,
    )
    if any(is_kind(column.type) for is_kind in kept):
        return column
    return arrow.array([_as_text(value) for value in column.to_pylist()], type=arrow.string())


def _as_text(value: Any) -> str | None:
    if isinstance(value, (list, dict)):
        return _json(value)
    return value if value is None or isinstance(value, str) else str(value)


def _json(value: Any) -> str:
    return json.dumps(_with_values(value), ensure_ascii=False, sort_keys=True, default=str)


def _with_values(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_values(inner) for key, inner in value.items() if inner is not None}
    return [_with_values(inner) for inner in value] if isinstance(value, list) else value
