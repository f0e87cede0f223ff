"""The parts of a watch list: waits, what is asked on their behalf, and what they have to hear."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.api.run_status import RunStatus
from airflow_provider_sequentum.lifecycle.end_rates import Stage
from airflow_provider_sequentum.lifecycle.next_run import MOST_RUNS_LISTED
from airflow_provider_sequentum.lifecycle.run_wait import RunWait, Verdict
from airflow_provider_sequentum.lifecycle.watch_schedule import SHORTEST_INTERVAL

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.runs import Run

_WINDING_DOWN = frozenset({RunStatus.EXPORTING, RunStatus.STOPPING})
_SHORTEST_LIST = 20


class Moment(NamedTuple):
    """
    A point in time, by two clocks.

    :param steady: seconds of a clock that never jumps, for intervals.
    :param utc: what deadlines and the service's times are compared with.
    """

    steady: float
    utc: datetime


@dataclass(frozen=True, slots=True)
class AgentQuestion:
    """How are the awaited runs of this agent?"""

    agent_id: int


@dataclass(frozen=True, slots=True)
class RunQuestion:
    """How is this run, which the service does not list among the agent's?"""

    agent_id: int
    run_id: int


@dataclass(frozen=True, slots=True)
class PageQuestion:
    """Which agents on this page of the agents list have changed?"""

    page: int


Question = AgentQuestion | RunQuestion | PageQuestion


class Watched:
    """
    One wait on the list.

    :param wait: its state.
    :param began: when the run began, as far as is known, by the steady clock.
    """

    __slots__ = ("began", "fixed_at", "is_last_look", "looked_at", "wait", "winding_down_since")

    def __init__(self, wait: RunWait, began: float) -> None:
        self.wait = wait
        self.began = began
        self.looked_at: float | None = None
        self.winding_down_since: float | None = None
        self.fixed_at: float | None = None
        self.is_last_look = False

    @property
    def shortest_interval(self) -> float:
        """Seconds between two questions on behalf of this wait at least."""
        asked_for = self.wait.terms.poll_interval
        return SHORTEST_INTERVAL if asked_for is None else asked_for

    def stage(self, at: float) -> Stage:
        """Return how far the run has come at a time, if nothing changes until then."""
        since = self.winding_down_since
        if since is None:
            return Stage(at - self.began)
        pace = 1000.0 / max(since - self.began, 1.0)
        return Stage((at - since) * pace, pace, winding_down=True)

    def see(self, run: Run, moment: Moment) -> None:
        """Take in what a record says of how far the run has come."""
        begun = run.begun
        if begun is not None:
            self.began = moment.steady - max((moment.utc - begun).total_seconds(), 0.0)
        if run.status not in _WINDING_DOWN:
            self.winding_down_since = None
        elif self.winding_down_since is None:
            looked_at = moment.steady if self.looked_at is None else self.looked_at
            self.winding_down_since = (looked_at + moment.steady) / 2
        self.looked_at = moment.steady

    def ended_at(self, run: Run, moment: Moment) -> float:
        """Return when a run that has ended did so, by the steady clock."""
        begun = run.begun
        if begun is None or run.end_time is None:
            return moment.steady
        return min(self.began + (run.end_time - begun).total_seconds(), moment.steady)


class News(NamedTuple):
    """What a wait has to hear. It is off the list if there is an outcome or an error."""

    watched: Watched
    verdict: Verdict
    error: SequentumError | None = None


class AgentWaits:
    """
    The waits for runs of one agent.

    :param agent_id: the agent.
    """

    __slots__ = ("agent_id", "hinted_at", "list_size", "newest_listed", "runs", "seekers", "strays")

    def __init__(self, agent_id: int) -> None:
        self.agent_id = agent_id
        self.runs: dict[int, list[Watched]] = {}
        self.seekers: list[Watched] = []
        """Waits for a run that is not there yet."""
        self.strays: set[int] = set()
        """Runs that are asked for by themselves."""
        self.list_size = _SHORTEST_LIST
        """How many runs to ask for: as many as it takes to see the oldest one waited for."""
        self.newest_listed = 0
        self.hinted_at: float | None = None
        """When the agents list said that the last run had ended, until that has been looked into."""

    def __iter__(self) -> Iterator[Watched]:
        for waits in self.runs.values():
            yield from waits
        yield from self.seekers

    def __bool__(self) -> bool:
        return bool(self.runs or self.seekers)

    def add(self, watched: Watched) -> None:
        """Take up a wait."""
        run_id = watched.wait.terms.run_id
        (self.seekers if run_id is None else self.runs.setdefault(run_id, [])).append(watched)

    def remove(self, watched: Watched) -> bool:
        """Drop a wait; return whether it was there."""
        run_id = watched.wait.terms.run_id
        waits = self.seekers if run_id is None else self.runs.get(run_id, [])
        if watched not in waits:
            return False
        waits.remove(watched)
        if run_id is not None and not waits:
            del self.runs[run_id]
            self.strays.discard(run_id)
        return True

    def covered(self, question: AgentQuestion | RunQuestion) -> list[Watched]:
        """Return the waits that a question is asked for."""
        if isinstance(question, RunQuestion):
            return list(self.runs.get(question.run_id, ())) if question.run_id in self.strays else []
        listed = [watched for run_id, waits in self.runs.items() if run_id not in self.strays for watched in waits]
        return listed + self.seekers

    def lone_run(self) -> int | None:
        """Return the run waited for, if it is the only one: its own record is a better answer than the list."""
        if self.seekers or self.strays or len(self.runs) != 1:
            return None
        return next(iter(self.runs))

    def last_run(self) -> int | None:
        """Return the run waited for that is the agent's last one, as far as is known."""
        last = max(self.runs, default=0)
        return last if last and last >= self.newest_listed else None

    def read_list(self, run_ids: list[int]) -> None:
        """
        Take in which runs the service lists, newest first.

        Runs waited for that it does not list are strays. A list that may have been cut says nothing of them: then the
        next one is longer.
        """
        self.strays -= set(run_ids)
        missing = self.runs.keys() - self.strays - set(run_ids)
        may_be_cut = len(run_ids) >= self.list_size
        if may_be_cut and (missing or self.seekers) and self.list_size < MOST_RUNS_LISTED:
            self.list_size = min(self.list_size * 4, MOST_RUNS_LISTED)
            return
        self.strays |= missing
        if not self.seekers:
            deepest = max((place for place, run_id in enumerate(run_ids, 1) if run_id in self.runs), default=0)
            self.list_size = min(max(_SHORTEST_LIST, deepest + deepest // 4), MOST_RUNS_LISTED)
