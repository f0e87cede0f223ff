"""Which version of an agent a run has: the one that is expected, or an older one that is restored.

Anyone with access to an agent can save a new version of it, and the service runs the active one: no request can ask for
another. So a task that relies on a version compares, before the start and with the run that was started.

Based on https://docs.sequentum.com/concepts/agents.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Literal

from airflow_provider_sequentum import api
from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.exceptions import AgentVersionChanged, SequentumRequestRefused, SequentumUnavailable
from airflow_provider_sequentum.jobs.port import DECORATION_SHARE
from airflow_provider_sequentum.runs.describe import counted

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.agents import AgentVersion
    from airflow_provider_sequentum.api.parsing import Page
    from airflow_provider_sequentum.api.runs import Run
    from airflow_provider_sequentum.jobs.port import Sender
    from airflow_provider_sequentum.runs.record import RunConfig

PINNED: Literal["pinned"] = "pinned"

MOST_NAMED = 5
"""How many versions a message names."""

LONGEST_COMMENT = 200
"""Characters of a version's comment in a message."""

LONGEST_REASON = 1000
"""Characters of the reason that is stored with a restored version; the mark of the task follows it."""

log = logging.getLogger(__name__)


def check_active_version(port: Sender, config: RunConfig) -> None:
    """Check before a start that the agent's active version is the expected one.

    :raises AgentVersionChanged: it is another one.
    :raises SequentumRequestRefused: the service does not say which one it is.
    :raises SequentumError: the service could not be asked. A task that asks for this check must not start without it.
    """
    expected = config.version_to_run
    if expected is None:
        return
    active = port.send(api.agents.get(config.agent_id)).version
    if active is None:
        raise SequentumRequestRefused(
            f"The service does not say which version agent {config.agent_id} has, so {_asked(config)} cannot be "
            "checked. Nothing was started."
        )
    if active != expected:
        raise _changed(port, config, active, f"Agent {config.agent_id} has", "Nothing was started.")


def check_version_of_run(port: Sender, config: RunConfig, run: Run) -> None:
    """Check that a run has the expected version. It may have been changed between the check and the start.

    A record of the run that does not state its version says nothing: a later one may.

    :raises AgentVersionChanged: it has another one.
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
        f"{message} {_history(port, config.agent_id, expected or 0, found)} If the change is wanted, run the task once "
        f"with expected_version={found}; if it is not, restore version {expected} with RestoreAgentVersionOperator.",
        agent_id=config.agent_id,
        run_id=run_id,
    )


def _history(port: Sender, agent_id: int, expected: int, found: int) -> str:
    """Say who saved what. It is extra: that it cannot be read must not hide that the version is another one."""
    try:
        listed = port.send(api.agents.list_versions(agent_id), budget_share=DECORATION_SHARE, within=30.0)
    except SequentumError as error:
        return f"Who changed it could not be read. ({error})"
    newest_first = sorted(listed, key=lambda version: version.version, reverse=True)
    changes = [each for each in newest_first if expected < each.version <= found or each.version == found]
    if not changes:
        return f"The service does not list version {found}."
    more = f" {len(changes) - MOST_NAMED} more were saved before." if len(changes) > MOST_NAMED else ""
    return " ".join(f"{describe_version(each)}." for each in changes[:MOST_NAMED]) + more


def describe_version(version: AgentVersion) -> str:
    """Return who saved a version, when, and with which comment, as a clause."""
    comment = version.comments or ""
    cut = f"{comment[:LONGEST_COMMENT]}..." if len(comment) > LONGEST_COMMENT else comment
    when = f" at {version.created}" if version.created else ""
    said = f"with the comment {cut!r}" if cut else "without a comment"
    return f"Version {version.version} was saved by {version.user_name or 'an unknown user'}{when} {said}"


def restore_version(port: Sender, agent_id: int, version: int, reason: str, mark: str) -> int:
    """Make an old version the active one, and return the number that the service gives it as a new version.

    A restoration is no request that can be repeated: each makes a new version. The mark in its comment tells a later
    attempt of the same task that it was done.

    :param reason: why; it is stored as the comment of the new version.
    :param mark: what names the task's logical attempt, and no other, in that comment.
    :raises SequentumRequestRefused: the agent has no such version, or its active one cannot be read.
    :raises SequentumUnavailable: the service accepted the request, but lists no new version.
    :raises SequentumError: the service refused, or could not be asked.
    """
    active, before = _versions(port, agent_id)
    if (done := _marked(before, mark)) is not None:
        log.info("An earlier attempt restored version %s of agent %s as version %s.", version, agent_id, done)
        return done
    numbers = [each.version for each in before]
    if before.left_out and active not in numbers:
        raise SequentumRequestRefused(
            f"{counted(before.left_out, 'version')} of agent {agent_id} cannot be read in the service's list, the "
            f"active one among them, so it is not known whether version {version} was restored before. Nothing was "
            "restored."
        )
    if active == version:
        log.info("Version %s of agent %s is active already.", version, agent_id)
        return version
    if version not in numbers:
        raise SequentumRequestRefused(
            f"Agent {agent_id} has no version {version}, only {sorted(numbers)[-MOST_NAMED:]} and older ones. Nothing "
            "was restored."
        )
    lost: SequentumError | None = None
    try:
        port.send(api.agents.restore_version(agent_id, version, f"{reason[:LONGEST_REASON]} {mark}"))
    except SequentumError as error:
        if not error.may_have_acted:
            raise
        log.warning("The answer was lost; looking whether version %s was restored. (%s)", version, error)
        lost = error
    new = _find_restored(port, agent_id, version, numbers, mark, lost)
    log.info("Restored version %s of agent %s as version %s.", version, agent_id, new)
    return new


def _find_restored(
    port: Sender, agent_id: int, version: int, before: Collection[int], mark: str, lost: SequentumError | None
) -> int:
    """Return the number of the version that a restoration has made.

    :param before: the versions that there were before it.
    :param lost: why its answer did not arrive, if it did not.
    """
    try:
        after = _versions(port, agent_id)[1]
    except SequentumError as error:
        was = "was" if lost is None else "may have been"
        raise SequentumUnavailable(
            f"Version {version} of agent {agent_id} {was} restored, but the new version could not be looked up, so "
            f"nothing was pinned. A retry looks it up and does not restore again. ({error})"
        ) from error
    new = _marked(after, mark)
    if new is None and lost is None:
        # A service that does not keep the comment shows the new version only by its number. Where the answer was lost,
        # that number can be of a version that a user has saved in the same moment.
        new = max((each.version for each in after if each.version not in before), default=None)
    if new is None:
        raise lost or SequentumUnavailable(
            f"The service accepted to restore version {version} of agent {agent_id}, but lists no new version. Look at "
            "the agent's versions in Sequentum Cloud."
        )
    return new


def _versions(port: Sender, agent_id: int) -> tuple[int | None, Page[AgentVersion]]:
    """Return the number of the active version, and all versions."""
    return port.send(api.agents.get(agent_id)).version, port.send(api.agents.list_versions(agent_id))


def _marked(versions: Sequence[AgentVersion], mark: str) -> int | None:
    return max((each.version for each in versions if mark in (each.comments or "")), default=None)
