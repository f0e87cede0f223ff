"""Agents, runs and credits: turns requests into effects as time passes. Knows nothing of HTTP servers."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from airflow_provider_sequentum.sandbox.agents import Agent, Version
from airflow_provider_sequentum.sandbox.clock import Clock
from airflow_provider_sequentum.sandbox.data_sets import SHIPPED, Record, read_folder
from airflow_provider_sequentum.sandbox.ledger import ActualRun, EffectKind
from airflow_provider_sequentum.sandbox.problems import Problem, not_found
from airflow_provider_sequentum.sandbox.run_plan import Attempt, RunPlan, RunStatus
from airflow_provider_sequentum.sandbox.runs import (
    Observation,
    Run,
    RunOptions,
    admissions,
    blocked_by_exclusive,
    observe,
)
from airflow_provider_sequentum.sandbox.settings import Dialect, Settings
from airflow_provider_sequentum.sandbox.state import DEFAULT_SPACE_ID, Account, Space, State, Transaction, load_state

_LONG_AGO = datetime.min.replace(tzinfo=UTC)
_NEVER = datetime.max.replace(tzinfo=UTC)


class Engine:
    """Agents, runs and credits of one sandbox. All methods may be called from any thread.

    :param settings: limits and delays.
    :param dialect: forms to answer in.
    :param clock: where time comes from.
    :param state: what is remembered; default a new, empty memory.
    """

    def __init__(self, settings: Settings, dialect: Dialect, clock: Clock, state: State | None = None) -> None:
        self.settings, self.dialect, self.clock = settings, dialect, clock
        self.lock = threading.RLock()
        self.state = state or _new_state(settings, clock.now())
        self.account = Account(self.state)
        self.ledger = self.state.ledger
        self.ledger.read_runs_from(self.actual_runs)
        self._open = {run.id: run for run in self.state.runs.values()}
        self._quiet_until = _LONG_AGO

    # Time

    def settle(self) -> datetime:
        """Carry out what was due by now; returns now."""
        with self.lock:
            now = self.clock.now()
            if now >= self._quiet_until:
                self._fire_schedules(now)
                self._save_drafts(now)
                self._admit(now)
                self._quiet_until = self._next_change(now)
            return now

    def touch(self) -> None:
        """Check again whether anything is due: something was changed from outside."""
        self._quiet_until = _LONG_AGO

    def _admit(self, now: datetime) -> None:
        for run, moment in admissions(self._open.values(), self.state.settled, now, self.settings.space_concurrency):
            if self.account.balance <= 0:
                break
            run.attempt.admitted = moment
            self.account.charge(run.attempt.plan.credits, moment, agent_id=run.agent_id, run_id=run.id)
        self.state.settled = now
        self._open = {run.id: run for run in self._open.values() if (end := run.attempt.end()) is None or end > now}

    def _fire_schedules(self, now: datetime) -> None:
        for schedule in tuple(self.state.schedules.values()):
            while schedule.is_enabled and schedule.next_run is not None and schedule.next_run <= now:
                moment, agent = schedule.next_run, self.state.agents[schedule.agent_id]
                schedule.next_run = schedule.after(moment)
                plan = RunPlan(outcome="Skipped", credits=0) if agent.archived else None
                run = self._new_run(agent, schedule.options, moment, plan)
                # Whichever request made time pass did not bring this about.
                detail = {"schedule_id": schedule.id}
                self.record("schedule_fired", moment, run, detail=detail, request=None, key_name=None)

    def _save_drafts(self, now: datetime) -> None:
        for session in self.state.sessions.values():
            if session.saves_at is not None and session.saves_at <= now and not session.saved:
                session.saved = True
                self.add_agent(
                    session.agent_name,
                    self.data_set(session.data_set),
                    session.saves_at,
                    agent_id=session.draft_id,
                    space_id=session.space_id,
                    start_url=session.url,
                    description=session.prompt or "",
                )

    def _next_change(self, now: datetime) -> datetime:
        moments = [s.next_run for s in self.state.schedules.values() if s.is_enabled]
        moments += [s.saves_at for s in self.state.sessions.values() if not s.saved]
        if any(run.attempt.held for run in self._open.values()):
            moments += [run.attempt.end() for run in self._open.values()]
            moments += [run.attempt.ready for run in self._open.values() if run.attempt.ready > now]
        return min((moment for moment in moments if moment is not None), default=_NEVER)

    # Looking things up

    def agent(self, agent_id: int) -> Agent:
        """The agent with this id.

        :raises Problem: 404.
        """
        self.settle()
        agent = self.state.agents.get(agent_id)
        if agent is None:
            raise not_found("Agent", agent_id)
        return agent

    def run(self, agent_id: int, run_id: int) -> Run:
        """The run with this id, if it is the agent's.

        :raises Problem: 404.
        """
        self.agent(agent_id)
        run = self.state.runs.get(run_id)
        if run is None or run.agent_id != agent_id:
            raise not_found("Run", run_id)
        return run

    def runs_of(self, agent_id: int) -> list[Run]:
        """An agent's runs, newest first."""
        self.settle()
        return sorted(
            (run for run in tuple(self.state.runs.values()) if run.agent_id == agent_id),
            key=lambda run: (run.created, run.id),
            reverse=True,
        )

    def last_status(self, agent_id: int) -> RunStatus | int | str | None:
        """Status of the agent's newest run; ``None`` when it never ran."""
        runs = self.runs_of(agent_id)
        return observe(runs[0], self.clock.now()).status if runs else None

    def space(self, space_id: int) -> Space:
        """The space with this id.

        :raises Problem: 404.
        """
        space = self.state.spaces.get(space_id)
        if space is None:
            raise not_found("Space", space_id)
        return space

    def data_set(self, name: str) -> list[Record]:
        """Records of a data set by name: the user's, else one that comes with the sandbox."""
        return self.state.data_sets[name]

    def actual_runs(self, agent_id: int | None = None) -> list[ActualRun]:
        """The runs as they really are, deleted ones included, oldest first."""
        now = self.settle()
        runs = sorted([*self.state.runs.values(), *self.state.deleted_runs.values()], key=lambda run: run.id)
        return [
            _actual_run(run, observe(run, now, lagging=False))
            for run in runs
            if agent_id is None or run.agent_id == agent_id
        ]

    def record(self, kind: EffectKind, at: datetime, run: Run, **fields: Any) -> None:
        """Write an effect on a run into the ledger; ``fields`` are further ones of :class:`~.ledger.Effect`."""
        parameters = run.options.input_parameters
        self.ledger.add_effect(kind, at, agent_id=run.agent_id, run_id=run.id, input_parameters=parameters, **fields)

    # Runs

    def start(self, agent_id: int, options: RunOptions) -> Run:
        """Start a run.

        :raises Problem: 400 for input parameters that are not a JSON object, 409 for an archived agent or (when
            the dialect says so) an exclusive conflict, 422 when there are no credits.
        """
        with self.lock:
            agent, now = self.agent(agent_id), self.settle()
            if agent.archived:
                raise Problem(409, f"Agent {agent_id} is archived and cannot be run.")
            if self.account.balance <= 0:
                raise Problem(422, "Insufficient credits.")
            exclusive = agent.exclusive if options.is_exclusive is None else options.is_exclusive
            if self.dialect.exclusive_conflict == "refuse" and self._blocked(agent_id, exclusive, now):
                raise Problem(409, "Agent is already running")
            run = self._new_run(agent, options, now)
            self.record("start", now, run)
            self.touch()
            self.settle()
            return run

    def restart(self, agent_id: int, run_id: int) -> Run:
        """Restart a Failure run in place.

        :raises Problem: 409 when it is anything else, 422 when there are no credits.
        """
        with self.lock:
            run, now = self.run(agent_id, run_id), self.settle()
            seen = observe(run, now)
            if seen.status is not RunStatus.Failure:
                raise Problem(409, f"Run {run_id} is {seen.status_name}; only a Failure run can be restarted.")
            if self.account.balance <= 0:
                raise Problem(422, "Insufficient credits.")
            plan = self.state.agents[agent_id].next_plan({})
            run.attempts.append(self._attempt(run, plan, now))
            run.files_removed = False  # it delivers new ones
            if self.dialect.restart_lag_seconds:
                run.restart_shown = now + timedelta(seconds=self.dialect.restart_lag_seconds)
            self._open[run.id] = run
            self.record("restart", now, run)
            self.touch()
            self.settle()
            return run

    def stop(self, agent_id: int, run_id: int) -> None:
        """Ask a run to stop; no effect on one that is stopping already.

        :raises Problem: 409 when it is over.
        """
        with self.lock:
            run, now = self._active_run(agent_id, run_id)
            if run.attempt.stop_requested is None:
                run.attempt.stop(now)
                self.record("stop", now, run)
                self.touch()

    def kill(self, agent_id: int, run_id: int) -> None:
        """Kill a run: the first call is a stop, one while it is stopping ends it at once.

        :raises Problem: 409 when it is over.
        """
        with self.lock:
            run, now = self._active_run(agent_id, run_id)
            forced = run.attempt.stopping(now)
            if forced:
                run.attempt.killed = now
            elif run.attempt.stop_requested is None:
                run.attempt.stop(now)
            self.record("kill", now, run, detail={"forced": forced})
            self.touch()

    def delete(self, agent_id: int, run_id: int, method: str) -> None:
        """Delete a run's data.

        :raises Problem: 400 while the run is in progress.
        """
        with self.lock:
            run, now = self.run(agent_id, run_id), self.settle()
            if not observe(run, now).terminal:
                raise Problem(400, f"Run {run_id} is in progress and cannot be deleted.")
            run.files_removed = True
            if method == "RemoveAllFilesAndAgentInput":
                run.options.input_parameters = None
            self.record("delete", now, run, detail={"remove_method": method})
            if method == "RemoveEntireRun":
                self.state.deleted_runs[run_id] = self.state.runs.pop(run_id)

    def archive(self, agent_id: int, run_id: int) -> None:
        """Archive a Failure run now, so that it becomes Failed.

        :raises Problem: 409 when it is not a Failure.
        """
        with self.lock:
            run, now = self.run(agent_id, run_id), self.settle()
            if observe(run, now).status is not RunStatus.Failure:
                raise Problem(409, f"Run {run_id} is not a Failure.")
            run.archived = now

    def replan(self, agent_id: int, run_id: int, plan: RunPlan) -> None:
        """Change what becomes of a run that is under way.

        :raises Problem: 409 when it is over.
        """
        with self.lock:
            run, _ = self._active_run(agent_id, run_id)
            run.attempt.plan = plan
            self.touch()

    def _active_run(self, agent_id: int, run_id: int) -> tuple[Run, datetime]:
        run, now = self.run(agent_id, run_id), self.settle()
        if observe(run, now).terminal:
            raise Problem(409, f"Run {run_id} is over.")
        return run, now

    def _blocked(self, agent_id: int, exclusive: bool, now: datetime) -> bool:
        active = [run for run in self._open.values() if not observe(run, now).terminal]
        return blocked_by_exclusive(agent_id, exclusive, active)

    def _new_run(self, agent: Agent, options: RunOptions, now: datetime, plan: RunPlan | None = None) -> Run:
        parameters = parse_input_parameters(options.input_parameters)
        try:
            plan = plan or agent.next_plan(parameters)
        except ValidationError as error:
            raise Problem(400, f"inputParameters: {error.errors()[0]['msg']}") from error
        run_id = self.state.next_run_id
        agent.runs_started += 1
        self.state.next_run_id += 1
        own = plan.records if plan.records is not None else agent.broken_records(agent.runs_started)
        records = agent.records if own is None else own
        run = Run(
            id=run_id,
            agent_id=agent.id,
            space_id=agent.space_id,
            sequence=agent.runs_started,
            agent_version=agent.active_version,
            created=now,
            options=options,
            records=own,
            exclusive=agent.exclusive if options.is_exclusive is None else options.is_exclusive,
            total_records=len(records),
            attempts=[],
            archive_seconds=self.settings.archive_seconds,
        )
        run.attempts.append(self._attempt(run, plan, now))
        self.state.runs[run_id] = self._open[run_id] = run
        return run

    def _attempt(self, run: Run, plan: RunPlan, now: datetime) -> Attempt:
        waits = self.dialect.exclusive_conflict == "wait" and self._blocked(run.agent_id, run.exclusive, now)
        failure_wait = self.settings.wait_on_failure_seconds if run.options.is_wait_on_failure else 0.0
        return Attempt(
            plan=plan,
            requested=now,
            hold=RunStatus.Waiting if waits else RunStatus.Queuing,
            failure_wait=failure_wait if plan.rest is RunStatus.Failure else 0.0,
        )

    # Seed data

    def add_agent(
        self,
        name: str,
        records: Iterable[Record],
        created: datetime,
        *,
        agent_id: int | None = None,
        space_id: int = DEFAULT_SPACE_ID,
        **fields: Any,
    ) -> Agent:
        """Add an agent; ``fields`` are those of :class:`~.agents.Agent`."""
        with self.lock:
            self.space(space_id)
            version = Version(version=1, user_name="sandbox", created=created, comments=None, file_size=2048)
            agent = Agent(
                id=self.new_agent_id() if agent_id is None else agent_id,
                name=name,
                records=list(records),
                space_id=space_id,
                created=created,
                updated=created,
                versions=[version],
                **fields,
            )
            self.state.agents[agent.id] = agent
            return agent

    def new_agent_id(self) -> int:
        """Reserve an agent id."""
        with self.lock:
            self.state.next_agent_id += 1
            return self.state.next_agent_id - 1

    def add_credits(self, amount: float) -> float:
        """Credit the organisation, or take credits away with a negative amount; returns the balance."""
        with self.lock:
            balance = self.account.add(amount, self.settle())
            self.touch()
            self.settle()
            return balance


