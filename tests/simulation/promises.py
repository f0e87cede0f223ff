"""Whether a history keeps what ``docs/life-cycle.md`` promises. Decided from the history alone.

Nothing here knows the provider or the service that was simulated: a run is what an answer with its id says of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from tests.simulation.history import Entry

FAILURE, FAILED, STOPPED, COMPLETED, SUCCESS, SKIPPED = 6, 7, 8, 9, 10, 11
OVER = frozenset({FAILURE, FAILED, STOPPED, COMPLETED, SUCCESS, SKIPPED})
WELL = frozenset({COMPLETED, SUCCESS})

STOP_SECONDS = 60.0
"""How long a run may go on after its task has ended."""

JOIN_SECONDS = 300.0
"""How long the trigger of a cleared task waits for an attempt that takes the run over, where one may."""

CLOCK_SECONDS = 3.0
"""How much earlier than a lost start a run may have been created, by the service's clock, that is taken for its own."""

TICK = 2.0
"""Seconds by which two times may differ that are one: the service's clock is known in whole seconds."""

MAY_BE_RUNNING = "running and costing credits"
"""What the task says of a job that may outlive it."""


class Broken(NamedTuple):
    """A promise that was not kept.

    :param at: seconds since the history began.
    :param promise: which one.
    :param text: by what.
    """

    at: float
    promise: str
    text: str


@dataclass
class Span:
    """A run from a start or a restart to its end."""

    begun_at: float
    ended_at: float | None = None
    status: int | None = None

    def covers(self, at: float) -> bool:
        """Return whether the run was certainly going at a time."""
        return self.begun_at + TICK < at and (self.ended_at is None or self.ended_at > at + TICK)

    def is_over_by(self, at: float) -> bool:
        """Return whether the run had certainly ended by a time."""
        return self.ended_at is not None and self.ended_at + TICK < at


@dataclass
class Job:
    """A run that the task started."""

    id: int
    agent_id: int
    intent: tuple[int, str]
    """What the task was to do when it started the run: how often it had been cleared, and the inputs."""
    is_lost: bool
    spans: list[Span]
    is_excused: bool = False
    """Whether a person was given the run to look at, or nothing was left that knows of it."""
    excused_in: int = 0
    """How many attempts there had been by then."""
    discarded_at: float | None = None
    """When its record was discarded while it was going: its own attempt or trigger stops it, beside the next one."""

    def excuse(self, attempts: int) -> None:
        """Note that a person has to look at it, or that nothing was left that knows of it."""
        self.is_excused, self.excused_in, self.discarded_at = True, attempts, None

    def span_at(self, at: float) -> Span:
        """Return the latest span that had begun by then."""
        return next((span for span in reversed(self.spans) if span.begun_at <= at), self.spans[0])


def broken_promises(history: Sequence[Entry]) -> list[Broken]:
    """Return the promises that a history breaks, in the order of time."""
    return sorted(_Reader(history).read())


