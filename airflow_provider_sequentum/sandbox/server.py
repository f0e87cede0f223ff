"""The sandbox as an object: a context manager that serves while it is open."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import uvicorn

from airflow_provider_sequentum.sandbox.app import api_app, known_routes, storage_app
from airflow_provider_sequentum.sandbox.data_sets import SHIPPED, read_folder
from airflow_provider_sequentum.sandbox.engine import open_engine
from airflow_provider_sequentum.sandbox.faults import Faults
from airflow_provider_sequentum.sandbox.request_checks import own_names
from airflow_provider_sequentum.sandbox.request_gate import CuttableProtocol, RequestGate
from airflow_provider_sequentum.sandbox.run_plan import RunPlan
from airflow_provider_sequentum.sandbox.service import Service
from airflow_provider_sequentum.sandbox.settings import BuilderEra, Dialect, Settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import ASGIApp

# Seconds a server may take to come up or to go down.
_STARTUP_TIMEOUT = 15.0
# Runs of the sample agents last long enough for a person to watch one.
_SAMPLE_DURATION = 20.0


class Sandbox(Service):
    """A local Sequentum Cloud.

    ::

        with Sandbox(time_scale=10) as sandbox:
            agent = sandbox.add_agent("Prices", records=[{"sku": "A1", "price": 9.5}])
            ...  # use sandbox.base_url and sandbox.api_key
            assert len(sandbox.ledger.starts(agent.id)) == 1

    :param time_scale: sandbox seconds per real second. Durations of runs and sessions are in sandbox seconds;
        the rate limit and the times of faults are in real ones, as the client's clock is.
    :param rate_limit: requests per ``rate_window_seconds`` (a setting, 60 by default) and key.
    :param builder_era: the conversational agent builder, or the later single-shot one.
    :param data_folder: a folder of CSV and JSON files; each becomes an agent, and a data set that prompts can name.
        What a state file remembers of it takes precedence over what it holds now; files that are new are added.
    :param state_file: where to remember everything; read at the start when it exists.
    :param seed: seed of faults that apply by chance.
    :param port: port of the API; 0 for a free one.
    :param storage_port: port of the signed downloads; 0 for a free one.
    :param credits: credits the organisation starts with.
    :param space_concurrency: how many runs of one space work at the same time.
    :param host: address to listen on. The admin API answers this machine only, whatever the address.
    :param allowed_hosts: further names that requests may have in their ``Host`` header, beside ``host`` and the names
        and addresses of the loopback interface.
    :param api_key: the first API key; default a new one (or the one in the state file).
    :param sample_agents: add one agent for each data set that comes with the sandbox.
    :param dialect: forms to answer in where the facts are open.
    :param settings: further settings, by the names of :class:`~.settings.Settings`.
    :raises ValueError: for settings that are out of range, a name that is none, an unreadable data folder or state
        file.
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
        allowed_hosts: Iterable[str] = (),
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
        state_path = Path(state_file) if state_file is not None else None
        resumed = state_path is not None and state_path.exists()
        engine = open_engine(chosen, dialect or Dialect(), time_scale, state_path)
        super().__init__(engine, Faults(seed, known_routes()), state_path)
        self._host, self._ports, self._names = host, (port, storage_port), own_names(host, allowed_hosts)
        self._servers: list[_Server] = []
        self._add_first_key(api_key)
        folder = Path(data_folder) if data_folder is not None else None
        self._add_data_sets(folder, sample_agents=sample_agents, resumed=resumed)

    def __enter__(self) -> Self:
        """Start serving; returns when both ports accept connections."""
        try:
            for app, port in zip((api_app(), storage_app()), self._ports, strict=True):
                self._servers.append(_Server(RequestGate(app, self, self._names), self._host, port))
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

    def close(self) -> None:
        """Stop serving."""
        self.closing.set()
        for server in self._servers:
            server.request_stop()
        while self._servers:
            self._servers.pop().wait_until_stopped()
        self.save()
        self.storage.close()

    def _add_first_key(self, api_key: str | None) -> None:
        keys = self.engine.state.keys
        if api_key is not None:
            keys["default"] = api_key
        elif not keys:
            self.add_api_key("default")

    def _add_data_sets(self, folder: Path | None, *, sample_agents: bool, resumed: bool) -> None:
        own = read_folder(folder) if folder is not None else {}
        # What is remembered stays as it was, so that runs still yield what they did.
        remembered = self.engine.state.data_sets if resumed else {}
        new = {name: records for name, records in own.items() if name not in remembered}
        self.engine.state.data_sets |= new
        samples = read_folder(SHIPPED) if sample_agents and not resumed else {}
        for name, records in {**samples, **new}.items():
            self.add_agent(name, records=records, duration=RunPlan().duration if name in new else _SAMPLE_DURATION)


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
        # The log level: faults cut connections on purpose, and uvicorn would report each as an error.
        # Forwarded headers may claim anything; the date comes from the service's own clock.
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
                date_header=False,
                proxy_headers=False,
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
        for _ in range(int(_STARTUP_TIMEOUT / 0.01)):
            if self._uvicorn.started:
                return
            waited.wait(0.01)
        raise RuntimeError("the sandbox's server did not start")

    def request_stop(self) -> None:
        self._uvicorn.should_exit = True

    def wait_until_stopped(self) -> None:
        self._thread.join(_STARTUP_TIMEOUT)
        self._socket.close()
