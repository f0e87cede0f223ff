"""Analytics: summaries of runs and records, diagnostics of a run, an agent's latest failure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from fastapi import APIRouter, Query

from airflow_provider_sequentum.sandbox.account_schemas import (
    Diagnostics,
    FailedRunDetail,
    NoFailure,
    RecordsSummary,
    RunsSummary,
    RunStats,
)
from airflow_provider_sequentum.sandbox.engine import Engine
from airflow_provider_sequentum.sandbox.presenter import run_response
from airflow_provider_sequentum.sandbox.problems import Problem
from airflow_provider_sequentum.sandbox.routes import TheEngine, errors
from airflow_provider_sequentum.sandbox.routes.dates import DatePeriod, EndDate, StartDate, day_of, end_of_day, period
from airflow_provider_sequentum.sandbox.run_plan import SUCCEEDED, RunStatus
from airflow_provider_sequentum.sandbox.runs import Observation, Run, observe

router = APIRouter(prefix="/analytics", tags=["analytics"])

_FAILED = frozenset({RunStatus.Failure, RunStatus.Failed})
_QUEUED = frozenset({RunStatus.Queuing, RunStatus.Waiting})
_GROUPS = ("Completed", "CompletedWithErrors", "Failed", "Running", "Queued", "Stopped", "Skipped")


@router.get("/runs/summary", responses=errors())
async def runs_summary(
    engine: TheEngine,
    start_date: StartDate = None,
    end_date: EndDate = None,
    status: Annotated[str | None, Query(description="One of " + ", ".join(_GROUPS))] = None,
    include_details: Annotated[bool, Query(alias="includeDetails")] = False,
) -> RunsSummary:
    """How many runs that were created in a period ended how; today by default."""
    if status is not None and status.casefold() not in {group.casefold() for group in _GROUPS}:
        raise Problem(400, f"status must be one of {', '.join(_GROUPS)}.")
    wanted = _today(start_date, end_date, engine)
    seen = [(run, look) for run, look in _observed(_runs(engine), wanted, engine)]
    if status is not None:
        seen = [(run, look) for run, look in seen if group_of(look).casefold() == status.casefold()]
    counts = {group: sum(group_of(look) == group for _, look in seen) for group in _GROUPS}
    failed = [_failed_detail(run, look, engine) for run, look in seen if look.status in _FAILED]
    write = engine.dialect.time
    return RunsSummary(
        start_date=write(wanted.start, first=True) or "",
        end_date=write(wanted.end) or "",
        total_runs=len(seen),
        completed_runs=counts["Completed"],
        failed_runs=counts["Failed"],
        completed_with_errors_runs=counts["CompletedWithErrors"],
        running_runs=counts["Running"],
        queued_runs=counts["Queued"],
        stopped_runs=counts["Stopped"],
        failed_run_details=failed if include_details else None,
    )


@router.get("/records/summary", responses=errors(404))
async def records_summary(
    engine: TheEngine,
    start_date: StartDate = None,
    end_date: EndDate = None,
    agent_id: Annotated[int | None, Query(alias="agentId")] = None,
) -> RecordsSummary:
    """How much was extracted in a period, by one agent when asked; today by default."""
    if agent_id is not None:
        engine.agent(agent_id)
    wanted, now = _today(start_date, end_date, engine), engine.settle()
    runs = [run for run in _runs(engine) if run.created in wanted and agent_id in (None, run.agent_id)]
    responses = [run_response(run, engine, now) for run in runs]
    return RecordsSummary(
        total_records_extracted=sum(response.data_count for response in responses),
        total_records_exported=sum(response.export_count or 0 for response in responses),
        total_errors=sum(response.error_count for response in responses),
        total_page_loads=sum(response.page_count for response in responses),
        run_count=len(responses),
        agent_id=agent_id,
        start_date=engine.dialect.time(wanted.start, first=True) or "",
        end_date=engine.dialect.time(wanted.end) or "",
    )


@router.get("/agents/{agent_id}/runs/{run_id}/diagnostics", responses=errors(404))
async def diagnostics(agent_id: int, run_id: int, engine: TheEngine) -> Diagnostics:
    """Why a run went as it did."""
    return _diagnostics(engine.run(agent_id, run_id), engine)


@router.get("/agents/{agent_id}/latest-failure", responses=errors(404))
async def latest_failure(agent_id: int, engine: TheEngine) -> Diagnostics | NoFailure:
    """Why the agent's latest failed run failed, or a message that none did."""
    engine.agent(agent_id)
    now = engine.settle()
    for run in engine.runs_of(agent_id):
        if observe(run, now).status in _FAILED:
            return _diagnostics(run, engine)
    return NoFailure(message=f"Agent {agent_id} has no failed run.")


def group_of(seen: Observation) -> str:
    """The name under which analytics count a run."""
    if seen.status in SUCCEEDED:
        return "CompletedWithErrors" if seen.error_count else "Completed"
    if seen.status in _FAILED:
        return "Failed"
    if seen.status in _QUEUED:
        return "Queued"
    if seen.status in (RunStatus.Stopped, RunStatus.Skipped):
        return seen.status_name
    return "Running"


def _today(start: str | None, end: str | None, engine: Engine) -> DatePeriod:
    now = engine.settle()
    return period(start, end, day_of(now), end_of_day(now), engine.dialect)


def _runs(engine: Engine) -> tuple[Run, ...]:
    return tuple(engine.state.runs.values())


def _observed(runs: Iterable[Run], wanted: DatePeriod, engine: Engine) -> list[tuple[Run, Observation]]:
    now = engine.settle()
    return [(run, observe(run, now)) for run in runs if run.created in wanted]


def _failed_detail(run: Run, seen: Observation, engine: Engine) -> FailedRunDetail:
    return FailedRunDetail(
        run_id=run.id,
        agent_id=run.agent_id,
        agent_name=engine.state.agents[run.agent_id].name,
        start_time=engine.dialect.time(seen.start_time),
        end_time=engine.dialect.time(seen.end_time),
        status=_number(seen),
        error_message=seen.message,
        space_id=run.space_id,
        space_name=engine.state.spaces[run.space_id].name,
    )


def _diagnostics(run: Run, engine: Engine) -> Diagnostics:
    now = engine.settle()
    seen, response = observe(run, now), run_response(run, engine, now)
    failed = seen.status in _FAILED
    return Diagnostics(
        run_id=run.id,
        agent_id=run.agent_id,
        agent_name=response.config_name,
        status=_number(seen),
        error_message=seen.message if failed else None,
        start_time=response.start_time,
        end_time=response.end_time,
        runtime_seconds=response.run_time_sec,
        stats=RunStats.model_validate(response.model_dump(by_alias=False)),
        possible_causes=["The website has changed.", "The success criteria are too strict."] if failed else [],
        suggested_actions=["Look at the run's log.", "Restart the run."] if failed else [],
    )


def _number(seen: Observation) -> int:
    """Analytics answer with the integer, whatever else a run may show."""
    return int(seen.status) if isinstance(seen.status, int) else int(RunStatus.Running)
