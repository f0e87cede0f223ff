"""What the end of a run means for its task: success, a failure that a retry may fix, or one that it cannot fix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_sequentum import api
from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.api.run_status import status_name
from airflow_provider_sequentum.exceptions import (
    AgentRunException,
    AgentRunFailed,
    AgentRunFailure,
    AgentRunStopped,
    SequentumException,
    SequentumSkipped,
)
from airflow_provider_sequentum.jobs.port import OPTIONAL_SHARE, Sender
from airflow_provider_sequentum.runs.describe import counted, describe_run
from airflow_provider_sequentum.runs.phases import Phase, phase_of

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.analytics import RunDiagnostics
    from airflow_provider_sequentum.api.runs import Run
    from airflow_provider_sequentum.jobs.attempt import TaskFacts
    from airflow_provider_sequentum.runs.record import RunConfig, RunPolicies

EXCEPTION_OF: Mapping[Phase, type[AgentRunException]] = {
    Phase.RESTARTABLE: AgentRunFailure,
    Phase.ARCHIVED: AgentRunFailed,
    Phase.STOPPED: AgentRunStopped,
}

MAX_EXPLANATION_LENGTH = 3000
"""Maximum length of the service's explanation in an error message, which stays below 4 kB."""

_WHAT_IT_MEANS = {
    Phase.RESTARTABLE: "it is still in the active Runs table and can be restarted in place",
    Phase.ARCHIVED: "it was archived to run-history, so there is nothing left to restart",
    Phase.STOPPED: "a person or another program stopped it",
    Phase.SKIPPED: "the service did not execute it, for example because the agent is archived",
}


def failure_for(
    port: Sender, run: Run, next_step: str, exceptions: Mapping[Phase, type[AgentRunException]] = EXCEPTION_OF
) -> SequentumException:
    """Return the exception for a run that did not succeed, with the causes that the service reports.

    :param next_step: what the next attempt does, or what the reader should do.
    :param exceptions: the exception for each phase; a sensor has its own.
    """
    phase = phase_of(run)
    diagnostics = _diagnose(port, run) if phase in (Phase.RESTARTABLE, Phase.ARCHIVED) else None
    message = describe_end(run, next_step, diagnostics)
    if phase is Phase.SKIPPED:
        return SequentumSkipped(message, agent_id=run.agent_id, run_id=run.id)
    return exceptions[phase](message, agent_id=run.agent_id, run_id=run.id, status=status_name(run.status))


def what_follows(phase: Phase, config: RunConfig, task: TaskFacts) -> str:
    """Return what happens next, for the error of a task whose run did not succeed."""
    if phase is Phase.SKIPPED:
        return "The task is skipped. Unarchive the agent to run it again."
    if phase is Phase.STOPPED:
        return "It is not retried. Clear the task to start a new run."
    if not task.has_next_attempt:
        return "No attempts are left. Clear the task to start a new run."
    if phase is Phase.ARCHIVED and config.retry_mode == "restart":
        return "The next attempt fails too, because retry_mode is 'restart'. Clear the task to start a new run."
    restarts = phase is Phase.RESTARTABLE and config.retry_mode != "new" and task.keeps_records
    return "The next attempt restarts it in place." if restarts else "The next attempt starts a new run."


def describe_end(run: Run, next_step: str, diagnostics: RunDiagnostics | None = None) -> str:
    """Return the error message for a run that did not succeed: what happened, what became of it, what happens next."""
    lines = [f"Run {run.id} of agent {run.agent_id} ended: {describe_run(run)}; {_WHAT_IT_MEANS[phase_of(run)]}."]
    if run.message:
        lines.append(f"The service says: {run.message}")
    if diagnostics is not None and diagnostics.possible_causes:
        lines.append("Possible causes: " + "; ".join(cause.rstrip(".") for cause in diagnostics.possible_causes) + ".")
    if diagnostics is not None and diagnostics.suggested_actions:
        actions = "; ".join(action.rstrip(".") for action in diagnostics.suggested_actions)
        lines.append(f"Suggested actions: {actions}.")
    explanation = "\n".join(lines)
    if len(explanation) > MAX_EXPLANATION_LENGTH:
        explanation = f"{explanation[:MAX_EXPLANATION_LENGTH]} [cut]"
    return f"{explanation}\n{next_step}"


def _diagnose(port: Sender, run: Run) -> RunDiagnostics | None:
    """Read the diagnostics of the run. Without them, the error only contains what is in the run's record."""
    try:
        return port.send(api.analytics.run_diagnostics(run.agent_id, run.id), budget_share=OPTIONAL_SHARE, within=30.0)
    except SequentumError:
        return None


class Judgement(NamedTuple):
    """The result of checking a successful run against the conditions of the task.

    :param action: ``succeed``, ``warn``, ``skip`` or ``fail``.
    :param reason: why, unless it is ``succeed``.
    """

    action: str
    reason: str = ""


def judge(run: Run, policies: RunPolicies) -> Judgement:
    """Check a successful run: first for errors, then whether it has records at all, then for their number."""
    # If the number of extracted records is not stated, that of exported records may be.
    records = (run.export_count if run.data_count is None else run.data_count) or 0
    errors = run.error_count or 0
    if policies.max_errors is not None and errors > policies.max_errors:
        return Judgement("fail", f"it had {counted(errors, 'error')}, more than max_errors={policies.max_errors}")
    if records == 0 and policies.on_empty != "succeed":
        return Judgement(policies.on_empty, f"it extracted no records (on_empty={policies.on_empty!r})")
    if policies.min_records is not None and records < policies.min_records:
        return Judgement(
            "fail", f"it extracted {counted(records, 'record')}, fewer than min_records={policies.min_records}"
        )
    return Judgement("succeed")
