"""What a run cost, where the key may read billing."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.lifecycle.procedure import Procedure, send

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.billing import RunCost
    from airflow_provider_sequentum.api.call import Call
    from airflow_provider_sequentum.api.parsing import Page
    from airflow_provider_sequentum.api.runs import Run

_RECORDS_PER_PAGE = 1000
_MOST_PAGES = 5


def read_cost(run: Run) -> Procedure[float | None]:
    """Return what ``run`` cost in credits; ``None`` if that isn't known (yet), or isn't for this key to know."""
    from airflow_provider_sequentum.api import billing

    begun, ended = run.begun, run.end_time
    if begun is None or ended is None:
        return None
    # Billing counts in days, and it isn't published of which time zone.
    first, last = (begun - timedelta(days=1)).date(), (ended + timedelta(days=1)).date()
    call = billing.list_agent_runs(run.agent_id, start_date=first, end_date=last, records_per_page=_RECORDS_PER_PAGE)
    try:
        costs = yield from _read_pages(call)
    except SequentumError:
        return None
    # One run may be billed in parts: time, proxies, export.
    parts = [cost.cost for cost in costs if cost.run_id == run.id and cost.cost is not None]
    return float(sum(parts)) if parts else None


def _read_pages(call: Call[Page[RunCost]]) -> Procedure[list[RunCost]]:
    """Return the costs on all pages; none of them if there are too many, because a part of a run's cost is no cost."""
    from airflow_provider_sequentum.api.parsing import next_page

    costs: list[RunCost] = []
    page = None
    for _ in range(_MOST_PAGES):
        previous, page = page, (yield from send(call))
        costs += page
        following = next_page(call, page, previous)
        if following is None:
            return costs
        call = following
    return []
