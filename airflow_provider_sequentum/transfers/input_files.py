"""Ways to pass rows to an agent: upload them as an input file of its space, or split them into input parameters."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, cast

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_sequentum.exceptions import (
    RunFilesUnavailable,
    SequentumRequestRefused,
    about_run,
    client_errors_as_exceptions,
    value_errors_as_exceptions,
)
from airflow_provider_sequentum.parameters import plain, shown

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_sequentum.hooks.connection import SequentumConnection
    from airflow_provider_sequentum.transfers.configurations import InputFileConfig

DEFAULT_MAX_BYTES = 64 * 1024 * 1024
"""The service does not document a limit. A file is held in memory while it is uploaded."""

DEFAULT_ROWS = 1000
"""The maximum number of rows for one run, if rows are split."""

DEFAULT_PARAMETERS_BYTES = 64 * 1024
"""The maximum size in bytes of the input parameters of one run. Airflow stores them in its database several times."""

TEXT_SUFFIXES = frozenset({".csv", ".tsv", ".txt", ".json", ".ndjson", ".jsonl", ".xml"})
"""Suffixes of files whose encoding is checked."""

ROW_SUFFIXES = (".csv", ".ndjson", ".jsonl", ".json")
"""Suffixes of the formats that rows can be written in."""

MAGIC = {".xlsx": b"PK", ".parquet": b"PAR1"}
"""The bytes that a file with this suffix has to start with."""

_NOT_IN_A_STEM = re.compile(r"[^A-Za-z0-9._-]+")


class ObjectStorageToInputFilesOperator(BaseOperator):
    """Upload a file from object storage, or the rows of an upstream task, as an input file of a space.

    Returns the name of the file. Pass it to the agent as an input parameter.

    The service cannot list or delete input files, and overwrites a file of the same name. So the default name is the
    same in every attempt and every DAG run of a task, and differs for each map index: a retry overwrites its own file,
    and files do not accumulate. DAG runs that overlap overwrite each other's file: use ``max_active_runs=1``, or set
    ``file_name``.

    Size, encoding and format are checked before anything is uploaded. A parameter that is ``None`` or an empty string
    is treated as unset.

    :param source: the file to upload: ``s3://conn_id@bucket/folder/name.csv``, ``gs://...``, ``file:///...`` or an
        absolute path. Give this or ``rows``.
    :param rows: the rows to upload: a list of mappings, or a JSON string of one. They are written in the format that
        the extension of ``file_name`` names, CSV or JSON. In CSV, ``None`` is written as an empty field, and a list or
        a mapping as JSON. The missing values of a data frame (``NaN``, ``NaT``, ``NA``) count as ``None``.
    :param space_id: the id of the space, as an int or a string of digits. Give this or ``agent_id``.
    :param agent_id: the id of an agent. The file is uploaded to the space of the agent.
    :param file_name: the name of the file on the service. Default: a name made of the DAG id, the task id and the map
        index, with the extension of ``source``, or ``.csv`` for rows.
    :param encoding: the encoding of a text file, and the encoding in which rows are written. Default: UTF-8.
    :param max_bytes: the maximum size of the file; a larger one is refused. Default: 64 MiB.
    :param sequentum_conn_id: the id of the Sequentum connection.
    :param storage_conn_id: the id of the object storage connection, if it is not part of ``source``.
    :raises SequentumRequestRefused: a parameter is invalid; the file is empty, too large, or does not match its
        extension; or the agent is not in a space. Not retried.
    :raises RunFilesUnavailable: the file cannot be read.
    """

    template_fields: Sequence[str] = (
        "source",
        "rows",
        "space_id",
        "agent_id",
        "file_name",
        "encoding",
        "max_bytes",
        "sequentum_conn_id",
        "storage_conn_id",
    )
    ui_color = "#e3f1ee"

    def __init__(
        self,
        *,
        source: str | None = None,
        rows: Iterable[Mapping[str, Any]] | str | None = None,
        space_id: int | str | None = None,
        agent_id: int | str | None = None,
        file_name: str | None = None,
        encoding: str | None = "utf-8",
        max_bytes: int | str | None = DEFAULT_MAX_BYTES,
        sequentum_conn_id: str = "sequentum_default",
        storage_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.rows = rows
        self.space_id = space_id
        self.agent_id = agent_id
        self.file_name = file_name
        self.encoding = encoding
        self.max_bytes = max_bytes
        self.sequentum_conn_id = sequentum_conn_id
        self.storage_conn_id = storage_conn_id

    def execute(self, context: Context) -> str:
        """Upload the file and return its name."""
        from airflow_provider_sequentum.api import spaces
        from airflow_provider_sequentum.hooks.connection import SequentumConnection
        from airflow_provider_sequentum.runs.describe import format_size
        from airflow_provider_sequentum.transfers.configurations import InputFileConfig

        config = InputFileConfig.of(self)
        name = config.file_name or _default_name(config, context)
        with value_errors_as_exceptions(config.fate):
            content = _content(config, name)
        hook = SequentumConnection(config.sequentum_conn_id)
        try:
            space_id = config.space_id or _space_of(cast("int", config.agent_id), hook)
            hook.send(spaces.upload_input_file(space_id, name, content))
        finally:
            hook.close()
        self.log.info("Uploaded %r (%s) to space %s.", name, format_size(len(content)), space_id)
        return name


def _default_name(config: InputFileConfig, context: Context) -> str:
    suffix = ".csv" if config.source is None else PurePosixPath(config.source).suffix
    ti = context["ti"]
    return stable_name(ti.dag_id, ti.task_id, int(getattr(ti, "map_index", -1)), suffix)


def _content(config: InputFileConfig, name: str) -> bytes:
    """Return the checked content of the file."""
    limit = config.max_bytes
    if config.source is not None:
        content = _read(config.source, config.storage_conn_id, limit)
    else:
        content = rows_as_file(config.rows, name, config.encoding)
        if len(content) > limit:
            raise ValueError(f"The file with the rows has {len(content)} bytes, more than max_bytes={limit}")
    check_content(content, name, config.encoding)
    return content


def _read(source: str, conn_id: str | None, limit: int) -> bytes:
    from airflow_provider_sequentum.transfers.destination import open_destination

    path = open_destination(source, conn_id)
    try:
        with path.open("rb") as stream:  # type: ignore[no-untyped-call]
            content: bytes = stream.read(limit + 1)
    except Exception as error:  # the errors of object stores are not OSErrors
        raise RunFilesUnavailable(
            f"{source} could not be read: {str(error) or repr(error)}. Nothing was uploaded."
        ) from error
    if len(content) > limit:
        raise ValueError(f"{source} has more than max_bytes={limit} bytes")
    return content


def _space_of(agent_id: int, hook: SequentumConnection) -> int:
    from airflow_provider_sequentum.api import agents

    with about_run(agent_id), client_errors_as_exceptions(hook.sequentum_conn_id):
        space_id = hook.send(agents.get(agent_id)).space_id
        if space_id is None:
            raise SequentumRequestRefused(
                f"Agent {agent_id} is not in a space, so it has no input files. Nothing was uploaded. "
                "Move the agent to a space, or pass the rows as input parameters of mapped tasks."
            )
    return space_id


def rows_to_input_parameters(
    rows: Iterable[Mapping[str, Any]] | str,
    parameter: str | None = None,
    *,
    max_rows: int = DEFAULT_ROWS,
    max_bytes: int = DEFAULT_PARAMETERS_BYTES,
) -> list[dict[str, Any]]:
    """Split rows into the input parameters of mapped runs, for an agent that is not in a space with input files.

    Returns a list for ``StartAgentRunOperator.partial(...).expand(input_parameters=...)``, in the order of the rows.
    The same rows always give the same list. Without rows the list is empty, and Airflow skips the mapped task.

    :param rows: a list of mappings, or a JSON string of one.
    :param parameter: the input parameter of the agent that takes a list as CSV text. Each run then gets several rows,
        with a header of all columns. By default, each row becomes the input parameters of its own run.
    :param max_rows: the maximum number of rows for a run. Default: 1,000.
    :param max_bytes: the maximum size in bytes of the input parameters of a run, as JSON. Default: 64 KiB.
    :raises SequentumRequestRefused: the rows cannot be written, or a single row exceeds ``max_bytes``. Not retried.
    """
    with value_errors_as_exceptions("Nothing was started."):
        if max_rows < 1:
            raise ValueError(f"max_rows must be 1 or more, not {max_rows}")
        written = _rows(rows)
        if parameter is not None:
            return _split(written, parameter, max_rows, max_bytes)
        for number, row in enumerate(written, 1):
            _check_size(number, len(_json_text(row).encode()), max_bytes)
    return written


def _split(rows: list[dict[str, Any]], parameter: str, max_rows: int, max_bytes: int) -> list[dict[str, Any]]:
    header, *lines = _csv_lines(rows)
    empty = len(_json_text({parameter: header}).encode())
    parts: list[list[str]] = []
    size = 0
    for number, line in enumerate(lines, 1):
        longer = len(_json_text(line).encode()) - len('""')  # the JSON size of a text is the sum of its parts' sizes
        _check_size(number, empty + longer, max_bytes)
        if not parts or len(parts[-1]) >= max_rows or size + longer > max_bytes:
            parts.append([])
            size = empty
        parts[-1].append(line)
        size += longer
    return [{parameter: header + "".join(part)} for part in parts]


def _check_size(number: int, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise ValueError(f"Row number {number} takes {size} bytes as input parameters, more than max_bytes={max_bytes}")


def stable_name(dag_id: str, task_id: str, map_index: int, suffix: str) -> str:
    """Return the name of a task's file: readable, safe, and unique for the task and the map index."""
    digest = hashlib.sha256(json.dumps([dag_id, task_id, map_index]).encode()).hexdigest()[:8]
    index = f"-{map_index}" if map_index >= 0 else ""
    stem = _NOT_IN_A_STEM.sub("_", f"{dag_id}-{task_id}")[:120].strip(".")
    return f"{stem}{index}-{digest}{_NOT_IN_A_STEM.sub('', suffix)[:20].lower()}"


