from __future__ import annotations

import json
import re
import sys
from datetime import datetime, timedelta
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

from airflow_provider_sequentum.api.call import Call
from airflow_provider_sequentum.api.run_status import RunStatus
from airflow_provider_sequentum.exceptions import (
    AgentRunFailed,
    AgentRunFailure,
    AgentRunStopped,
    AgentRunUnsuccessful,
    SensedAgentRunFailed,
    SensedAgentRunFailure,
    SequentumConnectionException,
    SequentumConnectionNotFound,
    SequentumRequestRefused,
    SequentumSkipped,
    SequentumUnavailable,
)
from airflow_provider_sequentum.runs.wait import RunEvent
from airflow_provider_sequentum.sensors.agent_run import AgentRunSensor
from tests.support import service as fakes
from tests.support.airflow import FakeTask, deferred_by, use_first_poke
from tests.support.service import START, ErrorOf, FakeService, Plan, ending_in
from tests.support.tries import fire
from tests.support.worker import Worker

pytestmark = pytest.mark.usefixtures("fakes_behind_operators")
MODES = pytest.mark.parametrize("mode", ["poke", "reschedule", "deferred"])


@pytest.fixture
def worker(worker: Worker, service: FakeService, monkeypatch: pytest.MonkeyPatch) -> Worker:
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
    return AgentRunSensor(task_id="run_agent", **{**kind, **arguments})


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
            event = fire(worker, deferral)
            carried = json.loads(json.dumps({**(deferral.kwargs or {}), "event": event}))
            return sensor(mode, **arguments).resume_execution("execute_complete", carried, task.context)


@MODES
def test_an_agent_can_be_named(worker: Worker, task: FakeTask, mode: str) -> None:
    run = worker.service.start(8, by_stranger=True)
    assert sense(worker, task, mode, agent_id=None, agent_name="Stock", run_id=run.id) == run.id
    assert task.ti.pushed("run")["agent_id"] == 8
    with pytest.raises(SequentumRequestRefused, match=r"'Nothing'\. Nothing was checked"):
        sense(worker, task, mode, agent_id=None, agent_name="Nothing", run_id=run.id)
    with pytest.raises(SequentumRequestRefused, match="Give either agent_id or agent_name"):
        sense(worker, task, mode, agent_name="Stock", run_id=run.id)


# Every way a run can end, in every mode


