"""Billing: credits, spending, history, and the cost of agents and runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Query
from pydantic import Field

from airflow_provider_sequentum.sandbox.account_schemas import (
    AgentCost,
    AgentCostsResponse,
    AgentUsageResponse,
    CreditsResponse,
    HistoryResponse,
    RunCost,
    RunCostsResponse,
    SpendingResponse,
    TransactionResponse,
    UsageType,
)
from airflow_provider_sequentum.sandbox.engine import Engine
from airflow_provider_sequentum.sandbox.routes import TheEngine, errors
from airflow_provider_sequentum.sandbox.routes.dates import (
    DatePeriod,
    EndDate,
    StartDate,
    day_of,
    period,
    required,
)
from airflow_provider_sequentum.sandbox.runs import Observation, observe
from airflow_provider_sequentum.sandbox.schemas import ResponseBody
from airflow_provider_sequentum.sandbox.state import ORGANIZATION_ID, Transaction

Row = TypeVar("Row")

router = APIRouter(prefix="/billing", tags=["billing"])

# The only kind of use the sandbox charges for, as filters and as answers call it.
_RUN_USAGE, _RUN_USAGE_FILTER = "RunUsage", "Server Time"


class CostQuery(ResponseBody):
    """What the queries of costs have in common."""

    start_date: str | None = Field(None, description="Required. A date or a time, UTC.")
    end_date: str | None = Field(None, description="Required. A date or a time, UTC; included.")
    page_index: int = Field(1, ge=1, le=1_000_000)
    records_per_page: int = Field(50, ge=1, le=1000)
    sort_order: Literal["0", "1"] = "0"
    usage_types: list[str] | None = None

    @property
    def descending(self) -> bool:
        """Whether the largest comes first."""
        return self.sort_order == "1"

    def page(self, rows: Sequence[Row]) -> Sequence[Row]:
        """The rows of the page that is asked for."""
        first = (self.page_index - 1) * self.records_per_page
        return rows[first : first + self.records_per_page]


class AgentsQuery(CostQuery):
    """Query of the cost of agents."""

    sort_column: Literal["name", "cost"] = "name"
    name: str | None = None


class RunsQuery(CostQuery):
    """Query of the cost of runs."""

    sort_column: Literal["date", "cost", "duration"] = "date"


@router.get("/credits", responses=errors())
async def credits_left(engine: TheEngine) -> CreditsResponse:
    """Credits left."""
    now = engine.settle()
    return CreditsResponse(
        available_credits=engine.state.balance,
        organization_id=ORGANIZATION_ID,
        retrieved_at=engine.dialect.time(now) or "",
    )


@router.get("/spending", responses=errors())
async def spending(engine: TheEngine, start_date: StartDate = None, end_date: EndDate = None) -> SpendingResponse:
    """Credits spent in a period; by default since the week began."""
    now = engine.settle()
    wanted = period(start_date, end_date, day_of(now) - timedelta(days=now.weekday()), now, engine.dialect)
    start, end = _written(wanted, engine)
    return SpendingResponse(
        total_spent=_total(_debits(wanted, engine)),
        start_date=start,
        end_date=end,
        organization_id=ORGANIZATION_ID,
        current_balance=engine.state.balance,
    )


@router.get("/history", responses=errors())
async def history(
    engine: TheEngine,
    page_index: Annotated[int, Query(alias="pageIndex", ge=1, le=1_000_000)] = 1,
    records_per_page: Annotated[int, Query(alias="recordsPerPage", ge=1, le=100)] = 50,
) -> HistoryResponse:
    """Movements of credits, newest first."""
    engine.settle()
    movements = engine.state.transactions[::-1]
    first = (page_index - 1) * records_per_page
    return HistoryResponse(
        transactions=[
            TransactionResponse(
                **movement.model_dump(include={"id", "transaction_type", "amount", "balance", "message"}),
                created=engine.dialect.time(movement.created) or "",
            )
            for movement in movements[first : first + records_per_page]
        ],
        total_count=len(movements),
        page_index=page_index,
        records_per_page=records_per_page,
    )


@router.get("/agents", responses=errors())
async def agents(engine: TheEngine, query: Annotated[AgentsQuery, Query()]) -> AgentCostsResponse:
    """What the agents cost in a period."""
    wanted = _required_period(query.start_date, query.end_date, engine)
    debits = _debits(wanted, engine, query.usage_types)
    costs = [
        AgentCost(
            agent_id=agent.id,
            agent_name=agent.name,
            space_id=agent.space_id,
            cost=_total([debit for debit in debits if debit.agent_id == agent.id]),
        )
        for agent in tuple(engine.state.agents.values())
        if query.name is None or query.name.casefold() in agent.name.casefold()
    ]
    keys: dict[str, Callable[[AgentCost], Any]] = {
        "name": lambda cost: ((cost.agent_name or "").casefold(), cost.agent_id),
        "cost": lambda cost: (cost.cost, cost.agent_id),
    }
    costs.sort(key=keys[query.sort_column], reverse=query.descending)
    start, end = _written(wanted, engine)
    return AgentCostsResponse(
        agents=list(query.page(costs)),
        total_record_count=len(costs),
        total_cost=sum(cost.cost for cost in costs),
        start_date=start,
        end_date=end,
    )


@router.get("/agents/{agent_id}", responses=errors(404))
async def agent_usage(
    agent_id: int,
    engine: TheEngine,
    start_date: StartDate = None,
    end_date: EndDate = None,
    time_unit: Annotated[Literal["day", "month"], Query(alias="timeUnit")] = "day",
    usage_types: Annotated[list[str] | None, Query(alias="usageTypes")] = None,
) -> AgentUsageResponse:
    """What an agent cost over time."""
    engine.agent(agent_id)
    wanted = _required_period(start_date, end_date, engine)
    per_label: dict[str, float] = defaultdict(float)
    for debit in _debits(wanted, engine, usage_types):
        if debit.agent_id == agent_id:
            per_label[debit.created.strftime("%Y-%m-%d" if time_unit == "day" else "%Y-%m")] -= debit.amount
    labels = sorted(per_label)
    total = sum(per_label.values())
    start, end = _written(wanted, engine)
    return AgentUsageResponse(
        labels=labels,
        usage_types=[UsageType(type=_RUN_USAGE, data=[per_label[label] for label in labels], total_cost=total)],
        total_cost=total,
        start_date=start,
        end_date=end,
    )


@router.get("/agents/{agent_id}/runs", responses=errors(404))
async def agent_runs(agent_id: int, engine: TheEngine, query: Annotated[RunsQuery, Query()]) -> RunCostsResponse:
    """What an agent's runs cost in a period."""
    agent = engine.agent(agent_id)
    wanted = _required_period(query.start_date, query.end_date, engine)
    debits = [debit for debit in _debits(wanted, engine, query.usage_types) if debit.agent_id == agent_id]
    keys: dict[str, Callable[[Transaction], Any]] = {
        "date": lambda debit: debit.created,
        "cost": lambda debit: -debit.amount,
        "duration": lambda debit: _duration(debit, engine),
    }
    debits.sort(key=keys[query.sort_column], reverse=query.descending)
    page = [_run_cost(debit, engine) for debit in query.page(debits)]
    return RunCostsResponse(
        runs=page,
        total_record_count=len(debits),
        total_cost=sum(cost.cost for cost in page),
        agent_id=agent.id,
        agent_name=agent.name,
    )


