"""The life of a task and its remote jobs, as a state machine.

A service with jobs that end, fail, are archived and restarted, whose responses get lost before and after they took
effect; and a task whose worker dies between any two steps, which is retried, cleared, killed and marked, on the worker
and while deferred. Whatever happens in whatever order: no second job beside one that goes or went well, no job left
going, no success without jobs that succeeded.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
    BaseOperator,
    TaskDeferred,
)
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from airflow_provider_sequentum.airflow_compat.kill import AirflowTaskTerminated
from airflow_provider_sequentum.api.run_status import RunStatus
from airflow_provider_sequentum.exceptions import AgentRunStartAmbiguous
from airflow_provider_sequentum.runs.record import RunRecord
from airflow_provider_sequentum.runs.stop import stop_runs
from tests.support import service as fakes
from tests.support.airflow import FakeTask, use_fakes
from tests.support.service import FakeRun, FakeService, Plan
from tests.support.worker import Killed, Worker

RETRIES = 3
STOPPED_BY = ("agent_id", "run_id", "restart_asked_at", "failure_ended_at")
"""What of its arguments a trigger that stops a run goes by."""
OVER = ("success", "failed", "skipped")
WELL = (RunStatus.SUCCESS, RunStatus.COMPLETED)
ENDS = st.sampled_from(
    [RunStatus.SUCCESS, RunStatus.COMPLETED, RunStatus.FAILURE, RunStatus.FAILURE, RunStatus.STOPPED]
)
PLANS = st.builds(Plan, outcome=ENDS, seconds=st.sampled_from([0, 20, 200, 1500]))
DEATHS = st.none() | st.integers(0, 12)


class TaskLife(RuleBasedStateMachine):
    """What Airflow does with a task that owns remote jobs, whatever they are."""

    verbs: Sequence[str]
    """The calls whose responses get lost."""

    doubts: tuple[type[BaseException], ...] = ()
    """What says of itself that a job may be running, and which, so that a person looks."""

    service: Any
    """The fake service."""

    worker_type = Worker
    log_level = logging.DEBUG

    # What a subclass says

    @abstractmethod
    def operator(self) -> BaseOperator:
        """Return a new operator."""

    @abstractmethod
    def event(self) -> dict[str, Any]:
        """Wait as the trigger does, and return its event."""

    @abstractmethod
    def stop_as_the_trigger_does(self, state: str) -> None:
        """Stop the jobs of the deferred task, as its trigger does when a person gave the task another ``state``."""

    def known_to_trigger(self) -> set[Any]:
        """Return the jobs that the trigger of the deferred task waits for or stops."""
        return self.mine_going()

    @abstractmethod
    def mine_going(self) -> set[Any]:
        """Return the jobs that this task has started and that have not ended."""

    @abstractmethod
    def check_success(self, result: Any) -> None:
        """Check that the task may have ended well with ``result``."""

    # The beginning and the end

    def begin_task(self, *, has_state_store: bool = True) -> None:
        """Begin with a new task at ``service``."""
        self.worker = self.worker_type(self.service, log_level=self.log_level)
        self.task = FakeTask(self.service.clock, retries=RETRIES, has_state_store=has_state_store)
        self.inputs = 0
        self.state = "scheduled"
        self.deferral: TaskDeferred | None = None
        self.attempts: dict[Any, tuple[int, int]] = {}
        self.told: set[Any] = set()
        self.left_out: set[Any] = set()
        """What the trigger of the deferred task does not know of, as the task's log says."""
        self.monkeypatch = pytest.MonkeyPatch()

    @property
    def logical_attempt(self) -> tuple[int, int]:
        """What names the logical attempt: it changes with each clear, and with what is asked for."""
        return (self.task.ti.max_tries, self.inputs)

    def teardown(self) -> None:
        if not hasattr(self, "task"):
            return
        try:
            self.service.faults.clear()
            self.run_until_over()
            if self.state == "failed":  # a worker died in the last attempt; a person clears the task
                self.clear()
                self.run_until_over()
            assert self.mine_going() <= self.told
        finally:
            self.monkeypatch.undo()

    # What happens to the service

    @rule(seconds=st.sampled_from([1, 30, 61, 600]))
    def time_passes(self, seconds: float) -> None:
        self.service.clock.sleep(seconds)

    @rule(
        number=st.integers(0, 99),
        error=st.sampled_from([fakes.response_lost, fakes.server_error, fakes.not_reached, fakes.rate_limited]),
        took_effect=st.booleans(),
    )
    def an_answer_will_be_lost(self, number: int, error: fakes.ErrorOf, took_effect: bool) -> None:
        verb = self.verbs[number % len(self.verbs)]
        certain = error in (fakes.not_reached, fakes.rate_limited)
        self.service.faults[verb] = [(error, took_effect and not certain)]

    # What happens to the task

    @precondition(lambda self: self.state in ("scheduled", "up_for_retry"))
    @rule(death=DEATHS, calls_on_kill=st.booleans())
    def a_try_runs(self, death: int | None, calls_on_kill: bool) -> None:
        self.task.enter()
        operator = self.operator()
        self.segment(operator, lambda: operator.execute(self.task.context), death, calls_on_kill=calls_on_kill)

    @precondition(lambda self: self.state in ("scheduled", "up_for_retry"))
    @rule(step=st.integers(0, 12), error=st.sampled_from([RuntimeError, KeyboardInterrupt]))
    def an_attempt_meets_an_error_that_no_one_foresaw(self, step: int, error: type[BaseException]) -> None:
        self.task.enter()
        operator = self.operator()
        self.segment(operator, lambda: operator.execute(self.task.context), step, error=error)

    @rule(refused=st.integers(1, 60))
    def the_status_is_refused(self, refused: int) -> None:
        self.service.faults["status"] = [(fakes.unauthorized, False)] * refused

    @precondition(lambda self: self.state == "deferred")
    @rule(death=DEATHS, calls_on_kill=st.booleans())
    def the_trigger_fires(self, death: int | None, calls_on_kill: bool) -> None:
        operator, event = self.operator(), self.event()
        assert self.deferral is not None
        handed_on = {**(self.deferral.kwargs or {}), "event": event}
        self.segment(
            operator,
            lambda: operator.resume_execution("execute_complete", handed_on, self.task.context),
            death,
            calls_on_kill=calls_on_kill,
        )

    @precondition(lambda self: self.state == "deferred")
    @rule(death=DEATHS, error=st.sampled_from(["Trigger timeout", "Trigger failure"]))
    def the_deferral_breaks(self, death: int | None, error: str) -> None:
        operator = self.operator()
        assert self.deferral is not None
        if error == "Trigger timeout" and self.deferral.timeout is not None:
            self.service.clock.sleep(self.deferral.timeout.total_seconds())
        self.segment(
            operator, lambda: operator.resume_execution("__fail__", {"error": error}, self.task.context), death
        )

    @precondition(lambda self: self.state == "deferred")
    @rule()
    def a_person_marks_the_deferred_task(self) -> None:
        self.end_deferral("failed")
        self.check_nothing_is_left()
        self.state, self.deferral = "failed", None

    @rule(wipes_store=st.booleans())
    def clear(self, *, wipes_store: bool = False) -> None:
        """A person clears the task. Where Airflow discards its records then, the job is the old trigger's to stop."""
        if self.state == "scheduled":
            return
        if self.state == "deferred" and (wipes_store or not self.task.has_state_store):
            self.end_deferral("scheduled")
        elif wipes_store:
            self.told |= self.mine_going()  # a worker died over it, and nothing is left that knows of it
        self.task.clear(wipes_store=wipes_store)
        self.state, self.deferral = "scheduled", None
        if wipes_store or not self.task.has_state_store:
            self.records_are_discarded()

    def records_are_discarded(self) -> None:
        """Called when nothing is left that says what the task did before it was cleared."""

    def end_deferral(self, state: str) -> None:
        """A person gives the deferred task another state."""
        self.worker.warned.clear()
        self.told |= self.left_out
        if self.task.has_state_store:
            self.stop_as_the_trigger_does(state)
        if self.is_said() or not self.task.has_state_store:  # before Airflow 3.3 a trigger is not told of it
            self.told |= self.mine_going()

    @precondition(lambda self: self.state in ("scheduled", "up_for_retry"))
    @rule()
    def the_inputs_change(self) -> None:
        self.inputs += 1

    # How Airflow does it

    def segment(  # noqa: C901, PLR0912 - every way in which an attempt ends
        self,
        operator: BaseOperator,
        work: Any,
        death: int | None,
        *,
        calls_on_kill: bool = False,
        error: type[BaseException] | None = None,
    ) -> None:
        """Run a piece of the task on a worker, until something happens before a step.

        :param death: the step; ``None`` for none.
        :param calls_on_kill: Airflow calls ``on_kill`` first. Otherwise the process dies without a word, unless there
            is an ``error``, which is raised instead.
        """
        self.worker.steps_left = death
        self.worker.interrupt = None
        self.worker.warned.clear()
        if calls_on_kill:
            self.worker.interrupt = operator.on_kill
        elif error is not None:
            self.worker.interrupt = partial(self.meet, error)
        try:
            result = work()
        except TaskDeferred as deferral:
            self.deferred(deferral)
        except Killed:
            if not self.task.has_state_store:
                self.told |= self.mine_going()  # before Airflow 3.3 nothing is left that knows of it
            self.failed(retried=True)
        except AirflowSkipException as ending:
            self.check_nothing_is_left(ending)
            self.state, self.deferral = "skipped", None
        except self.doubts:
            self.told |= self.mine_going()
            self.failed(retried=False)
        except (AirflowTaskTerminated, KeyboardInterrupt) as ending:
            self.check_nothing_is_left(ending)
            self.failed(retried=False)
        except (AirflowException, RuntimeError) as ending:
            retried = not isinstance(ending, AirflowFailException)
            if not self.task.has_state_store and self.is_said(ending):
                self.told |= self.mine_going()
            if not (retried and self.task.ti.try_number <= self.task.ti.max_tries):
                self.check_nothing_is_left(ending)
            self.failed(retried=retried)
        else:
            self.state, self.deferral = "success", None
            self.check_success(result)
        finally:
            self.worker.steps_left = self.worker.interrupt = None

    def meet(self, error: type[BaseException]) -> None:
        raise error("no one foresaw this")

    def check_nothing_is_left(self, ending: BaseException | None = None) -> None:
        """Check that an attempt that no one follows left no job without saying so."""
        left = self.mine_going() - self.told
        assert not left or self.is_said(ending), f"{left} go on unsaid"
        self.told |= left

    def is_said(self, ending: BaseException | None = None) -> bool:
        """Return whether the exception, or a warning since the attempt began, says that a job may be running."""
        said = " ".join([str(ending), *getattr(ending, "__notes__", []), *self.worker.warned])
        return "running and costing credits" in said

    def deferred(self, deferral: TaskDeferred) -> None:
        self.state, self.deferral = "deferred", deferral
        self.left_out = self.mine_going() - self.told - self.known_to_trigger()
        assert not self.left_out or self.is_said(), f"{self.left_out} are left to no trigger, unsaid"

    def failed(self, *, retried: bool) -> None:
        self.deferral = None
        if retried and self.task.ti.try_number <= self.task.ti.max_tries:
            self.state = "up_for_retry"
            self.service.clock.sleep(10)
            self.task.next_attempt()
        else:
            self.state = "failed"

    def run_until_over(self) -> None:
        for _ in range(4 * (RETRIES + 1)):
            if self.state in ("scheduled", "up_for_retry"):
                self.a_try_runs(None, calls_on_kill=False)
            elif self.state == "deferred":
                self.the_trigger_fires(None, calls_on_kill=False)
        if self.state not in OVER:
            pytest.fail(f"the task is still {self.state}")


