"""The operator that runs an agent."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import conf, redact

from airflow_provider_sequentum.airflow_compat.task_attempt import task_facts
from airflow_provider_sequentum.api.choices import LogLevel, LogMode, ParallelExport
from airflow_provider_sequentum.exceptions import SequentumRequestRefused, add_ids
from airflow_provider_sequentum.operators.remote_job import RemoteJobOperator
from airflow_provider_sequentum.parameters import (
    CreditLimitPeriod,
    OnAmbiguousStart,
    OnClear,
    OnEmpty,
    OnTimeout,
    RetryMode,
    check_one_agent,
)
from airflow_provider_sequentum.reporting.links import AgentRunLink

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_sequentum.runs.attempt import RunAttempt
    from airflow_provider_sequentum.runs.record import RunConfig, RunRecord
    from airflow_provider_sequentum.triggers.agent_run import AgentRunTrigger


class StartAgentRunOperator(RemoteJobOperator["RunAttempt"]):
    """Start a run of a Sequentum agent and wait until it ends.

    Returns the run id in every mode, and pushes a summary of the run under the XCom key ``run``.

    On Airflow 3.3 and later, a run is never started twice for the same task instance, agent and start options. A new
    attempt checks the run that an earlier one started: it joins a run that is still running, restarts one that ended in
    Failure in place, and starts a new one only otherwise. Older versions keep nothing between attempts. There, a retry
    joins a run of the agent only if exactly one was created since the DAG run started and is still running.

    All parameters are template fields and are checked when the task runs, so that a DAG that is edited while the task
    is deferred cannot lose its run.

    .. seealso:: https://docs.sequentum.com/concepts/runs

    :param agent_id: the agent, as an int or a string of digits. Give this or ``agent_name``.
    :param agent_name: the agent's exact and unique name.
    :param expected_version: the version of the agent that the run must have: a number, or ``pinned`` for the version of
        the last run whose task succeeded. It is compared before the start and with the run; a run that has another
        version is stopped. Adds one API request. Default: any version.
    :param input_parameters: the agent's input parameters: a mapping, or a string with a JSON object.
    :param parallelism: number of parts the input is split into.
    :param parallel_max_concurrency: how many of the parts run at a time.
    :param parallel_export: ``Combined`` or ``Separated`` export of the parts.
    :param proxy_pool_id: proxy pool to use.
    :param is_exclusive: refuse to run beside another run of the agent. Sent only if set.
    :param is_wait_on_failure: let the run wait after a failure instead of ending. Sent only if set.
    :param log_level: ``Fatal``, ``Error``, ``Warning`` or ``Info``.
    :param log_mode: ``Text`` or ``TextAndHtml``.
    :param wait_for_completion: wait until the run ends. Otherwise the task succeeds as soon as the run is started.
    :param deferrable: wait in the triggerer, without occupying a worker slot. Default: ``[operators]
        default_deferrable``.
    :param poll_interval: minimum number of seconds between two polls for this task. By default it depends on the age of
        the run and on the request limit of the API key; see ``docs/waiting.md``.
    :param timeout: how long the attempt may take, in seconds or as a ``timedelta``, including the time that the run is
        queued. Default: no limit.
    :param on_timeout: what happens to the run when ``timeout`` expires: ``stop`` (default) or ``leave``. When
        ``execution_timeout`` expires, the run is always stopped.
    :param restarts: how many times a run that ended in Failure is restarted in place within one attempt. Default 0.
    :param restart_delay: seconds before the first restart, doubled for each further one. Default 30.
    :param retry_mode: what a retry does with a run that ended in Failure: ``restart_or_new`` (default) restarts it, or
        starts a new one if that is not possible; ``restart`` never starts a new one; ``new`` always does.
    :param on_clear: what clearing the task does to a run that is still running: ``rerun`` (default) stops it and starts
        a new one, ``join`` waits for it. Needs Airflow 3.3. A cleared task never returns a run that has already ended.
    :param on_ambiguous_start: what to do if the response to a start was lost and several runs could be the one that was
        started: ``fail`` (default), ``adopt`` the newest, or ``start`` another.
    :param stop_grace: seconds between the stop request and the kill request when a run is stopped. Default 45.
    :param min_credits: do not start a run if fewer credits are left. Default: not checked.
    :param credit_limit: do not start a run if its forecast cost, based on the bills of the agent's last runs, would
        exceed what is left of this limit in ``credit_limit_period``. Adds one API request. Default: no limit.
    :param credit_limit_period: what the limit applies to: ``dag_run`` (default), all runs started by the tasks of the
        DAG run that have a limit; ``day`` or ``month`` (in UTC), what the agent has been billed so far.
    :param stop_overdue: stop the run if it takes three times its usual duration, which is the median of the agent's
        last successful runs. Adds one API request. Default: False.
    :param min_records: fail if the run extracted fewer records.
    :param max_errors: fail if the run counted more errors.
    :param on_empty: what to do if the run extracted no records: ``succeed`` (default), ``warn``, ``skip`` or ``fail``.
    :param check_schedules: log a warning if the agent also has an enabled schedule in Sequentum Cloud. Adds one API
        request.
    :param report_cost: add the cost of the run, and of all runs of the task, to the summary, if the key may read
        billing. Adds one API request, or two if the bill is late.
    :param sequentum_conn_id: the Airflow connection to Sequentum Cloud.
    :raises CreditsTooLow: fewer than ``min_credits`` are left; nothing was started.
    :raises CreditLimitReached: the start would exceed ``credit_limit``; nothing was started.
    :raises AgentVersionChanged: the agent has another version than ``expected_version``; not retried.
    :raises AgentRunFailure: the run ended in Failure; a retry restarts it in place.
    :raises AgentRunFailed: the run ended in Failure and was archived; a retry starts a new one.
    :raises AgentRunStopped: a person or another program stopped the run; not retried.
    :raises SequentumSkipped: the service skipped the run; the task is skipped.
    :raises AgentRunTimeout: ``timeout`` expired or, with ``stop_overdue``, three times the usual duration passed.
    :raises AgentRunOutcomeRejected: the run violates ``min_records``, ``max_errors`` or ``on_empty``; a retry starts a
        new one.
    :raises AgentRunStartAmbiguous: see ``on_ambiguous_start``; not retried.
    :raises AgentRunStillRunning: the run to be replaced could not be stopped; a retry tries to stop it again.
    :raises SequentumRequestRefused: a parameter is invalid, or ``retry_mode="restart"`` and nothing is left to restart;
        not retried.
    """

    template_fields: Sequence[str] = (
        "agent_id",
        "agent_name",
        "expected_version",
        "input_parameters",
        "parallelism",
        "parallel_max_concurrency",
        "parallel_export",
        "proxy_pool_id",
        "is_exclusive",
        "is_wait_on_failure",
        "log_level",
        "log_mode",
        "wait_for_completion",
        "deferrable",
        "poll_interval",
        "timeout",
        "on_timeout",
        "restarts",
        "restart_delay",
        "retry_mode",
        "on_clear",
        "on_ambiguous_start",
        "stop_grace",
        "min_credits",
        "credit_limit",
        "credit_limit_period",
        "stop_overdue",
        "min_records",
        "max_errors",
        "on_empty",
        "check_schedules",
        "report_cost",
        "sequentum_conn_id",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"input_parameters": "json"}
    operator_extra_links = (AgentRunLink(),)
    ui_color = "#e3f1ee"
    state_key = "sequentum_run"
    __supports_durable_execution: ClassVar[bool] = True

    def __init__(
        self,
        *,
        agent_id: int | str | None = None,
        agent_name: str | None = None,
        expected_version: int | str | None = None,
        input_parameters: Mapping[str, Any] | str | None = None,
        parallelism: int | str | None = None,
        parallel_max_concurrency: int | str | None = None,
        parallel_export: ParallelExport | str | None = None,
        proxy_pool_id: int | str | None = None,
        is_exclusive: bool | str | None = None,
        is_wait_on_failure: bool | str | None = None,
        log_level: LogLevel | str | None = None,
        log_mode: LogMode | str | None = None,
        wait_for_completion: bool = True,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poll_interval: float | str | timedelta | None = None,
        timeout: float | str | timedelta | None = None,
        on_timeout: OnTimeout | str = "stop",
        restarts: int | str = 0,
        restart_delay: float | str | timedelta = 30,
        retry_mode: RetryMode | str = "restart_or_new",
        on_clear: OnClear | str = "rerun",
        on_ambiguous_start: OnAmbiguousStart | str = "fail",
        stop_grace: float | str | timedelta = 45,
        min_credits: float | str | None = None,
        credit_limit: float | str | None = None,
        credit_limit_period: CreditLimitPeriod | str = "dag_run",
        stop_overdue: bool | str = False,
        min_records: int | str | None = None,
        max_errors: int | str | None = None,
        on_empty: OnEmpty | str = "succeed",
        check_schedules: bool | str = False,
        report_cost: bool | str = False,
        sequentum_conn_id: str = "sequentum_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.agent_id = agent_id
        self.agent_name = agent_name
        self.expected_version = expected_version
        self.input_parameters = input_parameters
        self.parallelism = parallelism
        self.parallel_max_concurrency = parallel_max_concurrency
        self.parallel_export = parallel_export
        self.proxy_pool_id = proxy_pool_id
        self.is_exclusive = is_exclusive
        self.is_wait_on_failure = is_wait_on_failure
        self.log_level = log_level
        self.log_mode = log_mode
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        self.timeout = timeout
        self.on_timeout = on_timeout
        self.restarts = restarts
        self.restart_delay = restart_delay
        self.retry_mode = retry_mode
        self.on_clear = on_clear
        self.on_ambiguous_start = on_ambiguous_start
        self.stop_grace = stop_grace
        self.min_credits = min_credits
        self.credit_limit = credit_limit
        self.credit_limit_period = credit_limit_period
        self.stop_overdue = stop_overdue
        self.min_records = min_records
        self.max_errors = max_errors
        self.on_empty = on_empty
        self.check_schedules = check_schedules
        self.report_cost = report_cost
        self.sequentum_conn_id = sequentum_conn_id

    def _new_attempt(self, context: Context) -> RunAttempt:
        from airflow_provider_sequentum.runs.record import RunConfig

        try:
            check_one_agent(self.agent_id, self.agent_name)
        except ValueError as error:
            raise SequentumRequestRefused(
                f"{error}. Nothing was sent (connection {self.sequentum_conn_id!r})."
            ) from None
        return self._make_attempt(RunConfig.of(self), None, context)

    def _resolve_parameters(self, attempt: RunAttempt) -> None:
        config = attempt.config
        if config.agent_name is not None:
            from airflow_provider_sequentum.runs.agent_lookup import find_agent

            found = find_agent(attempt.port, config.agent_name, "Nothing was started.")
            config = config.updated(agent_id=found.id)
        if config.expected_version == "pinned":
            from airflow_provider_sequentum.hooks.pins import read_pin

            with attempt.port.asking_airflow():
                config = config.updated(pinned_version=read_pin(config.sequentum_conn_id, config.agent_id))
        attempt.config = config

    def _attempt_from_record(self, value: object, context: Context) -> RunAttempt:
        from airflow_provider_sequentum.runs.record import RunRecord

        record = RunRecord.from_json(value)
        return self._make_attempt(record.config, record, context)

    def _attempt_from_ids(self, values: list[object], context: Context) -> RunAttempt | None:
        from airflow_provider_sequentum.runs.record import RunConfig, runs_named_in

        record = next(iter(runs_named_in(values)), None)
        if record is None:
            return None
        config = RunConfig(agent_id=record.agent_id, sequentum_conn_id=self.sequentum_conn_id)
        return self._make_attempt(config, record.updated(config=config), context)

    def _make_attempt(self, config: RunConfig, record: RunRecord | None, context: Context) -> RunAttempt:
        from airflow_provider_sequentum.reporting.links import publish_run
        from airflow_provider_sequentum.runs.attempt import RunAttempt

        port = self._port(context, config.sequentum_conn_id, record)
        task = task_facts(context, self)
        origin = {
            "map_index": task.map_index if task.is_mapped else None,
            "input_parameters": redact(json.loads(config.input_parameters or "null")),
        }

        def publish(run: Any, **more: Any) -> None:
            publish_run(port, run, **origin, **more)

        return RunAttempt(port, task, config, publish)

    def _trigger(self, attempt: RunAttempt) -> AgentRunTrigger:
        from airflow_provider_sequentum.triggers.agent_run import AgentRunTrigger

        return AgentRunTrigger(
            sequentum_conn_id=attempt.config.sequentum_conn_id,
            stop_on_kill=True,
            successor_may_join=attempt.config.on_clear == "join",
            stop_grace=attempt.config.stop_grace,
            **attempt.wait_spec().to_json(),
        )

    def _release(self, attempt: RunAttempt, context: Context, error: BaseException) -> BaseException:
        failure = super()._release(attempt, context, error)
        add_ids(failure, attempt.config.agent_id or None, attempt.run.id if attempt.run is not None else None)
        return failure

    def _on_success(self, attempt: RunAttempt, context: Context) -> None:
        from airflow_provider_sequentum.reporting.asset_events import add_run

        run, config = attempt.known_run, attempt.config
        add_run(context, attempt.port.hook, run)
        if config.expected_version is not None and run.config_version not in (None, config.pinned_version):
            from airflow_provider_sequentum.hooks.pins import move_pin

            move_pin(config.sequentum_conn_id, run.agent_id, run.config_version)

    def get_openlineage_facets_on_complete(self, task_instance: object) -> OperatorLineage[Any, Any] | None:  # noqa: ARG002
        """Return the lineage of the run. Called by the OpenLineage provider, if it is installed."""
        from airflow_provider_sequentum.reporting.lineage import run_lineage

        if self._attempt is None or self._attempt.run is None:
            return None
        return run_lineage(self._attempt.port.hook, self._attempt.run)
