"""Records of runs of the sandbox, through the hook, over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airflow_provider_sequentum.api import runs
from airflow_provider_sequentum.exceptions import RunFilesUnavailable, RunRecordsUnreadable, SequentumRequestRefused
from airflow_provider_sequentum.hooks.sequentum import SequentumHook
from airflow_provider_sequentum.sandbox import Sandbox
from airflow_provider_sequentum.sandbox.agents import ExtraFile
from tests.support.landing import finished_run, small_disk

RECORDS: list[dict[str, Any]] = [{"sku": f"A{number}", "price": number + 0.5} for number in range(3)]


@pytest.mark.parametrize("output", ["json", "ndjson", "xlsx", "parquet"])
def test_typed_formats(sandbox: Sandbox, output: Any) -> None:
    agent_id = sandbox.add_agent("Prices", records=RECORDS, output=output).id
    run_id = finished_run(sandbox, agent_id)
    assert list(SequentumHook().iter_records(agent_id, run_id)) == RECORDS


def test_several_files_and_a_pattern(sandbox: Sandbox) -> None:
    extra = [ExtraFile(name="more.csv", content="sku\nB1\n"), ExtraFile(name="notes.pdf", content="%PDF")]
    agent_id = sandbox.add_agent("Prices", records=RECORDS, extra_files=extra).id
    run_id = finished_run(sandbox, agent_id)
    hook = SequentumHook()
    with pytest.raises(RunRecordsUnreadable, match=r"'notes\.pdf' is not in a format"):
        list(hook.iter_records(agent_id, run_id))
    found = list(hook.iter_records(agent_id, str(run_id), pattern="*.csv"))
    assert [record["sku"] for record in found] == ["A0", "A1", "A2", "B1"]


@pytest.mark.parametrize("read", ["iter_records", "iter_record_batches", "get_pandas_df"])
def test_a_pattern_that_no_file_matches_is_said(sandbox: Sandbox, read: str) -> None:
    """As when the export of an agent is renamed: without an error, a load would replace a table by nothing."""
    agent_id = sandbox.add_agent("Prices", records=RECORDS, output="json").id
    run_id = finished_run(sandbox, agent_id)
    with pytest.raises(SequentumRequestRefused, match=r"none of its files matches pattern='\*\.csv': 'output\.json'"):
        list(getattr(SequentumHook(), read)(agent_id, run_id, pattern="*.csv"))
    empty = sandbox.add_agent("None", records=[], extra_files=[ExtraFile(name="notes.txt", content="-")]).id
    assert len(SequentumHook().get_pandas_df(empty, finished_run(sandbox, empty), pattern="*.csv")) == 0


def test_a_file_is_fetched_when_its_first_record_is_wanted(sandbox: Sandbox) -> None:
    agent_id = sandbox.add_agent("P", records=RECORDS, extra_files=[ExtraFile(name="b.csv", content="sku\nB1\n")]).id
    run_id = finished_run(sandbox, agent_id)
    records = SequentumHook().iter_records(agent_id, run_id)

    def fetched() -> int:
        return sum(entry.path.endswith("/download") for entry in sandbox.ledger.requests)

    next(records)
    assert fetched() == 1
    assert len(list(records)) == 3
    assert fetched() == 2


def test_arrow_and_pandas(sandbox: Sandbox) -> None:
    agent_id = sandbox.add_agent("Prices", records=RECORDS).id
    run_id = finished_run(sandbox, agent_id)
    [batch] = SequentumHook().iter_record_batches(agent_id, run_id)
    assert batch.to_pylist() == RECORDS
    frame = SequentumHook().get_pandas_df(agent_id, run_id)
    assert frame["price"].sum() == 4.5


def test_an_error_names_the_run_and_the_place(sandbox: Sandbox) -> None:
    agent_id = sandbox.add_agent("P", records=[], extra_files=[ExtraFile(name="b.csv", content="a,b\n1\n")]).id
    run_id = finished_run(sandbox, agent_id)
    with pytest.raises(RunRecordsUnreadable, match=f"run {run_id} of agent {agent_id}.*'b.csv' has 1 cells in line 2"):
        list(SequentumHook().iter_records(agent_id, run_id))


def test_a_temporary_folder_that_is_full(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = tmp_path / "large.csv"
    large.write_bytes(b"a,b\n" * (2 * 1024 * 1024))
    agent_id = sandbox.add_agent("P", records=[], extra_files=[ExtraFile(name="large.csv", path=large)]).id
    run_id = finished_run(sandbox, agent_id)
    with small_disk(tmp_path / "disk", megabytes=4) as disk:
        monkeypatch.setattr("tempfile.tempdir", str(disk))
        with pytest.raises(RunFilesUnavailable, match=rf"'large.csv' could not be saved in .* {disk}.*No space left"):
            list(SequentumHook().iter_records(agent_id, run_id))


def test_a_temporary_folder_that_is_missing(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent_id = sandbox.add_agent("P", records=RECORDS).id
    run_id = finished_run(sandbox, agent_id)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(RunFilesUnavailable, match=r"'output.csv' could not be saved in .*gone.*TMPDIR"):
        list(SequentumHook().iter_records(agent_id, run_id))


def test_batches_and_frame_fail_as_records_do(sandbox: Sandbox) -> None:
    extra = [ExtraFile(name="b.csv", content='a,b\n1,"2\n3,4\n')]
    agent_id = sandbox.add_agent("P", records=[], extra_files=extra).id
    run_id = finished_run(sandbox, agent_id)
    hook = SequentumHook()
    for read in (hook.iter_records, hook.iter_record_batches, hook.get_pandas_df):
        with pytest.raises(RunRecordsUnreadable, match=r"'b\.csv' is not valid CSV .* starts in line 2"):
            list(read(agent_id, run_id))


def test_files_with_different_columns_in_one_frame(sandbox: Sandbox) -> None:
    extra = [
        ExtraFile(name="a.ndjson", content='{"id":9007199254740993}\n'),
        ExtraFile(name="b.ndjson", content='{"sku":"B"}\n'),
    ]
    agent_id = sandbox.add_agent("P", records=[], extra_files=extra).id
    frame = SequentumHook().get_pandas_df(agent_id, finished_run(sandbox, agent_id))
    assert frame["id"][0] == 9007199254740993
    assert list(frame["sku"].isna()) == [True, False]


def test_a_run_that_is_still_going(sandbox: Sandbox) -> None:
    agent_id = sandbox.add_agent("Slow", duration=10_000).id
    run_id = SequentumHook().send(runs.start(agent_id)).id
    with pytest.raises(RunFilesUnavailable, match="not known to have ended"):
        next(SequentumHook().iter_records(agent_id, run_id))


def test_a_run_whose_files_were_removed(sandbox: Sandbox) -> None:
    agent_id = sandbox.add_agent("Prices", records=RECORDS).id
    run_id = finished_run(sandbox, agent_id)
    hook = SequentumHook()
    hook.send(runs.delete(agent_id, run_id, "RemoveAllFiles"))
    with pytest.raises(SequentumRequestRefused, match="extracted 3 records, but has no files"):
        next(hook.iter_records(agent_id, run_id))


def test_a_run_without_records_has_none(sandbox: Sandbox) -> None:
    agent_id = sandbox.add_agent("Empty", records=[]).id
    run_id = finished_run(sandbox, agent_id)
    assert list(SequentumHook().iter_records(agent_id, run_id)) == []
    assert SequentumHook().get_pandas_df(agent_id, run_id).empty
