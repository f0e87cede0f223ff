"""A table of the engine with all its values as text, which is what checks look at.

A price is one of text to the page that shows it: what its number says and how it is written both tell whether the
agent still finds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from airflow_provider_sequentum.quality.engine import ROW, Workspace, text_of
from airflow_provider_sequentum.quality.engine import Table as LoadedTable
from airflow_provider_sequentum.records.formats import RecordsUnreadable

MOST_COLUMNS = 2_000
"""Columns that are judged. A table with more is one whose columns are values."""


@dataclass(frozen=True)
class Table:
    """Records as text.

    :param relation: the view's name in SQL. It has the columns and ``r``, the record's number.
    :param columns: names in SQL by those of the records, which are never part of an SQL text.
    :param records: how many there are.
    """

    workspace: Workspace
    relation: str
    columns: dict[str, str]
    records: int

    @property
    def names(self) -> list[str]:
        """The names of the columns, as the records have them."""
        return list(self.columns)

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Return the rows that a query finds; ``{relation}`` in it is the view."""
        return self.workspace.rows(sql.replace("{relation}", self.relation), parameters)


def text_table(workspace: Workspace, loaded: LoadedTable) -> Table:
    """Return a table with all values as text.

    :raises RecordsUnreadable: it has too many columns.
    """
    if len(loaded.columns) > MOST_COLUMNS:
        raise RecordsUnreadable(
            f"The records have {len(loaded.columns):,} columns, and at most {MOST_COLUMNS:,} are checked. "
            "Are values used as the names of fields?"
        )
    cells = "".join(f", {text_of(column)} AS {column.sql}" for column in loaded.columns.values())
    relation = f"{loaded.sql}_text"
    workspace.rows(f"CREATE VIEW {relation} AS SELECT {ROW} AS r{cells} FROM {loaded.sql}")  # noqa: S608
    return Table(workspace, relation, {name: column.sql for name, column in loaded.columns.items()}, loaded.rows)
