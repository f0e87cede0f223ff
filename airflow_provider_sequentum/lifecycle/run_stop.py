"""Ending a run that nobody waits for any more: stop gracefully, wait a bounded time, then kill."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from airflow_provider_sequentum.api.errors import NotFound, SequentumError
from airflow_provider_sequentum.api.run_status import status_name
from airflow_provider_sequentum.lifecycle.phases import Phase, phase_of
from airflow_provider_sequentum.lifecycle.procedure import Procedure, now, say, send, sleep, warn
from airflow_provider_sequentum.lifecycle.tolerance import RESTART_GRACE

if TYPE_CHECKING:
    from airflow_provider_sequentum.api import Call
    from airflow_provider_sequentum.api.runs import Run

STOP_GRACE = 45.0
"""Seconds a run gets to wind down after a stop before it is killed; what Sequentum's own tooling allows."""

KILL_GRACE = 20.0
"""Seconds a run gets to end after a kill."""

LOOK_INTERVAL = 3.0


@dataclass(frozen=True, slots=True)
class StopResult:
    """
    What became of the run.

    :param confirmed: whether the service was seen to have ended it, or not to know it.
    :param status: its last status by name, where one was read.
    """

    confirmed: bool
    status: str | None = None

    @property
    def sentence(self) -> str:
        """What the person reading about the end of the task has to know."""
        if not self.confirmed:
            return "It could not be confirmed that it has stopped."
        if self.status is None:
            return "The service no longer knows it."
        return "It has been stopped." if self.status == "Stopped" else f"It ended as {self.status} meanwhile."


def stop_run(
    agent_id: int, run_id: int, stop_grace: float = STOP_GRACE, restart_asked_at: datetime | None = None
) -> Procedure[StopResult]:
    """
    Stop the run, wait ``stop_grace`` seconds, then kill it.

    :param agent_id: the agent.
    :param run_id: the run.
    :param stop_grace: seconds it gets to wind down.
    :param restart_asked_at: when it was last restarted in place: soon after, a Failure may still be the old one.

    A first kill equals a stop, and a kill of a run that is already stopping forces its end
    (https://docs.sequentum.com/api-reference/agents/kill-run), so a kill follows a stop, and a second one if need be.
    No error is raised: a stop that could not be confirmed is said in the log, with the run's id.
    """
    from airflow_provider_sequentum.api import runs

    name = f"Run {run_id} of agent {agent_id}"
    yield from say(f"{name} is being stopped.")
    steps: list[tuple[Call[None], float]] = [
        (runs.stop(agent_id, run_id), stop_grace),
        (runs.kill(agent_id, run_id), KILL_GRACE),
        (runs.kill(agent_id, run_id), KILL_GRACE),
    ]
    result = StopResult(confirmed=False)
    for number, (call, grace) in enumerate(steps):
        if number:
            yield from warn(f"{name} is still {result.status or 'not answering'}; killing it.")
        doubted_until = restart_asked_at and restart_asked_at + RESTART_GRACE
        try:
            yield from send(call)
        except SequentumError as error:
            yield from warn(f"The service did not take the request: {error}")
            if not error.transient:  # it was refused, which is what the service does when the run is over
                doubted_until = None
        result = yield from _wait_for_the_end(agent_id, run_id, grace, doubted_until)
        if result.confirmed:
            yield from say(f"{name} has ended: {result.status or 'the service no longer knows it'}.")
            return result
    yield from warn(
        f"{name} could not be confirmed to have stopped (last seen: {result.status or 'no answer'}). It may still be "
        "going and costing credits: look at it in Sequentum Cloud."
    )
    return result


def _wait_for_the_end(
    agent_id: int, run_id: int, grace: float, failure_doubted_until: datetime | None
) -> Procedure[StopResult]:
    from airflow_provider_sequentum.api import runs

    until = (yield from now()) + timedelta(seconds=grace)
    run: Run | None = None
    while True:
        try:
            run = yield from send(runs.status(agent_id, run_id))
        except NotFound:
            return StopResult(confirmed=True)
        except SequentumError as error:
            yield from warn(f"Could not look at run {run_id}: {error}")
        moment = yield from now()
        phase = phase_of(run) if run is not None else Phase.UNKNOWN
        doubted = phase is Phase.RESTARTABLE and failure_doubted_until is not None and moment < failure_doubted_until
        if run is not None and phase.is_over and not doubted:
            return StopResult(confirmed=True, status=status_name(run.status))
        if moment >= until:
            return StopResult(confirmed=False, status=status_name(run.status) if run else None)
        yield from sleep(LOOK_INTERVAL)
