"""Assets, guards, cost and lineage against the sandbox over HTTP."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import Asset, AssetAlias

from airflow_provider_sequentum.api import schedules
from airflow_provider_sequentum.assets.agent import create_asset
from airflow_provider_sequentum.assets.agent_run import AgentRunCompletedTrigger
from airflow_provider_sequentum.exceptions import CreditsTooLow, SequentumRequestRefused
from airflow_provider_sequentum.hooks.sequentum import SequentumHook
from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from airflow_provider_sequentum.operators.space_run import StartSpaceRunsOperator
from airflow_provider_sequentum.sandbox import Sandbox
from airflow_provider_sequentum.sandbox.run_plan import RunPlan
from airflow_provider_sequentum.sensors.agent_run import AgentRunSensor
from airflow_provider_sequentum.transfers.run_files import RunFilesToObjectStorageOperator
from tests.support.landing import FakeTaskInstance, finished_run

RECORDS = [{"sku": "A1"}, {"sku": "A2"}]


class OutletEvents:
    """Airflow's accessors of outlet events, as far as a task uses them. Not every Airflow's assets can be hashed."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, Any]] = []

    def __getitem__(self, asset: Any) -> Any:
        for known, event in self.events:
            if known == asset:
                return event
        self.events.append((asset, SimpleNamespace(extra={})))
        return self.events[-1][1]


def context_of(task: Any) -> dict[str, Any]:
    return {"ti": FakeTaskInstance(), "task": task, "outlet_events": OutletEvents()}


def start(agent_id: int, **options: Any) -> StartAgentRunOperator:
    return StartAgentRunOperator(task_id="run", agent_id=agent_id, poll_interval=0.05, **options)


@pytest.fixture
def agent_id(sandbox: Sandbox) -> int:
    return sandbox.add_agent("Prices", records=RECORDS, duration=1.0).id


class TestOutlets:
    def test_outlets_get_the_facts_of_the_run(self, sandbox: Sandbox, agent_id: int) -> None:
        outlets = [create_asset(agent_id=agent_id), Asset("prices"), AssetAlias("later")]
        task = start(agent_id, outlets=outlets)
        context = context_of(task)
        run_id = task.execute(context)  # type: ignore[arg-type]
        events = context["outlet_events"].events
        assert [asset for asset, _ in events] == outlets[:2], "an alias stands for assets that the author adds"
        for _, event in events:
            facts = json.loads(json.dumps(event.extra))
            assert (facts["agent_id"], facts["run_id"], facts["status"]) == (agent_id, run_id, "Success")
            assert (facts["records"], facts["files"]) == (2, 1)
            assert facts["link"]
            assert facts["seconds"] is not None

    def test_a_sensor_and_a_transfer_tell_too(self, sandbox: Sandbox, agent_id: int, tmp_path: Any) -> None:
        run_id, asset = finished_run(sandbox, agent_id), create_asset(agent_id=agent_id)
        sensor = AgentRunSensor(task_id="wait", agent_id=agent_id, run_id=run_id, outlets=[asset])
        land = RunFilesToObjectStorageOperator(
            task_id="land", agent_id=agent_id, run_id=run_id, destination=tmp_path.as_uri(), outlets=[asset]
        )
        for task, fact in ((sensor, "status"), (land, "bytes")):
            context = context_of(task)
            task.execute(context)  # type: ignore[arg-type]
            assert context["outlet_events"][asset].extra["run_id"] == run_id
            assert fact in context["outlet_events"][asset].extra

    def test_without_outlets_files_are_not_asked_for(self, sandbox: Sandbox, agent_id: int) -> None:
        task = start(agent_id)
        task.execute(context_of(task))  # type: ignore[arg-type]
        assert not [entry for entry in sandbox.ledger.requests if entry.path.endswith("/files")]

    def test_files_that_cannot_be_counted_do_not_fail_the_task(self, sandbox: Sandbox, agent_id: int) -> None:
        sandbox.fail_next("GET /agent/{agent_id}/run/{run_id}/files", status=403)
        task = start(agent_id, outlets=[Asset("prices")])
        context = context_of(task)
        task.execute(context)  # type: ignore[arg-type]
        assert context["outlet_events"][Asset("prices")].extra["files"] is None


@pytest.fixture
def space(sandbox: Sandbox) -> tuple[int, list[int]]:
    """A space with two agents, one of which is known to start at a page."""
    space_id = sandbox.add_space("Shops").id
    agents = [sandbox.add_agent(name, records=RECORDS, duration=1.0, space_id=space_id) for name in ("A", "B")]
    agents[0].start_url = "https://shop.example/a"
    return space_id, [agent.id for agent in agents]


