"""
The event of a run trigger, written and read in one place.

It is checked when it is read: an event that can't be understood is never taken for success.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.exceptions import SequentumException, SequentumUnavailable
from airflow_provider_sequentum.hooks.errors import exception_named
from airflow_provider_sequentum.lifecycle.run_wait import WaitOutcome


@dataclass(frozen=True, slots=True)
class RunEvent:
    """
    The news of one wait.

    :param agent_id: the agent.
    :param run_id: the run; ``None`` if the deadline passed before there was one.
    :param outcome: why the wait is over; ``None`` if it could not go on.
    :param run: the run's last record; ``None`` if none was read before the deadline.
    :param carried: what the task handed to the trigger to get back.
    :param error: why the wait could not go on. The run may still be going.
    """

    agent_id: int
    run_id: int | None
    outcome: WaitOutcome | None
    run: Run | None
    carried: Mapping[str, Any]
    error: SequentumException | None = None

    @property
    def known_run_id(self) -> int:
        """The run's id, for a task that knew it before it waited."""
        if self.run_id is None:
            raise _not_understood("it names no run")
        return self.run_id


def ended_event(outcome: WaitOutcome, run: Run | None, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the event of a wait that is over, in plain JSON values."""
    record = run.model_dump(mode="json") if run is not None else None
    return {"outcome": outcome.value, "run": record, "trigger": dict(arguments)}


def error_event(error: SequentumException, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the event of a wait that could not go on, in plain JSON values."""
    return {"outcome": "error", "error": type(error).__name__, "message": str(error), "trigger": dict(arguments)}


def read_run_event(event: Mapping[str, Any] | None) -> RunEvent:
    """
    Return what the event says.

    :raises SequentumUnavailable: it can't be understood. The run may still be going; the next try finds out.
    """
    if not isinstance(event, Mapping):
        raise _not_understood("there is none")
    try:
        arguments, record = event["trigger"], event.get("run")
        run = Run.model_validate(record) if record is not None else None
        failed = event["outcome"] == "error"
        error = exception_named(event.get("error"), event.get("message")) if failed else None
        news = RunEvent(
            agent_id=arguments["agent_id"],
            run_id=run.id if run is not None else arguments["run_id"],
            outcome=WaitOutcome(event["outcome"]) if error is None else None,
            run=run,
            carried=arguments["carried"],
            error=error,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _not_understood(type(error).__name__) from error
    if news.run is None and news.outcome is WaitOutcome.ENDED:
        raise _not_understood("a run that ended must have a record")
    return news


def read_space_event(event: Mapping[str, Any] | None) -> tuple[list[RunEvent], Mapping[str, Any]]:
    """
    Return what the event of a :class:`.SpaceRunsTrigger` says of each run, and what the trigger carried.

    :raises SequentumUnavailable: it can't be understood. The runs may still be going; the next try finds out.
    """
    if not isinstance(event, Mapping):
        raise _not_understood("there is none")
    events, carried = event.get("events"), event.get("carried")
    if not isinstance(events, list) or not isinstance(carried, Mapping):
        raise _not_understood("it tells of no runs")
    return [read_run_event(one) for one in events], carried


def _not_understood(reason: str) -> SequentumUnavailable:
    return SequentumUnavailable(
        f"The trigger's event can't be understood ({reason}). The run may still be going; the next try finds out."
    )
