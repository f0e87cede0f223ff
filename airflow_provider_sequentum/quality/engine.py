"""Queries on landed files with DuckDB.

DuckDB never opens a landed file. The record reader, which ``iter_records`` uses too, reads it. The records are written
to Parquet files in a temporary folder, with flat columns (:mod:`~.records.flat`), and DuckDB can open only these files.
Their columns have generated names (``c0``, ``c1``, ...), because the names in the records can be arbitrary text from a
website, and names in SQL are not case-sensitive.
"""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol, Unpack

from airflow_provider_sequentum.exceptions import RunFilesUnavailable
from airflow_provider_sequentum.records.formats import TextOptions, library
from airflow_provider_sequentum.records.reading import read_flat
from airflow_provider_sequentum.records.writing import RowGroups

MEMORY = 256 * 1024 * 1024
"""The default memory limit of DuckDB in bytes. Data that does not fit is spilled to the temporary folder."""

DISK = 16 * 1024 * 1024 * 1024
"""The limit in bytes for normalized files in the temporary folder, and again for the data that DuckDB spills."""

ROW = "r"
"""The column that numbers a table's records from 0, in the order of its files."""

TEXT = "VARCHAR"
"""The DuckDB type of text."""

_MAX_THREADS = 4
_ROWS = 50_000
_FETCHED = 5_000
_QUICK = {"use_dictionary": False, "write_statistics": False, "compression": "lz4"}
"""The options for writing normalized files, which are only read a few times."""
_ROW_GROUP = 8 * 1024 * 1024
_CHUNK = 1024 * 1024
_NO_RECORDS = f"SELECT 0::BIGINT AS {ROW} WHERE false"
_INTEGERS = frozenset(
    {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"}
)
_DOUBLES = frozenset({"DOUBLE", "FLOAT"})


class LandedPath(Protocol):
    """A file in any storage: a :class:`pathlib.Path` or an ``ObjectStoragePath``."""

    @property
    def name(self) -> str:
        """The name of the file, whose suffix determines the format."""

    def open(self, mode: str) -> Any:
        """Open the file."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    :param name: the name in the records. It is never part of an SQL statement.
    :param sql: the name in SQL.
    :param kind: the DuckDB type, such as ``BIGINT``, ``DOUBLE`` or ``VARCHAR``.
    """

    name: str
    sql: str
    kind: str

    @property
    def is_integer(self) -> bool:
        """Whether the values are integers."""
        return self.kind in _INTEGERS

    @property
    def is_number(self) -> bool:
        """Whether the values are numbers."""
        return self.is_integer or self.kind in _DOUBLES or self.kind.startswith("DECIMAL")


@dataclass(frozen=True, slots=True)
class Source:
    """A file that was read.

    :param path: the path of the file.
    :param size: its size in bytes.
    :param records: its number of records.
    """

    path: str
    size: int
    sha256: str
    records: int


@dataclass(frozen=True, slots=True)
class Table:
    """The records of one or several files, as an SQL table.

    :param workspace: the workspace that contains the table.
    :param sql: the name in SQL. In addition to the columns of the records, the table has the column :data:`ROW`.
    :param columns: the columns, by their names in the records.
    """

    workspace: Workspace
    sql: str
    columns: Mapping[str, Column]
    sources: tuple[Source, ...]

    @property
    def records(self) -> int:
        """The number of records."""
        return sum(source.records for source in self.sources)

    @property
    def names(self) -> list[str]:
        """The names of the columns in the records."""
        return list(self.columns)

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run SQL and return the rows of the result. ``{table}`` in the SQL stands for the name of the table."""
        return self.workspace.rows(sql.replace("{table}", self.sql), parameters)

    def as_text(self) -> Table:
        """Return the same records with all values as text. ``NaN``, which is no number, becomes a missing value."""
        cells = "".join(f", {_text_or_null(column)} AS {column.sql}" for column in self.columns.values())
        text = f"{self.sql}_text"
        self.workspace.execute(f"CREATE OR REPLACE VIEW {text} AS SELECT {ROW}{cells} FROM {self.sql}")  # noqa: S608
        columns = {name: Column(name, column.sql, TEXT) for name, column in self.columns.items()}
        return Table(self.workspace, text, columns, self.sources)


@dataclass(frozen=True, slots=True)
class _Part:
    """A normalized file.

    :param first_row: the number of its first record in the table.
    :param columns: the columns, by their names in the records.
    """

    path: Path
    first_row: int
    columns: Mapping[str, Column]


@dataclass
class Workspace:
    """An in-memory DuckDB database and its temporary folder, created by :func:`open_workspace`.

    :param connection: the connection for SQL. It only has access to the files of :meth:`load`, with locked settings.
    """

    connection: Any
    folder: Path
    disk: int
    _written: int = field(default=0, init=False)
    _parts: int = field(default=0, init=False)
    _tables: int = field(default=0, init=False)

    def load(self, files: Iterable[LandedPath], **options: Unpack[TextOptions]) -> Table:
        """Read files as one table. Columns with the same name are combined. The cells of CSV files are text.

        :raises RecordsUnreadable: a file is not in the format of its suffix, or is damaged.
        :raises RunFilesUnavailable: the files exceed the limit for temporary disk space.
        :raises ImportError: the library for a format is not installed.
        """
        names: dict[str, str] = {}
        parts: list[_Part] = []
        sources: list[Source] = []
        for file in files:
            before = sum(source.records for source in sources)
            with tempfile.TemporaryFile(dir=self.folder) as copy:
                size, sha256 = self._copy(file, copy)
                batches = read_flat(copy, file.name, **options)
                part = self.folder / "data" / f"{self._parts}.parquet"
                self._parts += 1
                columns, records = self._write(batches, part, names)
            if records:
                parts.append(_Part(part, before, self._described(part, columns)))
            sources.append(Source(str(file), size, sha256, records))
        # Arrow keeps memory for further batches, which would add to the memory that DuckDB uses.
        library("pyarrow", "quality", "DuckDB").default_memory_pool().release_unused()
        return self._table(names, parts, tuple(sources))

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """Run SQL and return the connection, which has the result.

        :raises RunFilesUnavailable: the query exceeds the limit for memory or temporary disk space.
        """
        with self._limits():
            return self.connection.execute(sql, list(parameters))

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run SQL and return all rows of the result."""
        with self._limits():
            rows: list[tuple[Any, ...]] = self.connection.execute(sql, list(parameters)).fetchall()
        return rows

    def stream(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """Run SQL and yield the rows of the result, without keeping all of them in memory.

        No other SQL may be run before the last row.
        """
        result = self.execute(sql, parameters)
        while True:
            with self._limits():
                rows = result.fetchmany(_FETCHED)
            if not rows:
                return
            yield from rows

    def export(self, sql: str, names: Sequence[str], target: Path) -> int:
        """Run SQL and write the result to a Parquet file, without keeping all of it in memory.

        :param names: the names of the columns in the file.
        :return: the number of rows.
        """
        arrow, parquet = (library(module, "quality", "DuckDB") for module in ("pyarrow", "pyarrow.parquet"))
        with self._limits():
            reader = self.connection.sql(sql).to_arrow_reader(_ROWS)
            schema = arrow.schema([kind.with_name(name) for kind, name in zip(reader.schema, names, strict=True)])
            with parquet.ParquetWriter(target, schema) as writer:
                rows = 0
                for batch in reader:
                    writer.write_batch(arrow.RecordBatch.from_arrays(batch.columns, schema=schema))
                    rows += batch.num_rows
                    self._check_disk(self._written + target.stat().st_size)
        self._written += target.stat().st_size
        return rows

    def _copy(self, file: LandedPath, copy: IO[bytes]) -> tuple[int, str]:
        """Copy a file to the disk, because it may be read twice and its storage may be slow to seek."""
        digest, size = hashlib.sha256(), 0
        with file.open("rb") as stream, self._limits():
            while data := stream.read(_CHUNK):
                size += len(data)
                self._check_disk(self._written + size)
                digest.update(data)
                copy.write(data)
            copy.seek(0)
        return size, digest.hexdigest()

    def _write(self, batches: Iterable[Any], part: Path, names: dict[str, str]) -> tuple[dict[str, str], int]:
        """Write batches to a Parquet file.

        :param names: the SQL names of the table's columns, by their names in the records. New columns are added.
        :return: the SQL names of the columns of the file, and its number of records.
        """
        arrow = library("pyarrow", "quality", "DuckDB")
        columns: dict[str, str] = {}
        groups, records = None, 0
        for batch in batches:
            columns = {name: names.setdefault(name, f"c{len(names)}") for name in batch.schema.names}
            # Records may have no columns, but a Parquet file needs at least one.
            cells, sql = (batch.columns, [*columns.values()]) if columns else ([arrow.nulls(batch.num_rows)], ["c"])
            renamed = arrow.RecordBatch.from_arrays(cells, names=sql)
            with self._limits():
                groups = groups or RowGroups(part, renamed.schema, _ROW_GROUP, **_QUICK)
                groups.write(renamed)
            self._check_disk(self._written + part.stat().st_size)
        if groups is not None:
            with self._limits():
                records = groups.end()
            self._written += part.stat().st_size
            self._check_disk(self._written)
        return columns, records

    def _table(self, names: Mapping[str, str], parts: Sequence[_Part], sources: tuple[Source, ...]) -> Table:
        columns = {name: Column(name, sql, self._common_kind(name, parts)) for name, sql in names.items()}
        selects = [_select(part, columns.values()) for part in parts]
        table = f"t{self._tables}"
        self._tables += 1
        self.execute(f"CREATE VIEW {table} AS {' UNION ALL '.join(selects) or _NO_RECORDS}")
        return Table(self, table, columns, sources)

    def _common_kind(self, name: str, parts: Sequence[_Part]) -> str:
        """Return a type that represents the values of a column in all files exactly; text if there is no other."""
        found = [(part, part.columns[name]) for part in parts if name in part.columns]
        if len({column.kind for _, column in found}) == 1:
            return found[0][1].kind
        if found and all(column.is_integer for _, column in found):
            return "HUGEINT"
        is_double = found and all(column.is_number and self._fits_double(part, column) for part, column in found)
        return "DOUBLE" if is_double else TEXT

    def _fits_double(self, part: _Part, column: Column) -> bool:
        """Return whether a column of numbers has none that a double would round, such as a large id."""
        if column.kind in _DOUBLES:
            return True
        rounded = f"TRY_CAST(CAST({column.sql} AS DOUBLE) AS {column.kind}) IS DISTINCT FROM {column.sql}"
        return self.rows(f"SELECT count(*) FROM {_file(part.path)} WHERE {rounded}") == [(0,)]  # noqa: S608

    def _described(self, path: Path, columns: Mapping[str, str]) -> dict[str, Column]:
        kinds = {row[0]: row[1] for row in self.rows(f"DESCRIBE SELECT * FROM {_file(path)}")}  # noqa: S608
        return {name: Column(name, sql, kinds[sql]) for name, sql in columns.items()}

    def _check_disk(self, size: int) -> None:
        if size > self.disk:
            raise _is_full(f"The files need more than {self.disk:,} bytes of disk space in {self.folder.parent}")

    @contextmanager
    def _limits(self) -> Iterator[None]:
        duckdb = library("duckdb", "quality", "Comparing and checking records")
        try:
            yield
        except duckdb.OutOfMemoryException as error:
            raise _is_full(f"DuckDB does not have enough memory or disk space: {_first_line(error)}") from error
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise _is_full(f"The temporary folder {self.folder.parent} is full: {error}") from error


def _is_full(reason: str) -> RunFilesUnavailable:
    return RunFilesUnavailable(f"The records cannot be read: {reason.rstrip('.')}. Nothing was published.")


@contextmanager
def open_workspace(*, memory: int = MEMORY, disk: int = DISK) -> Iterator[Workspace]:
    """Open an empty in-memory DuckDB database and a temporary folder. Both are removed after the ``with`` block.

    The database cannot access the network or files other than those of :meth:`Workspace.load`, does not install or load
    extensions, and has fixed limits, which SQL cannot change.

    :param memory: the memory limit of DuckDB in bytes.
    :param disk: the limit for temporary disk space in bytes; see :data:`DISK`.
    :raises ImportError: DuckDB or pyarrow is not installed. The message names the extra ``quality``.
    """
    duckdb = library("duckdb", "quality", "Comparing and checking records")
    library("pyarrow", "quality", "Comparing and checking records")
    with tempfile.TemporaryDirectory(prefix="sequentum-records-") as name:
        folder = Path(name)
        data, spill = folder / "data", folder / "spill"
        data.mkdir()
        spill.mkdir()
        options = {
            "memory_limit": f"{memory}B",
            "temp_directory": str(spill),
            "threads": min(_MAX_THREADS, os.cpu_count() or 1),
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "allow_community_extensions": False,
            "python_enable_replacements": False,
        }
        with duckdb.connect(":memory:", config=options) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            # Passed to connect(), this limit would be displayed but not enforced (DuckDB 2.0).
            connection.execute(f"SET max_temp_directory_size = '{disk}B'")
            # The order matters: after the next two, the folder could no longer be allowed, and no option be set.
            connection.execute(f"SET allowed_directories = [{_literal(f'{data}/')}]")
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
            yield Workspace(connection, folder, disk)


def text_of(column: Column, table: str | None = None) -> str:
    """Return SQL for a column's values as text. A number has the same text whatever the type of its column.

    :param table: the name or alias of the table in the query.
    """
    value = f"{table}.{column.sql}" if table else column.sql
    if column.kind == TEXT:
        return value
    if column.kind in _DOUBLES:
        return (
            f"CASE WHEN isfinite({value}) AND {value} = trunc({value}) AND abs({value}) < 1e18 "
            f"THEN CAST(CAST({value} AS BIGINT) AS VARCHAR) ELSE CAST({value} AS VARCHAR) END"
        )
    return f"CAST({value} AS VARCHAR)"


def _text_or_null(column: Column) -> str:
    return (
        f"CASE WHEN NOT isnan({column.sql}) THEN {text_of(column)} END" if column.kind in _DOUBLES else text_of(column)
    )


def _select(part: _Part, columns: Iterable[Column]) -> str:
    cells = [f"{_value(part.columns.get(column.name), column.kind)} AS {column.sql}" for column in columns]
    row = f"file_row_number + {part.first_row} AS {ROW}"
    return f"SELECT {', '.join([*cells, row])} FROM {_file(part.path)}"  # noqa: S608


def _value(column: Column | None, kind: str) -> str:
    if column is None:
        return f"CAST(NULL AS {kind})"
    if column.kind == kind:
        return column.sql
    return text_of(column) if kind == TEXT else f"CAST({column.sql} AS {kind})"


def _file(path: Path) -> str:
    return f"read_parquet({_literal(str(path))}, file_row_number = true)"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
