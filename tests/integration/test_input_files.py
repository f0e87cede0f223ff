"""Input files against the sandbox: from object storage and from rows, with a kill at every step."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_sequentum.exceptions import SequentumRequestRefused
from airflow_provider_sequentum.hooks.connection import SequentumConnection
from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from airflow_provider_sequentum.sandbox import Sandbox
from airflow_provider_sequentum.transfers.input_files import ObjectStorageToInputFilesOperator, stable_name
from tests.support.airflow import FakeTask
from tests.support.deaths import Mortal, mortal
from tests.support.service import Clock

__all__ = ["mortal"]

CHECKOUT = Path(__file__).parents[2]
SPACE = 1


def new_task(map_index: int = -1) -> FakeTask:
    task = FakeTask(Clock(), retries=2)
    task.ti.task_id, task.ti.map_index = "upload", map_index
    return task


def upload(task: FakeTask, **arguments: Any) -> str:
    arguments = {"space_id": SPACE, **arguments}
    return ObjectStorageToInputFilesOperator(task_id="upload", **arguments).execute(task.context)


def stored(sandbox: Sandbox) -> dict[str, str]:
    """The files by name, with their checksums."""
    files = sandbox.engine.state.input_files
    assert len({(file.space_id, file.name) for file in files}) == len(files)
    return {file.name: file.sha256 for file in files}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_file_goes_up_as_it_is_and_its_name_to_the_agent(sandbox: Sandbox, tmp_path: Path) -> None:
    agent = sandbox.add_agent("Prices", records=[], duration=1, space_id=sandbox.add_space("Shop").id)
    content = "sku;name\r\n1;Tée\r\n".encode()
    (tmp_path / "skus.csv").write_bytes(content)
    name = upload(new_task(), source=f"file://{tmp_path}/skus.csv", space_id=None, agent_id=agent.id)
    assert stored(sandbox) == {name: sha256(content)}
    assert sandbox.engine.state.input_files[0].space_id == agent.space_id
    StartAgentRunOperator(
        task_id="run_agent", agent_id=agent.id, input_parameters={"skus": name}, poll_interval=0.05
    ).execute(new_task().context)
    [start] = sandbox.ledger.starts(agent.id)
    assert json.loads(start.input_parameters or "{}") == {"skus": name}


def test_an_agent_without_a_space(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow_provider_sequentum.api.agents import Agent

    monkeypatch.setattr(SequentumConnection, "send", lambda hook, call: Agent(id=7))
    with pytest.raises(SequentumRequestRefused, match="Agent 7 is not in a space"):
        upload(new_task(), rows=[{"a": 1}], space_id=None, agent_id=7)


def test_an_unknown_space_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(SequentumRequestRefused, match="space 99"):
        upload(new_task(), rows=[{"a": 1}], space_id=99)


def test_a_kill_at_any_step_of_three_uploads_leaves_one_file_each(sandbox: Sandbox, mortal: Mortal) -> None:
    mortal.dies_after_requests = True
    for steps in itertools.count():
        tasks = [new_task(index) for index in range(3)]
        lived = True
        for index, task in enumerate(tasks):
            if not mortal.outlives(steps, partial(upload, task, rows=[{"page": index}])):
                lived = False
                task.next_attempt()
                upload(task, rows=[{"page": index}])
        assert sorted(stored(sandbox).values()) == sorted(sha256(f"page\n{index}\n".encode()) for index in range(3))
        if lived:
            break
    assert steps == 2


def test_a_sigkill_after_each_step_of_three_uploads_leaves_one_file_each(sandbox: Sandbox) -> None:
    """Real processes; the ones above only stop."""
    command = [sys.executable, "-m", "tests.support.upload_process", str(SPACE)]
    fates, names = [], [stable_name("dag", "upload", index, ".csv") for index in range(3)]
    with subprocess.Popen(command, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        watchdog = threading.Timer(120, process.kill)
        watchdog.start()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            for line in process.stdout:
                if not (said := re.fullmatch(r"(\d+) (killed|retried|lived)\n", line)):
                    continue  # Airflow logs to the same place
                step, fate = said.groups()
                fates.append(fate)
                # Until it is tried again, a file may be that of the DAG run before.
                steps = [int(step)] if fate != "killed" else [int(step), int(step) - 1]
                found = stored(sandbox)
                assert found.keys() == set(names)
                for index, name in enumerate(names):
                    assert found[name] in [sha256(f"page,step\n{index},{each}\n".encode()) for each in steps], line
                process.stdin.write("\n")
                process.stdin.flush()
        finally:
            process.kill()
            watchdog.cancel()
    assert fates == ["killed", "retried"] * 6 + ["lived"]


def test_an_answer_that_is_lost_leaves_one_file(sandbox: Sandbox) -> None:
    sandbox.fail_next("POST /input-files/space/{space_id}", "reset_after")
    name = upload(new_task(), rows=[{"a": 1}])
    assert list(stored(sandbox)) == [name]


def test_another_dag_run_overwrites_and_another_map_index_does_not(sandbox: Sandbox) -> None:
    first = upload(new_task(0), rows=[{"a": 1}])
    assert upload(new_task(0), rows=[{"a": 2}]) == first
    second = upload(new_task(1), rows=[{"a": 3}])
    assert stored(sandbox) == {first: sha256(b"a\n2\n"), second: sha256(b"a\n3\n")}
