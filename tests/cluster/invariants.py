"""
What must hold after any storm. Each check is a pure function from what is known of a job to what is wrong with it.

A logical attempt lasts from a task's first try, or from a person's clearing it, to its end. Retries belong to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise, zip_longest

from tests.cluster.facts import ENDED_TASK, Case, Intervention, RunFact

GRACE = timedelta(seconds=45)
"""How long a run may outlive its task: a stop is sent, takes effect, or is followed by a kill."""
MARKS = ("mark failed", "mark success")
WIPE = "clear and wipe"
CLEARS = ("clear", WIPE)


@dataclass(frozen=True)
class Violation:
    """
    Something that must not be.

    :param kind: which invariant.
    :param case: the job.
    :param what: what is wrong.
    """

    kind: str
    case: Case
    what: str


def duplicates(case: Case) -> list[str]:
    """A run was started although the one before was going or had succeeded, and the task had not been cleared."""
    return [
        f"run {later.run_id} was started beside run {earlier.run_id} ({earlier.status})"
        for earlier, later in pairwise(case.runs)
        if (earlier.is_going_at(later.started) or earlier.succeeded) and not case.did(*CLEARS, since=earlier.started)
    ]


def lost(case: Case) -> list[str]:
    """A run succeeded, its task did not return it, and no person had a hand in that."""
    return [
        f"run {run.run_id} succeeded and its task did not return it"
        for run in case.runs
        if run.succeeded and run.run_id != case.task.result and not case.did(*CLEARS, *MARKS, since=run.started)
    ]


def leaked(case: Case, now: datetime) -> list[str]:
    """A run went on although its task had ended, or had started another run."""
    found = []
    for run, successor in zip_longest(case.runs, case.runs[1:]):
        needless_since = case.task.ended if successor is None else successor.started
        ended = run.ended or now
        if needless_since is not None and ended > needless_since + GRACE and not _is_excused(case, run):
            seconds = (ended - needless_since).total_seconds()
            going = "" if run.ended else " and still goes on"
            found.append(f"run {run.run_id} went on for {seconds:.0f} s without a task that waited for it{going}")
    return found


def unheard(case: Case) -> list[str]:
    """A person gave the run up while the process that had its task was dead: none could stop it."""
    return [f"no process was there to stop run {run.run_id}" for run in case.runs if _ended_unheard(case, run)]


def refused_stops(case: Case) -> list[str]:
    """A person gave the run up, and the service refused every request to stop it, or to find it after a lost start.

    Airflow gives the process of a marked or cleared task about five seconds. A service that does not listen for so long
    cannot be stopped.
    """
    refused = [run for run in case.runs if _ended_unanswered(case, run)]
    return [f"{run.stops_refused} requests to find or stop run {run.run_id} were refused" for run in refused]


def _is_excused(case: Case, run: RunFact) -> bool:
    return _ended_unheard(case, run) or _ended_unanswered(case, run)


def _ended_unanswered(case: Case, run: RunFact) -> bool:
    return bool(_given_up_by(case, run)) and run.stops_refused > 0 and run.stops_taken == 0


def _ended_unheard(case: Case, run: RunFact) -> bool:
    deeds = _given_up_by(case, run)
    # Who hears of the next one has not known of the run since the first.
    return bool(deeds) and not deeds[0].heard


def _given_up_by(case: Case, run: RunFact) -> list[Intervention]:
    """Return what people did after which no attempt of the task knows of the run: a mark, or a clear that wiped.

    A run that ended in time all the same, by itself for example, was not left going.
    """
    is_last = run is case.runs[-1]
    return [
        deed
        for deed in case.interventions
        if (deed.kind == WIPE or (is_last and deed.kind in MARKS))
        and run.started <= deed.done
        and run.is_going_at(deed.done + GRACE)
    ]


def wrong_state(case: Case) -> list[str]:
    """The task has not ended, or its state is not what became of its run."""
    task, last = case.task, case.runs[-1] if case.runs else None
    if task.state not in ENDED_TASK:
        return [f"the task has not ended, it is {task.state}"]
    if case.did(*MARKS):
        return []
    if task.state == "success":
        returned = next((run for run in case.runs if run.run_id == task.result), None)
        if returned is None:
            return [f"the task succeeded with {task.result}, which is no run of it"]
        if not returned.succeeded:
            return [f"the task succeeded, and its run {returned.run_id} is {returned.status}"]
    if task.state == "failed" and last is not None and last.succeeded:
        return [f"the task failed, and its run {last.run_id} is {last.status}"]
    return []


def wrong_landing(case: Case, rows: int) -> list[str]:
    """The task succeeded and its files were not landed whole."""
    if case.landing is None or case.task.state != "success" or case.did(*MARKS):
        return []
    if case.landing != "success":
        return [f"the landing is {case.landing}"]
    return [] if case.landed_rows == rows else [f"{case.landed_rows} rows were landed and not {rows}"]


def given_up(case: Case) -> list[str]:
    """The task failed although no person ended it or its run: the storm was stronger."""
    if case.task.state != "failed" or case.did("stop", *MARKS):
        return []
    return [f"the task failed in try {case.task.tries}; runs: {[run.status for run in case.runs]}"]


def violations(cases: Iterable[Case], now: datetime, rows: int) -> list[Violation]:
    """
    Return everything that is wrong.

    :param cases: what is known.
    :param now: when the ledger was read.
    :param rows: how many rows each run delivers.
    """
    checks: dict[str, Callable[[Case], Sequence[str]]] = {
        "duplicate runs": duplicates,
        "lost runs": lost,
        "leaked runs": lambda case: leaked(case, now),
        "wrong states": lambda case: [*wrong_state(case), *wrong_landing(case, rows)],
        "given up": given_up,
    }
    return [Violation(kind, case, what) for case in cases for kind, check in checks.items() for what in check(case)]
