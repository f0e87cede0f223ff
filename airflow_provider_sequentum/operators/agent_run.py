"""The operator that runs an agent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import AirflowException, BaseOperator, conf

from airflow_provider_sequentum.exceptions import SequentumRequestRefused
from airflow_provider_sequentum.lifecycle.arguments import (
    parse_choice,
    parse_count,
    parse_id,
    parse_input_parameters,
    parse_seconds,
)
from airflow_provider_sequentum.lifecycle.choices import (
    LOG_LEVELS,
    LOG_MODES,
    ON_AMBIGUOUS_RUN,
    ON_CLEAR,
    ON_EMPTY,
    ON_TIMEOUT,
    PARALLEL_EXPORTS,
    RETRY_MODES,
)
from airflow_provider_sequentum.links import RUN_SUMMARY_KEY, AgentRunLink
from airflow_provider_sequentum.operators.run_parameters import RunParameters
from airflow_provider_sequentum.operators.termination import Termination
from airflow_provider_sequentum.task_try import (
    DEFERRAL_FAILED,
    current_context,
    deferral_timed_out,
    pushed_by_this_try,
)

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_sequentum.hooks.sequentum import SequentumHook
    from airflow_provider_sequentum.lifecycle.run_wait import WaitOutcome
    from airflow_provider_sequentum.operators.run_options import Bounds
    from airflow_provider_sequentum.operators.run_task import RunTask


class StartAgentRunOperator(RunParameters, BaseOperator):
    """
    Start a run of a Sequentum agent and wait for its end.

    Returns the run's id, in every mode; a summary of the run is under the XCom key ``run``.

    A run is never started twice for the same piece of work. On Airflow 3.3 and later a new try looks at the run that
    an earlier one started: it joins one that is still going, restarts one that ended in Failure in place, and starts a
    new one only if there is nothing to go on with. Older versions have no place that outlives a try; there a
    retry joins a run of the agent only if exactly one was created since the DAG run began and is still going.

    .. seealso:: https://docs.sequentum.com/concepts/runs

    :param agent_id: the agent, as an int or a string of digits. Give this or ``agent_name``.
    :param agent_name: the agent's exact and unique name.
    :param input_parameters: the agent's input parameters: a mapping, or a string with a JSON object.
    :param parallelism: number of parts the input is split into.
    :param parallel_max_concurrency: how many of the parts run at a time.
    :param parallel_export: ``Combined`` or ``Separated`` export of the parts.
    :param proxy_pool_id: proxy pool to use.
    :param is_exclusive: refuse to run beside another run of the agent. Sent only if set.
    :param is_wait_on_failure: let the run wait after a failure instead of ending. Sent only if set.
    :param log_level: ``Fatal``, ``Error``, ``Warning`` or ``Info``.
    :param log_mode: ``Text`` or ``TextAndHtml``.
    :param wait_for_completion: wait for the run's end. Otherwise the task succeeds as soon as the run is started.
    :param deferrable: wait in the triggerer, which takes no worker slot. Default: ``[operators] default_deferrable``.
    :param poll_interval: least seconds between two looks at the run on behalf of this task. By default it depends on
        how long the run has been going and on what the key's request limit has room for; see ``docs/waiting.md``.
    :param timeout: seconds or ``timedelta`` from the try's beginning after which it gives up, the run's queueing
        included. Default: no limit.
    :param on_timeout: what becomes of the run when ``timeout`` has passed: ``stop`` (default) or ``leave``. When
        ``execution_timeout`` has passed it is always stopped.
    :param restarts: how often a run that ended in Failure is restarted in place within one try. Default 0.
    :param restart_delay: seconds before the first of these restarts; doubled each time. Default 30.
    :param retry_mode: what a retry does with a run that ended in Failure: restart it, or start a new one if that is not
        possible (``restart_or_new``, the default), only ever ``restart``, or always start a ``new`` one.
    :param on_clear: what clearing the task means for a run that is still going: ``rerun`` stops it and starts a new
        one (default), ``join`` waits for it. Needs Airflow 3.3. A run that is over is never returned by a cleared task.
    :param on_ambiguous_start: what to do when the answer to a start was lost and the run can't be told from others:
        ``fail`` (default), ``adopt`` the newest, or ``start`` another.
    :param stop_grace: seconds a run gets to wind down when it is stopped, before it is killed. Default 45.
    :param min_credits: don't start unless so many credits are left. Default: not looked at.
    :param min_records: fail if the run extracted fewer records.
    :param max_errors: fail if the run counted more errors.
    :param on_empty: what a run without records means: ``succeed`` (default), ``warn``, ``skip`` or ``fail``.
    :param sequentum_conn_id: the connection.
    :raises CreditsTooLow: fewer than ``min_credits`` are left; nothing was started.
    :raises AgentRunFailure: the run ended in Failure; a retry restarts it in place.
    :raises AgentRunFailed: the run ended in Failure and was archived; a retry starts a new one.
    :raises AgentRunStopped: somebody stopped the run; not retried.
    :raises AgentRunSkipped: the service skipped the run; the task is skipped.
    :raises AgentRunTimeout: ``timeout`` has passed.
    :raises AgentRunOutcomeRejected: the run delivered too little; a retry starts a new one.
    :raises AgentRunStartAmbiguous: see ``on_ambiguous_start``; not retried.
    :raises AgentRunStillGoing: the run to be replaced could not be stopped; a retry stops it again.
    :raises AgentRunRestartRefused: ``retry_mode="restart"``, and nothing is left to restart; not retried.
    """

    template_fields: Sequence[str] = (
        "agent_id",
        "agent_name",
        "input_parameters",
        "parallelism",
        "parallel_max_concurrency",
        "parallel_export",
        "proxy_pool_id",
        "log_level",
        "log_mode",
        "timeout",
        "min_credits",
        "min_records",
        "max_errors",
        "sequentum_conn_id",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"input_parameters": "json"}
    operator_extra_links = (AgentRunLink(),)
    ui_color = "#e3f1ee"

    def __init__(
        self,
        *,
        agent_id: int | str | None = None,
        agent_name: str | None = None,
        input_parameters: Mapping[str, Any] | str | None = None,
        parallelism: int | str | None = None,
        parallel_max_concurrency: int | str | None = None,
        parallel_export: str | None = None,
        proxy_pool_id: int | str | None = None,
        is_exclusive: bool | None = None,
        is_wait_on_failure: bool | None = None,
        log_level: str | None = None,
        log_mode: str | None = None,
        wait_for_completion: bool = True,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poll_interval: float | None = None,
        timeout: float | str | timedelta | None = None,
        on_timeout: str = "stop",
        restarts: int = 0,
        restart_delay: float = 30,
        retry_mode: str = "restart_or_new",
        on_clear: str = "rerun",
        on_ambiguous_start: str = "fail",
        stop_grace: float = 45,
        min_credits: float | str | None = None,
        min_records: int | str | None = None,
        max_errors: int | str | None = None,
        on_empty: str = "succeed",
        sequentum_conn_id: str = "sequentum_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.agent_id = agent_id
        self.agent_name = agent_name
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
        self.poll_interval = parse_seconds("poll_interval", poll_interval)
        self.timeout = timeout
        self.on_timeout = parse_choice("on_timeout", on_timeout, ON_TIMEOUT)
        self.restarts = parse_count("restarts", restarts) or 0
        self.restart_delay = parse_seconds("restart_delay", restart_delay) or 0.0
        self.retry_mode = parse_choice("retry_mode", retry_mode, RETRY_MODES)
        self.on_clear = parse_choice("on_clear", on_clear, ON_CLEAR)
        self.on_ambiguous_start = parse_choice("on_ambiguous_start", on_ambiguous_start, ON_AMBIGUOUS_RUN)
        self.stop_grace = parse_seconds("stop_grace", stop_grace) or 0.0
        self.min_credits = min_credits
        self.min_records = min_records
        self.max_errors = max_errors
        self.on_empty = parse_choice("on_empty", on_empty, ON_EMPTY)
        self.sequentum_conn_id = sequentum_conn_id
        self._task: RunTask | None = None
        self._termination = Termination()

    def execute(self, context: Context) -> int:
        """Start the run, or go on with the one an earlier try left, and wait for its end. Returns the run's id."""
        with self._termination.ends_work():
            task = self._run_task(context, self._bounds(context))
            outcome = task.begin()
            return self._wait_until_concluded(task, outcome) if self.wait_for_completion else task.run.id

    def execute_complete(self, context: Context, event: Mapping[str, Any] | None = None) -> int:
        """Say what the trigger's event means; wait again if the run was restarted in place. Returns the run's id."""
        from airflow_provider_sequentum.operators.run_options import Bounds
        from airflow_provider_sequentum.triggers.run_event import read_run_event

        news = read_run_event(event)
        task = self._run_task(context, Bounds.from_json(news.carried), agent_id=news.agent_id)
        if news.error is not None:
            raise task.lost_sight(news.error, news.agent_id, news.known_run_id)
        task.resume(news.agent_id, news.known_run_id, news.run)
        return self._wait_until_concluded(task, news.outcome)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """
        Resume after a deferral, also after one that Airflow itself ended.

        Airflow drops everything that was handed on when its deferral timeout passes, because no triggerer was there to
        notice the deadline, and when the trigger broke. The run is found by the summary that this try pushed before it
        deferred. After a broken trigger the wait goes on, on the worker.
        """
        with self._termination.ends_work():
            try:
                return super().resume_execution(next_method, next_kwargs, context)
            except AirflowException as error:
                summary = self._summary(context) if next_method == DEFERRAL_FAILED else None
                if summary is None:
                    raise
                return self._resume_without_event(context, summary, next_kwargs, error)

    def on_kill(self) -> None:
        """
        Stop the run: the task was killed on the worker, or its ``execution_timeout`` passed there.

        A worker that is shut down while the task is waiting leaves the run to the next try, if there is one.
        """
        self._termination.end_after(self._stop)

    def _resume_without_event(
        self,
        context: Context,
        summary: Mapping[str, Any],
        next_kwargs: Mapping[str, Any] | None,
        error: AirflowException,
    ) -> int:
        from airflow_provider_sequentum.lifecycle.run_wait import WaitOutcome

        task = self._run_task(context, self._bounds(context), agent_id=summary["agent_id"])
        task.resume(summary["agent_id"], summary["run_id"])
        if deferral_timed_out(next_kwargs):
            return self._wait_until_concluded(task, WaitOutcome.DEADLINE)
        self.log.warning("The trigger broke (%s); waiting for run %s on the worker.", error, summary["run_id"])
        return self._wait_until_concluded(task, task.wait())

    def _stop(self) -> None:
        if self._task is not None:
            self._task.stop()
        elif (context := current_context()) is not None and (summary := self._summary(context)) is not None:
            # Airflow 2.11 does not resume a deferred task whose execution_timeout has passed: it only calls this.
            from airflow_provider_sequentum.hooks.sequentum import SequentumHook
            from airflow_provider_sequentum.lifecycle.run_stop import stop_run

            hook = SequentumHook(self.sequentum_conn_id)
            hook.perform_apart(stop_run(summary["agent_id"], summary["run_id"], self.stop_grace), urgent=True)

    def _summary(self, context: Context) -> dict[str, Any] | None:
        """Return what this try said of its run before it deferred."""
        summary: dict[str, Any] | None = pushed_by_this_try(context, RUN_SUMMARY_KEY)
        return summary

    def get_openlineage_facets_on_complete(self, task_instance: object) -> OperatorLineage[Any, Any] | None:  # noqa: ARG002
        """Tell OpenLineage what was read and written; called by its provider, where that is installed."""
        return None if self._task is None else self._task.lineage

    def _wait_until_concluded(self, task: RunTask, outcome: WaitOutcome | None) -> int:
        while outcome is None or not task.conclude(outcome):
            if self.deferrable:
                self.defer(trigger=task.trigger(), method_name="execute_complete", timeout=task.deferral_timeout())
            outcome = task.wait()
        return task.run.id

    def _run_task(self, context: Context, bounds: Bounds, agent_id: int | None = None) -> RunTask:
        from airflow_provider_sequentum.hooks.sequentum import SequentumHook
        from airflow_provider_sequentum.lifecycle.run_request import RunRequest
        from airflow_provider_sequentum.operators.run_task import RunTask

        hook = SequentumHook(self.sequentum_conn_id)
        request = RunRequest(
            agent_id=agent_id or self._find_agent_id(hook),
            input_parameters=self._checked(parse_input_parameters, self.input_parameters),
            parallelism=self._id("parallelism"),
            parallel_max_concurrency=self._id("parallel_max_concurrency"),
            parallel_export=self._choice("parallel_export", PARALLEL_EXPORTS),
            proxy_pool_id=self._id("proxy_pool_id"),
            is_exclusive=self.is_exclusive,
            is_wait_on_failure=self.is_wait_on_failure,
            log_level=self._choice("log_level", LOG_LEVELS),
            log_mode=self._choice("log_mode", LOG_MODES),
        )
        self._task = RunTask(request, self._options(), hook, context, bounds, self.log)
        return self._task

    def _find_agent_id(self, hook: SequentumHook) -> int:
        from airflow_provider_sequentum.lifecycle.agent_lookup import find_agent

        if bool(self.agent_id) == bool(self.agent_name):
            raise SequentumRequestRefused(
                f"Give either agent_id or agent_name. Nothing was started (connection {self.sequentum_conn_id!r})."
            )
        if self.agent_id:
            return self._checked(parse_id, "agent_id", self.agent_id)
        try:
            return hook.perform(find_agent(str(self.agent_name))).id
        except LookupError as error:
            raise SequentumRequestRefused(f"{error.args[0]} (connection {self.sequentum_conn_id!r})") from error

    def _id(self, name: str) -> int | None:
        value = getattr(self, name)
        return None if value in (None, "") else self._checked(parse_id, name, value)

    def _choice(self, name: str, choices: tuple[str, ...]) -> str | None:
        value = getattr(self, name)
        return None if value in (None, "") else self._checked(parse_choice, name, value, choices)
