"""The sandbox as an object: a context manager that serves while it is open."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import uvicorn

from airflow_provider_sequentum.sandbox.agents import Agent, ExtraFile, OutputFormat
from airflow_provider_sequentum.sandbox.app import api_app, known_routes
from airflow_provider_sequentum.sandbox.builder_desk import BuilderDesk
from airflow_provider_sequentum.sandbox.builder_scripts import ScriptName
from airflow_provider_sequentum.sandbox.data_sets import DEFAULT, SHIPPED, Record, read_folder, read_records
from airflow_provider_sequentum.sandbox.engine import open_engine
from airflow_provider_sequentum.sandbox.faults import Fault, FaultKind, Faults
from airflow_provider_sequentum.sandbox.gate import CuttableProtocol, Gate
from airflow_provider_sequentum.sandbox.ledger import Ledger
from airflow_provider_sequentum.sandbox.run_files import check_output
from airflow_provider_sequentum.sandbox.run_plan import RunPlan
from airflow_provider_sequentum.sandbox.services import Services
from airflow_provider_sequentum.sandbox.settings import BuilderEra, Dialect, Settings
from airflow_provider_sequentum.sandbox.state import Space
from airflow_provider_sequentum.sandbox.storage import Storage, storage_app

if TYPE_CHECKING:
    from starlette.types import ASGIApp

#: Seconds a server may take to come up or to go down.
_PATIENCE = 15.0


class Sandbox:
    """A local Sequentum Cloud.

    ::

        with Sandbox(time_scale=10) as sandbox:
            agent = sandbox.add_agent("Prices", records=[{"sku": "A1", "price": 9.5}])
            ...  # use sandbox.base_url and sandbox.api_key
            assert len(sandbox.ledger.starts(agent.id)) == 1

    :param time_scale: sandbox seconds per real second. Durations of runs and sessions are in sandbox seconds;
        the rate limit and the delays of faults are in real ones, as the client's clock is.
    :param rate_limit: requests per ``rate_window_seconds`` (a setting, 60 by default) and key.
    :param builder_era: the conversational agent builder, or the later single-shot one.
    :param data_folder: a folder of CSV and JSON files; each becomes an agent, and a data set that prompts can name.
        What a state file remembers of it comes before what it holds now; files that are new are added.
    :param state_file: where to remember everything; read at the start when it exists.
    :param seed: seed of faults that strike by chance.
    :param port: port of the API; 0 for a free one.
    :param storage_port: port of the signed downloads; 0 for a free one.
    :param credits: credits the organisation starts with.
    :param space_concurrency: how many runs of one space work at the same time.
    :param host: address to listen on. The admin API answers this machine only, whatever the address.
    :param api_key: the first API key; default a new one (or the one in the state file).
    :param sample_agents: add one agent for each data set that comes with the sandbox.
    :param dialect: forms to answer in where the facts are open.
    :param settings: further settings, by the names of :class:`~.settings.Settings`.
    :raises ValueError: for settings that are out of range, an unreadable data folder or state file.
    """

    def __init__(
        self,
        *,
        time_scale: float = 1.0,
        rate_limit: int = 100,
        builder_era: BuilderEra = "stateful",
        data_folder: str | Path | None = None,
        state_file: str | Path | None = None,
        seed: int = 0,
        port: int = 0,
        storage_port: int = 0,
        credits: float = 1000.0,  # noqa: A002 - the service's own word
        space_concurrency: int = 10,
        host: str = "127.0.0.1",
        api_key: str | None = None,
        sample_agents: bool = False,
        dialect: Dialect | None = None,
        **settings: Any,
    ) -> None:
        chosen = Settings(
            rate_limit=rate_limit,
            builder_era=builder_era,
            credits=credits,
            space_concurrency=space_concurrency,
            **settings,
        )
        self._state_file = Path(state_file) if state_file is not None else None
        resumed = self._state_file is not None and self._state_file.exists()
        self.engine = open_engine(chosen, dialect or Dialect(), time_scale, self._state_file)
        self.desk = BuilderDesk(self.engine)
        self.faults = Faults(seed, known_routes())
        self.storage = Storage(self.engine)
        self._host, self._ports = host, (port, storage_port)
        self._servers: list[_Server] = []
        self._closing = threading.Event()
        self._add_first_key(api_key)
        folder = Path(data_folder) if data_folder is not None else None
        self._add_data_sets(folder, sample_agents=sample_agents, resumed=resumed)

    def __enter__(self) -> Self:
        """Start serving; returns when both ports accept connections."""
        services = Services(self, self.engine, self.desk, self.storage, self.faults, self._closing.is_set)
        try:
            for app, port in zip((api_app(), storage_app()), self._ports, strict=True):
                self._servers.append(_Server(Gate(app, services, self.save), self._host, port))
            for server in self._servers:
                server.wait_until_ready()
        except BaseException:
            self.close()
            raise
        self.base_url, self.storage.origin = (server.origin for server in self._servers)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop serving, save the state, remove temporary files."""
        self.close()

    base_url: str
    """Scheme, host and port of the API, as ``http://127.0.0.1:41234``; there while the sandbox is open."""

    def close(self) -> None:
        """Stop serving."""
        self._closing.set()
        for server in self._servers:
            server.ask_to_stop()
        while self._servers:
            self._servers.pop().wait_until_stopped()
        self.save()
        self.storage.close()

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
        """Value for ``AIRFLOW_CONN_SEQUENTUM_DEFAULT``: an Airflow connection in its JSON form."""
        connection = {"conn_type": "sequentum", "host": self.base_url, "password": self.api_key}
        return json.dumps(connection)

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
        """Forms of answers; may be changed while it is open."""
        return self.engine.dialect

    @property
    def ledger(self) -> Ledger:
        """What was asked and what came of it."""
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
        """Add a space beside the one that is there from the beginning, whose id is 1."""
        with self.engine.lock:
            return self.engine.state.add_space(name, self.engine.settle())

    def plan_runs(self, agent_id: int, plans: Iterable[RunPlan]) -> None:
        """Say what becomes of the agent's next runs and restarts, in order; then its own plan applies again."""
        self.engine.agent(agent_id).planned.extend(plans)

    def script_sessions(self, *scripts: ScriptName) -> None:
        """Say what happens in the next agent builder sessions, in order; then each is a success again."""
        self.desk.next_scripts.extend(scripts)

    def fail_next(self, route: str, fault: FaultKind = "status", *, times: int | None = 1, **details: Any) -> Fault:
        """Let the next requests to a route fail.

        :param route: as ``"POST /agent/{agent_id}/start"``, ``"GET /agent/7/runs"``, ``"GET *"`` or ``"*"``.
        :param fault: kind of fault, see :class:`~.faults.Fault`.
        :param times: how often; ``None`` for always.
        :param details: ``status``, ``body``, ``headers``, ``delay``, ``after_bytes``, ``probability``.
        :raises ValueError: when no route matches, or the details do not fit the kind.
        """
        return self.faults.add(Fault(route=route, fault=fault, times=times, **details))

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
        """Write the state file, when there is one. Done by itself after every request that may change something."""
        if self._state_file is not None:
            with self.engine.lock:
                self.engine.state.save(self._state_file, self.engine.settle())

    def _add_first_key(self, api_key: str | None) -> None:
        keys = self.engine.state.keys
        if api_key is not None:
            keys["default"] = api_key
        elif not keys:
            self.add_api_key("default")

    def _add_data_sets(self, folder: Path | None, *, sample_agents: bool, resumed: bool) -> None:
        own = read_folder(folder) if folder is not None else {}
        # What is remembered stays as it was, so that runs go on yielding what they did.
        remembered = self.engine.state.data_sets if resumed else {}
        new = {name: records for name, records in own.items() if name not in remembered}
        self.engine.state.data_sets |= new
        samples = read_folder(SHIPPED) if sample_agents and not resumed else {}
        for name, records in {**samples, **new}.items():
            self.add_agent(name, records=records)