ENDINGS: list[tuple[RunStatus, type[Exception] | None, type[Exception] | None]] = [
    (RunStatus.SUCCESS, None, None),
    (RunStatus.COMPLETED, None, None),
    (RunStatus.FAILURE, SensedAgentRunFailure, AgentRunFailure),
    (RunStatus.FAILED, SensedAgentRunFailed, AgentRunFailed),
    (RunStatus.STOPPED, AgentRunStopped, AgentRunStopped),
    (RunStatus.SKIPPED, SequentumSkipped, SequentumSkipped),
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
        assert getattr(caught.value, "status", None) == (None if kind is SequentumSkipped else outcome.name.title())
        # Looking again cannot change it, so it is not retried.
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
        11: SequentumSkipped,
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
    with pytest.raises(AirflowSkipException if soft else AirflowSensorTimeout) as caught:
        sense(worker, task, mode, timeout=100, soft_fail=soft)
    if not soft:
        words = r"Timed out waiting for run 101 of agent 7: Running, .* It was left alone\."
        assert re.fullmatch(words, str(caught.value))
    assert not worker.service.runs[101].is_over
    assert timedelta(seconds=100) <= worker.service.clock.now - START <= timedelta(seconds=140)


@MODES
@pytest.mark.parametrize("name", ["timeout", "execution_timeout"])
@pytest.mark.parametrize("limit", [timedelta(days=3_000_000), timedelta.max])
def test_a_limit_beyond_the_calendar_is_none(
    service: FakeService, worker: Worker, task: FakeTask, mode: str, name: str, limit: timedelta
) -> None:
    assert sense(worker, task, mode, run_id=service.start().id, **{name: limit}) == 101


@MODES
def test_a_run_that_never_comes_times_out(worker: Worker, task: FakeTask, mode: str) -> None:
    with pytest.raises(
        AirflowSensorTimeout, match=r"^Timed out waiting for a run of agent 7 created .* None was found\.$"
    ):
        sense(worker, task, mode, run_id=None, since=START.isoformat(), timeout=100)
    assert worker.warned == []


def test_a_rescheduled_sensor_says_until_when_it_waits_and_not_later_each_time(
    worker: Worker, task: FakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(AgentRunSensor, "log", SimpleNamespace(info=lambda text, *parts: said.append(text % parts)))
    with pytest.raises(AirflowSensorTimeout):
        sense(worker, task, "reschedule", run_id=None, since=START.isoformat(), timeout=100)
    assert len(said) > 2
    assert len(set(said)) == 1


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


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("ends", ["well", "with a skip", "never"])
def test_a_sensor_whose_trigger_broke_waits_on_the_worker_for_the_time_that_is_left(
    worker: Worker, task: FakeTask, soft: bool, ends: str
) -> None:
    plans = {
        "well": Plan(seconds=450),
        "with a skip": Plan(RunStatus.SKIPPED, seconds=450),
        "never": Plan(seconds=None),
    }
    worker.service.plans = [plans[ends]]
    worker.service.start(by_stranger=True)
    worker.service.clock.sleep(400)
    broken = sensor("deferred", timeout=600, soft_fail=soft)

    def resumed() -> Any:
        return broken.resume_execution("__fail__", {"error": "Trigger failure"}, task.context)

    if ends == "well":
        assert resumed() == 101
    else:
        kind = AirflowSensorTimeout if ends == "never" and not soft else AirflowSkipException
        with pytest.raises(kind):
            resumed()
        if ends == "never":
            assert timedelta(seconds=600) <= worker.service.clock.now - START <= timedelta(seconds=640)


def test_a_sensor_whose_trigger_broke_waits_in_the_process_that_deferred_it_too(worker: Worker, task: FakeTask) -> None:
    worker.service.plans = [Plan(seconds=450)]
    worker.service.start(by_stranger=True)
    broken = sensor("deferred", timeout=600)
    deferred_by(lambda: broken.execute(task.context))
    assert broken.resume_execution("__fail__", {"error": "Trigger failure"}, task.context) == 101


def test_a_rescheduled_sensor_whose_trigger_broke_is_rescheduled(worker: Worker, task: FakeTask) -> None:
    worker.service.plans = [Plan(seconds=None)]
    worker.service.start(by_stranger=True)
    broken = sensor("reschedule", deferrable=True, soft_fail=True)
    with pytest.raises(AirflowRescheduleException):
        broken.resume_execution("__fail__", {"error": "Trigger failure"}, task.context)


@pytest.mark.parametrize("soft", [False, True])
def test_a_sensor_whose_trigger_broke_refuses_what_it_cannot_read(worker: Worker, task: FakeTask, soft: bool) -> None:
    broken = sensor("deferred", agent_id="none", soft_fail=soft)
    with pytest.raises(AirflowSkipException if soft else SequentumRequestRefused, match="agent_id"):
        broken.resume_execution("__fail__", {"error": "Trigger failure"}, task.context)


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

    service.answer = answer
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
@pytest.mark.parametrize("error", [fakes.server_error, fakes.response_lost, fakes.rate_limited, fakes.not_reached])
@pytest.mark.parametrize("by_id", [True, False])
def test_a_long_outage_is_tolerated_in_every_mode(
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


SOFTNESS = pytest.mark.parametrize("softness", [{}, {"soft_fail": True}, {"never_fail": True}], ids=str)


def unknown_connection(call: Call[Any]) -> Any:
    """Return the error of a worker to which Airflow gives no connection."""
    return SequentumConnectionNotFound("Airflow does not find it.")


@MODES
@SOFTNESS
def test_what_a_retry_can_fix_is_only_skipped_with_never_fail_in_every_mode(
    worker: Worker, task: FakeTask, mode: str, softness: dict[str, Any]
) -> None:
    worker.service.start(by_stranger=True)
    worker.service.faults["status"] = [(unknown_connection, False)]
    with pytest.raises(AirflowSkipException if "never_fail" in softness else SequentumConnectionNotFound):
        sense(worker, task, mode, **softness)


@MODES
@SOFTNESS
@pytest.mark.parametrize("seconds", [0, 100], ids=["over already", "later"])
@pytest.mark.parametrize("error", [None, fakes.unauthorized])
def test_no_failure_is_its_own_cause(
    worker: Worker, task: FakeTask, mode: str, softness: dict[str, Any], seconds: float, error: ErrorOf | None
) -> None:
    """With structlog before 25.5, Airflow's log follows such a chain of causes until the memory is full."""
    worker.service.plans = [Plan(RunStatus.FAILURE, seconds=seconds)]
    worker.service.start(by_stranger=True)
    if error is not None:
        worker.service.faults["status"] = [*[None] * bool(seconds), *[(error, False)] * 9]
    with pytest.raises(AirflowException) as caught:
        sense(worker, task, mode, **softness)
    chain: list[BaseException] = []
    following: BaseException | None = caught.value
    while following is not None:
        assert following not in chain
        chain.append(following)
        following = following.__cause__ or following.__context__


@SOFTNESS
@pytest.mark.parametrize("kind", [SequentumConnectionException, SequentumConnectionNotFound, SequentumUnavailable])
def test_a_trigger_that_could_not_go_on(
    worker: Worker, task: FakeTask, softness: dict[str, Any], kind: type[Exception]
) -> None:
    worker.service.start(by_stranger=True)
    deferral = deferred_by(lambda: sensor("deferred").execute(task.context))
    event = RunEvent(agent_id=7, run_id=101, error=kind.__name__, message="It broke.").to_json()
    # As in a poke, soft_fail skips only what a retry cannot fix.
    is_skipped = "never_fail" in softness or ("soft_fail" in softness and issubclass(kind, AirflowFailException))
    with pytest.raises(AirflowSkipException if is_skipped else kind) as caught:
        sensor("deferred", **softness).resume_execution(
            "execute_complete", {**(deferral.kwargs or {}), "event": event}, task.context
        )
    assert str(caught.value) == "It broke. The run was left alone."


@pytest.mark.parametrize("event", [None, {}, {"status": "success"}, {"outcome": "ended", "run": None}])
def test_an_event_that_cannot_be_understood_is_never_success(worker: Worker, task: FakeTask, event: Any) -> None:
    with pytest.raises(AirflowException, match="cannot be read"):
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
    deadline = datetime.fromisoformat(deferral.trigger.serialize()[1]["deadline"])
    assert deadline == START + timedelta(seconds=600)
    assert deferral.timeout == timedelta(seconds=720)
    assert deferral.trigger.serialize()[1]["stop_on_kill"] is False


@pytest.mark.parametrize(
    ("name", "value"),
    [("wait_for_restart", "True"), ("deferrable", "False"), ("run_id", " 101 "), ("agent_id", "7"), ("since", "")],
)
def test_every_parameter_may_be_a_template(worker: Worker, task: FakeTask, name: str, value: str) -> None:
    assert name in AgentRunSensor.template_fields
    worker.service.start(by_stranger=True)
    assert sense(worker, task, "poke", **{name: value}) == 101


@pytest.mark.parametrize("name", ["wait_for_restart", "deferrable"])
def test_a_template_that_gives_no_flag_is_refused(worker: Worker, task: FakeTask, name: str) -> None:
    with pytest.raises(SequentumRequestRefused, match=f"{name} must be True or False"):
        sensor("poke", **{name: "perhaps"}).execute(task.context)
    assert worker.service.requests == []


# Resumed after the DAG was changed


CHANGES: list[dict[str, Any]] = [
    {"agent_id": "no longer an id"},
    {"agent_id": 8, "run_id": 999},
    {"run_id": None},
    {"since": "yesterday"},
]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
@pytest.mark.parametrize("outcome", [RunStatus.SUCCESS, RunStatus.FAILURE])
def test_a_resumed_sensor_reads_no_parameter_again(
    worker: Worker, task: FakeTask, changes: dict[str, Any], outcome: RunStatus
) -> None:
    worker.service.plans = [Plan(outcome, seconds=100)]
    worker.service.start(by_stranger=True)
    deferral = deferred_by(lambda: sensor("deferred").execute(task.context))
    carried = json.loads(json.dumps({**(deferral.kwargs or {}), "event": fire(worker, deferral)}))
    resumed = sensor("deferred", **changes)
    if outcome is RunStatus.SUCCESS:
        assert resumed.resume_execution("execute_complete", carried, task.context) == 101
    else:
        with pytest.raises(AgentRunUnsuccessful, match="Run 101 of agent 7"):
            resumed.resume_execution("execute_complete", carried, task.context)


def test_templates_of_a_resumed_sensor_may_fail(worker: Worker, task: FakeTask) -> None:
    resumed = sensor("deferred", agent_id="{{ this_is_gone.now }}")
    task.ti.next_method = "execute_complete"  # type: ignore[attr-defined]
    resumed.render_template_fields(task.context)
    del task.ti.next_method  # type: ignore[attr-defined]
    with pytest.raises(Exception, match="this_is_gone"):
        resumed.render_template_fields(task.context)


@MODES
@pytest.mark.parametrize("is_billing_readable", [True, False])
@pytest.mark.parametrize("is_there", [True, False], ids=["over already", "later"])
@pytest.mark.parametrize(
    "ahead", [timedelta(hours=3), timedelta(minutes=2), timedelta(minutes=-2), timedelta(hours=-2)]
)
def test_the_next_run_is_no_other_one_because_of_a_date_that_nothing_confirms(
    worker: Worker,
    task: FakeTask,
    mode: str,
    monkeypatch: pytest.MonkeyPatch,
    ahead: timedelta,
    is_there: bool,
    is_billing_readable: bool,
) -> None:
    """A gateway's clock, which writes ``Date``, makes runs look older or younger than they are."""
    service, exchange = worker.service, worker.service.exchange
    coming = [60.0, 9000.0, 20_000.0]

    def exchange_by_gateway(call: Any) -> Any:
        while coming and service.clock.now >= since + timedelta(seconds=coming[0]):
            run = service.start(by_stranger=True)
            run.created = run.started = since + timedelta(seconds=coming.pop(0))
        return exchange(call)._replace(served_at=service.clock.now + ahead)

    monkeypatch.setattr(service, "exchange", exchange_by_gateway)
    service.plans = [Plan(seconds=1)]
    if not is_billing_readable:
        service.faults["billing"] = [(fakes.unauthorized, False)] * 1000
    service.start(by_stranger=True)
    service.clock.sleep(70)
    since = service.clock.now
    service.clock.sleep(8000 if is_there else 0)
    assert sense(worker, task, mode, run_id=None, since=since.isoformat()) == 102


# What the log says of a wait since a moment


def test_a_wait_since_a_moment_says_what_it_waits_for(
    worker: Worker, task: FakeTask, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    service, since = worker.service, START + timedelta(seconds=1)
    shown, since = since, since + timedelta(microseconds=7)
    sleep = service.clock.sleep

    def sleep_until_a_run_comes(seconds: float) -> None:
        sleep(seconds)
        if not service.runs and service.clock.now >= START + timedelta(minutes=20):
            service.start(by_stranger=True)

    service.clock.sleep = sleep_until_a_run_comes
    assert sense(worker, task, "deferred", run_id=None, since=since.isoformat(), timeout=3600) == 101
    text = capsys.readouterr().out + caplog.text
    assert f"Waiting for a run of agent 7 created at {shown} or later, until 2026-11-22 10:00:00+00:00." in text
    waiting = [line for line in worker.said if "none so far" in line]
    assert waiting[0] == f"Waiting for a run of agent 7 created at {shown} or later: none so far."
    assert waiting[-1].startswith("Waiting until 2026-11-22 10:00:00+00:00 for a run of agent 7")
    assert 3 <= len(waiting) <= 8, "at first often, later ever more rarely"
    assert any(line.startswith("Found run 101 of agent 7, created at 2026-11-22") for line in worker.said)


@MODES
def test_which_run_was_found_is_said_in_every_mode(worker: Worker, task: FakeTask, mode: str) -> None:
    worker.service.plans = [Plan(seconds=100)]
    worker.service.start(by_stranger=True)
    assert sense(worker, task, mode, run_id=None, since=START.isoformat()) == 101
    assert any(line.startswith("Found run 101 of agent 7, created at") for line in worker.said)


# Lists that are cut, and clocks that differ


@MODES
@pytest.mark.parametrize("later", [1000, 1001, 1500])
def test_more_runs_since_than_the_service_lists_is_no_wrong_run(
    worker: Worker, task: FakeTask, mode: str, later: int
) -> None:
    worker.service.plans = [Plan(seconds=0)]
    for _ in range(later):
        worker.service.start(by_stranger=True)
    with pytest.raises(SequentumRequestRefused, match="cannot be determined"):
        sense(worker, task, mode, run_id=None, since=START.isoformat())


@MODES
def test_a_list_that_is_full_and_holds_an_earlier_run_tells_the_first(
    worker: Worker, task: FakeTask, mode: str
) -> None:
    worker.service.plans = [Plan(seconds=0)]
    worker.service.start(by_stranger=True)
    worker.service.clock.sleep(60)
    since = worker.service.clock.now.isoformat()
    for _ in range(999):
        worker.service.start(by_stranger=True)
    assert sense(worker, task, mode, run_id=None, since=since) == 102


def spoil_lists(service: FakeService, spoilt: int, until: datetime | None = None) -> None:
    """Let one run come in lists without an id."""
    act = service._act_on_agent

    def answer(verb: str, *arguments: Any) -> Any:
        answered = act(verb, *arguments)
        if verb != "runs" or (until is not None and service.clock.now >= until):
            return answered
        return [{**run, "id": None} if run["id"] == spoilt else run for run in answered]

    service._act_on_agent = answer  # type: ignore[method-assign, assignment]


@MODES
@pytest.mark.parametrize("later", [1, 30])
def test_a_first_run_that_cannot_be_read_is_not_replaced_by_the_next(
    worker: Worker, task: FakeTask, mode: str, later: int
) -> None:
    service = worker.service
    service.start(by_stranger=True)
    service.clock.sleep(60)
    since = service.clock.now
    for _ in range(1 + later):
        service.clock.sleep(1)
        service.start(by_stranger=True)
    spoil_lists(service, 102)
    with pytest.raises(SequentumUnavailable, match=r"1 run in the service's list cannot be read.* Set run_id"):
        sense(worker, task, mode, run_id=None, since=since.isoformat())
    assert service.clock.now - since < timedelta(minutes=5)


@MODES
def test_a_first_run_that_can_be_read_a_little_later_is_found(worker: Worker, task: FakeTask, mode: str) -> None:
    service = worker.service
    service.plans = [Plan(seconds=200)]
    since = service.clock.now
    service.start(by_stranger=True)
    service.clock.sleep(1)
    service.start(by_stranger=True)
    spoil_lists(service, 101, until=since + timedelta(seconds=30))
    assert sense(worker, task, mode, run_id=None, since=since.isoformat()) == 101
    assert any("cannot be read" in line for line in worker.said)


@MODES
def test_an_old_run_that_cannot_be_read_does_no_harm(worker: Worker, task: FakeTask, mode: str) -> None:
    service = worker.service
    for _ in range(30):
        service.start(by_stranger=True)
        service.clock.sleep(60)
    since = service.clock.now
    service.start(by_stranger=True)
    spoil_lists(service, 129)
    assert sense(worker, task, mode, run_id=None, since=since.isoformat()) == 131


@MODES
@pytest.mark.parametrize("skew", [timedelta(days=1), timedelta(seconds=45), timedelta(seconds=-45), -timedelta(days=1)])
def test_the_services_clock_may_differ_by_a_day(worker: Worker, task: FakeTask, mode: str, skew: timedelta) -> None:
    service = worker.service
    service.skew = skew
    service.start(by_stranger=True)
    service.clock.sleep(60)
    since = service.clock.now.isoformat()
    service.clock.sleep(10)
    service.start(by_stranger=True)
    assert sense(worker, task, mode, run_id=None, since=since) == 102
