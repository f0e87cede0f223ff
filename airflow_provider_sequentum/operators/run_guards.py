"""What a task looks at before it starts a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_sequentum.exceptions import CreditsTooLow
from airflow_provider_sequentum.hooks.sequentum import SequentumHook
from airflow_provider_sequentum.lifecycle.run_guards import CreditsShort, check_credits, warn_of_schedules


def look_before_start(
    context: Mapping[str, Any], hook: SequentumHook, agent_id: int, min_credits: float | None
) -> None:
    """
    Warn if the service runs the agent by a schedule of its own, and check that the run can be paid.

    :param min_credits: the fewest credits that will do; ``None`` doesn't ask.
    :raises CreditsTooLow: fewer are left.
    """
    # Mapped siblings run the same agent: the first of them warns for all.
    if getattr(context["ti"], "map_index", -1) < 1:
        hook.perform(warn_of_schedules(agent_id))
    require_credits(hook, f"Agent {agent_id}", min_credits)


def require_credits(hook: SequentumHook, what: str, min_credits: float | None) -> None:
    """
    Check that enough credits are left.

    :param what: what would be started.
    :param min_credits: the fewest credits that will do; ``None`` doesn't ask.
    :raises CreditsTooLow: fewer are left.
    """
    if min_credits is None:
        return
    try:
        hook.perform(check_credits(min_credits))
    except CreditsShort as error:
        raise CreditsTooLow(
            f"{what} was not started: {error}. Buy credits, then clear the task. "
            f"(connection {hook.sequentum_conn_id!r})"
        ) from error
