"""The credit limit of a space: all of its agents are started by one request, or none is."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_sequentum.api.run_status import RunStatus
from airflow_provider_sequentum.exceptions import (
    AgentRunStartAmbiguous,
    CreditLimitReached,
    SequentumRequestRefused,
    SequentumUnavailable,
    SpaceRunsEnded,
    SpaceRunsFailed,
)
from airflow_provider_sequentum.hooks.port import ANNOUNCEMENT_KEY
from airflow_provider_sequentum.jobs.siblings import Announced, Announcement, PlannedStart
from airflow_provider_sequentum.operators.space_run import StartSpaceRunsOperator
from airflow_provider_sequentum.runs.spend import MAX_AGENTS
from airflow_provider_sequentum.spaces.record import SpaceConfig, SpaceRecord
from airflow_provider_sequentum.spaces.start import acquire_space
from tests.support import service as fakes
from tests.support.airflow import FakeTask, use_fakes
from tests.support.errors import raises
from tests.support.service import START, FakeService, Plan
from tests.support.tries import fire_space, run_try
from tests.support.worker import Killed, Worker
from tests.unit.runs.test_spend import DagRun, Member

BOTH = pytest.mark.parametrize("deferrable", [False, True], ids=["sync", "deferred"])


@pytest.fixture
def service(service: FakeService) -> FakeService:
    """A run of agent 7 costs 4 credits, one of agent 8 costs 2."""
    service.bills_of = {7: bill(901, 4), 8: bill(902, 2)}
    return service


def bill(run_id: int, cost: float) -> list[dict[str, Any]]:
    at = (START - timedelta(hours=1)).isoformat()
    return [{"runId": run_id, "date": at, "startTime": at, "endTime": at, "cost": cost}]


def new(**more: Any) -> SpaceRecord:
    config = SpaceConfig.model_validate({"space_id": 1, "credit_limit": 10, **more})
    return SpaceRecord(config=config, fingerprint=config.fingerprint(), max_tries=1)


def start(worker: Worker, record: SpaceRecord | None = None, **more: Any) -> SpaceRecord:
    return acquire_space(worker, record, new(**more))[0]


def saved(worker: Worker) -> SpaceRecord | None:
    return None if worker.saved is None else SpaceRecord.from_json(worker.saved)


def made(*credits_: float, agent_id: int = 5) -> Announcement:
    starts = tuple(PlannedStart(agent_id=agent_id, credits=each, run_id=800 + n) for n, each in enumerate(credits_))
    return Announcement(task_id="before", starts=starts)


def costs(announcement: Announcement) -> dict[int, list[float | None]]:
    found: dict[int, list[float | None]] = {}
    for each in announcement.starts:
        found.setdefault(each.agent_id, []).append(each.credits)
    return found


# One start of all agents


def test_the_sum_of_the_agents_forecasts_is_announced_before_the_start(service: FakeService, worker: Worker) -> None:
    record = start(worker)
    nothing, asking, decided, started = worker.announced
    assert (nothing.starts, nothing.pending) == ((), ())
    assert [(each.agent_id, each.credits) for each in asking.pending] == [(7, 4), (8, 2)]
    assert (asking.starts, decided.starts, decided.pending) == ((), asking.pending, ())
    assert [each.run_id for each in started.starts] == [101, 102]
    assert service.requests == ["agents", "billing", "billing", "run-all"]
    assert record.starts_announced == started.starts
    assert saved(worker) == record


def test_a_start_above_the_limit_is_refused_with_the_arithmetic(service: FakeService, worker: Worker) -> None:
    worker.others = Announced([made(3, 2)])
    with pytest.raises(CreditLimitReached) as caught:
        start(worker)
    assert str(caught.value) == (
        "Space 1 was not started: a forecast of 6 credits (of 2 agents: the means of their last billed runs, agent 7: "
        "4, agent 8: 2) + 5 for 2 starts of this DAG run = 11, more than credit_limit=10 "
        "(credit_limit_period='dag_run'). Raise the limit, then clear the task."
    )
    assert worker.announced[-1] == Announcement(task_id="run_agent")
    assert (service.runs, worker.saved) == ({}, None)


def test_without_a_limit_nothing_is_asked_or_announced(service: FakeService, worker: Worker) -> None:
    start(worker, credit_limit=None)
    assert (service.requests, worker.announced) == (["run-all"], [])


def test_agents_without_bills_share_what_the_limit_leaves(service: FakeService, worker: Worker) -> None:
    """The first start is made alone; refused as soon as anything else was started."""
    service.agents |= {9: "Reviews"}
    del service.bills_of[8]
    record = start(worker)
    assert [each.credits for each in record.starts_announced] == [4, 3, 3]
    worker.others = Announced([made(0.5)])
    with pytest.raises(CreditLimitReached, match="what the limit leaves, because no run of agents 8, 9 is billed yet"):
        start(worker)


def test_a_day_counts_the_agents_bills_and_their_starts_that_are_not_billed_yet(
    service: FakeService, worker: Worker
) -> None:
    service.bills_of = {7: bill(901, 4) + bill(903, 4), 8: bill(902, 2)}
    worker.others = Announced([made(50), made(1, agent_id=8)])
    with pytest.raises(CreditLimitReached, match=r"a forecast of 6 .* \+ 10 billed since 2026-11-22 \+ 1 for 1 start"):
        start(worker, credit_limit=16, credit_limit_period="day")
    start(worker, credit_limit=17, credit_limit_period="day")


def test_archived_agents_cost_nothing(service: FakeService, worker: Worker) -> None:
    service.agents |= {9: "Old"}
    service.archived_agents = {9}
    assert [each.agent_id for each in start(worker).starts_announced] == [7, 8]


def test_a_space_with_too_many_agents_is_refused_before_billing_is_asked(service: FakeService, worker: Worker) -> None:
    service.agents = dict.fromkeys(range(1, MAX_AGENTS + 2), "Agent")
    with pytest.raises(SequentumRequestRefused, match=r"Space 1 has 51 agents.* at most 50.* Nothing was started"):
        start(worker)
    assert service.requests == ["agents"]


@pytest.mark.parametrize("verb", ["agents", "billing"])
def test_what_cannot_be_read_starts_nothing(service: FakeService, worker: Worker, verb: str) -> None:
    service.faults[verb] = [(fakes.unauthorized, False)]
    with raises(401):
        start(worker)
    assert not service.runs


def test_an_agent_that_cannot_be_read_has_no_forecast(
    service: FakeService, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    act = service._act
    broken = [{"id": 7, "name": "Prices"}, {"id": "?"}]
    monkeypatch.setattr(service, "_act", lambda verb, call: broken if verb == "agents" else act(verb, call))
    with pytest.raises(SequentumUnavailable, match=r"1 agent of space 1 could not be read.* Nothing was started"):
        start(worker)
    assert not service.runs


# Starts that go wrong


def test_an_agent_that_was_not_started_does_not_count(service: FakeService, worker: Worker) -> None:
    service.refuses_to_start = {7: "Agent is already running"}
    start(worker)
    assert costs(worker.announced[-1]) == {8: [2]}


def test_a_start_that_is_refused_is_withdrawn(service: FakeService, worker: Worker) -> None:
    service.faults["run-all"] = [(fakes.bad_request, False)]
    with raises(400):
        start(worker)
    assert worker.announced[-1].starts == ()


def test_a_start_whose_answer_was_lost_counts_once(service: FakeService, worker: Worker) -> None:
    service.faults["run-all"] = [(fakes.response_lost, True)]
    start(worker)
    assert costs(worker.announced[-1]) == {7: [4], 8: [2]}
    assert [each.run_id for each in worker.announced[-1].starts] == [101, 102]


def test_starts_of_which_no_one_knows_count_after_a_clear(service: FakeService, worker: Worker) -> None:
    service.faults["run-all"] = [(fakes.response_lost, False)]
    service.on_start = lambda run: None
    service.start(8, by_stranger=True)
    with pytest.raises(AgentRunStartAmbiguous):
        start(worker)
    cleared = new().updated(max_tries=2)
    with pytest.raises(CreditLimitReached, match=r"\+ 6 for 2 starts of this DAG run = 12"):
        acquire_space(worker, saved(worker), cleared)


def test_a_kill_before_any_step_counts_a_start_once() -> None:
    """Whatever the step, the next try announces what was started, no more and no less."""
    for step in range(60):
        service = FakeService(fakes.Clock(), plans=[Plan(seconds=None)])
        service.bills_of = {7: bill(901, 4), 8: bill(902, 2)}
        worker = Worker(service, steps_left=step)
        try:
            start(worker)
        except Killed:
            record = saved(worker)
        else:
            return
        again = Worker(service)
        start(again, record)
        assert len(service.runs) == 2, step
        assert costs(again.announced[-1]) == {7: [4], 8: [2]}, step
    raise AssertionError("It was killed before every step.")


class TasksOfBothKinds(DagRun):
    """Tasks of the space, which has two agents, and between them tasks of one of the agents."""

    def attempt(self, index: int) -> None:
        if index % 2:
            super().attempt(index)
            return
        saved = self.records.get(index)
        acquire_space(Member(self, index), None if saved is None else SpaceRecord.from_json(saved), new())


@settings(max_examples=20, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 7), st.integers(0, 4), st.sampled_from([2.0, 3.0, 5.0, 11.0]))
def test_tasks_in_any_order_with_kills_never_pass_the_limit(rng: Any, tasks: int, kills: int, costs: float) -> None:
    started = TasksOfBothKinds(tasks, costs, rng.randrange, kills).run()
    assert started * costs <= 10
    assert started > 0 or 2 * costs > 10


def test_without_kills_the_limit_is_used() -> None:
    """Three agents at 3 credits each: the space and one of its agents, or the agent three times."""
    assert {TasksOfBothKinds(7, 3.0, random.Random(seed).randrange, 0).run() for seed in range(5)} <= {2, 3}


# The task, over its tries


@pytest.fixture
def task(service: FakeService, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> FakeTask:
    use_fakes(monkeypatch, worker)
    return FakeTask(service.clock, retries=2, tasks=[operator()])


def operator(**arguments: Any) -> StartSpaceRunsOperator:
    arguments = {"task_id": "run_agent", "space_id": 1, "retries": 2, "deferrable": False, **arguments}
    return StartSpaceRunsOperator(**{"credit_limit": 10, **arguments})


def announced(task: FakeTask) -> dict[int, list[float | None]]:
    found = Announcement.from_json(task.ti.pushed(ANNOUNCEMENT_KEY))
    assert found.pending == ()
    return costs(found)


@BOTH
def test_a_retry_that_joins_restarts_or_returns_its_runs_counts_nothing_more(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    service.plans = [Plan(RunStatus.FAILURE), Plan()]
    with pytest.raises(SpaceRunsFailed):
        run_try(worker, task, lambda: operator(deferrable=deferrable), fire=fire_space)
    task.next_attempt()
    assert run_try(worker, task, lambda: operator(deferrable=deferrable), fire=fire_space) == [101, 102]
    assert announced(task) == {7: [4], 8: [2]}
    assert service.count("billing") == 2


def test_a_retry_that_starts_one_agent_once_more_adds_its_forecast(
    service: FakeService, worker: Worker, task: FakeTask
) -> None:
    service.plans = [Plan(RunStatus.FAILURE), Plan()]
    with pytest.raises(SpaceRunsFailed):
        run_try(worker, task, lambda: operator(retry_mode="new"))
    task.next_attempt()
    assert run_try(worker, task, lambda: operator(retry_mode="new")) == [103, 102]
    assert announced(task) == {8: [2], 7: [4, 4]}


def test_one_agent_that_would_pass_the_limit_is_not_started_once_more(
    service: FakeService, worker: Worker, task: FakeTask
) -> None:
    service.plans = [Plan(RunStatus.FAILURE), Plan()]
    with pytest.raises(SpaceRunsFailed):
        run_try(worker, task, lambda: operator(retry_mode="new", credit_limit=9))
    task.next_attempt()
    with pytest.raises(Exception, match=r"Agent 7 was not started: .* 6 for 2 starts of this DAG run = 10, more than"):
        run_try(worker, task, lambda: operator(retry_mode="new", credit_limit=9))
    assert len(service.runs) == 2
    assert announced(task) == {8: [2], 7: [4]}


def test_a_run_of_one_agent_that_no_one_can_tell_counts_after_a_clear(
    service: FakeService, worker: Worker, task: FakeTask
) -> None:
    service.plans = [Plan(RunStatus.FAILURE), Plan()]
    with pytest.raises(SpaceRunsFailed):
        run_try(worker, task, lambda: operator(retry_mode="new", credit_limit=15))
    task.next_attempt()

    def lost(call: Any) -> Exception:
        for _ in range(2):
            service.start(7, by_stranger=True)
        return fakes.response_lost(call)

    service.faults["start"] = [(lost, True)]  # type: ignore[list-item]
    with pytest.raises(SpaceRunsEnded, match="could be it"):
        run_try(worker, task, lambda: operator(retry_mode="new", credit_limit=15))
    started = len(service.runs)
    task.clear()
    with pytest.raises(CreditLimitReached, match=r"\+ 10 for 3 starts of this DAG run = 16"):
        run_try(worker, task, lambda: operator(credit_limit=15))
    assert len(service.runs) == started


def test_a_run_that_the_answer_does_not_name_and_no_one_can_tell_counts_after_a_clear(
    service: FakeService, worker: Worker
) -> None:
    service.keeps_run_id = {7}
    service.start(7, by_stranger=True)
    with pytest.raises(AgentRunStartAmbiguous):
        start(worker)
    with pytest.raises(CreditLimitReached, match=r"\+ 6 for 2 starts of this DAG run = 12"):
        acquire_space(worker, saved(worker), new().updated(max_tries=2))


def test_a_clear_adds_all_starts(service: FakeService, worker: Worker, task: FakeTask) -> None:
    run_try(worker, task, operator)
    task.clear()
    with pytest.raises(CreditLimitReached, match=r"\+ 6 for 2 starts of this DAG run = 12"):
        run_try(worker, task, operator)
    assert len(service.runs) == 2


def test_where_no_records_are_kept_each_earlier_try_counts_as_a_start(
    service: FakeService, worker: Worker, task: FakeTask
) -> None:
    task.has_state_store = False
    task.next_attempt()
    with pytest.raises(CreditLimitReached, match=r"\+ 6 for 1 start of this DAG run = 12"):
        run_try(worker, task, operator)
    assert announced(task) == {0: [None]}


def test_tasks_of_agents_and_of_spaces_keep_one_limit(service: FakeService, worker: Worker, task: FakeTask) -> None:
    said = made(5).updated(task_id="one_agent")
    task.tasks.append(operator(task_id="one_agent"))
    task.ti.another_pushes("one_agent", -1, ANNOUNCEMENT_KEY, said.to_json())
    with pytest.raises(CreditLimitReached, match=r"\+ 5 for 1 start of this DAG run = 11"):
        run_try(worker, task, operator)
    assert run_try(worker, task, lambda: operator(credit_limit=11)) == [101, 102]


@pytest.mark.parametrize("seed", [80, 758])
def test_a_retry_that_succeeds_while_another_task_asks_is_counted(seed: int) -> None:
    """Orders in which one read that a retry had announced nothing yet, and then that it had succeeded."""
    assert TasksOfBothKinds(2, 5.0, random.Random(seed).randrange, 2).run() * 5.0 <= 10
