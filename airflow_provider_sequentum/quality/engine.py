"""DuckDB over landed files.

DuckDB never opens a landed file. The reader of records, which decides for ``iter_records`` too, reads it. What it
yields is written to Parquet files in a temporary folder, with flat columns (:mod:`~.records.flat`), and these are all
that DuckDB can open. Their columns have names of our own (``c0``, ``c1``, ...): those of the records are anything that
the author of a website could think of, while names in SQL are compared without regard to case.
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
from typing import IO, Any, Protocol

from airflow_provider_sequentum.exceptions import RunFilesUnavailable
from airflow_provider_sequentum.records.formats import library
from airflow_provider_sequentum.records.parquet import in_row_groups
from airflow_provider_sequentum.records.reading import read_flat

MEMORY = 256 * 1024 * 1024
"""Bytes that DuckDB may take, unless the caller says otherwise. What does not fit goes to the temporary folder."""

DISK = 16 * 1024 * 1024 * 1024
"""Bytes that the normalized files may take in the temporary folder, and as many again for what DuckDB puts aside."""

ROW = "r"
"""The column that numbers a table's records from 0, in the order of its files."""

TEXT = "VARCHAR"
"""DuckDB's type of a text."""

_MAX_THREADS = 4
_ROWS = 50_000
_QUICK = {"use_dictionary": False, "write_statistics": False, "compression": "lz4"}
"""How normalized files are written: they are read a few times, and then gone."""
_ROW_GROUP = 8 * 1024 * 1024
_CHUNK = 1024 * 1024
_NO_RECORDS = f"SELECT 0::BIGINT AS {ROW} WHERE false"
_INTEGERS = frozenset(
    {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"}
)


class LandedPath(Protocol):
    """A file, wherever it is: a :class:`pathlib.Path` or an ``ObjectStoragePath``."""

    @property
    def name(self) -> str:
        """Its name, whose suffix tells its format."""

    def open(self, mode: str) -> Any:
        """Open it."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    :param name: as the records have it. Never part of an SQL text.
    :param sql: its name in SQL.
    :param kind: its type in DuckDB, such as ``BIGINT``, ``DOUBLE`` or ``VARCHAR``.
    """

    name: str
    sql: str
    kind: str

    @property
    def is_integer(self) -> bool:
        """Whether its values are whole numbers."""
        return self.kind in _INTEGERS

    @property
    def is_number(self) -> bool:
        """Whether its values are numbers."""
        return self.is_integer or self.kind in ("DOUBLE", "FLOAT") or self.kind.startswith("DECIMAL")


@dataclass(frozen=True, slots=True)
class Source:
    """A file that was read.

    :param path: where it is.
    :param size: its bytes.
    :param records: how many it holds.
    """

    path: str
    size: int
    sha256: str
    records: int


@dataclass(frozen=True, slots=True)
class Table:
    """The records of some files, for SQL.

    :param workspace: where it is.
    :param sql: its name in SQL. Besides its columns it has :data:`ROW`.
    :param columns: by the names that the records have.
    """

    workspace: Workspace
    sql: str
    columns: Mapping[str, Column]
    sources: tuple[Source, ...]

    @property
    def records(self) -> int:
        """How many records it has."""
        return sum(source.records for source in self.sources)

    @property
    def names(self) -> list[str]:
        """The names of its columns, as the records have them."""
        return list(self.columns)

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows that SQL finds, in which ``{table}`` stands for its name."""
        return self.workspace.rows(sql.replace("{table}", self.sql), parameters)

    def as_text(self) -> Table:
        """Return the same records with all values as text."""
        cells = "".join(f", {text_of(column)} AS {column.sql}" for column in self.columns.values())
        text = f"{self.sql}_text"
        self.workspace.execute(f"CREATE OR REPLACE VIEW {text} AS SELECT {ROW}{cells} FROM {self.sql}")  # noqa: S608
        columns = {name: Column(name, column.sql, TEXT) for name, column in self.columns.items()}
        return Table(self.workspace, text, columns, self.sources)


@dataclass(frozen=True, slots=True)
class _Part:
    """A normalized file.

    :param first_row: the number of its first record in the table.
    :param columns: by the names that the records have.
    """

    path: Path
    first_row: int
    columns: Mapping[str, Column]


@dataclass
class Workspace:
    """An empty DuckDB in memory and the temporary folder that it works with; :func:`open_workspace` makes it.

    :param connection: for SQL. It reaches nothing but the files of :meth:`load`, and none of its settings can be
        changed.
    """

    connection: Any
    folder: Path
    disk: int
    _written: int = field(default=0, init=False)
    _parts: int = field(default=0, init=False)
    _tables: int = field(default=0, init=False)

    def load(
        self,
        files: Iterable[LandedPath],
        *,
        typed_cells: bool = True,
        encoding: str | None = None,
        delimiter: str | None = None,
    ) -> Table:
        """Read files, whose columns are put together by name, as one table.

        :param typed_cells: find types for the cells of CSV files, as ``iter_record_batches`` does. Otherwise they are
            text, as in ``iter_records``; then one pass over the file is enough.
        :param encoding: of text files. Default: by their byte order mark, else UTF-8.
        :param delimiter: of CSV files. Default: a comma, a tab in ``.tsv``.
        :raises RecordsUnreadable: a file does not hold what its name says, or is damaged.
        :raises RunFilesUnavailable: they take more temporary disk than they may.
        :raises ImportError: the library for a format is not installed.
        """
        names: dict[str, str] = {}
        parts: list[_Part] = []
        sources: list[Source] = []
        for file in files:
            before = sum(source.records for source in sources)
            with tempfile.TemporaryFile(dir=self.folder) as copy:
                size, sha256 = self._copy(file, copy)
                batches = read_flat(copy, file.name, encoding=encoding, delimiter=delimiter, typed_cells=typed_cells)
                part = self.folder / "data" / f"{self._parts}.parquet"
                self._parts += 1
                columns, records = self._write(batches, part, names)
            if records:
                parts.append(_Part(part, before, self._described(part, columns)))
            sources.append(Source(str(file), size, sha256, records))
        # What Arrow keeps for its next batches would be missing beside the memory that DuckDB takes.
        library("pyarrow", "quality", "DuckDB").default_memory_pool().release_unused()
        return self._table(names, parts, tuple(sources))

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """Run SQL and return the connection, which has the result.

        :raises RunFilesUnavailable: it takes more memory or temporary disk than it may.
        """
        with self._limits():
            return self.connection.execute(sql, list(parameters))

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run SQL and return all rows of its result."""
        with self._limits():
            rows: list[tuple[Any, ...]] = self.connection.execute(sql, list(parameters)).fetchall()
        return rows

    def batches(self, sql: str, rows: int = _ROWS) -> Iterator[Any]:
        """Run SQL and yield its result as ``pyarrow.RecordBatch``, without keeping all of it in memory."""
        with self._limits():
            reader = self.connection.sql(sql).to_arrow_reader(rows)
            yield from reader

    def export(self, sql: str, names: Sequence[str], target: Path) -> int:
        """Run SQL and write its result to a Parquet file, without keeping all of it in memory.

        :param names: of the result's columns in the file.
        :return: how many rows it has.
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
        """Copy a file to the disk, since it may be read twice and its storage may be slow to find a place in it."""
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

        :param names: the table's names in SQL by those of the records; new ones are added.
        :return: those of the file's columns, and how many records it has.
        """
        arrow, parquet = (library(module, "quality", "DuckDB") for module in ("pyarrow", "pyarrow.parquet"))
        columns: dict[str, str] = {}
        writer, records = None, 0
        try:
            for batch in in_row_groups(batches, _ROW_GROUP):
                columns = {name: names.setdefault(name, f"c{len(names)}") for name in batch.schema.names}
                # A record may have no column, but a Parquet file has at least one.
                cells, sql = (batch.columns, [*columns.values()]) if columns else ([arrow.nulls(batch.num_rows)], ["c"])
                renamed = arrow.Table.from_arrays(cells, names=sql)
                with self._limits():
                    writer = writer or parquet.ParquetWriter(part, renamed.schema, **_QUICK)
                    writer.write_table(renamed)
                records += batch.num_rows
                self._check_disk(self._written + part.stat().st_size)
        finally:
            if writer is not None:
                writer.close()
                self._written += part.stat().st_size
        return columns, records

    def _table(self, names: Mapping[str, str], parts: Sequence[_Part], sources: tuple[Source, ...]) -> Table:
        columns = {name: Column(name, sql, _common_kind(name, parts)) for name, sql in names.items()}
        selects = [_select(part, columns.values()) for part in parts]
        table = f"t{self._tables}"
        self._tables += 1
        self.execute(f"CREATE VIEW {table} AS {' UNION ALL '.join(selects) or _NO_RECORDS}")
        return Table(self, table, columns, sources)

    def _described(self, path: Path, columns: Mapping[str, str]) -> dict[str, Column]:
        kinds = {row[0]: row[1] for row in self.rows(f"DESCRIBE SELECT * FROM {_file(path)}")}  # noqa: S608
        return {name: Column(name, sql, kinds[sql]) for name, sql in columns.items()}

    def _check_disk(self, size: int) -> None:
        if size > self.disk:
            raise _is_full(f"The files take more than {self.disk:,} bytes of temporary disk in {self.folder.parent}")

    @contextmanager
    def _limits(self) -> Iterator[None]:
        duckdb = library("duckdb", "quality", "Comparing and checking records")
        try:
            yield
        except duckdb.OutOfMemoryException as error:
            raise _is_full(f"DuckDB has not enough memory or temporary disk: {_first_line(error)}") from error
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise _is_full(f"The temporary folder {self.folder.parent} has no room left: {error}") from error


def _is_full(reason: str) -> RunFilesUnavailable:
    return RunFilesUnavailable(f"The records cannot be read: {reason.rstrip('.')}. Nothing was published.")


@contextmanager
def open_workspace(*, memory: int = MEMORY, disk: int = DISK) -> Iterator[Workspace]:
    """Open an empty DuckDB in memory and a temporary folder; both are gone after the ``with`` block.

    It reaches no network and no file but those of :meth:`Workspace.load`, installs and loads no extension, and keeps to
    its limits, which nothing that runs in it can change.

    :param memory: bytes that DuckDB may take.
    :param disk: bytes of temporary disk, see :data:`DISK`.
    :raises ImportError: DuckDB or pyarrow is not installed; the message names the extra ``quality``.
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
            # Given to connect(), this limit would be shown, but not kept (DuckDB 2.0).
            connection.execute(f"SET max_temp_directory_size = '{disk}B'")
            # In this order: the folder could not be allowed, nor anything be set, after the next two.
            connection.execute(f"SET allowed_directories = [{_literal(f'{data}/')}]")
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
            yield Workspace(connection, folder, disk)


def text_of(column: Column, table: str | None = None) -> str:
    """Return SQL for a column's values as text, which is the same for a number whatever the type of its column.

    :param table: the table's name or alias in the query.
    """
    value = f"{table}.{column.sql}" if table else column.sql
    if column.kind == TEXT:
        return value
    if column.kind in ("DOUBLE", "FLOAT"):
        return (
            f"CASE WHEN isfinite({value}) AND {value} = trunc({value}) AND abs({value}) < 1e18 "
            f"THEN CAST(CAST({value} AS BIGINT) AS VARCHAR) ELSE CAST({value} AS VARCHAR) END"
        )
    return f"CAST({value} AS VARCHAR)"


def _common_kind(name: str, parts: Sequence[_Part]) -> str:
    """Return the type that holds a column's values of all files; text where they have nothing in common."""
    kinds = [part.columns[name] for part in parts if name in part.columns]
    if len({column.kind for column in kinds}) == 1:
        return kinds[0].kind
    if kinds and all(column.is_integer for column in kinds):
        return "HUGEINT"
    return "DOUBLE" if kinds and all(column.is_number for column in kinds) else TEXT


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
