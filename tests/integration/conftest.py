from __future__ import annotations

from airflow_provider_sequentum.sandbox.testing import sandbox

__all__ = ["sandbox"]
