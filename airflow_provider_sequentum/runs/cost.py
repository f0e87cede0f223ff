"""The cost of runs: of a single run, and of all runs of a task over its attempts.

Based on https://docs.sequentum.com/api-reference/billing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from airflow_provider_sequentum import api
from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.api.parsing import Page, next_page
from airflow_provider_sequentum.jobs.port import OPTIONAL_SHARE
from airflow_provider_sequentum.runs.describe import format_credits
from airflow_provider_sequentum.runs.record import MAX_REPLACED

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.billing import RunCost
    from airflow_provider_sequentum.api.runs import Run
    from airflow_provider_sequentum.jobs.port import Sender
    from airflow_provider_sequentum.runs.record import RunRecord

BILLING_PAGE = 1000
"""The largest page that billing returns, in entries."""

_MAX_BILLING_PAGES = 5

SETTLING = 10.0
"""Seconds after which the bill of a run that has just ended is read again, if it was missing."""

log = logging.getLogger(__name__)


def read_cost(port: Sender, run: Run) -> float | None:
    """Return what a run cost in credits; ``None`` if that is not known yet, or the key may not read it."""
    if run.started_at is None or run.end_time is None:
        return None
    cost = (read_costs(port, run.agent_id, run.started_at, run.end_time) or {}).get(run.id)
    return None if cost is None else float(cost)


def read_costs(port: Sender, agent_id: int, first: datetime, last: datetime) -> dict[int, Decimal] | None:
    """Return what the runs of an agent cost between two times, by run id; ``None`` if it cannot be read in full."""
    # Billing uses days of an undocumented time zone.
    start_date, end_date = (first - timedelta(days=1)).date(), (last + timedelta(days=1)).date()
    call = api.billing.list_agent_runs(
        agent_id, start_date=start_date, end_date=end_date, records_per_page=BILLING_PAGE
    )
    costs: dict[int, Decimal] = {}
    page: Page[RunCost] | None = None
    try:
        for _ in range(_MAX_BILLING_PAGES):
            previous, page = page, port.send(call, budget_share=OPTIONAL_SHARE, within=60.0)
            # One run may be billed in parts: time, proxies, export.
            if page.unreadable:
                return None
            for row in page:
                if row.cost is not None:
                    costs[row.run_id] = costs.get(row.run_id, Decimal(0)) + row.cost
            following = next_page(call, page, previous)
            if following is None:
                return costs
            call = following
    except SequentumError as error:
        log.info("Could not read the cost of the runs of agent %s. (%s)", agent_id, error)
    return None  # with rows or pages left unread, the sums would only be parts of the costs


def read_task_cost(port: Sender, record: RunRecord, run: Run, settling: float) -> dict[str, Any]:
    """Return the cost of a run and of all runs of its task, as fields of the run's summary.

    :param settling: seconds after which a missing bill is read once more, because it appears a moment after the end of
        the run; 0 to read it only once.
    """
    costs = None
    if run.started_at is not None and run.end_time is not None:
        first = min(record.first_requested_at or run.started_at, run.started_at)
        costs = read_costs(port, run.agent_id, first, run.end_time)
        if costs is not None and run.id not in costs and settling:
            port.sleep(settling)
            costs = read_costs(port, run.agent_id, first, run.end_time)
    own, total = (costs or {}).get(run.id), task_cost(record, costs or {})
    if own is None:
        log.info("The cost of run %s is not known yet.", run.id)
    else:
        more = f"; the task's {len(total['runs'])} billed runs cost {format_credits(total['credits'])}"
        log.info("Run %s cost %s%s.", run.id, format_credits(own), more if len(total["runs"]) > 1 else "")
    return {"cost": None if own is None else float(own), "task_cost": total}


def task_cost(record: RunRecord, costs: Mapping[int, Decimal]) -> dict[str, Any]:
    """Add up the cost of a task's runs, over its attempts, restarts and clears.

    :return: ``credits``; ``runs``, the ids of the runs in the sum; and ``is_complete``, which is false if a run is not
        billed yet, or if the task may have had runs that are not recorded.
    """
    own = record.all_runs
    billed = [run_id for run_id in own if run_id in costs]
    is_complete = len(billed) == len(own) < MAX_REPLACED and not record.may_lack_runs
    return {
        "credits": float(sum((costs[run_id] for run_id in billed), Decimal(0))),
        "runs": billed,
        "is_complete": is_complete,
    }
