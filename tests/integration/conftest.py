from __future__ import annotations

from airflow_provider_sequentum.sandbox.testing import sandbox
from tests.unit.operators.conftest import task_log

__all__ = ["sandbox", "task_log"]
