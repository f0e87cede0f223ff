"""Every snippet of the documentation runs as it stands, against the sandbox."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import runpy
import shutil
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import DAG, Asset, TaskDeferred

from airflow_provider_sequentum import api, retry_rules
from airflow_provider_sequentum.api import billing, runs
from airflow_provider_sequentum.assets.agent_run import AgentRunCompletedTrigger
from airflow_provider_sequentum.exceptions import AgentRunFailure
from airflow_provider_sequentum.hooks.sequentum import SequentumHook
from airflow_provider_sequentum.operators.agent_builder import AgentBuilderOperator
from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from airflow_provider_sequentum.sandbox import RunPlan
from airflow_provider_sequentum.transfers.run_files import RunFilesToObjectStorageOperator
from tests.support.airflow import FakeTask
from tests.support.service import Clock
from tests.system.harness.service import free_port

if TYPE_CHECKING:
    from airflow_provider_sequentum.sandbox import Agent, Sandbox

CHECKOUT = Path(__file__).parents[2]
DOCS = CHECKOUT / "docs"
PAGES = [
    page
    for page in (CHECKOUT / "README.md", *sorted(DOCS.rglob("*.md")))
    # The client's guide has a test of its own, which looks at what came of it.
    if "```python\n" in page.read_text() and page.name != "python-client.md"
]
SERVICE = "https://dashboard.sequentum.com"


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.DOTALL)


@pytest.fixture
def agent(sandbox: Sandbox) -> Agent:
    """What the snippets call agent 7."""
    return sandbox.add_agent("Prices", records=[{"name": "Tea", "price": 9.5}], duration=1)


@pytest.fixture
def run_id(sandbox: Sandbox, agent: Agent) -> int:
    """What they call run 42: it is over."""
    run = SequentumHook().send(runs.start(agent.id))
    sandbox.advance(60)
    return run.id


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds, sleep=time.sleep: sleep(min(seconds, 0.2)))
    monkeypatch.setattr("airflow_provider_sequentum.runs.lost_start.LOOKUP_DELAYS", (0.05, 0.1))


def execute(page: Path, agent: Agent, run_id: int) -> dict[str, Any]:
    """Run a page's snippets one after the other and return the names they leave."""
    return run_snippets(page.name, blocks(page, "python"), agent, run_id)


def run_snippets(title: str, snippets: list[str], agent: Agent, run_id: int) -> dict[str, Any]:
    connection = SequentumHook().settings
    names: dict[str, Any] = {
        "AgentBuilderOperator": AgentBuilderOperator,
        "RunFilesToObjectStorageOperator": RunFilesToObjectStorageOperator,
        "SequentumHook": SequentumHook,
        "StartAgentRunOperator": StartAgentRunOperator,
        "Asset": Asset,
        "AgentRunCompletedTrigger": AgentRunCompletedTrigger,
        "client_settings": {"api_key": connection.api_key, "base_url": connection.base_url},
        "run_your_dag": run_your_dag,
    }
    for number, block in enumerate(snippets):
        if "sandbox.testing import sandbox" in block:
            continue  # a conftest.py
        source = block.replace("agent_id=7", f"agent_id={agent.id}").replace("run_id=42", f"run_id={run_id}")
        source = source.replace("...  # run your DAG", "run_your_dag(sandbox, agent)  #")
        try:
            with DAG(f"snippet_{number}", schedule=None):
                if "run.output" in source and "run = " not in source:
                    names["run"] = StartAgentRunOperator(task_id="run", agent_id=agent.id)
                exec(compile(source, f"{title}, snippet {number}", "exec"), names)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "airflow":
                raise
            pytest.skip(f"this Airflow has no {error.name}")
        except RuntimeError as error:
            if "need Airflow 3" not in str(error):
                raise
            pytest.skip(str(error))
    return names


def run_your_dag(sandbox: Sandbox, agent: Agent) -> None:
    """What a reader's DAG does: run the agent, with a restart."""
    os.environ["AIRFLOW_CONN_SEQUENTUM_DEFAULT"] = sandbox.connection_uri
    StartAgentRunOperator(
        task_id="run_agent", agent_id=agent.id, restarts=1, restart_delay=0.1, poll_interval=0.1
    ).execute(FakeTask(Clock(datetime.now(UTC)), retries=0).context)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_snippets_run(page: Path, agent: Agent, run_id: int) -> None:
    execute(page, agent, run_id)


