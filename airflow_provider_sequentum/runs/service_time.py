"""The time by the service's clock. The ``Date`` of a response may come from another clock, such as a gateway's."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.jobs.port import OPTIONAL_SHARE
from airflow_provider_sequentum.runs.describe import format_time

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.runs import Run
    from airflow_provider_sequentum.jobs.port import Sender

MAX_AHEAD = timedelta(minutes=10)
"""How far a ``Date`` may be ahead of the worker's clock before it has to be confirmed, by default."""

DATE_TOLERANCE = timedelta(minutes=5)
"""How much later than the ``Date`` of a response a run in it may have been created, because clocks differ a little."""

MAX_APART = timedelta(minutes=1)
"""How far a ``Date`` and the worker's clock may differ before the ``Date`` has to be confirmed."""

log = logging.getLogger(__name__)


def is_of_another_clock(served_at: datetime, seen: Iterable[Run]) -> bool:
    """Return whether the ``Date`` of a response comes from another clock than the times of the runs.

    :param seen: the runs in that response. None of them can have been created after it.
    """
    return any(run.created is not None and run.created > served_at + DATE_TOLERANCE for run in seen)


def confirmed_time(port: Sender, served_at: datetime, most_ahead: timedelta = MAX_AHEAD) -> datetime:
    """Return a time that the service's clock has certainly reached, as far as is known.

    A gateway with a wrong clock may send a ``Date`` in the future. If it is ahead of the worker's clock, the time that
    the service itself writes into a response has to confirm it. Otherwise the worker's clock is used.

    :param served_at: the time by the ``Date`` of a response.
    :param most_ahead: how far it may be ahead of the worker's clock before it has to be confirmed.
    """
    if served_at <= port.now() + most_ahead:
        return served_at
    stated: datetime | None = None
    try:
        stated = _stated_time(port)
    except SequentumError as error:
        log.info("The time by the service's clock could not be confirmed. (%s)", error)
    now = port.now()
    if stated is not None and stated > now + most_ahead:
        return min(served_at, stated)
    log.warning(
        "The service's responses are dated %s, but it is %s here. Nothing confirms that date, so the earlier time is "
        "used.",
        format_time(served_at),
        format_time(now),
    )
    return now


def clock_ahead(port: Sender, served_at: datetime | None) -> timedelta:
    """Return how far the clock of the runs' times is ahead of the worker's, as far as is known.

    A ``Date`` that differs much from the worker's clock, in either direction, may come from a gateway. Then the time
    that the service itself writes into a response is used or, if there is none, the worker's clock.

    :param served_at: the time by the ``Date`` of a response that has just been read.
    :raises SequentumError: the service could not be reached.
    """
    ahead = timedelta(0) if served_at is None else served_at - port.now()
    if abs(ahead) <= MAX_APART:
        return ahead
    try:
        stated = _stated_time(port)
    except SequentumError as error:
        if error.transient:
            raise
        log.info("The time by the service's clock could not be confirmed. (%s)", error)
        stated = None
    if stated is not None:
        return stated - port.now()
    log.warning(
        "The service's responses are dated %s, and nothing confirms that date. Airflow's clock is used.",
        format_time(served_at),
    )
    return timedelta(0)


def _stated_time(port: Sender) -> datetime | None:
    """Return the time that the service itself writes into a response; ``None`` if it does not state one."""
    # Rarely needed, and the import would slow down the process of every task.
    from airflow_provider_sequentum.api import billing

    return port.send(billing.credits(), budget_share=OPTIONAL_SHARE).retrieved_at
