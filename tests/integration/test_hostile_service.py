"""Operators against a service that lies: whatever it answers, in bodies and headers, what is true stays so.

Only exceptions of Airflow leave a task; nothing goes on that the task does not name; nothing is started twice; nothing
of others is stopped, resumed or deleted; and the key is in no message, log or XCom and goes to no other origin.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException, TaskDeferred

from airflow_provider_sequentum.airflow_compat.kill import AirflowTaskTerminated
from airflow_provider_sequentum.api import agents, runs, schedules
from airflow_provider_sequentum.api.schedules import ScheduleDefinition, ScheduleType
from airflow_provider_sequentum.assets.agent_run import AgentRunCompletedTrigger
from airflow_provider_sequentum.hooks.sequentum import SequentumHook
from airflow_provider_sequentum.operators.agent_builder import AgentBuilderOperator
from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from airflow_provider_sequentum.operators.agent_version import RestoreAgentVersionOperator
from airflow_provider_sequentum.operators.retention import DeleteRunsOperator
from airflow_provider_sequentum.operators.run_changes import RunChangesOperator
from airflow_provider_sequentum.operators.run_records import CheckRunRecordsOperator
from airflow_provider_sequentum.operators.schedules import PauseAgentSchedulesOperator, ResumeAgentSchedulesOperator
from airflow_provider_sequentum.operators.space_run import StartSpaceRunsOperator
from airflow_provider_sequentum.sandbox import RunPlan, Sandbox
from airflow_provider_sequentum.sandbox.agents import Agent, ExtraFile
from airflow_provider_sequentum.sensors.agent_run import AgentRunSensor
from airflow_provider_sequentum.transfers.input_files import ObjectStorageToInputFilesOperator
from airflow_provider_sequentum.transfers.landing import MANIFEST_NAME
from airflow_provider_sequentum.transfers.run_files import RunFilesToObjectStorageOperator
from tests.support.airflow import FakeTask
from tests.support.hostile_triggerer import HostileTriggerer, hostile_triggerer, stored
from tests.support.hostile_wire import HostileWire, hostile
from tests.support.landing import finished_run
from tests.support.service import Clock
from tests.support.variables import Variables, variables

__all__ = ["variables"]

CASES, FIRST = int(os.environ.get("HOSTILE_CASES", "2")), int(os.environ.get("HOSTILE_FIRST", "0"))
"""How many seeds each scenario is run with, and the first: ``HOSTILE_CASES=200 pytest ...`` tries many more."""
DAY = 86_400.0


@pytest.fixture(scope="module")
def service() -> Iterator[Sandbox]:
    with Sandbox(rate_limit=1_000_000, space_concurrency=100_000, credits=1e9) as opened:
        yield opened


class Case:
    """One task against a lying service, and what was true before it."""

    def __init__(self, sandbox: Sandbox, wire: HostileWire, folder: Path, log: pytest.LogCaptureFixture) -> None:
        self.sandbox, self.wire, self.folder, self.log = sandbox, wire, folder, log
        self.task = FakeTask(Clock(sandbox.now))
        self.context: Any = None
        self.triggerer: HostileTriggerer = None  # type: ignore[assignment]
        self.ended = ""
        self.kinds: set[str] = set()
        self.result: Any = None
        self.foreign = sandbox.add_agent("Foreign", records=[{"a": "1"}], duration=500_000_000.0, space_id=1)
        self.foreign_run = self.hook.send(runs.start(self.foreign.id)).id
        done = sandbox.add_agent("Foreign done", records=[{"a": "1"}], duration=1)
        self.foreign_done = self.finished(done)
        self.since = len(sandbox.ledger.effects)
        wire.foreign_ids = [self.foreign_run, self.foreign_done, self.foreign.id, done.id]

    @property
    def hook(self) -> SequentumHook:
        return SequentumHook()

    def finished(self, agent: Agent) -> int:
        return finished_run(self.sandbox, agent.id, 5.0)

    def agent(self, **arguments: Any) -> Agent:
        return self.sandbox.add_agent(
            f"Agent {len(self.sandbox.engine.state.agents)}",
            **{"records": [{"sku": "1", "name": "Tea"}, {"sku": "2", "name": "Cup"}], "duration": 20, **arguments},
        )

    def run_tries(self, make: Callable[[], Any], tries: int = 3) -> None:
        """Let a task that is retried work, with lies in all its attempts but the last."""
        self.task.retries = self.task.ti.max_tries = tries - 1
        since, told = len(self.sandbox.ledger.effects), ""
        for number in range(tries):
            if number == tries - 1:
                self.wire.share = 0.0
            self.run(make().execute)
            told += self.said
            if self.ended.startswith("result ") or "AirflowFailException" in self.kinds:
                break
            self.task.next_attempt()
        self.since, self.ended = since, told

    def run(self, action: Callable[[Any], Any]) -> None:
        """Let the task work against lies, and note how it ended."""
        self.since = len(self.sandbox.ledger.effects)
        self.log.clear()
        self.wire.is_honest = False
        try:
            self.result = action(self.context or self.task.context)
            self.ended = f"result {self.result!r}"
        except AirflowException as error:
            self.kinds = {kind.__name__ for kind in type(error).__mro__}
            self.ended = "".join(traceback.format_exception(error)) + repr(vars(error))
        except (AirflowTaskTerminated, SystemExit) as killed:
            self.ended = "".join(traceback.format_exception(killed))
        finally:
            self.wire.is_honest = True

    @property
    def said(self) -> str:
        """What the task says to people: how it ended, its log, its XComs."""
        formatter = logging.Formatter("%(message)s")
        lines = "\n".join(formatter.format(record) for record in self.log.records)
        return f"{self.ended}\n{lines}\n{self.task.ti.xcoms!r}\n{json.dumps(self.task.store.values)}"

    def check(self) -> None:
        """Check what holds for every task."""
        key = self.sandbox.api_key
        assert key not in self.said
        assert key not in json.dumps(str(self.said))
        assert not self.wire.leaks
        assert not self.sandbox.ledger.leaks
        touched = [
            effect
            for effect in self.sandbox.ledger.effects[self.since :]
            if effect.agent_id == self.foreign.id or effect.run_id in (self.foreign_run, self.foreign_done)
        ]
        assert touched == []
        escaped = [path for path in (self.folder.parent / "evil", Path("/tmp/evil")) if path.exists()]
        assert escaped == []

    def effects(self, kind: str) -> list[Any]:
        return [effect for effect in self.sandbox.ledger.effects[self.since :] if effect.kind == kind]

    def check_runs(self, agent_ids: list[int], most: int = 1) -> None:
        """Check that each agent was started at most so often, and that no run goes on which nobody names."""
        if self.wire.refused_falsely:
            return
        starts = self.effects("start")
        assert {start.agent_id for start in starts} <= set(agent_ids)
        for agent_id in agent_ids:
            assert sum(start.agent_id == agent_id for start in starts) <= most
        own = {start.run_id for start in starts}
        going = [run for run in self.sandbox.ledger.runs() if run.going and run.run_id in own]
        for run in going:
            is_named = str(run.run_id) in self.said or "may be running" in self.said or "may have started" in self.said
            assert is_named, f"run {run.run_id} goes on"

    def check_stopped(self, agent_id: int) -> None:
        """Check that no run of an agent goes on, unless the log says that it may, or the service that it does not."""
        going = [run for run in self.sandbox.ledger.runs(agent_id) if run.going]
        is_told = self.wire.lied_about_status or self.wire.refused_falsely
        assert not going or is_told or "may be running" in self.said or "may still be running" in self.said

    def check_no_overlap(self, agent_ids: list[int]) -> None:
        """Check that no run of an agent was started while another one of the task went on, unless it is named."""
        if self.wire.refused_falsely:
            return
        for agent_id in agent_ids:
            own = sorted(self.sandbox.ledger.runs(agent_id), key=lambda run: run.created)
            for earlier, later in itertools.pairwise(own):
                overlaps = earlier.finished is None or earlier.finished > later.created
                assert not overlaps, f"{earlier} and {later}"


Scenario = Callable[[Case], None]


def start(case: Case) -> None:
    agent = case.agent(duration=case.wire.random.choice([20, 20, 10**7]))
    operator = StartAgentRunOperator(task_id="run_agent", agent_id=agent.id, timeout=3600, report_cost=True)
    case.run(operator.execute)
    case.check_runs([agent.id])


def start_beside_stranger(case: Case) -> None:
    agent = case.agent(duration=case.wire.random.choice([20, 20, 10**7]))
    case.sandbox.plan_runs(agent.id, [RunPlan(duration=10**9)])
    stranger = case.hook.send(runs.start(agent.id)).id
    case.wire.foreign_ids += [stranger, stranger]
    case.sandbox.advance(60)  # what was started in the moment of a start without a response can be taken for its run
    operator = StartAgentRunOperator(task_id="run_agent", agent_id=agent.id, timeout=3600)
    case.run(operator.execute)
    case.check_runs([agent.id])
    assert stranger not in {effect.run_id for effect in case.effects("stop") + case.effects("kill")}


def start_and_retry(case: Case) -> None:
    agent = case.agent(duration=case.wire.random.choice([20, 20, 10**7]))
    outcome = case.wire.random.choice(["Success", "Failure"])
    case.sandbox.plan_runs(agent.id, [RunPlan(outcome=outcome, duration=case.wire.random.choice([20, 10**7]))])
    case.run_tries(
        lambda: StartAgentRunOperator(task_id="run_agent", agent_id=agent.id, timeout=3600, retries=2, restarts=1)
    )
    case.check_runs([agent.id], most=3)
    case.check_no_overlap([agent.id])


def start_space_and_retry(case: Case) -> None:
    space = case.sandbox.add_space(f"Space {len(case.sandbox.engine.state.spaces)}")
    ids = [case.agent(space_id=space.id, duration=case.wire.random.choice([20, 10**7])).id for _ in range(2)]
    case.run_tries(
        lambda: StartSpaceRunsOperator(task_id="run_agent", space_id=space.id, timeout=3600, retries=2, restarts=1)
    )
    case.check_runs(ids, most=3)
    case.check_no_overlap(ids)


def start_with_limits(case: Case) -> None:
    agent = case.agent()
    case.finished(agent)
    case.sandbox.advance(20)
    operator = StartAgentRunOperator(
        task_id="run_agent",
        agent_id=agent.id,
        timeout=3600,
        min_credits=1,
        credit_limit=100_000,
        credit_limit_period=case.wire.random.choice(["dag_run", "day", "month"]),
        expected_version=1,
        check_schedules=True,
        stop_overdue=True,
        min_records=1,
    )
    case.run(operator.execute)
    case.check_runs([agent.id])


def start_beyond_limit(case: Case) -> None:
    agent = case.agent()
    case.finished(agent)
    case.sandbox.advance(30)
    operator = StartAgentRunOperator(
        task_id="run_agent", agent_id=agent.id, timeout=3600, credit_limit=1e-9, credit_limit_period="day"
    )
    case.run(operator.execute)
    case.check_runs([agent.id])


def start_space(case: Case) -> None:
    space = case.sandbox.add_space(f"Space {len(case.sandbox.engine.state.spaces)}")
    ids = [case.agent(space_id=space.id, duration=case.wire.random.choice([20, 10**7])).id for _ in range(3)]
    operator = StartSpaceRunsOperator(task_id="run_agent", space_id=space.id, timeout=3600, report_cost=True)
    case.run(operator.execute)
    case.check_runs(ids)


def build(case: Case) -> None:
    case.sandbox.script_sessions()
    operator = AgentBuilderOperator(
        task_id="build",
        prompt="Pull the symbol and name of the chemical elements from https://elements.example",
        screenshots_path=str(case.folder / "shots"),
        conversation_path=str(case.folder / "conversation.json"),
        timeout=3600,
    )
    case.run(operator.execute)
    assert len(case.effects("session_start")) <= 1
    assert len(case.effects("session_finish")) <= 1


def sense(case: Case) -> None:
    agent = case.agent()
    run_id = case.hook.send(runs.start(agent.id)).id
    case.run(AgentRunSensor(task_id="wait", agent_id=agent.id, run_id=run_id, timeout=3600, poke_interval=1).poke)
    assert not case.effects("start")
    assert not case.effects("stop")


def land(case: Case) -> None:
    extra = [ExtraFile(name="../../evil", content="x\n"), ExtraFile(name="more.csv", content="a\n1\n" * 50)]
    agent = case.agent(extra_files=extra, duration=1)
    run_id = case.finished(agent)
    remove = case.wire.random.choice([None, "RemoveAllFiles", "RemoveEntireRun"])
    form = case.wire.random.choice([None, None, "parquet"])
    folder = case.folder / "lake"
    operator = RunFilesToObjectStorageOperator(
        task_id="land",
        agent_id=agent.id,
        run_id=run_id,
        destination=str(folder),
        remove_method=remove,
        file_format=form,
        max_parallel_files=1,
    )
    case.run(operator.execute)
    deleted = case.effects("delete")
    assert len(deleted) <= 1
    assert {each.run_id for each in deleted} <= {run_id}
    landed = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()} if folder.exists() else {}
    if deleted:
        assert remove is not None
        assert json.loads(landed[MANIFEST_NAME])["run_id"] == run_id


def land_honestly(case: Case, agent: Agent, run_id: int, folder: Path) -> None:
    operator = RunFilesToObjectStorageOperator(
        task_id="land", agent_id=agent.id, run_id=run_id, destination=str(folder)
    )
    operator.execute(FakeTask(Clock()).context)


def delete(case: Case) -> None:
    agent = case.agent(duration=1)
    old, unlanded = case.finished(agent), case.finished(agent)
    land_honestly(case, agent, old, case.folder / "lake" / str(old))
    case.sandbox.advance(40 * DAY)
    young = case.finished(agent)
    land_honestly(case, agent, young, case.folder / "lake" / str(young))
    operator = DeleteRunsOperator(
        task_id="delete",
        agent_id=agent.id,
        older_than_days=30,
        manifests=str(case.folder / "lake"),
        dry_run=False,
        remove_method=case.wire.random.choice(["RemoveAllFiles", "RemoveEntireRun"]),
    )
    case.run(operator.execute)
    deleted = {effect.run_id for effect in case.effects("delete")}
    assert unlanded not in deleted
    if young in deleted:
        # Only if the service itself lied about when the run has ended.
        assert any(".endTime" in lie or ".status" in lie or ".created" in lie or ".id" in lie for lie in case.wire.lies)
    for run_id in deleted:
        assert str(run_id) in case.said


def pause(case: Case) -> None:
    agent = case.agent()
    definition = ScheduleDefinition(
        name="daily", schedule_type=ScheduleType.CRON, cron_expression="0 6 1 1 *", is_enabled=True
    )
    ids = [case.hook.send(schedules.create(agent.id, definition)).id for _ in range(3)]
    foreign = case.hook.send(schedules.create(case.foreign.id, definition)).id
    case.hook.send(schedules.disable(agent.id, ids[2]))
    paused = None
    case.run(PauseAgentSchedulesOperator(task_id="pause", agent_id=agent.id).execute)
    state = case.sandbox.engine.state.schedules
    assert state[foreign].is_enabled
    for number in ids[:2]:
        assert state[number].is_enabled or str(number) in repr(case.task.ti.xcoms) + case.said
    pushed = case.task.ti.pushed("return_value") or []
    if case.result is not None:
        paused = case.result
        case.run(ResumeAgentSchedulesOperator(task_id="resume", agent_id=agent.id, schedule_ids=pushed).execute)
        if ids[2] not in pushed:
            assert not state[ids[2]].is_enabled
        if case.ended.startswith("result "):
            assert all(state[number].is_enabled for number in paused if number in ids)


def restore(case: Case) -> None:
    agent = case.agent()
    case.hook.send(agents.restore_version(agent.id, 1, "second"))
    before = len(case.sandbox.engine.state.agents[agent.id].versions)
    case.run(RestoreAgentVersionOperator(task_id="restore", agent_id=agent.id, version=1).execute)
    assert len(case.sandbox.engine.state.agents[agent.id].versions) <= before + 1


def upload(case: Case) -> None:
    agent = case.agent()
    operator = ObjectStorageToInputFilesOperator(
        task_id="upload", rows=[{"a": 1}], agent_id=agent.id, file_name="rows.csv"
    )
    case.run(operator.execute)


def check_records(case: Case) -> None:
    agent = case.agent(duration=1)
    run_id = case.finished(agent)
    folder = case.folder / "lake"
    land_honestly(case, agent, run_id, folder)
    files = [str(path) for path in folder.glob("*.csv")]
    check = CheckRunRecordsOperator(
        task_id="check",
        agent_id=agent.id,
        run_id=run_id,
        files=files,
        profiles=str(case.folder / "profiles"),
        pin_version=True,
        contract={"columns": {"sku": {"type": "text"}}},
    )
    case.run(check.execute)


def change_records(case: Case) -> None:
    agent = case.agent(duration=1)
    run_id = case.finished(agent)
    folder = case.folder / "lake"
    case.run(
        RunFilesToObjectStorageOperator(
            task_id="land", agent_id=agent.id, run_id=run_id, destination=str(folder)
        ).execute
    )
    files = [str(path) for path in folder.glob("*.csv")]
    if files:
        case.run(
            RunChangesOperator(
                task_id="changes", files=files, key="sku", pointer=str(case.folder / "pointer.json")
            ).execute
        )


def use_hook(case: Case) -> None:
    agent = case.agent(duration=1)
    run_id = case.finished(agent)
    case.sandbox.advance(30)
    hook = SequentumHook()

    def use(_: Any) -> Any:
        told = []
        ids = {"agent_id": agent.id, "run_id": run_id}
        for each in (
            hook.test_connection,
            hook.list_agents,
            lambda: hook.get_run(**ids),
            lambda: hook.cost_of(**ids),
            lambda: list(hook.iter_records(agent.id, run_id)),
            lambda: hook.list_paused_schedules(agent.id),
            lambda: hook.wait_for_run(**ids, timeout=600),
            lambda: hook.start_run(agent_id=agent.id, credit_limit=1000),
        ):
            with suppress(AirflowException):
                told.append(each())
        return told

    case.run(use)
    assert len(case.effects("start")) <= 1
    # What a language model is told by these methods as its tools.
    for told in case.result:
        stored(json.loads(json.dumps(told, default=lambda value: value.model_dump(mode="json"))))


def run_deferred(case: Case, make: Callable[[], Any]) -> None:
    """Let a task wait in the triggerer, through all its deferrals."""

    lies_to_worker = case.wire.random.random() < 0.5

    def work(context: Any) -> Any:
        case.wire.is_honest = not lies_to_worker
        try:
            return make().execute(context)
        except TaskDeferred as deferral:
            pending = deferral
        while True:
            since = case.sandbox.now
            case.wire.is_honest = False
            event = case.triggerer.fire(pending.trigger)
            assert pending.timeout is None or case.sandbox.now - since <= pending.timeout
            case.wire.is_honest = not lies_to_worker
            given = stored({**(pending.kwargs or {}), "event": event})
            try:
                return make().resume_execution(pending.method_name, given, context)
            except TaskDeferred as deferral:
                pending = deferral

    case.run(work)


def start_deferred(case: Case) -> None:
    agent = case.agent(duration=case.wire.random.choice([20, 20, 10**7]))
    arguments: dict[str, Any] = {"agent_id": agent.id, "timeout": 600, "deferrable": True, "stop_overdue": True}
    run_deferred(case, lambda: StartAgentRunOperator(task_id="run_agent", restarts=1, **arguments))
    case.check_runs([agent.id])


def start_space_deferred(case: Case) -> None:
    space = case.sandbox.add_space(f"Space {len(case.sandbox.engine.state.spaces)}")
    durations = case.wire.random.choice([(20, 20, 10**7), (10**7, 10**7, 20), (20,) * 8])
    ids = [case.agent(space_id=space.id, duration=duration).id for duration in durations]
    arguments: dict[str, Any] = {"space_id": space.id, "timeout": 600, "deferrable": True}
    run_deferred(case, lambda: StartSpaceRunsOperator(task_id="run_agent", **arguments))
    case.check_runs(ids)


def build_deferred(case: Case) -> None:
    case.sandbox.script_sessions()
    prompt = "Pull the symbol and name of the chemical elements from https://elements.example"
    arguments: dict[str, Any] = {"prompt": prompt, "timeout": 600, "deferrable": True}
    run_deferred(case, lambda: AgentBuilderOperator(task_id="build", **arguments))
    assert len(case.effects("session_start")) <= 1
    assert len(case.effects("session_finish")) <= 1


def sense_deferred(case: Case) -> None:
    agent = case.agent()
    run_id = case.hook.send(runs.start(agent.id)).id
    which: dict[str, Any] = case.wire.random.choice(
        [{"run_id": run_id}, {"since": (case.sandbox.now - timedelta(seconds=5)).isoformat()}]
    )
    arguments: dict[str, Any] = {"agent_id": agent.id, **which, "timeout": 600, "poke_interval": 5}
    run_deferred(case, lambda: AgentRunSensor(task_id="wait", deferrable=True, **arguments))
    assert not case.effects("start")
    assert not case.effects("stop")


def kill_deferred(case: Case) -> None:
    """A person marks a deferred task: its trigger stops what it has waited for."""
    agent = case.agent(duration=10**7)
    operator = StartAgentRunOperator(
        task_id="run_agent", agent_id=agent.id, deferrable=True, stop_grace=case.wire.random.choice([0, 10, 45])
    )
    case.wire.is_honest = True
    with pytest.raises(TaskDeferred) as caught:
        operator.execute(case.task.context)
    case.wire.is_honest = False
    event = case.triggerer.kill(caught.value.trigger, case.wire.random.choice([1.0, 30.0, 200.0]), "failed")
    case.wire.is_honest = True
    if event is None:
        case.check_stopped(agent.id)


def kill_deferred_session(case: Case) -> None:
    case.sandbox.script_sessions()
    prompt = "Pull the symbol and name of the chemical elements from https://elements.example"
    operator = AgentBuilderOperator(task_id="build", prompt=prompt, deferrable=True)
    case.wire.is_honest = True
    with pytest.raises(TaskDeferred) as caught:
        operator.execute(case.task.context)
    case.wire.is_honest = False
    case.triggerer.kill(caught.value.trigger, case.wire.random.choice([1.0, 4.0]), "failed")
    case.wire.is_honest = True
    assert "Traceback" not in case.said


def watch_asset(case: Case) -> None:
    """A watcher of an asset lives on, and fires for nothing but runs of its agent, once for each."""
    agent = case.agent(duration=20)
    case.wire.is_honest = True
    for _ in range(3):
        case.hook.send(runs.start(agent.id))
    case.wire.is_honest = False
    trigger = AgentRunCompletedTrigger(agent_id=agent.id, poll_interval=10, ending="any")
    payloads = [stored(payload) for payload in case.triggerer.listen(trigger, 600.0)]
    case.wire.is_honest = True
    assert {payload["agent_id"] for payload in payloads} <= {agent.id}
    fired = [payload["run_id"] for payload in payloads]
    assert len(fired) == len(set(fired))


DEFERRED: list[Scenario] = [
    start_deferred,
    start_space_deferred,
    build_deferred,
    sense_deferred,
    kill_deferred,
    kill_deferred_session,
    watch_asset,
]


def kill(case: Case) -> None:
    """The task is killed in the middle of any of its requests."""
    agent = case.agent(duration=case.wire.random.choice([20, 10**7]))
    operator = StartAgentRunOperator(task_id="run_agent", agent_id=agent.id, stop_grace=1, check_schedules=True)
    case.wire.interrupt = case.wire.random.randrange(1, 8), operator.on_kill
    case.run(operator.execute)
    case.check_stopped(agent.id)


def kill_space(case: Case) -> None:
    space = case.sandbox.add_space(f"Space {len(case.sandbox.engine.state.spaces)}")
    ids = [case.agent(space_id=space.id, duration=10**7).id for _ in range(3)]
    operator = StartSpaceRunsOperator(task_id="run_agent", space_id=space.id, stop_grace=1)
    case.wire.interrupt = case.wire.random.randrange(1, 8), operator.on_kill
    case.run(operator.execute)
    for agent_id in ids:
        case.check_stopped(agent_id)


def kill_build(case: Case) -> None:
    case.sandbox.script_sessions()
    prompt = "Pull the symbol and name of the chemical elements from https://elements.example"
    operator = AgentBuilderOperator(task_id="build", prompt=prompt)
    case.wire.interrupt = case.wire.random.randrange(1, 8), operator.on_kill
    case.run(operator.execute)
    assert len(case.effects("session_start")) <= 1
    if case.effects("session_start") and "result" not in case.ended:
        is_over = case.effects("session_cancel") or case.effects("session_stop") or case.effects("session_finish")
        is_told = case.wire.lied_about_status or "may be running" in case.said or "may have started" in case.said
        assert is_over or is_told


SCENARIOS: list[Scenario] = [
    kill,
    kill_space,
    kill_build,
    start,
    start_beside_stranger,
    start_and_retry,
    start_space_and_retry,
    start_with_limits,
    start_beyond_limit,
    start_space,
    build,
    sense,
    land,
    delete,
    pause,
    restore,
    upload,
    check_records,
    change_records,
    use_hook,
]


@pytest.fixture
def open_case(
    service: Sandbox,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    variables: Variables,
) -> Callable[[HostileWire], Case]:
    """What opens a case on a wire that is in place."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("AIRFLOW_CONN_SEQUENTUM_DEFAULT", service.connection_uri)
    return lambda wire: Case(service, wire, tmp_path / "work", caplog)


