"""A watch list in a world of its own: a service of planned runs, and a clock that costs no time."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from airflow_provider_sequentum.api.agents import Agent
from airflow_provider_sequentum.api.call import Call
from airflow_provider_sequentum.api.errors import HttpStatusError, SequentumError
from airflow_provider_sequentum.api.parsing import Page
from airflow_provider_sequentum.api.run_status import RunStatus
from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.runs.phases import phase_of
from airflow_provider_sequentum.runs.wait import PollOutcome, PollResult, RunPoller, WaitSpec
from airflow_provider_sequentum.watching.polls import Listener, Listing, Poll, Wait
from airflow_provider_sequentum.watching.watch_list import Moment, WatchList
from tests.support.service import START

FaultOf = Callable[[Call[Any]], SequentumError | None]


@dataclass
class PlannedRun:
    """A run that began at a second of the world's time and takes so many."""

    id: int
    agent_id: int
    begun: float
    seconds: float
    outcome: RunStatus = RunStatus.SUCCESS
    listed_from: float = 0.0

    @property
    def end(self) -> float:
        return self.begun + self.seconds

    def status(self, now: float) -> RunStatus:
        share = (now - self.begun) / self.seconds if self.seconds else 1.0
        if share >= 1:
            return self.outcome
        return RunStatus.EXPORTING if share >= 0.9 else RunStatus.RUNNING


class News(NamedTuple):
    """What a wait heard."""

    wait: Wait
    result: PollResult
    error: BaseException | None


class Ear(Listener):
    """A listener that notes when it heard of which ends."""

    def __init__(self, agent_id: int, interval: float, world: World) -> None:
        super().__init__(agent_id, interval, self.hear)
        self.world = world
        self.heard: dict[int, float] = {}
        self.looks: list[Listing] = []
        self.errors: list[BaseException] = []

    def hear(self, news: Listing | BaseException) -> None:
        if isinstance(news, BaseException):
            self.errors.append(news)
            return
        self.looks.append(news)
        for run in news.runs:
            if phase_of(run).is_over:
                self.heard.setdefault(run.id, self.world.now)


@dataclass
class World:
    """
    A service, the list of waits, and the time.

    :param spacing: seconds between two questions.
    :param latency: seconds a response takes.
    :param skew: by how much the service's clock is ahead.
    :param gateway: by how much the clock that writes the ``Date`` of responses is ahead of that.
    :param hints: whether the agents list tells the status of the last run.
    """

    spacing: float = 0.75
    latency: float = 0.2
    hints: bool = True
    skew: timedelta = timedelta(0)
    gateway: timedelta = timedelta(0)
    fault: FaultOf = lambda call: None
    now: float = 0.0
    runs: dict[int, PlannedRun] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    asked: list[tuple[float, str]] = field(default_factory=list)
    ended: dict[int, float] = field(default_factory=dict)
    news: list[tuple[float, News]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.list = WatchList()
        self._ids = itertools.count(101)

    @property
    def moment(self) -> Moment:
        utc = START + timedelta(seconds=self.now)
        return Moment(self.now + 5000.0, utc, (utc + self.skew + self.gateway).replace(microsecond=0))

    def run(self, agent_id: int, seconds: float, **fields: Any) -> PlannedRun:
        run = PlannedRun(next(self._ids), agent_id, self.now, seconds, **fields)
        self.runs[run.id] = run
        return run

    def wait(self, run: PlannedRun | None = None, **terms: Any) -> Wait:
        if run is not None:
            terms = {"agent_id": run.agent_id, "run_id": run.id, **terms}

        def notify(result: PollResult, error: BaseException | None, _: datetime | None) -> None:
            self.news.append((self.now, News(wait, result, error)))
            if result.outcome is PollOutcome.ENDED and wait.poller.spec.run_id is not None:
                self.ended[wait.poller.spec.run_id] = self.now

        wait = Wait(RunPoller(WaitSpec(**terms)), notify)
        self.list.add(wait, self.moment)
        return wait

    def listen(self, agent_id: int, interval: float = 60.0) -> Ear:
        ear = Ear(agent_id, interval, self)
        self.list.add(ear, self.moment)
        return ear

    def live(self, seconds: float) -> None:
        """Let time pass, asking and answering, until no one waits or it is over."""
        until = self.now + seconds
        while self.now < until and self.list.agent_count:
            self.list.pass_time(self.moment)
            at = self.list.due(self.moment.steady)
            if at <= self.moment.steady:
                self._ask(self.list.next_poll(self.moment.steady))
                self.now += self.spacing
            else:
                at = min(at, self.list.next_fixed_look(), until + 5000.0)
                self.now = max(at - 5000.0, self.now + 0.001)

    def delays(self) -> list[float]:
        """Return how long after its end each wait heard of it, sorted."""
        return sorted(at - self.runs[run_id].end for run_id, at in self.ended.items())

    def messages(self) -> list[str]:
        return [news.result.message for _, news in self.news if news.result.message]

    def _ask(self, poll: Poll) -> None:
        call = poll.call()
        kind = call.path.rsplit("/", 1)[-1]
        self.requests[kind] += 1
        self.asked.append((self.now, call.path))
        error = self.fault(call)
        try:
            if error is not None:
                raise error
            answer = self._answer(call)
        except SequentumError as refused:
            self.now += self.latency
            self.list.failed(poll, refused, self.moment)
        else:
            self.now += self.latency
            self.list.answered(poll, answer, self.moment)
        self.now -= self.latency

    def _answer(self, call: Call[Any]) -> Any:
        names = call.path.strip("/").split("/")
        if names[1] == "all":
            return self._page(int(call.query["pageIndex"]), int(call.query["recordsPerPage"]))
        agent_id = int(names[1])
        if names[-1] == "runs":
            known = [run for run in self.runs.values() if run.agent_id == agent_id and run.listed_from <= self.now]
            known.sort(key=lambda run: run.id, reverse=True)
            return Page([self._record(run) for run in known[: int(call.query["maxRecords"])]])
        run = self.runs.get(int(names[3]))
        if run is None:
            raise HttpStatusError("There is no such run.", status_code=404)
        return self._record(run)

    def _page(self, page: int, size: int) -> Page[Agent]:
        last = {run.agent_id: run for run in self.runs.values() if run.begun <= self.now}
        agents = [
            Agent.model_validate(
                {
                    "id": agent_id,
                    "status": int(run.status(self.now)) if self.hints else None,
                    "lastActivity": (START + timedelta(seconds=run.begun)).isoformat(),
                }
            )
            for agent_id, run in sorted(last.items(), key=lambda item: (-item[1].begun, item[0]))
        ]
        return Page(agents[(page - 1) * size : page * size], len(agents))

    def _record(self, run: PlannedRun) -> Run:
        begun = START + self.skew + timedelta(seconds=run.begun)
        is_over = self.now >= run.end
        return Run.model_validate(
            {
                "id": run.id,
                "configId": run.agent_id,
                "status": int(run.status(self.now)),
                "created": begun.isoformat(),
                "startTime": begun.isoformat(),
                "endTime": (begun + timedelta(seconds=run.seconds)).isoformat() if is_over else None,
                "tableType": "history" if is_over and run.outcome is not RunStatus.FAILURE else "run",
            }
        )
