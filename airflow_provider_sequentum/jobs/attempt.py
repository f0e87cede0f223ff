"""The owner of a remote job: one attempt of a task, from before the start of the job until it is over.

Whatever ends an attempt goes through :meth:`JobAttempt.release`: an unexpected error, Ctrl-C, a state store or XCom
that cannot be written, a refused request. ``docs/architecture.md`` has a table of the cases in which a job may be
released.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from airflow_provider_sequentum.exceptions import SequentumException
    from airflow_provider_sequentum.jobs.port import Port
    from airflow_provider_sequentum.jobs.record import JobConfig, JobRecord

R = TypeVar("R", bound="JobRecord")

log = logging.getLogger(__name__)


class TaskFacts(NamedTuple):
    """What an attempt knows about its task.

    :param started_at: when this attempt of the task started; a deferral does not change it.
    :param max_tries: the task instance's ``max_tries``. It identifies the logical attempt, because Airflow increases it
        when the task is cleared.
    :param execution_deadline: when ``execution_timeout`` expires.
    :param has_next_attempt: whether Airflow retries the task if it fails now.
    :param is_retry: whether this is not the first attempt since the task was created or last cleared.
    :param keeps_records: whether records outlive an attempt, as they do from Airflow 3.3 on.
    :param map_index: -1 for a task that is not mapped.
    :param earlier_attempts: how many attempts the task had before this one, including those before a clear.
    :param dag_run_started_at: when the DAG run started.
    """

    started_at: datetime
    max_tries: int = 0
    execution_deadline: datetime | None = None
    has_next_attempt: bool = False
    is_retry: bool = False
    keeps_records: bool = False
    map_index: int = -1
    earlier_attempts: int = 0
    dag_run_started_at: datetime | None = None

    @property
    def is_mapped(self) -> bool:
        """Whether the task has mapped siblings, which may well run the same agent at the same time."""
        return self.map_index >= 0


class JobAttempt(ABC, Generic[R]):
    """One attempt of a task and the remote job that it owns. ``R`` is the record of such a job.

    :param port: sends requests, keeps the record and talks to Airflow.
    :param task: what is known about the task.
    :param config: the job, and how to handle it.
    """

    config: JobConfig
    record_type: type[R]

    def __init__(self, port: Port, task: TaskFacts, config: JobConfig) -> None:
        self.port = port
        self.task = task
        self.config = config
        self.is_released = False
        """Whether the attempt no longer owns the job: it has ended, was stopped or was left running, as logged."""
        self.stop_failed = False
        """Whether a stop was requested, but could not be confirmed."""

    @property
    def record(self) -> R | None:
        """The record of the job; ``None`` before there is one."""
        record = self.port.record
        return record if isinstance(record, self.record_type) else None

    @property
    def known_record(self) -> R:
        """The record of the job, which exists once the job is being started.

        :raises RuntimeError: there is none yet.
        """
        if self.record is None:
            raise RuntimeError("This attempt has no record yet: start_or_join or resume comes first.")
        return self.record

    @property
    def attempts_without_record(self) -> int:
        """The number of earlier attempts that may have started a job without leaving a record."""
        return self.task.earlier_attempts if self.record is None and not self.task.keeps_records else 0

    @property
    def is_out_of_time(self) -> bool:
        """Whether the deadline has passed."""
        return self.port.deadline is not None and self.port.now() >= self.port.deadline

    @property
    @abstractmethod
    def name(self) -> str:
        """How log lines and errors name the job: ``Run 5 of agent 7``."""

    @property
    @abstractmethod
    def may_be_running(self) -> bool:
        """Whether a job that this attempt owns may be running."""

    @property
    @abstractmethod
    def can_be_joined(self) -> bool:
        """Whether the record names the job, so that the next attempt does not have to search for it."""

    @property
    def is_own_work(self) -> bool:
        """Whether the job does what this attempt asks for. Until it is joined, the job of an earlier attempt may have
        other inputs or be from before a clear.
        """
        record = self.known_record
        return record.is_same_work(self.config.fingerprint()) and not record.was_cleared(self.task.max_tries)

    @property
    def what_follows(self) -> str:
        """What the next attempt does with the job that is left to it, as the end of a sentence."""
        if not self.can_be_joined:
            return "searches for it"
        return "joins it" if self.is_own_work else "takes it over"

    @property
    def is_abandoned(self) -> bool:
        """Whether the job may be running although it was to be stopped, and the next attempt would not find it."""
        may_be_running = self.stop_failed and self.record is not None
        return may_be_running and not self.task.keeps_records and not self._is_found_without_record

    @property
    def _is_found_without_record(self) -> bool:
        """Whether the next attempt finds the job, or does not start another one, although there is no record."""
        return not self.task.is_mapped

    @abstractmethod
    def abandoned(self, message: str) -> SequentumException:
        """Return the exception, which is not retried, for a job that the next attempt would not find."""

    @property
    @abstractmethod
    def result(self) -> Any:
        """What the task returns."""

    @abstractmethod
    def start_or_join(self) -> bool:
        """Start the job, or join that of an earlier attempt; return whether it has already ended."""

    @abstractmethod
    def wait(self) -> None:
        """Wait on the worker, until the job has ended or the deadline has passed."""

    @abstractmethod
    def resume(self, event: object) -> None:
        """Process the event of the trigger.

        :raises SequentumException: the trigger could no longer poll the job, or its event cannot be read.
        """

    @abstractmethod
    def conclude(self) -> bool:
        """Evaluate the end of the wait; return whether the task is done. If not, the caller waits again."""

    @abstractmethod
    def stop(self, *, is_killed: bool = False) -> str:
        """Stop the job and return what happened to it, as a sentence. Errors of the service are not raised.

        :param is_killed: whether the task is being killed and has only seconds left.
        """

    def new_record(self) -> R:
        """Return the record of a job that this attempt is about to start."""
        seconds = self.config.timeout
        return self.record_type(
            config=self.config,
            fingerprint=self.config.fingerprint(),
            max_tries=self.task.max_tries,
            deadline=None if seconds is None else self.task.started_at + timedelta(seconds=seconds),
            # Airflow enforces execution_timeout on a worker but, from version 3 on, not while the task is deferred.
            execution_deadline=self.task.execution_deadline if self.config.deferrable else None,
        )

    def guess_record(self, new: R) -> R | None:
        """Return a record of the job that an earlier attempt may have started without saving one, or ``None``."""
        earliest = self.task.dag_run_started_at
        # The guess of a mapped task would often be the run of a sibling, which runs the same agent.
        if earliest is None or self.task.keeps_records or self.task.is_mapped or not self.task.is_retry:
            return None
        return new.updated(requested_at=earliest, is_guess=True)

    def take_over(self, previous: JobAttempt[R]) -> None:
        """Own the job that an earlier attempt left."""
        self.port.record, self.port.is_recorded = previous.port.record, previous.port.is_recorded

    def release(self, *, is_retried: bool, is_killed: bool = False) -> str | None:
        """Stop the job, or leave it to the next attempt, because this one ends; return what happened to it.

        :param is_retried: whether there will be another attempt of the task.
        :param is_killed: whether the task is being killed.
        :return: a sentence; ``None`` if there is no job.
        """
        if self.is_released or not self.may_be_running:
            return None
        self.is_released = True
        if is_retried and self.port.is_recorded:
            return f"{self.name} is probably still running. The next attempt {self.what_follows}."
        log.warning("%s may still be running when the task ends, and no later attempt will take it over.", self.name)
        self.port.deadline = None
        if is_killed:
            self.port.hurry()
        fate = self.stop(is_killed=is_killed)
        if self.task.keeps_records and not self.port.is_recorded and not self.port.is_asking_airflow:
            self._record_again()
        return fate

    def _record_again(self) -> None:
        """Save what could not be saved before; otherwise the next attempt would consider the start unanswered."""
        try:
            self.port.save(self.port.record)
        except Exception as error:  # noqa: BLE001 - what was found out about the job must not get lost
            log.warning("%s could not be recorded: %s", self.name, error)
