"""Whether the history of an Agent Builder session keeps what ``docs/agent-builder.md`` promises.

A session's answers carry no time of its end. It has ended when an answer shows it, when a request that ends it was
accepted, or when a person ended it, whichever is in the history first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.history import Entry
from tests.simulation.promises import Broken, is_said

OVER = ("completed", "cancelled", "error")

ID_IS_LOST = "its id is unknown"
"""What the task says of a session whose start had no response, in which case another one may be started."""


@dataclass
class Session:
    """A session that the task started, or was given."""

    name: str
    intent: tuple[int, str]
    is_lost: bool = False
    status: str = "processing"
    is_excused: bool = False
    messages: list[str] = field(default_factory=list)
    agent_id: Any = None
    forgotten_at: float = -math.inf
    """When it came to be that nothing knows any more what was sent to it."""

    def forget(self, at: float) -> None:
        """Note that what was sent to it so far is not known any more."""
        self.messages.clear()
        self.forgotten_at = at

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.status in OVER


def broken_promises(history: Sequence[Entry]) -> list[Broken]:
    """Return the promises that a history breaks, in the order of time."""
    return sorted(_Reader(history).read())


@dataclass
class _Reader:
    history: Sequence[Entry]
    sessions: dict[str, Session] = field(default_factory=dict)
    clears: int = 0
    inputs: str = ""
    state: str = "scheduled"
    ended: Entry = field(default_factory=dict)
    doubled: list[Broken] = field(default_factory=list)
    """Sessions that were started although one had gone well, unless the attempt says that it lost its id."""

    def read(self) -> Iterator[Broken]:
        self.task = self.history[0]
        if (given := self.task["session_id"]) is not None:
            self.sessions[given] = Session(given, (0, ""))
        for entry in self.history:
            yield from getattr(self, f"_on_{entry['what']}", lambda _: ())(entry)
        if self.state not in ("success", "failed", "skipped"):
            yield Broken(entry["at"], "a task ends", f"it is {self.state}")

    # The service

    def _on_request(self, entry: Entry) -> Iterator[Broken]:
        if entry["status"] != 200:
            return
        names: list[str] = entry["path"].split("/")
        name, verb = names[-2], names[-1]
        if verb == "start":
            yield from self._started(entry)
        elif name in self.sessions:
            yield from getattr(self, f"_{verb}", lambda *_: ())(self.sessions[name], entry)

    def _started(self, entry: Entry) -> Iterator[Broken]:
        new = Session(entry["answer"]["sessionId"], (self.clears, self.inputs), entry["lost"])
        for other in self.sessions.values():
            if other.is_excused:
                continue
            if other.is_lost:
                other.is_excused = True  # a session cannot be looked for; that it may be running is said
            elif not other.is_over:
                yield Broken(entry["at"], "one session at a time", f"{other.name} goes on, {new.name} is started")
            elif other.status == "completed" and other.intent == new.intent and self.task["has_state_store"]:
                text = f"{other.name} went well, {new.name} is started"
                self.doubled.append(Broken(entry["at"], "what went well is not done again", text))
        self.sessions[new.name] = new

    def _status(self, session: Session, entry: Entry) -> Iterator[Broken]:
        session.status = entry["answer"]["status"]
        session.agent_id = entry["answer"].get("agentId") or entry["answer"].get("configId") or session.agent_id
        yield from ()

    def _followup(self, session: Session, entry: Entry) -> Iterator[Broken]:
        sent_at = entry["sent"] if "sent" in entry else entry["at"]
        if sent_at < session.forgotten_at:
            return  # by an attempt that is over
        message = entry["body"]["message"]
        if "sent" in entry and message in session.messages[-1:]:
            return  # it was sent again, for it had shown no effect, and both were taken late
        session.messages.append(message)
        wanted = self.task["followups"][: len(session.messages)]
        if session.messages != wanted:
            yield Broken(entry["at"], "each message is sent once, in order", f"{session.name}: {session.messages}")

    def _finish(self, session: Session, entry: Entry) -> Iterator[Broken]:
        session.status, session.agent_id = "completed", entry["answer"]["agentId"]
        yield from ()

    def _cancel(self, session: Session, entry: Entry) -> Iterator[Broken]:
        session.status = session.status if entry["ignored"] else "cancelled"
        yield from ()

    _stop = _cancel

    # The task

    def _on_attempt(self, entry: Entry) -> Iterator[Broken]:
        self.inputs = entry["inputs"]
        if not (entry["resumed"] or self.task["has_state_store"]):
            # Before Airflow 3.3 an attempt does not know what was sent by one whose session could not be cancelled.
            for session in self.sessions.values():
                if session.is_excused:
                    session.forget(entry["at"])
        yield from ()

    def _on_ended(self, entry: Entry) -> Iterator[Broken]:
        self.ended = entry
        self._take_in_what_is_said(entry)
        if ID_IS_LOST not in entry["said"]:
            yield from self.doubled
        self.doubled.clear()
        if entry["how"] == "died" and not self.task["has_state_store"]:
            self._excuse_all()
        if entry["how"] == "stuck":
            yield Broken(entry["at"], "an attempt ends", "it takes one step after another without an end")
        if entry["how"] == "returned":
            yield from self._returned(entry)

    def _returned(self, entry: Entry) -> Iterator[Broken]:
        built = [one for one in self.sessions.values() if entry["result"] in (None, one.agent_id) and not one.is_lost]
        session = max(built, key=lambda one: one.intent, default=None)
        if session is None:
            yield Broken(entry["at"], "success means an agent", f"no session has saved agent {entry['result']}")
            return
        if session.messages != self.task["followups"]:
            yield Broken(entry["at"], "success means everything was said", f"{session.name}: {session.messages}")
        if entry["result"] is None or self.task["single_shot"]:
            session.is_excused = True  # left to another task; or it completes by itself once its agent is saved

    def _on_state(self, entry: Entry) -> Iterator[Broken]:
        self.state = entry["state"]
        self._take_in_what_is_said(entry)
        if self.state in ("success", "failed", "skipped") and self.ended.get("how") != "died":
            for session in self.sessions.values():
                if not (session.is_over or session.is_excused or session.is_lost):
                    yield Broken(entry["at"], "no session is left", f"{session.name} goes on after {self.state}")

    def _on_person(self, entry: Entry) -> Iterator[Broken]:
        does = entry["does"]
        if does == "clear":
            self.clears += 1
            if entry["wipes"] and (given := self.task["session_id"]) is not None:
                self.sessions[given].forget(entry["at"])  # it is left to the new attempt, which does not know of them
        if does == "end":
            self.sessions[entry["session"]].status = entry["status"]
        is_unheard = self.state == "deferred" and not self.task["has_state_store"]
        if does == "wipe" or (does in ("mark", "clear") and is_unheard):
            self._excuse_all()
            for session in self.sessions.values():
                session.forget(entry["at"])  # what was said to a session that goes on is not known any more
        yield from ()

    def _take_in_what_is_said(self, entry: Entry) -> None:
        said = entry.get("said", "")
        if not is_said(said):
            return
        named = [one for one in self.sessions.values() if one.name in said.split() or f"{one.name} " in said]
        for session in named or self.sessions.values():
            session.is_excused = session.is_excused or not session.is_over

    def _excuse_all(self) -> None:
        for session in self.sessions.values():
            session.is_excused = session.is_excused or not session.is_over
