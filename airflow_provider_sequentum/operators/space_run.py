"""The operator that runs all agents of a space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import conf

from airflow_provider_sequentum.airflow_compat.task_attempt import task_facts
from airflow_provider_sequentum.exceptions import SequentumRequestRefused
from airflow_provider_sequentum.operators.remote_job import RemoteJobOperator
from airflow_provider_sequentum.parameters import (
    CreditLimitPeriod,
    OnAmbiguousStart,
    OnClear,
    OnEmpty,
    OnPartial,
    OnTimeout,
    RetryMode,
    is_unset,
)

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_sequentum.spaces.attempt import SpaceAttempt
    from airflow_provider_sequentum.spaces.record import SpaceConfig, SpaceRecord
    from airflow_provider_sequentum.triggers.space_run import SpaceRunsTrigger


class StartSpaceRunsOperator(RemoteJobOperator["SpaceAttempt"]):
    """Start a run of every agent in a space with one request, and wait until all of them have ended.

    Returns the ids of the runs that succeeded, ordered by agent, in every mode. The list under the XCom key ``runs``
    has a summary for each agent; those with ``succeeded`` are the ones whose ids are returned, in the same order. Each
    run has the same life cycle as with
    :class:`~airflow_provider_sequentum.operators.agent_run.StartAgentRunOperator`: a retry of the task joins the runs
    that are still active, returns those that succeeded, restarts those that ended in Failure, and starts the rest.

    .. seealso:: https://docs.sequentum.com/concepts/spaces

    :param space_id: the space, as an int or a string of digits.
    :param input_parameters: input parameters for every agent: a mapping, or a string with a JSON object.
    :param on_partial: what to do if some agents were not started or did not succeed while others did: ``fail``
        (default), or ``warn``, which only logs it.
    :param wait_for_completion: wait until the runs end. Otherwise the task succeeds as soon as they are started.
    :param deferrable: wait in the triggerer, without occupying a worker slot. Default: ``[operators]
        default_deferrable``.
    :param poll_interval: minimum number of seconds between two polls of a run; see ``StartAgentRunOperator``.
    :param timeout: how long the attempt may take, in seconds or as a ``timedelta``. Default: no limit.
    :param on_timeout: what happens to the runs when ``timeout`` expires: ``stop`` (default) or ``leave``. When
        ``execution_timeout`` expires, they are always stopped.
    :param restarts: how many times a run that ended in Failure is restarted in place within one attempt. Default 0.
    :param restart_delay: seconds before the first restart, doubled for each further one. Default 30.
    :param retry_mode: what a retry does with a run that ended in Failure: ``restart_or_new`` (default), ``restart`` or
        ``new``.
    :param on_clear: what clearing the task does to active runs: ``rerun`` (default) stops them and starts all agents,
        ``join`` waits for them and starts the others. Needs Airflow 3.3.
    :param on_ambiguous_start: what to do if the response to the start was lost and its runs cannot be distinguished
        from others: ``fail`` (default), ``adopt`` the newest run of each agent, or ``start`` others.
    :param stop_grace: seconds between the stop request and the kill request when a run is stopped. Default 45.
    :param min_credits: do not start any run if fewer credits are left. Default: not checked.
    :param credit_limit: do not start any run if the forecast cost of all, based on the bills of each agent's last runs,
        would exceed what is left of this limit in ``credit_limit_period``. One request for the list of agents, and one
        for each agent; at most 50 agents. Default: no limit.
    :param credit_limit_period: what the limit applies to: ``dag_run`` (default), all runs started by the tasks of the
        DAG run that have a limit; ``day`` or ``month`` (in UTC), what the agents of the space have been billed so far.
    :param min_records: a run that extracted fewer records did not succeed.
    :param max_errors: a run that counted more errors did not succeed.
    :param on_empty: what to do if a run extracted no records: ``succeed`` (default), ``warn``, ``skip`` or ``fail``.
    :param report_cost: add the cost of each run to its summary, if the key may read billing. One request for each run.
    :param sequentum_conn_id: the Airflow connection to Sequentum Cloud.
    :raises SpaceRunsFailed: some runs did not succeed; a retry handles each of them.
    :raises SpaceRunsEnded: some runs did not succeed, and a retry would not help.
    :raises SequentumSkipped: all of them were skipped; the task is skipped.
    :raises CreditsTooLow: fewer than ``min_credits`` are left; nothing was started.
    :raises CreditLimitReached: the start would exceed ``credit_limit``; nothing was started.
    :raises AgentRunStartAmbiguous: the response was lost and the runs cannot be distinguished from others.
    :raises AgentRunStillRunning: runs to be replaced could not be stopped; a retry tries to stop them again.
    """

    template_fields: Sequence[str] = (
        "space_id",
        "input_parameters",
        "on_partial",
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
        "min_records",
        "max_errors",
        "on_empty",
        "report_cost",
        "sequentum_conn_id",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"input_parameters": "json"}
    ui_color = "#e3f1ee"
    state_key = "sequentum_space_runs"
    __supports_durable_execution: ClassVar[bool] = True

    def __init__(
        self,
        *,
        space_id: int | str,
        input_parameters: Mapping[str, Any] | str | None = None,
        on_partial: OnPartial | str = "fail",
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
        min_records: int | str | None = None,
        max_errors: int | str | None = None,
        on_empty: OnEmpty | str = "succeed",
        report_cost: bool | str = False,
        sequentum_conn_id: str = "sequentum_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.space_id = space_id
        self.input_parameters = input_parameters
        self.on_partial = on_partial
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
        self.min_records = min_records
        self.max_errors = max_errors
        self.on_empty = on_empty
        self.report_cost = report_cost
        self.sequentum_conn_id = sequentum_conn_id

    def _new_attempt(self, context: Context) -> SpaceAttempt:
        from airflow_provider_sequentum.spaces.record import SpaceConfig

        if is_unset(self.space_id):
            raise SequentumRequestRefused(
                f"space_id must be given. Nothing was sent (connection {self.sequentum_conn_id!r})."
            )
        return self._make_attempt(SpaceConfig.of(self), None, context)

    def _attempt_from_record(self, value: object, context: Context) -> SpaceAttempt:
        from airflow_provider_sequentum.spaces.record import SpaceRecord

        record = SpaceRecord.from_json(value)
        return self._make_attempt(record.config, record, context)

    def _attempt_from_ids(self, values: list[object], context: Context) -> SpaceAttempt | None:
        from airflow_provider_sequentum.runs.record import runs_named_in
        from airflow_provider_sequentum.spaces.record import SpaceConfig, SpaceRecord

        named = runs_named_in(values)
        if not named:
            return None
        runs = {run.agent_id: run for run in named}
        further: dict[int, tuple[int, ...]] = {}
        for run in named:
            if run is not runs[run.agent_id]:
                further[run.agent_id] = (*further.get(run.agent_id, ()), run.run_id or 0)
        config = SpaceConfig(sequentum_conn_id=self.sequentum_conn_id)
        return self._make_attempt(config, SpaceRecord(config=config, runs=runs, further=further), context)

    def _make_attempt(self, config: SpaceConfig, record: SpaceRecord | None, context: Context) -> SpaceAttempt:
        from airflow_provider_sequentum.spaces.attempt import SpaceAttempt

        port = self._port(context, config.sequentum_conn_id, record)
        return SpaceAttempt(port, task_facts(context, self), config)

    def _trigger(self, attempt: SpaceAttempt) -> SpaceRunsTrigger:
        from airflow_provider_sequentum.triggers.space_run import SpaceRunsTrigger

        return SpaceRunsTrigger(
            sequentum_conn_id=attempt.config.sequentum_conn_id,
            space_id=attempt.config.space_id,
            waits=[spec.to_json() for spec in attempt.wait_specs()],
            also_stop=[spec.to_json() for spec in attempt.unwaited_specs()],
            stop_on_kill=True,
            successor_may_join=attempt.config.on_clear == "join",
            stop_grace=attempt.config.stop_grace,
        )

    def _on_success(self, attempt: SpaceAttempt, context: Context) -> None:
        from airflow_provider_sequentum.reporting.asset_events import add_extra

        add_extra(context, {"space_id": attempt.config.space_id, "runs": attempt.summaries()})

    def get_openlineage_facets_on_complete(self, task_instance: object) -> OperatorLineage[Any, Any] | None:  # noqa: ARG002
        """Return the lineage of the runs. Called by the OpenLineage provider, if it is installed."""
        from airflow_provider_sequentum.reporting.lineage import space_lineage

        if self._attempt is None or self._attempt.record is None:
            return None
        attempt = self._attempt
        return space_lineage(attempt.port.hook, attempt.config.space_id, attempt.runs_that_succeeded)
