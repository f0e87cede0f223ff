"""Runs of an agent: start, status, list, stop, kill, restart, delete.

Based on https://docs.sequentum.com/concepts/runs and the pages below
https://docs.sequentum.com/api-reference/agents.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pydantic import AliasChoices, Field

from airflow_provider_sequentum.api.call import (
    QUEUE_READ_TIMEOUT,
    Call,
    Id,
    Response,
    as_id,
    as_json_text,
    only_given,
)
from airflow_provider_sequentum.api.choices import LogLevel, LogMode, ParallelExport, RemoveMethod
from airflow_provider_sequentum.api.parsing import (
    ApiId,
    ApiMessage,
    ApiModel,
    ApiRunStatus,
    ApiTime,
    Page,
    raise_if_refused,
    read_json,
    read_list,
    read_nothing,
    read_one,
)
from airflow_provider_sequentum.api.run_status import RunStatus
from airflow_provider_sequentum.api.text import safe_json, safe_text

DEFAULT_SYNCHRONOUS_TIMEOUT = 60
"""Seconds that a synchronous run may take, as in Sequentum's own client."""
_MAX_SYNCHRONOUS_TIMEOUT = 3600
_MAX_RECORDS_LENGTH = 64 * 1024 * 1024
"""Bytes. No response is longer, so records are never cut."""


class Run(ApiModel):
    """A run of an agent, as returned by a start, by the status endpoint and by the list of runs.

    Counts are ``None`` if the server does not state them. ``data_count`` is the number of extracted records,
    ``export_count`` the number of exported ones, ``run_time_sec`` the run time in seconds. ``table_type`` is ``run`` or
    ``history``. It does not show whether a run is active: a run in ``Failure`` has ended, but is still in ``run``.
    """

    id: ApiId = Field(validation_alias=AliasChoices("id", "runId"))
    config_id: ApiId = Field(validation_alias=AliasChoices("configId", "agentId"))
    status: ApiRunStatus = RunStatus.INVALID
    config_name: str | None = None
    space_id: int | None = None
    organization_id: int | None = None
    organization_name: str | None = None
    sequence: int | None = None
    parallelism: int | None = None
    parallel_max_concurrency: int | None = None
    parallel_export: str | None = None
    created: ApiTime | None = None
    start_time: ApiTime | None = None
    end_time: ApiTime | None = None
    message: ApiMessage | None = Field(default=None, validation_alias=AliasChoices("message", "errorMessage"))
    config_version: int | None = None
    page_count: int | None = None
    request_count: int | None = None
    data_count: int | None = Field(default=None, validation_alias=AliasChoices("dataCount", "recordsExtracted"))
    input_count: int | None = None
    error_count: int | None = None
    export_count: int | None = Field(default=None, validation_alias=AliasChoices("exportCount", "recordsExported"))
    traffic: int | None = None
    run_time_sec: int | None = None
    server_name: str | None = None
    table_type: str | None = None
    tag: str | None = None

    @property
    def started_at(self) -> ApiTime | None:
        """When the run started or, if that is unknown, when it was created."""
        return self.start_time or self.created

    @property
    def agent_id(self) -> int:
        """Id of the agent, which the API calls ``configId`` here."""
        return self.config_id


def start(
    agent_id: Id,
    *,
    input_parameters: Mapping[str, Any] | str | None = None,
    parallelism: int | None = None,
    parallel_max_concurrency: int | None = None,
    parallel_export: ParallelExport | None = None,
    proxy_pool_id: int | None = None,
    is_exclusive: bool | None = None,
    is_wait_on_failure: bool | None = None,
    log_level: LogLevel | None = None,
    log_mode: LogMode | None = None,
) -> Call[Run]:
    """Start a run without waiting for it. Arguments that are not set are not sent, so the server's defaults apply.

    Not safe to repeat: two requests start two runs. After a ``ResponseLost`` or a 5xx with ``may_have_acted``, check
    :func:`list_runs` before you start it again.

    :param input_parameters: the agent's input parameters, as a mapping or as JSON text.
    :param parallelism: number of parts into which the input is split. It is not published whether the service lists
        each part as a run; wait for the run in the response.
    :param parallel_max_concurrency: how many of the parts may run at the same time.
    :param parallel_export: whether there is one export for all parts, or one for each.
    :param proxy_pool_id: the proxy pool to use.
    :param is_exclusive: refuse to start while another run of the agent is active.
    :param is_wait_on_failure: let the run wait after a failure instead of ending.
    :param log_level: the least severe messages that the run logs.
    :param log_mode: format of the log files.
    :raises SequentumConfigurationError: if an argument is invalid.
    """
    agent = as_id(agent_id, "agent_id")
    body = only_given(
        inputParameters=as_json_text(input_parameters),
        parallelism=parallelism,
        parallelMaxConcurrency=parallel_max_concurrency,
        parallelExport=parallel_export,
        proxyPoolId=proxy_pool_id,
        isExclusive=is_exclusive,
        isWaitOnFailure=is_wait_on_failure,
        logLevel=log_level,
        logMode=log_mode,
    )
    return Call(
        f"start agent {agent}",
        "POST",
        f"/agent/{agent}/start",
        read_one(Run, configId=agent),
        body=body,
        read_timeout=QUEUE_READ_TIMEOUT,
    )


