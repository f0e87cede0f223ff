"""A sandbox for each test, which is also Airflow's connection ``sequentum_default``."""

from airflow_provider_sequentum.sandbox.testing import sandbox

__all__ = ["sandbox"]
