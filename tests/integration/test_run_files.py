"""The transfer against the sandbox over HTTP: to a local folder and to S3."""

from __future__ import annotations

import hashlib
import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, ObjectStoragePath

from airflow_provider_sequentum.api import files, runs
from airflow_provider_sequentum.exceptions import (
    RunFilesUnavailable,
    SequentumConnectionException,
    SequentumRequestRefused,
    SequentumUnavailable,
)
from airflow_provider_sequentum.hooks.sequentum import SequentumHook
from airflow_provider_sequentum.sandbox import Sandbox
from airflow_provider_sequentum.sandbox.agents import ExtraFile
from airflow_provider_sequentum.transfers import landing as landing_module
from airflow_provider_sequentum.transfers.copying import Abandoned, Progress
from airflow_provider_sequentum.transfers.names import MANIFEST_NAME
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
        ({"file_patterns": ["*.parquet"]}, set()),
    ],
)
def test_kinds_and_patterns_choose(
    sandbox: Sandbox, agent_id: int, tmp_path: Path, options: dict[str, Any], names: set[str]
) -> None:
    run_id = finished_run(sandbox, agent_id)
    paths, _ = execute(transfer(tmp_path.as_uri(), agent_id, run_id, **options))
    # The pattern is matched against the service's name, so the path of outside.csv is not "*.csv" alone.
    assert {Path(path).name for path in paths} - {"outside.csv"} == names


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
    told = caplog.text + capsys.readouterr().out
    assert f"Run {first} left 3 files in" in told
    assert "empty.bin, notes.txt, outside.csv" in told


def test_a_kill_abandons_the_copies_and_leaves_nothing_half_written(
    sandbox: Sandbox, agent_with_large_file: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = finished_run(sandbox, agent_with_large_file)
    killed = transfer(tmp_path.as_uri(), agent_with_large_file, run_id, max_parallel_files=1)
    moved = Progress.moved

    def moved_and_killed(self: Progress, size: int) -> None:
        moved(self, size)
        if "early.csv" in visible(tmp_path):  # the large file has begun
            killed.on_kill()

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "moved", moved_and_killed)
        with pytest.raises(Abandoned):
            execute(killed)
    assert visible(tmp_path) == {"output.csv", "early.csv", MANIFEST_NAME}
    _, summary = execute(transfer(tmp_path.as_uri(), agent_with_large_file, run_id))
    assert summary["fetched"] == 2


def test_a_kill_before_the_transfer_has_begun_does_nothing(tmp_path: Path) -> None:
    killed = transfer(tmp_path.as_uri(), 7, 42)
    killed.on_kill()
    assert not visible(tmp_path)


