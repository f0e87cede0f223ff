"""The transfer against the sandbox over HTTP: to a local folder and to S3."""

from __future__ import annotations

import hashlib
import inspect
import io
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, ObjectStoragePath

from airflow_provider_sequentum.api import SequentumClient, files, runs
from airflow_provider_sequentum.api.parsing import Page
from airflow_provider_sequentum.exceptions import (
    RunFilesUnavailable,
    SequentumConnectionException,
    SequentumRequestRefused,
    SequentumSkipped,
    SequentumUnavailable,
)
from airflow_provider_sequentum.hooks.sequentum import SequentumHook
from airflow_provider_sequentum.sandbox import RunPlan, Sandbox
from airflow_provider_sequentum.sandbox.agents import ExtraFile
from airflow_provider_sequentum.transfers import landing as landing_module
from airflow_provider_sequentum.transfers.landing import MANIFEST_NAME, LandingFolder, Progress
from airflow_provider_sequentum.transfers.run_files import RunFilesToObjectStorageOperator
from airflow_provider_sequentum.transfers.run_files_transfer import RunFilesTransfer
from tests.support.landing import FakeTaskInstance, finished_run, s3_server, small_disk

RECORDS = [{"sku": f"A{number}", "name": 'a "quoted"\nname', "price": number / 4} for number in range(5)]
EXTRA = [
    ExtraFile(name="notes.txt", content="notes"),
    ExtraFile(name="../../outside.csv", content="a,b\n1,2\n"),
    ExtraFile(name="empty.bin", content=""),
    ExtraFile(name="page.png", content="not really an image", file_type=2),
]


def transfer(destination: str, agent_id: int, run_id: int, **options: Any) -> RunFilesToObjectStorageOperator:
    return RunFilesToObjectStorageOperator(
        task_id="land", agent_id=agent_id, run_id=str(run_id), destination=destination, **options
    )


def execute(operator: RunFilesToObjectStorageOperator) -> tuple[list[str], dict[str, Any]]:
    ti = FakeTaskInstance()
    paths = operator.execute({"ti": ti})  # type: ignore[typeddict-item]
    return paths, ti.pushed["transfer"]


def downloads(sandbox: Sandbox) -> list[str]:
    return [entry.path for entry in sandbox.ledger.requests if entry.path.endswith("/download")]


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def agent_id(sandbox: Sandbox) -> int:
    return sandbox.add_agent("Prices", records=RECORDS, extra_files=EXTRA).id


def test_delivered_files_land_with_a_manifest(sandbox: Sandbox, agent_id: int, tmp_path: Path) -> None:
    run_id = finished_run(sandbox, agent_id)
    paths, summary = execute(transfer((tmp_path / "new" / "folder").as_uri(), agent_id, run_id))
    folder = tmp_path / "new" / "folder"
    names = ["output.csv", "notes.txt", "outside.csv", "empty.bin"]
    assert [Path(path).name for path in paths] == names
    assert visible(folder) == {*names, MANIFEST_NAME}
    manifest = json.loads((folder / MANIFEST_NAME).read_bytes())
    assert manifest["is_complete"]
    assert (manifest["agent_id"], manifest["run_id"], manifest["run_records"]) == (agent_id, run_id, len(RECORDS))
    by_name = {file["name"]: file for file in manifest["files"]}
    for name in names:
        content = (folder / name).read_bytes()
        assert (by_name[name]["size"], by_name[name]["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert [by_name[name]["records"] for name in names] == [len(RECORDS), None, 1, None]
    assert summary["files"] == summary["fetched"] == 4
    assert summary["bytes"] == sum((folder / name).stat().st_size for name in names)
    assert not sandbox.ledger.leaks


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"file_patterns": "*.csv"}, {"output.csv"}),
        ({"file_kinds": ["logs"]}, {"log.txt"}),
        ({"file_kinds": ["logs", "screenshots"]}, {"log.txt", "page.png"}),
    ],
)
def test_kinds_and_patterns_choose(
    sandbox: Sandbox, agent_id: int, tmp_path: Path, options: dict[str, Any], names: set[str]
) -> None:
    run_id = finished_run(sandbox, agent_id)
    paths, _ = execute(transfer(tmp_path.as_uri(), agent_id, run_id, **options))
    # The pattern is matched against the service's name, so the path of outside.csv is not "*.csv" alone.
    assert {Path(path).name for path in paths} - {"outside.csv"} == names


def test_an_agent_can_be_named_and_the_button_leads_to_the_run(sandbox: Sandbox, agent_id: int, tmp_path: Path) -> None:
    operator = transfer(tmp_path.as_uri(), None, finished_run(sandbox, agent_id), agent_name="Prices")  # type: ignore[arg-type]
    task = FakeTaskInstance()
    operator.execute({"ti": task})  # type: ignore[typeddict-item]
    assert json.loads((tmp_path / MANIFEST_NAME).read_bytes())["agent_id"] == agent_id
    assert task.pushed["agent_run_link"].endswith(f"/agents/{agent_id}/runs/{operator.run_id}")


def test_a_repeated_transfer_fetches_nothing(sandbox: Sandbox, agent_id: int, tmp_path: Path) -> None:
    run_id = finished_run(sandbox, agent_id)
    first = execute(transfer(tmp_path.as_uri(), agent_id, run_id))
    before = len(downloads(sandbox))
    second = execute(transfer(tmp_path.as_uri(), agent_id, run_id))
    assert second[0] == first[0]
    assert second[1] == {**first[1], "fetched": 0}
    assert len(downloads(sandbox)) == before


def test_a_damaged_or_missing_file_is_fetched_again(sandbox: Sandbox, agent_id: int, tmp_path: Path) -> None:
    run_id = finished_run(sandbox, agent_id)
    execute(transfer(tmp_path.as_uri(), agent_id, run_id))
    content = (tmp_path / "output.csv").read_bytes()
    (tmp_path / "output.csv").write_bytes(b"x" * len(content))
    (tmp_path / "notes.txt").unlink()
    _, summary = execute(transfer(tmp_path.as_uri(), agent_id, run_id))
    assert summary["fetched"] == 2
    assert (tmp_path / "output.csv").read_bytes() == content
    assert (tmp_path / "notes.txt").read_text() == "notes"


def test_what_another_run_left_is_replaced(sandbox: Sandbox, agent_id: int, tmp_path: Path) -> None:
    first, second = finished_run(sandbox, agent_id), finished_run(sandbox, agent_id)
    execute(transfer(tmp_path.as_uri(), agent_id, first))
    _, summary = execute(transfer(tmp_path.as_uri(), agent_id, second))
    assert summary["fetched"] == 4, "files of the same names and sizes are not taken for this run's"
    assert json.loads((tmp_path / MANIFEST_NAME).read_bytes())["run_id"] == second