def parse_input_parameters(text: str | None) -> dict[str, Any]:
    """Input parameters as the service takes them: a string that holds a JSON object.

    :raises Problem: 400 when it is anything else.
    """
    if text is None or not text.strip():
        return {}
    try:
        parameters = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Problem(400, "inputParameters is not valid JSON.") from error
    if not isinstance(parameters, dict):
        raise Problem(400, "inputParameters must be a JSON object.")
    return parameters


def _new_state(settings: Settings, now: datetime) -> State:
    space = Space(id=DEFAULT_SPACE_ID, name="Default", created=now)
    opening = Transaction(
        id=1, transaction_type="Initial", amount=settings.credits, balance=settings.credits, created=now
    )
    return State(
        settled=now,
        signing_secret=secrets.token_hex(32),
        spaces={space.id: space},
        transactions=[opening],
        data_sets=read_folder(SHIPPED),
    )


def open_engine(settings: Settings, dialect: Dialect, time_scale: float, state_file: Path | None) -> Engine:
    """An engine with the memory in ``state_file`` if there is one, else with a new one."""
    if state_file is not None and state_file.exists():
        state = load_state(state_file)
        return Engine(settings, dialect, Clock(time_scale, datetime.now(UTC) + state.clock_ahead), state)
    return Engine(settings, dialect, Clock(time_scale))


def _actual_run(run: Run, seen: Observation) -> ActualRun:
    return ActualRun(
        run_id=run.id,
        agent_id=run.agent_id,
        status=seen.status_name,
        created=run.created,
        started=seen.start_time,
        finished=seen.end_time,
        attempts=len(run.attempts),
        data_count=seen.data_count,
        export_count=seen.export_count,
    )
