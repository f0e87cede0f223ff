"""The emulated service without its servers: its parts, and what a test does to it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_sequentum.sandbox.agents import Agent, ExtraFile, OutputFormat
from airflow_provider_sequentum.sandbox.breakages import Breakage, BreakageKind
from airflow_provider_sequentum.sandbox.builder_scripts import ScriptName
from airflow_provider_sequentum.sandbox.data_sets import DEFAULT, Record, read_records
from airflow_provider_sequentum.sandbox.engine import Engine
from airflow_provider_sequentum.sandbox.faults import Fault, FaultKind, Faults
from airflow_provider_sequentum.sandbox.ledger import Ledger
from airflow_provider_sequentum.sandbox.run_files import check_output
from airflow_provider_sequentum.sandbox.run_plan import RunPlan
from airflow_provider_sequentum.sandbox.session_service import SessionService
from airflow_provider_sequentum.sandbox.settings import Dialect, Settings
from airflow_provider_sequentum.sandbox.state import Space
from airflow_provider_sequentum.sandbox.storage import Storage

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Scope


class Service:
    """One emulated Sequentum Cloud.

    The web application is built once for a process and holds nothing: a request brings its service along. That
    makes opening a sandbox cheap enough for every test to have its own.

    :param engine: agents, runs and credits.
    :param faults: what fails on request.
    :param state_file: where to remember everything; ``None`` to forget it.
    """

    def __init__(self, engine: Engine, faults: Faults, state_file: Path | None) -> None:
        self.engine = engine
        self.faults = faults
        self.sessions = SessionService(engine)
        self.storage = Storage(engine)
        self.closing = threading.Event()
        """Set when the servers shut down, so that held calls end."""
        self.base_url = ""
        """Scheme, host and port of the API, as ``http://127.0.0.1:41234``; there while the sandbox is open."""
        self._state_file = state_file

    def attach(self, scope: Scope) -> None:
        """Put the service on a request."""
        scope["state"]["service"] = self

    # What a client needs

    @property
    def api_key(self) -> str:
        """The first API key."""
        return next(iter(self.engine.state.keys.values()))

    def add_api_key(self, name: str) -> str:
        """Add a key with a request budget of its own; returns the key.

        :raises ValueError: when the name is taken.
        """
        return self.engine.account.add_key(name)

    @property
    def connection_uri(self) -> str:
        """Value for ``AIRFLOW_CONN_SEQUENTUM_DEFAULT``: an Airflow connection in its JSON form.

        Its link templates lead from a task to the sandbox's pages.
        """
        return json.dumps(
            {
                "conn_type": "sequentum",
                "host": self.base_url,
                "password": self.api_key,
                "extra": {
                    "run_link_template": self.base_url + "/agents/{agent_id}/runs/{run_id}",
                    "session_link_template": self.base_url + "/sessions/{session_id}",
                },
            }
        )

    def describe(self) -> dict[str, str]:
        """Addresses and key, for another process."""
        return {
            "base_url": self.base_url,
            "storage_url": self.storage.origin,
            "api_key": self.api_key,
            "connection": self.connection_uri,
        }

    # What a test does to it

    @property
    def settings(self) -> Settings:
        """Limits and delays; may be changed while it is open."""
        return self.engine.settings

    @property
    def dialect(self) -> Dialect:
        """Forms of responses; may be changed while it is open."""
        return self.engine.dialect

    @property
    def ledger(self) -> Ledger:
        """What was requested and what came of it."""
        return self.engine.ledger

    @property
    def now(self) -> datetime:
        """The sandbox's present time."""
        return self.engine.clock.now()

    def add_agent(
        self,
        name: str,
        *,
        records: Iterable[Record] | None = None,
        file: str | Path | None = None,
        outcome: str = "Success",
        duration: float = 3.0,
        queue_seconds: float = 0.0,
        exclusive: bool = False,
        output: OutputFormat = "csv",
        file_name: str = "",
        extra_files: Sequence[ExtraFile] = (),
        description: str = "",
        input_parameters: Mapping[str, Any] | None = None,
        space_id: int = 1,
    ) -> Agent:
        """Add an agent.

        :param records: what its runs extract; default the shipped data set of the US states.
        :param file: a CSV or JSON file to take the records from, in place of ``records``.
        :param outcome: name of the status its runs end in, unless planned otherwise.
        :param duration: how long a run works, in sandbox seconds.
        :param queue_seconds: how long a run queues before.
        :param exclusive: whether its runs run one at a time.
        :param output: format of the delivered file; parquet and xlsx need pyarrow and openpyxl.
        :param file_name: name of the delivered file; default ``output.`` and the format.
        :param extra_files: further files that each run leaves.
        :param input_parameters: names and default values of its parameters.
        :param space_id: the space it is in; see :meth:`add_space`.
        :raises ValueError: for an unknown outcome, a format that cannot be written, an unreadable file.
        """
        if records is not None and file is not None:
            raise ValueError("give records or file, not both")
        if file is not None:
            records = read_records(Path(file))
        check_output(output)
        return self.engine.add_agent(
            name,
            self.engine.data_set(DEFAULT) if records is None else records,
            self.engine.settle(),
            space_id=space_id,
            plan=RunPlan(outcome=outcome, duration=duration, queue_seconds=queue_seconds),
            exclusive=exclusive,
            output=output,
            file_name=file_name,
            extra_files=list(extra_files),
            description=description,
            input_parameters=dict(input_parameters) if input_parameters is not None else None,
        )

    def add_space(self, name: str) -> Space:
        """Add a space beside the first one, whose id is 1."""
        with self.engine.lock:
            return self.engine.state.add_space(name, self.engine.settle())

    def break_runs(
        self, agent_id: int, kind: BreakageKind, *, column: str | None = None, from_run: int | None = None
    ) -> Breakage:
        """Let an agent's runs deliver wrong records from now on, or from a given run on, and succeed all the same.

        :param kind: one of those of ``sandbox.breakages.Breakage``. Several add up.
        :param from_run: the first broken run of the agent, counted from 1; default its next one.
        :raises ValueError: it would change nothing in the agent's records.
        """
        with self.engine.lock:
            agent = self.engine.agent(agent_id)
            first = agent.runs_started + 1 if from_run is None else from_run
            breakage = Breakage(kind=kind, column=column, from_run=first)
            breakage.apply(agent.broken_records(first) or agent.records)
            agent.breakages.append(breakage)
            self.engine.touch()
        return breakage

    def repair_runs(self, agent_id: int) -> None:
        """Let an agent's next runs deliver its records as they are."""
        with self.engine.lock:
            self.engine.agent(agent_id).breakages.clear()
            self.engine.touch()

    def plan_runs(self, agent_id: int, plans: Iterable[RunPlan]) -> None:
        """Plan the agent's next runs and restarts, in order; after them its own plan applies again."""
        self.engine.agent(agent_id).planned.extend(plans)

    def script_sessions(self, *scripts: ScriptName) -> None:
        """Choose what happens in the next agent builder sessions, in order; after them each is a success again."""
        self.sessions.next_scripts.extend(scripts)

    def fail_next(self, route: str, fault: FaultKind = "status", **details: Any) -> Fault:
        """Let the next requests to a route fail.

        :param route: as ``"POST /agent/{agent_id}/start"``, ``"GET /agent/7/runs"``, ``"GET *"`` or ``"*"``.
        :param fault: kind of fault, see :class:`~.faults.Fault`.
        :param details: further fields of the fault, as ``times``, ``seconds``, ``status``, ``values``.
        :raises ValueError: when no route matches, or the details do not fit the kind.
        """
        return self.faults.add(Fault(route=route, fault=fault, **details))

    def advance(self, seconds: float) -> datetime:
        """Move the clock forward; returns the new time."""
        self.engine.clock.advance(seconds)
        return self.engine.settle()

    def archive(self, agent_id: int, run_id: int) -> None:
        """Make a Failure run Failed now, as the service does after a while.

        :raises Problem: when it is not a Failure.
        """
        self.engine.archive(agent_id, run_id)

    def save(self) -> None:
        """Write the state file, if there is one. Happens by itself after every request that may change something."""
        if self._state_file is not None:
            with self.engine.lock:
                self.engine.state.save(self._state_file, self.engine.settle())


def service_of(request: Request) -> Service:
    """The service a request is for."""
    service: Service = request.state.service
    return service
