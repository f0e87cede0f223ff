"""What a run that did not end well does to the task: the exception it fails with, or skips by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_sequentum.api.run_status import status_name
from airflow_provider_sequentum.exceptions import (
    AgentRunException,
    AgentRunFailed,
    AgentRunFailure,
    AgentRunSkipped,
    AgentRunStopped,
    SensedAgentRunFailed,
    SensedAgentRunFailure,
    SequentumException,
)
from airflow_provider_sequentum.lifecycle.phases import Phase, phase_of
from airflow_provider_sequentum.lifecycle.run_ending import describe_ending, diagnose

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_sequentum.api.runs import Run
    from airflow_provider_sequentum.hooks.sequentum import SequentumHook

EXCEPTION_OF: Mapping[Phase, type[AgentRunException]] = {
    Phase.RESTARTABLE: AgentRunFailure,
    Phase.ARCHIVED: AgentRunFailed,
    Phase.STOPPED: AgentRunStopped,
}

SENSED_EXCEPTION_OF: Mapping[Phase, type[AgentRunException]] = {
    **EXCEPTION_OF,
    Phase.RESTARTABLE: SensedAgentRunFailure,
    Phase.ARCHIVED: SensedAgentRunFailed,
}

DIAGNOSED = frozenset({Phase.RESTARTABLE, Phase.ARCHIVED})


def ending_exception(
    run: Run, next_step: str, hook: SequentumHook, kinds: Mapping[Phase, type[AgentRunException]] = EXCEPTION_OF
) -> SequentumException:
    """
    Return the exception for a run that ended otherwise than well, with what the service knows of the causes.

    :param next_step: what the next try or the person reading should do.
    :param hook: asks the service.
    :param kinds: the exception of each phase.
    """
    phase = phase_of(run)
    diagnostics = hook.perform(diagnose(run)) if phase in DIAGNOSED else None
    message = describe_ending(run, phase, next_step, diagnostics)
    if phase is Phase.SKIPPED:
        return AgentRunSkipped(message)
    return kinds[phase](message, agent_id=run.agent_id, run_id=run.id, status=status_name(run.status))
