"""How runs, agents and files are written on the wire."""

from __future__ import annotations

from datetime import datetime

from airflow_provider_sequentum.sandbox.agents import Agent, Version
from airflow_provider_sequentum.sandbox.engine import Engine
from airflow_provider_sequentum.sandbox.run_plan import RunStatus
from airflow_provider_sequentum.sandbox.runs import Run, observe
from airflow_provider_sequentum.sandbox.schemas import AgentResponse, RunResponse, Status, VersionResponse
from airflow_provider_sequentum.sandbox.state import ORGANIZATION_ID, ORGANIZATION_NAME

_RECORDS_PER_PAGE, _BYTES_PER_PAGE = 20, 48_000


def run_response(run: Run, engine: Engine, now: datetime, *, just_started: bool = False) -> RunResponse:
    """A run as the service writes it. The response to a start has no ``tableType`` yet."""
    seen, dialect, options = observe(run, now), engine.dialect, run.options
    pages = -(-seen.data_count // _RECORDS_PER_PAGE)
    runtime = None
    if seen.start_time is not None:
        runtime = max(0, int(((seen.end_time or now) - seen.start_time).total_seconds()))
    return RunResponse(
        id=run.id,
        config_id=run.agent_id,
        config_name=engine.state.agents[run.agent_id].name,
        space_id=run.space_id,
        organization_id=ORGANIZATION_ID,
        organization_name=ORGANIZATION_NAME,
        sequence=run.sequence,
        parallelism=options.parallelism,
        parallel_max_concurrency=options.parallel_max_concurrency,
        parallel_export=options.parallel_export,
        parallel_set=None,
        start_time=dialect.time(seen.start_time),
        end_time=dialect.time(seen.end_time),
        created=dialect.time(run.created, first=True),
        status=wire_status(seen.status, engine),
        message=seen.message,
        config_version=run.agent_version,
        action_count=seen.data_count + pages,
        page_count=pages,
        dynamic_page_count=0,
        request_count=pages,
        data_count=seen.data_count,
        input_count=None,
        error_count=seen.error_count,
        export_count=seen.export_count,
        traffic=pages * _BYTES_PER_PAGE if seen.start_time else None,
        run_time_sec=runtime,
        server_name="sandbox" if seen.start_time else None,
        table_type=None if just_started else seen.table_type,
        tag=None,
    )


def wire_status(status: RunStatus | int | str, engine: Engine) -> Status:
    """A run status as the dialect writes it."""
    if isinstance(status, str):
        return status
    match engine.dialect.statuses:
        case "numeric_string":
            return str(int(status))
        case "name":
            return status.name if isinstance(status, RunStatus) else str(status)
    return int(status)


def agent_response(agent: Agent, engine: Engine) -> AgentResponse:
    """An agent as the service writes it."""
    dialect, runs = engine.dialect, engine.runs_of(agent.id)
    last = observe(runs[0], engine.clock.now()).status if runs else None
    return AgentResponse(
        id=agent.id,
        name=agent.name,
        description=agent.description,
        documentation=None,
        icon=None,
        image=None,
        start_url=agent.start_url,
        agent_templates=None,
        config_type=agent.config_type,
        input_parameters=agent.input_parameters,
        is_active=not agent.archived,
        status=None if last is None else wire_status(last, engine),
        validation_status=3,
        version=agent.active_version,
        proxy_pool_id=None,
        space_id=agent.space_id,
        user_id=None,
        created=dialect.time(agent.created, first=True),
        updated=dialect.time(agent.updated),
        last_activity=dialect.time(runs[0].created) if runs else None,
    )


def version_response(version: Version, engine: Engine) -> VersionResponse:
    """A version of an agent as the service writes it."""
    return VersionResponse(
        version=version.version,
        user_name=version.user_name,
        created=engine.dialect.time(version.created, first=True) or "",
        comments=version.comments,
        file_size=version.file_size,
    )