def test_what_another_run_left_and_this_one_does_not_replace_is_named(
    sandbox: Sandbox,
    agent_id: int,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    execute(transfer(tmp_path.as_uri(), agent_id, first := finished_run(sandbox, agent_id)))
    other = sandbox.add_agent("Stock", records=RECORDS).id
    execute(transfer(tmp_path.as_uri(), other, finished_run(sandbox, other)))
    logged = caplog.text + capsys.readouterr().out
    assert f"Run {first} left 3 files in" in logged
    assert "empty.bin, notes.txt, outside.csv" in logged


def test_a_kill_abandons_the_copies_and_leaves_nothing_half_written(
    sandbox: Sandbox, agent_with_large_file: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = finished_run(sandbox, agent_with_large_file)
    killed = transfer(tmp_path.as_uri(), agent_with_large_file, run_id, max_parallel_files=1)
    moved = Progress.moved

    def moved_and_killed(self: Progress, size: int) -> None:
        moved(self, size)
        if "early.csv" in visible(tmp_path):  # the large file has started
            killed.on_kill()

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "moved", moved_and_killed)
        with pytest.raises(CancelledError):
            execute(killed)
    assert visible(tmp_path) == {"output.csv", "early.csv", MANIFEST_NAME}
    _, summary = execute(transfer(tmp_path.as_uri(), agent_with_large_file, run_id))
    assert summary["fetched"] == 2


def test_a_kill_before_the_transfer_has_started_does_nothing(tmp_path: Path) -> None:
    killed = transfer(tmp_path.as_uri(), 7, 42)
    killed.on_kill()
    assert not visible(tmp_path)


def test_an_interrupted_transfer_is_continued(
    sandbox: Sandbox, agent_id: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a SIGKILL: the plan and two whole files are there, and half of another under its temporary name."""
    run_id = finished_run(sandbox, agent_id)
    fetched: list[str] = []
    fetch_one = RunFilesTransfer._fetch_one

    def fetch_two(self: Any, client: Any, file: Any, entry: Any, target: Any) -> Any:
        if len(fetched) == 2:
            (tmp_path / "0123.unfinished").write_bytes(b"half")
            raise KeyboardInterrupt
        fetched.append(entry.name)
        return fetch_one(self, client, file, entry, target)

    monkeypatch.setattr(RunFilesTransfer, "_fetch_one", fetch_two)
    with pytest.raises(KeyboardInterrupt):
        execute(transfer(tmp_path.as_uri(), agent_id, run_id, max_parallel_files=1))
    monkeypatch.setattr(RunFilesTransfer, "_fetch_one", fetch_one)
    assert visible(tmp_path) == {*fetched, MANIFEST_NAME, "0123.unfinished"}
    assert not json.loads((tmp_path / MANIFEST_NAME).read_bytes())["is_complete"]
    before = len(downloads(sandbox))
    paths, summary = execute(transfer(tmp_path.as_uri(), agent_id, run_id))
    assert summary["fetched"] == 2
    assert len(downloads(sandbox)) - before == 2
    assert len(paths) == 4
    manifest = json.loads((tmp_path / MANIFEST_NAME).read_bytes())
    for file in manifest["files"]:
        assert hashlib.sha256((tmp_path / file["name"]).read_bytes()).hexdigest() == file["sha256"]


@pytest.fixture
def agent_with_large_file(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> int:
    """An agent that delivers two small files, then one of 24 MiB and one more small one."""
    large = tmp_path_factory.mktemp("source") / "large.csv"
    large.write_bytes(b"sku,price\n" + b"A-1234567,19.99\n" * (24 * 65536))
    extra = [
        ExtraFile(name="early.csv", content="a,b\n1,2\n"),
        ExtraFile(name="large.csv", path=large),
        ExtraFile(name="late.csv", content="a,b\n3,4\n"),
    ]
    return sandbox.add_agent("Large", records=RECORDS, extra_files=extra).id


def killed_transfer(destination: str, agent_id: int, run_id: int) -> None:
    """Kill a process that lands the files when it has written 12 MiB of the large one."""
    command = [sys.executable, "-m", "tests.support.landing_process", str(agent_id), str(run_id), destination]
    with subprocess.Popen([*command, str(12 * 1024 * 1024)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert any(line == "stopped\n" for line in process.stdout), "it ended before it could be killed"
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL


def test_a_killed_transfer_is_finished_by_the_next_attempt(
    sandbox: Sandbox, agent_with_large_file: int, tmp_path: Path
) -> None:
    run_id = finished_run(sandbox, agent_with_large_file)
    killed_transfer(tmp_path.as_uri(), agent_with_large_file, run_id)
    whole = {"output.csv", "early.csv", MANIFEST_NAME}
    [half] = visible(tmp_path) - whole
    assert half.endswith(".unfinished")
    assert (tmp_path / half).stat().st_size > 0
    before = downloads(sandbox)
    assert len(before) == 3

    paths, summary = execute(transfer(tmp_path.as_uri(), agent_with_large_file, run_id))
    assert summary["fetched"] == 2
    fetched_again = downloads(sandbox)[len(before) :]
    assert not set(fetched_again) & set(before[:2]), "what was whole is not fetched again"
    assert len(fetched_again) == 2
    assert visible(tmp_path) == {*whole, "large.csv", "late.csv"}, "the half is gone"
    check_against_the_service(agent_with_large_file, run_id, paths)


def check_against_the_service(agent_id: int, run_id: int, paths: list[str]) -> None:
    """Compare checksums of what was landed, of the manifest and of what the service hands out."""
    hook = SequentumHook()
    manifest = json.loads((ObjectStoragePath(paths[0]).parent / MANIFEST_NAME).read_bytes())
    listed = hook.send(files.list_files(agent_id, run_id))
    delivered = [file for file in listed if file.file_type == files.FileType.DELIVERED_FILE]
    assert len(paths) == len(delivered)
    for path, file, entry in zip(paths, delivered, manifest["files"], strict=True):
        original = io.BytesIO()
        hook.client.download(agent_id=agent_id, run_id=run_id, file=file, destination=original)
        checksum = hashlib.sha256(original.getvalue()).hexdigest()
        assert (Path(path).name, entry["sha256"]) == (file.name, checksum)
        assert hashlib.sha256(ObjectStoragePath(path).read_bytes()).hexdigest() == checksum


def test_a_download_that_breaks_continues_where_it_broke(sandbox: Sandbox, agent_id: int, tmp_path: Path) -> None:
    run_id = finished_run(sandbox, agent_id)
    sandbox.fail_next("GET /storage/{agent_id}/{run_id}/{file_id}", "truncated", after_bytes=20)
    execute(transfer(tmp_path.as_uri(), agent_id, run_id, file_patterns="output.csv"))
    assert (tmp_path / "output.csv").read_bytes().startswith(b"sku,name,price\r\n")


class TestRemoval:
    def test_files_are_removed_only_after_all_are_there(self, sandbox: Sandbox, agent_id: int, tmp_path: Path) -> None:
        run_id = finished_run(sandbox, agent_id)
        paths, _ = execute(transfer(tmp_path.as_uri(), agent_id, run_id, remove_method="RemoveAllFiles"))
        [effect] = sandbox.ledger.of_kind("delete")
        assert (effect.run_id, effect.detail and effect.detail.get("remove_method")) == (run_id, "RemoveAllFiles")
        assert len(paths) == 4

    @pytest.mark.parametrize("method", ["RemoveAllFiles", "RemoveAllFilesAndAgentInput", "RemoveEntireRun"])
    def test_a_retry_after_the_removal_returns_what_was_landed(
        self, sandbox: Sandbox, agent_id: int, tmp_path: Path, method: str
    ) -> None:
        run_id = finished_run(sandbox, agent_id)
        first, _ = execute(transfer(tmp_path.as_uri(), agent_id, run_id, remove_method=method))
        before = len(downloads(sandbox))
        second, summary = execute(transfer(tmp_path.as_uri(), agent_id, run_id, remove_method=method))
        assert (second, summary["fetched"]) == (first, 0)
        assert len(downloads(sandbox)) == before

    def test_a_file_lost_after_the_removal_is_an_error(self, sandbox: Sandbox, agent_id: int, tmp_path: Path) -> None:
        run_id = finished_run(sandbox, agent_id)
        execute(transfer(tmp_path.as_uri(), agent_id, run_id, remove_method="RemoveAllFiles"))
        (tmp_path / "notes.txt").write_text("other")
        with pytest.raises(RunFilesUnavailable, match="it cannot be fetched again"):
            execute(transfer(tmp_path.as_uri(), agent_id, run_id, remove_method="RemoveAllFiles"))

    def test_nothing_is_removed_that_was_not_copied(self, sandbox: Sandbox, agent_id: int, tmp_path: Path) -> None:
        run_id = finished_run(sandbox, agent_id)
        with pytest.raises(SequentumRequestRefused, match=r"delivered files that are not copied: 'notes\.txt'"):
            execute(
                transfer(
                    tmp_path.as_uri(), agent_id, run_id, remove_method="RemoveAllFiles", file_patterns=["*.csv", "e*"]
                )
            )
        assert not sandbox.ledger.of_kind("delete")

    def test_storage_that_gives_back_something_else_keeps_the_originals(
        self, sandbox: Sandbox, agent_id: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run_id = finished_run(sandbox, agent_id)
        measure = LandingFolder.measure

        def spoil(self: Any, name: str) -> Any:
            (tmp_path / name).write_bytes(b"\0" * (tmp_path / name).stat().st_size)
            return measure(self, name)

        monkeypatch.setattr(LandingFolder, "measure", spoil)
        with pytest.raises(RunFilesUnavailable, match=r"output\.csv failed verification"):
            execute(transfer(tmp_path.as_uri(), agent_id, run_id, remove_method="RemoveAllFiles"))
        assert not sandbox.ledger.of_kind("delete")
        monkeypatch.undo()
        assert "output.csv" not in visible(tmp_path)

    def test_a_list_that_speaks_of_another_size_keeps_the_originals(
        self, sandbox: Sandbox, agent_id: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run_id = finished_run(sandbox, agent_id)
        listed = RunFilesTransfer._listed

        def one_byte_more(self: Any) -> Any:
            return Page(
                [file.model_copy(update={"file_size": file.file_size and file.file_size + 1}) for file in listed(self)]
            )

        monkeypatch.setattr(RunFilesTransfer, "_listed", one_byte_more)
        with pytest.raises(RunFilesUnavailable, match="because of the difference, none was removed"):
            execute(transfer(tmp_path.as_uri(), agent_id, run_id, remove_method="RemoveAllFiles"))
        assert not sandbox.ledger.of_kind("delete")
        assert "output.csv" in visible(tmp_path)

    @pytest.mark.parametrize("method", ["RemoveAllFiles", "RemoveEntireRun"])
    def test_a_run_that_is_removed_by_another_during_the_transfer(
        self, sandbox: Sandbox, agent_id: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: Any
    ) -> None:
        run_id = finished_run(sandbox, agent_id)
        remove = RunFilesTransfer._remove

        def remove_second(self: Any, selection: Any) -> None:
            SequentumHook().send(runs.delete(agent_id, run_id, method))
            sandbox.fail_next("DELETE /agent/{agent_id}/run/{run_id}", status=404)
            remove(self, selection)

        monkeypatch.setattr(RunFilesTransfer, "_remove", remove_second)
        paths, _ = execute(transfer(tmp_path.as_uri(), agent_id, run_id, remove_method=method))
        assert len(paths) == 4

    def test_a_404_is_not_taken_for_a_removal(self, sandbox: Sandbox, agent_id: int, tmp_path: Path) -> None:
        run_id = finished_run(sandbox, agent_id)
        sandbox.fail_next("DELETE /agent/{agent_id}/run/{run_id}", status=404)
        with pytest.raises(RunFilesUnavailable, match="still has its files"):
            execute(transfer(tmp_path.as_uri(), agent_id, run_id, remove_method="RemoveAllFiles"))
        _, summary = execute(transfer(tmp_path.as_uri(), agent_id, run_id, remove_method="RemoveAllFiles"))
        assert summary["fetched"] == 0
        assert len(sandbox.ledger.of_kind("delete")) == 1

    def test_the_services_own_files_may_outlive_the_removal(
        self, sandbox: Sandbox, agent_id: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run_id = finished_run(sandbox, agent_id)
        first, _ = execute(transfer(tmp_path.as_uri(), agent_id, run_id, remove_method="RemoveAllFiles"))
        left = files.RunFile(id=987_654, name="tracking.db", file_type=files.FileType.INTERNAL_TRACKING_DB)
        monkeypatch.setattr(RunFilesTransfer, "_listed", lambda self: Page([left]))
        second, summary = execute(transfer(tmp_path.as_uri(), agent_id, run_id, remove_method="RemoveAllFiles"))
        assert (second, summary["fetched"]) == (first, 0)

    def test_a_removal_that_ended_half_way_is_completed_and_nothing_that_was_landed_is_forgotten(
        self, sandbox: Sandbox, agent_id: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run_id = finished_run(sandbox, agent_id)
        sandbox.fail_next("DELETE /agent/{agent_id}/run/{run_id}", status=503)
        with pytest.raises(SequentumUnavailable):
            execute(transfer(tmp_path.as_uri(), agent_id, run_id, remove_method="RemoveAllFiles"))
        manifest = (tmp_path / MANIFEST_NAME).read_bytes()
        paths = [str(tmp_path / file["name"]) for file in json.loads(manifest)["files"]]
        listed = RunFilesTransfer._listed
        monkeypatch.setattr(RunFilesTransfer, "_listed", lambda self: Page(listed(self)[1:]))
        again, summary = execute(transfer(tmp_path.as_uri(), agent_id, run_id, remove_method="RemoveAllFiles"))
        assert [path.removeprefix("file://") for path in again] == paths
        assert (summary["files"], summary["fetched"]) == (4, 0)
        assert (tmp_path / MANIFEST_NAME).read_bytes() == manifest
        assert len(sandbox.ledger.of_kind("delete")) == 1

    def test_what_a_run_delivers_after_a_restart_is_landed_though_the_files_of_before_were_removed(
        self, sandbox: Sandbox, tmp_path: Path
    ) -> None:
        agent_id = sandbox.add_agent("Prices", records=RECORDS).id
        sandbox.plan_runs(agent_id, [RunPlan(outcome="Failure", record_count=1)])
        run_id = finished_run(sandbox, agent_id)
        options: dict[str, Any] = {"remove_method": "RemoveAllFiles"}
        _, before = execute(transfer(tmp_path.as_uri(), agent_id, run_id, **options))
        SequentumHook().send(runs.restart(agent_id, run_id))
        with pytest.raises(RunFilesUnavailable, match="not known to have ended"):
            execute(transfer(tmp_path.as_uri(), agent_id, run_id, **options))
        sandbox.advance(60)
        _, after = execute(transfer(tmp_path.as_uri(), agent_id, run_id, **options))
        assert (before["records"], after["records"], after["fetched"]) == (1, len(RECORDS), 1)

    def test_a_manifest_of_a_version_that_counts_records_differently_is_trusted(
        self, sandbox: Sandbox, agent_id: int, tmp_path: Path
    ) -> None:
        run_id = finished_run(sandbox, agent_id)
        first, _ = execute(transfer(tmp_path.as_uri(), agent_id, run_id, remove_method="RemoveAllFiles"))
        manifest = json.loads((tmp_path / MANIFEST_NAME).read_bytes())
        for file in manifest["files"]:
            file["records"] = None
            file["a_later_field"] = {"a": 1}
        (tmp_path / MANIFEST_NAME).write_text(json.dumps({**manifest, "a_later_field": []}))
        assert execute(transfer(tmp_path.as_uri(), agent_id, run_id))[0] == first

    def test_a_refused_removal_fails_the_task_and_a_retry_removes(
        self, sandbox: Sandbox, agent_id: int, tmp_path: Path
    ) -> None:
        run_id = finished_run(sandbox, agent_id)
        sandbox.fail_next("DELETE /agent/{agent_id}/run/{run_id}", status=503)
        with pytest.raises(SequentumUnavailable):
            execute(transfer(tmp_path.as_uri(), agent_id, run_id, remove_method="RemoveAllFiles"))
        _, summary = execute(transfer(tmp_path.as_uri(), agent_id, run_id, remove_method="RemoveAllFiles"))
        assert summary["fetched"] == 0
        assert len(sandbox.ledger.of_kind("delete")) == 1


def with_list(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Let the service list its files otherwise: ``change`` returns the new fields of each file."""
    listed = RunFilesTransfer._listed

    def changed(self: Any) -> Any:
        return Page([file.model_copy(update=change(file)) for file in listed(self)])

    monkeypatch.setattr(RunFilesTransfer, "_listed", changed)


@pytest.mark.parametrize("step", ["_check_names", "_fetch", "_verify"])
@pytest.mark.parametrize("options", [{}, {"file_format": "parquet"}], ids=["as they are", "converted"])
def test_two_runs_that_land_in_one_folder_at_once_do_not_both_succeed(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, options: dict[str, Any]
) -> None:
    """As mapped tasks do whose destination does not name the run. The files may be of the same size."""
    agent_id = sandbox.add_agent("Prices", records=RECORDS).id
    run_ids = [finished_run(sandbox, agent_id) for _ in range(2)]
    own_step = getattr(RunFilesTransfer, step)

    def after_the_other(self: Any, *arguments: Any, **more: Any) -> Any:
        monkeypatch.setattr(RunFilesTransfer, step, own_step)
        execute(transfer(tmp_path.as_uri(), agent_id, run_ids[1], **options))
        return own_step(self, *arguments, **more)

    monkeypatch.setattr(RunFilesTransfer, step, after_the_other)
    with pytest.raises(SequentumRequestRefused, match=f"Run {run_ids[1]} .* at the same time, so that 'output"):
        execute(transfer(tmp_path.as_uri(), agent_id, run_ids[0], **options))


def test_two_runs_that_land_in_one_folder_at_once_under_other_names_do_no_harm(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agents = [sandbox.add_agent(name, records=RECORDS, file_name=f"{name}.csv").id for name in ("prices", "stock")]
    run_ids = [finished_run(sandbox, agent_id) for agent_id in agents]
    verify = RunFilesTransfer._verify

    def after_the_other(self: Any, *arguments: Any, **more: Any) -> None:
        monkeypatch.setattr(RunFilesTransfer, "_verify", verify)
        execute(transfer(tmp_path.as_uri(), agents[1], run_ids[1]))
        verify(self, *arguments, **more)

    monkeypatch.setattr(RunFilesTransfer, "_verify", after_the_other)
    execute(transfer(tmp_path.as_uri(), agents[0], run_ids[0]))
    assert visible(tmp_path) >= {"prices.csv", "stock.csv"}


class TestNothingIsLostWithoutAWord:
    """A run with records lands them, or its task fails, or the DAG author's filter left them out."""

    @pytest.fixture
    def plain_agent(self, sandbox: Sandbox) -> int:
        return sandbox.add_agent("Plain", records=RECORDS).id

    @pytest.mark.parametrize("kind", [None, 0, 9, 99, -1])
    @pytest.mark.parametrize("options", [{}, {"file_kinds": ["delivered"]}, {"file_kinds": ""}])
    def test_a_file_of_no_known_kind_is_landed(
        self,
        sandbox: Sandbox,
        plain_agent: int,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        kind: int | None,
        options: dict[str, Any],
    ) -> None:
        run_id = finished_run(sandbox, plain_agent)
        with_list(monkeypatch, lambda file: {"file_type": kind} if file.name == "output.csv" else {})
        paths, summary = execute(transfer(tmp_path.as_uri(), plain_agent, run_id, **options))
        assert [Path(path).name for path in paths] == ["output.csv"]
        assert summary["records"] == len(RECORDS)

    @pytest.mark.parametrize(("kind", "name"), [(2, "extracted"), (3, "internal"), (6, "logs")])
    def test_records_in_a_file_that_no_parameter_leaves_out(
        self,
        sandbox: Sandbox,
        plain_agent: int,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        kind: int,
        name: str,
    ) -> None:
        run_id = finished_run(sandbox, plain_agent)
        with_list(monkeypatch, lambda file: {"file_type": kind} if file.name == "output.csv" else {})
        with pytest.raises(
            SequentumRequestRefused, match=rf"5 records, .*'output\.csv' \(kind {name}, excluded by file_k"
        ):
            execute(transfer(tmp_path.as_uri(), plain_agent, run_id))
        assert not visible(tmp_path)

    @pytest.mark.parametrize(
        "options",
        [
            {"file_patterns": "*.parquet"},
            {"file_kinds": ["extracted"]},
            {"file_kinds": ["extracted"], "file_patterns": ["x"]},
            {"file_kinds": ["delivered", "logs"], "file_patterns": "log*"},
        ],
    )
    def test_a_filter_that_no_file_with_records_passes_fails_the_task_unless_the_run_has_none(
        self, sandbox: Sandbox, plain_agent: int, tmp_path: Path, options: dict[str, Any]
    ) -> None:
        run_id = finished_run(sandbox, plain_agent)
        with pytest.raises(SequentumRequestRefused, match=r"5 records, .*'output\.csv' .*Nothing was copied"):
            execute(transfer(tmp_path.as_uri(), plain_agent, run_id, **options))
        assert not visible(tmp_path)
        empty = finished_run(sandbox, sandbox.add_agent("Quiet hour", records=[]).id)
        paths, _ = execute(transfer(tmp_path.as_uri(), None, empty, agent_name="Quiet hour", **options))  # type: ignore[arg-type]
        assert {Path(path).name for path in paths} <= {"log.txt"}

    @pytest.mark.parametrize("value", [True, "True"])
    @pytest.mark.parametrize("options", [{"file_patterns": "page*"}, {"file_kinds": "screenshots"}])
    @pytest.mark.parametrize("records", [RECORDS, []])
    def test_a_task_for_files_that_only_some_runs_have_can_be_skipped(
        self, sandbox: Sandbox, tmp_path: Path, records: list[Any], options: dict[str, Any], value: object
    ) -> None:
        options = {**options, "skip_on_empty": value}
        without = sandbox.add_agent("Without", records=records).id
        with pytest.raises(SequentumSkipped, match=r"^No file of run \d+ .* Its files: .*'log.txt' \(kind logs, "):
            execute(transfer(tmp_path.as_uri(), without, finished_run(sandbox, without), **options))
        assert not visible(tmp_path)
        page = ExtraFile(name="page.png", content="not really an image")
        having = sandbox.add_agent("Having", records=records, extra_files=[page]).id
        paths, _ = execute(transfer(tmp_path.as_uri(), having, finished_run(sandbox, having), **options))
        assert [Path(path).name for path in paths] == ["page.png"]

    def test_a_task_is_not_skipped_where_files_may_have_been_lost(
        self, sandbox: Sandbox, plain_agent: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run_id = finished_run(sandbox, plain_agent)
        options = {"file_patterns": "stock*", "skip_on_empty": True}
        with pytest.raises(SequentumRequestRefused, match=r"would remove delivered files that are not copied"):
            execute(transfer(tmp_path.as_uri(), plain_agent, run_id, remove_method="RemoveAllFiles", **options))
        listed = RunFilesTransfer._listed
        with monkeypatch.context() as patch:
            patch.setattr(RunFilesTransfer, "_listed", lambda self: Page(list(listed(self)), unreadable=1))
            with pytest.raises(SequentumRequestRefused, match="no file that may contain them is selected"):
                execute(transfer(tmp_path.as_uri(), plain_agent, run_id, **options))
        SequentumHook().send(runs.delete(plain_agent, run_id, "RemoveAllFiles"))
        with pytest.raises(SequentumRequestRefused, match="has no files: they were removed, or never delivered"):
            execute(transfer(tmp_path.as_uri(), plain_agent, run_id, **options))

    @pytest.mark.parametrize(("options", "count"), [({"file_kinds": ["logs"]}, 1), ({"file_kinds": "screenshots"}, 0)])
    def test_an_author_may_ask_for_other_kinds_only_and_the_log_says_what_is_left_out(
        self,
        sandbox: Sandbox,
        plain_agent: int,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
        options: dict[str, Any],
        count: int,
    ) -> None:
        run_id = finished_run(sandbox, plain_agent)
        paths, _ = execute(transfer(tmp_path.as_uri(), plain_agent, run_id, **options))
        assert len(paths) == count
        logged = " ".join((capsys.readouterr().out + caplog.text).split())
        assert " not copied: 'output.csv' (kind delivered, excluded by file_" in logged
        assert f"; copying {count} to {tmp_path.as_uri()}." in logged
        assert f"Landed {count} file" in logged

    @pytest.mark.parametrize("listed_size", [0, None])
    def test_records_in_a_file_that_is_empty_yet(
        self,
        sandbox: Sandbox,
        plain_agent: int,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        listed_size: int | None,
    ) -> None:
        run_id = finished_run(sandbox, plain_agent)
        with_list(monkeypatch, lambda file: {"file_size": listed_size})
        sandbox.fail_next("GET /storage/{agent_id}/{run_id}/{file_id}", "empty")
        with pytest.raises(RunFilesUnavailable, match=r"5 records, but all .* are empty: 'output\.csv'") as raised:
            execute(transfer(tmp_path.as_uri(), plain_agent, run_id, remove_method="RemoveAllFiles"))
        assert not isinstance(raised.value, AirflowFailException), "it may be there later"
        assert visible(tmp_path) == {MANIFEST_NAME}
        assert not sandbox.ledger.of_kind("delete")
        _, summary = execute(transfer(tmp_path.as_uri(), plain_agent, run_id))
        assert (summary["fetched"], summary["records"]) == (1, len(RECORDS))

    @pytest.mark.parametrize("names", [("data.csv", "data.csv"), ("a/data.csv", "b/DATA.csv"), (None, None)])
    def test_files_of_one_name_land_under_two(
        self, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str | None, ...]
    ) -> None:
        extra = [ExtraFile(name="first.csv", content="a\n1\n"), ExtraFile(name="second.csv", content="a\n2\n")]
        agent_id = sandbox.add_agent("Same", records=RECORDS, extra_files=extra).id
        run_id = finished_run(sandbox, agent_id)
        both = dict(zip(("first.csv", "second.csv"), names, strict=True))
        with_list(monkeypatch, lambda file: {"name": both[file.name]} if file.name in both else {})
        paths, _ = execute(transfer(tmp_path.as_uri(), agent_id, run_id))
        assert [ObjectStoragePath(path).read_text() for path in paths[1:]] == ["a\n1\n", "a\n2\n"]
        entries = json.loads((tmp_path / MANIFEST_NAME).read_bytes())["files"]
        assert [entry["original_name"] or entry["name"] for entry in entries[1:]] == [
            each or entry["name"] for each, entry in zip(names, entries[1:], strict=True)
        ]
        assert execute(transfer(tmp_path.as_uri(), agent_id, run_id))[1]["fetched"] == 0

    @pytest.mark.parametrize("total", [2, 3])
    def test_files_that_the_list_tells_of_but_does_not_name(
        self,
        sandbox: Sandbox,
        plain_agent: int,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
        total: int,
    ) -> None:
        run_id = finished_run(sandbox, plain_agent)
        listed = RunFilesTransfer._listed

        def cut(self: Any) -> Any:
            return Page(listed(self)[: total - 1], total)

        monkeypatch.setattr(RunFilesTransfer, "_listed", cut)
        with pytest.raises(SequentumRequestRefused, match="1 unreadable entry"):
            execute(transfer(tmp_path.as_uri(), plain_agent, run_id, remove_method="RemoveAllFiles"))
        assert not sandbox.ledger.of_kind("delete")
        summary = execute(transfer(tmp_path.as_uri(), plain_agent, run_id))[1]
        assert (summary["files"], summary["unreadable"]) == (1, 1)
        assert json.loads((tmp_path / MANIFEST_NAME).read_bytes())["unreadable"] == 1
        assert "1 unreadable entry" in capsys.readouterr().out + caplog.text

    def test_a_whole_file_of_another_size_than_listed_is_fetched_again_after_a_kill(
        self, sandbox: Sandbox, plain_agent: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As after a power failure: the file has its name, and only a part of its bytes."""
        run_id = finished_run(sandbox, plain_agent)

        def interrupt(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(RunFilesTransfer, "_verify", interrupt)
            with pytest.raises(KeyboardInterrupt):
                execute(transfer(tmp_path.as_uri(), plain_agent, run_id))
        whole = (tmp_path / "output.csv").read_bytes()
        (tmp_path / "output.csv").write_bytes(whole[:20])
        assert execute(transfer(tmp_path.as_uri(), plain_agent, run_id))[1]["fetched"] == 1
        assert (tmp_path / "output.csv").read_bytes() == whole


class TestWhatIsInTheWay:
    """A landed file replaces what has its name, or the task fails; nothing is written through it."""

    @pytest.mark.parametrize("name", ["output.csv", MANIFEST_NAME])
    def test_a_folder(self, sandbox: Sandbox, agent_id: int, tmp_path: Path, name: str) -> None:
        (tmp_path / name).mkdir()
        run_id = finished_run(sandbox, agent_id)
        with pytest.raises(RunFilesUnavailable, match=rf"{name} is a folder"):
            execute(transfer(tmp_path.as_uri(), agent_id, run_id, remove_method="RemoveAllFiles"))
        assert visible(tmp_path) == {name}
        assert not visible(tmp_path / name)
        assert not sandbox.ledger.of_kind("delete")
        (tmp_path / name).rmdir()
        assert execute(transfer(tmp_path.as_uri(), agent_id, run_id))[1]["fetched"] == 4

    def test_a_folder_that_is_made_during_the_transfer(
        self, sandbox: Sandbox, agent_id: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run_id = finished_run(sandbox, agent_id)
        finished = Progress.finished

        def finished_and_taken(self: Progress) -> None:
            finished(self)
            (tmp_path / "empty.bin").mkdir(exist_ok=True)

        monkeypatch.setattr(Progress, "finished", finished_and_taken)
        with pytest.raises(RunFilesUnavailable, match=r"Could not write .*empty\.bin: .*Is a directory"):
            execute(transfer(tmp_path.as_uri(), agent_id, run_id, max_parallel_files=1))
        assert not list((tmp_path / "empty.bin").iterdir())

    @pytest.mark.parametrize("name", ["output.csv", MANIFEST_NAME])
    @pytest.mark.parametrize("leads_to", ["folder", "file", "nothing"])
    def test_a_link_is_replaced_and_what_it_leads_to_is_untouched(
        self, sandbox: Sandbox, agent_id: int, tmp_path: Path, name: str, leads_to: str
    ) -> None:
        folder, outside = tmp_path / "run", tmp_path / "outside"
        folder.mkdir()
        if leads_to == "folder":
            outside.mkdir()
        elif leads_to == "file":
            outside.write_text("another's")
        (folder / name).symlink_to(outside)
        run_id = finished_run(sandbox, agent_id)
        assert execute(transfer(folder.as_uri(), agent_id, run_id))[1]["fetched"] == 4
        assert (folder / name).is_file()
        assert not (folder / name).is_symlink()
        assert outside.exists() == (leads_to != "nothing")
        assert leads_to != "folder" or not visible(outside)
        assert leads_to != "file" or outside.read_text() == "another's"

    def test_a_link_to_a_copy_of_the_file_is_not_taken_for_it(
        self, sandbox: Sandbox, agent_id: int, tmp_path: Path
    ) -> None:
        folder, outside = tmp_path / "run", tmp_path / "outside.csv"
        run_id = finished_run(sandbox, agent_id)
        execute(transfer(folder.as_uri(), agent_id, run_id))
        (folder / "output.csv").rename(outside)
        (folder / "output.csv").symlink_to(outside)
        assert execute(transfer(folder.as_uri(), agent_id, run_id))[1]["fetched"] == 1
        assert not (folder / "output.csv").is_symlink()

    def test_a_destination_that_is_a_link_to_a_folder_is_followed(
        self, sandbox: Sandbox, agent_id: int, tmp_path: Path
    ) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "current").symlink_to(tmp_path / "real")
        execute(transfer((tmp_path / "current").as_uri(), agent_id, finished_run(sandbox, agent_id)))
        assert "output.csv" in visible(tmp_path / "real")

    @pytest.mark.parametrize("what", ["below a file", "a link to nothing", "read-only"])
    def test_a_destination_that_cannot_be_written(
        self, sandbox: Sandbox, agent_id: int, tmp_path: Path, what: str
    ) -> None:
        (tmp_path / "file").write_text("")
        (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
        # Root may write to a folder that is read-only; no one may to the kernel's.
        folder = {
            "below a file": tmp_path / "file" / "run",
            "a link to nothing": tmp_path / "dangling",
            "read-only": Path("/proc/run"),
        }[what]
        with pytest.raises(RunFilesUnavailable, match="Could not create"):
            execute(transfer(folder.as_uri(), agent_id, finished_run(sandbox, agent_id)))
        assert not (tmp_path / "nothing").exists()


class Killed(BaseException):
    """The worker process died between two steps."""


def test_a_kill_between_any_two_steps_is_repaired_by_the_next_attempt(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps are requests to the service, blocks that are written, files that are renamed, read and removed."""
    agent_id = sandbox.add_agent("Prices", records=RECORDS, extra_files=EXTRA[:2]).id
    steps_left = -1

    def dying(do: Any) -> Any:
        def step(*arguments: Any, **options: Any) -> Any:
            nonlocal steps_left
            if steps_left == 0:
                raise Killed
            steps_left -= 1
            return do(*arguments, **options)

        return step

    for owner, name in [
        (SequentumClient, "send"),
        (SequentumClient, "download"),
        (LandingFolder, "contents"),
        (LandingFolder, "measure"),
        (LandingFolder, "remove"),
        (Progress, "moved"),
        (os, "replace"),
        (Path, "unlink"),  # a killed process tidies up nothing
        (FakeTaskInstance, "xcom_push"),
    ]:
        monkeypatch.setattr(owner, name, dying(getattr(owner, name)))

    for steps in itertools.count():
        steps_left = -1
        run_id, folder = finished_run(sandbox, agent_id), tmp_path / str(steps)
        options: dict[str, Any] = {"remove_method": "RemoveAllFiles", "max_parallel_files": 1}
        steps_left = steps
        try:
            execute(transfer(folder.as_uri(), agent_id, run_id, **options))
        except Killed:
            steps_left = -1
            paths, _ = execute(transfer(folder.as_uri(), agent_id, run_id, **options))
            assert [Path(path).name for path in paths] == ["output.csv", "notes.txt", "outside.csv"], steps
            assert visible(folder) == {*(Path(path).name for path in paths), MANIFEST_NAME}, steps
            assert (folder / "output.csv").read_bytes().startswith(b"sku,name,price\r\n"), steps
            manifest = json.loads((folder / MANIFEST_NAME).read_bytes())
            for file in manifest["files"]:
                assert hashlib.sha256((folder / file["name"]).read_bytes()).hexdigest() == file["sha256"], steps
            assert manifest["is_complete"], steps
            assert len([each for each in sandbox.ledger.of_kind("delete") if each.run_id == run_id]) == 1, steps
        else:
            break
    assert steps == 23, "the kill came before each step of an attempt once"


class TestBadInput:
    def test_an_id_that_is_none_copies_nothing(self, sandbox: Sandbox, tmp_path: Path) -> None:
        with pytest.raises(SequentumRequestRefused, match=r"agent_id.*Nothing was copied"):
            transfer(tmp_path.as_uri(), "Prices", 1).execute({})  # type: ignore[arg-type]
        assert not sandbox.ledger.requests

    def test_a_storage_that_lost_a_part_of_a_file(
        self, sandbox: Sandbox, agent_id: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run_id = finished_run(sandbox, agent_id)
        fetch = RunFilesTransfer._fetch

        def fetch_and_lose(self: Any, wanted: Any, target: Any) -> Any:
            measures = fetch(self, wanted, target)
            (tmp_path / "notes.txt").write_text("no")
            return measures

        with monkeypatch.context() as patch:
            patch.setattr(RunFilesTransfer, "_fetch", fetch_and_lose)
            with pytest.raises(RunFilesUnavailable, match=r"notes\.txt.*: its size in the storage is 2, not 5 bytes"):
                execute(transfer(tmp_path.as_uri(), agent_id, run_id))
        assert "notes.txt" not in visible(tmp_path)
        _, summary = execute(transfer(tmp_path.as_uri(), agent_id, run_id))
        assert summary["fetched"] == 1

    def test_a_run_that_is_still_going(self, sandbox: Sandbox, tmp_path: Path) -> None:
        agent_id = sandbox.add_agent("Slow", duration=10_000).id
        run_id = SequentumHook().send(runs.start(agent_id)).id
        with pytest.raises(RunFilesUnavailable, match="not known to have ended") as raised:
            execute(transfer(tmp_path.as_uri(), agent_id, run_id))
        assert not isinstance(raised.value, AirflowFailException), "a retry may find it ended"
        assert not visible(tmp_path)

    def test_a_run_whose_files_were_removed(self, sandbox: Sandbox, agent_id: int, tmp_path: Path) -> None:
        run_id = finished_run(sandbox, agent_id)
        SequentumHook().send(runs.delete(agent_id, run_id, "RemoveAllFiles"))
        with pytest.raises(SequentumRequestRefused, match="extracted 5 records, but has no files"):
            execute(transfer(tmp_path.as_uri(), agent_id, run_id))

    def test_a_run_that_does_not_exist(self, sandbox: Sandbox, agent_id: int, tmp_path: Path) -> None:
        with pytest.raises(SequentumRequestRefused, match="does not know the run"):
            execute(transfer(tmp_path.as_uri(), agent_id, 999_999))

    def test_a_run_that_extracted_nothing_lands_nothing(self, sandbox: Sandbox, tmp_path: Path) -> None:
        agent_id = sandbox.add_agent("Empty", records=[]).id
        paths, summary = execute(transfer(tmp_path.as_uri(), agent_id, finished_run(sandbox, agent_id)))
        assert (paths, summary["files"], summary["records"]) == ([], 0, 0)

    def test_a_destination_that_is_a_file(self, sandbox: Sandbox, agent_id: int, tmp_path: Path) -> None:
        (tmp_path / "taken").write_text("")
        run_id = finished_run(sandbox, agent_id)
        with pytest.raises(RunFilesUnavailable, match="Could not create"):
            execute(transfer((tmp_path / "taken").as_uri(), agent_id, run_id))

    def test_a_file_of_which_nothing_is_sent(self, sandbox: Sandbox, agent_id: int, tmp_path: Path) -> None:
        run_id = finished_run(sandbox, agent_id)
        sandbox.fail_next("GET /storage/{agent_id}/{run_id}/{file_id}", "empty")
        with pytest.raises(RunFilesUnavailable, match=r"lists \d+ bytes of 'output\.csv' of run \d+, but sent none"):
            execute(transfer(tmp_path.as_uri(), agent_id, run_id, max_parallel_files=1))
        assert visible(tmp_path) == {MANIFEST_NAME}
        _, summary = execute(transfer(tmp_path.as_uri(), agent_id, run_id))
        assert summary["fetched"] == 4

    def test_a_file_of_zero_bytes_is_landed_and_named(
        self,
        sandbox: Sandbox,
        agent_id: int,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        execute(transfer(tmp_path.as_uri(), agent_id, finished_run(sandbox, agent_id)))
        assert (tmp_path / "empty.bin").read_bytes() == b""
        assert "Empty, as on the service: empty.bin" in capsys.readouterr().out + caplog.text

    def test_a_disk_that_is_full(self, sandbox: Sandbox, tmp_path: Path) -> None:
        large = tmp_path / "large.csv"
        large.write_bytes(b"a,b\n" * (2 * 1024 * 1024))
        agent_id = sandbox.add_agent("P", records=RECORDS, extra_files=[ExtraFile(name="large.csv", path=large)]).id
        run_id = finished_run(sandbox, agent_id)
        with small_disk(tmp_path / "disk", megabytes=4) as disk:
            folder = disk / "run"
            with pytest.raises(RunFilesUnavailable, match=r"Could not write .*/large\.csv: .*No space left on device"):
                execute(transfer(folder.as_uri(), agent_id, run_id, remove_method="RemoveAllFiles"))
            assert visible(folder) <= {MANIFEST_NAME, "output.csv"}
        assert not sandbox.ledger.of_kind("delete")

    @pytest.mark.parametrize("destination", ["nowhere://x/y", "gs://bucket/x"])
    def test_a_storage_that_airflow_does_not_know(self, sandbox: Sandbox, destination: str) -> None:
        with pytest.raises(SequentumRequestRefused, match=r"may not be installed on the worker\. Nothing was"):
            execute(transfer(destination, 1, 1))

    def test_a_disk_that_fills_up(
        self, sandbox: Sandbox, agent_id: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run_id = finished_run(sandbox, agent_id)

        class FullDisk:
            def __init__(self, stream: Any) -> None:
                self.stream = stream

            def write(self, data: bytes) -> int:
                self.stream.write(data[:5])
                raise OSError(28, "No space left on device")

        local = landing_module._local

        @contextmanager
        def full(target: Any) -> Iterator[Any]:
            with local(target) as stream:
                yield stream if target.name == MANIFEST_NAME else FullDisk(stream)

        monkeypatch.setattr(landing_module, "_local", full)
        with pytest.raises(RunFilesUnavailable, match="No space left on device") as raised:
            execute(transfer(tmp_path.as_uri(), agent_id, run_id, remove_method="RemoveAllFiles"))
        assert "removed nothing from the service" in str(raised.value)
        assert visible(tmp_path) <= {MANIFEST_NAME, "empty.bin"}
        assert not sandbox.ledger.of_kind("delete")

    def test_a_wrong_key_is_named_by_its_connection(
        self, sandbox: Sandbox, agent_id: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run_id = finished_run(sandbox, agent_id)
        connection = {"conn_type": "sequentum", "host": sandbox.base_url, "password": "sk-wrong"}
        monkeypatch.setenv("AIRFLOW_CONN_OTHER", json.dumps(connection))
        with pytest.raises(SequentumConnectionException, match="'other'") as raised:
            execute(transfer(tmp_path.as_uri(), agent_id, run_id, sequentum_conn_id="other"))
        assert "sk-wrong" not in str(raised.value)

    BAD: ClassVar[list[dict[str, Any]]] = [
        {"file_kinds": ["everything"]},
        {"file_kinds": []},
        {"file_kinds": [True]},
        {"file_patterns": []},
        {"file_patterns": [""]},
        {"file_patterns": 5},
        {"remove_method": "yes"},
        {"remove_method": False},
        {"max_parallel_files": 0},
        {"max_parallel_files": "0"},
        {"max_parallel_files": True},
        {"max_parallel_files": -1},
        {"max_parallel_files": 1.5},
        {"max_parallel_files": "many"},
    ]

    @pytest.mark.parametrize("options", [*BAD, {"agent_id": True}, {"run_id": 0}, {"run_id": ""}], ids=str)
    def test_what_templates_render_to_is_checked_when_the_task_runs(
        self, sandbox: Sandbox, tmp_path: Path, options: dict[str, Any]
    ) -> None:
        [(name, value)] = options.items()
        operator = transfer(tmp_path.as_uri(), 7, 42, **({} if name.endswith("id") else {name: "{{ value }}"}))
        setattr(operator, name, value)  # as Airflow does after rendering
        with pytest.raises(SequentumRequestRefused, match=rf"{name}:? .*Nothing was copied"):
            execute(operator)
        assert not sandbox.ledger.requests
        assert not visible(tmp_path)

    @pytest.mark.parametrize("unset", [None, "", " "])
    def test_what_is_unset_has_its_default(
        self, sandbox: Sandbox, agent_id: int, tmp_path: Path, unset: str | None
    ) -> None:
        operator = transfer(tmp_path.as_uri(), agent_id, finished_run(sandbox, agent_id))
        for name in set(operator.template_fields) - {"agent_id", "run_id", "destination"}:
            setattr(operator, name, unset)
        assert execute(operator)[1]["files"] == 4

    def test_every_parameter_can_be_a_template(self) -> None:
        parameters = inspect.signature(RunFilesToObjectStorageOperator).parameters
        assert set(RunFilesToObjectStorageOperator.template_fields) == set(parameters) - {"kwargs"}
        assert all(each.kind is each.KEYWORD_ONLY for name, each in parameters.items() if name != "kwargs")

    @pytest.mark.parametrize("destination", ["", "  ", "/tmp//x", "file://tmp/x", "run-1", "file:///tmp/../x", None])
    def test_a_destination_that_cannot_be_relied_on(
        self, sandbox: Sandbox, agent_id: int, destination: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(
            SequentumRequestRefused, match=r"destination(: .* cannot be used: | must be set).*Nothing was copied"
        ):
            transfer(destination, agent_id, 1).execute({})  # type: ignore[arg-type]
        assert not sandbox.ledger.requests
        assert not visible(tmp_path)

    def test_a_password_in_a_destination_is_not_repeated(self) -> None:
        with pytest.raises(SequentumRequestRefused, match="it contains a password") as raised:
            transfer("s3://AKIA:secret@lake/x", 1, 1).execute({})
        assert "secret" not in str(raised.value)


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Any]]:
    with s3_server() as opened:
        yield opened


class TestS3:
    @pytest.fixture
    def s3(self, server: tuple[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
        connection, client = server
        monkeypatch.setenv("AIRFLOW_CONN_AWS_TEST", connection)
        client.create_bucket(Bucket="lake")
        for key in self.keys(client):
            client.delete_object(Bucket="lake", Key=key)
        return client

    def keys(self, s3: Any) -> dict[str, int]:
        listed = s3.list_objects_v2(Bucket="lake").get("Contents", [])
        return {entry["Key"]: entry["Size"] for entry in listed}

    def test_files_of_all_sizes_arrive(self, sandbox: Sandbox, s3: Any, tmp_path: Path) -> None:
        large = tmp_path / "large.bin"
        large.write_bytes(bytes(range(256)) * 4 * 1024 * 20)
        extra = [*EXTRA, ExtraFile(name="large.bin", path=large)]
        agent_id = sandbox.add_agent("P", records=RECORDS, extra_files=extra).id
        run_id = finished_run(sandbox, agent_id)
        operator = transfer("s3://lake/products/today", agent_id, run_id, storage_conn_id="aws_test")
        paths, summary = execute(operator)
        assert ObjectStoragePath(paths[0]).read_bytes().startswith(b"sku,name,price"), (
            "a path leads to its file by itself"
        )
        keys = self.keys(s3)
        assert keys["products/today/large.bin"] == large.stat().st_size
        assert keys["products/today/empty.bin"] == 0
        stored = s3.get_object(Bucket="lake", Key="products/today/large.bin")["Body"].read()
        assert hashlib.sha256(stored).digest() == hashlib.sha256(large.read_bytes()).digest()
        before = len(downloads(sandbox))
        again, second = execute(
            transfer("s3://aws_test@lake/products/today", agent_id, run_id, remove_method="RemoveAllFiles")
        )
        assert (again, second["fetched"]) == (paths, 0)
        assert len(downloads(sandbox)) == before
        assert len(sandbox.ledger.of_kind("delete")) == 1
        assert summary["files"] == 5

    def test_a_broken_upload_leaves_no_object_and_no_parts(
        self, sandbox: Sandbox, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        large = tmp_path / "large.bin"
        large.write_bytes(bytes(20 * 1024 * 1024))
        agent_id = sandbox.add_agent("P", records=[], extra_files=[ExtraFile(name="large.bin", path=large)]).id
        run_id = finished_run(sandbox, agent_id)

        def stop(self: Any, size: int) -> None:
            self._bytes += size
            if self._bytes > 17 * 1024 * 1024:
                raise OSError("the worker's network is gone")

        monkeypatch.setattr("airflow_provider_sequentum.transfers.landing.Progress.moved", stop)
        with pytest.raises(RunFilesUnavailable, match="network is gone"):
            execute(transfer("s3://aws_test@lake/x", agent_id, run_id))
        assert set(self.keys(s3)) == {f"x/{MANIFEST_NAME}"}
        assert not s3.list_multipart_uploads(Bucket="lake").get("Uploads")

    def test_a_killed_transfer_is_finished_by_the_next_attempt(
        self, sandbox: Sandbox, s3: Any, agent_with_large_file: int
    ) -> None:
        run_id = finished_run(sandbox, agent_with_large_file)
        killed_transfer("s3://aws_test@lake/killed", agent_with_large_file, run_id)
        whole = {f"killed/{name}" for name in ("output.csv", "early.csv", MANIFEST_NAME)}
        assert set(self.keys(s3)) == whole, "an upload that was not completed does not show"
        before = downloads(sandbox)
        paths, summary = execute(transfer("s3://aws_test@lake/killed", agent_with_large_file, run_id))
        assert summary["fetched"] == 2
        assert not set(downloads(sandbox)[len(before) :]) & set(before[:2])
        assert set(self.keys(s3)) == whole | {"killed/large.csv", "killed/late.csv"}
        check_against_the_service(agent_with_large_file, run_id, paths)

    def test_a_storage_that_cannot_be_reached_is_named(
        self, sandbox: Sandbox, agent_id: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The library for S3 raises errors of its own, which are no ``OSError``."""
        extra = {
            "endpoint_url": "http://127.0.0.1:9",
            "region_name": "us-east-1",
            "config_kwargs": {"retries": {"max_attempts": 0}},
        }
        dead = {"conn_type": "aws", "login": "testing", "password": "testing", "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEAD", json.dumps(dead))
        run_id = finished_run(sandbox, agent_id)
        with pytest.raises(RunFilesUnavailable, match=r"Could not list s3://aws_dead@lake/x: Could not connect"):
            execute(transfer("s3://aws_dead@lake/x", agent_id, run_id))

    @pytest.mark.parametrize(
        "destination",
        [
            "s3://aws_test@lake//run-1",
            "s3://aws_test@lake/a//b",
            "s3://aws_test@/x",
            "s3:///x",
            "s3://aws_test@lake/x ",
        ],
    )
    def test_an_address_that_libraries_read_differently_writes_nothing(
        self, sandbox: Sandbox, agent_id: int, s3: Any, destination: str
    ) -> None:
        run_id = finished_run(sandbox, agent_id)
        with pytest.raises(SequentumRequestRefused, match=r"cannot be used"):
            execute(transfer(destination, agent_id, run_id))
        assert not self.keys(s3)

    @pytest.mark.parametrize(
        ("destination", "key"),
        [
            ("s3://aws_test@lake", "output.csv"),
            ("s3://aws_test@lake/", "output.csv"),
            ("s3://aws_test@lake/x/", "x/output.csv"),
            ("s3://aws_test@lake/day=2026%3A1/my folder", "day=2026%3A1/my folder/output.csv"),
        ],
    )
    def test_an_unusual_address_is_written_and_verified_where_it_leads(
        self, sandbox: Sandbox, agent_id: int, s3: Any, destination: str, key: str
    ) -> None:
        run_id = finished_run(sandbox, agent_id)
        paths, _ = execute(transfer(destination, agent_id, run_id, file_patterns="output.csv"))
        assert set(self.keys(s3)) == {key, key.replace("output.csv", MANIFEST_NAME)}
        assert ObjectStoragePath(paths[0]).read_bytes().startswith(b"sku,")
        assert execute(transfer(destination, agent_id, run_id, file_patterns="output.csv"))[1]["fetched"] == 0

    def test_keys_below_the_names_of_files_are_not_in_the_way(self, sandbox: Sandbox, agent_id: int, s3: Any) -> None:
        for name in ("output.csv", MANIFEST_NAME):
            s3.put_object(Bucket="lake", Key=f"x/{name}/part", Body=b"another's")
        run_id = finished_run(sandbox, agent_id)
        for fetched in (4, 0):
            assert execute(transfer("s3://aws_test@lake/x", agent_id, run_id))[1]["fetched"] == fetched
        stored = s3.get_object(Bucket="lake", Key="x/output.csv")["Body"].read()
        assert stored.startswith(b"sku,")
        assert self.keys(s3)["x/output.csv/part"] == len("another's")

    def test_a_bucket_that_does_not_exist_is_not_made(self, sandbox: Sandbox, agent_id: int, s3: Any) -> None:
        run_id = finished_run(sandbox, agent_id)
        with pytest.raises(RunFilesUnavailable):
            execute(transfer("s3://aws_test@lak/x", agent_id, run_id))
        assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == ["lake"]