@dataclass
class _Reader:
    history: Sequence[Entry]
    jobs: dict[int, Job] = field(default_factory=dict)
    archived: dict[int, float] = field(default_factory=dict)
    clears: int = 0
    attempts: int = 0
    inputs: str = ""
    ended: Entry = field(default_factory=dict)
    is_killed: bool = False
    wiped_at: float = -math.inf
    """When a clear discarded the records last."""

    def read(self) -> Iterator[Broken]:
        self._task = self.history[0]
        self._find_jobs()
        self._find_ends()
        self.clears, self.attempts, self.inputs, self.state = 0, 0, "", "scheduled"
        for entry in self.history:
            yield from getattr(self, f"_on_{entry['what']}", self._on_anything)(entry)
        if self.state not in ("success", "failed", "skipped"):
            yield Broken(entry["at"], "a task ends", f"it is {self.state}")
        yield from self._discarded_and_going()

    # What became of each run

    def _find_jobs(self) -> None:
        for entry in self.history:
            self._follow_intent(entry)
            if entry["what"] == "person" and entry["does"] == "archive":
                self.archived[entry["run_id"]] = entry["at"]
            if entry["what"] != "request" or entry["status"] != 200:
                continue
            verb = entry["path"].rpartition("/")[2]
            if verb == "restart":
                run_id = int(entry["path"].split("/")[-2])
                if run_id in self.jobs:
                    self.jobs[run_id].spans.append(Span(entry["at"]))
            elif entry["by"] == "task" and verb in ("start", "run-all"):
                for run_id, agent_id in _started(entry):
                    self.jobs[run_id] = Job(
                        run_id, agent_id, (self.clears, self.inputs), entry["lost"], [Span(entry["at"])]
                    )

    def _find_ends(self) -> None:
        for entry in self.history:
            if entry["what"] != "request":
                continue
            if entry["status"] == 200:
                for run in runs_in(entry["answer"]):
                    self._take_in(run, entry)
            elif entry["status"] == 409:
                self._take_in_refusal(entry)

    def _take_in_refusal(self, entry: Entry) -> None:
        """Take in that a run was over when it was to be stopped. The Failure from before a restart may hide it."""
        names = entry["path"].split("/")
        job = self.jobs.get(int(names[-2])) if names[-1] in ("stop", "kill") else None
        if job is not None and (span := job.span_at(entry["at"])).ended_at is None:
            span.ended_at = entry["at"]

    def _take_in(self, run: dict[str, Any], entry: Entry) -> None:
        job = self.jobs.get(run["id"])
        if job is None or run.get("status") not in OVER or not run.get("endTime"):
            return
        ended_at = datetime.fromisoformat(run["endTime"]).timestamp() - self._task["began"] - entry["clock"]
        span = job.span_at(entry["at"])
        if ended_at + TICK >= span.begun_at:  # otherwise the end before the restart is still shown
            span.ended_at, span.status = ended_at, run["status"]

    # What the task did, entry by entry

    def _on_anything(self, entry: Entry) -> Iterator[Broken]:
        self._follow_intent(entry)
        yield from ()

    def _follow_intent(self, entry: Entry) -> None:
        if entry["what"] == "person" and entry["does"] == "clear":
            self.clears += 1
        if entry["what"] == "attempt":
            self.inputs, self.is_killed = entry["inputs"], False
            self.attempts += 1

    def _on_request(self, entry: Entry) -> Iterator[Broken]:
        if entry["by"] != "task" or entry["status"] != 200:
            return
        verb, at = entry["path"].rpartition("/")[2], entry["at"]
        if verb in ("start", "run-all"):
            for run_id, _ in _started(entry):
                yield from self._second_job(self.jobs[run_id], at)
        elif verb == "restart":
            job = self.jobs.get(int(entry["path"].split("/")[-2]))
            if job is not None:
                yield from self._beside_another(job, at)
        elif verb == "status" and not entry["lost"]:
            # What was said of a run does not hold any more once the task itself has seen it going.
            job = self.jobs.get(entry["answer"]["id"])
            # A trigger that has not heard of the clear may still look at it.
            is_new = job is not None and self.attempts > job.excused_in
            if job is not None and is_new and entry["answer"]["status"] not in OVER:
                job.is_excused = False

    def _second_job(self, job: Job, at: float) -> Iterator[Broken]:
        if self.is_killed:
            yield Broken(at, "nothing is started after a kill", f"{job.id} is started")
        yield from self._beside_another(job, at)
        if not self._task["has_state_store"]:
            return  # before Airflow 3.3 nothing tells a retry of the runs before
        for other in self._others(job):
            span = other.span_at(at)
            if other.intent != job.intent or other.is_excused or not span.is_over_by(at) or span.begun_at >= at:
                continue
            if span.status in WELL:
                yield Broken(at, "what went well is not done again", f"run {other.id} went well, {job.id} is started")
            is_restartable = span.status == FAILURE and self.archived.get(other.id, at) >= at
            if is_restartable and self._task["retry_mode"] != "new":
                yield Broken(
                    at, "a Failure is restarted in place", f"run {other.id} is in Failure, {job.id} is started"
                )

    def _beside_another(self, job: Job, at: float) -> Iterator[Broken]:
        for other in self._others(job):
            is_being_stopped = other.discarded_at is not None and at <= other.discarded_at + self._patience
            if not other.is_excused and not is_being_stopped and other.span_at(at).covers(at):
                yield Broken(at, "one run at a time", f"run {other.id} goes on, {job.id} is started")

    @property
    def _patience(self) -> float:
        return STOP_SECONDS + (JOIN_SECONDS if self._task["on_clear"] == "join" else 0.0)

    def _on_fault(self, entry: Entry) -> Iterator[Broken]:
        names = entry["path"].split("/")
        job = self.jobs.get(int(names[-2])) if names[-1] in ("stop", "kill") else None
        if job is not None and job.discarded_at is not None:
            job.discarded_at = entry["at"]  # it could not be stopped until now
        yield from ()

    def _discarded_and_going(self) -> Iterator[Broken]:
        for job in self.jobs.values():
            if job.discarded_at is None or job.is_excused:
                continue
            latest = job.discarded_at + self._patience
            ended_at = job.span_at(job.discarded_at).ended_at
            if ended_at is None or ended_at > latest + TICK:
                yield Broken(latest, "a run whose record is discarded is stopped", f"run {job.id} goes on")

    def _others(self, job: Job) -> list[Job]:
        return [other for other in self.jobs.values() if other is not job and other.agent_id == job.agent_id]

    def _on_ended(self, entry: Entry) -> Iterator[Broken]:
        self.ended = entry
        if is_said(entry["said"]):
            self._excuse(entry["said"], entry["at"])
        if not self._task["has_state_store"] and entry["how"] == "died":
            self._excuse_all(entry["at"])
        if entry["how"] == "stuck":
            yield Broken(entry["at"], "an attempt ends", "it takes one step after another without an end")
        if entry["how"] == "returned":
            yield from self._returned(entry)

    def _excuse(self, said: str, at: float) -> None:
        named = {int(number) for number in re.findall(r"\d+", said)}
        going = [job for job in self.jobs.values() if job.span_at(at).begun_at <= at]
        unnamed = not any(job.id in named for job in going)
        for job in going:
            if job.id in named or job.is_lost or (unnamed and job.agent_id in named) or "space" in said.lower():
                job.excuse(self.attempts)

    def _excuse_all(self, at: float) -> None:
        for job in self.jobs.values():
            span = job.span_at(at)
            if span.begun_at <= at and not span.is_over_by(at):
                job.excuse(self.attempts)

    def _returned(self, entry: Entry) -> Iterator[Broken]:
        at, result = entry["at"], entry["result"]
        for run_id in result if isinstance(result, list) else [result]:
            job = self.jobs.get(run_id)
            if job is None:
                continue  # another one's run, which was the only candidate for a lost start
            span = job.span_at(at)
            if span.status not in WELL or span.covers(at):
                yield Broken(at, "success means a good run", f"run {run_id} is {span.status}")
            if not self._task["has_state_store"]:
                continue  # before Airflow 3.3 nothing says when and why a run was started that is found again
            if self.wiped_at - CLOCK_SECONDS - TICK <= job.spans[0].begun_at <= self.wiped_at:
                continue  # nothing was left that knows of it, and it looks like one that was started after the clear
            if job.intent[1] != self.inputs:
                yield Broken(at, "success means a run of these inputs", f"run {run_id} had others")
            if self._task["on_clear"] == "rerun" and job.intent[0] != self.clears:
                yield Broken(at, "a cleared task starts over", f"run {run_id} is from before the clear")

    def _on_state(self, entry: Entry) -> Iterator[Broken]:
        self.state = entry["state"]
        if entry.get("said") and is_said(entry["said"]):
            self._excuse(entry["said"], entry["at"])
        if self.state in ("success", "failed", "skipped"):
            yield from self._left(entry["at"])

    def _left(self, at: float) -> Iterator[Broken]:
        died = self.ended.get("how") == "died"
        for job in self.jobs.values():
            span = job.span_at(at)
            if died or job.is_excused or span.begun_at >= at:
                continue
            if span.ended_at is None or span.ended_at > at + STOP_SECONDS + TICK:
                yield Broken(at, "no run is left", f"run {job.id} goes on after the task is {self.state}")

    def _on_person(self, entry: Entry) -> Iterator[Broken]:
        # Before Airflow 3.3 a trigger does not hear that its task was marked or cleared.
        is_unheard = self.state == "deferred" and not self._task["has_state_store"]
        self.is_killed = self.is_killed or entry["does"] == "kill"
        if entry["does"] == "wipe" or (entry["does"] in ("mark", "clear") and is_unheard):
            self._excuse_all(entry["at"])
        if entry.get("wipes"):
            self.wiped_at = entry["at"]
        if entry["does"] == "clear" and entry.get("wipes") and not is_unheard:
            for job in self.jobs.values():
                if job.span_at(entry["at"]).covers(entry["at"]):
                    job.discarded_at = entry["at"]
        yield from self._on_anything(entry)


def is_said(text: str) -> bool:
    return MAY_BE_RUNNING in text


def _started(entry: Entry) -> Iterator[tuple[int, int]]:
    answer = entry["answer"]
    if entry["path"].endswith("run-all"):
        for result in answer["started"]:
            yield result["runId"], result["agentId"]
    else:
        yield answer["id"], answer["configId"]


def runs_in(answer: Any) -> Iterator[dict[str, Any]]:
    """Yield the runs that an answer tells of."""
    if isinstance(answer, list):
        for item in answer:
            yield from runs_in(item)
    elif isinstance(answer, dict) and {"id", "configId", "status"} <= answer.keys():
        yield answer
