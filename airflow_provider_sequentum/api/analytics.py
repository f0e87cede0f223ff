"""Analytics: summaries of many runs, and the diagnostics of one.

Based on https://docs.sequentum.com/api-reference/analytics/run-diagnostics. Upcoming scheduled runs are in
:mod:`airflow_provider_sequentum.api.schedules`.
"""

from __future__ import annotations

from pydantic import Field

from airflow_provider_sequentum.api.call import Call, Day, Id, Response, as_id
from airflow_provider_sequentum.api.parsing import ApiMessage, ApiModel, ApiRunStatus, ApiTime, read_one


class _EndedRun(ApiModel):
    run_id: int | None = None
    agent_id: int | None = None
    agent_name: str | None = None
    start_time: ApiTime | None = None
    end_time: ApiTime | None = None
    status: ApiRunStatus | None = None
    error_message: ApiMessage | None = None


class FailedRunDetail(_EndedRun):
    """A failed run in a summary."""

    space_id: int | None = None
    space_name: str | None = None


class RunsSummary(ApiModel):
    """The number of runs between two dates, by outcome."""

    start_date: ApiTime | None = None
    end_date: ApiTime | None = None
    total_runs: int | None = None
    completed_runs: int | None = None
    failed_runs: int | None = None
    completed_with_errors_runs: int | None = None
    running_runs: int | None = None
    queued_runs: int | None = None
    stopped_runs: int | None = None
    failed_run_details: list[FailedRunDetail] | None = None


class RecordsSummary(ApiModel):
    """The number of records, errors and page loads between two dates."""

    start_date: ApiTime | None = None
    end_date: ApiTime | None = None
    agent_id: int | None = None
    run_count: int | None = None
    total_records_extracted: int | None = None
    total_records_exported: int | None = None
    total_errors: int | None = None
    total_page_loads: int | None = None


class RunStats(ApiModel):
    """The counts of a run."""

    data_count: int | None = None
    input_count: int | None = None
    error_count: int | None = None
    page_count: int | None = None
    export_count: int | None = None
    traffic: int | None = None


class RunDiagnostics(_EndedRun):
    """Why a run ended as it did, in the words of the service. ``runtime_seconds`` is the run time."""

    runtime_seconds: float | None = None
    stats: RunStats | None = None
    possible_causes: list[ApiMessage] = Field(default_factory=list)
    suggested_actions: list[ApiMessage] = Field(default_factory=list)


def runs_summary(
    *,
    start_date: Day | None = None,
    end_date: Day | None = None,
    status: str | None = None,
    include_details: bool | None = None,
) -> Call[RunsSummary]:
    """Count runs by outcome.

    :param start_date: first day; the server's default is today.
    :param end_date: last day; the server's default is today.
    :param status: only count runs of this status, such as ``Failed``.
    :param include_details: also list the failed runs.
    """
    return Call.get(
        "read the summary of runs",
        "/analytics/runs/summary",
        read_one(RunsSummary),
        startDate=start_date,
        endDate=end_date,
        status=status,
        includeDetails=include_details,
    )


def records_summary(
    *, start_date: Day | None = None, end_date: Day | None = None, agent_id: Id | None = None
) -> Call[RecordsSummary]:
    """Count the records, errors and page loads of all agents or of one."""
    agent = None if agent_id is None else as_id(agent_id, "agent_id")
    return Call.get(
        "read the summary of records",
        "/analytics/records/summary",
        read_one(RecordsSummary, agentId=agent),
        startDate=start_date,
        endDate=end_date,
        agentId=agent,
    )


def run_diagnostics(agent_id: Id, run_id: Id) -> Call[RunDiagnostics]:
    """Read why a run ended as it did."""
    agent, run = as_id(agent_id, "agent_id"), as_id(run_id, "run_id")
    return Call.get(
        f"read the diagnostics of run {run} of agent {agent}",
        f"/analytics/agents/{agent}/runs/{run}/diagnostics",
        read_one(RunDiagnostics, agentId=agent, runId=run),
    )


def latest_failure(agent_id: Id) -> Call[RunDiagnostics | None]:
    """Read the diagnostics of the agent's latest failed run, ``None`` if it has none.

    The form of the response without a failure is not published: any response that names no run counts as ``None``.
    """
    agent = as_id(agent_id, "agent_id")
    return Call.get(
        f"read the latest failure of agent {agent}",
        f"/analytics/agents/{agent}/latest-failure",
        lambda response: _read_latest_failure(response, agent),
    )


def _read_latest_failure(response: Response, agent_id: int) -> RunDiagnostics | None:
    if response.is_html:
        raise ValueError("the response is an HTML page")
    if response.first_byte != b"{":
        return None
    diagnostics = read_one(RunDiagnostics, agentId=agent_id)(response)
    return diagnostics if diagnostics.run_id is not None else None
