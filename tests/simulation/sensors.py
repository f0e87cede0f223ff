"""Whether the history of a sensor keeps what ``docs/life-cycle.md`` promises of it.

What became of a run is what the census shows, by the service's own times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tests.simulation.history import Entry
from tests.simulation.promises import FAILED, FAILURE, OVER, SKIPPED, STOPPED, TICK, WELL, Broken, runs_in

STATUSES_OF = {
    "SensedAgentRunFailure": FAILURE,
    "SensedAgentRunFailed": FAILED,
    "AgentRunStopped": STOPPED,
    "SequentumSkipped": SKIPPED,
}
"""As what the run has ended when the sensor raises this."""
SOFTENED = {*STATUSES_OF, "AirflowSensorTimeout"} - {"SequentumSkipped"}
SLACK = 130.0
"""Seconds after its timeout and one interval by which a sensor has ended: the deferral's backstop is two minutes."""

LOOKS = ("status", "runs", "diagnostics", "all", "credits")
"""The requests that change nothing."""


def broken_promises(history: Sequence[Entry]) -> list[Broken]:
    """Return the promises that a history breaks, in the order of time."""
    return sorted(_Reader(history).read())


@dataclass
class _Reader:
    history: Sequence[Entry]
    created: dict[int, float] = field(default_factory=dict)
    """When each run was created."""
    seen: dict[int, int] = field(default_factory=dict)
    """The status in which the sensor saw a run last."""
    state: str = "scheduled"
    entered_at: float = 0.0

    def read(self) -> Iterator[Broken]:
        self.sensor = self.history[0]
        for entry in self.history:
            for run in _runs_of(entry):
                created = datetime.fromisoformat(run["created"]).timestamp()
                self.created[run["id"]] = created - self.sensor["began"] - entry["clock"]
        for entry in self.history:
            yield from getattr(self, f"_on_{entry['what']}", lambda _: ())(entry)
        if self.state not in ("success", "failed", "skipped"):
            yield Broken(entry["at"], "a task ends", f"it is {self.state}")

    def _on_request(self, entry: Entry) -> Iterator[Broken]:
        if entry["by"] != "task":
            return
        if entry["path"].rpartition("/")[2] not in LOOKS:
            yield Broken(entry["at"], "a sensor only watches", entry["path"])
        if not entry["lost"]:
            self.seen |= {run["id"]: run["status"] for run in _runs_of(entry)}

    def _on_attempt(self, entry: Entry) -> Iterator[Broken]:
        self.is_resumed = entry["resumed"]
        if not self.is_resumed:
            self.entered_at = entry["at"]
            self.seen = {}
        yield from ()

    def _on_state(self, entry: Entry) -> Iterator[Broken]:
        self.state = entry["state"]
        yield from ()

    def _on_ended(self, entry: Entry) -> Iterator[Broken]:
        at, error = entry["at"], entry.get("error")
        if entry["how"] == "stuck":
            yield Broken(at, "an attempt ends", "it takes one step after another without an end")
        if entry["how"] == "returned":
            yield from self._returned(entry)
        if error in STATUSES_OF:
            yield from self._failed(at, error)
        if error == "AirflowSensorTimeout":
            yield from self._timed_out(at)
        if error == "TaskDeferralError":
            yield Broken(at, "a broken deferral is no end", entry["said"])
        latest = self.entered_at + self.sensor["timeout"] + self.sensor["poke_interval"] + SLACK
        if at > latest and error == "AirflowSensorTimeout" and not self.is_resumed:
            yield Broken(at, "a sensor keeps its timeout", f"it has waited since {self.entered_at}")
        if self.sensor["soft_fail"] and error in SOFTENED:
            yield Broken(at, "a soft sensor skips", f"it raises {error}")

    def _returned(self, entry: Entry) -> Iterator[Broken]:
        run_id: int = entry["result"]
        if self.seen.get(run_id) not in WELL:
            yield Broken(entry["at"], "success means a good run", f"run {run_id} was seen as {self.seen.get(run_id)}")
        if (given := self.sensor["run_id"]) is not None:
            if run_id != given:
                yield Broken(entry["at"], "a sensor waits for its run", f"{run_id} is returned and not {given}")
            return
        since = datetime.fromisoformat(self.sensor["since"]).timestamp() - self.sensor["began"]
        created = self.created[run_id]
        earlier = [run for run, at in self.created.items() if since + TICK <= at < created - TICK]
        if created < since - TICK or earlier:
            yield Broken(
                entry["at"],
                "a sensor waits for the first run",
                f"{run_id} of {created} is returned; {earlier} come first",
            )

    def _failed(self, at: float, error: str) -> Iterator[Broken]:
        wanted = STATUSES_OF[error]
        if wanted not in self.seen.values():
            yield Broken(at, "a sensor fails as its run does", f"{error}, and it saw {self.seen}")
        if wanted == FAILURE and self.sensor["wait_for_restart"]:
            yield Broken(at, "a Failure is waited through", f"{error}")

    def _timed_out(self, at: float) -> Iterator[Broken]:
        if at < self.entered_at + self.sensor["timeout"]:
            yield Broken(at, "a timeout is not early", f"it has waited since {self.entered_at}")
        ends = OVER - {FAILURE} if self.sensor["wait_for_restart"] else OVER
        given = self.sensor["run_id"]
        if given is not None and self.seen.get(given) in ends:
            yield Broken(at, "an end that was seen is no timeout", f"run {given} is {self.seen[given]}")


def _runs_of(entry: Entry) -> list[dict[str, Any]]:
    """Return the runs that an answer tells of."""
    return list(runs_in(entry["answer"])) if entry["what"] == "request" else []