def test_an_interrupted_transfer_goes_on(
    sandbox: Sandbox, agent_id: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a SIGKILL: the plan and two whole files are there, and half of another under its temporary name."""
    run_id = finished_run(sandbox, agent_id)
    fetched: list[str] = []
    fetch_one = RunFilesTransfer._fetch_one

    def fetch_two(self: Any, client: Any, threads: Any, file: Any, entry: Any) -> Any:
        if len(fetched) == 2:
            (tmp_path / "0123.unfinished").write_bytes(b"half")
            raise KeyboardInterrupt
        fetched.append(entry.name)
        return fetch_one(self, client, threads, file, entry)

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


def test_a_killed_transfer_is_finished_by_the_next_try(
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


def test_a_download_that_breaks_goes_on_where_it_broke(sandbox: Sandbox, agent_id: int, tmp_path: Path) -> None:
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
        with pytest.raises(RunFilesUnavailable, match="it can't be fetched again"):
            execute(transfer(tmp_path.as_uri(), agent_id, run_id, remove_method="RemoveAllFiles"))

    def test_nothing_is_removed_that_was_not_copied(self, sandbox: Sandbox, agent_id: int, tmp_path: Path) -> None:
        run_id = finished_run(sandbox, agent_id)
        with pytest.raises(SequentumRequestRefused, match=r"delivered files that were not to be copied: 'notes\.txt'"):
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
        measure = RunFilesTransfer._measure

        def spoil(self: Any, name: str) -> Any:
            (tmp_path / name).write_bytes(b"\0" * (tmp_path / name).stat().st_size)
            return measure(self, name)

        monkeypatch.setattr(RunFilesTransfer, "_measure", spoil)
        with pytest.raises(RunFilesUnavailable, match=r"output\.csv was not right"):
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
            return [
                file.model_copy(update={"file_size": file.file_size and file.file_size + 1}) for file in listed(self)
            ]

        monkeypatch.setattr(RunFilesTransfer, "_listed", one_byte_more)
        with pytest.raises(RunFilesUnavailable, match="because of the doubt none was removed"):
            execute(transfer(tmp_path.as_uri(), agent_id, run_id, remove_method="RemoveAllFiles"))
        assert not sandbox.ledger.of_kind("delete")
        assert "output.csv" in visible(tmp_path)

    def test_a_run_that_somebody_removed_meanwhile_is_removed(
        self, sandbox: Sandbox, agent_id: int, tmp_path: Path
    ) -> None:
        run_id = finished_run(sandbox, agent_id)
        sandbox.fail_next("DELETE /agent/{agent_id}/run/{run_id}", status=404)
        paths, _ = execute(transfer(tmp_path.as_uri(), agent_id, run_id, remove_method="RemoveEntireRun"))
        assert len(paths) == 4

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

        def fetch_and_lose(self: Any, wanted: Any) -> Any:
            measures = fetch(self, wanted)
            (tmp_path / "notes.txt").write_text("no")
            return measures

        with monkeypatch.context() as patch:
            patch.setattr(RunFilesTransfer, "_fetch", fetch_and_lose)
            with pytest.raises(RunFilesUnavailable, match=r"notes\.txt was not right: .* 2 bytes of it, not 5"):
                execute(transfer(tmp_path.as_uri(), agent_id, run_id))
        assert "notes.txt" not in visible(tmp_path)
        _, summary = execute(transfer(tmp_path.as_uri(), agent_id, run_id))
        assert summary["fetched"] == 1

    def test_a_run_that_is_still_going(self, sandbox: Sandbox, tmp_path: Path) -> None:
        agent_id = sandbox.add_agent("Slow", duration=10_000).id
        run_id = SequentumHook().send(runs.start(agent_id)).id
        with pytest.raises(RunFilesUnavailable, match="still going") as raised:
            execute(transfer(tmp_path.as_uri(), agent_id, run_id))
        assert not isinstance(raised.value, AirflowFailException), "a retry may find it ended"
        assert not visible(tmp_path)

    def test_a_run_whose_files_were_removed(self, sandbox: Sandbox, agent_id: int, tmp_path: Path) -> None:
        run_id = finished_run(sandbox, agent_id)
        SequentumHook().send(runs.delete(agent_id, run_id, "RemoveAllFiles"))
        with pytest.raises(SequentumRequestRefused, match="extracted 5 records, but has no files"):
            execute(transfer(tmp_path.as_uri(), agent_id, run_id))

    def test_a_run_nobody_knows(self, sandbox: Sandbox, agent_id: int, tmp_path: Path) -> None:
        with pytest.raises(SequentumRequestRefused, match="doesn't know the run"):
            execute(transfer(tmp_path.as_uri(), agent_id, 999_999))

    def test_a_run_that_extracted_nothing_lands_nothing(self, sandbox: Sandbox, tmp_path: Path) -> None:
        agent_id = sandbox.add_agent("Empty", records=[]).id
        paths, summary = execute(transfer(tmp_path.as_uri(), agent_id, finished_run(sandbox, agent_id)))
        assert (paths, summary["files"], summary["records"]) == ([], 0, 0)

    def test_a_destination_that_is_a_file(self, sandbox: Sandbox, agent_id: int, tmp_path: Path) -> None:
        (tmp_path / "taken").write_text("")
        run_id = finished_run(sandbox, agent_id)
        with pytest.raises(RunFilesUnavailable, match="Could not look into"):
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
        assert "1 files are empty, as they are on the service: empty.bin" in capsys.readouterr().out + caplog.text

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
        with pytest.raises(SequentumRequestRefused, match="Is the Airflow provider of this storage installed"):
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
        assert "untouched on the service" in str(raised.value)
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

    @pytest.mark.parametrize(
        "options", [{"file_kinds": ["everything"]}, {"remove_method": "yes"}, {"max_parallel_files": 0}]
    )
    def test_arguments_are_checked_when_the_dag_is_parsed(self, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=next(iter(options))):
            transfer("file:///tmp", 1, 1, **options)


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

        monkeypatch.setattr("airflow_provider_sequentum.transfers.copying.Progress.moved", stop)
        with pytest.raises(RunFilesUnavailable, match="network is gone"):
            execute(transfer("s3://aws_test@lake/x", agent_id, run_id))
        assert set(self.keys(s3)) == {f"x/{MANIFEST_NAME}"}
        assert not s3.list_multipart_uploads(Bucket="lake").get("Uploads")

    def test_a_killed_transfer_is_finished_by_the_next_try(
        self, sandbox: Sandbox, s3: Any, agent_with_large_file: int
    ) -> None:
        run_id = finished_run(sandbox, agent_with_large_file)
        killed_transfer("s3://aws_test@lake/killed", agent_with_large_file, run_id)
        whole = {f"killed/{name}" for name in ("output.csv", "early.csv", MANIFEST_NAME)}
        assert set(self.keys(s3)) == whole, "an upload that was not completed doesn't show"
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
        with pytest.raises(RunFilesUnavailable, match=r"Could not look into s3://aws_dead@lake/x: Could not connect"):
            execute(transfer("s3://aws_dead@lake/x", agent_id, run_id))

    def test_a_bucket_that_does_not_exist_is_not_made(self, sandbox: Sandbox, agent_id: int, s3: Any) -> None:
        run_id = finished_run(sandbox, agent_id)
        with pytest.raises(RunFilesUnavailable):
            execute(transfer("s3://aws_test@lak/x", agent_id, run_id))
        assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == ["lake"]
