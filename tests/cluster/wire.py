"""What was recorded on the wire in a storm, as histories that the checker of the simulation reads.

Each job has an agent of its own, so a history is what was asked of this agent, with what Airflow's database says of the
tries of the job's task, what the task's log says of runs that may go on, and what people did.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.cluster.people import TASK, Click, Lifetime, Placed
from tests.simulation import promises
from tests.simulation.history import Entry
from tests.simulation.promises import Broken, is_said
from tests.system.harness import DagRun

BY = {"default": "task", "plain": "task", "dashboard user": "person", "census": "census"}
"""Who asks with a key."""
TRIES = """
    SELECT dag_id, run_id, try_number, max_tries, start_date, end_date, state
    FROM task_instance_history WHERE task_id = %s
    UNION ALL SELECT dag_id, run_id, try_number, max_tries, start_date, end_date, state
    FROM task_instance WHERE task_id = %s
    ORDER BY try_number
"""
STOPS = ("stop", "kill")
LIFE_AFTER_KILL = 5.0
"""How many seconds Airflow gives the process of a task that it kills. A later response does not reach it."""
PROMISED = {"has_state_store": True, "on_clear": "rerun", "retry_mode": "restart_or_new"}
"""What the tasks of a storm are told, as far as it decides what is promised."""


@dataclass(frozen=True, kw_only=True)
class Try:
    """One try of a job's task, as Airflow has it.

    :param max_tries: Airflow increases it when it begins a try because the task was cleared.
    :param said: what its log says of runs that may go on.
    """

    number: int
    max_tries: int
    started: datetime | None
    ended: datetime | None
    state: str | None
    said: str = ""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the checker says of a job.

    :param requests: how many of them it has looked at.
    :param story: the tries of its task, and what people did, to understand by what a promise is broken.
    """

    placed: Placed
    requests: int
    story: str
    broken: Sequence[Broken]


def read_requests(lines: Iterable[str]) -> dict[int, list[Entry]]:
    """Return the requests of a record in the order of time, by agent."""
    recorded: dict[str, dict[str, Any]] = {}
    for line in lines:
        fields = json.loads(line)
        recorded.setdefault(fields["id"], {"told": None, "same": False}).update(fields)
    found: dict[int, list[Entry]] = defaultdict(list)
    for fields in sorted(recorded.values(), key=lambda fields: fields.get("acted_at", fields["at"])):
        names = fields["path"].split("/")
        if len(names) > 2 and names[1] == "agent" and names[2].isdecimal() and fields["by"] in BY:
            found[int(names[2])].append(_entry(fields))
    return found


def _entry(fields: Mapping[str, Any]) -> Entry:
    status = fields.get("status", fields["told"])
    return {
        "at": fields.get("acted_at", fields["at"]),
        "what": "request",
        "path": fields["path"],
        "body": fields.get("body"),
        "by": BY[fields["by"]],
        "status": 200 if status is not None and 200 <= status < 300 else status,
        "answer": _aware(fields.get("answer")),
        "clock": 0.0,
        "lost": not fields["same"],
        "late": fields.get("acted_at", fields["at"]) - fields["at"] > LIFE_AFTER_KILL,
    }


def _aware(answer: Any) -> Any:
    """Return a response whose times say that they are UTC."""
    if isinstance(answer, list):
        return [_aware(item) for item in answer]
    if not isinstance(answer, dict):
        return answer
    times = {
        name: datetime.fromisoformat(answer[name]).replace(tzinfo=UTC).isoformat()
        for name in ("created", "startTime", "endTime")
        if isinstance(answer.get(name), str) and datetime.fromisoformat(answer[name]).tzinfo is None
    }
    return {**answer, **times}


def said_in(folder: Path, run: DagRun, number: int) -> str:
    """Return what the logs of a try, its trigger's too, say of runs that may go on."""
    place = folder / "logs" / f"dag_id={run.dag_id}" / f"run_id={run.run_id}" / f"task_id={TASK}"
    logs = sorted(place.glob(f"attempt={number}.log*"))
    return " ".join(line for log in logs for line in log.read_text(errors="replace").splitlines() if is_said(line))


def history_of(
    requests: Sequence[Entry],
    tries: Sequence[Try],
    clicks: Iterable[Click],
    result: int | None,
    lifetimes: Mapping[int, Lifetime],
) -> list[Entry]:
    """Return the history of a job.

    :param requests: what was asked of its agent.
    :param tries: the tries of its task; the last one is as the task is now.
    :param clicks: what people did to it.
    :param result: the run that its task returned.
    :param lifetimes: see :meth:`~.people.Click.is_heard`.
    """
    entries = [*requests]
    for click in clicks:
        entries += _click(click, requests, tries, lifetimes)
    entries += _tries(tries, result)
    began = min(entry["at"] for entry in entries)
    task = {"at": began, "what": "task", "began": began, **PROMISED}
    # A try ends after what it has asked and what a person did, and its state follows: what is as old keeps its place.
    return [{**entry, "at": entry["at"] - began} for entry in [task, *sorted(entries, key=lambda entry: entry["at"])]]


