"""The operator that runs all agents of a space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import AirflowException, BaseOperator, conf

from airflow_provider_sequentum.lifecycle.arguments import (
    parse_choice,
    parse_count,
    parse_id,
    parse_input_parameters,
    parse_seconds,
)
from airflow_provider_sequentum.lifecycle.choices import (
    ON_AMBIGUOUS_RUN,
    ON_CLEAR,
    ON_EMPTY,
    ON_PARTIAL,
    ON_TIMEOUT,
    RETRY_MODES,
)
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

    from airflow_provider_sequentum.operators.space_task import Outcome, SpaceTask


class StartSpaceRunsOperator(RunParameters, BaseOperator):
    """
    Start a run of every agent of a space by one request, and wait for the end of each.

    Returns the ids of the runs that ended well, in the order of their agents, in every mode; per agent there is a
    summary in the list under the XCom key ``runs``. Each run has the life of one that
    :class:`~airflow_provider_sequentum.operators.agent_run.StartAgentRunOperator` started: a retry of the task joins
    what is still going, returns what ended well, restarts what ended in Failure, and starts the rest.

    .. seealso:: https://docs.sequentum.com/concepts/spaces

    :param space_id: the space, as an int or a string of digits.
    :param input_parameters: input parameters for every agent: a mapping, or a string with a JSON object.
    :param on_partial: what it means that some agents were not started or did not end well while others did: ``fail``
        (default), or ``warn``, which only says so in the log.
    :param wait_for_completion: wait for the runs' ends. Otherwise the task succeeds as soon as they are started.
    :param deferrable: wait in the triggerer, which takes no worker slot. Default: ``[operators] default_deferrable``.
    :param poll_interval: least seconds between two looks at a run; ``None`` (default) leaves that to the schedule.
    :param timeout: seconds or ``timedelta`` from the try's beginning after which it gives up. Default: no limit.
    :param on_timeout: what becomes of the runs when ``timeout`` has passed: ``stop`` (default) or ``leave``. When
        ``execution_timeout`` has passed they are always stopped.
    :param restarts: how often a run that ended in Failure is restarted in place within one try. Default 0.
    :param restart_delay: seconds before the first of these restarts; doubled each time. Default 30.
    :param retry_mode: what a retry does with a run that ended in Failure: ``restart_or_new`` (default), ``restart`` or
        ``new``.
    :param on_clear: what clearing the task means while runs are going: ``rerun`` stops them and starts all agents anew
        (default), ``join`` waits for them and starts the others anew. Needs Airflow 3.3.
    :param on_ambiguous_start: what to do when the answer was lost and an agent's run can't be told from others:
        ``fail`` (default), ``adopt`` the newest, or ``start`` another.
    :param stop_grace: seconds a run gets to wind down when it is stopped, before it is killed. Default 45.
    :param min_credits: don't start any unless so many credits are left. Default: not looked at.
    :param min_records: a run that extracted fewer records did not end well.
    :param max_errors: a run that counted more errors did not end well.
    :param on_empty: what a run without records means: ``succeed`` (default), ``warn``, ``skip`` or ``fail``.
    :param sequentum_conn_id: the connection.
    :raises SpaceRunsFailed: some did not end well; a retry goes on with each of them.
    :raises SpaceRunsEnded: some did not end well, and no retry helps.
    :raises AgentRunSkipped: all of them were skipped; the task is skipped.
    :raises CreditsTooLow: fewer than ``min_credits`` are left; nothing was started.
    :raises AgentRunStartAmbiguous: the answer was lost and the runs can't be told from others.
    """

    template_fields: Sequence[str] = (
        "space_id",
        "input_parameters",
        "timeout",
        "min_credits",
        "min_records",
        "max_errors",
        "sequentum_conn_id",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"input_parameters": "json"}
    ui_color = "#e3f1ee"

    def __init__(
        self,
        *,
        space_id: int | str,
        input_parameters: Mapping[str, Any] | str | None = None,
        on_partial: str = "fail",
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
        self.space_id = space_id
        self.input_parameters = input_parameters
        self.on_partial = parse_choice("on_partial", on_partial, ON_PARTIAL)
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
        self._task: SpaceTask | None = None
        self._termination = Termination()

    def execute(self, context: Context) -> list[int]:
        """Start the runs, or go on with those an earlier try left, and wait for their ends. Returns the runs' ids."""
        with self._termination.ends_work():
            task = self._space_task(context)
            outcomes = task.begin()
            return self._wait_until_concluded(task, outcomes) if self.wait_for_completion else task.started()

    def execute_complete(self, context: Context, event: Mapping[str, Any] | None = None) -> list[int]:
        """Say what the trigger's event means; wait again if runs were restarted in place. Returns the runs' ids."""
        from airflow_provider_sequentum.triggers.run_event import read_space_event

        task = self._space_task(context)
        return self._wait_until_concluded(task, task.resume(*read_space_event(event)))

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume after a deferral, also after one that Airflow itself ended: see ``StartAgentRunOperator``."""
        with self._termination.ends_work():
            try:
                return super().resume_execution(next_method, next_kwargs, context)
            except AirflowException as error:
                results = self._results(context) if next_method == DEFERRAL_FAILED else None
                if results is None:
                    raise
                task = self._space_task(context)
                task.resume_from(results)
                if deferral_timed_out(next_kwargs):
                    return self._wait_until_concluded(task, task.give_up())
                self.log.warning("The trigger broke (%s); waiting for the runs on the worker.", error)
                return self._wait_until_concluded(task, task.wait())

    def on_kill(self) -> None:
        """Stop the runs, or leave them to the next try: see ``StartAgentRunOperator``."""
        self._termination.end_after(self._stop)

    def get_openlineage_facets_on_complete(self, task_instance: object) -> OperatorLineage[Any, Any] | None:  # noqa: ARG002
        """Tell OpenLineage what was read and written; called by its provider, where that is installed."""
        return None if self._task is None else self._task.lineage

    def _stop(self) -> None:
        if self._task is None and (context := current_context()) is not None and (results := self._results(context)):
            # Airflow 2.11 does not resume a deferred task whose execution_timeout has passed: it only calls this.
            self._space_task(context).resume_from(results)
        if self._task is not None:
            self._task.stop()

    def _wait_until_concluded(self, task: SpaceTask, outcomes: Mapping[int, Outcome]) -> list[int]:
        while not task.conclude(outcomes):
            if self.deferrable:
                task.announce()
                self.defer(trigger=task.trigger(), method_name="execute_complete", timeout=task.deferral_timeout())
            outcomes = task.wait()
        return task.result()

    def _results(self, context: Context) -> list[dict[str, Any]] | None:
        from airflow_provider_sequentum.operators.space_task import RESULTS_KEY

        results: list[dict[str, Any]] | None = pushed_by_this_try(context, RESULTS_KEY)
        return results

    def _space_task(self, context: Context) -> SpaceTask:
        from airflow_provider_sequentum.hooks.sequentum import SequentumHook
        from airflow_provider_sequentum.lifecycle.space_record import SpaceRequest
        from airflow_provider_sequentum.operators.space_task import SpaceTask

        request = SpaceRequest(
            space_id=self._checked(parse_id, "space_id", self.space_id),
            input_parameters=self._checked(parse_input_parameters, self.input_parameters),
        )
        self._task = SpaceTask(
            request,
            self._options(),
            SequentumHook(self.sequentum_conn_id),
            context,
            self._bounds(context),
            tolerates_bad_ends=self.on_partial == "warn",
            log=self.log,
        )
        return self._task
