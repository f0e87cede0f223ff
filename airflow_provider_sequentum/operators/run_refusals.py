"""What a task fails with when it could not get hold of runs to work with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from airflow_provider_sequentum.exceptions import (
    AgentRunRestartRefused,
    AgentRunStartAmbiguous,
    AgentRunStillGoing,
    CreditsTooLow,
)
from airflow_provider_sequentum.lifecycle.run_guards import CreditsShort
from airflow_provider_sequentum.lifecycle.run_start import RestartRefused, StartAmbiguous, StillGoing
from airflow_provider_sequentum.task_try import has_tries_left


@contextmanager
def refusals_as_airflow_exceptions(what: str, conn_id: str, context: Mapping[str, Any]) -> Iterator[None]:
    """
    Turn the refusals of a start into the exceptions a task fails with.

    :param what: what would be started.
    """
    try:
        yield
    except StartAmbiguous as error:
        raise _start_ambiguous(error) from error
    except StillGoing as error:
        raise _still_going(error, is_retried=has_tries_left(context)) from error
    except RestartRefused as error:
        raise _restart_refused(error) from error
    except CreditsShort as error:
        raise CreditsTooLow(
            f"{what} was not started: {error}. Buy credits, then clear the task. (connection {conn_id!r})"
        ) from error


def _start_ambiguous(error: StartAmbiguous) -> AgentRunStartAmbiguous:
    """Return the exception for a start that can't be told from others."""
    return AgentRunStartAmbiguous(
        f"A start of agent {error.agent_id} was sent and its answer was lost. Any of the runs {error.run_ids} "
        "could be it, so none was adopted and none started. Look at them in Sequentum Cloud, stop what is not "
        "wanted, then clear the task to start a new run; or choose on_ambiguous_start='adopt' or 'start'.",
        agent_id=error.agent_id,
    )


def _still_going(error: StillGoing, *, is_retried: bool) -> AgentRunStillGoing:
    """Return the exception for runs that could not be stopped to make room for new ones."""
    step = "The next try stops them again." if is_retried else "Look at them, then clear the task to try again."
    return AgentRunStillGoing(
        f"Runs {error.run_ids} of agents {error.agent_ids} were to be replaced and could not be confirmed to have "
        f"stopped, so nothing was started. They may still be going and costing credits. {step}",
        agent_id=error.agent_ids[0],
        run_id=error.run_ids[0],
    )


def _restart_refused(error: RestartRefused) -> AgentRunRestartRefused:
    """Return the exception for a run that can't be restarted where nothing else is allowed."""
    return AgentRunRestartRefused(
        f"Run {error.run_id} of agent {error.agent_id} can't be restarted: {error.reason.rstrip('.')}. "
        "No new run was started, because retry_mode is 'restart'. Clear the task to start one.",
        agent_id=error.agent_id,
        run_id=error.run_id,
    )
