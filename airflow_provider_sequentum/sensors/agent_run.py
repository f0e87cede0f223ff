"""The sensor that waits for an agent run which something else started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    BaseSensorOperator,
    PokeReturnValue,
    conf,
)

from airflow_provider_sequentum.exceptions import SequentumRequestRefused
from airflow_provider_sequentum.lifecycle.arguments import parse_id, parse_time
from airflow_provider_sequentum.reporting.links import AgentRunLink, announce_run
from airflow_provider_sequentum.task_try import DEFERRAL_FAILED, deferral_timed_out, execution_deadline

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_sequentum.api.runs import Run
    from airflow_provider_sequentum.hooks.sequentum import SequentumHook
    from airflow_provider_sequentum.runs.wait import RunPoller


class AgentRunSensor(BaseSensorOperator):
    """
    Wait until an agent run that something else started has ended well.

    The run is given by its id, or it is the agent's first one created at or after a moment. The sensor only
    watches: it never starts, restarts or stops a run. Returns the run's id, in every mode; a summary of the run is
    under the XCom key ``run``. A run that ended otherwise fails the sensor at once and without a retry, because looking
    again can't change it; with ``soft_fail`` it skips. All of this is the same in poke, reschedule and deferrable mode.

    .. seealso:: https://docs.sequentum.com/concepts/runs

    :param agent_id: the agent, as an int or a string of digits.
    :param run_id: the run, as an int or a string of digits. Give this or ``since``.
    :param since: wait for the agent's first run created at this moment or later: an aware ``datetime`` or an ISO 8601
        string, for example ``"{{ data_interval_end }}"``.
    :param wait_for_restart: keep waiting through Failure, because somebody may restart the run in place; never through
        Failed, which is archived.
    :param deferrable: wait in the triggerer, which takes no worker slot. Default: ``[operators] default_deferrable``.
        There, ``poke_interval`` is the least time between two looks on behalf of this sensor.
    :param sequentum_conn_id: the connection.
    :raises SensedAgentRunFailure: the run ended in Failure; it can be restarted in place.
    :raises SensedAgentRunFailed: the run ended in Failure and was archived.
    :raises AgentRunStopped: somebody stopped the run.
    :raises AgentRunSkipped: the service skipped the run; the task is skipped.
    :raises AirflowSensorTimeout: the sensor's ``timeout`` has passed. The run is left alone.
    """

    template_fields: Sequence[str] = ("agent_id", "run_id", "since", "sequentum_conn_id")
    operator_extra_links = (AgentRunLink(),)
    ui_color = "#e3f1ee"

    def __init__(
        self,
        *,
        agent_id: int | str,
        run_id: int | str | None = None,
        since: datetime | str | None = None,
        wait_for_restart: bool = False,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        sequentum_conn_id: str = "sequentum_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.agent_id = agent_id
        self.run_id = run_id
        self.since = since
        self.wait_for_restart = wait_for_restart
        self.deferrable = deferrable
        self.sequentum_conn_id = sequentum_conn_id
        self._wait: RunPoller | None = None

    def execute(self, context: Context) -> Any:  # noqa: RET503 (defer raises)
        """Wait on the worker, or look once and then wait in the triggerer. Returns the run's id."""
        if not self.deferrable:
            try:
                return super().execute(context)
            except AirflowSensorTimeout as error:  # which Airflow lets pass in spite of never_fail
                raise self._softened(error) from error
        try:
            result = self.poke(context)
        except AirflowFailException as error:
            raise self._softened(error) from error
        if result.is_done:
            return result.xcom_value
        from airflow_provider_sequentum.triggers.agent_run import AgentRunTrigger
        from airflow_provider_sequentum.triggers.timing import deferral_timeout

        now = datetime.now(UTC)
        limits = [now + timedelta(seconds=self.timeout), execution_deadline(context, self.execution_timeout)]
        deadline = min(limit for limit in limits if limit is not None)
        self.defer(
            trigger=AgentRunTrigger(
                sequentum_conn_id=self.sequentum_conn_id, **replace(self._waiting().terms, deadline=deadline).to_json()
            ),
            method_name="execute_complete",
            timeout=deferral_timeout(deadline, now),
        )

    def execute_complete(self, context: Context, event: Mapping[str, Any] | None = None) -> int:
        """Say what the trigger's event means. Returns the run's id."""
        from airflow_provider_sequentum.runs.wait import PollOutcome
        from airflow_provider_sequentum.triggers.run_event import read_run_event

        news = read_run_event(event)
        if news.error is not None:
            raise type(news.error)(f"{news.error} The run was left alone.")
        if news.outcome is PollOutcome.DEADLINE or news.run is None:
            what = f"run {news.run_id}" if news.run_id else f"a run since {self.since}"
            message = f"Timed out waiting for {what} of agent {news.agent_id}. It was left alone."
            limit = execution_deadline(context, self.execution_timeout)
            timed_out = limit is not None and datetime.now(UTC) >= limit
            raise self._softened(AirflowTaskTimeout(message) if timed_out else AirflowSensorTimeout(message))
        return self._conclude(context, news.run)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume after a deferral. What Airflow 3.3 makes of its failures, this makes of them on older versions too."""
        try:
            if next_method == DEFERRAL_FAILED and deferral_timed_out(next_kwargs):
                raise AirflowSensorTimeout("Timed out, and no triggerer was there to notice. The run was left alone.")
            return super().resume_execution(next_method, next_kwargs, context)
        except AirflowSkipException:
            raise
        except AirflowException as error:
            raise self._softened(error) from error.__cause__

    def poke(self, context: Context) -> PokeReturnValue:
        """Look once."""
        from airflow_provider_sequentum.runs.wait import look, look_until_known

        wait = self._waiting()
        known_before = wait.run is not None
        verdict = self._hook.perform(look_until_known(wait) if self.reschedule else look(wait))
        if wait.run is None:
            return PokeReturnValue(is_done=False)
        if verdict.outcome is not None:
            return PokeReturnValue(is_done=True, xcom_value=self._conclude(context, wait.run))
        if not known_before:
            announce_run(context, self._hook, wait.run)
        return PokeReturnValue(is_done=False)

    def _softened(self, error: BaseException) -> BaseException:
        """Return what ``error`` becomes with ``soft_fail`` or ``never_fail``, as it does while poking."""
        return AirflowSkipException(str(error)) if self.soft_fail or self.never_fail else error

    def _waiting(self) -> RunPoller:
        from airflow_provider_sequentum.runs.wait import RunPoller, WaitSpec

        if self._wait is None:
            try:
                if bool(self.run_id) == bool(self.since):
                    raise ValueError("Give either run_id or since.")
                terms = WaitSpec(
                    agent_id=parse_id("agent_id", self.agent_id),
                    run_id=parse_id("run_id", self.run_id) if self.run_id else None,
                    since=parse_time("since", self.since) if self.since else None,
                    poll_interval=self.poke_interval,
                    wait_for_restart=self.wait_for_restart,
                    # The sensor's own timeout bounds how long the service may be out of reach, in every mode.
                    is_patient=True,
                )
            except ValueError as error:
                raise SequentumRequestRefused(f"{error} (connection {self.sequentum_conn_id!r})") from error
            self._wait = RunPoller(terms)
        return self._wait

    def _conclude(self, context: Context, run: Run) -> int:
        from airflow_provider_sequentum.endings import SENSED_EXCEPTION_OF, ending_exception
        from airflow_provider_sequentum.reporting.asset_events import tell_outlets_of_run
        from airflow_provider_sequentum.runs.describe import describe_run
        from airflow_provider_sequentum.runs.phases import Phase, phase_of

        announce_run(context, self._hook, run)
        phase = phase_of(run)
        if phase is not Phase.SUCCEEDED:
            raise ending_exception(run, _NEXT_STEP[phase.value], self._hook, SENSED_EXCEPTION_OF)
        self.log.info("Run %s of agent %s ended well: %s.", run.id, run.agent_id, describe_run(run))
        tell_outlets_of_run(context, self._hook, run, self.log)
        return run.id

    @cached_property
    def _hook(self) -> SequentumHook:
        from airflow_provider_sequentum.hooks.sequentum import SequentumHook

        return SequentumHook(self.sequentum_conn_id)


_NEXT_STEP = {
    "restartable": "Restart it, or clear the task that started it; then clear this sensor.",
    "archived": "Start a new run, then clear this sensor.",
    "stopped": "Start a new run, then clear this sensor.",
    "skipped": "So this task is skipped.",
}