def run_synchronously(
    agent_id: Id,
    *,
    input_parameters: Mapping[str, Any] | str | None = None,
    timeout: int = DEFAULT_SYNCHRONOUS_TIMEOUT,
) -> Call[Any]:
    """Run an agent and wait for its records in the same request. For runs that take a few seconds.

    The response has no run id, so a run whose response was lost cannot be found again. Orchestrators use :func:`start`.

    :param input_parameters: the agent's input parameters, as a mapping or as JSON text.
    :param timeout: seconds that the run may take, 1 to 3600.
    :return: the decoded JSON (an object keyed by the agent's name, or an array of records), or the text of a response
        that is not JSON, such as CSV.
    :raises SequentumConfigurationError: if an argument is invalid.
    """
    agent = as_id(agent_id, "agent_id")
    seconds = min(as_id(timeout, "timeout"), _MAX_SYNCHRONOUS_TIMEOUT)
    parameters = as_json_text(input_parameters)
    return Call(
        f"run agent {agent} synchronously",
        "POST",
        f"/agent/{agent}/start",
        _read_records,
        body=only_given(isRunSynchronously=True, timeout=seconds, inputParameters=parameters),
        read_timeout=seconds + QUEUE_READ_TIMEOUT,
    )


def status(agent_id: Id, run_id: Id) -> Call[Run]:
    """Read the status of one run. The server searches active and archived runs.

    See https://docs.sequentum.com/api-reference/agents/run-status.
    """
    return _status(as_id(agent_id, "agent_id"), as_id(run_id, "run_id"))


@lru_cache(maxsize=1000)
def _status(agent: int, run: int) -> Call[Run]:
    """Return the request. Whoever waits for a run sends the same one again and again."""
    return Call.get(
        f"read the status of run {run} of agent {agent}",
        f"/agent/{agent}/run/{run}/status",
        read_one(Run, id=run, configId=agent),
    )


def list_runs(agent_id: Id, max_records: int = 50) -> Call[Page[Run]]:
    """List the active and archived runs of an agent, newest first.

    :param max_records: 1 to 1000. A list of exactly this length, including its ``unreadable`` runs, may be incomplete.
    """
    agent = as_id(agent_id, "agent_id")
    return Call.get(
        f"list the runs of agent {agent}",
        f"/agent/{agent}/runs",
        lambda response: _read_newest_first(response, agent),
        maxRecords=as_id(max_records, "max_records"),
    )


def stop(agent_id: Id, run_id: Id) -> Call[None]:
    """Stop a run gracefully. Its status becomes ``Stopping`` and then ``Stopped``; poll it to confirm the end.

    See https://docs.sequentum.com/api-reference/agents/stop-run.
    """
    return _act_on_run("stop", agent_id, run_id, safe_to_repeat=True)


def kill(agent_id: Id, run_id: Id) -> Call[None]:
    """End a run. The first call has the same effect as :func:`stop`; for a stopping run, it kills the process.

    Not safe to repeat, because a second call does more than the first.
    See https://docs.sequentum.com/api-reference/agents/kill-run.
    """
    return _act_on_run("kill", agent_id, run_id, safe_to_repeat=False)


def restart(agent_id: Id, run_id: Id) -> Call[Run | None]:
    """Restart a run in ``Failure`` in place. Once it is archived (``Failed``) it cannot be restarted.

    The format of the response is not published: the call returns the run if the response contains one. Otherwise it
    returns ``None``, and the run keeps its id. The first status afterwards may still be the old one. 404 or 405 may
    mean that the server does not have this endpoint.
    """
    agent, run = as_id(agent_id, "agent_id"), as_id(run_id, "run_id")
    return Call(
        f"restart run {run} of agent {agent}",
        "POST",
        # The documentation names the endpoint "restart-run" without its path; this one follows stop and kill.
        f"/agent/{agent}/run/{run}/restart",
        lambda response: _read_restarted(response, agent),
        read_timeout=QUEUE_READ_TIMEOUT,
    )


def delete(agent_id: Id, run_id: Id, remove_method: RemoveMethod = "RemoveEntireRun") -> Call[None]:
    """Delete a run or its files permanently. Refused while the run is active.

    See https://docs.sequentum.com/api-reference/agents/delete-run.

    :param remove_method: the whole run, only its files, or its files and stored input parameters.
    """
    agent, run = as_id(agent_id, "agent_id"), as_id(run_id, "run_id")
    return Call(
        f"delete run {run} of agent {agent}",
        "DELETE",
        f"/agent/{agent}/run/{run}",
        read_nothing,
        query={"removeMethod": remove_method},
        # A repeated delete could get a 404 because the first one succeeded.
        safe_to_repeat=False,
    )


def _act_on_run(verb: str, agent_id: Id, run_id: Id, *, safe_to_repeat: bool) -> Call[None]:
    agent, run = as_id(agent_id, "agent_id"), as_id(run_id, "run_id")
    path = f"/agent/{agent}/run/{run}/{verb}"
    purpose = f"{verb} run {run} of agent {agent}"
    return Call(purpose, "POST", path, read_nothing, safe_to_repeat=safe_to_repeat, is_of_stop=True)


def _read_newest_first(response: Response, agent_id: int) -> Page[Run]:
    runs = read_list(Run, configId=agent_id)(response)
    as_listed = list(runs)
    runs.sort(key=lambda run: (run.created.timestamp() if run.created else 0.0, run.id), reverse=True)
    if runs.gaps and any(run is not listed for run, listed in zip(runs, as_listed, strict=True)):
        runs.gaps = ()  # it is unknown where the unreadable ones belong
    return runs


def _read_restarted(response: Response, agent_id: int) -> Run | None:
    read_nothing(response)
    try:
        return read_one(Run, configId=agent_id)(response)
    except ValueError:
        return None


def _read_records(response: Response) -> Any:
    content_type = response.headers.get("content-type", "")
    if "json" in content_type or response.first_byte in (b"{", b"["):
        return safe_json(raise_if_refused(read_json(response.content)), _MAX_RECORDS_LENGTH)
    if "html" in content_type:
        raise ValueError("the response is an HTML page")
    return safe_text(response.content.decode("utf-8", errors="replace"), _MAX_RECORDS_LENGTH, lines=True)
