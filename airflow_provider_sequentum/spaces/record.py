"""The configuration of a task that runs all agents of a space, and the record that an attempt leaves for the next."""

from collections.abc import Collection, Iterator, Mapping
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import Field

from airflow_provider_sequentum import parameters as p
from airflow_provider_sequentum.api import spaces
from airflow_provider_sequentum.api.call import Call
from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.api.spaces import SpaceRun
from airflow_provider_sequentum.jobs.record import Id, JobRecord, JsonText, Stored, choice_of, fingerprint
from airflow_provider_sequentum.jobs.siblings import PlannedStart
from airflow_provider_sequentum.runs.record import RunConfig, RunPolicies, RunRecord
from airflow_provider_sequentum.spaces.describe import shortened

ENDS_SIZE = 8_000
"""Maximum characters of all messages of ended runs in a record."""

MAX_END_MESSAGE_LENGTH = 4_000

_KEPT_OF_RUN = (
    *("status", "created", "start_time", "end_time", "message", "table_type"),
    *("data_count", "export_count", "error_count", "page_count", "run_time_sec"),
)


class SpaceConfig(RunPolicies):
    """The runs of a space to start, and how to handle each of them.

    See the parameters of :class:`~airflow_provider_sequentum.operators.space_run.StartSpaceRunsOperator`.
    """

    space_id: Id = 0
    input_parameters: JsonText | None = None
    on_partial: Annotated[str, choice_of(p.OnPartial)] = "fail"

    def start_call(self) -> Call[SpaceRun]:
        """Return the request that starts all agents. It must not be repeated: each is a billed run of every agent."""
        return spaces.run_all(self.space_id, input_parameters=self.input_parameters)

    def of_agent(self, agent_id: int) -> RunConfig:
        """Return the configuration of one agent's run."""
        policies = {name: getattr(self, name) for name in RunPolicies.model_fields}
        # All of it was parsed when the space's own was.
        return RunConfig.model_construct(agent_id=agent_id, input_parameters=self.input_parameters, **policies)

    def fingerprint(self) -> str:
        """Return a hash of the space and of the input parameters."""
        return fingerprint(self.space_id, self.input_parameters)


class EndKind(StrEnum):
    """What the end of an agent's run means for the task."""

    SUCCEEDED = "succeeded"
    SKIPPED = "skipped"
    RETRIED = "retried"
    FINAL = "final"
    TIMEOUT = "timeout"
    """``execution_timeout`` has expired."""


class AgentEnd(Stored):
    """How the run of one agent ended, so that a resumed task does not process its end again.

    :param message: why it ended like this, unless it succeeded.
    :param run: the last state of the run without its ids, if known.
    :param extras: further fields of the run's summary: ``cost``, ``note``.
    """

    kind: EndKind = EndKind.RETRIED
    message: str = ""
    run: dict[str, Any] | None = None
    extras: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def of(cls, kind: EndKind, message: str, run: Run | None, extras: Mapping[str, Any]) -> Self:
        """Return how the run of an agent ended."""
        kept = run.model_dump(mode="json", include=set(_KEPT_OF_RUN), exclude_none=True) if run is not None else None
        return cls(kind=kind, message=shortened(message, MAX_END_MESSAGE_LENGTH), run=kept, extras=dict(extras))

    def last_run(self, agent_id: int, run_id: int | None) -> Run | None:
        """Return the last state of the run, as far as it was stored."""
        if self.run is None or run_id is None:
            return None
        return Run.model_validate({**self.run, "id": run_id, "config_id": agent_id})

    def shortened(self, size: int) -> Self:
        """Return a copy whose texts have at most ``size`` characters in total."""
        texts = [self.message, str((self.run or {}).get("message") or ""), str(self.extras.get("note") or "")]
        if sum(map(len, texts)) <= size:
            return self
        run = None if self.run is None else {name: item for name, item in self.run.items() if name != "message"}
        return self.updated(
            message=shortened(self.message or texts[1], size),
            run=run,
            extras={name: item for name, item in self.extras.items() if name != "note"},
        )