def check_content(content: bytes, name: str, encoding: str) -> None:
    """Check that a file matches its extension.

    :raises ValueError: the file is empty, has another encoding, or has another format.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if not content.strip():
        raise ValueError(f"{name!r} is empty")
    if (start := MAGIC.get(suffix)) is not None and not content.startswith(start):
        raise ValueError(f"{name!r} is not a {suffix} file: it does not start like one")
    if suffix not in TEXT_SUFFIXES:
        return
    try:
        text = content.decode(encoding)
    except UnicodeError as error:
        where = f" at byte {error.start}" if isinstance(error, UnicodeDecodeError) else ""
        raise ValueError(f"{name!r} is not encoded in {encoding}{where}. Set encoding=, or convert the file") from None
    if "\0" in text:
        raise ValueError(f"{name!r} has a NUL character, so it may have another encoding. Set encoding=")


def rows_as_file(rows: object, name: str, encoding: str) -> bytes:
    """Return rows as the bytes of a file, in the format of its extension.

    :raises ValueError: there are no rows, a row is not a mapping, or the format cannot represent the rows.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in ROW_SUFFIXES:
        raise ValueError(f"Rows cannot be written to {name!r}: its extension must be one of {', '.join(ROW_SUFFIXES)}")
    written = _rows(rows)
    if not written:
        raise ValueError("rows must be a list with at least one mapping, but it is empty")
    if suffix == ".csv":
        text = "".join(_csv_lines(written))
    elif suffix == ".json":
        text = _json_text(written)
    else:
        text = "".join(f"{_json_text(row)}\n" for row in written)
    try:
        return text.encode(encoding)
    except UnicodeEncodeError as error:
        raise ValueError(f"rows contain {error.object[error.start]!r}, which {encoding} cannot encode") from None


