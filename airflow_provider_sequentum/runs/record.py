"""The configuration of a run, and the record that an attempt of a task leaves for the next attempt."""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field

from airflow_provider_sequentum import parameters as p
from airflow_provider_sequentum.api import runs
from airflow_provider_sequentum.api.call import Call
from airflow_provider_sequentum.api.choices import LogLevel, LogMode, ParallelExport
from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.jobs.record import (
    Amount,
    Configuration,
    Count,
    Flag,
    Id,
    JobConfig,
    JobRecord,
    JsonText,
    Seconds,
    Text,
    choice_of,
    fingerprint,
    objects_in,
)
from airflow_provider_sequentum.jobs.siblings import Claim, PlannedStart

MAX_REPLACED = 20
"""Maximum number of earlier runs in a record. Only the newest ones can be mistaken for a lost run."""


class RunPolicies(JobConfig):
    """How a task handles its runs: the parameters that the operators for one run and for a space have in common.

    See the parameters of :class:`~airflow_provider_sequentum.operators.agent_run.StartAgentRunOperator`.
    """

    poll_interval: Seconds | None = None
    on_timeout: Annotated[str, choice_of(p.OnTimeout)] = "stop"
    restarts: Count = 0
    restart_delay: Seconds = 30.0
    retry_mode: Annotated[str, choice_of(p.RetryMode)] = "restart_or_new"
    on_clear: Annotated[str, choice_of(p.OnClear)] = "rerun"
    on_ambiguous_start: Annotated[str, choice_of(p.OnAmbiguousStart)] = "fail"
    stop_grace: Seconds = 45.0
    min_credits: Amount | None = None
    credit_limit: Amount | None = None
    credit_limit_period: Annotated[str, choice_of(p.CreditLimitPeriod)] = "dag_run"
    min_records: Count | None = None
    max_errors: Count | None = None
    on_empty: Annotated[str, choice_of(p.OnEmpty)] = "succeed"
    report_cost: Flag = False


class StartOptions(Configuration):
    """The options of the request that starts a run. Only those that are set are sent; the agent has its own defaults.

    See https://docs.sequentum.com/api-reference/agents/start-run.
    """

    input_parameters: JsonText | None = None
    parallelism: Count | None = None
    parallel_max_concurrency: Count | None = None
    parallel_export: Annotated[str, choice_of(ParallelExport)] | None = None
    proxy_pool_id: Id | None = None
    is_exclusive: Flag | None = None
    is_wait_on_failure: Flag | None = None
    log_level: Annotated[str, choice_of(LogLevel)] | None = None
    log_mode: Annotated[str, choice_of(LogMode)] | None = None


class RunConfig(RunPolicies, StartOptions):
    """A run to be started, and how to handle it.

    :param agent_name: the name by which ``agent_id`` was found, if only the name was given.
    :param expected_version: the version of the agent that the run must have; ``None`` for any.
    :param pinned_version: the version that ``pinned`` stands for; ``None`` if none is pinned yet.
    """

    agent_id: Id = 0
    agent_name: Text | None = None
    expected_version: Annotated[int | Literal["pinned"], BeforeValidator(p.parse_version)] | None = None
    pinned_version: Id | None = None
    stop_overdue: Flag = False
    check_schedules: Flag = False

    def start_call(self) -> Call[Run]:
        """Return the request that starts the run. It must not be repeated: each start is a billed run."""
        return runs.start(self.agent_id, **self._start_options())

    @property
    def version_to_run(self) -> int | None:
        """The number of the version that the run must have; ``None`` for any."""
        return self.pinned_version if self.expected_version == "pinned" else self.expected_version

    def fingerprint(self) -> str:
        """Return a hash of the agent and of all options of the request."""
        return fingerprint(self.agent_id, self._start_options())

    def _start_options(self) -> dict[str, Any]:
        # Options that are not set are left out, so that a later version with more options computes the same hash.
        options = {name: getattr(self, name) for name in StartOptions.model_fields}
        return {name: value for name, value in options.items() if value is not None}