@pytest.mark.parametrize(
    "described", [api, retry_rules, SequentumHook, AgentRunCompletedTrigger], ids=lambda described: described.__name__
)
def test_snippets_in_docstrings_run(described: Any, agent: Agent, run_id: int) -> None:
    [snippet] = re.findall(r"::\n\n((?: {4}.*(?:\n|$)|\n)+)", inspect.getdoc(described) or "")
    snippet = dedent(snippet).replace('api_key="sk-..."', "**client_settings")
    if "AssetWatcher(" in snippet:
        snippet = f"from airflow.sdk import AssetWatcher\n{snippet}"
    run_snippets(described.__name__, [snippet], agent, run_id)


def test_reading_records(agent: Agent, run_id: int) -> None:
    assert execute(DOCS / "how-to" / "land-files.md", agent, run_id)["names"](agent.id, run_id) == ["Tea"]


def test_a_task_that_starts_a_run_by_the_hook(agent: Agent) -> None:
    example = runpy.run_path(str(CHECKOUT / "dags_examples" / "hook_in_a_task.py"))
    found = example["first_record"].function(agent.id)
    assert found["record"] == {"name": "Tea", "price": "9.5"}
    assert found["cost"] is None or found["cost"] > 0


def test_an_alert_names_the_run_and_what_it_found(
    sandbox: Sandbox, agent: Agent, run_id: int, capsys: pytest.CaptureFixture[str]
) -> None:
    alert = execute(DOCS / "how-to" / "recipes.md", agent, run_id)["alert"]
    task = FakeTask(Clock(datetime.now(UTC)), retries=0)
    sandbox.plan_runs(agent.id, [RunPlan(outcome="Failure")])
    with pytest.raises(AgentRunFailure) as caught:
        StartAgentRunOperator(task_id="run_agent", agent_id=agent.id, poll_interval=0.1).execute(task.context)
    alert({**task.context, "exception": caught.value})
    printed = capsys.readouterr().out
    assert f"Run {caught.value.run_id} of agent {agent.id}: Failure, " in printed
    assert f"/agents/{agent.id}/runs/{caught.value.run_id}" in printed
    alert({**task.context, "exception": ValueError("Something else.")})
    assert capsys.readouterr().out.endswith("failed: Something else.\n")