def _rows(rows: object) -> list[dict[str, Any]]:
    try:
        found = plain(json.loads(rows) if isinstance(rows, str) else rows)
    except (TypeError, ValueError) as error:
        raise ValueError(f"rows must be a list of mappings: {error}") from None
    if not isinstance(found, list):
        raise ValueError(f"rows must be a list of mappings, not {shown(found)}")  # noqa: TRY004 - the value is wrong
    for number, row in enumerate(found, 1):
        if not isinstance(row, dict) or not row:
            raise ValueError(f"rows must be mappings with at least one key; number {number} is {shown(row)}")
    # In a data frame, NaN stands for a missing value, even in text columns.
    return [{name: None if cell != cell else cell for name, cell in row.items()} for row in found]  # noqa: PLR0124


def _csv_lines(rows: list[dict[str, Any]]) -> list[str]:
    """Return the header and the text of each row, in which a field may contain line breaks."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    fields = [{name: _field(value) for name, value in row.items()} for row in rows]
    lines = []
    for row in (dict(zip(columns, columns, strict=True)), *fields):
        stream = io.StringIO(newline="")
        # The writer quotes a carriage return only if its line terminator has one.
        csv.DictWriter(stream, columns, lineterminator="\r\n").writerow(row)
        lines.append(stream.getvalue().removesuffix("\r\n") + "\n")
    return lines


def _field(value: Any) -> Any:
    return _json_text(value) if isinstance(value, (bool, float, dict, list)) else value


def _json_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