class RunRecord(JobRecord):
    """The record of one logical attempt at a run.

    :param agent_id: the agent.
    :param config: the parsed parameters, so that a resumed task does not read the operator's arguments again. Not set
        within the record of a space, which has the configuration of all its runs.
    :param run_id: the run, once the service has responded.
    :param restart_asked_at: when the last restart in place was requested, by the worker's clock.
    :param failure_ended_at: the end time of the Failure that was restarted. It distinguishes an outdated response from
        a new Failure.
    :param replaced: the task's earlier runs. None of them can be the run of a lost start.
    :param is_ambiguous: whether the task has failed because the run could not be distinguished from others.
    :param is_rejected: whether the run succeeded but violates a condition of the task, so that the next attempt must
        not return it.
    :param starts: the starts that the task has made so far, if it has a credit limit.
    :param first_requested_at: when the first of the task's runs was requested.
    :param may_lack_runs: whether the task may have had runs that this record does not name.
    :param overdue_at: when to stop the run because it has taken too long compared with earlier ones; ``None`` for
        never.
    :param restarts_done: how many times this attempt of the task has restarted the run in place.
    """

    agent_id: int = 0
    config: RunConfig = Field(default_factory=RunConfig)
    run_id: int | None = None
    restart_asked_at: datetime | None = None
    failure_ended_at: datetime | None = None
    replaced: tuple[int, ...] = ()
    is_ambiguous: bool = False
    is_rejected: bool = False
    restarts_done: int = 0
    starts: tuple[PlannedStart, ...] = ()
    first_requested_at: datetime | None = None
    may_lack_runs: bool = False
    overdue_at: datetime | None = None

    @property
    def earliest_deadline(self) -> datetime | None:
        """The earliest of the three deadlines."""
        return min(filter(None, (super().earliest_deadline, self.overdue_at)), default=None)

    @property
    def is_overdue_first(self) -> bool:
        """Whether the run is overdue, compared with earlier ones, before any other limit expires."""
        return self.overdue_at is not None and self.overdue_at == self.earliest_deadline

    @property
    def timeout_name(self) -> str:
        """The name, in messages, of the limit that expires first."""
        return "three times its usual duration" if self.is_overdue_first else super().timeout_name

    @property
    def starts_made(self) -> tuple[PlannedStart, ...]:
        """The starts that the task is known to have made.

        A start without a response counts only if its run could not be determined: an interrupted attempt may never have
        sent the request, and the next attempt searches for its run.
        """
        return tuple(start for start in self.starts if start.run_id is not None or self.is_ambiguous)

    @property
    def all_runs(self) -> tuple[int, ...]:
        """The task's runs: this one and the ones it replaced."""
        return self.replaced if self.run_id is None else (*self.replaced, self.run_id)[-MAX_REPLACED:]

    @property
    def name(self) -> str:
        """How log lines and errors name the run."""
        run = f"Run {self.run_id}" if self.run_id is not None else "A run"
        return f"{run} of agent {self.agent_id}"

    def replacing(self, previous: Self | None) -> Self:
        """Return the record of a run that is started instead of an earlier one of the task, if there is one."""
        if previous is None:
            return self
        return self.updated(
            replaced=previous.all_runs,
            first_requested_at=previous.first_requested_at,
            may_lack_runs=self.may_lack_runs or previous.may_lack_runs or previous.is_ambiguous,
        )

    def started(self, run_id: int) -> Self:
        """Return the record with the run that was started."""
        starts = self.starts
        if starts and starts[-1].run_id is None:
            starts = (*starts[:-1], starts[-1].updated(run_id=run_id))
        return self.updated(
            run_id=run_id, restart_asked_at=None, failure_ended_at=None, is_guess=False, starts=starts, overdue_at=None
        )

    def unnamed(self) -> Self:
        """Return the record without the run, because the response to the start names another one than was started.

        Such a response is worth no more than a lost one.
        """
        starts = tuple(
            start.updated(run_id=None) if start.run_id == self.run_id and number == len(self.starts) else start
            for number, start in enumerate(self.starts, 1)
        )
        return self.updated(run_id=None, restart_asked_at=None, failure_ended_at=None, starts=starts, overdue_at=None)

    def claim(self, *, is_answered: bool = False) -> Claim:
        """Return what the task tells its mapped siblings: its runs, and whether one of its starts is unanswered.

        :param is_answered: whether its last start is certain to have created no run.
        """
        return Claim(
            agent_id=self.agent_id,
            run_ids=self.all_runs,
            is_answered=is_answered or self.run_id is not None,
            has_lost_run=self.may_lack_runs,
        )

    def restarting(self, now: datetime, failure_ended_at: datetime | None) -> Self:
        """Return the record of a run that is about to be restarted in place."""
        return self.updated(restart_asked_at=now, failure_ended_at=failure_ended_at, overdue_at=None)


def runs_named_in(values: Iterable[object]) -> list[RunRecord]:
    """Return the runs that records or events of another version name, as far as they can be determined."""
    named = ((value.get("agent_id"), value.get("run_id")) for value in objects_in(values))
    ids = dict.fromkeys(pair for pair in named if all(type(part) is int and part > 0 for part in pair))
    return [RunRecord(agent_id=agent_id, run_id=run_id) for agent_id, run_id in ids]
