"""What a task looks at before it starts a run for the first time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_sequentum.hooks.sequentum import SequentumHook
from airflow_provider_sequentum.lifecycle.run_guards import warn_of_schedules


def look_before_start(context: Mapping[str, Any], hook: SequentumHook, agent_id: int) -> None:
    """Warn if the service runs the agent by a schedule of its own."""
    # Mapped siblings run the same agent: the first of them warns for all.
    if getattr(context["ti"], "map_index", -1) < 1:
        hook.perform(warn_of_schedules(agent_id))