def test_the_report_of_spending_has_each_agent_and_what_is_left(
    sandbox: Sandbox, agent: Agent, run_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = execute(DOCS / "how-to" / "recipes.md", agent, run_id)["spent_yesterday"]
    sandbox.advance(24 * 3600)
    monkeypatch.setitem(report.function.__globals__, "datetime", SandboxTime(sandbox))
    [ended] = sandbox.ledger.runs(agent.id)
    left = float(SequentumHook().send(billing.credits()).available_credits)
    assert report.function() == {
        "day": f"{ended.created:%Y-%m-%d}",
        "agents": {"Prices": 1.0},
        "credits left": left,
    }
    assert left == 999.0


class SandboxTime:
    """The class ``datetime`` of a snippet, for which it is as late as in the sandbox."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def now(self, zone: Any) -> datetime:
        return self._sandbox.engine.clock.now().astimezone(zone)


def test_an_operator_of_the_readers_own_waits(agent: Agent, run_id: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_provider_sequentum.airflow_compat.trigger_life.MIN_TRIGGER_LIFETIME", 0.0)
    kind = execute(DOCS / "how-to" / "triggers.md", agent, run_id)["WaitForRun"]
    task = kind(task_id="wait", agent_id=agent.id, run_id=run_id)
    with pytest.raises(TaskDeferred) as deferral:
        task.execute({})

    async def event() -> Any:
        return await anext(aiter(deferral.value.trigger.run()))

    assert task.execute_complete({}, asyncio.run(event()).payload) == run_id


@pytest.mark.usefixtures("quick")
def test_what_is_to_be_migrated_works_and_its_successor_does_the_same(
    sandbox: Sandbox, agent: Agent, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The page is only fair if the code before the migration does what it says."""
    page = DOCS / "migration.md"
    monkeypatch.setenv("AIRFLOW_VAR_SEQUENTUM_API_KEY", sandbox.api_key)
    names: dict[str, Any] = {}
    for block in blocks(page, "python"):
        if "requests" in block:
            exec(block.replace(SERVICE, sandbox.base_url).replace('"/tmp"', repr(str(tmp_path))), names)
    ended = names["extract"].function(agent.id)
    names["download"](agent.id, ended)
    assert (tmp_path / "output.csv").read_text().splitlines() == ["name,price", "Tea,9.5"]

    task = FakeTask(Clock(datetime.now(UTC)), retries=0)
    assert StartAgentRunOperator(task_id="extract", agent_id=agent.id).execute(task.context) == ended + 1


@pytest.mark.parametrize(
    "value", re.findall(r"export AIRFLOW_CONN_SEQUENTUM_DEFAULT='(.*)'", (DOCS / "connection.md").read_text())
)
def test_every_way_to_write_a_connection_means_the_same(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SEQUENTUM_DEFAULT", value)
    settings = SequentumHook().settings
    assert (settings.api_key, settings.base_url, settings.requests_per_minute) == ("sk-...", SERVICE, 60)


def shell(script: str, folder: Path, timeout: float) -> str:
    """Run a reader's commands in a copy of the checkout's example DAGs, with this environment's programs."""
    shutil.copytree(CHECKOUT / "dags_examples", folder / "dags_examples")
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "AIRFLOW_HOME": str(folder / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "HOME": str(folder),
        "PYTHONPATH": str(CHECKOUT),
        "TMPDIR": str(folder),
    }
    script = f"set -eu\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    return done.stdout


@pytest.mark.slow
def test_getting_started_takes_five_minutes(tmp_path: Path) -> None:
    commands = "\n".join(blocks(DOCS / "get-started.md", "bash")).replace("8765", str(free_port()))
    assert commands.count("pip install") == 1
    commands = commands.replace("airflow dags test quickstart", "airflow dags test quickstart 2>&1")
    [own_dag] = blocks(DOCS / "index.md", "python")
    own_dag = own_dag.replace("from airflow.sdk", "from airflow.providers.common.compat.sdk")
    (tmp_path / "us_states.py").write_text(own_dag.replace("/tmp/lake", str(tmp_path / "lake")))
    [test_it] = [block for block in blocks(DOCS / "get-started.md", "console") if "airflow dags test" in block]
    commands += '\ncp us_states.py "$AIRFLOW_HOME/dags/"\n' + test_it.removeprefix("$ ")
    printed = shell(re.sub(r"^pip install.*$", "", commands, flags=re.MULTILINE), tmp_path, timeout=280)
    assert "Alabama" in printed.rpartition("capital")[2]
    assert re.findall(r".*\[(?:error|critical) *\].*", printed) == [], "a green DAG has no red line in its log"
    with sqlite3.connect(tmp_path / "airflow" / "airflow.db") as database:
        links = dict(database.execute("SELECT key, value FROM xcom WHERE key LIKE '%link'").fetchall())
    assert re.search(r"/agents/\d+/runs/\d+", links["agent_run_link"]), "the button leads to the page of the run"
    assert re.search(r"/sessions/\w+", links["agent_builder_session_link"])
    [landed] = (tmp_path / "lake" / "us_states").glob("run-*/output.csv")
    assert len(landed.read_text().splitlines()) == 51


@pytest.mark.slow
def test_a_connection_is_added_by_the_command_line(tmp_path: Path) -> None:
    [command] = [block for block in blocks(DOCS / "connection.md", "bash") if "connections add" in block]
    printed = shell(f"airflow db migrate\n{command}\nairflow connections get sequentum_default -o json", tmp_path, 120)
    assert '"requests_per_minute": "60"' in printed or "'requests_per_minute': 60" in printed


@pytest.mark.slow
def test_the_tests_of_the_page_on_testing_pass_where_a_reader_puts_them(tmp_path: Path) -> None:
    home = tmp_path / "airflow"
    home.mkdir()
    shutil.copytree(DOCS / "examples" / "testing", home / "dags", ignore=shutil.ignore_patterns("__pycache__"))
    printed = shell("airflow db migrate\npytest -p no:cacheprovider $AIRFLOW_HOME/dags", tmp_path, timeout=280)
    assert "4 passed" in printed
