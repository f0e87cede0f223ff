"""Finding the records that were added, changed and removed between two runs, by a key.

Records are compared by their meaning. No value and an empty string are equal, and a number is the same however it is
written (``9.5`` and ``9.50``, as text or as a number). So a column that only one of the runs has, or that has different
types, causes a change only where values differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from airflow_provider_sequentum.exceptions import RunRecordsNotComparable
from airflow_provider_sequentum.parameters import shown
from airflow_provider_sequentum.quality.engine import ROW, TEXT, Column, Table, Workspace, text_of
from airflow_provider_sequentum.runs.describe import comma_list

_NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?$"
"""How a number is written. A code such as ``007`` is not a number."""

_DIGITS_OF_DOUBLE = 15
"""Two numbers with at most so many digits are equal if their doubles are, unless these are next to zero."""

_NEXT_TO_ZERO = 1e-290
_MAX_IN_A_ROW = 100
_SHOWN = 3


def not_comparable(reason: str) -> RunRecordsNotComparable:
    """Return the exception for records that cannot be compared. It is not retried."""
    return RunRecordsNotComparable(f"The records cannot be compared: {reason}. Nothing was published.")


@dataclass(frozen=True, slots=True)
class Changes:
    """The result of :meth:`Comparison.compare`.

    :param changed_columns: in how many of the changed records each column differs, if it does in any.
    """

    added: int
    changed: int
    removed: int
    unchanged: int
    changed_columns: dict[str, int]

    @property
    def is_empty(self) -> bool:
        """Whether the records are the same."""
        return not (self.added or self.changed or self.removed)


@dataclass(frozen=True)
class Comparison:
    """Two tables in a workspace that are compared by a key.

    :param previous: ``None`` if there is nothing to compare with, so that all records are new.
    :param key: the columns that identify a record.
    :param ignored: columns that are not compared, such as the time of the extraction.
    """

    workspace: Workspace
    current: Table
    previous: Table | None
    key: Sequence[str]
    ignored: Sequence[str] = ()

    def check_key(self, table: Table, which: str) -> None:
        """Check that the key is unique in a table.

        :param which: how the message names the records.
        :raises RunRecordsNotComparable: a column of the key is missing, a record has no value in it, or two records
            have the same key.
        """
        if missing := [name for name in self.key if name not in table.columns]:
            there = comma_list(map(shown, table.columns)) or "none"
            raise not_comparable(
                f"{which} have no column {shown(missing[0])}, which is part of the key; the columns are {there}"
            )
        key = comma_list(map(shown, self.key))
        columns = [table.columns[name] for name in self.key]
        empty = " OR ".join(f"{_value(column)} = ''" for column in columns)
        ((number, first),) = self.workspace.rows(f"SELECT count(*), min({ROW}) FROM {table.sql} WHERE {empty}")  # noqa: S608
        if number:
            raise not_comparable(
                f"{which} have no value in the key ({key}) in {number:,} of {table.records:,} cases, "
                f"first in record {first + 1:,}"
            )
        if repeated := self._repeated(table, columns):
            examples = "; ".join(f"{' / '.join(map(shown, row[2:]))} ({row[0]:,} times)" for row in repeated)
            raise not_comparable(f"{which} repeat the key ({key}): {examples}")

    def _repeated(self, table: Table, columns: Sequence[Column]) -> list[tuple[Any, ...]]:
        """Return, for the first repeated keys, how often they occur, in which record first, and their texts."""
        texts = ", ".join(text_of(column) for column in columns)
        # Grouping hashes takes a fraction of the memory that texts take, and most tables have no repeated keys.
        self.workspace.execute(
            f"CREATE OR REPLACE TEMP TABLE repeated AS "  # noqa: S608
            f"SELECT hash({texts}) AS h FROM {table.sql} GROUP BY h HAVING count(*) > 1"
        )
        if self.workspace.rows("SELECT count(*) FROM repeated") == [(0,)]:
            return []
        return self.workspace.rows(
            f"SELECT count(*), min({ROW}), {texts} FROM {table.sql} SEMI JOIN repeated ON h = hash({texts}) "  # noqa: S608
            f"GROUP BY {texts} HAVING count(*) > 1 ORDER BY 2 LIMIT {_SHOWN}"
        )

    def compare(self) -> Changes:
        """Find the differences. Afterwards, :attr:`added`, :attr:`changed` and :attr:`removed` select the records."""
        if self.previous is None:
            return Changes(self.current.records, 0, 0, 0, {})
        new, old = self.current.columns, self.previous.columns
        left_out = {*self.key, *self.ignored}
        shared = {name: (new.get(name), old.get(name)) for name in {**new, **old} if name not in left_out}
        self._join(list(shared.values()), self.previous)
        counts = self._sift({name: _differs(*columns) for name, columns in shared.items()}, self.previous)
        ((added, changed, removed),) = self.workspace.rows(
            "SELECT count(*) FILTER (before IS NULL), count(*) FILTER (now IS NOT NULL AND before IS NOT NULL), "
            "count(*) FILTER (now IS NULL) FROM changes"
        )
        return Changes(added, changed, removed, self.current.records - added - changed, counts)

    def _join(self, shared: Sequence[tuple[Column | None, Column | None]], previous: Table) -> None:
        """Create a table of the records that may differ: those of one side only, and pairs with different values.

        The join uses a record's key and a hash of its values instead of the values, which would take several times the
        memory and spill to disk. Different values have the same hash in one of 2**64 cases.
        """
        new, old = self.current.columns, previous.columns
        sides = []
        for table, own, place in ((self.current, new, 0), (previous, old, 1)):
            keys = ", ".join(
                f"{own[name].sql if new[name].kind == old[name].kind else text_of(own[name])} AS k{number}"
                for number, name in enumerate(self.key)
            )
            values = ", ".join(_hashed(pair[place], pair[1 - place]) for pair in shared) or "0"
            sides.append(f"(SELECT {ROW}, {keys}, hash({values}) AS h FROM {table.sql})")  # noqa: S608
        equal = " AND ".join(f"c.k{number} = p.k{number}" for number in range(len(self.key)))
        self.workspace.execute(
            f"CREATE OR REPLACE TEMP TABLE changes AS SELECT c.{ROW} AS now, p.{ROW} AS before "  # noqa: S608
            f"FROM {sides[0]} c FULL JOIN {sides[1]} p ON {equal} "
            f"WHERE c.{ROW} IS NULL OR p.{ROW} IS NULL OR c.h <> p.h"
        )

    def _sift(self, differ: dict[str, str], previous: Table) -> dict[str, int]:
        """Drop the pairs whose values are equal, and return in how many of the others each column differs."""
        if not differ:
            return {}
        pairs = (
            f"FROM changes JOIN {self.current.sql} c ON c.{ROW} = changes.now "
            f"JOIN {previous.sql} p ON p.{ROW} = changes.before"
        )
        is_same = f"NOT {_any(list(differ.values()))}"
        counts = ", ".join(f"count(*) FILTER ({condition})" for condition in [is_same, *differ.values()])
        ((same, *found),) = self.workspace.rows(f"SELECT {counts} {pairs}")
        if same:
            self.workspace.execute(f"CREATE OR REPLACE TEMP TABLE same AS SELECT now {pairs} WHERE {is_same}")
            self.workspace.execute("DELETE FROM changes WHERE now IN (FROM same)")
        return {name: count for name, count in zip(differ, found, strict=True) if count}

    @property
    def added(self) -> str:
        """SQL for the records that only the current ones have."""
        return self._records(self.current, "now", "before IS NULL", if_first="true")

    @property
    def changed(self) -> str:
        """SQL for the records that both have with different values; the current ones."""
        return self._records(self.current, "now", "before IS NOT NULL", if_first="false")

    @property
    def removed(self) -> str:
        """SQL for the records that only the previous ones have."""
        return self._records(self.previous or self.current, "before", "now IS NULL", if_first="false")

    def _records(self, table: Table, row: str, condition: str, if_first: str) -> str:
        records = f"SELECT {', '.join(column.sql for column in table.columns.values())} FROM {table.sql}"  # noqa: S608
        if self.previous is None:
            return f"{records} WHERE {if_first}"
        return f"{records} SEMI JOIN changes ON {ROW} = {row} AND {condition} ORDER BY {ROW}"


def _hashed(column: Column | None, other: Column | None) -> str:
    """Return SQL for the value that :func:`_differs` compares, without regard to different forms of a number."""
    if column is None:
        return "''"
    return column.sql if other is not None and column.kind == other.kind != TEXT else _value(column)


def _differs(new: Column | None, old: Column | None) -> str:
    if new is None or old is None:
        return f"{_value(new, 'c') if new else _value(old, 'p')} <> ''"  # type: ignore[arg-type]
    if new.kind == old.kind != TEXT:
        return f"c.{new.sql} IS DISTINCT FROM p.{old.sql}"
    one, two = _value(new, "c"), _value(old, "p")
    # Not AND, because DuckDB would parse numbers even in equal values.
    return f"CASE WHEN {one} = {two} THEN false ELSE NOT {_same_number(one, two)} END"


def _same_number(one: str, two: str) -> str:
    """Return SQL for whether two different texts are the same number."""
    doubles = [
        f"CASE WHEN regexp_matches({text}, '{_NUMBER}') THEN TRY_CAST({text} AS DOUBLE) END" for text in (one, two)
    ]
    # Only numbers that doubles may round are compared digit by digit, which takes much longer.
    return (
        f"CASE WHEN coalesce({doubles[0]} <> {doubles[1]}, true) THEN false "
        f"WHEN greatest(length({one}), length({two})) <= {_DIGITS_OF_DOUBLE} "
        f"AND abs(TRY_CAST({one} AS DOUBLE)) > {_NEXT_TO_ZERO} THEN true "
        f"ELSE list_unique(list_transform([{one}, {two}], lambda v: {_digits_of('v')})) = 1 END"
    )


def _digits_of(text: str) -> str:
    """Return SQL for the sign, the digits and the exponent of a number, which are the same however it is written."""
    mantissa, exponent = (f"split_part(lower({text}), 'e', {place})" for place in (1, 2))
    whole, fraction = f"ltrim(split_part({mantissa}, '.', 1), '-')", f"split_part({mantissa}, '.', 2)"
    digits = f"ltrim({whole} || {fraction}, '0')"
    return (
        f"CASE WHEN {digits} = '' THEN '0' ELSE regexp_extract({text}, '^-') || rtrim({digits}, '0') || 'e' || "
        f"(length({digits}) - length({fraction}) + coalesce(TRY_CAST({exponent} AS INTEGER), 0)) END"
    )


def _value(column: Column, table: str | None = None) -> str:
    """Return SQL for a column's values as text; a missing value is an empty string."""
    return f"coalesce({text_of(column, table)}, '')"


def _any(conditions: list[str]) -> str:
    """Return SQL for a disjunction, nested because DuckDB refuses a very long chain."""
    if len(conditions) <= _MAX_IN_A_ROW:
        return f"({' OR '.join(conditions)})" if conditions else "false"
    starts = range(0, len(conditions), _MAX_IN_A_ROW)
    return _any([_any(conditions[start : start + _MAX_IN_A_ROW]) for start in starts])
