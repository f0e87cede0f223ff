"""What the demo and the system tests stand on: an Airflow with the example DAGs and a Sequentum Cloud to talk to."""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qs, urlsplit

from airflow_provider_sequentum.sandbox import Sandbox
from tests.system.harness import AirflowInstance, Cluster
from tests.system.harness.database import Postgres

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

CHECKOUT = Path(__file__).parents[2]
EXAMPLES = CHECKOUT / "dags_examples"
TEST_DAGS = CHECKOUT / "tests" / "system" / "dags"
CONNECTION = "sequentum_default"
WAREHOUSE = "warehouse"
EXAMPLE_AGENT = "us_states"
"""The name of the agent that the examples run: the sandbox has one of this name."""
TASKS_AT_A_TIME = {"sqlite": 4, "postgres": 8}


@dataclass(frozen=True)
class Service:
    """The real Sequentum Cloud: its key, and its address if it is not the usual one."""

    api_key: str
    base_url: str | None

    @classmethod
    def from_environment(cls) -> Service | None:
        """Return the service that ``SEQUENTUM_API_KEY`` and ``SEQUENTUM_BASE_URL`` name, or ``None``."""
        key = os.environ.get("SEQUENTUM_API_KEY")
        return cls(key, os.environ.get("SEQUENTUM_BASE_URL")) if key else None


class Stage:
    """Airflow with the examples and the connection ``sequentum_default``, which leads to a sandbox or the real service.

    The connection ``warehouse`` leads to a PostgreSQL of its own. The examples run an agent and a space of the sandbox,
    or those of the real service that ``EXAMPLE_AGENT``, ``EXAMPLE_AGENT_ID`` and ``EXAMPLE_SPACE_ID`` name. What
    OpenLineage is told is in the file ``lineage``.

    :param folder: Everything that is written goes below it.
    :param service: The real service. Default: a sandbox of its own.
    :param python: The interpreter of the environment whose Airflow to run.
    :param dags: Folders of DAGs.
    :param distributed: Run a distributed Airflow, see :class:`~tests.system.harness.Cluster`, and not a small one.
    :param database: Where a small Airflow keeps its metadata; a distributed one always has PostgreSQL.
    """

    def __init__(
        self,
        folder: Path,
        *,
        service: Service | None = None,
        python: Path | str = sys.executable,
        dags: Iterable[Path] = (EXAMPLES,),
        distributed: bool = False,
        database: Literal["sqlite", "postgres"] = "sqlite",
    ) -> None:
        self.folder = folder.resolve()
        self.lake = self.folder / "lake"
        self.table = self.folder / "quickstart.duckdb"
        self.lineage = self.folder / "lineage.ndjson"
        self.sandbox = None if service else Sandbox()
        self.example_agent_id = (
            self.sandbox.add_agent(EXAMPLE_AGENT).id if self.sandbox else os.environ.get("EXAMPLE_AGENT_ID", "1")
        )
        self.example_space_id = (
            _furnish_space(self.sandbox) if self.sandbox else os.environ.get("EXAMPLE_SPACE_ID", "1")
        )
        self._warehouse = Postgres()
        self.warehouse_dsn = ""
        self._service = service
        self._dags = list(dags)
        self.airflow = self._installation(
            python=python,
            distributed=distributed,
            database=database,
            environment={
                "QUICKSTART_LAKE": self.lake.as_uri(),
                "QUICKSTART_DATABASE": str(self.table),
                "EXAMPLE_AGENT": os.environ.get("EXAMPLE_AGENT", EXAMPLE_AGENT),
                "EXAMPLE_DATABASE": str(self.folder / "incremental.duckdb"),
                "EXAMPLE_AGENT_ID": str(self.example_agent_id),
                "EXAMPLE_SPACE_ID": str(self.example_space_id),
                "EXAMPLE_LAKE": self.lake.as_uri(),
                "EXAMPLE_POLL_INTERVAL": "2" if self.sandbox else "60",
                "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(
                    {"type": "file", "log_file_path": str(self.lineage), "append": True}
                ),
            },
        )
        self._open = ExitStack()

    def _installation(
        self,
        *,
        python: Path | str,
        distributed: bool,
        database: Literal["sqlite", "postgres"],
        environment: dict[str, str],
    ) -> AirflowInstance:
        home, dags = self.folder / "airflow", self.folder / "dags"
        if distributed:
            return Cluster(home, dags, python=python, environment=environment)
        return AirflowInstance(
            home, dags, python=python, environment=environment, database=database, parallelism=TASKS_AT_A_TIME[database]
        )

    def __enter__(self) -> Self:
        """Start everything and store the connection in Airflow's database, as a person would by the form."""
        self._link_dags()
        with ExitStack() as stack:
            if self.sandbox:
                stack.enter_context(self.sandbox)
            stack.callback(self._warehouse.stop)
            address = self._warehouse.start()
            self.warehouse_dsn = address.replace("+psycopg2", "")
            stack.enter_context(self.airflow)
            self.airflow.add_connection(CONNECTION, self._connection())
            self.airflow.add_connection(WAREHOUSE, _postgres_connection(address))
            self._open = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop everything."""
        self._open.close()

    def _link_dags(self) -> None:
        folder = self.folder / "dags"
        folder.mkdir(parents=True)
        for dags in self._dags:
            (folder / dags.name).symlink_to(dags)

    def _connection(self) -> dict[str, Any]:
        if self.sandbox:
            base_url = self.sandbox.base_url
            links = {
                "run_link_template": base_url + "/agents/{agent_id}/runs/{run_id}",
                "session_link_template": base_url + "/sessions/{session_id}",
            }
            return {
                "conn_type": "sequentum",
                "host": base_url,
                "password": self.sandbox.api_key,
                "extra": json.dumps(links),
            }
        if self._service is None:
            raise RuntimeError("There is neither a sandbox nor a service")
        return {"conn_type": "sequentum", "host": self._service.base_url, "password": self._service.api_key}


def _furnish_space(sandbox: Sandbox) -> int:
    """Add a space with two agents of its own, one for each of the sandbox's data files."""
    space = sandbox.add_space("Examples")
    for name, data_set in (("US states", "us_states"), ("Chemical elements", "chemical_elements")):
        sandbox.add_agent(name, records=sandbox.engine.data_set(data_set), space_id=space.id)
    return space.id


def _postgres_connection(address: str) -> dict[str, Any]:
    parts = urlsplit(address)
    [socket_folder] = parse_qs(parts.query)["host"]
    database = parts.path.removeprefix("/")
    return {"conn_type": "postgres", "host": socket_folder, "login": parts.username, "schema": database}
