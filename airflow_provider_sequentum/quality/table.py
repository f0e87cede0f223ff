"""Records as a table that DuckDB queries: each value as text, read by the one reader of records.

Columns are called ``c0``, ``c1`` and so on, whatever they are called in the files: names are hostile, and DuckDB does
not distinguish ``Price`` from ``price``. ``f`` is the number of the file and ``r`` the row's number over all files.

The table lies in Parquet files in a temporary folder, so that neither the records nor an index of them are in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from airflow_provider_sequentum.records.arrow import as_text
from airflow_provider_sequentum.records.binary import parquet_batches
from airflow_provider_sequentum.records.formats import RecordsUnreadable, check_head, format_of, library
from airflow_provider_sequentum.records.reading import read_records

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MOST_COLUMNS = 2_000
"""Columns that are judged. A table with more is one whose columns are values."""

_ROWS = 10_000
_CELLS = 500_000


@dataclass(frozen=True)
class Source:
    """A file with records.

    :param name: its name, which says its format.
    :param open: opens it for reading bytes, seekable.
    """

    name: str
    open: Callable[[], IO[bytes]]


@dataclass
class Table:
    """Records in DuckDB.

    :param connection: where the view ``relation`` is.
    :param names: of the columns ``c0``, ``c1``, ...
    :param rows: number of records in each file.
    """

    connection: DuckDBPyConnection
    relation: str
    names: list[str]
    rows: list[int]
    _numbers: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self._numbers = {name: number for number, name in enumerate(self.names)}

    @property
    def records(self) -> int:
        """Number of records in all files."""
        return sum(self.rows)

    def __contains__(self, name: object) -> bool:
        return name in self._numbers

    def column(self, name: str) -> str:
        """Return what a column is called in the view."""
        return f"c{self._numbers[name]}"

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Return the rows that a query finds; ``{relation}`` in it is the view."""
        return self.connection.execute(sql.replace("{relation}", self.relation), list(parameters)).fetchall()


def load(
    connection: DuckDBPyConnection,
    sources: Sequence[Source],
    folder: Path,
    relation: str = "records",
    **options: str | None,
) -> Table:
    """Read files into a table.

    :param folder: an empty folder for the table's files, which have to be there as long as the table is used.
    :param options: ``encoding`` and ``delimiter`` of text files.
    :raises RecordsUnreadable: a file cannot be read, or has too many columns.
    """
    with _Writing(folder) as writing:
        rows = [writing.add(number, source, options) for number, source in enumerate(sources)]
    columns = ", ".join(f"c{number}" for number in range(len(writing.names)))
    if writing.files:
        files = ", ".join("'" + str(file).replace("'", "''") + "'" for file in writing.files)
        sql = f"SELECT f, r{columns and ', '}{columns} FROM read_parquet([{files}], union_by_name = true)"
    else:
        empty = "".join(f", NULL::VARCHAR AS c{number}" for number in range(len(writing.names)))
        sql = f"SELECT 0::INTEGER AS f, 0::BIGINT AS r{empty} LIMIT 0"
    connection.execute(f"CREATE OR REPLACE TEMP VIEW {relation} AS {sql}")
    return Table(connection, relation, list(writing.names), rows)


class _Writing:
    """Writes the table's files: a further one where records have keys that those before had not."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._arrow = library("pyarrow", "quality", "Checking records")
        self._parquet = library("pyarrow.parquet", "quality", "Checking records")
        self._open = ExitStack()
        self._schema: Any = None
        self._writer: Any = None
        self._row = 0
        self.names: dict[str, int] = {}
        self.files: list[Path] = []

    def __enter__(self) -> _Writing:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add(self, number: int, source: Source, options: dict[str, Any]) -> int:
        """Write the records of a file; return how many there are."""
        start = self._row
        with source.open() as file:
            if format_of(source.name) == "parquet":
                check_head(source.name, "parquet", file.read(512), None)
                file.seek(0)
                for batch in parquet_batches(file, source.name):
                    self._write(number, source.name, dict(zip(batch.schema.names, batch.columns, strict=True)), batch.num_rows)
            else:
                self._add_records(number, source, file, options)
        return self._row - start

    def _add_records(self, number: int, source: Source, file: IO[bytes], options: dict[str, Any]) -> None:
        records = read_records(file, source.name, **options)
        size = _ROWS
        while chunk := list(islice(records, size)):
            keys = dict.fromkeys(key for record in chunk for key in record)
            self._name(keys, source.name)
            columns = {key: [record.get(key) for record in chunk] for key in keys}
            self._write(number, source.name, columns, len(chunk))
            size = max(1, min(_ROWS, _CELLS // max(1, len(self.names))))

    def _name(self, keys: Any, file: str) -> None:
        for key in keys:
            self.names.setdefault(key, len(self.names))
        if len(self.names) > MOST_COLUMNS:
            raise RecordsUnreadable(
                f"{file!r} has {len(self.names):,} or more columns, and at most {MOST_COLUMNS:,} are checked. Are values used "
                "as keys?"
            )

    def _write(self, number: int, file: str, columns: dict[str, Any], rows: int) -> None:
        arrow = self._arrow
        self._name(columns, file)
        names = list(self.names) if self._schema is None else self._schema_names
        if self._schema is None or not columns.keys() <= set(names):
            names = list(self.names)
            self._start_file(names)
        gap = arrow.nulls(rows, arrow.string())
        arrays = [self._texts(columns[name]) if name in columns else gap for name in names]
        places = arrow.array(range(self._row, self._row + rows), arrow.int64())
        self._writer.write_batch(
            arrow.RecordBatch.from_arrays(
                [arrow.array([number] * rows, arrow.int32()), places, *arrays], schema=self._schema
            )
        )
        self._row += rows

    def _start_file(self, names: list[str]) -> None:
        arrow = self._arrow
        self._open.close()
        columns = [(f"c{self.names[name]}", arrow.string()) for name in names]
        self._schema = arrow.schema([("f", arrow.int32()), ("r", arrow.int64()), *columns])
        self._schema_names = names
        self.files.append(self._folder / f"part-{len(self.files)}.parquet")
        self._writer = self._open.enter_context(
            self._parquet.ParquetWriter(self.files[-1], self._schema, compression="lz4")
        )

    def _texts(self, values: Any) -> Any:
        arrow = self._arrow
        if isinstance(values, arrow.Array):
            if arrow.types.is_string(values.type):
                return values
            values = values.to_pylist()
        return arrow.array([None if value is None else as_text(value) for value in values], arrow.string())

