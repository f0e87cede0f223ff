"""The sensor that waits for an agent run that something else started."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.exceptions import AirflowRescheduleException
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    BaseSensorOperator,
    PokeReturnValue,
    conf,
)

from airflow_provider_sequentum.airflow_compat.deferral import (
    DEFERRAL_FAILED,
    deferral_timed_out,
    deferral_timeout,
    keep_values_if_resumed,
)
from airflow_provider_sequentum.airflow_compat.extra_links import push_address
from airflow_provider_sequentum.airflow_compat.task_attempt import map_index_of, task_facts
from airflow_provider_sequentum.exceptions import (
    SequentumUnavailable,
    client_errors_as_exceptions,
)
from airflow_provider_sequentum.parameters import MAX_DURATION
from airflow_provider_sequentum.reporting.links import (
    RUN_LINK_KEY,
    RUN_SUMMARY_KEY,
    AgentRunLink,
    push_dashboard_link,
    summary_of,
)

if TYPE_CHECKING:
    import jinja2
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_sequentum.api.runs import Run
    from airflow_provider_sequentum.hooks.port import ClientPort
    from airflow_provider_sequentum.runs.sense import SensorConfig
    from airflow_provider_sequentum.runs.wait import RunPoller


class AgentRunSensor(BaseSensorOperator):
    """Wait until an agent run that something else started has succeeded.

    The run is given by its id, or it is the agent's first run that was created at or after a point in time. The sensor
    never starts, restarts or stops a run. Returns the run id in every mode, and pushes a summary of the run under the
    XCom key ``run``. If the run did not succeed, the sensor fails immediately and is not retried, because another check
    would not change the result; with ``soft_fail``, it is skipped. All of this is the same in poke, reschedule and
    deferrable mode.

    .. seealso:: https://docs.sequentum.com/concepts/runs

    :param agent_id: the agent, as an int or a string of digits. Give this or ``agent_name``.
    :param agent_name: the agent's exact and unique name. Adds one API request, in reschedule mode one for each check.
    :param run_id: the run, as an int or a string of digits. Give this or ``since``.
    :param since: wait for the agent's first run that was created at this time or later: an aware ``datetime`` or an ISO
        8601 string, for example ``"{{ dag_run.run_after }}"`` or, on Airflow 2.11, ``"{{ data_interval_end }}"``. It
        is a time of Airflow's clock, which may differ from the clock of the service.
    :param wait_for_restart: keep waiting while the run is in Failure, because it may be restarted in place. The sensor
        does not wait for a run in Failed, which is archived.
    :param deferrable: wait in the triggerer, without occupying a worker slot. Default: ``[operators]
        default_deferrable``. There, ``poke_interval`` is the minimum time between two polls on behalf of this sensor.
    :param sequentum_conn_id: the Airflow connection to Sequentum Cloud.
    :raises SensedAgentRunFailure: the run ended in Failure; it can be restarted in place.
    :raises SensedAgentRunFailed: the run ended in Failure and was archived.
    :raises AgentRunStopped: a person or another program stopped the run.
    :raises SequentumSkipped: the service skipped the run; the task is skipped.
    :raises SequentumRequestRefused: a parameter is invalid, or more runs were created since ``since`` than the service
        lists, so that the first one cannot be determined.
    :raises SequentumUnavailable: for a minute, an unreadable entry in the service's list could have been the first run
        since ``since``.
    :raises AirflowSensorTimeout: the sensor's ``timeout`` expired. The run is left running.
    """

    template_fields: Sequence[str] = (
        "agent_id",
        "agent_name",
        "run_id",
        "since",
        "wait_for_restart",
        "deferrable",
        "sequentum_conn_id",
    )
    operator_extra_links = (AgentRunLink(),)
    ui_color = "#e3f1ee"

    def __init__(
        self,
        *,
        agent_id: int | str | None = None,
        agent_name: str | None = None,
        run_id: int | str | None = None,
        since: datetime | str | None = None,
        wait_for_restart: bool | str = False,
        deferrable: bool | str = conf.getboolean("operators", "default_deferrable", fallback=False),
        sequentum_conn_id: str = "sequentum_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.agent_id = agent_id
        self.agent_name = agent_name
        self.run_id = run_id
        self.since = since
        self.wait_for_restart = wait_for_restart
        self.deferrable = deferrable
        self.sequentum_conn_id = sequentum_conn_id
        self._poll: tuple[SensorConfig, ClientPort, RunPoller] | None = None

    def execute(self, context: Context) -> Any:  # noqa: RET503 (defer raises)
        """Wait on the worker, or look once and then wait in the triggerer. Returns the run's id."""
        from airflow_provider_sequentum.runs.describe import format_time

        with self._softening():
            try:
                config, port, poller = self._polling()
                push_dashboard_link(context, port.hook, self.operator_extra_links)
                # Airflow accepts a timeout that is longer than a datetime can express.
                limit = timedelta(seconds=min(self.timeout, MAX_DURATION.total_seconds()))
                port.deadline = port.now() + limit
                until = self._first_poke(context, port) + limit
                self.log.info("Waiting for %s, until %s.", poller.spec.name, format_time(until))
                if not config.deferrable:
                    return super().execute(context)
                result = self.poke(context)
            except AirflowSensorTimeout:
                # Airflow's own says how long the sensor waited, not for what; and it is raised in spite of never_fail.
                _, _, poller = self._polling()
                raise AirflowSensorTimeout(_timed_out(poller, poller.run)) from None
            if result.is_done:
                return result.xcom_value
            self._defer(context, config, port, poller)

    def poke(self, context: Context) -> PokeReturnValue:
        """Look once."""
        from airflow_provider_sequentum.runs.wait import poll, poll_until_known

        config, port, poller = self._polling()
        if port.deadline is not None and port.now() >= port.deadline:
            return PokeReturnValue(is_done=False)  # no time is left for a request: Airflow raises its timeout now
        known_before = poller.run is not None
        with client_errors_as_exceptions(config.sequentum_conn_id):
            result = poll_until_known(port, poller) if self.reschedule else poll(port, poller)
        if poller.run is None:
            return PokeReturnValue(is_done=False)
        if result.outcome is not None:
            return PokeReturnValue(is_done=True, xcom_value=self._conclude(context, port, poller.run))
        if not known_before:
            _publish(context, port, poller.run)
        return PokeReturnValue(is_done=False)

    def execute_complete(
        self, context: Context, event: Mapping[str, Any] | None = None, config: Mapping[str, Any] | None = None
    ) -> int:
        """Say what the trigger's event means. Returns the run's id.

        :param event: what the trigger saw.
        :param config: what was handed on. ``dag.test`` loses it; then the parameters are read again.
        """
        from airflow_provider_sequentum.runs.sense import SensorConfig
        from airflow_provider_sequentum.runs.wait import PollOutcome, RunEvent

        try:
            known = SensorConfig.from_json(config) if config is not None else self._config()
            seen = RunEvent.from_json(event)
        except ValueError as error:
            raise SequentumUnavailable(
                f"What the trigger handed over cannot be read: {error} The run was left alone."
            ) from error
        if seen.error is not None:
            failure = seen.exception()
            failure.args = (f"{failure} The run was left alone.",)
            raise failure
        _, port, poller = self._polling(known)
        if seen.outcome is PollOutcome.DEADLINE or seen.run is None:
            message = _timed_out(poller, seen.run)
            limit = task_facts(context, self).execution_deadline
            timed_out = limit is not None and port.now() >= limit
            raise AirflowTaskTimeout(message) if timed_out else AirflowSensorTimeout(message)
        return self._conclude(context, port, seen.run)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume after a deferral. What Airflow 3.3 makes of its failures, this makes of them on older versions too.

        If the trigger failed, the sensor waits on the worker, for as long as it has time.
        """
        if next_method == DEFERRAL_FAILED and not deferral_timed_out(next_kwargs):
            self.log.warning("The trigger failed (%s). Waiting on the worker.", (next_kwargs or {}).get("error"))
            return self._wait_on_worker(context)
        with self._softening():
            if next_method == DEFERRAL_FAILED:
                raise AirflowSensorTimeout("Timed out, and no triggerer was there to notice. The run was left alone.")
            # The sensors' own method would skip the task, with soft_fail, after errors that a retry can fix, too.
            return super(BaseSensorOperator, self).resume_execution(next_method, next_kwargs, context)

    def _do_render_template_fields(
        self,
        parent: Any,
        template_fields: Iterable[str],
        context: Context,
        jinja_env: jinja2.Environment,
        seen_oids: set[int],
    ) -> None:
        """Render the templates. Those of a resumed sensor no longer matter: what it needs was handed on.

        For a mapped sensor, Airflow calls this method and not ``render_template_fields``.
        """
        with keep_values_if_resumed(context, self.log):
            super()._do_render_template_fields(parent, template_fields, context, jinja_env, seen_oids)

    def _defer(self, context: Context, config: SensorConfig, port: ClientPort, poller: RunPoller) -> None:
        from airflow_provider_sequentum.triggers.agent_run import AgentRunTrigger

        deadlines = [port.deadline, task_facts(context, self).execution_deadline]
        deadline = min((deadline for deadline in deadlines if deadline is not None), default=None)
        spec = poller.spec.updated(deadline=deadline)
        self.defer(
            trigger=AgentRunTrigger(sequentum_conn_id=config.sequentum_conn_id, **spec.to_json()),
            method_name="execute_complete",
            kwargs={"config": config.to_json()},
            timeout=deferral_timeout(deadline, port.now()),
        )

    def _wait_on_worker(self, context: Context) -> Any:
        self.deferrable, self._poll = False, None
        with self._softening():
            _, port, _ = self._polling()
        waited = port.now() - task_facts(context, self).started_at
        self.timeout = max(self.timeout - waited.total_seconds(), 0.0)
        return self.execute(context)

    @contextmanager
    def _softening(self) -> Iterator[None]:
        """Skip the task after the errors after which ``soft_fail`` and ``never_fail`` skip it in a poke."""
        try:
            yield
        except (AirflowSkipException, AirflowRescheduleException):
            raise
        except (Exception, AirflowTaskTimeout) as error:
            is_final = isinstance(error, (AirflowFailException, AirflowSensorTimeout, AirflowTaskTimeout))
            if self.never_fail or (self.soft_fail and is_final):
                raise AirflowSkipException(str(error)) from error
            raise

    def _first_poke(self, context: Context, port: ClientPort) -> datetime:
        """Return when the sensor began to wait: a rescheduled one did so in an earlier process."""
        first_poke = getattr(context["ti"], "get_first_reschedule_date", None) if self.reschedule else None  # Airflow 3
        return (first_poke(context) if first_poke is not None else None) or port.now()

    def _config(self) -> SensorConfig:
        from airflow_provider_sequentum.hooks.connection import SequentumConnection
        from airflow_provider_sequentum.runs.sense import SensorConfig

        config = SensorConfig.of(self)
        with closing(SequentumConnection(config.sequentum_conn_id)) as hook:
            return config.with_agent_id(hook)

    def _polling(self, config: SensorConfig | None = None) -> tuple[SensorConfig, ClientPort, RunPoller]:
        """Return what to look for and with, which remembers between two looks, as far as the process lives.

        :param config: what was handed on, if anything was. Otherwise the parameters are read, the first time.
        """
        from airflow_provider_sequentum.hooks.connection import SequentumConnection
        from airflow_provider_sequentum.hooks.port import ClientPort
        from airflow_provider_sequentum.runs.wait import RunPoller

        if self._poll is None:
            config = config or self._config()
            port = ClientPort(SequentumConnection(config.sequentum_conn_id))
            self._poll = config, port, RunPoller(config.wait_spec())
        return self._poll

    def _conclude(self, context: Context, port: ClientPort, run: Run) -> int:
        from airflow_provider_sequentum.reporting.asset_events import add_run
        from airflow_provider_sequentum.runs.describe import describe_run
        from airflow_provider_sequentum.runs.sense import sensed_failure

        _publish(context, port, run)
        failure = sensed_failure(port, run)
        if failure is not None:
            raise failure
        self.log.info("Run %s of agent %s succeeded: %s.", run.id, run.agent_id, describe_run(run))
        add_run(context, port.hook, run)
        return run.id


def _timed_out(poller: RunPoller, run: Run | None) -> str:
    from airflow_provider_sequentum.runs.describe import describe_run

    if run is not None:
        return f"Timed out waiting for run {run.id} of agent {run.agent_id}: {describe_run(run)}. It was left alone."
    found = "It was left alone." if poller.spec.run_id is not None else "None was found."
    return f"Timed out waiting for {poller.spec.name}. {found}"


def _publish(context: Context, port: ClientPort, run: Run) -> None:
    link, map_index = port.hook.run_link(run.agent_id, run.id), map_index_of(context["ti"])
    push_address(context, RUN_LINK_KEY, link)
    summary = summary_of(run, link, map_index=map_index if map_index >= 0 else None)
    context["ti"].xcom_push(key=RUN_SUMMARY_KEY, value=summary)
