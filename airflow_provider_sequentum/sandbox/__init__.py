"""A local Sequentum Cloud for development, tests and demos.

It is written from the published facts about the service, with schemas of its own, and imports nothing else of
this package, so that client and sandbox agreeing is evidence. Needs the extra ``sandbox``.
"""

from __future__ import annotations

from airflow_provider_sequentum.sandbox.agents import Agent, ExtraFile
from airflow_provider_sequentum.sandbox.faults import Fault
from airflow_provider_sequentum.sandbox.problems import Problem
from airflow_provider_sequentum.sandbox.run_plan import RunPlan
from airflow_provider_sequentum.sandbox.server import Sandbox
from airflow_provider_sequentum.sandbox.settings import Dialect, Settings

__all__ = ["Agent", "Dialect", "ExtraFile", "Fault", "Problem", "RunPlan", "Sandbox", "Settings"]