def start_space(space_id: int, **options: Any) -> StartSpaceRunsOperator:
    return StartSpaceRunsOperator(task_id="run", space_id=space_id, poll_interval=0.05, **options)


class TestSpace:
    def test_outlets_get_the_facts_of_all_runs(self, sandbox: Sandbox, space: tuple[int, list[int]]) -> None:
        space_id, agents = space
        task = start_space(space_id, outlets=[Asset("shops")])
        context = context_of(task)
        run_ids = task.execute(context)  # type: ignore[arg-type]
        extra = context["outlet_events"][Asset("shops")].extra
        assert extra["space_id"] == space_id
        facts = [(run["agent_id"], run["run_id"], run["records"]) for run in extra["runs"]]
        assert facts == [(agent, run, 2) for agent, run in zip(agents, run_ids, strict=True)]

    @pytest.mark.parametrize("address", ["https://[x", "http://h]/a", "", "javascript:alert(1)", "//h/a", "no address"])
    def test_an_agent_that_starts_at_no_page_costs_no_other_lineage(
        self, sandbox: Sandbox, space: tuple[int, list[int]], address: str
    ) -> None:
        sandbox.add_agent("C", records=RECORDS, duration=1.0, space_id=space[0]).start_url = address
        task = start_space(space[0])
        task.execute(context_of(task))  # type: ignore[arg-type]
        lineage = task.get_openlineage_facets_on_complete(None)
        assert lineage is not None
        assert [(page.namespace, page.name) for page in lineage.inputs] == [("https://shop.example", "/a")]
        assert len(lineage.outputs) == 3

    def test_too_few_credits_start_nothing(self, sandbox: Sandbox, space: tuple[int, list[int]]) -> None:
        task = start_space(space[0], min_credits=5000)
        with pytest.raises(
            CreditsTooLow, match=rf"Space {space[0]} was not started: the account has 1000 credits left"
        ):
            task.execute(context_of(task))  # type: ignore[arg-type]
        assert not sandbox.ledger.starts()

    def test_lineage_is_told_of_all_runs_that_ended_well(self, sandbox: Sandbox, space: tuple[int, list[int]]) -> None:
        space_id, agents = space
        sandbox.plan_runs(agents[1], [RunPlan(outcome="Failure")])
        task = start_space(space_id, on_partial="warn")
        assert task.get_openlineage_facets_on_complete(None) is None, "nothing has run yet"
        [run_id] = task.execute(context_of(task))  # type: ignore[arg-type]
        lineage = task.get_openlineage_facets_on_complete(None)
        assert lineage is not None
        assert [(page.namespace, page.name) for page in lineage.inputs] == [("https://shop.example", "/a")]
        [data] = lineage.outputs
        assert (data.name, data.facets["version"].datasetVersion) == (f"agents/{agents[0]}", str(run_id))
        assert data.outputFacets["outputStatistics"].rowCount == 2
        assert lineage.job_facets["documentation"].description == f"Space {space_id} of Sequentum Cloud"


