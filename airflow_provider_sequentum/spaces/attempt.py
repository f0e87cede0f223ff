"""One try of a task that runs all agents of a space: a :class:`.RunTask` for each, begun by one request."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
    AirflowTaskTimeout,
)

from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.exceptions import (
    AgentRunSkipped,
    AgentRunStartAmbiguous,
    SequentumException,
    SequentumRequestRefused,
    SpaceRunsEnded,
    SpaceRunsFailed,
)
from airflow_provider_sequentum.hooks.errors import as_airflow_exception
from airflow_provider_sequentum.hooks.sequentum import SequentumHook
from airflow_provider_sequentum.lifecycle.procedure import Log
from airflow_provider_sequentum.lifecycle.space_record import SpaceRecord, SpaceRequest
from airflow_provider_sequentum.lifecycle.space_start import hold_space, stop_runs, stop_space
from airflow_provider_sequentum.lifecycle.space_wait import wait_for_ends
from airflow_provider_sequentum.operators.run_options import Bounds, RunOptions
from airflow_provider_sequentum.operators.run_refusals import refusals_as_airflow_exceptions
from airflow_provider_sequentum.operators.run_task import RunTask
from airflow_provider_sequentum.operators.space_state import STATE_KEY, RunState, SpaceState
from airflow_provider_sequentum.operators.termination import WorkerShutDown, is_left_to_next_try
from airflow_provider_sequentum.reporting.asset_events import tell_outlets
from airflow_provider_sequentum.runs.describe import run_summary
from airflow_provider_sequentum.runs.outcome import read_cost
from airflow_provider_sequentum.runs.record import RunRecord
from airflow_provider_sequentum.runs.start import HASTY_LOOKS_FOR_LOST_RUN
from airflow_provider_sequentum.runs.wait import PollOutcome, WaitSpec
from airflow_provider_sequentum.task_try import is_first_try, is_mapped, max_tries, pushed_by_siblings
from airflow_provider_sequentum.triggers.run_event import RunEvent
from airflow_provider_sequentum.triggers.space_run import SpaceRunsTrigger
from airflow_provider_sequentum.triggers.timing import deferral_timeout

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage

RESULTS_KEY = "runs"

Outcome = PollOutcome | SequentumException
"""How the wait for one run ended, or why it could not go on."""


class _AgentTask(RunTask):
    """One agent's run among those of the space."""

    def __init__(self, *arguments: Any, state: RunState, announce: Callable[[RunTask, float | None], None]) -> None:
        super().__init__(*arguments)
        self._state = state
        self._tell = announce

    def _left_behind(self) -> RunRecord | None:
        return self._read_record()  # what the space's own record says of it, which may be a guess

    def _announce(self, cost: float | None = None) -> None:
        self._tell(self, cost)

    def _tell_of_success(self) -> None:
        self._announce(self._hook.perform(read_cost(self.run)))


