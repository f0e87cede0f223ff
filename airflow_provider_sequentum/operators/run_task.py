"""One try of a task that works with one agent run: hold the run, wait for its end, say what the end means."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException, AirflowTaskTimeout

from airflow_provider_sequentum.api.run_status import status_name
from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.endings import ending_exception
from airflow_provider_sequentum.exceptions import (
    AgentRunOutcomeRejected,
    AgentRunStartAmbiguous,
    AgentRunTimeout,
    SequentumException,
    SequentumUnavailable,
)
from airflow_provider_sequentum.hooks.sequentum import SequentumHook
from airflow_provider_sequentum.lifecycle.phases import Phase, phase_of
from airflow_provider_sequentum.lifecycle.procedure import Log, Procedure
from airflow_provider_sequentum.lifecycle.progress import describe_run
from airflow_provider_sequentum.lifecycle.run_cost import read_cost
from airflow_provider_sequentum.lifecycle.run_ending import judge_outcome
from airflow_provider_sequentum.lifecycle.run_guards import warn_of_schedules
from airflow_provider_sequentum.lifecycle.run_record import RunRecord
from airflow_provider_sequentum.lifecycle.run_request import RunRequest
from airflow_provider_sequentum.lifecycle.run_start import (
    HASTY_LOOKS_FOR_LOST_RUN,
    HeldRun,
    RunPolicy,
    StartAmbiguous,
    find_lost_run,
    hold_run,
    restart_or_start,
)
from airflow_provider_sequentum.lifecycle.run_stop import StopResult, stop_run
from airflow_provider_sequentum.lifecycle.run_wait import RunWait, RunWaitTerms, WaitOutcome, first_look, wait_for_end
from airflow_provider_sequentum.links import RUN_SUMMARY_KEY, announce_run
from airflow_provider_sequentum.operators.run_options import Bounds, RunOptions
from airflow_provider_sequentum.operators.run_refusals import refusals_as_airflow_exceptions
from airflow_provider_sequentum.operators.task_state import TaskState
from airflow_provider_sequentum.operators.termination import WorkerShutDown, is_left_to_next_try
from airflow_provider_sequentum.outlets import tell_outlets_of_run
from airflow_provider_sequentum.task_try import has_tries_left, is_first_try, is_mapped, max_tries, pushed_by_siblings
from airflow_provider_sequentum.triggers.agent_run import AgentRunTrigger
from airflow_provider_sequentum.triggers.timing import deferral_timeout

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage

STATE_KEY = "sequentum_run"


class RunTask:
    """
    One try of a task that works with one run.

    :param request: the run to start, if one has to be started.
    :param options: how to handle it.
    :param hook: the connection.
    :param context: the task's context.
    :param bounds: what bounds this try.
    :param log: the task's log.
    """

    def __init__(
        self,
        request: RunRequest,
        options: RunOptions,
        hook: SequentumHook,
        context: Mapping[str, Any],
        bounds: Bounds,
        log: Log,
    ) -> None:
        self._request = request
        self._options = options
        self._hook = hook
        self._context = context
        self._bounds = bounds
        self._log = log
        self._state = TaskState(context, STATE_KEY)
        self._record: RunRecord | None = None
        self._held: HeldRun | None = None
        self._is_over = False
        self._is_waiting = False

    @property
    def run(self) -> Run:
        """The run's last known record."""
        return self._holding.run

    @property
    def record(self) -> RunRecord:
        """What the next try has to know of the run."""
        return self._holding.record

    @property
    def holds_run(self) -> bool:
        """Whether there is a run."""
        return self._held is not None

    @property
    def is_over(self) -> bool:
        """Whether the run is known to need no stop any more."""
        return self._is_over

    @property
    def lineage(self) -> OperatorLineage[Any, Any]:
        """What OpenLineage is told of the run; nothing if there is none yet."""
        from airflow.providers.openlineage.extractors import OperatorLineage

        from airflow_provider_sequentum.lineage import run_lineage

        return OperatorLineage() if self._held is None else run_lineage(self._hook, self._held.run)

    def begin(self) -> WaitOutcome | None:
        """Start, join or restart the run; return ``ENDED`` if it is over already."""
        self._record = self._left_behind()
        # Mapped siblings run the same agent: the first of them warns for all.
        if self._record is None and getattr(self._context["ti"], "map_index", -1) < 1:
            self._hook.perform(warn_of_schedules(self._request.agent_id))
        self._get_hold(hold_run(self._request, self._options.policy, max_tries(self._context), self._record))
        return self.outcome_now()

    def outcome_now(self) -> WaitOutcome | None:
        """Return the outcome of a wait for the run as it was last read; ``None`` if it is still going."""
        return RunWait(replace(self.terms(), failure_pause=0.0)).observe(self.run, datetime.now(UTC)).outcome

    def resume(self, agent_id: int, run_id: int, run: Run | None = None) -> None:
        """
        Go on with a run after a deferral.

        :param run: its last record, if the trigger handed one over; otherwise it is read.
        """
        self._record = self._read_record() or RunRecord(
            agent_id=agent_id,
            fingerprint=self._request.fingerprint(),
            max_tries=max_tries(self._context),
            intended_at=datetime.now(UTC),
            run_id=run_id,
        )
        if run is None:
            try:
                run = self._hook.perform(first_look(agent_id, run_id))
            except SequentumException as error:
                raise self.lost_sight(error, agent_id, run_id) from error
        self._hold(HeldRun(self._record, run))

    def terms(self) -> RunWaitTerms:
        """Return what to wait for now."""
        record = self._holding.record
        bounds = [bound for bound in (self._bounds.own, self._bounds.execution) if bound is not None]
        delay = self._options.restart_delay * 2**self._bounds.restarts_done
        return RunWaitTerms(
            agent_id=self.run.agent_id,
            run_id=self.run.id,
            poll_interval=self._options.poll_interval,
            deadline=min(bounds, default=None),
            failure_pause=delay if self._bounds.restarts_done < self._options.restarts else 0.0,
            restart_asked_at=record.restart_asked_at,
            failure_ended_at=record.failure_ended_at,
        )

    def deferral_timeout(self) -> timedelta | None:
        """Return the timeout to defer with: a backstop behind the trigger's own deadline."""
        return deferral_timeout(self.terms().deadline, datetime.now(UTC))

    def trigger(self) -> AgentRunTrigger:
        """Return the trigger that waits in the triggerer."""
        return AgentRunTrigger(
            sequentum_conn_id=self._hook.sequentum_conn_id,
            stop_on_kill=True,
            stop_on_clear=self._options.policy.on_clear == "rerun",
            stop_grace=self._options.policy.stop_grace,
            carried=self._bounds.to_json(),
            **self.terms().to_json(),
        )

    def wait(self) -> WaitOutcome:
        """Wait on the worker."""
        terms = self.terms()
        self._is_waiting = True
        try:
            outcome, run = self._hook.perform(wait_for_end(terms))
        except SequentumException as error:
            raise self.lost_sight(error, self.run.agent_id, self.run.id) from error
        finally:
            self._is_waiting = False
        self.see(run)
        return outcome

    def see(self, run: Run | None) -> None:
        """Take in the run's record as it was last read."""
        if run is not None:
            self._hold(HeldRun(self._holding.record, run))

    def lost_sight(self, error: SequentumException, agent_id: int, run_id: int) -> SequentumException:
        """Return ``error``, which ended the wait, with what becomes of the run: nobody follows who would look again."""
        name, joins = f"Run {run_id} of agent {agent_id}", self._options.policy.on_clear == "join"
        retried = has_tries_left(self._context) and not isinstance(error, AirflowFailException)
        # A service that refuses to be asked refuses the stop as well.
        if retried or joins or not isinstance(error, SequentumUnavailable):
            step = "Clear the task to join it." if joins else "Clear the task to stop it and start anew."
            step = "The next try joins it." if retried else step
            return type(error)(f"{error} {name} goes on as far as is known. {step}")
        result = self._hook.perform(self._stop_of(agent_id, run_id))
        return type(error)(
            f"{error} {name} could not be looked at any more. No try is left, so it was told to stop. "
            f"{result.sentence} Clear the task to start anew."
        )

    def conclude(self, outcome: WaitOutcome) -> bool:
        """
        Say what the wait's outcome means.

        :return: whether the task is done. It is not when the run was restarted in place: then wait again.
        """
        if outcome is WaitOutcome.DEADLINE:
            self._give_up()
        phase = phase_of(self.run)
        if phase is Phase.SUCCEEDED:
            self._accept_or_reject()
            return True
        if phase is Phase.RESTARTABLE and self._bounds.restarts_done < self._options.restarts:
            self._restart()
            return False
        self._fail(phase)
        return True

    def stop(self) -> None:
        """
        Stop the run because the task was killed. Everything that goes wrong is said in the log.

        This runs in a signal handler, in the middle of whatever the task was doing.

        :raises WorkerShutDown: Airflow still wants the task, so the run is left to the next try.
        """
        if self._record is None or self._is_over:
            return
        if self._is_waiting and self._state.is_durable and is_left_to_next_try(self._context):
            raise WorkerShutDown(
                f"The worker is being shut down. Run {self.run.id} of agent {self.run.agent_id} goes on: the next try "
                "joins it."
            )
        try:
            run_id = self._record.run_id or self._lost_run_id(self._record)
            if run_id is not None:
                self._hook.perform_apart(self._stop_of(self._record.agent_id, run_id), urgent=True)
        except (StartAmbiguous, SequentumException) as error:
            self._log.log(
                logging.WARNING,
                "A run of agent %s may still be going and costing credits: look at it in Sequentum Cloud. (%s)",
                self._record.agent_id,
                error,
            )

    def _stop_of(self, agent_id: int, run_id: int) -> Procedure[StopResult]:
        restart_asked_at = self._record.restart_asked_at if self._record is not None else None
        return stop_run(agent_id, run_id, self._options.policy.stop_grace, restart_asked_at)

    def _lost_run_id(self, record: RunRecord) -> int | None:
        # Whatever on_ambiguous_start says: a run that may be somebody else's is not stopped.
        looking = find_lost_run(record, RunPolicy(), HASTY_LOOKS_FOR_LOST_RUN)
        run = self._hook.perform_apart(looking, urgent=True)
        if run is not None and is_mapped(self._context):
            raise StartAmbiguous(record.agent_id, [run.id])  # which the siblings' are can't be asked in a handler
        return run.id if run is not None else None

    def _runs_of_siblings(self) -> frozenset[int]:
        return frozenset(summary["run_id"] for summary in pushed_by_siblings(self._context, RUN_SUMMARY_KEY))

    @property
    def _holding(self) -> HeldRun:
        if self._held is None:
            raise RuntimeError("The task holds no run yet: begin or resume first.")
        return self._held

    def _hold(self, held: HeldRun) -> None:
        self._held = held
        self._announce()

    def _announce(self, cost: float | None = None) -> None:
        announce_run(self._context, self._hook, self.run, cost)

    def _remember(self, record: dict[str, Any] | None) -> None:
        self._state.keep(record)
        self._record = RunRecord.from_json(record)

    def _left_behind(self) -> RunRecord | None:
        if self._state.is_durable:
            return self._read_record()
        earliest = getattr(self._context.get("dag_run"), "start_date", None)
        # Among mapped siblings, which run the same agent, a guess would often be another's run.
        if is_mapped(self._context) or earliest is None or is_first_try(self._context, self._options.retries):
            return None
        return RunRecord(
            agent_id=self._request.agent_id,
            fingerprint=self._request.fingerprint(),
            max_tries=max_tries(self._context),
            intended_at=earliest,
            is_guess=True,
        )

    def _read_record(self) -> RunRecord | None:
        try:
            return RunRecord.from_json(self._state.read())
        except ValueError as error:
            raise AgentRunStartAmbiguous(
                f"{error} Nothing was started. Look at the runs of agent {self._request.agent_id}, then delete the key "
                f"{STATE_KEY!r} from the task's state store.",
                agent_id=self._request.agent_id,
            ) from error

    def _restart(self) -> None:
        self._bounds = replace(self._bounds, restarts_done=self._bounds.restarts_done + 1)
        number = f"{self._bounds.restarts_done} of {self._options.restarts}"
        self._log.log(
            logging.WARNING, "Run %s ended: %s. Restarting it, %s.", self.run.id, describe_run(self.run), number
        )
        self._get_hold(restart_or_start(self._holding, self._request, self._options.policy))

    def _get_hold(self, procedure: Procedure[HeldRun]) -> None:
        what, conn_id = f"Agent {self._request.agent_id}", self._hook.sequentum_conn_id
        with refusals_as_airflow_exceptions(what, conn_id, self._context):
            self._hold(self._hook.perform(procedure, self._remember, self._runs_of_siblings))

    def _accept_or_reject(self) -> None:
        self._is_over = True
        judgement = judge_outcome(self.run, self._options.outcome)
        self._log.log(
            logging.INFO, "Run %s of agent %s ended well: %s.", self.run.id, self.run.agent_id, describe_run(self.run)
        )
        if judgement.action in ("succeed", "warn"):
            self._tell_of_success()
        if judgement.action == "succeed":
            return
        message = f"Run {self.run.id} of agent {self.run.agent_id} ended well, but {judgement.reason}."
        if judgement.action == "warn":
            self._log.log(logging.WARNING, "%s", message)
            return
        self._abandon()
        if judgement.action == "skip":
            raise AirflowSkipException(message)
        step = (
            "The next try starts a new run." if has_tries_left(self._context) else "Clear the task to start a new run."
        )
        raise AgentRunOutcomeRejected(f"{message} {step}", **self._facts())

    def _tell_of_success(self) -> None:
        self._announce(self._hook.perform(read_cost(self.run)))
        tell_outlets_of_run(self._context, self._hook, self.run, self._log)

    def _fail(self, phase: Phase) -> None:
        self._is_over = True
        raise ending_exception(self.run, self._next_step(phase), self._hook)

    def _next_step(self, phase: Phase) -> str:
        if phase is Phase.SKIPPED:
            return "So this task is skipped. Unarchive the agent to run it again."
        if phase is Phase.STOPPED:
            return "It is not retried. Clear the task to start a new run."
        if not has_tries_left(self._context):
            return "No tries are left. Clear the task to start a new run."
        if phase is Phase.ARCHIVED and self._options.policy.retry_mode == "restart":
            return "The next try fails too, because retry_mode is 'restart'. Clear the task to start a new run."
        restarts = phase is Phase.RESTARTABLE and self._options.policy.retry_mode != "new" and self._state.is_durable
        return "The next try restarts it in place." if restarts else "The next try starts a new run."

    def _give_up(self) -> None:
        execution_timed_out = self._bounds.execution_comes_first
        state = describe_run(self.run, datetime.now(UTC))
        message = f"Run {self.run.id} of agent {self.run.agent_id} was still {state} when "
        message += "execution_timeout passed." if execution_timed_out else "the task's timeout passed."
        if execution_timed_out or self._options.stop_on_timeout:
            # A kill that comes before this is done has to stop the run.
            result = self._hook.perform(self._stop_of(self.run.agent_id, self.run.id))
            message += f" {result.sentence}"
        else:
            message += " It goes on (on_timeout='leave')."
        self._is_over = True
        if execution_timed_out:
            raise AirflowTaskTimeout(message)
        raise AgentRunTimeout(message, **self._facts())

    def _abandon(self) -> None:
        if self._record is not None:
            self._remember(replace(self._record, abandoned=True).to_json())

    def _facts(self) -> dict[str, Any]:
        return {"agent_id": self.run.agent_id, "run_id": self.run.id, "status": status_name(self.run.status)}