class _Server:
    """One port, served by uvicorn in a thread of its own."""

    def __init__(self, app: ASGIApp, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=2048)
        bound = self._socket.getsockname()
        # "All addresses" is an address to listen on, but not one to connect to.
        reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
        shown = f"[{reachable}]" if ":" in reachable else reachable
        self.origin = f"http://{shown}:{bound[1]}"
        # Cut connections are what faults are for: uvicorn's errors about them would only alarm.
        self._uvicorn = uvicorn.Server(
            uvicorn.Config(
                app,
                http=CuttableProtocol,
                ws="none",
                lifespan="off",
                log_level="critical",
                access_log=False,
                timeout_graceful_shutdown=1,
                server_header=False,
            )
        )
        self._thread = threading.Thread(
            target=self._uvicorn.run,
            kwargs={"sockets": [self._socket]},
            name=f"sequentum-sandbox-{bound[1]}",
            daemon=True,
        )
        self._thread.start()

    def wait_until_ready(self) -> None:
        waited = threading.Event()
        for _ in range(int(_PATIENCE / 0.01)):
            if self._uvicorn.started:
                return
            waited.wait(0.01)
        raise RuntimeError("the sandbox's server did not start")

    def ask_to_stop(self) -> None:
        self._uvicorn.should_exit = True

    def wait_until_stopped(self) -> None:
        self._thread.join(_PATIENCE)
        self._socket.close()
