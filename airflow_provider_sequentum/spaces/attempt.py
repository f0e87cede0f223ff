"""One attempt of a task that runs all agents of a space: one request starts them, and each run has its own owner.

The runs are polled, waited for and stopped together, and one summary lists them. What the state of a single run means
(a restart, a rejected outcome) is decided by its :class:`.RunAttempt`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
    AirflowTaskTimeout,
)

from airflow_provider_sequentum.api import runs
from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.exceptions import (
    LATE_START,
    SequentumException,
    SequentumRequestRefused,
    SequentumSkipped,
    SequentumUnavailable,
    SpaceRunsEnded,
    SpaceRunsFailed,
    doubt_about,
    from_client,
)
from airflow_provider_sequentum.jobs.attempt import JobAttempt, TaskFacts
from airflow_provider_sequentum.jobs.port import Port
from airflow_provider_sequentum.jobs.record import Stored, read_event
from airflow_provider_sequentum.jobs.siblings import PlannedStart
from airflow_provider_sequentum.jobs.stop import MAX_REQUEST_SECONDS
from airflow_provider_sequentum.runs.attempt import RunAttempt
from airflow_provider_sequentum.runs.describe import counted, id_list, run_summary
from airflow_provider_sequentum.runs.record import RunRecord
from airflow_provider_sequentum.runs.start import look_at_runs, start_run, take_up_run
from airflow_provider_sequentum.runs.stop import RunStopper, stop_runs
from airflow_provider_sequentum.runs.wait import PollOutcome, WaitSpec, wait_for_runs
from airflow_provider_sequentum.spaces.describe import bounded_summaries, describe_failures
from airflow_provider_sequentum.spaces.port import AgentPort, Outage
from airflow_provider_sequentum.spaces.record import AgentEnd, EndKind, SpaceConfig, SpaceRecord
from airflow_provider_sequentum.spaces.start import acquire_space, find_runs_to_stop, stop_stopping_runs

RUNS_KEY = "runs"
"""The XCom with the summaries of the runs."""

log = logging.getLogger(__name__)


class SpaceEvent(Stored):
    """The event of the trigger that waits for the runs of a space.

    :param events: one :class:`.RunEvent` for each run, as JSON.
    """

    events: tuple[dict[str, Any], ...]


class SpaceAttempt(JobAttempt[SpaceRecord]):
    """One attempt of a task that runs all agents of a space."""

    config: SpaceConfig
    record_type = SpaceRecord

    def __init__(self, port: Port, task: TaskFacts, config: SpaceConfig) -> None:
        super().__init__(port, task, config)
        self._runs: dict[int, RunAttempt] = {}
        self._extras: dict[int, dict[str, Any]] = {}
        self._waited: list[int] = []
        self._outage = Outage()

    # State

    @property
    def name(self) -> str:
        """The name of the runs in log lines and errors."""
        return f"Space {self.config.space_id}"

    @property
    def runs(self) -> dict[int, RunAttempt]:
        """The owners of the runs, by agent."""
        record = self.record
        for agent_id in (record.runs if record is not None else None) or {}:
            self._run_of(agent_id)
        return dict(sorted(self._runs.items()))

    @property
    def may_be_running(self) -> bool:
        """Whether a run that this attempt owns may be running."""
        record = self.record
        if record is None or record.runs is None:
            return record is not None and not record.is_guess
        return record.is_incomplete or bool(record.further) or bool(self._owned())

    @property
    def can_be_joined(self) -> bool:
        """Whether all runs are known."""
        return self.record is not None and not self.record.is_in_doubt

    @property
    def result(self) -> list[int]:
        """The ids of the runs that succeeded or, if the task does not wait for them, were started; ordered by agent.

        :raises SpaceRunsFailed: some agents were not started.
        """
        if not self.config.wait_for_completion:
            self._judge()
        return [run.known_record.run_id or 0 for agent, run in self.runs.items() if self._is_well(agent)]

    @property
    def runs_that_succeeded(self) -> list[Run]:
        """The last states of the runs that succeeded."""
        return [run.run for agent, run in self.runs.items() if self._is_well(agent) and run.run is not None]

    # Life cycle

    def abandoned(self, message: str) -> SpaceRunsEnded:
        """Return the exception, which is not retried, for runs that the next attempt would not find."""
        return SpaceRunsEnded(message, space_id=self.config.space_id)

    def start_or_join(self) -> bool:
        """Start the agents, or join the runs of an earlier attempt; return whether all of them have ended."""
        new = self.new_record()
        self.port.deadline = new.earliest_deadline
        previous = self.record or self.guess_record(new)
        try:
            record, is_new = acquire_space(self.port, previous, new)
        except (SequentumError, SequentumUnavailable) as error:
            if not self.is_out_of_time or self.record is None:
                raise
            self._give_up(error)
        self._runs.clear()
        if not record.runs and not record.not_started:
            raise SequentumRequestRefused(f"Space {self.config.space_id} has no agent to run.")
        self.publish()  # after a clear, the trigger uses it to find out whether this attempt has joined its runs
        if is_new:
            self._process_start(record)
        else:
            self._take_up(record)
            self.publish()
        if not self.config.wait_for_completion:
            self._look_once()
            return True
        self._conclude_waited()
        return not self._pending()

    def new_record(self) -> SpaceRecord:
        """Return the record of the runs that this attempt starts."""
        lost = (PlannedStart(),) * self.attempts_without_record
        return super().new_record().updated(starts=lost if self.config.credit_limit is not None else ())

    def wait(self) -> None:
        """Wait on the worker for all runs."""
        agents = self._pending()

        def ended(number: int, outcome: PollOutcome | SequentumError, run: Run | None) -> None:
            agent_id = agents[number]
            if self._guarded(agent_id, partial(self._runs[agent_id].process_wait, outcome, run)):
                self._waited.append(agent_id)

        wait_for_runs(self.port, [self._runs[agent].wait_spec() for agent in agents], ended)

    def resume(self, event: object) -> None:
        """Process the event of the trigger."""
        by_agent = {single.get("agent_id"): single for single in read_event(SpaceEvent, event).events}
        for agent_id in self._pending():
            # If the agent is missing in the event, the empty event is invalid, so it never counts as success.
            if self._guarded(agent_id, partial(self._runs[agent_id].resume, by_agent.get(agent_id, {}))):
                self._waited.append(agent_id)

    def conclude(self) -> bool:
        """Process the results of the waits; return whether the task is done. It is not if runs were restarted in place.

        :raises SpaceRunsFailed: some runs did not succeed; a retry handles each of them.
        :raises SpaceRunsEnded: some runs did not succeed for reasons that a retry cannot fix.
        :raises SequentumSkipped: all were skipped.
        :raises AirflowTaskTimeout: ``execution_timeout`` has passed.
        """
        self._conclude_waited()
        self.publish()
        if self._pending():
            return False
        self._judge()
        if self.may_be_running:
            # Tolerated by on_partial: the task succeeds, so no later attempt takes over these runs.
            log.warning("%s", self.stop())
        return True

    def stop(self, *, is_killed: bool = False) -> str:
        """Stop all runs and return what happened to them. Known runs are stopped before others are searched for."""
        record = self.known_record
        known = [run for run in self._owned() if run.can_be_joined]
        sentences, doubt = [], ""
        if record.is_in_doubt and not (record.runs is None and record.is_guess):
            self._ask_to_stop(known)
            found, doubt = find_runs_to_stop(self.port, record, is_killed=is_killed)
            none = f"No runs of space {record.space_id} were found that this task may have started. {LATE_START}"
            sentences.append(doubt or ("" if found else none))
            for lost in found:
                run = self._run_of(lost.agent_id)
                run.port.record = lost
                known.append(run)
        records = [*(run.known_record for run in known), *record.further_runs]
        results = stop_runs(self.port, records, self.config.stop_grace)
        for run, result in zip(known, results, strict=False):
            run.process_stop(run.known_record, result)
        if records:
            sentences.insert(0, _describe_stops(records, results))
        self.stop_failed = bool(doubt) or not all(result.confirmed for result in results)
        ended = {each.run_id or 0 for each, result in zip(records, results, strict=True) if result.confirmed}
        self.port.record = self.known_record.without_further(ended)
        if not self.port.is_asking_airflow:
            self.publish()
        return " ".join(filter(None, sentences))

    def publish(self) -> None:
        """Push the summaries of the runs, in the order of their agents."""
        self.port.push(RUNS_KEY, self.summaries())

    def summaries(self) -> list[dict[str, Any]]:
        """Return a summary of each agent's run, as plain JSON values of bounded size."""
        record = self.known_record
        runs = self.runs
        agents = sorted({*runs, *record.not_started, *record.ended})
        return bounded_summaries([self._summary_of(agent, runs.get(agent)) for agent in agents])

    def wait_specs(self) -> list[WaitSpec]:
        """Return what to wait for."""
        return [self._runs[agent].wait_spec() for agent in self._pending()]

    def unwaited_specs(self) -> list[WaitSpec]:
        """Return the runs that the task does not wait for, because polling them failed, but that it has to stop."""
        ended = self.known_record.ended
        left = [run for run in self._owned() if run.can_be_joined]
        unwaited = [run.wait_spec() for run in left if run.config.agent_id in ended]
        further = self.known_record.further_runs
        return unwaited + [WaitSpec(agent_id=run.agent_id, run_id=run.run_id) for run in further]

    # Steps

    def _process_start(self, record: SpaceRecord) -> None:
        """Note which agents were not started by the request that was just sent."""
        for agent_id, reason in record.not_started.items():
            self._end(agent_id, SequentumException(f"Agent {agent_id} was not started: {reason}."))
        for agent_id in (record.runs or {}).keys() - record.known_runs.keys():
            self._end(agent_id, SequentumException(f"Agent {agent_id} was not started, as far as is known."))

    def _take_up(self, record: SpaceRecord) -> None:
        """Join, restart or start each run of an earlier attempt, as a new attempt at a single run does."""
        self._outage.answered()
        known = {agent: self._run_of(agent) for agent in record.known_runs}
        seen = look_at_runs({agent: (run.port, run.known_record) for agent, run in known.items()}, self.port)
        unstopped = stop_stopping_runs(self.port, record.known_runs, seen, self.config.stop_grace)
        for agent_id in sorted({*seen, *record.not_started}):
            if self.is_out_of_time:
                self._process_late(agent_id)
            elif agent_id in unstopped:
                self._end(agent_id, unstopped[agent_id])
            elif isinstance(looked := seen.get(agent_id), SequentumError):
                self._end(agent_id, looked)
            else:
                self._guarded(agent_id, partial(self._acquire, agent_id, looked))
        runs = {agent: self._runs[agent] for agent in self._pending()}
        self._waited += [agent for agent, run in runs.items() if run.run is None or run.is_over_now()]

    def _acquire(self, agent_id: int, looked: Run | None) -> None:
        run = self._run_of(agent_id)
        made = tuple(start for start in self.known_record.starts_made if start.agent_id == agent_id)
        new, previous = run.new_record().updated(starts=made), run.record
        if previous is None:  # not started yet
            run.process_run(start_run(run.port, new, None))
            return
        try:
            run.process_run(take_up_run(run.port, previous, new, looked))
        except SequentumError:
            if not self.is_out_of_time or run.record is None:
                raise
            self._process_late(agent_id)

    def _process_late(self, agent_id: int) -> None:
        """Handle a run for which nothing was decided before the time was up: it is stopped with the others."""
        run = self._run_of(agent_id)
        if run.record is None:
            self._end(agent_id, SequentumException(f"Agent {agent_id} was not started: the time is up."))
        else:
            run.process_wait(PollOutcome.DEADLINE, None)

    def _look_once(self) -> None:
        """Poll each run once for its summary. The task does not wait for the runs, so errors are only logged."""
        self._outage.answered()
        for agent_id in self._pending():
            run = self._runs[agent_id]
            if run.run is None:
                try:
                    run.run = run.port.send(
                        runs.status(agent_id, run.known_record.run_id or 0), within=MAX_REQUEST_SECONDS
                    )
                except SequentumError as error:
                    log.info("Could not check run %s of agent %s. (%s)", run.known_record.run_id, agent_id, error)
        self.publish()

    def _conclude_waited(self) -> None:
        """Process the end of the runs whose wait is over; stop those that are late, all together."""
        waited, self._waited = self._waited, []
        self._outage.answered()
        stopped: dict[int, RunStopper] = {}
        late = [agent for agent in waited if self._runs[agent].is_late]
        if late:
            self.port.deadline = None
            if self.config.on_timeout == "stop" or self.known_record.execution_timeout_is_first:
                known = [self._runs[agent].known_record for agent in late if self._runs[agent].can_be_joined]
                results = stop_runs(self.port, known, self.config.stop_grace)
                self.stop_failed = self.stop_failed or not all(result.confirmed for result in results)
                stopped = {record.agent_id: result for record, result in zip(known, results, strict=True)}
        for agent_id in waited:
            self._guarded(agent_id, partial(self._conclude, agent_id, stopped.get(agent_id)))

    def _conclude(self, agent_id: int, stopped: RunStopper | None) -> None:
        if self._runs[agent_id].conclude(stopped):
            self._end(agent_id, None)

    def _judge(self) -> None:
        """Decide on the outcome of the task from the ends of all runs; raises what :meth:`conclude` raises."""
        ended = self.known_record.ended
        bad = {agent: end for agent, end in ended.items() if end.kind is not EndKind.SUCCEEDED}
        failed = {agent: end for agent, end in bad.items() if end.kind is not EndKind.SKIPPED}
        is_any_well = any(self._is_well(agent) for agent in self.runs)
        if any(end.kind is EndKind.TIMEOUT for end in bad.values()):
            raise AirflowTaskTimeout(self._describe(bad))
        if failed and not (is_any_well and self.config.on_partial == "warn"):
            is_retried = any(end.kind is EndKind.RETRIED for end in failed.values())
            kind = SpaceRunsFailed if is_retried else SpaceRunsEnded
            raise kind(self._describe(failed), space_id=self.config.space_id)
        if bad and not is_any_well:
            raise SequentumSkipped(self._describe(bad))
        if bad:
            log.warning("%s", self._describe(bad))

    def _describe(self, ends: dict[int, AgentEnd]) -> str:
        record = self.known_record
        total = len({*self.runs, *record.not_started, *record.ended})
        return describe_failures(self.config.space_id, total, {agent: end.message for agent, end in ends.items()})

    def _give_up(self, error: Exception) -> NoReturn:
        """Stop the runs because the time was up before all of them were known.

        :raises SpaceRunsFailed: ``timeout`` has expired.
        :raises AirflowTaskTimeout: ``execution_timeout`` has expired.
        """
        log.warning("The time was up before the runs were known. (%s)", error)
        record = self.known_record
        is_execution_timeout = record.execution_timeout_is_first
        message = f"The runs of space {self.config.space_id} were not all known when {record.timeout_name} passed."
        self.port.deadline = None
        if not is_execution_timeout and self.config.on_timeout == "leave":
            message += " They are left running (on_timeout='leave')."
        else:
            message += f" {self.stop()}"
        self.is_released = True
        if is_execution_timeout:
            raise AirflowTaskTimeout(message)
        raise SpaceRunsFailed(message, space_id=self.config.space_id)

    def _guarded(self, agent_id: int, action: Callable[[], object]) -> bool:
        """Do something for one agent, and return whether it succeeded. Errors do not affect the other agents."""
        try:
            action()
        except AirflowTaskTimeout as error:
            if not self._run_of(agent_id).is_released:
                raise  # raised by Airflow during the action: it concerns the whole task
            self._end(agent_id, error)
        except (AirflowException, SequentumError) as error:
            self._end(agent_id, error)
        else:
            return True
        return False

    def _end(self, agent_id: int, error: BaseException | None) -> None:
        """Note how the agent's run ended in this attempt. It is saved when the task is deferred."""
        error = from_client(error, self.config.sequentum_conn_id) if error is not None else None
        attempt = self._runs.get(agent_id)
        run = attempt.run if attempt is not None else None
        if attempt is not None and attempt.may_be_running and not (attempt.is_released or attempt.can_be_joined):
            # The others are waited for first, maybe by a trigger, which cannot stop what it does not know.
            log.warning("%s", doubt_about(attempt.name))
        end = AgentEnd.of(_kind_of(error), str(error or ""), run, self._extras.get(agent_id, {}))
        record = self.known_record
        self.port.record = record.updated(ended={**record.ended, agent_id: end})

    def _run_of(self, agent_id: int) -> RunAttempt:
        if agent_id not in self._runs:
            record = self.known_record
            config = self.config.of_agent(agent_id)
            own = (record.runs or {}).get(agent_id)
            if own is not None:
                own = own.updated(config=config, deadline=record.deadline, execution_deadline=record.execution_deadline)
            port = AgentPort(self.port, agent_id, own, self._outage)

            def publish(_: Run, **more: Any) -> None:
                self._extras.setdefault(agent_id, {}).update(more)

            self._runs[agent_id] = RunAttempt(port, self.task, config, publish, is_one_of_many=True)
            end = record.ended.get(agent_id)
            if end is not None:
                self._extras[agent_id] = dict(end.extras)
                self._runs[agent_id].run = end.last_run(agent_id, own.run_id if own is not None else None)
        return self._runs[agent_id]

    def _summary_of(self, agent_id: int, run: RunAttempt | None) -> dict[str, Any]:
        record = self.known_record
        end = record.ended.get(agent_id)
        run_id = run.known_record.run_id if run is not None else None
        more: dict[str, Any] = {"cost": None, "succeeded": None if end is None else end.kind is EndKind.SUCCEEDED}
        if self.task.is_mapped:
            more["map_index"] = self.task.map_index
        if end is not None and end.message:
            more["note"] = end.message
        more |= {
            "link": self.port.hook.run_link(agent_id, run_id) if run_id is not None else None,
            **self._extras.get(agent_id, {}),
        }
        if run is not None and run.run is not None:
            return run_summary(run.run, **more)
        reason = end.message if end is not None else record.not_started.get(agent_id)
        return {"agent_id": agent_id, "run_id": run_id, "status": None, "message": reason, **more}

    def _ask_to_stop(self, attempts: Sequence[RunAttempt]) -> None:
        """Send stop requests without waiting, so that these runs wind down while others are searched for."""
        for attempt in attempts:
            record = attempt.known_record
            try:
                self.port.send(runs.stop(record.agent_id, record.run_id or 0), within=MAX_REQUEST_SECONDS)
            except SequentumError as error:
                log.info("Could not request the stop of %s; it will be requested again. (%s)", record.name, error)

    def _owned(self) -> list[RunAttempt]:
        return [run for run in self.runs.values() if run.may_be_running and not run.is_released]

    def _pending(self) -> list[int]:
        """The agents whose run has not been concluded."""
        ended = self.known_record.ended
        return [agent for agent in self.runs if agent not in ended]

    def _is_well(self, agent_id: int) -> bool:
        end = self.known_record.ended.get(agent_id)
        return not self.config.wait_for_completion if end is None else end.kind is EndKind.SUCCEEDED


def _describe_stops(records: Sequence[RunRecord], results: Sequence[RunStopper]) -> str:
    """Return what happened to stopped runs, as one or two sentences."""
    ended = sum(result.confirmed for result in results)
    sentence = f"{counted(ended, 'run')} {'has' if ended == 1 else 'have'} ended." if ended else ""
    left = [record for record, result in zip(records, results, strict=True) if not result.confirmed]
    if not left:
        return sentence
    ids, agents = [record.run_id or 0 for record in left], [record.agent_id for record in left]
    unsure = f"It could not be confirmed that runs {id_list(ids)} of agents {id_list(agents)} have stopped."
    return f"{sentence} {unsure} {doubt_about('They', 'them')}".strip()


def _kind_of(error: BaseException | None) -> EndKind:
    """Return what an exception means for the task; ``None`` means success."""
    if error is None:
        return EndKind.SUCCEEDED
    if isinstance(error, AirflowTaskTimeout):
        return EndKind.TIMEOUT
    if isinstance(error, AirflowSkipException):
        return EndKind.SKIPPED
    return EndKind.FINAL if isinstance(error, AirflowFailException) else EndKind.RETRIED