def _observed(debit: Transaction, engine: Engine) -> Observation:
    run_id = debit.run_id or 0
    run = engine.state.runs.get(run_id) or engine.state.deleted_runs[run_id]
    return observe(run, engine.clock.now())


def _duration(debit: Transaction, engine: Engine) -> float:
    seen = _observed(debit, engine)
    return ((seen.end_time or engine.clock.now()) - (seen.start_time or debit.created)).total_seconds()


def _run_cost(debit: Transaction, engine: Engine) -> RunCost:
    seen, write = _observed(debit, engine), engine.dialect.time
    return RunCost(
        run_id=debit.run_id or 0,
        date=write(debit.created, first=True) or "",
        start_time=write(seen.start_time),
        end_time=write(seen.end_time),
        cost=-debit.amount,
        billing_type=_RUN_USAGE,
    )


def _required_period(start: str | None, end: str | None, engine: Engine) -> DatePeriod:
    now = engine.settle()
    return period(required(start, "startDate"), required(end, "endDate"), now, now, engine.dialect)


def _debits(wanted: DatePeriod, engine: Engine, usage_types: list[str] | None = None) -> list[Transaction]:
    engine.settle()
    filters = [part.strip() for text in usage_types or [] for part in text.split(",")]
    if filters and not {_RUN_USAGE, _RUN_USAGE_FILTER} & set(filters):
        return []
    return [t for t in engine.state.transactions if t.transaction_type == "Debit" and t.created in wanted]


def _total(debits: list[Transaction]) -> float:
    return -sum(debit.amount for debit in debits)


def _written(wanted: DatePeriod, engine: Engine) -> tuple[str, str]:
    return engine.dialect.time(wanted.start, first=True) or "", engine.dialect.time(wanted.end) or ""