@pytest.mark.parametrize("seed", range(FIRST, FIRST + CASES))
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_whatever_the_service_answers(
    scenario: Scenario, seed: int, service: Sandbox, open_case: Callable[[HostileWire], Case]
) -> None:
    wire = HostileWire(service, seed)
    with hostile(wire):
        case = open_case(wire)
        try:
            scenario(case)
            case.check()
        except BaseException as error:
            error.add_note("\n".join([*wire.lies, case.ended[-3000:]]))
            raise


@pytest.mark.parametrize("seed", range(FIRST, FIRST + CASES))
@pytest.mark.parametrize("scenario", DEFERRED, ids=lambda scenario: scenario.__name__)
def test_whatever_the_service_answers_to_a_triggerer(
    scenario: Scenario, seed: int, service: Sandbox, open_case: Callable[[HostileWire], Case]
) -> None:
    wire = HostileWire(service, seed)
    with hostile_triggerer(wire) as triggerer, hostile(wire):
        case = open_case(wire)
        case.triggerer, triggerer.task = triggerer, case.task
        try:
            scenario(case)
            case.check()
            assert triggerer.unexpected == []
        except BaseException as error:
            error.add_note("\n".join([*wire.lies, case.ended[-3000:]]))
            raise


@pytest.mark.parametrize("map_index", [{}, {"map_index": None}], ids=["absent", "none"])
@pytest.mark.parametrize(
    "scenario",
    [start, start_space, build, sense, land, delete, pause, restore, upload],
    ids=lambda scenario: scenario.__name__,
)
def test_a_context_that_has_only_a_task_instance_will_do(
    scenario: Scenario, map_index: dict[str, Any], service: Sandbox, open_case: Callable[[HostileWire], Case]
) -> None:
    wire = HostileWire(service, 0)
    wire.share = 0.0
    with hostile(wire):
        case = open_case(wire)
        ti = case.task.ti
        few = SimpleNamespace(
            dag_id="dag", run_id="manual", task_id="run_agent", xcom_push=ti.xcom_push, xcom_pull=ti.xcom_pull
        )
        vars(few).update(map_index)
        case.context = {"ti": few}
        scenario(case)
    assert "Error" not in case.ended
