"""The files a finished run leaves: its data in the agent's format, and its logs."""

from __future__ import annotations

import csv
import html
import importlib
import importlib.util
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from airflow_provider_sequentum.sandbox.agents import Agent, FileType, OutputFormat
from airflow_provider_sequentum.sandbox.data_sets import Record
from airflow_provider_sequentum.sandbox.runs import Observation, Run


@dataclass(frozen=True)
class RunFile:
    """A file of a run. Its bytes are made by ``render`` or lie at ``path``."""

    id: int
    name: str
    file_type: int | None
    created: datetime
    render: Callable[[], bytes] | None = None
    path: Path | None = None


def files_of(run: Run, agent: Agent, seen: Observation) -> list[RunFile]:
    """The files of a run as it is now: none before it has ended, none for a skipped one."""
    if seen.end_time is None or run.files_removed or seen.start_time is None:
        return []
    end, records = seen.end_time, (run.records if run.records is not None else agent.records)[: seen.data_count]
    contents: list[tuple[str, int | None, Callable[[], bytes] | None, Path | None]] = []
    parts = run.options.parallelism or 1
    name = agent.file_name or f"output.{agent.output}"
    if run.options.parallel_export == "Separated" and parts > 1:
        stem, dot, ending = name.rpartition(".")
        columns = _columns_of(records)
        for number in range(parts):
            part, part_name = records[number::parts], f"{stem}_{number + 1}{dot}{ending}"
            contents.append((part_name, FileType.DeliveredFile, partial(render, part, agent.output, columns), None))
    elif seen.data_count:
        contents.append((name, FileType.DeliveredFile, partial(render, records, agent.output), None))
    contents += [(extra.name, extra.file_type, extra.content.encode, extra.path) for extra in agent.extra_files]
    log = log_lines(run, agent, seen)
    contents.append(("log.txt", FileType.LogText, lambda: "\n".join([*log, ""]).encode(), None))
    if run.options.log_mode == "TextAndHtml":
        contents.append(("log.html", FileType.LogHtml, lambda: _log_html(log), None))
    return [
        RunFile(run.sequence * 1000 + number, name, file_type, end, None if path else make, path)
        for number, (name, file_type, make, path) in enumerate(contents, 1)
    ]


def log_lines(run: Run, agent: Agent, seen: Observation) -> list[str]:
    """The text log of a run."""
    steps = [(seen.start_time, "Info", f"Run {run.id} of agent {agent.name!r} version {run.agent_version} started")]
    steps.append((seen.end_time, "Info", f"Extracted {seen.data_count} records, exported {seen.export_count or 0}"))
    if seen.message:
        steps.append((seen.end_time, "Error" if seen.error_count else "Info", seen.message))
    steps.append((seen.end_time, "Info", f"Run ended: {seen.status_name}"))
    return [f"{moment:%Y-%m-%d %H:%M:%S} [{level}] {text}" for moment, level, text in steps if moment]


def render(records: list[Record], output: OutputFormat, columns: list[str] | None = None) -> bytes:
    """Records as the bytes of a file.

    :param columns: the columns of a table, which it has without records too. By default, those of the records.
    :raises ValueError: for parquet and xlsx when the library for them is not installed.
    """
    columns = _columns_of(records) if columns is None else columns
    match output:
        case "json":
            return json.dumps(records, ensure_ascii=False, indent=1).encode()
        case "ndjson":
            return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
        case "parquet":
            return _parquet(records)
        case "xlsx":
            return _xlsx(records, columns)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows({column: _cell(value) for column, value in record.items()} for record in records)
    return text.getvalue().encode()


def check_output(output: OutputFormat) -> None:
    """Find out that a format cannot be written before an agent promises it.

    :raises ValueError: when the library for it is not installed.
    """
    library = {"parquet": "pyarrow", "xlsx": "openpyxl"}.get(output)
    if library and importlib.util.find_spec(library) is None:
        raise ValueError(f"output {output!r} needs the package {library}, which is not installed")


def _columns_of(records: list[Record]) -> list[str]:
    return list(dict.fromkeys(key for record in records for key in record))


def _cell(value: Any) -> Any:
    """A value as a cell of a CSV file: what is not a plain value is written as JSON."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (bool, dict, list)) else value


def _parquet(records: list[Record]) -> bytes:
    check_output("parquet")
    arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    target = io.BytesIO()
    parquet.write_table(arrow.Table.from_pylist(records), target)
    return target.getvalue()


def _xlsx(records: list[Record], columns: list[str]) -> bytes:
    check_output("xlsx")
    book = importlib.import_module("openpyxl").Workbook()
    for row in [columns, *([_cell(record.get(column)) for column in columns] for record in records)]:
        book.active.append(row)
    target = io.BytesIO()
    book.save(target)
    return target.getvalue()


def _log_html(lines: list[str]) -> bytes:
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f"<!DOCTYPE html><html><head><title>Run log</title></head><body><ol>{items}</ol></body></html>".encode()
