"""What a task fails with when it could not get hold of one run to work with."""

from __future__ import annotations

from airflow_provider_sequentum.exceptions import AgentRunRestartRefused, AgentRunStartAmbiguous, AgentRunStillGoing
from airflow_provider_sequentum.lifecycle.run_start import RestartRefused, StartAmbiguous, StillGoing


def start_ambiguous(error: StartAmbiguous) -> AgentRunStartAmbiguous:
    """Return the exception for a start that can't be told from others."""
    return AgentRunStartAmbiguous(
        f"A start of agent {error.agent_id} was sent and its answer was lost. Any of the runs {error.run_ids} "
        "could be it, so none was adopted and none started. Look at them in Sequentum Cloud, stop what is not "
        "wanted, then clear the task to start a new run; or choose on_ambiguous_start='adopt' or 'start'.",
        agent_id=error.agent_id,
    )


def still_going(error: StillGoing, *, is_retried: bool) -> AgentRunStillGoing:
    """Return the exception for runs that could not be stopped to make room for new ones."""
    step = "The next try stops them again." if is_retried else "Look at them, then clear the task to try again."
    return AgentRunStillGoing(
        f"Runs {error.run_ids} of agents {error.agent_ids} were to be replaced and could not be confirmed to have "
        f"stopped, so nothing was started. They may still be going and costing credits. {step}",
        agent_id=error.agent_ids[0],
        run_id=error.run_ids[0],
    )


def restart_refused(error: RestartRefused) -> AgentRunRestartRefused:
    """Return the exception for a run that can't be restarted where nothing else is allowed."""
    return AgentRunRestartRefused(
        f"Run {error.run_id} of agent {error.agent_id} can't be restarted: {error.reason.rstrip('.')}. "
        "No new run was started, because retry_mode is 'restart'. Clear the task to start one.",
        agent_id=error.agent_id,
        run_id=error.run_id,
    )
