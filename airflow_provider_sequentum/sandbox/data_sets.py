"""Records for agents: data sets that come with the sandbox, and the user's own CSV and JSON files."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

Record = dict[str, Any]

# Folder of the data sets that come with the sandbox; SOURCES.md in it names their sources and licences.
SHIPPED = Path(__file__).parent / "data"
# The data set an agent yields when nothing in its prompt names another.
DEFAULT = "us_states"


def read_records(path: Path) -> list[Record]:
    """The records of a CSV or JSON file (an array of objects, or one object per line).

    CSV values stay text, because a CSV file says nothing about types.

    :raises ValueError: when the file is not one of those, or not readable as what it claims to be.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
        match path.suffix.lower():
            case ".csv":
                records: Any = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
            case ".json":
                records = json.loads(text)
            case ".ndjson" | ".jsonl":
                records = [json.loads(line) for line in text.split("\n") if line.strip()]
            case suffix:
                raise ValueError(f"files ending in {suffix!r} are not read; use .csv, .json, .ndjson or .jsonl")
    except (csv.Error, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} cannot be read: {error}") from error
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise ValueError(f"{path.name} is not a list of objects")
    if path.suffix.lower() == ".csv" and any(None in record or None in record.values() for record in records):
        raise ValueError(f"{path.name} has rows with more or fewer values than its header")
    return records


def read_folder(folder: Path) -> dict[str, list[Record]]:
    """Every data file of a folder, by the file's name without its ending.

    :raises ValueError: when there is none, or two of one name, or one is unreadable.
    """
    found: dict[str, list[Record]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in {".csv", ".json", ".ndjson", ".jsonl"}:
            if path.stem in found:
                raise ValueError(f"{folder} has two data files named {path.stem!r}")
            found[path.stem] = read_records(path)
    if not found:
        raise ValueError(f"{folder} has no .csv, .json, .ndjson or .jsonl file")
    return found


def choose(prompt: str, names: list[str]) -> str | None:
    """The data set a prompt speaks of: the longest name found in it, ``_`` and ``-`` read as spaces.

    A singular counts: "every planet" is about ``planets``.
    """
    text = " ".join(prompt.lower().replace("_", " ").replace("-", " ").split())
    fitting = [name for name in names if _spoken(name) in text or _spoken(name).removesuffix("s") in text]
    return max(fitting, key=len, default=None)


def _spoken(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())
