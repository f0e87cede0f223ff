"""What is looked at before a run is started: whether the service starts the agent too, and whether it can be paid."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.lifecycle.procedure import Procedure, say, send, warn

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.schedules import Schedule


class CreditsShort(Exception):
    """Fewer credits are left than the task asks for."""

    def __init__(self, available: Decimal, wanted: float) -> None:
        super().__init__(f"{available} credits are left, fewer than min_credits={wanted:g}")


def warn_of_schedules(agent_id: int) -> Procedure[None]:
    """Warn if the service runs the agent by a schedule of its own. Not being able to find out is no reason to fail."""
    from airflow_provider_sequentum.api import schedules

    try:
        listed = yield from send(schedules.list_schedules(agent_id))
    except SequentumError as error:
        yield from say(f"Whether agent {agent_id} has a schedule in Sequentum Cloud could not be found out. ({error})")
        return
    enabled = [schedule for schedule in listed if schedule.is_enabled]
    if enabled:
        names = ", ".join(_described(schedule) for schedule in enabled[:5])
        yield from warn(
            f"Agent {agent_id} has {len(enabled)} enabled schedules in Sequentum Cloud as well: {names}. It runs twice "
            "unless that is meant to be; disable one of the two."
        )


def check_credits(min_credits: float | None) -> Procedure[None]:
    """
    Check that enough credits are left.

    :param min_credits: the fewest that will do; ``None`` doesn't ask.
    :raises CreditsShort: fewer are left.
    :raises SequentumError: the balance can't be read. Whoever asks for the check doesn't want to start without it.
    """
    from airflow_provider_sequentum.api import billing

    if min_credits is None:
        return
    available = (yield from send(billing.credits())).available_credits
    if available < Decimal(str(min_credits)):
        raise CreditsShort(available, min_credits)
    yield from say(f"{available} credits are left.")


def _described(schedule: Schedule) -> str:
    next_time = f", next at {schedule.next_run_time}" if schedule.next_run_time else ""
    return f"{schedule.name or schedule.id!r} ({schedule.schedule or 'once'}{next_time})"
