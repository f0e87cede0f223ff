"""An Airflow whose parts could stand on different machines: Celery workers, several triggerers, PostgreSQL, Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.system.harness.airflow import AirflowInstance
from tests.system.harness.database import Postgres
from tests.system.harness.redis import Redis

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

TASKS_PER_WORKER = 3
SETTINGS = {
    "AIRFLOW__CELERY__WORKER_CONCURRENCY": str(TASKS_PER_WORKER),
    "AIRFLOW__CELERY__WORKER_PREFETCH_MULTIPLIER": "1",
    # How soon a death is noticed: minutes by default, which is longer than a test should take.
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "15",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "30",
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "10",
    "AIRFLOW__SCHEDULER__NUM_STUCK_IN_QUEUED_RETRIES": "10",
    # Celery refuses to work as root otherwise.
    "C_FORCE_ROOT": "1",
}


class Cluster(AirflowInstance):
    """A distributed Airflow 3 on the loopback interface, with PostgreSQL and Redis of its own.

    :param home: See :class:`~.airflow.AirflowInstance`, which takes the other parameters too.
    :param dags_folder: See there.
    :param workers: How many Celery workers.
    :param triggerers: How many triggerers.
    :param environment: Further environment variables.
    """

    def __init__(
        self,
        home: Path,
        dags_folder: Path,
        *,
        workers: int = 2,
        triggerers: int = 2,
        environment: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            home,
            dags_folder,
            database="postgres",
            executor="CeleryExecutor",
            parallelism=workers * TASKS_PER_WORKER,
            environment={**SETTINGS, **(environment or {})},
            **options,
        )
        self.workers = _names("worker", workers)
        self.triggerers = _names("triggerer", triggerers)
        self._redis = Redis(self.home / "services")
        self.broker = ""
        """Where Redis listens, while it runs."""

    @property
    def postgres(self) -> Postgres:
        """The metadata database."""
        if not isinstance(self.database, Postgres):
            raise TypeError(f"{self.database} is no PostgreSQL")
        return self.database

    @property
    def services(self) -> Mapping[str, tuple[str, ...]]:
        """Arguments of ``airflow`` for each service that is started, by its name."""
        # All of them write their logs to the same disk, where the API server finds them.
        no_logs = "--skip-serve-logs"
        workers = {name: ("celery", "worker", no_logs, "--celery-hostname", f"{name}@%h") for name in self.workers}
        triggerers = dict.fromkeys(self.triggerers, ("triggerer", no_logs))
        return {**super().services, **triggerers, **workers}

    def close(self) -> None:
        """Stop everything that was started. Safe to call again."""
        try:
            super().close()
        finally:
            self._redis.stop()

    def _prepare(self) -> None:
        (self.home / "services").mkdir(parents=True, exist_ok=True)
        self.broker = self._extra["AIRFLOW__CELERY__BROKER_URL"] = self._redis.start()
        super()._prepare()


def _names(kind: str, number: int) -> list[str]:
    """Return ``kind``, ``kind-2``, ``kind-3`` and so on."""
    return [kind if index == 1 else f"{kind}-{index}" for index in range(1, number + 1)]
