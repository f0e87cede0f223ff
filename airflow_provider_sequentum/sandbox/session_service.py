"""The agent builder's verbs, for both eras of the service (API pages "agent builder")."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from typing import Literal
from urllib.parse import urlsplit

from airflow_provider_sequentum.sandbox.builder_scripts import (
    Scene,
    ScriptName,
    Turn,
    first_turn,
    following_turn,
    marked_script,
)
from airflow_provider_sequentum.sandbox.data_sets import DEFAULT, choose
from airflow_provider_sequentum.sandbox.engine import Engine
from airflow_provider_sequentum.sandbox.ledger import EffectKind
from airflow_provider_sequentum.sandbox.problems import Problem, not_found
from airflow_provider_sequentum.sandbox.sessions import ENDED, Session, SessionState
from airflow_provider_sequentum.sandbox.settings import BuilderEra

# A single-shot build is saved when this share of the turn is over; the rest is the time between ready and completed.
_SAVED_SHARE = 0.7


class RefusedByBuilder(Exception):
    """What the stateful builder answers with HTTP 200, ``success: false`` and this text."""


class SessionService:
    """The verbs of the agent builder.

    :param engine: the sandbox's engine; agents that are saved become its agents.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.next_scripts: list[ScriptName] = []
        """Scripts of the next sessions, in order; a prompt that names one goes before."""

    @property
    def era(self) -> BuilderEra:
        """Which of the two builders this is."""
        return self._engine.settings.builder_era

    def session(self, session_id: str) -> Session:
        """The session with this id.

        :raises Problem: 404 when there is none, or when a single-shot one has been torn down.
        """
        now = self._engine.settle()
        session = self._engine.state.sessions.get(session_id)
        if session is None:
            raise not_found("Session", session_id)
        lifetime = timedelta(seconds=self._engine.settings.session_lifetime_seconds)
        ended = session.ended(now)
        if session.single_shot and ended is not None and ended + lifetime <= now:
            raise not_found("Session", session_id)
        return session

    def start(
        self, *, prompt: str | None, url: str | None, mode: str | None, space_id: int | None
    ) -> tuple[Session, datetime]:
        """Start a session.

        :raises Problem: 400 from the single-shot builder for a prompt outside 10 to 5000 characters, 404 for an
            unknown space.
        :raises RefusedByBuilder: from the stateful builder, for the same and for a bad mode or URL.
        """
        engine = self._engine
        chosen = self._checked_mode(prompt, url, mode)
        if space_id is not None:
            engine.space(space_id)
        with engine.lock:
            now = engine.settle()
            text = prompt or url or ""
            data_set = choose(text, list(engine.state.data_sets)) or DEFAULT
            session = Session(
                id=secrets.token_urlsafe(18),
                created=now,
                mode=chosen,
                prompt=prompt,
                url=url or _url_in(text) or f"https://example.com/{data_set}",
                space_id=space_id or 1,
                script=marked_script(text) or self._next_script(),
                data_set=data_set,
                draft_id=engine.new_agent_id(),
                agent_name=data_set.replace("_", " ").capitalize(),
                single_shot=self.era == "single_shot",
            )
            session.say(now, "session_started", sessionId=session.id, mode=chosen)
            if prompt is not None:
                session.say(now, "user_prompt", prompt=prompt)
            self._play(session, first_turn(session.script, self._scene(session)), now)
            engine.state.sessions[session.id] = session
            self._record("session_start", session, now)
            return session, now

    def followup(self, session_id: str, message: str | None) -> None:
        """Answer the builder.

        :raises Problem: 409 when the session is not ready.
        :raises RefusedByBuilder: for an empty message.
        """
        with self._engine.lock:
            session, now = self._in_status(session_id, "ready")
            if not (message or "").strip():
                raise RefusedByBuilder("A message is required.")
            session.cut(now)
            session.messages.append((now, message or ""))
            session.say(now, "user_prompt", prompt=message)
            self._play(session, following_turn(session.script, self._scene(session), session.followups), now)
            self._record("session_followup", session, now, {"message": message})

    def finish(self, session_id: str, agent_name: str | None) -> Session:
        """Save the agent and end the session.

        :raises Problem: 409 when the session is not ready.
        """
        with self._engine.lock:
            session, now = self._in_status(session_id, "ready")
            session.agent_name = (agent_name or "").strip() or session.agent_name
            session.saves_at = now
            session.say(now, "completed", commandCount=sum(e.type == "command_added" for e in session.events))
            session.states.append((now, "completed"))
            self._record("session_finish", session, now, {"agent_name": session.agent_name})
            self._engine.touch()
            self._engine.settle()
            return session

    def cancel(self, session_id: str) -> None:
        """End the session without an agent; no event says so.

        :raises Problem: 409 when it has ended.
        """
        with self._engine.lock:
            session, now = self._in_status(session_id, "processing", "ready")
            session.cut(now)
            session.states.append((now, "cancelled"))
            self._record("session_cancel", session, now)

    def stop(self, session_id: str) -> None:
        """Stateful: interrupt the turn and wait for the user. Single-shot: end the session, keeping a saved draft.

        Without effect on a session that has nothing to stop.
        """
        with self._engine.lock:
            session, now = self.session(session_id), self._engine.settle()
            status = session.status(now)
            if session.single_shot and status not in ENDED:
                session.cut(now)
                session.states.append((now, "cancelled"))
                if not session.saved:
                    session.saves_at = None
            elif not session.single_shot and status == "processing":
                session.cut(now)
                session.say(now, "ready_for_interaction", snapshot="", message="Stopped.", hasBrowserUrl=True)
                session.states.append((now, "ready"))
            else:
                return
            self._record("session_stop", session, now)

    def _checked_mode(self, prompt: str | None, url: str | None, mode: str | None) -> Literal["prompt", "url"]:
        problem: str | None = None
        if self.era == "single_shot" or mode in (None, "prompt"):
            if not 10 <= len((prompt or "").strip()) <= 5000:
                problem = "The prompt must have 10 to 5000 characters."
        elif mode != "url":
            problem = 'The mode must be "prompt" or "url".'
        elif urlsplit(url or "").scheme not in ("http", "https"):
            problem = "An http or https url is required in url mode."
        if problem and self.era == "single_shot":
            raise Problem(400, problem)
        if problem:
            raise RefusedByBuilder(problem)
        return "url" if mode == "url" and self.era == "stateful" else "prompt"

    def _in_status(self, session_id: str, *allowed: SessionState) -> tuple[Session, datetime]:
        session, now = self.session(session_id), self._engine.settle()
        status = session.status(now)
        if status not in allowed:
            raise Problem(409, f"The session is {status}.")
        return session, now

    def _next_script(self) -> ScriptName:
        return self.next_scripts.pop(0) if self.next_scripts else "success"

    def _scene(self, session: Session) -> Scene:
        records = self._engine.data_set(session.data_set)
        return Scene(session.url, session.agent_name, records, session.agent_name)

    def _play(self, session: Session, turn: Turn, now: datetime) -> None:
        seconds = self._engine.settings.builder_seconds
        end = session.play(turn, now, seconds)
        if session.single_shot and turn.ends == "ready":
            ready = now + (end - now) * _SAVED_SHARE
            session.states[-1] = (ready, "ready")
            session.states.append((end, "completed"))
            session.saves_at = ready
        self._engine.touch()

    def _record(
        self, kind: EffectKind, session: Session, now: datetime, detail: dict[str, str | None] | None = None
    ) -> None:
        self._engine.ledger.add_effect(kind, now, session_id=session.id, agent_id=session.draft_id, detail=detail)


def _url_in(text: str) -> str | None:
    return next((word.strip(".,;()<>\"'") for word in text.split() if word.startswith(("http://", "https://"))), None)
