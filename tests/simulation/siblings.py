"""Whether the history of mapped tasks that run one agent keeps what ``docs/life-cycle.md`` promises.

Each of them has to keep the promises of a task of its own. And each run is one task's: a run that one of them started
is not stopped, restarted or returned by another one, as long as its own knows of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.simulation import promises
from tests.simulation.history import Entry
from tests.simulation.promises import Broken

CHANGES = ("stop", "kill", "restart")


def broken_promises(history: Sequence[Entry]) -> list[Broken]:
    """Return the promises that a history breaks, in the order of time."""
    found = list(_shared(history))
    for index in range(history[0]["siblings"]):
        found += promises.broken_promises(list(_of_one(history, index)))
    return sorted(found)


def _of_one(history: Sequence[Entry], index: int) -> Iterator[Entry]:
    """Return what concerns one of the tasks. What the others ask is not its own, but tells of its runs as well."""
    for entry in history:
        is_own = entry.get("task", index) == index
        if is_own:
            yield entry
        elif entry["what"] == "request":
            yield {**entry, "by": "sibling"} if entry["by"] == "task" else entry


def _shared(history: Sequence[Entry]) -> Iterator[Broken]:
    owners: dict[int, int] = {}
    latest: dict[int | None, int] = {}
    unknown: set[int] = set()
    ambiguous: set[int | None] = set()
    silence = _Silence()
    for entry in history:
        task = entry.get("task")
        silence.take_in(entry)
        if _forgets(history[0], entry):
            owners = {run_id: owner for run_id, owner in owners.items() if owner != task}
        if entry["what"] == "ended":
            (ambiguous.add if entry.get("error") == "AgentRunStartAmbiguous" else ambiguous.discard)(task)
            if entry["how"] == "died" and task in latest:
                unknown.add(latest[task])
        if entry["what"] == "attempt" and task in ambiguous:
            # A person was given the run to look at, and then told the task to start another one.
            owners = {run_id: owner for run_id, owner in owners.items() if owner != task or run_id not in unknown}
        for run_id in _touched(entry):
            owner = owners.get(run_id, task)
            if owner != task and not silence.covers(owner):
                what = entry["path"] if entry["what"] == "request" else "returned"
                yield Broken(entry["at"], "a run is one task's", f"run {run_id} of task {owner}: {what} by task {task}")
        if _is_start(entry):
            latest[task] = entry["answer"]["id"]
            owners[latest[task]] = entry["task"]
            unknown |= {latest[task]} if entry["lost"] else set()


class _Silence:
    """Which tasks looked as if they had not begun: an attempt died before it claimed again what they have, and they
    waited in the queue. A sibling that looked for a lost run then may find that out only later."""

    def __init__(self) -> None:
        self._asking: set[int | None] = set()
        self._died: set[int | None] = set()
        self._covered: set[int | None] = set()

    def take_in(self, entry: Entry) -> None:
        task = entry.get("task")
        if entry["what"] == "state" and entry["state"] == "scheduled" and task in self._died:
            self._covered.add(task)
        if entry["what"] == "request" and entry["by"] == "task":
            self._asking.add(task)
        if entry["what"] == "ended":
            (self._died.add if entry["how"] == "died" and task not in self._asking else self._died.discard)(task)
            self._asking.discard(task)

    def covers(self, task: int | None) -> bool:
        return task in self._covered


def _forgets(world: Entry, entry: Entry) -> bool:
    """Return whether a task does not know its runs any more."""
    if entry["what"] == "person":
        return bool(entry["does"] == "wipe" or entry.get("wipes"))
    # Before Airflow 3.3 an attempt knows nothing of those before.
    return entry["what"] == "attempt" and not entry["resumed"] and not world["has_state_store"]


def _is_start(entry: Entry) -> bool:
    is_answered = entry["what"] == "request" and entry["by"] == "task" and entry["status"] == 200
    return bool(is_answered and entry["path"].endswith("/start"))


def _touched(entry: Entry) -> list[int]:
    """Return the runs that a task treats as its own."""
    if entry["what"] == "ended" and entry["how"] == "returned":
        return [entry["result"]]
    if entry["what"] == "request" and entry["by"] == "task" and entry["path"].rpartition("/")[2] in CHANGES:
        return [int(entry["path"].split("/")[-2])]
    return []
