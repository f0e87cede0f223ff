"""Billing: credits, spending, and what agents and their runs cost.

Based on the pages below https://docs.sequentum.com/api-reference/billing. Amounts are ``Decimal``, in credits of the
account.
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
"""Names that the filters accept. Responses use other names for the same things, such as ``RunUsage``."""


class Credits(ApiModel):
    """The credits that are left."""

    available_credits: ApiAmount
    organization_id: int | None = None
    retrieved_at: ApiTime | None = None


class Spending(ApiModel):
    """The credits spent between two dates."""

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
    """The cost of an agent."""

    agent_id: ApiId
    agent_name: str | None = None
    cost: ApiAmount | None = None
    space_id: int | None = None


class UsageCost(ApiModel):
    """The costs of one usage type, with one number per label of the report."""

    type: str | None = None
    data: list[Any] = Field(default_factory=list)
    total_cost: ApiAmount | None = None


class AgentCostReport(ApiModel):
    """The cost of an agent, by day or month (``labels``) and by usage type."""

    labels: list[str] = Field(default_factory=list)
    usage_types: list[UsageCost] = Field(default_factory=list)
    total_cost: ApiAmount | None = None
    start_date: ApiTime | None = None
    end_date: ApiTime | None = None


class RunCost(ApiModel):
    """The cost of a run."""

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
    """Read how many credits were spent.

    :param start_date: start of the period; the server's default is the start of the current week.
    :param end_date: end of the period; the server's default is now.
    """
    path = "/billing/spending"
    return Call.get("read the spending", path, read_one(Spending), startDate=start_date, endDate=end_date)


def history(page: int = 1, records_per_page: int = 50) -> Call[Page[Transaction]]:
    """List movements of credits.

    :param page: number of the page, from 1.
    :param records_per_page: number of records per page, at most 100.
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
    """List the costs of agents.

    :param name: part of the agent's name.
    :param usage_types: only count these.
    :param sort_column: what to sort by.
    :param descending: sort in descending order.
    :param page: number of the page, from 1.
    :param records_per_page: number of records per page, at most 1000.
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
    """Read the cost of an agent over time.

    :param time_unit: length of each interval.
    :param usage_types: only count these.
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
    """List the costs of an agent's runs.

    :param sort_column: what to sort by.
    :param usage_types: only count these.
    :param page: number of the page, from 1.
    :param records_per_page: number of records per page.
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
    # The format of several types is not published; commas are the usual separator.
    return ",".join(usage_types) if usage_types else None
