from __future__ import annotations

import json
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from airflow_provider_sequentum.exceptions import (
    RunFilesUnavailable,
    RunRecordsNotComparable,
    RunRecordsUnreadable,
    SequentumException,
    SequentumRequestRefused,
    SequentumSkipped,
)
from airflow_provider_sequentum.operators.run_changes import RunChangesOperator
from airflow_provider_sequentum.quality import engine
from airflow_provider_sequentum.quality.published import Pointer
from tests.support.stored import changed


class TaskInstance:
    def __init__(self) -> None:
        self.pushed: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = json.loads(json.dumps(value))


class Lake:
    """A folder with the landed files of some runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pointer = folder / "state" / "published.json"
        self.ti = TaskInstance()

    def run(self, run: str, content: str | bytes, **options: Any) -> dict[str, Any]:
        (self.folder / run).mkdir(exist_ok=True)
        file = self.folder / run / "output.csv"
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        defaults = {"key": "sku", "files": [str(file)], "pointer": str(self.pointer)}
        self.operator = RunChangesOperator(task_id="changes", **{**defaults, **options})
        return self.operator.execute({"ti": self.ti})  # type: ignore[typeddict-item]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path)


def test_changes_are_written_beside_the_landed_files(lake: Lake) -> None:
    lake.run("run-1", "sku,price\nA,1\nB,2\nC,3\n")
    summary = lake.run("run-2", "sku,price\nB,2.00\nC,4\nD,5\n")
    assert {name: summary[name] for name in ("added", "changed", "removed", "unchanged")} == {
        "added": 1,
        "changed": 1,
        "removed": 1,
        "unchanged": 1,
    }
    assert summary["changed_columns"] == {"price": 1}
    folder = lake.folder / "run-2" / "_changes"
    assert {Path(path).parent for path in summary["files"].values()} == {folder}
    assert pq.read_table(folder / "changed.parquet").to_pylist() == [{"sku": "C", "price": "4"}]
    assert sorted(path.name for path in folder.iterdir()) == ["added.parquet", "changed.parquet", "removed.parquet"]
    assert json.loads(lake.pointer.read_text())["previous"]["files"][0]["path"].endswith("run-1/output.csv")


def test_lineage(lake: Lake) -> None:
    lake.run("run-1", "sku,price\nA,1\nB,2\n")
    lake.run("run-2", "sku,price\nB,2.00\nC,4\nD,5\n")
    lineage = lake.operator.get_openlineage_facets_on_complete(None)
    assert lineage is not None
    assert [dataset.name for dataset in lineage.inputs] == [
        str(lake.folder / run / "output.csv") for run in ("run-2", "run-1")
    ]
    folder = lake.folder / "run-2" / "_changes"
    assert {dataset.name: dataset.outputFacets["outputStatistics"].rowCount for dataset in lineage.outputs} == {
        str(folder / "added.parquet"): 2,
        str(folder / "changed.parquet"): 0,
        str(folder / "removed.parquet"): 1,
    }


def test_a_run_without_changes_skips_when_it_is_told_to(lake: Lake) -> None:
    lake.run("run-1", "sku\nA\n")
    assert lake.run("run-2", "sku\nA\n")["unchanged"] == 1
    with pytest.raises(SequentumSkipped, match=r"Nothing changed\. Records: 1\."):
        lake.run("run-3", "sku\nA\n", on_unchanged="skip")
    assert lake.ti.pushed["changes"]["unchanged"] == 1
    assert "run-3" in lake.pointer.read_text()


def test_what_cannot_be_compared_fails_for_good_and_publishes_nothing(lake: Lake) -> None:
    lake.run("run-1", "sku\nA\n")
    pointer = lake.pointer.read_bytes()
    for content, kind, says in (
        ("sku\nA\nA\n", RunRecordsNotComparable, r"repeat the key \('sku'\): 'A' \(2 times\). Nothing was published"),
        ("sku\n", RunRecordsNotComparable, "contain no records"),
        ("", RunRecordsUnreadable, "is empty: 0 bytes"),
        ("id\n1\n", RunRecordsNotComparable, "have no column 'sku'"),
    ):
        with pytest.raises(kind, match=says):
            lake.run("run-2", content)
    assert lake.pointer.read_bytes() == pointer
    assert not (lake.folder / "run-2" / "_changes").exists()


def test_what_a_retry_can_help_is_retried(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunFilesUnavailable, match="Could not read"):
        lake.run("run-1", "sku\nA\n", files=str(lake.folder / "absent" / "output.csv"))
    monkeypatch.setattr(engine.Workspace, "_check_disk", full)
    with pytest.raises(RunFilesUnavailable, match="more than 1 bytes"):
        lake.run("run-1", "sku\nA\n")
    assert not lake.pointer.exists()


def full(*_: object) -> None:
    raise RunFilesUnavailable("The files need more than 1 bytes of disk space")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"files": []}, "files must name at least one landed file"),
        ({"files": None}, "files must be set"),
        ({"key": ""}, "key must be set"),
        ({"key": [1]}, "key must be a string"),
        ({"on_unchanged": "fail"}, "on_unchanged must be one of 'succeed', 'skip'"),
        ({"pointer": "published.json"}, "neither an address"),
        ({"files": "s3://a:secret@bucket/x.csv"}, r"contains a password"),
        ({"destination": "/a//b"}, "two slashes"),
    ],
)
def test_a_wrong_parameter_is_refused(lake: Lake, options: dict[str, Any], says: str) -> None:
    with pytest.raises(SequentumRequestRefused, match=says) as refused:
        lake.run("run-1", "sku\nA\n", **options)
    assert "secret" not in str(refused.value)
    assert "Nothing was compared" in str(refused.value)


MANY = [f"{number}{'c' * 700}" for number in range(300)]


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        pytest.param(["a\0b"], {"a\ufffdb": 1}, id="NUL"),
        pytest.param(["\u202eevil\x1b[31m"], {"\ufffdevil\ufffd[31m": 1}, id="escapes and marks"),
        pytest.param(["x" * 1_000_000], {"x" * 197 + "\u2026": 1}, id="long"),
        pytest.param(MANY, None, id="many"),
    ],
)
def test_what_columns_are_called_can_be_stored(lake: Lake, columns: list[str], named: dict[str, int] | None) -> None:
    def records(value: int) -> str:
        return json.dumps([{"sku": "A", **dict.fromkeys(columns, value)}])

    files = [lake.folder / f"{number}.json" for number in (1, 2)]
    for number, file in enumerate(files, 1):
        file.write_text(records(number))
    _, summary = (lake.run(f"run-{file.stem}", "", files=[str(file)]) for file in files)
    assert named is None or summary["changed_columns"] == named
    assert len(summary["changed_columns"]) + summary.get("more_changed_columns", 0) == len(columns)
    stored = json.dumps(lake.ti.pushed)
    assert len(stored) < 48_000
    assert not any(mark in stored for mark in ("\\u0000", "\\u001b", "\\u202e"))


def test_the_error_that_names_columns_is_bounded(lake: Lake) -> None:
    file = lake.folder / "1.json"
    file.write_text(json.dumps([{f"{number}\0{'c' * 5000}": 1 for number in range(100)}]))
    with pytest.raises(RunRecordsNotComparable) as caught:
        lake.run("run-1", "", files=[str(file)])
    assert len(str(caught.value)) < 4_000
    assert "\0" not in str(caught.value)


def test_whatever_a_pointer_contains_a_task_ends_with_an_error_of_this_provider(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.run("run-1", "sku,price\nA,1\n")
    foreign, taken = [], 0
    with engine.open_workspace() as workspace:
        monkeypatch.setattr(engine, "open_workspace", lambda: nullcontext(workspace))
        for pointer in changed(lake.pointer.read_bytes()):
            with suppress(RunRecordsNotComparable):
                Pointer.parse(pointer)
                taken += 1
                lake.pointer.write_bytes(pointer)
                try:
                    lake.run("run-2", "sku,price\nA,2\n")
                except SequentumException:
                    continue
                except Exception as error:  # noqa: BLE001 - each is a finding
                    foreign.append((pointer, error))
    assert taken > 20
    assert foreign == []


@pytest.mark.parametrize("path", ["run-1/output.csv", "ftp://host/output.csv", "file:///a%20b.csv", ""])
def test_a_path_in_the_pointer_that_is_refused_says_what_to_do(lake: Lake, path: str) -> None:
    lake.run("run-1", "sku,price\nA,1\n")
    pointer = json.loads(lake.pointer.read_bytes())
    pointer["current"]["files"][0]["path"] = path
    lake.pointer.write_text(json.dumps(pointer))
    with pytest.raises(RunRecordsNotComparable) as refused:
        lake.run("run-2", "sku,price\nA,2\n")
    assert f"cannot be opened: {path!r} cannot be used: " in str(refused.value)
    assert str(refused.value).endswith("Restore the pointer or, to start over, remove it. Nothing was published.")


def test_records_that_are_now_read_with_another_delimiter_are_not_comparable(lake: Lake) -> None:
    lake.run("run-1", "sku~price\nA~1\n", delimiter="~")
    with pytest.raises(RunRecordsNotComparable, match=r"published last have no column 'sku', .* are 'sku~price'"):
        lake.run("run-2", "sku,price\nA,2\n")
