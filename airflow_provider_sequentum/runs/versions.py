"""Checking that a run uses the version of the agent that the task expects.

Anyone with access to an agent can save a new version of it. The service always runs the active version, and no request
can select another one. So the version is checked before the start, and again on the run that was started.

Based on https://docs.sequentum.com/concepts/agents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_sequentum import api
from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.exceptions import AgentVersionChanged, SequentumRequestRefused
from airflow_provider_sequentum.jobs.port import OPTIONAL_SHARE
from airflow_provider_sequentum.runs.describe import format_time

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.agents import AgentVersion
    from airflow_provider_sequentum.api.runs import Run
    from airflow_provider_sequentum.jobs.port import Sender
    from airflow_provider_sequentum.runs.record import RunConfig

MAX_NAMED = 5
"""Maximum number of versions that a message lists."""

MAX_COMMENT_LENGTH = 200
"""Maximum characters of a version's comment in a message."""


def check_active_version(port: Sender, config: RunConfig) -> None:
    """Check before a start that the agent's active version is the expected one.

    :raises AgentVersionChanged: it is another version.
    :raises SequentumRequestRefused: the service does not state the version.
    :raises SequentumError: the service could not be reached. A task with this check must not start anything without it.
    """
    expected = config.version_to_run
    if expected is None:
        return
    active = port.send(api.agents.get(config.agent_id)).version
    if active is None:
        raise SequentumRequestRefused(
            f"The service does not state the version of agent {config.agent_id}, so {_asked(config)} cannot be "
            "checked. Nothing was started."
        )
    if active != expected:
        raise _changed(port, config, active, f"Agent {config.agent_id} has", "Nothing was started.")


def check_version_of_run(port: Sender, config: RunConfig, run: Run) -> None:
    """Check that a run has the expected version, because the version may have changed between the check and the start.

    If the record of the run does not state its version yet, a later record may.

    :raises AgentVersionChanged: it has another version.
    """
    expected = config.version_to_run
    if expected is not None and run.config_version not in (None, expected):
        raise _changed(port, config, run.config_version or 0, f"Run {run.id} of agent {run.agent_id} has", "", run.id)


def _asked(config: RunConfig) -> str:
    return f"expected_version={config.expected_version!r}"


def _changed(
    port: Sender, config: RunConfig, found: int, subject: str, fate: str, run_id: int | None = None
) -> AgentVersionChanged:
    expected = config.version_to_run
    message = f"{subject} version {found}, not version {expected} ({_asked(config)}). {fate}".rstrip()
    return AgentVersionChanged(
        f"{message} {_history(port, config.agent_id, expected or 0, found)} To accept the change, run the task once "
        f"with expected_version={found}; to undo it, restore version {expected} with RestoreAgentVersionOperator.",
        agent_id=config.agent_id,
        run_id=run_id,
    )


def _history(port: Sender, agent_id: int, expected: int, found: int) -> str:
    """Return who saved which version. If this cannot be read, the error about the version is raised anyway."""
    try:
        listed = port.send(api.agents.list_versions(agent_id), budget_share=OPTIONAL_SHARE, within=30.0)
    except SequentumError as error:
        return f"The list of versions could not be read to find out who changed it. ({error})"
    newest_first = sorted(listed, key=lambda version: version.version, reverse=True)
    changes = [each for each in newest_first if expected < each.version <= found or each.version == found]
    if not changes:
        return f"The service does not list version {found}."
    more = f" {len(changes) - MAX_NAMED} more were saved before these." if len(changes) > MAX_NAMED else ""
    return " ".join(f"{describe_version(each)}." for each in changes[:MAX_NAMED]) + more


def describe_version(version: AgentVersion) -> str:
    """Return as a clause who saved a version, when, and with which comment."""
    comment = version.comments or ""
    cut = f"{comment[:MAX_COMMENT_LENGTH]}..." if len(comment) > MAX_COMMENT_LENGTH else comment
    when = f" at {format_time(version.created)}" if version.created else ""
    said = f"with the comment {cut!r}" if cut else "without a comment"
    return f"Version {version.version} was saved by {version.user_name or 'an unknown user'}{when} {said}"
