"""What the quickstart DAG has to have brought about, read from its table and not from its own report."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from airflow_provider_sequentum import sandbox

if TYPE_CHECKING:
    from collections.abc import Sequence

Row = tuple[str | None, ...]

# The quickstart's prompt speaks of the US states, so the agent that the sandbox builds yields this file.
DATA_FILE = Path(sandbox.__file__).parent / "data" / "us_states.csv"


def read_table(database: Path) -> tuple[list[str], list[Row]]:
    """Return column names and rows of the table ``records``, every value as text."""
    with duckdb.connect(str(database), read_only=True) as connection:
        result = connection.execute("SELECT columns(*)::VARCHAR FROM records")
        return [column[0] for column in result.description], result.fetchall()


def read_data_file() -> tuple[list[str], list[Row]]:
    """Return column names and rows of the sandbox's data file."""
    with DATA_FILE.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    return header, [tuple(row) for row in rows]


def differences(expected: tuple[Sequence[str], Sequence[Row]], found: tuple[Sequence[str], Sequence[Row]]) -> list[str]:
    """Say how two tables differ, in the order of columns and in rows, whose order does not matter."""
    said = []
    if list(expected[0]) != list(found[0]):
        said.append(f"columns {list(found[0])}, expected {list(expected[0])}")
    missing, surplus = Counter(expected[1]) - Counter(found[1]), Counter(found[1]) - Counter(expected[1])
    said += [f"missing {times} x {row}" for row, times in missing.items()]
    said += [f"unexpected {times} x {row}" for row, times in surplus.items()]
    return said