class Life(TaskLife):
    """Everything of runs but the operator. No one else uses the agents, so that every run is this task's."""

    strangers = False
    verbs: Sequence[str] = ("start", "start", "restart", "restart", "status", "runs", "stop", "kill")
    doubts = (AgentRunStartAmbiguous,)

    # The operator

    @abstractmethod
    def new_service(self, **options: Any) -> FakeService:
        """Return the service, with the agents that the operator runs."""

    @abstractmethod
    def waits(self) -> list[dict[str, Any]]:
        """Return the arguments of each wait in the trigger."""

    @abstractmethod
    def records(self) -> list[dict[str, Any]]:
        """Return what is kept of each run."""

    # The beginning

    @initialize(
        deferrable=st.booleans(),
        on_clear=st.sampled_from(["rerun", "join"]),
        retry_mode=st.sampled_from(["restart_or_new", "restart", "new"]),
        restarts=st.integers(0, 2),
        restart_lag=st.sampled_from([0, 20, 45]),
        skew=st.sampled_from([0, -86400, -45, 45, 86400]),
    )
    def begin(self, **arguments: Any) -> None:
        self.service = self.new_service(restart_lag=arguments.pop("restart_lag"), on_start=self.check_start)
        self.service.skew = timedelta(seconds=arguments.pop("skew", 0))
        self.arguments = {**arguments, "timeout": 3000, "poll_interval": 60, "restart_delay": 30}
        self.begin_task()
        use_fakes(self.monkeypatch, self.worker)

    # What has to hold

    def check_start(self, run: FakeRun) -> None:
        """Called for every run that this task starts."""
        attempt = self.logical_attempt
        for other_id, other_attempt in self.attempts.items():
            other = self.service.runs.get(other_id)
            if other is None or other_id in self.told or other.agent_id != run.agent_id:
                continue
            assert other.is_over, f"run {other_id} goes on while another one is started"
            if other_attempt == attempt:
                assert other.status not in WELL, f"run {other_id} went well and another one is started"
                if other.status is RunStatus.FAILURE:
                    assert self.arguments["retry_mode"] == "new", f"run {other_id} could have been restarted"
        self.attempts[run.id] = attempt

    def known_to_trigger(self) -> set[int]:
        return {wait["run_id"] for wait in self.waits()}

    def mine_going(self) -> set[int]:
        self.service.settle()
        return {number for number in self.attempts if not self.service.runs[number].is_over}

    @invariant()
    def at_most_one_run_goes(self) -> None:
        if hasattr(self, "service"):
            going = [self.service.runs[number].agent_id for number in self.mine_going() - self.told]
            assert len(going) == len(set(going))

    def check_success(self, result: int | list[int]) -> None:
        assert self.mine_going() <= self.told, "success while another run goes on"
        run_ids = result if isinstance(result, list) else [result]
        assert len({self.service.runs[run_id].agent_id for run_id in run_ids}) == len(run_ids)
        for run_id in run_ids:
            self.check_succeeded(run_id)

    def check_succeeded(self, run_id: int) -> None:
        run = self.service.runs[run_id]
        assert run.status in WELL, f"success with a run that is {run.status}"
        if not run.by_stranger:
            assert self.attempts[run_id][1] == self.inputs, "success with a run of other inputs"
            joined = self.arguments["on_clear"] == "join"
            assert joined or self.attempts[run_id][0] == self.task.ti.max_tries, (
                "success with a run from before a clear"
            )

    # What happens to the service

    @rule(plan=PLANS)
    def plan_the_next_attempt(self, plan: Plan) -> None:
        self.service.plans = [plan, Plan()]

    @rule()
    def failures_are_archived(self) -> None:
        for number in list(self.service.runs):
            self.service.archive(number)

    @rule()
    def somebody_restarts_a_failure(self) -> None:
        self.service.settle()
        for record in self.records():
            run = self.service.runs.get(record.get("run_id") or 0)
            # Restarting a run which the task has given up already is that person's own second run.
            if run is not None and run.status is RunStatus.FAILURE and not record.get("is_rejected"):
                self.service.restart(run.id)

    def stop_as_the_trigger_does(self, state: str) -> None:
        self.worker.deadline = None
        for values in self.waits():
            record = {name: values.get(name) for name in STOPPED_BY}
            stop_runs(self.worker, [RunRecord.from_json(record)], values.get("stop_grace", 45.0))


class LifeAmongStrangers(Life):
    """Others run the same agents, so that a lost run can be mistaken."""

    strangers = True

    @rule(seconds=st.sampled_from([20, 2000]))
    def a_stranger_starts_a_run(self, seconds: float) -> None:
        plans, self.service.plans = self.service.plans, [Plan(seconds=seconds)]
        self.service.start(by_stranger=True)
        self.service.plans = plans


THOROUGH = settings(
    max_examples=150, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
