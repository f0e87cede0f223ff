"""Waiting for a run that the task did not start: the parameters of the sensor, and what the end of the run means."""

from datetime import datetime
from typing import Annotated, ClassVar, Self

from pydantic import BeforeValidator, model_validator

from airflow_provider_sequentum import parameters as p
from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.exceptions import SensedAgentRunFailed, SensedAgentRunFailure, SequentumException
from airflow_provider_sequentum.jobs.port import Sender
from airflow_provider_sequentum.jobs.record import Flag, Id, Seconds
from airflow_provider_sequentum.runs.agent_lookup import AgentConfig
from airflow_provider_sequentum.runs.outcome import EXCEPTION_OF, failure_for
from airflow_provider_sequentum.runs.phases import Phase, phase_of
from airflow_provider_sequentum.runs.wait import WaitSpec

_EXCEPTION_OF = {**EXCEPTION_OF, Phase.RESTARTABLE: SensedAgentRunFailure, Phase.ARCHIVED: SensedAgentRunFailed}

_NEXT_STEP = {
    Phase.RESTARTABLE: "Restart it, or clear the task that started it; then clear this sensor.",
    Phase.ARCHIVED: "Start a new run, then clear this sensor.",
    Phase.STOPPED: "Start a new run, then clear this sensor.",
    Phase.SKIPPED: "The task is skipped.",
}


class SensorConfig(AgentConfig):
    """The parsed parameters of a sensor.

    See :class:`~airflow_provider_sequentum.sensors.agent_run.AgentRunSensor`. They are stored when the sensor is
    deferred, so that it does not parse its parameters again when it resumes.
    """

    nothing_was: ClassVar[str] = "checked"

    run_id: Id | None = None
    since: Annotated[datetime, BeforeValidator(p.parse_time)] | None = None
    wait_for_restart: Flag = False
    deferrable: Flag = False
    poke_interval: Seconds = 60.0

    @model_validator(mode="after")
    def _names_one_run(self) -> Self:
        if (self.run_id is None) == (self.since is None):
            raise ValueError("Give either run_id or since")
        return self

    def wait_spec(self) -> WaitSpec:
        """Return what to wait for."""
        return WaitSpec(
            agent_id=self.agent_id,
            run_id=self.run_id,
            since=self.since,
            poll_interval=self.poke_interval,
            wait_for_restart=self.wait_for_restart,
            # In every mode, the sensor's own timeout limits how long the service may be unavailable.
            tolerate_outages=True,
        )


def sensed_failure(port: Sender, run: Run) -> SequentumException | None:
    """Return the exception with which a sensor fails or skips after the run has ended; ``None`` if the run succeeded.

    Another poke would not change the result, so none of these exceptions is retried.
    """
    phase = phase_of(run)
    if phase is Phase.SUCCEEDED:
        return None
    return failure_for(port, run, _NEXT_STEP[phase], _EXCEPTION_OF)
