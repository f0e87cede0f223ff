"""What differs between the major versions of Airflow when one is started from its parts."""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.system.harness.service import free_port

if TYPE_CHECKING:
    from collections.abc import Mapping

# An Airflow 2 webserver that lets everyone on this machine in, as Airflow 3's simple auth manager does when told to.
WEBSERVER_CONFIG = 'AUTH_ROLE_PUBLIC = "Admin"\nWTF_CSRF_ENABLED = False\n'


@dataclass(frozen=True)
class Release:
    """The parts of one major version.

    :param major: The major version.
    :param services: Arguments of ``airflow`` for each service that makes a complete installation.
    :param local_executor: The executor for one machine, by kind of database.
    :param components: What the health report calls the components that have to be healthy.
    """

    major: int
    services: Mapping[str, tuple[str, ...]]
    local_executor: Mapping[str, str]
    components: tuple[str, ...]


AIRFLOW_3 = Release(
    major=3,
    services={
        "api-server": ("api-server", "--host", "127.0.0.1", "--workers", "1"),
        "scheduler": ("scheduler",),
        "dag-processor": ("dag-processor",),
        "triggerer": ("triggerer",),
    },
    local_executor={"sqlite": "LocalExecutor", "postgres": "LocalExecutor"},
    components=("metadatabase", "scheduler", "triggerer", "dag_processor"),
)
AIRFLOW_2 = Release(
    major=2,
    services={
        "api-server": ("webserver", "--hostname", "127.0.0.1", "--workers", "1"),
        "scheduler": ("scheduler",),
        "triggerer": ("triggerer",),
    },
    local_executor={"sqlite": "SequentialExecutor", "postgres": "LocalExecutor"},
    components=("metadatabase", "scheduler", "triggerer"),
)


def settings(
    release: Release,
    *,
    home: Path,
    dags_folder: Path,
    database: str,
    executor: str,
    parallelism: int,
    port: int,
    url: str,
) -> dict[str, str]:
    """Return Airflow's settings as environment variables."""
    common = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags_folder),
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__EXECUTOR": executor,
        "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": str(parallelism),
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    }
    if release.major >= 3:
        return common | {
            # Later versions than 3.0 deserialize without being told to.
            "AIRFLOW__API__ENABLE_XCOM_DESERIALIZE_SUPPORT": "True",
            "AIRFLOW__API__BASE_URL": url,
            "AIRFLOW__API__PORT": str(port),
            "AIRFLOW__API__SECRET_KEY": secrets.token_hex(16),
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
            # Airflow 3.0 imports what a DAG file names before it parses it, and ends when that needs a newer Airflow.
            "AIRFLOW__DAG_PROCESSOR__PARSING_PRE_IMPORT_MODULES": "False",
        }
    return common | {
        "AIRFLOW__API__AUTH_BACKENDS": "airflow.api.auth.backend.default",
        "AIRFLOW__SCHEDULER__DAG_DIR_LIST_INTERVAL": "5",
        "AIRFLOW__WEBSERVER__BASE_URL": url,
        "AIRFLOW__WEBSERVER__SECRET_KEY": secrets.token_hex(16),
        "AIRFLOW__WEBSERVER__WEB_SERVER_PORT": str(port),
    }
