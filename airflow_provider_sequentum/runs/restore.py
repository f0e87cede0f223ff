"""Restoring an older version of an agent, once.

Based on https://docs.sequentum.com/concepts/agents.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from airflow_provider_sequentum import api
from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.exceptions import SequentumRequestRefused, SequentumUnavailable
from airflow_provider_sequentum.runs.describe import counted
from airflow_provider_sequentum.runs.versions import MAX_NAMED

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.agents import AgentVersion
    from airflow_provider_sequentum.api.parsing import Page
    from airflow_provider_sequentum.jobs.port import Sender

LONGEST_REASON = 1000
"""Characters of the reason that is stored with a restored version; the mark of the task follows it."""

log = logging.getLogger(__name__)


def restore_version(port: Sender, agent_id: int, version: int, reason: str, mark: str) -> int:
    """Make an old version the active one, and return the number that the service gives it as a new version.

    A restoration must not be repeated, because each request makes a new version. The mark in its comment tells a later
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
            f"Agent {agent_id} has no version {version}, only {sorted(numbers)[-MAX_NAMED:]} and older ones. Nothing "
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
