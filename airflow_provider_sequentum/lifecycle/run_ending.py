"""What is said about a run that did not end well, and whether one that did has delivered enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.lifecycle.phases import Phase
from airflow_provider_sequentum.lifecycle.procedure import Procedure, send
from airflow_provider_sequentum.lifecycle.progress import describe_run

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.analytics import RunDiagnostics
    from airflow_provider_sequentum.api.runs import Run

_WHAT_IT_MEANS = {
    Phase.RESTARTABLE: "it is still in the active Runs table and can be restarted in place",
    Phase.ARCHIVED: "it was archived to run-history, so there is nothing left to restart",
    Phase.STOPPED: "somebody stopped or killed it",
    Phase.SKIPPED: "the service did not execute it, as it does when the agent is archived",
}


def diagnose(run: Run) -> Procedure[RunDiagnostics | None]:
    """Ask the service what went wrong; ``None`` where it can't say. It is extra, so no failure of it is raised."""
    from airflow_provider_sequentum.api import analytics

    try:
        return (yield from send(analytics.run_diagnostics(run.agent_id, run.id)))
    except SequentumError:
        return None


def describe_ending(run: Run, phase: Phase, next_step: str, diagnostics: RunDiagnostics | None = None) -> str:
    """
    Return the message of a run that ended otherwise than well: what happened, what is left of it, what comes next.

    :param next_step: what the next try or the person reading should do.
    """
    lines = [f"Run {run.id} of agent {run.agent_id} ended: {describe_run(run)}; {_WHAT_IT_MEANS[phase]}."]
    if run.message:
        lines.append(f"The service says: {run.message}")
    if diagnostics is not None and diagnostics.possible_causes:
        lines.append("Possible causes: " + "; ".join(diagnostics.possible_causes))
    if diagnostics is not None and diagnostics.suggested_actions:
        lines.append("Suggested actions: " + "; ".join(diagnostics.suggested_actions))
    lines.append(next_step)
    return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomePolicy:
    """
    What a run that ended well has to have delivered. Errors are judged first, then emptiness, then the number.

    :param min_records: fewest records extracted.
    :param max_errors: most errors counted.
    :param on_empty: what a run without any records means: ``succeed``, ``warn``, ``skip`` or ``fail``.
    """

    min_records: int | None = None
    max_errors: int | None = None
    on_empty: str = "succeed"


@dataclass(frozen=True, slots=True)
class OutcomeJudgement:
    """
    What the policy says of a run.

    :param action: ``succeed``, ``warn``, ``skip`` or ``fail``.
    :param reason: why, unless it is ``succeed``.
    """

    action: str
    reason: str = ""


def judge_outcome(run: Run, policy: OutcomePolicy) -> OutcomeJudgement:
    """Return what ``policy`` says of a run that ended well."""
    # A server that does not state what was extracted may still say what was exported.
    records = (run.export_count if run.data_count is None else run.data_count) or 0
    errors = run.error_count or 0
    if policy.max_errors is not None and errors > policy.max_errors:
        return OutcomeJudgement("fail", f"it counted {errors} errors, more than max_errors={policy.max_errors}")
    if records == 0 and policy.on_empty != "succeed":
        return OutcomeJudgement(policy.on_empty, f"it extracted no records (on_empty={policy.on_empty!r})")
    if policy.min_records is not None and records < policy.min_records:
        return OutcomeJudgement("fail", f"it extracted {records} records, fewer than min_records={policy.min_records}")
    return OutcomeJudgement("succeed")
