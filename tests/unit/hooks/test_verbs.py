"""The hook's verbs: what the service answers, what the caller gives, and what interrupts them."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_sequentum.api.call import Response
from airflow_provider_sequentum.api.pipeline import read_response
from airflow_provider_sequentum.api.run_status import RunStatus
from airflow_provider_sequentum.exceptions import (
    AgentRunTimeout,
    SequentumException,
    SequentumRequestRefused,
    SequentumUnavailable,
)
from airflow_provider_sequentum.hooks.sequentum import SequentumHook
from tests.support import service as fakes
from tests.support.service import START, ErrorOf, FakeService, Plan
from tests.support.worker import Worker
from tests.unit.test_parameters import LazyOutput, NumPyInt

pytestmark = pytest.mark.usefixtures("fakes_behind_operators")


@pytest.fixture
def hook(worker: Worker) -> SequentumHook:
    return SequentumHook()


# What the service answers to a wait


@pytest.mark.parametrize("error", [fakes.server_error, fakes.response_lost, fakes.not_reached, fakes.rate_limited])
def test_a_fault_at_the_first_look_is_as_passing_as_later(
    service: FakeService, hook: SequentumHook, error: ErrorOf
) -> None:
    service.start()
    service.faults["status"] = [(error, False)] * 3
    assert hook.wait_for_run(agent_id=7, run_id=101).status is RunStatus.SUCCESS


def test_a_run_that_is_not_known_yet_is_waited_for(service: FakeService, hook: SequentumHook) -> None:
    service.start()
    service.faults["status"] = [(fakes.not_found, False)] * 2
    assert hook.wait_for_run(agent_id="7", run_id=" 101 ").id == 101


def test_a_run_that_stays_unknown_is_refused_with_its_ids(service: FakeService, hook: SequentumHook) -> None:
    with pytest.raises(SequentumRequestRefused) as caught:
        hook.wait_for_run(agent_id=7, run_id=999)
    assert (caught.value.agent_id, caught.value.run_id) == (7, 999)
    assert service.clock.now - START <= timedelta(minutes=2)


@pytest.mark.parametrize("error", [fakes.unauthorized, fakes.bad_request, fakes.server_error])
def test_a_wait_that_cannot_go_on_says_what_became_of_the_run(
    service: FakeService, hook: SequentumHook, error: ErrorOf
) -> None:
    service.start()
    service.faults["status"] = [(error, False)] * 999
    with pytest.raises(SequentumException, match="Run 101 of agent 7 was not stopped"):
        hook.wait_for_run(agent_id=7, run_id=101)


def test_paused_schedules_that_cannot_be_read_are_not_left_out(
    service: FakeService, hook: SequentumHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = json.dumps({"items": [{"id": 1, "isEnabled": False}], "totalRecordCount": 2}).encode()
    monkeypatch.setattr(service, "answer", lambda call: read_response(call, Response(200, {}, listed)))
    with pytest.raises(SequentumUnavailable, match="1 schedule of agent 7 cannot be read"):
        hook.list_paused_schedules(7)


@pytest.mark.parametrize("timeout", [0, "20", 20.5, timedelta(seconds=20), Decimal(20)])
def test_a_timeout_bounds_the_first_look_too(service: FakeService, hook: SequentumHook, timeout: Any) -> None:
    service.start()
    service.faults["status"] = [(fakes.server_error, False)] * 99
    with pytest.raises(AgentRunTimeout, match=r"Run 101 of agent 7 was not known to have ended .* It was not stopped"):
        hook.wait_for_run(agent_id=7, run_id=101, timeout=timeout, poll_interval=5)
    assert service.clock.now - START <= timedelta(seconds=21)


@pytest.mark.parametrize("status", [0, 13, 99, "Paused"])
def test_a_status_that_is_not_known_is_waited_out(service: FakeService, hook: SequentumHook, status: Any) -> None:
    service.plans = [fakes.ending_in(status, 0)]
    service.start()
    with pytest.raises(AgentRunTimeout, match="was still"):
        hook.wait_for_run(agent_id=7, run_id=101, timeout=300)


def test_another_runs_answer_is_not_this_runs_end(service: FakeService, hook: SequentumHook) -> None:
    service.start().plan = Plan(seconds=None)
    service.start()
    real = service._act_on_run

    def another(verb: str, call: Any, run: Any) -> Any:
        return real(verb, call, service.runs[102] if verb == "status" else run)

    service._act_on_run = another  # type: ignore[method-assign]
    with pytest.raises(AgentRunTimeout, match="Run 101 of agent 7 was not known to have ended"):
        hook.wait_for_run(agent_id=7, run_id=101, timeout=300)


# What interrupts them


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_start_says_that_a_run_may_be_running(
    service: FakeService, worker: Worker, hook: SequentumHook, kind: type[BaseException]
) -> None:
    def interrupted(call: Any) -> Any:
        service.start()
        raise kind

    service.answer = interrupted  # type: ignore[method-assign]
    with pytest.raises(kind):
        hook.start_run(agent_id=7)
    assert any("starting a run of agent 7. It may be running and costing credits" in line for line in worker.warned)


def test_an_interrupted_wait_leaves_the_run_alone(service: FakeService, worker: Worker, hook: SequentumHook) -> None:
    service.plans = [Plan(seconds=None)]
    service.start()

    def interrupt() -> None:
        raise KeyboardInterrupt

    for steps in range(6):
        worker.steps_left, worker.interrupt = steps, interrupt
        with pytest.raises(KeyboardInterrupt):
            hook.wait_for_run(agent_id=7, run_id=101)
    assert service.runs[101].stop_asked_at is None


# What the caller gives


def test_input_parameters_are_what_an_operator_makes_of_them(service: FakeService, hook: SequentumHook) -> None:
    given = {"day": date(2026, 1, 31), "ids": LazyOutput(1, Decimal("2.50")), "n": NumPyInt(3).number}
    hook.start_run(agent_id=Decimal(7), input_parameters=given)  # type: ignore[arg-type]
    hook.start_run(agent_id=7, input_parameters="")
    assert service.runs[101].inputs == '{"day": "2026-01-31", "ids": [1, 2.5], "n": 3}'
    assert service.runs[102].inputs is None


VERBS: list[tuple[str, dict[str, Any]]] = [
    ("start_run", {"agent_id": 7, "input_parameters": None, "credit_limit": None, "credit_limit_period": "day"}),
    ("wait_for_run", {"agent_id": 7, "run_id": 101, "timeout": 1, "poll_interval": 1}),
    ("get_run", {"agent_id": 7, "run_id": 101}),
    ("list_agents", {"name": None, "space_id": None}),
    ("cost_of", {"agent_id": 7, "run_id": 101}),
    ("iter_records", {"agent_id": 7, "run_id": 101, "pattern": "*", "encoding": None, "delimiter": None}),
    ("iter_record_batches", {"agent_id": 7, "run_id": 101, "pattern": "*", "encoding": None, "delimiter": None}),
    ("list_paused_schedules", {"agent_id": 7}),
]
HOSTILE: list[Any] = [
    *(0, -1, True, False, 7.0, 7.5, "7.0", "", " ", None, float("nan"), float("inf"), 10**400, 10**5000, b"7", "a\0b"),
    *("half \ud83d", "{{ x }}", "../..", date(2026, 1, 31), timedelta.max, timedelta(seconds=-1), [], [7], {}, {7}),
    *(LazyOutput(7), object(), Decimal("NaN"), Decimal("sNaN"), NumPyInt(-1)),
]


@pytest.mark.parametrize(("verb", "name"), [(verb, name) for verb, arguments in VERBS for name in arguments])
def test_no_value_of_the_caller_ends_in_a_foreign_error(
    service: FakeService, hook: SequentumHook, verb: str, name: str
) -> None:
    service.start()
    answer, arguments = service.answer, dict(VERBS)[verb]

    def slowly(call: Any) -> Any:
        service.clock.sleep(0.2)  # an interval of 0 is 0: only requests take time then
        return answer(call)

    service.answer = slowly  # type: ignore[method-assign]
    for value in HOSTILE:
        call: Callable[..., Any] = getattr(hook, verb)
        with suppress(SequentumException):  # one of ours is a good answer to a bad value; any other error is none
            result = call(**{**arguments, name: value})
            if verb.startswith("iter_"):
                next(result)
        assert service.count("stop") == 0