class TestGuards:
    def test_too_few_credits_start_nothing(self, sandbox: Sandbox, agent_id: int) -> None:
        task = start(agent_id, min_credits="5000")
        with pytest.raises(
            CreditsTooLow, match=r"the account has 1000 credits left, fewer than min_credits=5000.*default"
        ):
            task.execute(context_of(task))  # type: ignore[arg-type]
        assert not sandbox.ledger.starts(agent_id)

    def test_enough_credits_start(self, sandbox: Sandbox, agent_id: int) -> None:
        task = start(agent_id, min_credits=1000)
        task.execute(context_of(task))  # type: ignore[arg-type]
        assert len(sandbox.ledger.starts(agent_id)) == 1

    @pytest.mark.parametrize("value", ["many", -1])
    def test_min_credits_is_a_number(self, sandbox: Sandbox, agent_id: int, value: Any) -> None:
        task = start(agent_id, min_credits=value)
        with pytest.raises(SequentumRequestRefused, match="min_credits must be"):
            task.execute(context_of(task))  # type: ignore[arg-type]

    def test_a_schedule_of_the_service_is_warned_of(
        self, sandbox: Sandbox, agent_id: int, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        definition = schedules.ScheduleDefinition(
            name="nightly", schedule_type=schedules.ScheduleType.CRON, cron_expression="0 3 * * *", is_enabled=True
        )
        SequentumHook().send(schedules.create(agent_id, definition))
        task = start(agent_id, check_schedules=True)
        task.execute(context_of(task))  # type: ignore[arg-type]
        assert "'nightly'" in capsys.readouterr().out + caplog.text

    def test_the_cost_is_in_the_summary(self, sandbox: Sandbox, agent_id: int) -> None:
        task = start(agent_id, report_cost=True)
        context = context_of(task)
        task.execute(context)  # type: ignore[arg-type]
        assert context["ti"].pushed["run"]["cost"] == 1.0

    def test_a_key_without_billing_has_no_cost(self, sandbox: Sandbox, agent_id: int) -> None:
        sandbox.fail_next("GET /billing/agents/{agent_id}/runs", status=403)
        task = start(agent_id, report_cost=True)
        context = context_of(task)
        task.execute(context)  # type: ignore[arg-type]
        assert context["ti"].pushed["run"]["cost"] is None


class TestTrigger:
    async def test_runs_started_by_others_fire_once(self, sandbox: Sandbox, agent_id: int) -> None:
        await asyncio.to_thread(finished_run, sandbox, agent_id)
        trigger = AgentRunCompletedTrigger(agent_id=agent_id, poll_interval=0.05)
        events = trigger.run()
        first = asyncio.ensure_future(anext(events))
        await self._looks(sandbox, 1)
        run_id = await asyncio.to_thread(finished_run, sandbox, agent_id)
        payload = (await asyncio.wait_for(first, 20)).payload
        assert (payload["run_id"], payload["records"]) == (run_id, 2)
        await events.aclose()  # type: ignore[attr-defined]

    async def test_faults_and_a_wrong_key_do_not_end_it(
        self, sandbox: Sandbox, agent_id: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("airflow_provider_sequentum.assets.agent_run.PAUSE_AFTER_FAULT", 0.05)
        sandbox.fail_next("GET /agent/{agent_id}/runs", status=401, times=2)
        sandbox.fail_next("GET /agent/{agent_id}/runs", "html")
        stream = AgentRunCompletedTrigger.open_shared_stream(
            {"agent_id": agent_id, "poll_interval": 0.05, "sequentum_conn_id": "sequentum_default"}
        )
        assert list((await asyncio.wait_for(anext(stream), 20)).runs) == []
        await stream.aclose()

    async def _looks(self, sandbox: Sandbox, count: int) -> None:
        for _ in range(400):
            if sum(entry.path.endswith("/runs") for entry in sandbox.ledger.requests) >= count:
                return
            await asyncio.sleep(0.05)
        raise AssertionError("the trigger did not look")


class TestLineage:
    def test_a_run_reads_a_page_and_writes_the_agents_data(self, sandbox: Sandbox, agent_id: int) -> None:
        sandbox.engine.agent(agent_id).start_url = "https://user:secret@shop.example/prices?token=1"
        task = start(agent_id)
        run_id = task.execute(context_of(task))  # type: ignore[arg-type]
        lineage = task.get_openlineage_facets_on_complete(None)
        assert lineage is not None
        assert [(page.namespace, page.name) for page in lineage.inputs] == [("https://shop.example", "/prices")]
        [data] = lineage.outputs
        assert (data.namespace, data.name) == ("sequentum", f"agents/{agent_id}")
        assert data.facets["version"].datasetVersion == str(run_id)
        assert data.outputFacets["outputStatistics"].rowCount == 2
        assert lineage.run_facets["externalQuery"].externalQueryId == f"agents/{agent_id}/runs/{run_id}"
        assert lineage.job_facets["documentation"].description.endswith(": Prices")
        code = lineage.job_facets["sourceCodeLocation"]
        assert (code.url, code.version) == (f"{sandbox.base_url}/api/v1/agent/{agent_id}", "1")

    def test_a_transfer_reads_the_agents_data_and_writes_files(
        self, sandbox: Sandbox, agent_id: int, tmp_path: Any
    ) -> None:
        run_id = finished_run(sandbox, agent_id)
        task = RunFilesToObjectStorageOperator(
            task_id="land", agent_id=agent_id, run_id=run_id, destination=tmp_path.as_uri()
        )
        assert task.get_openlineage_facets_on_complete(None) is None, "nothing has been landed yet"
        task.execute(context_of(task))  # type: ignore[arg-type]
        lineage = task.get_openlineage_facets_on_complete(None)
        assert lineage is not None
        assert [(data.name, data.facets["version"].datasetVersion) for data in lineage.inputs] == [
            (f"agents/{agent_id}", str(run_id))
        ]
        [file] = lineage.outputs
        assert (file.namespace, file.name) == ("file", str(tmp_path / "output.csv"))
        statistics = file.outputFacets["outputStatistics"]
        assert (statistics.rowCount, statistics.size) == (2, (tmp_path / "output.csv").stat().st_size)
