"""Billing: credits, spending, and what agents and their runs cost.

Rests on the pages below https://docs.sequentum.com/api-reference/billing. Amounts are ``Decimal``, in the
account's credits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from airflow_provider_sequentum.api.call import Call, Day, Id, as_id
from airflow_provider_sequentum.api.parsing import (
    ApiAmount,
    ApiId,
    ApiMessage,
    ApiModel,
    ApiTime,
    Page,
    read_list,
    read_one,
)

UsageType = Literal["Server Time", "Export GB", "Agent Inputs", "Proxy Data", "Export CPM"]
"""Names the filters take. Answers name the same things differently, such as ``RunUsage``."""


class Credits(ApiModel):
    """What is left to spend."""

    available_credits: ApiAmount
    organization_id: int | None = None
    retrieved_at: ApiTime | None = None


class Spending(ApiModel):
    """What was spent between two dates."""

    total_spent: ApiAmount
    start_date: ApiTime | None = None
    end_date: ApiTime | None = None
    organization_id: int | None = None
    current_balance: ApiAmount | None = None


class Transaction(ApiModel):
    """A movement of credits. ``transaction_type`` is e.g. ``Credit``, ``Debit``, ``Refund``, ``Expiration``."""

    id: ApiId
    transaction_type: str | None = None
    amount: ApiAmount | None = None
    balance: ApiAmount | None = None
    created: ApiTime | None = None
    expires_at: ApiTime | None = None
    message: ApiMessage | None = None


class AgentCost(ApiModel):
    """What one agent cost."""

    agent_id: ApiId
    agent_name: str | None = None
    cost: ApiAmount | None = None
    space_id: int | None = None


class UsageCost(ApiModel):
    """Costs of one usage type, one number per label of the report."""

    type: str | None = None
    data: list[Any] = Field(default_factory=list)
    total_cost: ApiAmount | None = None


class AgentCostReport(ApiModel):
    """What one agent cost, by day or month (``labels``) and by usage type."""

    labels: list[str] = Field(default_factory=list)
    usage_types: list[UsageCost] = Field(default_factory=list)
    total_cost: ApiAmount | None = None
    start_date: ApiTime | None = None
    end_date: ApiTime | None = None


class RunCost(ApiModel):
    """What one run cost."""

    run_id: ApiId
    date: ApiTime | None = None
    start_time: ApiTime | None = None
    end_time: ApiTime | None = None
    cost: ApiAmount | None = None
    billing_type: str | None = None


def credits() -> Call[Credits]:  # noqa: A001  # the API's own word, used as billing.credits()
    """Read the credits that are left."""
    return Call.get("read the available credits", "/billing/credits", read_one(Credits))


def spending(start_date: Day | None = None, end_date: Day | None = None) -> Call[Spending]:
    """Read what was spent.

    :param start_date: from when; the server's default is the start of the current week.
    :param end_date: until when; the server's default is now.
    """
    path = "/billing/spending"
    return Call.get("read the spending", path, read_one(Spending), startDate=start_date, endDate=end_date)


def history(page: int = 1, records_per_page: int = 50) -> Call[Page[Transaction]]:
    """List movements of credits.

    :param page: number of the page, from 1.
    :param records_per_page: length of a page, at most 100.
    """
    return Call.get(
        "list the movements of credits",
        "/billing/history",
        read_list(Transaction),
        pageIndex=page,
        recordsPerPage=records_per_page,
    )


def list_agents(
    start_date: Day,
    end_date: Day,
    *,
    name: str | None = None,
    usage_types: Sequence[UsageType] | None = None,
    sort_column: Literal["name", "cost"] | None = None,
    descending: bool | None = None,
    page: int = 1,
    records_per_page: int = 50,
) -> Call[Page[AgentCost]]:
    """List what agents cost.

    :param name: part of the agent's name.
    :param usage_types: count these only.
    :param sort_column: what to sort by.
    :param descending: sort from the largest down.
    :param page: number of the page, from 1.
    :param records_per_page: length of a page, at most 1000.
    """
    return Call.get(
        "list what agents cost",
        "/billing/agents",
        read_list(AgentCost),
        startDate=start_date,
        endDate=end_date,
        pageIndex=page,
        recordsPerPage=records_per_page,
        sortColumn=sort_column,
        sortOrder=None if descending is None else int(descending),
        name=name,
        usageTypes=_joined(usage_types),
    )


def agent_report(
    agent_id: Id,
    start_date: Day,
    end_date: Day,
    *,
    time_unit: Literal["day", "month"] | None = None,
    usage_types: Sequence[UsageType] | None = None,
) -> Call[AgentCostReport]:
    """Read what one agent cost over time.

    :param time_unit: length of the steps.
    :param usage_types: count these only.
    """
    agent = as_id(agent_id, "agent_id")
    return Call.get(
        f"read what agent {agent} cost",
        f"/billing/agents/{agent}",
        read_one(AgentCostReport, agentId=agent),
        startDate=start_date,
        endDate=end_date,
        timeUnit=time_unit,
        usageTypes=_joined(usage_types),
    )


def list_agent_runs(
    agent_id: Id,
    start_date: Day,
    end_date: Day,
    *,
    sort_column: Literal["date", "cost", "duration"] | None = None,
    usage_types: Sequence[UsageType] | None = None,
    page: int = 1,
    records_per_page: int = 50,
) -> Call[Page[RunCost]]:
    """List what the runs of an agent cost.

    :param sort_column: what to sort by.
    :param usage_types: count these only.
    :param page: number of the page, from 1.
    :param records_per_page: length of a page.
    """
    agent = as_id(agent_id, "agent_id")
    return Call.get(
        f"list what the runs of agent {agent} cost",
        f"/billing/agents/{agent}/runs",
        read_list(RunCost, agentId=agent),
        startDate=start_date,
        endDate=end_date,
        pageIndex=page,
        recordsPerPage=records_per_page,
        sortColumn=sort_column,
        usageTypes=_joined(usage_types),
    )


def _joined(usage_types: Sequence[UsageType] | None) -> str | None:
    # How several are written is not published; a comma is the common way.
    return ",".join(usage_types) if usage_types else None
