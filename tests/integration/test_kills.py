"""Landing as Parquet, the check and the comparison of records, killed at each of their steps, and then tried again."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from airflow_provider_sequentum.operators.run_changes import RunChangesOperator
from airflow_provider_sequentum.operators.run_records import CheckRunRecordsOperator
from airflow_provider_sequentum.sandbox import Sandbox
from airflow_provider_sequentum.sandbox.agents import ExtraFile
from airflow_provider_sequentum.transfers.landing import MANIFEST_NAME, UNFINISHED_SUFFIX
from airflow_provider_sequentum.transfers.run_files import RunFilesToObjectStorageOperator
from tests.support.killing import Killing, killing
from tests.support.landing import FakeTaskInstance, finished_run

PRODUCTS = "sku,region,price,sold\n00123,EU,9.50,2024-01-05\n00124,US,12,2024-01-06\n00125,EU,0.99,2024-01-06\n"
LANDING = f"{RunFilesToObjectStorageOperator.__module__}:{RunFilesToObjectStorageOperator.__name__}"
CHECK = f"{CheckRunRecordsOperator.__module__}:{CheckRunRecordsOperator.__name__}"
CHANGES = f"{RunChangesOperator.__module__}:{RunChangesOperator.__name__}"

Tree = dict[str, bytes]


def tree(folder: Path) -> Tree:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def restore(folder: Path, content: Tree) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def whole(content: Tree) -> Tree:
    """What a reader may take for data: all but what a killed attempt left half-written."""
    return {name: data for name, data in content.items() if not name.endswith(UNFINISHED_SUFFIX)}


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files of the processes that are killed."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.fixture
def processes(sandbox: Sandbox, temporary: Path) -> Iterator[Killing]:
    with killing(
        RunFilesToObjectStorageOperator.__module__,
        CheckRunRecordsOperator.__module__,
        RunChangesOperator.__module__,
        "airflow_provider_sequentum.quality.check",
        "airflow_provider_sequentum.quality.published",
        "duckdb",
        "pyarrow.parquet",
    ) as opened:
        yield opened


def chosen(steps: list[str], every: bool, *names: str) -> list[int]:
    """Return the steps to be killed at: all, or the first ones of these names and the last one of all."""
    return list(range(len(steps))) if every else sorted({*map(steps.index, names), len(steps) - 1})


EVERY = pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])


class TestLanding:
    @pytest.fixture
    def lake(self, tmp_path: Path) -> Path:
        return tmp_path / "lake"

    def run(self, sandbox: Sandbox, records: str = PRODUCTS) -> dict[str, Any]:
        """Return the ids of a run with records, a file that stays as it is, and one without records."""
        files = {"products.csv": records, "products.txt": "how they were found", "products 2.csv": ""}
        extra = [ExtraFile(name=name, content=content) for name, content in files.items()]
        agent_id = sandbox.add_agent("Shop", extra_files=extra).id
        return {"agent_id": agent_id, "run_id": finished_run(sandbox, agent_id)}

    def arguments(self, lake: Path, ids: dict[str, Any], **options: Any) -> dict[str, Any]:
        return {
            **ids,
            "destination": str(lake / "run"),
            "file_patterns": "*products*",
            "file_format": "parquet",
            "partition_by": "region",
            "schema_file": str(lake / "types.json"),
            "max_parallel_files": 1,
            **options,
        }

    def land(self, arguments: dict[str, Any]) -> list[str]:
        operator = RunFilesToObjectStorageOperator(task_id="land", **arguments)
        return operator.execute({"ti": FakeTaskInstance()})  # type: ignore[typeddict-item]

    def check(self, lake: Path, before: Tree, after: Tree) -> None:
        """What is there is whole, and of the run or of what was there before; a manifest names all that it should."""
        found = whole(tree(lake))
        manifest = json.loads(found[f"run/{MANIFEST_NAME}"])
        named = {f"run/{file['name']}": file for file in manifest["files"]}
        for name, data in found.items():
            if name != f"run/{MANIFEST_NAME}":
                assert data in (before.get(name), after.get(name)), name
                assert name in named or name == "types.json", name
        if manifest["is_complete"]:
            assert {name: hashlib.sha256(found[name]).hexdigest() for name in named} == {
                name: file["sha256"] for name, file in named.items()
            }

    @EVERY
    def test_the_next_try_lands_what_an_undisturbed_one_lands(
        self, sandbox: Sandbox, processes: Killing, lake: Path, temporary: Path, every: bool
    ) -> None:
        ids = self.run(sandbox)
        # The table has columns more than in the run before; and landed in another form before, whose files go.
        self.land(self.arguments(lake, self.run(sandbox, "sku,region\n00123,EU\n"), destination=str(lake / "before")))
        other = {"partition_by": "sold", "schema_file": str(lake / "before" / "types.json"), "file_patterns": "*s.csv"}
        self.land(self.arguments(lake, ids, **other))
        shutil.rmtree(lake / "before")
        before, arguments = tree(lake), self.arguments(lake, ids)
        steps = processes.run(LANDING, arguments, [lake, temporary], None)
        after = tree(lake)
        assert {name.partition("/")[2] for name in after} == {
            "",
            MANIFEST_NAME,
            "products.txt",
            "region=EU/products.parquet",
            "region=US/products.parquet",
        }
        assert {f"os.rename {Path(name).name}" for name in after} <= set(steps)
        quick = ("os.remove products.parquet", "half of products.parquet", "os.rename types.json")
        for step in chosen(steps, every, *quick):
            restore(lake, before)
            assert processes.run(LANDING, arguments, [lake, temporary], step) == steps[: step + 1]
            self.check(lake, before, after)
            self.land(arguments)
            assert tree(lake) == after, steps[step]

    @EVERY
    def test_no_file_is_removed_from_the_service_that_is_not_landed(
        self, sandbox: Sandbox, processes: Killing, lake: Path, temporary: Path, every: bool
    ) -> None:
        def arguments() -> dict[str, Any]:
            shutil.rmtree(lake, ignore_errors=True)
            options = {"remove_method": "RemoveAllFiles", "file_patterns": "*", "partition_by": None}
            return self.arguments(lake, self.run(sandbox), **options)

        steps = processes.run(LANDING, arguments(), [lake, temporary], None)
        after = tree(lake)
        removal = max(place for place, step in enumerate(steps) if step == "after a request")
        for step in chosen(steps, every) if every else [removal]:
            killed = arguments()
            processes.run(LANDING, killed, [lake, temporary], step)
            paths = self.land(killed)
            assert tree(lake).keys() == after.keys(), steps[step]
            for name in ("products.parquet", "products.txt"):
                assert (lake / "run" / name).read_bytes() == after[f"run/{name}"], steps[step]
            assert self.land(killed) == paths
            assert not sandbox.ledger.leaks


class TestChanges:
    @pytest.fixture
    def lake(self, tmp_path: Path) -> Path:
        lake = tmp_path / "lake"
        restore(
            lake,
            {
                "run-1/a.csv": b"sku,price\nA,1\nB,2\n",
                "run-2/a.csv": b"sku,price\nB,3\nC,4\n",
                "run-2/b.csv": b"sku,price\nD,5\n",
                "run-3/a.csv": b"sku,price\nB,3\nE,4\n",
            },
        )
        return lake

    def arguments(self, lake: Path, run: int) -> dict[str, Any]:
        files = sorted(str(path) for path in (lake / f"run-{run}").glob("*.csv"))
        return {"files": files, "key": "sku", "pointer": str(lake / "state" / "published.json")}

    def compare(self, arguments: dict[str, Any]) -> dict[str, Any]:
        operator = RunChangesOperator(task_id="changes", **arguments)
        return operator.execute({"ti": FakeTaskInstance()})  # type: ignore[typeddict-item]

    def pointer(self, content: Tree) -> dict[str, Any] | None:
        """What the pointer says, without the time."""
        if (data := content.get("state/published.json")) is None:
            return None
        pointer: dict[str, Any] = json.loads(data)
        for each in filter(None, (pointer["current"], pointer.get("previous"))):
            each.pop("at")
        return pointer

    def check(self, lake: Path, before: Tree, after: Tree) -> None:
        """The pointer is the one before, or the new one; and then its files and all changes are there."""
        found, pointer = whole(tree(lake)), self.pointer(whole(tree(lake)))
        assert pointer in (self.pointer(before), self.pointer(after))
        for name, data in found.items():
            assert name == "state/published.json" or data in (before.get(name), after.get(name)), name
        if pointer is not None:
            for file in pointer["current"]["files"]:
                assert hashlib.sha256(Path(file["path"]).read_bytes()).hexdigest() == file["sha256"]
        if pointer == self.pointer(after):
            assert found.keys() == after.keys()

    @pytest.mark.parametrize(
        ("run", "every"), [(2, False), *(pytest.param(run, True, marks=pytest.mark.slow) for run in (1, 2))]
    )
    def test_the_next_try_publishes_what_an_undisturbed_one_publishes(
        self, processes: Killing, lake: Path, temporary: Path, run: int, every: bool
    ) -> None:
        arguments = self.arguments(lake, run)
        for earlier in range(1, run):
            self.compare(self.arguments(lake, earlier))
        before = tree(lake)
        steps = processes.run(CHANGES, arguments, [lake, temporary], None)
        after, summary = tree(lake), self.compare(arguments)
        assert {f"os.rename {Path(name).name}" for name in after.keys() - before.keys()} <= set(steps)
        restore(lake, after)
        following = self.compare(self.arguments(lake, run + 1))
        for step in chosen(
            steps, every, "os.rename removed.parquet", "half of published.json", "os.rename published.json"
        ):
            restore(lake, before)
            assert processes.run(CHANGES, arguments, [lake, temporary], step) == steps[: step + 1]
            self.check(lake, before, after)
            assert self.compare(arguments) == summary
            found = tree(lake)
            assert found.keys() == after.keys(), steps[step]
            assert self.pointer(found) == self.pointer(after)
            assert {name: data for name, data in found.items() if "published" not in name} == {
                name: data for name, data in after.items() if "published" not in name
            }
            assert self.compare(self.arguments(lake, run + 1)) == following, "the run after it compares with it"


class TestCheck:
    RUNS = 5
    CONTRACT: ClassVar[dict[str, Any]] = {
        "key": "sku",
        "rules": [{"rule": "range", "column": "price", "minimum": 1, "on_breach": "quarantine"}],
    }

    @pytest.fixture
    def lake(self, tmp_path: Path) -> Path:
        lake = tmp_path / "lake"
        for run in range(1, self.RUNS + 1):
            text = "sku,price\n" + "".join(f"A{n},{n * 10 + run / 10}\n" for n in range(20))
            restore(lake / f"run-{run}", {"a.csv": text.encode(), "b.csv": text.replace("A", "B").encode()})
        return lake

    def arguments(self, lake: Path, run: int) -> dict[str, Any]:
        files = sorted(str(path) for path in (lake / f"run-{run}").glob("*.csv"))
        profiles = str(lake / "profiles")
        return {"agent_id": 7, "run_id": run, "files": files, "contract": self.CONTRACT, "profiles": profiles}

    def judge(self, arguments: dict[str, Any]) -> list[str]:
        operator = CheckRunRecordsOperator(task_id="check", **arguments)
        return operator.execute({"ti": FakeTaskInstance()})  # type: ignore[typeddict-item]

    @EVERY
    def test_the_next_try_leaves_what_an_undisturbed_one_leaves(
        self, processes: Killing, lake: Path, temporary: Path, every: bool
    ) -> None:
        for run in range(1, self.RUNS):
            self.judge(self.arguments(lake, run))
        before, arguments = tree(lake), self.arguments(lake, self.RUNS)
        steps = processes.run(CHECK, arguments, [lake, temporary], None)
        after, profile = tree(lake), f"profiles/run-{self.RUNS}.json"
        written = {name for name in after if after[name] != before.get(name)}
        assert {f"run-{self.RUNS}/checked/{name}" for name in ("a.csv", "quarantine_a.csv")} | {profile} <= written
        assert {f"os.rename {Path(name).name}" for name in written} <= set(steps)
        quick = ("half of quarantine_a.csv", f"os.rename run-{self.RUNS}.parquet", f"half of run-{self.RUNS}.json")
        for step in chosen(steps, every, *quick):
            restore(lake, before)
            assert processes.run(CHECK, arguments, [lake, temporary], step) == steps[: step + 1]
            found = whole(tree(lake))
            for name, data in found.items():
                assert data in (before.get(name), after.get(name)), name
            if profile in found:
                assert written <= found.keys(), "a run that has a profile has all"
            self.judge(arguments)
            assert tree(lake) == after, steps[step]
