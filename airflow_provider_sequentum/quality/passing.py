"""The files that passed: the landed ones without what a contract keeps out, and beside them what was kept out, and why.

Values stay as they stand in the landed file. So only text files can be written in this way.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from airflow_provider_sequentum.quality.engine import LandedPath, Table
from airflow_provider_sequentum.quality.history import Folder
from airflow_provider_sequentum.quality.judge import Removal, removed_rows
from airflow_provider_sequentum.records.formats import BINARY, TABLES, RecordsUnreadable, format_of
from airflow_provider_sequentum.records.reading import read_records

REASON = "_quarantine_reason"
"""The column that says why a record was put aside."""

QUARANTINE = "quarantine_"
"""What the names of files with such records start with."""


@dataclass(frozen=True)
class Passed:
    """What was written.

    :param paths: files that passed, one for each landed file, under the same name.
    :param quarantined: files with the records that were put aside.
    :param records: how many these are.
    """

    paths: list[str]
    quarantined: list[str]
    records: int


def check_can_be_written(files: Sequence[LandedPath]) -> None:
    """Check that the files can be written without some of their records.

    :raises RecordsUnreadable: one is no text file, or two have the same name.
    """
    if binary := [file.name for file in files if format_of(file.name) in BINARY]:
        raise RecordsUnreadable(
            f"{binary[0]!r} cannot be written without some of its records; quarantine and discard_* take CSV and JSON."
        )
    if len({file.name for file in files}) < len(files):
        raise RecordsUnreadable("Two files have the same name, so what passed could not be written to one folder.")


def write_passed(
    table: Table,
    removal: Removal,
    files: Sequence[LandedPath],
    folder: Folder,
    encoding: str | None = None,
    delimiter: str | None = None,
) -> Passed:
    """Write the files without what is kept out. A file appears when it is whole.

    :param files: those of the table, in its order.
    """
    out = _Out(removed_rows(table, removal.reasons), [test.reason for test in removal.reasons])
    blank = _Out(removed_rows(table, removal.blanked), [test.column or "" for test in removal.blanked])
    number, paths, quarantined, records = 0, [], [], 0
    for file in files:
        bad = 0
        with ExitStack() as stack:
            good_file = _Writer(stack, folder, file.name, delimiter)
            bad_file = None
            for record in read_records(
                stack.enter_context(file.open("rb")), file.name, encoding=encoding, delimiter=delimiter
            ):
                empty = blank.at(number)
                if reasons := out.at(number):
                    bad += 1
                    bad_file = bad_file or _Writer(stack, folder, QUARANTINE + file.name, delimiter)
                    bad_file.write({**record, REASON: "; ".join(reasons)})
                else:
                    good_file.write(_reduced(record, removal.columns, empty))
                number += 1
            good_file.end()
            if bad_file:
                bad_file.end()
        paths.append(str(folder.path / file.name))
        if bad:
            quarantined.append(str(folder.path / (QUARANTINE + file.name)))
        records += bad
    return Passed(paths, quarantined, records)


def _reduced(record: dict[str, Any], dropped: frozenset[str], empty: Sequence[str]) -> dict[str, Any]:
    gap = "" if all(isinstance(value, str) for value in record.values()) else None
    return {name: gap if name in empty else value for name, value in record.items() if name not in dropped}


class _Out:
    """What a query says of the records, taken while they pass by in the same order."""

    def __init__(self, rows: Iterator[tuple[int, list[int]]], names: Sequence[str]) -> None:
        # DuckDB has one result at a time for a connection, so that of the first query is taken before the second.
        self._rows = iter(list(rows))
        self._names = names
        self._next = next(self._rows, None)

    def at(self, number: int) -> list[str]:
        if self._next is None or self._next[0] != number:
            return []
        places = self._next[1]
        self._next = next(self._rows, None)
        return [self._names[place] for place in places]


class _Writer:
    """Writes records to one file, in the format of its name."""

    def __init__(self, stack: ExitStack, folder: Folder, name: str, delimiter: str | None) -> None:
        kind = format_of(name)
        self._stream = stack.enter_context(folder.write(name))
        self._is_table, self._is_array = kind in TABLES, kind == "json"
        self._text = io.StringIO(newline="")
        self._delimiter = delimiter or ("\t" if kind == "tsv" else ",")
        self._writer: Any = None
        self._records = 0

    def write(self, record: dict[str, Any]) -> None:
        if self._is_table:
            if self._writer is None:
                self._writer = csv.DictWriter(self._text, list(record), delimiter=self._delimiter)
                self._writer.writeheader()
            self._writer.writerow(record)
        else:
            self._text.write(("[" if not self._records else ",\n") if self._is_array else "")
            json.dump(record, self._text, ensure_ascii=False, default=str)
            self._text.write("" if self._is_array else "\n")
        self._records += 1
        if self._text.tell() > 1024 * 1024:
            self._flush()

    def end(self) -> None:
        if self._is_array:
            self._text.write("]\n" if self._records else "[]\n")
        self._flush()

    def _flush(self) -> None:
        self._stream.write(self._text.getvalue().encode())
        self._text.seek(0)
        self._text.truncate()
