"""Bodies on the wire: schedules, spaces, analytics, billing."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StrictBool, StrictInt, StrictStr

from airflow_provider_sequentum.sandbox.schedules import Period, ScheduleType
from airflow_provider_sequentum.sandbox.schemas import Body, Int32, ResponseBody, Status, Time


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


class ScheduleBody(Body):
    """A schedule to be created or to replace another."""

    name: StrictStr = Field(min_length=1)
    schedule_type: ScheduleType = ScheduleType.Manual
    cron_expression: StrictStr | None = None
    local_schedule: StrictStr | None = None
    timezone: StrictStr | None = None
    start_time: Annotated[datetime, AfterValidator(_utc)] | None = None
    run_every_count: Annotated[StrictInt, Field(ge=1, le=10_000)] | None = None
    run_every_period: Period | None = None
    input_parameters: StrictStr | None = None
    is_enabled: StrictBool = True
    parallelism: Annotated[StrictInt, Field(ge=1, le=50)] | None = None
    parallel_max_concurrency: Annotated[StrictInt, Field(ge=1, le=50)] | None = None
    parallel_export: Literal["Combined", "Separated"] | None = None
    proxy_pool_id: Int32 | None = None
    server_group_id: Int32 | None = None
    log_level: Literal["Fatal", "Error", "Warning", "Info"] | None = None
    log_mode: Literal["Text", "TextAndHtml"] | None = None
    is_exclusive: StrictBool | None = None
    is_wait_on_failure: StrictBool | None = None


class ScheduleResponse(ResponseBody):
    """A schedule."""

    id: int
    config_id: int
    config_name: str | None
    name: str
    schedule_type: int
    cron_expression: str | None
    schedule: str | None
    local_schedule: str | None
    timezone: str | None
    start_time: Time | None
    next_run_time: Time | None
    run_every_count: int | None
    run_every_period: int | None
    input_parameters: str | None
    is_enabled: bool
    parallelism: int | None
    parallel_max_concurrency: int | None
    parallel_export: str | None
    proxy_pool_id: int | None
    server_group_id: int | None
    log_level: str | None
    log_mode: str | None
    is_exclusive: bool | None
    is_wait_on_failure: bool | None
    created: Time | None
    updated: Time | None
    tag: str | None = None


class UpcomingResponse(ResponseBody):
    """A time at which a schedule will fire."""

    schedule_id: int
    agent_id: int
    agent_name: str | None
    schedule_name: str | None
    next_run_time: Time | None
    timezone: str | None
    is_enabled: bool
    schedule: str | None
    schedule_type: int
    run_every_count: int | None
    run_every_period: int | None
    space_id: int
    space_name: str | None
    approval_status: int
    last_run_id: int | None
    last_run_time: Time | None
    last_run_status: Status | None
    last_run_message: str | None


class SpaceResponse(ResponseBody):
    """A space."""

    id: int
    name: str
    organization_id: int
    created: Time | None
    is_default_access: bool
    scope: Literal["Private", "Public", "Global"]
    run_retention_hours: int | None = None
    initiated_by: str | None = None
    access: list[dict[str, str]] = Field(default_factory=list)


class AgentSummary(ResponseBody):
    """An agent of a space."""

    id: int
    name: str | None
    description: str | None
    config_type: int
    status: Status | None
    validation_status: int | None
    last_activity: Time | None
    created: Time | None
    updated: Time | None
    version: int
    is_archived: bool
    approval_status: int = 2
    labels: list[dict[str, int | str]] = Field(default_factory=list)


class RunAllBody(Body):
    """Body of run-all."""

    input_parameters: StrictStr | None = None


class RunAllResult(ResponseBody):
    """What became of one agent in run-all."""

    agent_id: int
    agent_name: str | None
    success: bool
    run_id: int | None
    error_message: str | None


class RunAllResponse(ResponseBody):
    """What became of run-all."""

    space_id: int
    space_name: str | None
    total_agents: int
    agents_started: int
    agents_failed: int
    results: list[RunAllResult]


class FailedRunDetail(ResponseBody):
    """A failed run in the summary of runs."""

    run_id: int
    agent_id: int
    agent_name: str | None
    start_time: Time | None
    end_time: Time | None
    status: int
    error_message: str | None
    space_id: int
    space_name: str | None


class RunsSummary(ResponseBody):
    """How many runs ended how."""

    start_date: Time
    end_date: Time
    total_runs: int
    completed_runs: int
    failed_runs: int
    completed_with_errors_runs: int
    running_runs: int
    queued_runs: int
    stopped_runs: int
    failed_run_details: list[FailedRunDetail] | None


class RecordsSummary(ResponseBody):
    """How much was extracted."""

    total_records_extracted: int
    total_records_exported: int
    total_errors: int
    total_page_loads: int
    run_count: int
    agent_id: int | None
    start_date: Time
    end_date: Time


class RunStats(ResponseBody):
    """Counts of a diagnosed run."""

    data_count: int
    input_count: int | None
    error_count: int
    page_count: int
    export_count: int | None
    traffic: int | None


class Diagnostics(ResponseBody):
    """Why a run went as it did."""

    run_id: int
    agent_id: int
    agent_name: str | None
    status: int
    error_message: str | None
    start_time: Time | None
    end_time: Time | None
    runtime_seconds: float | None
    stats: RunStats
    possible_causes: list[str]
    suggested_actions: list[str]


class NoFailure(ResponseBody):
    """What is said of an agent that has no failed run; its form is not published."""

    message: str


class CreditsResponse(ResponseBody):
    """Credits left."""

    available_credits: float
    organization_id: int
    retrieved_at: Time


class SpendingResponse(ResponseBody):
    """Credits spent."""

    total_spent: float
    start_date: Time
    end_date: Time
    organization_id: int
    current_balance: float


class TransactionResponse(ResponseBody):
    """A movement of credits."""

    id: int
    transaction_type: Literal["Initial", "Credit", "Debit", "Refund", "Expiration", "Adjustment", "WriteOff"]
    amount: float
    balance: float
    created: Time
    expires_at: Time | None = None
    message: str | None


class HistoryResponse(ResponseBody):
    """A page of movements, newest first."""

    transactions: list[TransactionResponse]
    total_count: int
    page_index: int
    records_per_page: int


class AgentCost(ResponseBody):
    """What an agent cost."""

    agent_id: int
    agent_name: str | None
    cost: float
    space_id: int | None


class AgentCostsResponse(ResponseBody):
    """A page of agents and what they cost."""

    agents: list[AgentCost]
    total_record_count: int
    total_cost: float
    start_date: Time
    end_date: Time


class UsageType(ResponseBody):
    """What one kind of use cost, per label."""

    type: str
    data: list[float]
    total_cost: float


class AgentUsageResponse(ResponseBody):
    """What an agent cost over time."""

    labels: list[str]
    usage_types: list[UsageType]
    total_cost: float
    start_date: Time
    end_date: Time


class RunCost(ResponseBody):
    """What a run cost."""

    run_id: int
    date: Time
    start_time: Time | None
    end_time: Time | None
    cost: float
    billing_type: str


class RunCostsResponse(ResponseBody):
    """A page of runs and what they cost."""

    runs: list[RunCost]
    total_record_count: int
    total_cost: float
    agent_id: int
    agent_name: str | None


class UploadedFile(ResponseBody):
    """An input file that was stored."""

    name: str
    size: int
