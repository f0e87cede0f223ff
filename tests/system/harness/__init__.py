"""A real Airflow, started from processes that tests and the demo can look into, kill and restart."""

from __future__ import annotations

from tests.system.harness.airflow import AirflowInstance
from tests.system.harness.cluster import Cluster
from tests.system.harness.rest import AirflowApiError, DagRun, TaskInstance

__all__ = ["AirflowApiError", "AirflowInstance", "Cluster", "DagRun", "TaskInstance"]