class SpaceRecord(JobRecord):
    """The record of one logical attempt at the runs of a space: its intent, and a short record of each agent's run.

    :param config: the configuration. A resumed task uses it and does not read the arguments of the operator again. The
        records of the runs have no configuration.
    :param runs: the records of the runs, by agent id; ``None`` until the service has responded.
    :param not_started: the agents that the service did not start, and why.
    :param ended: the runs whose end was already processed in this attempt of the task.
    :param replaced: the agents' earlier runs. A start without a response cannot have started any of them.
    :param starts: with a credit limit, all starts of agents by this task: earlier ones and those of this attempt. The
        result of a start is in the record of the agent's run, as soon as there is one.
    :param further: additional runs of agents that the service says it has started, until they are stopped.
    :param is_incomplete: whether the service has responded, but did not name all agents that it started.
    :param is_ambiguous: whether the task has failed because runs could not be distinguished from others, so users know
        of it.
    :param may_lack_runs: whether the task may have had runs that are missing in this record.
    """

    config: SpaceConfig = SpaceConfig()
    runs: dict[int, RunRecord] | None = None
    not_started: dict[int, str] = Field(default_factory=dict)
    ended: dict[int, AgentEnd] = Field(default_factory=dict)
    replaced: dict[int, tuple[int, ...]] = Field(default_factory=dict)
    starts: tuple[PlannedStart, ...] = ()
    further: dict[int, tuple[int, ...]] = Field(default_factory=dict)
    is_incomplete: bool = False
    is_ambiguous: bool = False
    may_lack_runs: bool = False

    @property
    def space_id(self) -> int:
        """The id of the space."""
        return self.config.space_id

    @property
    def name(self) -> str:
        """The name of the space in log lines and errors."""
        return f"Space {self.space_id}"

    @property
    def known_runs(self) -> dict[int, RunRecord]:
        """The records of the runs whose ids are known, by agent."""
        return {agent: run for agent, run in (self.runs or {}).items() if run.run_id is not None}

    @property
    def all_runs(self) -> dict[int, tuple[int, ...]]:
        """The runs of each agent: the current ones and those that they replaced."""
        return {**self.replaced, **{agent: run.all_runs for agent, run in (self.runs or {}).items()}}

    @property
    def starts_announced(self) -> tuple[PlannedStart, ...]:
        """The starts that the task has made, or may have made."""
        return (*self._starts_without_run(), *(start for run in (self.runs or {}).values() for start in run.starts))

    @property
    def starts_made(self) -> tuple[PlannedStart, ...]:
        """The starts that the task is known to have made; see :class:`.RunRecord`."""
        left = (start for start in self._starts_without_run() if start.run_id is not None or self.is_ambiguous)
        own = [run.starts if self.is_ambiguous else run.starts_made for run in (self.runs or {}).values()]
        return (*left, *(start for starts in own for start in starts))

    def _starts_without_run(self) -> Iterator[PlannedStart]:
        for start in self.starts:
            was_refused = start.run_id is None and start.agent_id in self.not_started
            if start.agent_id not in (self.runs or {}) and not was_refused:
                yield start

    @property
    def further_runs(self) -> list[RunRecord]:
        """The records of the additional runs of agents."""
        return [RunRecord(agent_id=agent, run_id=run_id) for agent, ids in self.further.items() for run_id in ids]

    @property
    def is_in_doubt(self) -> bool:
        """Whether runs may have been started whose ids are not known."""
        return self.runs is None or self.is_incomplete or len(self.known_runs) < len(self.runs)

    def intent_of(self, agent_id: int) -> RunRecord:
        """Return the record of an agent whose run may have been started by the start of the space."""
        return RunRecord(
            agent_id=agent_id,
            max_tries=self.max_tries,
            requested_at=self.requested_at,
            is_guess=self.is_guess,
            replaced=self.replaced.get(agent_id, ()),
            starts=tuple(start for start in self.starts if start.agent_id == agent_id),
        )

    def replacing(self, previous: Self | None) -> Self:
        """Return the record of runs that are started instead of earlier ones of the task, if there are any."""
        if previous is None:
            return self
        may_lack_runs = self.may_lack_runs or previous.may_lack_runs or previous.is_ambiguous
        return self.updated(replaced=previous.all_runs, may_lack_runs=may_lack_runs)

    def answered(self, response: SpaceRun) -> Self:
        """Return the record with the runs in the service's response.

        If it names several runs of an agent, the last one counts, and the others have to be stopped.
        """
        runs: dict[int, RunRecord] = {}
        refused: dict[int, str] = {}
        further: dict[int, tuple[int, ...]] = {}
        for result in response.results:
            known = runs.get(result.agent_id, self.intent_of(result.agent_id))
            is_old = result.run_id in self.replaced.get(result.agent_id, ())
            if result.run_id is not None and not is_old:
                named = dict.fromkeys((*further.get(result.agent_id, ()), *filter(None, [known.run_id])))
                others = tuple(run_id for run_id in named if run_id != result.run_id)
                replaced = tuple(dict.fromkeys((*known.replaced, *others)))
                runs[result.agent_id] = known.updated(replaced=replaced).started(result.run_id)
                further |= {result.agent_id: others} if others else {}
            elif result.success or is_old or (result.success is None and not result.error_message):
                # Started according to the response, which lacks the run id: it is searched for.
                runs[result.agent_id] = known
            else:
                refused[result.agent_id] = result.error_message or "the service states no reason"
        not_started = {agent: reason for agent, reason in refused.items() if agent not in runs}
        stated = max(response.total_agents or 0, (response.agents_started or 0) + (response.agents_failed or 0))
        # Without a count, it is unknown whether the results are complete.
        is_incomplete = response.total_agents is None or stated > len(runs) + len(not_started)
        return self.updated(runs=runs, not_started=not_started, further=further, is_incomplete=is_incomplete)

    def without_further(self, stopped: Collection[int]) -> Self:
        """Return the record without those additional runs that are known to have ended."""
        left = {agent: tuple(run_id for run_id in ids if run_id not in stopped) for agent, ids in self.further.items()}
        return self.updated(further={agent: ids for agent, ids in left.items() if ids})

    def without_ambiguous_runs(self) -> Self:
        """Return the record with agents whose run could not be distinguished from others counted as not started.

        It is unknown what they have started, so their starts still count towards the credit limit.
        """
        runs = self.runs or {}
        lost = {agent: run for agent, run in runs.items() if run.run_id is None and run.is_ambiguous}
        reasons = dict.fromkeys(lost, "its run could not be distinguished from others")
        others = (start for start in self.starts if start.agent_id not in lost)
        unknown = (start.updated(run_id=start.run_id or 0) for run in lost.values() for start in run.starts)
        return self.updated(
            runs={agent: run for agent, run in runs.items() if agent not in lost},
            not_started={**self.not_started, **reasons},
            starts=(*others, *unknown),
            may_lack_runs=self.may_lack_runs or bool(lost),
        )

    def without_doubts(self) -> Self:
        """Return the record with agents whose run was searched for and not found counted as not started."""
        lost = dict.fromkeys((self.runs or {}).keys() - self.known_runs.keys(), "its start was lost")
        return self.updated(runs=self.known_runs, not_started={**self.not_started, **lost}, is_guess=False)

    def with_run(self, agent_id: int, run: RunRecord | None) -> Self:
        """Return the record with a new record of an agent's run; ``None`` if nothing was started."""
        runs = {other: record for other, record in (self.runs or {}).items() if other != agent_id}
        others = {other: reason for other, reason in self.not_started.items() if other != agent_id}
        if run is None:
            return self.updated(runs=runs, not_started={**others, agent_id: "its start failed"})
        # Fields that are the same for all runs are in the record of the space.
        slim = run.updated(config=RunConfig(), fingerprint=None, deadline=None, execution_deadline=None)
        replaced = {other: ids for other, ids in self.replaced.items() if other != agent_id}
        return self.updated(runs={**runs, agent_id: slim}, not_started=others, replaced=replaced)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values. They are small, because each change writes all of them: 64 kB for 100 agents."""
        values = super(SpaceRecord, self.updated(runs=None, ended={})).to_json()
        size = ENDS_SIZE // max(sum(end.kind is not EndKind.SUCCEEDED for end in self.ended.values()), 1)
        values["ended"] = _slim({agent: end.shortened(size) for agent, end in self.ended.items()})
        if self.runs is not None:
            values["runs"] = _slim(self.runs)
        return values


def _slim(stored: Mapping[int, Stored]) -> dict[str, Any]:
    return {str(agent): each.model_dump(mode="json", exclude_defaults=True) for agent, each in stored.items()}