def _tries(tries: Sequence[Try], result: int | None) -> Iterator[Entry]:
    for place, each in enumerate(tries):
        if each.started is None:
            continue
        at = each.started.timestamp()
        yield {"at": at, "what": "attempt", "number": each.number, "resumed": False, "inputs": ""}
        is_last = place == len(tries) - 1
        following = [one.started for one in tries[place + 1 :] if one.started is not None]
        end = each.ended or (following[0] if following else None)
        if end is None:
            continue
        at = max(end.timestamp(), at)
        returned = is_last and each.state == "success" and result is not None
        how = {"how": "returned", "result": result} if returned else {"how": "raised", "result": None}
        yield {"at": at, "what": "ended", "error": None, "said": each.said, **how}
        if is_last:
            yield {"at": at, "what": "state", "state": each.state, "said": each.said}


def _click(
    click: Click, requests: Sequence[Entry], tries: Sequence[Try], lifetimes: Mapping[int, Lifetime]
) -> Iterator[Entry]:
    at = click.asked.timestamp()
    if click.deed == "archive":
        started = [entry["answer"]["id"] for entry in requests if _is_start(entry) and entry["at"] <= at]
        if started:
            yield {"at": at, "what": "person", "does": "archive", "run_id": started[-1]}
    elif click.deed == "clear" and _is_followed_by_a_retry(click, tries):
        pass  # the task's worker died before it had heard of the clear: nothing tells the next attempt of it
    elif click.deed in ("clear", "clear and wipe"):
        yield {"at": at, "what": "person", "does": "clear", "wipes": click.deed != "clear"}
    elif click.deed in ("mark failed", "mark success"):
        yield {"at": at, "what": "person", "does": "mark"}
    gives_up = click.deed in ("clear and wipe", "mark failed", "mark success")
    if gives_up and (not click.is_heard(lifetimes) or _was_refused(requests, at)):
        # Nothing is left that knows of the run and could stop it.
        yield {"at": at, "what": "person", "does": "wipe"}


def _is_followed_by_a_retry(click: Click, tries: Sequence[Try]) -> bool:
    """Return whether Airflow began the try after a click as it does after a failure, although the task was cleared."""
    begun = [(each.started, each.max_tries) for each in tries if each.started is not None]
    before = [max_tries for started, max_tries in begun if started <= click.asked]
    after = [max_tries for started, max_tries in begun if started > click.asked]
    return bool(before and after) and before[-1] == after[0]


def _is_start(entry: Entry) -> bool:
    return bool(entry["by"] == "task" and entry["status"] == 200 and entry["path"].endswith("/start"))


def _was_refused(requests: Sequence[Entry], at: float) -> bool:
    """Return whether the task asked to stop its run from then on, and the service never listened.

    While the response to its start is lost, the task first has to find the run in the list of its agent's runs.
    """
    own = [entry for entry in requests if entry["by"] == "task"]
    asked = [entry["status"] == 200 for entry in own if entry["at"] >= at and entry["path"].rpartition("/")[2] in STOPS]
    started = next((entry for entry in reversed(own) if _is_start(entry)), None)
    if started is not None and started["lost"]:
        looks = [entry for entry in own if entry["at"] >= started["at"] and entry["path"].endswith("/runs")]
        asked += [look["status"] == 200 and not look["lost"] and not look["late"] for look in looks]
    return bool(asked) and not any(asked)


def judge(
    placed: Sequence[Placed],
    lines: Iterable[str],
    tries: Iterable[Mapping[str, Any]],
    results: Mapping[tuple[str, str], int | None],
    clicks: Sequence[Click],
    lifetimes: Mapping[int, Lifetime],
    airflow_home: Path,
) -> list[Verdict]:
    """Let the checker of the simulation decide about each job of a storm.

    :param lines: those of the record.
    :param tries: rows of :data:`TRIES`.
    :param results: what tasks returned, by DAG and run.
    """
    requests = read_requests(lines)
    rows: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in tries:
        rows[row["dag_id"], row["run_id"]].append(row)
    verdicts = []
    for job in placed:
        place = (job.run.dag_id, job.run.run_id)
        own = [
            Try(
                number=row["try_number"],
                max_tries=row["max_tries"],
                started=row["start_date"],
                ended=row["end_date"],
                state=row["state"],
                said=said_in(airflow_home, job.run, row["try_number"]),
            )
            for row in rows[place]
        ]
        asked = requests.get(job.agent_id, [])
        deeds = [click for click in clicks if click.placed == job]
        history = history_of(asked, own, deeds, results.get(place), lifetimes)
        broken = promises.broken_promises(history)
        verdicts.append(Verdict(placed=job, requests=len(asked), story=_story(own, deeds), broken=broken))
    return verdicts


def _story(tries: Iterable[Try], clicks: Iterable[Click]) -> str:
    begun = [
        f"{each.number} of {each.max_tries + 1} {each.started:%H:%M:%S} {each.state}"
        for each in tries
        if each.started is not None
    ]
    deeds = [f"{click.deed} {click.asked:%H:%M:%S}" for click in clicks]
    return f"[tries: {', '.join(begun)}; people: {', '.join(deeds)}]"


def describe(verdicts: Sequence[Verdict], population: str) -> str:
    """Return what the checker says of a population, a line for each broken promise after the first one."""
    own = [verdict for verdict in verdicts if verdict.placed.population == population]
    broken = [(verdict, one) for verdict in own for one in verdict.broken]
    requests = sum(verdict.requests for verdict in own)
    lines = [f"{population}: {len(own)} histories, {requests} requests on the wire, {len(broken)} broken promises"]
    lines += [
        f"{population} {verdict.placed.job.name}: at {one.at:.0f} s: {one.promise}: {one.text} {verdict.story}"
        for verdict, one in broken
    ]
    return "\n".join(lines)
