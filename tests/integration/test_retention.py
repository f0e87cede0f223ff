"""Deleting old runs against the sandbox: nothing that is not landed is gone, whatever happens on the way."""

from __future__ import annotations

import itertools
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException

from airflow_provider_sequentum.api import SequentumClient, files, runs
from airflow_provider_sequentum.exceptions import (
    RunFilesUnavailable,
    SequentumConnectionException,
    SequentumRequestRefused,
)
from airflow_provider_sequentum.hooks.sequentum import SequentumHook
from airflow_provider_sequentum.operators.retention import DeleteRunsOperator
from airflow_provider_sequentum.sandbox import Sandbox
from airflow_provider_sequentum.sandbox.agents import Agent, ExtraFile
from airflow_provider_sequentum.transfers.landing import MANIFEST_NAME
from airflow_provider_sequentum.transfers.run_files import RunFilesToObjectStorageOperator
from tests.support.airflow import FakeTask
from tests.support.deaths import Mortal, mortal
from tests.support.landing import finished_run
from tests.support.service import Clock

__all__ = ["mortal"]

DAY = 86_400.0


@pytest.fixture
def agent(sandbox: Sandbox) -> Agent:
    return sandbox.add_agent(
        "Prices", records=[{"name": "Tea"}], duration=1, extra_files=[ExtraFile(name="more.csv", content="a\n1\n")]
    )


def land(agent: Agent, run_id: int, lake: Path, **arguments: Any) -> Path:
    folder = lake / "deep" / str(run_id)
    RunFilesToObjectStorageOperator(
        task_id="land", agent_id=agent.id, run_id=run_id, destination=str(folder), **arguments
    ).execute(FakeTask(Clock()).context)
    return folder


def delete(agent: Agent, lake: Path | str | list[str], task: FakeTask | None = None, **arguments: Any) -> list[int]:
    arguments = {"older_than_days": "30", "dry_run": "False", **arguments}
    lake = lake if isinstance(lake, list) else str(lake)
    operator = DeleteRunsOperator(task_id="delete", agent_id=agent.id, manifests=lake, **arguments)
    return operator.execute((task or FakeTask(Clock())).context)


def has_files(agent: Agent, run_id: int) -> bool:
    return bool(SequentumHook().send(files.list_files(agent.id, run_id)))


def reasons(agent: Agent, lake: Path) -> dict[str, str]:
    task = FakeTask(Clock())
    delete(agent, lake, task)
    kept: dict[str, str] = task.ti.pushed("deletion")["kept"]
    return kept


def test_only_what_is_old_and_landed_is_deleted(sandbox: Sandbox, agent: Agent, tmp_path: Path) -> None:
    old, unlanded = finished_run(sandbox, agent.id), finished_run(sandbox, agent.id)
    sandbox.advance(40 * DAY)
    young = finished_run(sandbox, agent.id)
    land(agent, old, tmp_path)
    land(agent, young, tmp_path)
    assert delete(agent, tmp_path, dry_run=True) == [old]
    assert delete(agent, tmp_path, dry_run=None) == [old]
    assert has_files(agent, old)
    task = FakeTask(Clock())
    assert delete(agent, f"file://{tmp_path}", task) == [old]
    assert [has_files(agent, run_id) for run_id in (old, unlanded, young)] == [False, True, True]
    assert task.ti.pushed("deletion")["kept"] == {str(unlanded): "No manifest says that it is landed"}
    assert delete(agent, tmp_path) == []
    assert delete(agent, [str(tmp_path / "elsewhere"), str(tmp_path)], remove_method="RemoveEntireRun") == [old]
    assert old not in [run.id for run in SequentumHook().send(runs.list_runs(agent.id))]


def test_what_is_not_proved_to_be_landed_is_kept(sandbox: Sandbox, agent: Agent, tmp_path: Path) -> None:
    names = ["incomplete", "changed", "missing", "partly", "of another run", "no manifest"]
    ids = {name: finished_run(sandbox, agent.id) for name in names}
    sandbox.advance(40 * DAY)
    folders = {
        name: land(agent, ids[name], tmp_path, file_patterns="output*" if name == "partly" else "*") for name in names
    }
    manifest = folders["incomplete"] / MANIFEST_NAME
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"is_complete": False}))
    landed = folders["changed"] / "output.csv"
    landed.write_bytes(landed.read_bytes().replace(b"Tea", b"Teb"))
    (folders["missing"] / "more.csv").unlink()
    manifest = folders["of another run"] / MANIFEST_NAME
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"agent_id": agent.id + 1}))
    (folders["no manifest"] / MANIFEST_NAME).write_text("{}")
    kept = reasons(agent, tmp_path)
    assert sandbox.ledger.of_kind("delete") == []
    expected = {
        "incomplete": "is not complete",
        "changed": "output.csv differs from the file that was landed",
        "missing": "more.csv is missing",
        "partly": "does not have 'more.csv' as the service lists it",
        "of another run": "No manifest",
        "no manifest": "No manifest",
    }
    assert {name: text in kept[str(ids[name])] for name, text in expected.items()} == dict.fromkeys(names, True)


def test_a_run_that_was_restarted_after_it_was_landed_is_kept(sandbox: Sandbox, agent: Agent, tmp_path: Path) -> None:
    from airflow_provider_sequentum.sandbox import RunPlan

    sandbox.plan_runs(agent.id, [RunPlan(outcome="Failure", duration=1), RunPlan(duration=1)])
    run_id = finished_run(sandbox, agent.id)
    land(agent, run_id, tmp_path)
    SequentumHook().send(runs.restart(agent.id, run_id))
    sandbox.advance(40 * DAY)
    assert "as the service lists it" in reasons(agent, tmp_path)[str(run_id)]
    assert has_files(agent, run_id)


