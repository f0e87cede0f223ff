"""What run-all may answer besides what it should: no run that it may have started is without an owner."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest

from airflow_provider_sequentum.api.call import Call
from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.exceptions import AgentRunStartAmbiguous, SequentumUnavailable
from airflow_provider_sequentum.spaces.record import SpaceConfig, SpaceRecord
from airflow_provider_sequentum.spaces.start import acquire_space
from tests.support.service import FakeService, response_lost, server_error
from tests.support.worker import Worker

Response = dict[str, Any]
CONFIG = SpaceConfig(space_id=1)


def acquire(worker: Worker) -> SpaceRecord:
    return acquire_space(worker, None, SpaceRecord(config=CONFIG, fingerprint=CONFIG.fingerprint(), max_tries=2))[0]


def spoil(service: FakeService, change: Callable[[Response], Response]) -> None:
    """Let the service start all agents, and answer something else."""
    run_all = service._run_all

    def spoilt(call: Call[Any]) -> Response:
        return change(run_all(call))

    service._run_all = spoilt  # type: ignore[method-assign]


def each_result(**other: object) -> Callable[[Response], Response]:
    return lambda answer: {**answer, "results": [{**result, **other} for result in answer["results"]]}


def further_result(**other: object) -> Callable[[Response], Response]:
    return lambda answer: {**answer, "results": [*answer["results"], {**answer["results"][0], **other}]}


def without_counts(results: object) -> Callable[[Response], Response]:
    return lambda answer: {"spaceId": 1, "totalAgents": None, "agentsStarted": None, "results": results}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(each_result(runId=0), id="no run has the id 0"),
        pytest.param(each_result(runId=-5), id="nor a negative one"),
        pytest.param(each_result(success=None, runId=None, errorMessage=None), id="neither started nor refused"),
        pytest.param(each_result(success="?", runId="?"), id="nothing of it can be read"),
        pytest.param(further_result(success=False, runId=None, errorMessage="no"), id="started, then not started"),
        pytest.param(further_result(success=True, runId=None), id="named, then not named"),
        pytest.param(without_counts(None), id="neither results nor counts"),
        pytest.param(without_counts([]), id="no results and no counts"),
        pytest.param(without_counts("all started"), id="results that are a text, without counts"),
        pytest.param(lambda _: {}, id="an object with nothing in it"),
        pytest.param(lambda answer: {**answer, "totalAgents": 0, "results": None}, id="it counts only what it started"),
    ],
)
def test_whatever_run_all_answers_every_run_that_it_started_is_known(
    service: FakeService, worker: Worker, change: Callable[[Response], Response]
) -> None:
    spoil(service, change)
    record = acquire(worker)
    assert {agent: run.run_id for agent, run in record.known_runs.items()} == {7: 101, 8: 102}
    assert (record.not_started, service.count("run-all")) == ({}, 1)


def test_two_runs_of_one_agent_are_both_claimed_and_one_is_stopped(service: FakeService, worker: Worker) -> None:
    def twice(answer: Response) -> Response:
        return further_result(runId=service.start(7).id)(answer)

    spoil(service, twice)
    assert acquire(worker).all_runs == {7: (101, 103), 8: (102,)}
    assert any("uses one of each; stopping runs [101]" in line for line in worker.said)
    assert service.runs[101].is_over


@pytest.mark.parametrize("run_id", [0, None, -1])
def test_an_agent_that_was_not_started_has_no_run_whatever_stands_for_its_id(
    service: FakeService, worker: Worker, run_id: int | None
) -> None:
    service.refuses_to_start = {7: "Insufficient credits."}
    run_all = service._run_all

    def with_another_id(call: Call[Any]) -> Response:
        answer = run_all(call)
        answer["results"][0]["runId"] = run_id
        return answer

    service._run_all = with_another_id  # type: ignore[method-assign]
    record = acquire(worker)
    assert ({agent: run.run_id for agent, run in record.known_runs.items()}, record.not_started) == (
        {8: 101},
        {7: "Insufficient credits."},
    )


@pytest.mark.parametrize("policy", ["fail", "adopt"])
@pytest.mark.parametrize("strangers", [0, 1])
def test_a_list_with_a_run_that_cannot_be_read_proves_nothing(
    service: FakeService, worker: Worker, policy: str, strangers: int
) -> None:
    act = service._act_on_agent

    def spoilt(verb: str, *arguments: Any) -> Any:
        answer = act(verb, *arguments)
        return [{**run, "id": None} if run["id"] == 102 else run for run in answer] if verb == "runs" else answer

    service._act_on_agent = spoilt  # type: ignore[method-assign, assignment]
    service.start(7, by_stranger=True)
    service.clock.sleep(3600)
    requested_at = service.clock.now
    service.start(7)  # cannot be read in the list
    service.start(8)
    for _ in range(strangers):
        service.start(7, by_stranger=True)
    intent = SpaceRecord(config=CONFIG, requested_at=requested_at, max_tries=2, fingerprint=CONFIG.fingerprint())
    new = intent.updated(config=CONFIG.updated(on_ambiguous_start=policy))
    is_adopted = strangers > 0 and policy == "adopt"
    with (
        nullcontext()
        if is_adopted
        else pytest.raises(AgentRunStartAmbiguous, match="1 run in the service's list for agent 7 cannot")
    ):
        acquire_space(worker, intent, new)
    assert service.count("run-all") == 0


def spoil_agents(service: FakeService, change: Callable[[list[Response]], list[Response]]) -> None:
    """Let the service list something else than the agents of a space."""
    act = service._act

    def spoilt(verb: str, call: Call[Any]) -> Any:
        answer = act(verb, call)
        return change(answer) if call.path.endswith("/agents") else answer

    service._act = spoilt  # type: ignore[method-assign]


def test_a_space_that_has_started_agents_and_lists_none_is_not_empty(service: FakeService, worker: Worker) -> None:
    spoil(service, lambda answer: {**answer, "results": {"items": answer["results"]}})
    shown: list[bool] = []
    spoil_agents(service, lambda agents: agents if shown else [])
    with pytest.raises(SequentumUnavailable, match=r"lists no agent.* may be running"):
        acquire(worker)
    record = worker.record
    assert isinstance(record, SpaceRecord)
    assert record.is_in_doubt
    shown.append(True)
    found, is_new = acquire_space(
        worker, record, SpaceRecord(config=CONFIG, fingerprint=CONFIG.fingerprint(), max_tries=2)
    )
    assert (sorted(found.known_runs), is_new, service.count("run-all")) == ([7, 8], False, 1)


def test_an_empty_list_of_agents_is_no_reason_to_repeat_a_start_without_an_answer(
    service: FakeService, worker: Worker
) -> None:
    new = SpaceRecord(config=CONFIG, fingerprint=CONFIG.fingerprint(), max_tries=2)
    service.faults["run-all"] = [(response_lost, True)]
    service.faults["agents"] = [(server_error, False)] * 2
    with pytest.raises(SequentumUnavailable, match="may be running"):
        acquire(worker)
    spoil_agents(service, lambda agents: [])
    with pytest.raises(SequentumError, match="lists no agent"):
        acquire_space(worker, worker.record, new)  # type: ignore[arg-type]
    assert service.count("run-all") == 1


def test_an_agent_that_neither_the_start_nor_the_list_shows_is_said(service: FakeService, worker: Worker) -> None:
    spoil(
        service, lambda answer: {**answer, "results": [answer["results"][0], {**answer["results"][1], "agentId": "?"}]}
    )
    spoil_agents(service, lambda agents: [agents[0], {**agents[1], "id": "?"}])
    assert acquire(worker).known_runs
    assert any("1 agent of space 1 cannot be read" in line and "may be running" in line for line in worker.warned)
