from __future__ import annotations

import sys
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.exceptions import AirflowRescheduleException
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    BaseSensorOperator,
    TaskDeferred,
)
from airflow_provider_sequentum.hooks.errors import as_airflow_exception
from airflow_provider_sequentum.lifecycle.run_wait import RunWaitTerms, wait_for_end
from airflow_provider_sequentum.triggers.run_event import ended_event, error_event

from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.api.run_status import RunStatus
from airflow_provider_sequentum.exceptions import (
    AgentRunFailed,
    AgentRunFailure,
    AgentRunSkipped,
    AgentRunStopped,
    SensedAgentRunFailed,
    SensedAgentRunFailure,
    SequentumConnectionException,
    SequentumRequestRefused,
)
from airflow_provider_sequentum.sensors import agent_run
from airflow_provider_sequentum.sensors.agent_run import AgentRunSensor
from tests.support import service as fakes
from tests.support.airflow import FakeTask, deferred_by, use_fakes, use_first_poke
from tests.support.service import START, Clock, ErrorOf, FakeService, Plan, ending_in
from tests.support.worker import Worker

MODES = pytest.mark.parametrize("mode", ["poke", "reschedule", "deferred"])


@pytest.fixture
def service() -> FakeService:
    return FakeService(Clock())


@pytest.fixture
def worker(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> Worker:
    worker = Worker(service)
    use_fakes(monkeypatch, worker, agent_run)
    # The base class sleeps between pokes and counts their time.
    base = sys.modules[BaseSensorOperator.__module__]
    time = SimpleNamespace(sleep=service.clock.sleep, monotonic=service.clock.monotonic)
    monkeypatch.setattr(base, "time", time)
    monkeypatch.setattr(base.timezone, "utcnow", lambda: service.clock.now)
    return worker


@pytest.fixture
def task(service: FakeService, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> FakeTask:
    task = FakeTask(service.clock)
    use_first_poke(monkeypatch, task.ti)
    return task


def sensor(mode: str, **arguments: Any) -> AgentRunSensor:
    arguments = {"agent_id": 7, "run_id": 101, "poke_interval": 30, **arguments}
    kind: dict[str, Any] = {"mode": "reschedule" if mode == "reschedule" else "poke", "deferrable": mode == "deferred"}
    return AgentRunSensor(task_id="run_agent", **kind, **arguments)


def sense(worker: Worker, task: FakeTask, mode: str, **arguments: Any) -> Any:
    """Run the sensor to its end, through all its reschedules or its deferral; a new operator each time."""
    first_poke = worker.service.clock.now
    while True:
        current = sensor(mode, **arguments)
        try:
            return current.execute(task.context)
        except AirflowRescheduleException as reschedule:
            worker.service.clock.now = reschedule.reschedule_date
            task.ti.first_poke = first_poke
        except TaskDeferred as deferral:
            values = deferral.trigger.serialize()[1]
            terms = RunWaitTerms.from_json({name: values[name] for name in RunWaitTerms.names()})
            try:
                event = ended_event(*worker.perform(wait_for_end(terms)), values)
            except SequentumError as error:
                event = error_event(as_airflow_exception(error, "sequentum_default"), values)
            return sensor(mode, **arguments).resume_execution("execute_complete", {"event": event}, task.context)


# Every way a run can end, in every mode


ENDINGS: list[tuple[RunStatus, type[Exception] | None, type[Exception] | None]] = [
    (RunStatus.SUCCESS, None, None),
    (RunStatus.COMPLETED, None, None),
    (RunStatus.FAILURE, SensedAgentRunFailure, AgentRunFailure),
    (RunStatus.FAILED, SensedAgentRunFailed, AgentRunFailed),
    (RunStatus.STOPPED, AgentRunStopped, AgentRunStopped),
    (RunStatus.SKIPPED, AgentRunSkipped, AgentRunSkipped),
]


@MODES
@pytest.mark.parametrize("seconds", [0, 100], ids=["over already", "later"])
@pytest.mark.parametrize(("outcome", "kind", "family"), ENDINGS)
def test_how_the_sensor_ends(
    worker: Worker,
    task: FakeTask,
    mode: str,
    seconds: float,
    outcome: RunStatus,
    kind: type[Exception] | None,
    family: type[Exception] | None,
) -> None:
    worker.service.plans = [Plan(outcome, seconds=seconds)]
    worker.service.start(by_stranger=True)
    if kind is None or family is None:
        assert sense(worker, task, mode) == 101
    else:
        with pytest.raises(kind) as caught:
            sense(worker, task, mode)
        assert isinstance(caught.value, family)
        # Looking again can't change it, so it is not retried.
        assert isinstance(caught.value, AirflowFailException | AirflowSkipException)
    assert task.ti.pushed("run")["status"] == outcome.name.title()
    assert not {"stop", "kill", "restart", "start"} & set(worker.service.requests)


@MODES
@pytest.mark.parametrize("softness", ["soft_fail", "never_fail"])
@pytest.mark.parametrize("seconds", [0, 100], ids=["over already", "later"])
@pytest.mark.parametrize(("outcome", "kind", "family"), [ending for ending in ENDINGS if ending[1]])
def test_a_soft_sensor_skips_in_every_mode(
    worker: Worker,
    task: FakeTask,
    mode: str,
    softness: str,
    seconds: float,
    outcome: RunStatus,
    kind: type[Exception],
    family: type[Exception],
) -> None:
    worker.service.plans = [Plan(outcome, seconds=seconds)]
    worker.service.start(by_stranger=True)
    with pytest.raises(AirflowSkipException):
        sense(worker, task, mode, **{softness: True})


@MODES
@pytest.mark.parametrize("softness", [{}, {"soft_fail": True}, {"never_fail": True}], ids=str)
@pytest.mark.parametrize("wait_for_restart", [False, True])
@pytest.mark.parametrize("seconds", [0, 50], ids=["at once", "later"])
@pytest.mark.parametrize("status", [*range(14), 14, 99, -1, "Paused"])
def test_every_status_in_every_mode_under_every_policy(
    worker: Worker,
    task: FakeTask,
    mode: str,
    softness: dict[str, Any],
    wait_for_restart: bool,
    seconds: float,
    status: int | str,
) -> None:
    # Written down without the code's own tables. What is not named here is waited out, up to the timeout.
    kinds: dict[int | str, type[Exception]] = {
        6: SensedAgentRunFailure,
        7: SensedAgentRunFailed,
        8: AgentRunStopped,
        11: AgentRunSkipped,
    }
    if wait_for_restart:
        del kinds[6]
    worker.service.plans = [ending_in(status, seconds)]
    worker.service.start(by_stranger=True)
    arguments: dict[str, Any] = {"timeout": 200, "wait_for_restart": wait_for_restart, **softness}
    if status in (9, 10):
        assert sense(worker, task, mode, **arguments) == 101
    else:
        kind = AirflowSkipException if softness else kinds.get(status, AirflowSensorTimeout)
        with pytest.raises(kind):
            sense(worker, task, mode, **arguments)
    assert not {"stop", "kill", "restart", "start"} & set(worker.service.requests)


@MODES
@pytest.mark.parametrize("soft", [False, True])
def test_its_timeout_leaves_the_run_alone(worker: Worker, task: FakeTask, mode: str, soft: bool) -> None:
    worker.service.plans = [Plan(seconds=None)]
    worker.service.start(by_stranger=True)
    with pytest.raises(AirflowSkipException if soft else AirflowSensorTimeout):
        sense(worker, task, mode, timeout=100, soft_fail=soft)
    assert not worker.service.runs[101].is_over
    assert timedelta(seconds=100) <= worker.service.clock.now - START <= timedelta(seconds=140)


@MODES
def test_a_run_that_never_comes_times_out(worker: Worker, task: FakeTask, mode: str) -> None:
    with pytest.raises(AirflowSensorTimeout):
        sense(worker, task, mode, run_id=None, since=START.isoformat(), timeout=100)


@pytest.mark.parametrize("soft", [False, True])
def test_execution_timeout_holds_while_deferred(worker: Worker, task: FakeTask, soft: bool) -> None:
    worker.service.plans = [Plan(seconds=None)]
    worker.service.start(by_stranger=True)
    with pytest.raises(AirflowSkipException if soft else AirflowTaskTimeout):
        sense(worker, task, "deferred", execution_timeout=timedelta(seconds=90), soft_fail=soft)
    assert worker.service.clock.now - START == timedelta(seconds=90)
    assert worker.service.count("stop") == 0


@pytest.mark.parametrize("words", ["Trigger timeout", "Trigger/execution timeout"])
@pytest.mark.parametrize("soft", [False, True])
def test_airflows_own_deferral_timeout_is_a_timeout_of_the_sensor(
    worker: Worker, task: FakeTask, words: str, soft: bool
) -> None:
    with pytest.raises(AirflowSkipException if soft else AirflowSensorTimeout):
        sensor("deferred", soft_fail=soft).resume_execution("__fail__", {"error": words}, task.context)


# Which run


@MODES
def test_the_next_run_since_a_moment(worker: Worker, task: FakeTask, mode: str) -> None:
    service = worker.service
    service.start(by_stranger=True)
    service.clock.sleep(60)
    since = service.clock.now.isoformat()
    service.clock.sleep(1)
    service.start(by_stranger=True)
    service.clock.sleep(1)
    service.start(by_stranger=True)
    assert sense(worker, task, mode, run_id=None, since=since) == 102


@pytest.mark.parametrize("mode", ["poke", "deferred"])
def test_the_link_is_there_before_the_end(worker: Worker, task: FakeTask, mode: str) -> None:
    worker.service.plans = [Plan(seconds=None)]
    worker.service.start(by_stranger=True)
    if mode == "poke":
        sensor(mode).poke(task.context)
    else:
        deferred_by(lambda: sensor(mode).execute(task.context))
    assert task.ti.pushed("agent_run_link") == "https://ui/7/101"
    assert task.ti.pushed("run")["status"] == "Running"


@MODES
def test_a_restart_by_somebody_else_is_waited_for(worker: Worker, task: FakeTask, mode: str) -> None:
    service = worker.service
    service.plans = [Plan(RunStatus.FAILURE, seconds=10), Plan(seconds=100)]
    service.start(by_stranger=True)
    original, looks = service.answer, []

    def answer(call: Any) -> Any:
        looks.append(call)
        if len(looks) == 4:
            service.restart(101)
        return original(call)

    service.answer = answer  # type: ignore[method-assign]
    assert sense(worker, task, mode, wait_for_restart=True) == 101
    assert service.runs[101].restarts == 1


@MODES
def test_a_failure_that_is_archived_is_not_waited_for(worker: Worker, task: FakeTask, mode: str) -> None:
    worker.service.plans = [Plan(RunStatus.FAILED, seconds=10)]
    worker.service.start(by_stranger=True)
    with pytest.raises(SensedAgentRunFailed):
        sense(worker, task, mode, wait_for_restart=True)


# Faults


@MODES
@pytest.mark.parametrize("error", [fakes.server_error, fakes.answer_lost, fakes.rate_limited, fakes.not_reached])
@pytest.mark.parametrize("by_id", [True, False])
def test_a_long_outage_is_borne_in_every_mode(
    worker: Worker, task: FakeTask, mode: str, error: ErrorOf, by_id: bool
) -> None:
    worker.service.start(by_stranger=True)
    worker.service.faults["status"] = [(error, False)] * 60
    worker.service.faults["runs"] = [(error, False)] * 60
    which: dict[str, Any] = {} if by_id else {"run_id": None, "since": START.isoformat()}
    assert sense(worker, task, mode, **which) == 101


@MODES
def test_a_run_that_does_not_exist_fails_after_a_minute_in_every_mode(
    worker: Worker, task: FakeTask, mode: str
) -> None:
    with pytest.raises(SequentumRequestRefused, match="'sequentum_default'"):
        sense(worker, task, mode, run_id=999)
    assert worker.service.clock.now - START <= timedelta(seconds=100)


@MODES
def test_a_run_that_is_not_known_yet_is_waited_for(worker: Worker, task: FakeTask, mode: str) -> None:
    worker.service.start(by_stranger=True)
    worker.service.faults["status"] = [(fakes.not_found, False)] * 2
    assert sense(worker, task, mode) == 101


@MODES
@pytest.mark.parametrize("soft", [False, True])
def test_a_wrong_key_fails_at_once(worker: Worker, task: FakeTask, mode: str, soft: bool) -> None:
    worker.service.start(by_stranger=True)
    worker.service.faults["status"] = [(fakes.unauthorized, False)] * 9
    with pytest.raises(AirflowSkipException if soft else SequentumConnectionException):
        sense(worker, task, mode, soft_fail=soft)


@pytest.mark.parametrize("soft", [False, True])
def test_a_trigger_that_could_not_go_on(worker: Worker, task: FakeTask, soft: bool) -> None:
    worker.service.start(by_stranger=True)
    deferral = deferred_by(lambda: sensor("deferred").execute(task.context))
    event = error_event(SequentumConnectionException("The key is wrong."), deferral.trigger.serialize()[1])
    kind = AirflowSkipException if soft else SequentumConnectionException
    with pytest.raises(kind) as caught:
        sensor("deferred", soft_fail=soft).resume_execution("execute_complete", {"event": event}, task.context)
    assert soft or str(caught.value) == "The key is wrong. The run was left alone."


@pytest.mark.parametrize("event", [None, {}, {"status": "success"}, {"outcome": "ended", "run": None}])
def test_an_event_that_cannot_be_understood_is_never_success(worker: Worker, task: FakeTask, event: Any) -> None:
    with pytest.raises(AirflowException, match="can't be understood"):
        sensor("deferred").execute_complete(task.context, event)


# Input


@MODES
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"agent_id": "x"}, "agent_id must be a positive whole number"),
        ({"run_id": "x"}, "run_id must be a positive whole number"),
        ({"run_id": None}, "Give either run_id or since"),
        ({"since": START}, "Give either run_id or since"),
        ({"run_id": None, "since": "2026-11-22T09:00:00"}, "since must be a time with an offset"),
    ],
)
def test_bad_input(worker: Worker, task: FakeTask, mode: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SequentumRequestRefused, match=message):
        sense(worker, task, mode, **arguments)
    assert worker.service.requests == []


def test_the_deferral_has_a_backstop_behind_the_triggers_deadline(worker: Worker, task: FakeTask) -> None:
    worker.service.plans = [Plan(seconds=None)]
    worker.service.start(by_stranger=True)
    deferral = deferred_by(lambda: sensor("deferred", timeout=600).execute(task.context))
    assert deferral.trigger.serialize()[1]["deadline"] == (START + timedelta(seconds=600)).isoformat()
    assert deferral.timeout == timedelta(seconds=720)
    assert deferral.trigger.serialize()[1]["stop_on_kill"] is False