class SpaceTask:
    """
    One try of a task that runs all agents of a space.

    :param request: the runs to start, if they have to be started.
    :param options: how to handle each run.
    :param hook: the connection.
    :param context: the task's context.
    :param bounds: what bounds this try.
    :param tolerates_bad_ends: whether some runs that did not end well are just said in the log, if others did.
    :param log: the task's log.
    """

    def __init__(
        self,
        request: SpaceRequest,
        options: RunOptions,
        hook: SequentumHook,
        context: Mapping[str, Any],
        bounds: Bounds,
        *,
        tolerates_bad_ends: bool,
        log: Log,
    ) -> None:
        self._request = request
        self._options = options
        self._hook = hook
        self._context = context
        self._bounds = bounds
        self._tolerates_bad_ends = tolerates_bad_ends
        self._log = log
        self._state = SpaceState(context)
        self._tasks: dict[int, RunTask] = {}
        self._endings: dict[int, BaseException | None] = {}
        self._results: dict[int, dict[str, Any]] = {}
        self._is_over = False
        self._is_waiting = False

    def begin(self) -> dict[int, Outcome]:
        """Start the agents, or go on with the runs an earlier try left; return the outcomes of those that are over."""
        left_behind = self._left_behind()
        procedure = hold_space(self._request, self._options.policy, max_tries(self._context), left_behind)
        what, conn_id = f"Space {self._request.space_id}", self._hook.sequentum_conn_id
        with refusals_as_airflow_exceptions(what, conn_id, self._context):
            record = self._hook.perform(procedure, self._state.keep, self._runs_of_siblings)
        self._state.record = record
        is_new = left_behind is None or record.intended_at != left_behind.intended_at
        for agent_id, run in sorted((record.runs or {}).items()):
            self._guard(agent_id, self._resume_or_begin, agent_id, run, is_new)
        for agent_id, reason in sorted(record.not_started.items()):
            if is_new:
                self._endings[agent_id] = SequentumException(f"Agent {agent_id} was not started: {reason}.")
            elif agent_id not in self._tasks:
                self._guard(agent_id, self._task_of(agent_id).begin)
        if not self._endings and not self._tasks:
            raise SequentumRequestRefused(
                f"Space {self._request.space_id} has no agent to run. (connection {self._hook.sequentum_conn_id!r})"
            )
        outcomes = {agent: self._tasks[agent].outcome_now() for agent in self._going()}
        return {agent: outcome for agent, outcome in outcomes.items() if outcome is not None}

    def resume(self, events: list[RunEvent], without_run: Mapping[str, Any]) -> dict[int, Outcome]:
        """
        Go on after a deferral; return how each wait ended.

        :param without_run: what :meth:`without_run` returned before.
        """
        self._state.read()
        for agent, failure in without_run.items():
            kind = SequentumException if failure["is_retried"] else SequentumRequestRefused
            self._endings[int(agent)] = kind(failure["message"])
        outcomes: dict[int, Outcome] = {}
        for event in events:
            task = self._task_of(event.agent_id, Bounds.from_json(event.carried))
            if event.error is not None:
                outcomes[event.agent_id] = task.lost_sight(event.error, event.agent_id, event.known_run_id)
            elif self._guard(event.agent_id, task.resume, event.agent_id, event.known_run_id, event.run):
                outcomes[event.agent_id] = event.outcome or PollOutcome.ENDED
        self._bear_in_mind()
        return outcomes

    def resume_from(self, results: list[dict[str, Any]]) -> None:
        """Go on after a deferral that Airflow ended without an event: ``results`` is what this try pushed before."""
        self._state.read()
        for result in results:
            agent_id, run_id = result["agent_id"], result["run_id"]
            if run_id is None:
                self._endings[agent_id] = SequentumException(str(result["message"]))
            else:
                self._guard(agent_id, self._task_of(agent_id).resume, agent_id, run_id)
        self._bear_in_mind()

    def wait(self) -> dict[int, Outcome]:
        """Wait on the worker; return how each wait ended."""
        agents = self._going()
        terms = [self._tasks[agent].terms() for agent in agents]
        self._is_waiting = True
        try:
            results = self._hook.perform(wait_for_ends(terms))
        finally:
            self._is_waiting = False
        outcomes: dict[int, Outcome] = {}
        for agent_id, result in zip(agents, results, strict=True):
            task = self._tasks[agent_id]
            if isinstance(result, SequentumError):
                error = as_airflow_exception(result, self._hook.sequentum_conn_id)
                outcomes[agent_id] = task.lost_sight(error, agent_id, task.run.id)
            else:
                outcomes[agent_id], run = result
                task.see(run)
        return outcomes

    def trigger(self) -> SpaceRunsTrigger:
        """Return the trigger that waits in the triggerer, for the runs that are over too: each tells of its end."""
        waits = [self._tasks[agent].trigger().serialize()[1] for agent in self._with_run()]
        return SpaceRunsTrigger(waits=waits, carried=self.without_run())

    def without_run(self) -> dict[str, Any]:
        """Return what became of the agents that no run could be got hold of, in plain JSON values."""
        return {
            str(agent): {"message": str(error), "is_retried": not isinstance(error, AirflowFailException)}
            for agent, error in self._endings.items()
            if agent not in self._with_run()
        }

    def deferral_timeout(self) -> timedelta | None:
        """Return the timeout to defer with: a backstop behind the trigger's own deadline."""
        return deferral_timeout(self._terms_of_any().deadline, datetime.now(UTC))

    def give_up(self) -> dict[int, Outcome]:
        """Return what it means for each run that the time is up."""
        return dict.fromkeys(self._going(), PollOutcome.DEADLINE)

    def conclude(self, outcomes: Mapping[int, Outcome]) -> bool:
        """
        Say what the outcomes mean for each run.

        :return: whether all runs are done. They are not when some were restarted in place: then wait again.
        """
        if self._options.stop_on_timeout or self._bounds.execution_comes_first:
            late = [agent for agent, outcome in outcomes.items() if outcome is PollOutcome.DEADLINE]
            self._ask_to_stop(late)
        for agent_id, outcome in outcomes.items():
            if isinstance(outcome, SequentumException):
                self._endings[agent_id] = outcome
            else:
                self._guard(agent_id, self._conclude_one, agent_id, outcome)
        return not self._going()

    def result(self) -> list[int]:
        """
        Return the ids of the runs that ended well, in the order of their agents.

        :raises SpaceRunsFailed: some did not, and a retry can help.
        :raises SpaceRunsEnded: some did not, and no retry helps.
        :raises AgentRunSkipped: all were skipped.
        """
        self._is_over = True
        self.announce()
        bad = {agent: error for agent, error in self._endings.items() if error is not None}
        well = [self._tasks[agent].run.id for agent in self._well()]
        for error in bad.values():
            if isinstance(error, AirflowTaskTimeout):
                raise AirflowTaskTimeout(self._summary(bad)) from error
        failed = {agent: error for agent, error in bad.items() if not isinstance(error, AirflowSkipException)}
        if failed and not (well and self._tolerates_bad_ends):
            retried = any(not isinstance(error, AirflowFailException) for error in failed.values())
            kind = SpaceRunsFailed if retried else SpaceRunsEnded
            raise kind(self._summary(failed), space_id=self._request.space_id)
        if bad:
            self._log.log(logging.WARNING, "%s", self._summary(bad))
        if not well:
            raise AgentRunSkipped(self._summary(bad))
        tell_outlets(self._context, {"space_id": self._request.space_id, RESULTS_KEY: self._all_results()})
        return well

    def started(self) -> list[int]:
        """Return the ids of the runs without waiting for them; raises what :meth:`result` does."""
        for agent_id in self._going():
            self._endings[agent_id] = None
        return self.result()

    @property
    def lineage(self) -> OperatorLineage[Any, Any]:
        """What OpenLineage is told of the runs that ended well."""
        from airflow_provider_sequentum.reporting.lineage import space_lineage

        return space_lineage(self._hook, self._request.space_id, [self._tasks[agent].run for agent in self._well()])

    def stop(self) -> None:
        """
        Stop all runs because the task was killed. What goes wrong is said in the log.

        :raises WorkerShutDown: Airflow still wants the task, so the runs are left to the next try.
        """
        record = self._state.record
        if record is None or self._is_over:
            return
        if self._is_waiting and self._state.is_durable and is_left_to_next_try(self._context):
            raise WorkerShutDown(
                f"The worker is being shut down. The runs of space {self._request.space_id} go on: the next try joins "
                "them."
            )
        over = {agent for agent, task in self._tasks.items() if task.is_over}
        # Which runs the siblings hold can't be asked while a signal is handled.
        looks = () if is_mapped(self._context) else HASTY_LOOKS_FOR_LOST_RUN
        stopping = stop_space(record, self._request, over, self._options.policy.stop_grace, looks)
        try:
            self._hook.perform_apart(stopping, urgent=True)
        except SequentumException as error:
            self._log.log(
                logging.WARNING,
                "Runs of space %s may still be going and costing credits: look at them in Sequentum Cloud. (%s)",
                self._request.space_id,
                error,
            )

    def _left_behind(self) -> SpaceRecord | None:
        if self._state.is_durable:
            try:
                return self._state.read()
            except ValueError as error:
                raise AgentRunStartAmbiguous(
                    f"{error} Nothing was started. Look at the runs of space {self._request.space_id}, then delete the "
                    f"key {STATE_KEY!r} from the task's state store."
                ) from error
        earliest = getattr(self._context.get("dag_run"), "start_date", None)
        if earliest is None or is_first_try(self._context, self._options.retries):
            return None
        return SpaceRecord(
            space_id=self._request.space_id,
            fingerprint=self._request.fingerprint(),
            max_tries=max_tries(self._context),
            intended_at=earliest,
            is_guess=True,
        )

    def _bear_in_mind(self) -> None:
        """Where nothing outlives a deferral, note what there is to stop, should the task be killed now."""
        if self._state.record is None:
            self._state.record = SpaceRecord(
                space_id=self._request.space_id,
                fingerprint=self._request.fingerprint(),
                max_tries=max_tries(self._context),
                intended_at=datetime.now(UTC),
                runs={agent: self._tasks[agent].record for agent in self._with_run()},
            )

    def _runs_of_siblings(self) -> frozenset[int]:
        pushed = pushed_by_siblings(self._context, RESULTS_KEY)
        return frozenset(result["run_id"] for results in pushed for result in results if result["run_id"] is not None)

    def _task_of(self, agent_id: int, bounds: Bounds | None = None) -> RunTask:
        arguments = (self._request.of_agent(agent_id), self._options, self._hook, self._context)
        self._tasks[agent_id] = _AgentTask(
            *arguments,
            bounds or self._bounds,
            self._log,
            state=RunState(self._state, agent_id),
            announce=self._announce,
        )
        return self._tasks[agent_id]

    def _resume_or_begin(self, agent_id: int, run: RunRecord, is_new: bool) -> None:
        task = self._task_of(agent_id)
        if is_new and run.run_id is not None:
            task.resume(agent_id, run.run_id)
        elif is_new:
            raise SequentumException(f"Agent {agent_id} was not started, as far as is known.")
        else:
            task.begin()

    def _conclude_one(self, agent_id: int, outcome: PollOutcome) -> None:
        if self._tasks[agent_id].conclude(outcome):
            self._endings[agent_id] = None

    def _guard(self, agent_id: int, action: Callable[..., object], *arguments: Any) -> bool:
        """Do something for one agent; what goes wrong with it ends its run's part in the task and no other's."""
        try:
            action(*arguments)
        except (AirflowException, AirflowTaskTimeout) as error:
            self._endings[agent_id] = error
            return False
        return True

    def _ask_to_stop(self, agents: list[int]) -> None:
        runs = (self._state.record.runs if self._state.record is not None else None) or {}
        going = [runs[agent] for agent in agents if agent in runs]
        self._hook.perform(stop_runs(going, self._options.policy.stop_grace))

    def _well(self) -> list[int]:
        return [agent for agent, error in sorted(self._endings.items()) if error is None]

    def _with_run(self) -> list[int]:
        return [agent for agent, task in sorted(self._tasks.items()) if task.holds_run]

    def _going(self) -> list[int]:
        return [agent for agent in sorted(self._tasks) if agent not in self._endings]

    def _terms_of_any(self) -> WaitSpec:
        return self._tasks[self._going()[0]].terms()

    def _announce(self, task: RunTask, cost: float | None) -> None:
        link = self._hook.run_link(task.run.agent_id, task.run.id)
        self._results[task.run.agent_id] = {**run_summary(task.run), "link": link, "cost": cost}

    def announce(self) -> None:
        """Push what is known of each run, for downstream tasks and for a resumption without an event."""
        for agent_id, error in self._endings.items():
            nothing = {"agent_id": agent_id, "run_id": None, "status": None, "message": str(error)}
            self._results.setdefault(agent_id, nothing)
        self._context["ti"].xcom_push(key=RESULTS_KEY, value=self._all_results())

    def _all_results(self) -> list[dict[str, Any]]:
        return [self._results[agent] for agent in sorted(self._results)]

    def _summary(self, bad: Mapping[int, BaseException]) -> str:
        total = len(self._tasks.keys() | self._endings.keys())
        lines = [f"{len(bad)} of the {total} agents of space {self._request.space_id} did not end well:"]
        return "\n".join([*lines, *(f"- Agent {agent}: {error}" for agent, error in sorted(bad.items()))])