def test_a_run_that_is_active_is_kept(sandbox: Sandbox, agent: Agent, tmp_path: Path) -> None:
    from airflow_provider_sequentum.sandbox import RunPlan

    sandbox.plan_runs(agent.id, [RunPlan(duration=10**9)])
    SequentumHook().send(runs.start(agent.id))
    sandbox.advance(40 * DAY)
    assert reasons(agent, tmp_path) == {}


@pytest.mark.parametrize("method", ["RemoveAllFiles", "RemoveEntireRun"])
def test_a_kill_at_any_step(sandbox: Sandbox, tmp_path: Path, mortal: Mortal, method: str) -> None:
    mortal.dies_after_requests = True
    for steps in itertools.count():
        agent = sandbox.add_agent(f"Agent {steps}", records=[{"name": "Tea"}], duration=1)
        landed, unlanded = finished_run(sandbox, agent.id), finished_run(sandbox, agent.id)
        sandbox.advance(40 * DAY)
        land(agent, landed, tmp_path)
        task = FakeTask(Clock(), retries=2)
        lived = mortal.outlives(steps, partial(delete, agent, tmp_path, task, remove_method=method))
        if not lived:
            task.next_attempt()
            delete(agent, tmp_path, task, remove_method=method)
        assert {effect.run_id for effect in sandbox.ledger.of_kind("delete", agent.id)} == {landed}, steps
        assert has_files(agent, unlanded)
        if lived:
            break
    assert steps == 11


@pytest.mark.parametrize("status", [401, 503])
def test_what_was_deleted_before_an_error_is_told(
    sandbox: Sandbox, agent: Agent, tmp_path: Path, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults: Any = SequentumClient.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "sleep", lambda seconds: None)
    first, second = finished_run(sandbox, agent.id), finished_run(sandbox, agent.id)
    for run_id in (first, second):
        land(agent, run_id, tmp_path)
    sandbox.advance(40 * DAY)
    sandbox.fail_next(f"DELETE /agent/{agent.id}/run/{second}", status=status, times=20)
    task = FakeTask(Clock(), retries=2)
    with pytest.raises(AirflowException) as caught:
        delete(agent, tmp_path, task)
    assert f"1 run of agent {agent.id} was deleted before that." in str(caught.value)
    assert (f"Run {second} may have been deleted" in str(caught.value)) is (status == 503)
    pushed = task.ti.pushed("deletion")
    assert (pushed["deleted"], pushed["in_doubt"]) == ([first], [second] if status == 503 else [])
    assert has_files(agent, second)


def test_what_cannot_be_pushed_is_in_the_log(
    sandbox: Sandbox, agent: Agent, tmp_path: Path, task_log: pytest.LogCaptureFixture
) -> None:
    run_id = finished_run(sandbox, agent.id)
    land(agent, run_id, tmp_path)
    sandbox.advance(40 * DAY)
    sandbox.fail_next(f"DELETE /agent/{agent.id}/run/{run_id}", status=401)
    task = FakeTask(Clock())
    task.ti.xcom_push = broken  # type: ignore[method-assign]
    with pytest.raises(SequentumConnectionException, match="0 runs of agent"):
        delete(agent, tmp_path, task)
    assert "could not be pushed" in task_log.text


def broken(key: str, value: Any) -> None:
    raise RuntimeError("no supervisor")


def test_a_folder_that_cannot_be_read(sandbox: Sandbox, agent: Agent, tmp_path: Path) -> None:
    (tmp_path / MANIFEST_NAME).mkdir()
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / MANIFEST_NAME).symlink_to(tmp_path / "nowhere")
    with pytest.raises(RunFilesUnavailable, match="Could not read"):
        delete(agent, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"older_than_days": -1}, "older_than_days must be"),
        ({"older_than_days": "1.5"}, "older_than_days must be"),
        ({"older_than_days": None}, "older_than_days must be"),
        ({"remove_method": "Everything"}, "remove_method must be one of"),
        ({"dry_run": "no"}, "dry_run must be True or False"),
        ({"agent_id": 0}, "agent_id must be"),
        ({"manifests": ""}, "manifests must be set"),
        ({"manifests": []}, "manifests must be a string or a list"),
        ({"manifests": ["/lake", None]}, "manifests must be a string or a list"),
        ({"manifests": "lake"}, "neither an address"),
        ({"manifests": "s3://user:secret@bucket"}, "it contains a password"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_sent(arguments: dict[str, Any], reason: str) -> None:
    arguments = {"agent_id": 7, "older_than_days": 1, "manifests": "/lake", **arguments}
    with pytest.raises(SequentumRequestRefused, match=r"Nothing was deleted \(connection") as caught:
        DeleteRunsOperator(task_id="delete", **arguments).execute(FakeTask(Clock()).context)
    assert reason in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_dry_run_of_airflow_itself_still_works() -> None:
    """``airflow tasks test --dry-run`` calls a method of this name, which an attribute would hide."""
    operator = DeleteRunsOperator(task_id="delete", agent_id=7, older_than_days=1, manifests="/lake", dry_run="{{ 1 }}")
    assert callable(operator.dry_run)
    assert operator.is_dry_run == "{{ 1 }}"
    assert all(hasattr(operator, name) for name in operator.template_fields)
