"""Changes are those that plain dictionaries find; and they are published exactly once, whatever kills the task."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_sequentum.exceptions import RunFilesUnavailable, RunRecordsNotComparable
from airflow_provider_sequentum.quality.changes import Comparison
from airflow_provider_sequentum.quality.engine import Workspace, open_workspace
from airflow_provider_sequentum.quality.published import (
    Pointer,
    Publication,
    publish_changes,
)

Record = dict[str, Any]


class MemoryFile:
    def __init__(self, name: str, content: bytes) -> None:
        self.name, self.content = name, content

    def open(self, mode: str) -> Any:
        return io.BytesIO(self.content)


class Killed(BaseException):
    """The task's process ends here."""


class Store:
    """An object storage in memory. It kills before or after the effect of its ``fatal``-th step."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.fatal = math.inf
        self.dies_after_effect = False
        self.steps = 0
        self.before_pointer_is_read_again: Callable[[], object] = lambda: None

    def _step(self, effect: Callable[[], Any]) -> Any:
        self.steps += 1
        if self.steps != self.fatal:
            return effect()
        if self.dies_after_effect:
            effect()
        raise Killed

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    def open(self, path: str) -> MemoryFile:
        file: MemoryFile = self._step(lambda: MemoryFile(path.rpartition("/")[2], self.files[path]))
        return file

    def read_pointer(self) -> bytes | None:
        if self.steps:
            self.before_pointer_is_read_again()
        content: bytes | None = self._step(lambda: self.files.get("pointer"))
        return content

    def write_pointer(self, content: bytes) -> None:
        self._step(lambda: self.files.update({"pointer": content}))

    def write_changes(self, name: str, content: Path) -> str:
        data = content.read_bytes()
        self._step(lambda: self.files.update({f"changes/{name}": data}))
        return f"changes/{name}"


@pytest.fixture(scope="module")
def workspace() -> Iterator[Workspace]:
    with open_workspace() as opened:
        yield opened


def publish(store: Store, *paths: str, workspace: Workspace | None = None, **options: Any) -> Publication:
    store.steps = 0
    opened = open_workspace if workspace is None else lambda: nullcontext(workspace)
    return publish_changes(store, opened, paths, **{"key": ["sku"], "ignored": [], **options})


def written(store: Store, name: str) -> list[Record]:
    rows: list[Record] = pq.read_table(io.BytesIO(store.files[f"changes/{name}.parquet"])).to_pylist()
    return rows


def ndjson(records: list[Record]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


# The oracle: one dictionary for each run, and what two values say.

NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d{1,3})?")


def text(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return json.dumps(value, sort_keys=True)
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def same(one: Any, two: Any) -> bool:
    first, second = text(one), text(two)
    if first == second:
        return True
    if not NUMBER.fullmatch(first) or not NUMBER.fullmatch(second):
        return False
    return Decimal(first) == Decimal(second)


def expected(new: list[Record], old: list[Record], ignored: list[str]) -> tuple[list[str], ...]:
    now, before = ({text(record["sku"]): record for record in records} for records in (new, old))

    def differs(key: str) -> bool:
        columns = {*now[key], *before[key]} - {"sku", *ignored}
        return any(not same(now[key].get(column), before[key].get(column)) for column in columns)

    return (
        [key for key in now if key not in before],
        [key for key in now if key in before and differs(key)],
        [key for key in before if key not in now],
    )


KEYS = st.sampled_from(["A", "a", "A ", "007", "7", "é", "'; --", "\u2028"]) | st.integers(1, 9)
VALUES = st.sampled_from(
    [
        *(None, "", "x", "X", " x", "007", "7", 7, 7.0, "7.0", "7.50", 7.5, 0, -1, 0.1, 1e-7, "1e-07", True, "true"),
        *(False, "2026-01-01", [], [1, "x"]),
        *(2**53, 2**53 + 1, str(2**53 + 1), f"{2**53 + 1}.0", -(2**53) - 1, 10**18, "1e18", 1e18, 2**63 - 1, 2**64),
        *("1.0000000000000000", "1.0000000000000001", "1.0000000000000002", "-0.0", "1e-330", "1e-331", "10e-331"),
        *({"a": 1, "b": [True]}, {"b": [True], "a": 1}),
    ]
)
COLUMNS = st.sampled_from(["price", "Price", "", "n", "c0", "now", "seen", 'a"b'])
RECORDS = st.lists(
    st.builds(lambda key, cells: {"sku": key, **cells}, KEYS, st.dictionaries(COLUMNS, VALUES, max_size=3)),
    min_size=1,
    max_size=6,
    unique_by=lambda record: text(record["sku"]),
)


def as_csv(records: list[Record]) -> bytes:
    columns = list(dict.fromkeys(column for record in records for column in record))
    rows = [columns, *([text(record.get(column)) for column in columns] for record in records)]
    return "\n".join(",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows).encode()


def as_files(records: list[Record], first: int, *, is_csv: bool) -> list[MemoryFile]:
    """The records in two files, in each of which a column may have another type."""
    parts = [part for part in (records[:first], records[first:]) if part]
    if is_csv:
        return [MemoryFile("a.csv", as_csv(part)) for part in parts]
    return [MemoryFile("a.ndjson", ndjson(part)) for part in parts]


@settings(max_examples=settings().max_examples // 5)
@given(
    RECORDS,
    RECORDS,
    st.lists(st.sampled_from(["seen", "absent"]), max_size=1),
    st.booleans(),
    st.booleans(),
    st.integers(0, 3),
)
def test_changes_are_those_of_dictionaries(
    workspace: Workspace,
    new: list[Record],
    old: list[Record],
    ignored: list[str],
    new_is_csv: bool,
    old_is_csv: bool,
    first: int,
) -> None:
    current, previous = (
        workspace.load(as_files(rows, first, is_csv=is_csv)) for rows, is_csv in ((new, new_is_csv), (old, old_is_csv))
    )
    comparison = Comparison(workspace, current, previous, ["sku"], ignored)
    for table in (current, previous):
        comparison.check_key(table, "records")
    changes = comparison.compare()
    added, changed, removed = expected(new, old, ignored)

    def keys(sql: str, table: Any) -> list[str]:
        place = [*table.columns].index("sku")
        return [text(row[place]) for row in workspace.rows(sql)]

    assert keys(comparison.added, current) == added
    assert keys(comparison.changed, current) == changed
    assert keys(comparison.removed, previous) == removed
    assert (changes.added, changes.changed, changes.removed) == (len(added), len(changed), len(removed))
    assert changes.unchanged == len(new) - len(added) - len(changed)
    assert bool(changes.changed_columns) == bool(changed)
    assert changes.is_empty == (not added and not changed and not removed)


@pytest.mark.parametrize(("large", "other"), [(2**53 + 1, 2**53), (-(2**53) - 1, -(2**53)), (2**63 - 1, 2**63 - 2)])
def test_large_integers_are_not_rounded_where_another_file_has_fractions(store: Store, large: int, other: int) -> None:
    """As doubles, the two are equal."""
    for run, number in (("run-1", large), ("run-2", other)):
        store.files[f"{run}/a.ndjson"] = ndjson([{"sku": "W", "id": number}])
        store.files[f"{run}/b.ndjson"] = ndjson([{"sku": "F", "id": 0.5}])
    publish(store, "run-1/a.ndjson", "run-1/b.ndjson")
    assert publish(store, "run-2/a.ndjson", "run-2/b.ndjson").summary()["changed_columns"] == {"id": 1}
    both = ndjson([{"sku": "V", "id": other}, {"sku": "W", "id": large}])
    store.files |= {"ids/a.ndjson": both, "ids/b.ndjson": store.files["run-1/b.ndjson"]}
    del store.files["pointer"]
    assert publish(store, "ids/a.ndjson", "ids/b.ndjson", key=["id"]).summary()["added"] == 3, "no id is repeated"


@pytest.mark.parametrize(
    ("one", "two", "is_same"),
    [
        ("1.000000000000000001", "1.000000000000000002", False),
        ("9007199254740993", "9007199254740992.0", False),
        ("9007199254740993", "9007199254740993.0", True),
        ("1000000000000000000", "1e18", True),
        ("1e-330", "1e-331", False),
        ("1E-330", "10e-331", True),
        ("0.00", "-0", True),
        ("-12.50", "-1.25e+1", True),
        ("12.5", "-12.5", False),
        ("007", "7", False),
    ],
)
def test_numbers_as_text_are_compared_digit_by_digit(store: Store, one: str, two: str, is_same: bool) -> None:
    assert same(one, two) is is_same
    for run, number in (("run-1", one), ("run-2", two)):
        store.files[f"{run}/a.csv"] = f"sku,amount\nA,{number}\n".encode()
    publish(store, "run-1/a.csv")
    changes = publish(store, "run-2/a.csv").summary()
    assert (changes["changed"], changes["unchanged"]) == ((0, 1) if is_same else (1, 0))


OLD = [{"sku": "A", "price": 1}, {"sku": "B", "price": 2}, {"sku": "C", "price": 3, "seen": "x"}]
NEW = [{"sku": "B", "price": 2}, {"sku": "C", "price": 4, "seen": "y"}, {"sku": "D", "price": 5}]


@pytest.fixture
def store() -> Store:
    made = Store()
    made.files = {"run-1/a.ndjson": ndjson(OLD), "run-2/a.ndjson": ndjson(NEW), "run-3/a.ndjson": ndjson(OLD)}
    return made


def test_the_first_run_adds_all_and_the_next_one_what_changed(store: Store) -> None:
    first = publish(store, "run-1/a.ndjson")
    assert (first.summary()["added"], first.compared_with) == (3, [])
    assert written(store, "added") == [{"seen": None, **record} for record in OLD]
    assert written(store, "changed") == written(store, "removed") == []
    second = publish(store, "run-2/a.ndjson")
    assert second.summary() == {
        "added": 1,
        "changed": 1,
        "removed": 1,
        "unchanged": 1,
        "changed_columns": {"price": 1, "seen": 1},
        "files": {name: f"changes/{name}.parquet" for name in ("added", "changed", "removed")},
        "compared_with": ["run-1/a.ndjson"],
    }
    assert written(store, "changed") == [{"sku": "C", "price": 4, "seen": "y"}]
    assert written(store, "removed") == [{"sku": "A", "price": 1, "seen": None}]
    assert publish(store, "run-3/a.ndjson").compared_with == ["run-2/a.ndjson"]


@pytest.mark.parametrize("dies_after_effect", [False, True])
@pytest.mark.parametrize("has_earlier_run", [False, True])
def test_killed_at_any_step_a_retry_publishes_the_same_once(
    dies_after_effect: bool, has_earlier_run: bool, store: Store, workspace: Workspace
) -> None:
    if has_earlier_run:
        publish(store, "run-1/a.ndjson", workspace=workspace)

    def prepared() -> Store:
        made = Store()
        made.files = dict(store.files)
        return made

    undisturbed = prepared()
    summary = publish(undisturbed, "run-2/a.ndjson", workspace=workspace).summary()
    steps = undisturbed.steps
    assert steps >= 7
    for fatal in range(1, steps + 1):
        made = prepared()
        pointer = made.files.get("pointer")
        made.fatal, made.dies_after_effect = fatal, dies_after_effect
        with pytest.raises(Killed):
            publish(made, "run-2/a.ndjson", workspace=workspace)
        if fatal < steps or not dies_after_effect:
            assert made.files.get("pointer") == pointer, "it moves as the last act"
        made.fatal = math.inf
        for _ in range(2):  # the retry, and a task that is cleared after it
            assert publish(made, "run-2/a.ndjson", workspace=workspace).summary() == summary
            assert made.files == undisturbed.files


def refusal(store: Store, *paths: str, **options: Any) -> str:
    before = dict(store.files)
    with pytest.raises(RunRecordsNotComparable) as refused:
        publish(store, *paths, **options)
    assert store.files == before, "nothing was published"
    return str(refused.value)


@pytest.mark.parametrize(
    ("content", "key", "says"),
    [
        (
            b'{"sku":"A"}\n{"sku":"B"}\n{"sku":"A"}\n',
            ["sku"],
            "the records of this run repeat the key ('sku'): 'A' (2 t",
        ),
        (
            b'{"sku":"A"}\n{"sku":""}\n{"x":1}\n',
            ["sku"],
            "this run have no value in the key ('sku') in 2 of 3 cases, first in record 2",
        ),
        (b'{"sku":"A"}\n', ["id"], "have no column 'id', which is part of the key; the columns are 'sku'"),
        (b'{"sku":"A","x":1}\n{"sku":"A","x":1}\n', ["sku", "x"], "'A' / '1' (2 times)"),
        (b"[]", ["sku"], "the files contain no records: run-9/a.json"),
        (b'{"sku":"' + b"x" * 500 + b'"}\n{"sku":"' + b"x" * 500 + b'"}', ["sku"], "xxx... (2 times)"),
    ],
)
def test_a_key_that_is_none_is_refused(store: Store, content: bytes, key: list[str], says: str) -> None:
    publish(store, "run-1/a.ndjson")
    store.files["run-9/a.json"] = content
    assert says in refusal(store, "run-9/a.json", key=key)


def test_a_key_that_the_records_before_do_not_have_is_refused(store: Store) -> None:
    publish(store, "run-1/a.ndjson")
    store.files["run-9/a.ndjson"] = b'{"sku":"A","id":1,"seen":"x"}\n'
    assert "published last have no column 'id'" in refusal(store, "run-9/a.ndjson", key=["id"])
    assert "published last have no value in the key ('seen') in 2 of 3 cases" in refusal(
        store, "run-9/a.ndjson", key=["seen"]
    )


def test_a_pointer_that_does_not_fit_is_refused(store: Store) -> None:
    for path in ("run-1/a.ndjson", "run-2/a.ndjson"):
        publish(store, path)
    assert "others after them" in refusal(store, "run-1/a.ndjson")
    pointer = store.files["pointer"]
    store.files["run-2/a.ndjson"] += b'{"sku":"E"}\n'
    assert "have overwritten those" in refusal(store, "run-2/a.ndjson")
    assert "run-2/a.ndjson was published last, but has been replaced since" in refusal(store, "run-3/a.ndjson")
    for damaged in (b"", pointer[:-20], b"[]", b'{"format":2,"current":{"files":[]}}'):
        store.files["pointer"] = damaged
        assert "the pointer is damaged, or this version cannot read it" in refusal(store, "run-3/a.ndjson")


def test_files_that_were_published_long_ago_are_refused(store: Store) -> None:
    """As when the task of an old DAG run is cleared: its records would undo those of all later runs."""
    paths = [f"run-{number}/a.ndjson" for number in range(1, 7)]
    for path in paths:
        store.files[path] = ndjson(OLD)
        publish(store, path)
        publish(store, path)  # a task that is cleared
    for path in paths[:-1]:
        assert "others after them" in refusal(store, path)
    pointer = Pointer.parse(store.files["pointer"])
    assert (pointer.current.paths, pointer.previous and pointer.previous.paths) == (paths[-1:], paths[-2:-1])
    assert len(pointer.earlier) == 4
    store.files[paths[0]] = ndjson(NEW)
    assert publish(store, paths[0]).compared_with == paths[-1:], "these are other files"


def test_a_pointer_remembers_a_bounded_number_of_publications(
    store: Store, monkeypatch: pytest.MonkeyPatch, workspace: Workspace
) -> None:
    monkeypatch.setattr("airflow_provider_sequentum.quality.published.MAX_EARLIER", 3)
    for number in range(8):
        store.files[path := f"run-{number}/a.ndjson"] = ndjson(OLD)
        publish(store, path, workspace=workspace)
    assert len(Pointer.parse(store.files["pointer"]).earlier) == 3
    assert "others after them" in refusal(store, "run-3/a.ndjson", workspace=workspace)


def test_a_pointer_that_moved_meanwhile_is_not_overwritten(store: Store) -> None:
    publish(store, "run-1/a.ndjson")
    other = Store()
    other.files = store.files

    def publish_other() -> None:
        store.before_pointer_is_read_again = lambda: None
        publish(other, "run-3/a.ndjson")

    store.before_pointer_is_read_again = publish_other
    with pytest.raises(RunFilesUnavailable):
        publish(store, "run-2/a.ndjson")
    assert Pointer.parse(store.files["pointer"]).current.paths == ["run-3/a.ndjson"]
    assert publish(store, "run-2/a.ndjson").compared_with == ["run-3/a.ndjson"]


def test_many_columns_are_compared(workspace: Workspace) -> None:
    old = {"sku": "A", **{f"column {number}": number for number in range(300)}}
    new = {**old, "column 299": "other"}
    current, previous = (workspace.load([MemoryFile("a.ndjson", ndjson([record]))]) for record in (new, old))
    assert Comparison(workspace, current, previous, ["sku"]).compare().changed_columns == {"column 299": 1}
