"""One attempt of a task that works with one run: acquire the run, wait until it ends, evaluate the result."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from airflow.providers.common.compat.sdk import AirflowTaskTimeout

from airflow_provider_sequentum.api import runs
from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.api.run_status import RunStatus, status_name
from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.exceptions import (
    LATE_START,
    AgentRunOutcomeRejected,
    AgentRunStartAmbiguous,
    AgentRunTimeout,
    SequentumSkipped,
    SequentumUnavailable,
    doubt_about,
)
from airflow_provider_sequentum.jobs.attempt import JobAttempt, TaskFacts
from airflow_provider_sequentum.jobs.port import Port
from airflow_provider_sequentum.jobs.record import read_event
from airflow_provider_sequentum.jobs.siblings import PlannedStart
from airflow_provider_sequentum.jobs.stop import MAX_REQUEST_SECONDS
from airflow_provider_sequentum.runs.describe import describe_run
from airflow_provider_sequentum.runs.lost_start import find_lost_run, find_misnamed_run, is_misnamed
from airflow_provider_sequentum.runs.outcome import failure_for, judge, what_follows
from airflow_provider_sequentum.runs.phases import Phase, phase_of
from airflow_provider_sequentum.runs.record import RunConfig, RunRecord
from airflow_provider_sequentum.runs.start import acquire_run, restart_or_start
from airflow_provider_sequentum.runs.stop import RunStopper, stop_run
from airflow_provider_sequentum.runs.wait import (
    PollOutcome,
    RunEvent,
    RunPoller,
    WaitSpec,
    may_be_the_old_failure,
    wait_for_runs,
)

log = logging.getLogger(__name__)


class RunAttempt(JobAttempt[RunRecord]):
    """One attempt of a task that works with one run.

    :param port: sends requests, keeps the record and talks to Airflow.
    :param task: what is known about the task.
    :param config: the run to start, if necessary, and how to handle it.
    :param publish: pushes the summary of the run: ``publish(run, cost=..., note=...)``.
    :param is_one_of_many: whether the task has other runs, which must not wait for the bill of this one.
    """

    config: RunConfig
    record_type = RunRecord

    def __init__(
        self,
        port: Port,
        task: TaskFacts,
        config: RunConfig,
        publish: Callable[..., None],
        *,
        is_one_of_many: bool = False,
    ) -> None:
        super().__init__(port, task, config)
        self.run: Run | None = None
        self._is_one_of_many = is_one_of_many
        self._was_shown = False
        """Whether the service has shown the run that its response to the start names."""
        self._outcome: PollOutcome | None = None
        self._publish = publish

    @property
    def name(self) -> str:
        """How log lines and errors name the run."""
        return self.record.name if self.record is not None else f"A run of agent {self.config.agent_id}"

    @property
    def known_run(self) -> Run:
        """The latest record of the run.

        :raises RuntimeError: there is none yet.
        """
        if self.run is None:
            raise RuntimeError("This attempt has no run yet: start_or_join or resume comes first.")
        return self.run

    @property
    def result(self) -> int:
        """The run's id."""
        return self.known_run.id

    @property
    def can_be_joined(self) -> bool:
        """Whether the run is known."""
        return self.record is not None and self.record.run_id is not None

    @property
    def is_late(self) -> bool:
        """Whether the wait ended because the deadline passed."""
        return self._outcome is PollOutcome.DEADLINE

    @property
    def may_be_running(self) -> bool:
        """Whether a run that this attempt owns may be running."""
        record = self.record
        if record is None or (record.is_guess and record.run_id is None):
            return False
        if self.run is None or self.run.id != record.run_id:
            return True
        return not phase_of(self.run).is_over or may_be_the_old_failure(self.run, record, None)

    def abandoned(self, message: str) -> AgentRunStartAmbiguous:
        """Return the exception, which is not retried, for a run that the next attempt would not find."""
        record = self.known_record
        return AgentRunStartAmbiguous(message, agent_id=record.agent_id, run_id=record.run_id)

    def start_or_join(self) -> bool:
        """Start, join or restart the run; return whether it has already ended."""
        new = self.new_record()
        self.port.deadline = new.earliest_deadline
        previous = self.record or self.guess_record(new)
        try:
            self.process_run(acquire_run(self.port, previous, new))
        except (SequentumError, SequentumUnavailable) as error:
            if not self.is_out_of_time or self.record is None:
                raise
            log.warning("The timeout expired before the run could be determined. (%s)", error)
            self._give_up()
        run = self.known_run
        agent = f" of agent {run.config_name!r}" if run.config_name else ""
        log.info("See run %s%s in Sequentum Cloud: %s", run.id, agent, self.port.hook.run_link(run.agent_id, run.id))
        is_over = self.is_over_now()
        if not is_over:
            self._limit_duration()
        return is_over

    def _limit_duration(self) -> None:
        """Set the time at which to stop the run because it takes too long compared with earlier ones."""
        record = self.known_record
        if not self.config.stop_overdue or not self.config.wait_for_completion or record.overdue_at is not None:
            return
        # Imported here because few tasks need it.
        from airflow_provider_sequentum.runs.duration import find_overdue_time

        overdue_at = find_overdue_time(self.port, record, self.known_run)
        if overdue_at is not None:
            record = record.updated(overdue_at=overdue_at)
            self.port.save(record)
            self.port.deadline = record.earliest_deadline

    def new_record(self) -> RunRecord:
        """Return the record of a run that this attempt starts."""
        record = super().new_record()
        lost = self.attempts_without_record
        is_limited = self.config.credit_limit is not None
        return record.updated(
            agent_id=self.config.agent_id,
            starts=(PlannedStart(agent_id=self.config.agent_id),) * lost if is_limited else (),
            may_lack_runs=self.record is None and self.task.earlier_attempts > 0,
        )

    def is_over_now(self) -> bool:
        """Return whether there is nothing to wait for."""
        poller = RunPoller(self.wait_spec().updated(failure_pause=0.0))
        self._outcome = poller.observe(self.known_run, self.port.now()).outcome
        return self._outcome is not None

    def resume(self, event: object) -> None:
        """Process the event of the trigger."""
        seen = read_event(RunEvent, event)
        if self._is_another(seen.run, is_unknown=seen.run is None and seen.error is not None and self._is_unknown()):
            return
        if (run := seen.run or self.run) is not None:
            self.process_run(run)
        if seen.error is not None:
            raise seen.exception()
        self._outcome = seen.outcome

    def wait_spec(self) -> WaitSpec:
        """Return what to wait for now."""
        record = self.known_record
        restarts_left = record.restarts_done < self.config.restarts
        return WaitSpec(
            agent_id=record.agent_id,
            run_id=record.run_id,
            poll_interval=self.config.poll_interval,
            deadline=record.earliest_deadline,
            failure_pause=self.config.restart_delay * 2**record.restarts_done if restarts_left else 0.0,
            restart_asked_at=record.restart_asked_at,
            failure_ended_at=record.failure_ended_at,
        )

    def wait(self) -> None:
        """Wait on the worker.

        :raises SequentumError: the run could no longer be polled.
        """
        [(outcome, run)] = wait_for_runs(self.port, [self.wait_spec()])
        self.process_wait(outcome, run)

    def process_wait(self, outcome: PollOutcome | SequentumError, run: Run | None) -> None:
        """Process the end of a wait; raise the error if one ended it."""
        if self._is_another(run, is_unknown=run is None and getattr(outcome, "status_code", None) == 404):
            return
        if run is not None:
            self.process_run(run)
        if isinstance(outcome, SequentumError):
            raise outcome
        self._outcome = outcome

    def _is_unknown(self) -> bool:
        """Whether the service does not know the run."""
        record = self.known_record
        try:
            self.port.send(runs.status(record.agent_id, record.run_id or 0), within=MAX_REQUEST_SECONDS)
        except SequentumError as error:
            return error.status_code == 404
        return False

    def _is_another(self, run: Run | None, *, is_unknown: bool) -> bool:
        """Return whether the start created another run than its response names; if so, continue with the created run.

        :param run: the run that the response names, as the service shows it.
        :param is_unknown: whether the service does not know it.
        """
        if self.is_out_of_time:
            self.port.deadline = None  # finding the run is part of stopping it
        found = find_misnamed_run(self.port, self.known_record, run) if run is not None or is_unknown else None
        self._was_shown = self._was_shown or run is not None
        if found is None:
            return False
        self._outcome, self._was_shown = None, True
        self.port.deadline = self.known_record.earliest_deadline
        self.process_run(found)
        self._limit_duration()
        return True

    def conclude(self, stopped: RunStopper | None = None) -> bool:
        """Evaluate the end of the wait; return whether the task is done. It is not if the run was restarted in place.

        :param stopped: the result of stopping the run, if the time was up and it was stopped together with others.
        """
        if self._outcome is None:
            return False
        has_ended = self._outcome is PollOutcome.ENDED
        if not has_ended:
            self._give_up(stopped)
        run = self.known_run
        phase = phase_of(run)
        if phase is Phase.SUCCEEDED:
            self._accept(run)
            return True
        if phase is Phase.RESTARTABLE and has_ended and self.known_record.restarts_done < self.config.restarts:
            self._restart(run)
            return False
        raise failure_for(self.port, run, what_follows(phase, self.config, self.task))

    def stop(self, *, is_killed: bool = False) -> str:
        """Stop the run, and return what happened to it, as a sentence."""
        record = self.known_record
        if record.run_id is None:
            try:
                lost = find_lost_run(self.port, record, "fail", is_killed=is_killed)
            except (AgentRunStartAmbiguous, SequentumError) as error:
                self.stop_failed = True
                return f"{doubt_about(self.name)} ({error})"
            if lost is None:
                return f"No run of agent {record.agent_id} was found that this task may have started. {LATE_START}"
            record = record.started(lost.id)
        return self.process_stop(record, stop_run(self.port, record, self.config.stop_grace))

    def process_stop(self, record: RunRecord, result: RunStopper) -> str:
        """Process the result of stopping the run, and return it as a sentence."""
        fate = f"{record.name} was asked to stop. {result.sentence}"
        self.stop_failed = not result.confirmed
        if result.seen is not None:
            self.run = result.seen
            self._publish_note(fate)
        return f"{fate} {self._stop_misnamed(record, result)}".rstrip()

    def _stop_misnamed(self, record: RunRecord, result: RunStopper) -> str:
        """Stop the run that was actually started, if the response to the start names another one.

        :return: what happened to it, as a sentence; empty if there is no such run.
        """
        if self._was_shown or not result.confirmed or result.is_hidden:
            return ""
        try:
            if not is_misnamed(self.port, record, result.seen):
                return ""
        except SequentumError as error:
            self.stop_failed = True
            return f"{doubt_about(f'Another run of agent {record.agent_id}')} ({error})"
        self._was_shown = True
        self.port.record = record.unnamed()
        return self.stop()

    def _publish_note(self, note: str) -> None:
        """Add a note to the summary of the run. A failure to do so is only logged."""
        if self.run is None or self.port.is_asking_airflow:
            return
        try:
            self._publish(self.run, note=note)
        except Exception as error:  # noqa: BLE001 - whatever keeps Airflow from storing it
            log.warning("The summary of run %s could not be pushed: %s", self.run.id, error)

    def process_run(self, run: Run, **more: Any) -> None:
        """Keep the latest record of the run and publish it. ``more`` is added to the summary.

        :raises AgentVersionChanged: the run uses another version of the agent than the expected one.
        """
        self.run = run
        self._publish(run, **more)
        if self.config.version_to_run is not None:
            # Few tasks need it, and the import would slow down the process of every task.
            from airflow_provider_sequentum.runs.versions import check_version_of_run

            check_version_of_run(self.port, self.config, run)

    def _restart(self, run: Run) -> None:
        before = self.known_record
        record = before.updated(restarts_done=before.restarts_done + 1)
        number = f"{record.restarts_done} of {self.config.restarts}"
        log.warning("Run %s ended: %s. Restarting it, %s.", run.id, describe_run(run), number)
        new = record.updated(
            config=self.config, run_id=None, restart_asked_at=None, failure_ended_at=None, overdue_at=None
        )
        self.port.deadline = new.earliest_deadline  # the allowed duration of the run starts again
        self.process_run(restart_or_start(self.port, record, run, new))
        self._limit_duration()

    def _accept(self, run: Run) -> None:
        judgement = judge(run, self.config)
        log.info("Run %s of agent %s succeeded: %s.", run.id, run.agent_id, describe_run(run))
        if judgement.action in ("succeed", "warn"):
            self.process_run(run, **self._costs_of(run))
        if judgement.action == "succeed":
            return
        message = f"Run {run.id} of agent {run.agent_id} succeeded, but {judgement.reason}."
        if judgement.action == "warn":
            log.warning("%s", message)
            return
        self.port.save(self.known_record.updated(is_rejected=True))
        if judgement.action == "skip":
            raise SequentumSkipped(message)
        raise AgentRunOutcomeRejected(
            f"{message} {self._how_a_new_run_starts}",
            agent_id=run.agent_id,
            run_id=run.id,
            status=status_name(run.status),
        )

    @property
    def _how_a_new_run_starts(self) -> str:
        return (
            "The next attempt starts a new run." if self.task.has_next_attempt else "Clear the task to start a new run."
        )

    def _costs_of(self, run: Run) -> dict[str, Any]:
        """Return the fields of the summary about costs, if the task has ``report_cost``."""
        if not self.config.report_cost:
            return {}
        # Few tasks need it, and the import would slow down the process of every task.
        from airflow_provider_sequentum.runs.cost import SETTLING, read_task_cost

        return read_task_cost(self.port, self.known_record, run, 0.0 if self._is_one_of_many else SETTLING)

    def _give_up(self, stopped: RunStopper | None = None) -> None:
        """Stop the run because the time is up. Return normally if the run has ended by itself in the meantime.

        :param stopped: the result of stopping the run, if it was stopped already.
        :raises AgentRunTimeout: ``timeout`` expired, or the run takes too long compared with earlier ones.
        :raises AirflowTaskTimeout: ``execution_timeout`` expired.
        """
        record = self.known_record
        is_execution_timeout = record.execution_timeout_is_first
        state = f"still {describe_run(self.run)}" if self.run is not None else "not known to have ended"
        message = f"{record.name} was {state} when {record.timeout_name} passed."
        self.port.deadline = None
        is_overdue = record.is_overdue_first
        if not (is_execution_timeout or is_overdue) and self.config.on_timeout == "leave":
            self.is_released = True
            message += " It is left running (on_timeout='leave')."
            if self.task.has_next_attempt and self.task.keeps_records:
                message += " The next attempt joins it."
        elif record.run_id is None:
            message += f" {self.stop()}"
            self.is_released = True
        else:
            result = stopped or stop_run(self.port, record, self.config.stop_grace)
            if self._ended_by_itself(result):
                return
            self.is_released, self.stop_failed = True, not result.confirmed
            message += f" {result.sentence} {self._stop_misnamed(record, result)}".rstrip()
            self._publish_note(message)
            if result.confirmed:
                message += f" {self._how_a_new_run_starts}"
        if is_execution_timeout:
            raise AirflowTaskTimeout(message)
        status = status_name(self.run.status) if self.run is not None else None
        raise AgentRunTimeout(message, agent_id=record.agent_id, run_id=record.run_id, status=status)

    def _ended_by_itself(self, result: RunStopper) -> bool:
        run = result.seen
        self.run = run or self.run
        if not result.confirmed or run is None or run.status is RunStatus.STOPPED or not self.is_own_work:
            return False
        log.info("Run %s ended as %s before it could be stopped.", run.id, status_name(run.status))
        self.process_run(run)
        return True
