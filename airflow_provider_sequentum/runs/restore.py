"""Restoring an older version of an agent, once.

Based on https://docs.sequentum.com/concepts/agents.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, ClassVar

from airflow_provider_sequentum import api
from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.exceptions import SequentumRequestRefused, SequentumUnavailable
from airflow_provider_sequentum.jobs.record import Configuration, Id, Text
from airflow_provider_sequentum.runs.describe import counted
from airflow_provider_sequentum.runs.versions import MAX_NAMED

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.agents import AgentVersion
    from airflow_provider_sequentum.api.parsing import Page
    from airflow_provider_sequentum.jobs.port import Sender

MAX_REASON_LENGTH = 1000
"""Maximum characters of the reason that is stored with a restored version, followed by the mark of the task."""

log = logging.getLogger(__name__)


class RestoreConfig(Configuration):
    """The parameters of :class:`~airflow_provider_sequentum.operators.agent_version.RestoreAgentVersionOperator`."""

    nothing_was: ClassVar[str] = "restored"

    sequentum_conn_id: Text = "sequentum_default"
    agent_id: Id
    version: Id
    reason: Text | None = None


def restore_version(port: Sender, agent_id: int, version: int, reason: str, mark: str) -> int:
    """Restore an old version, and return the number that it gets as the new active version.

    This must not be repeated, because each request creates a new version. The mark in the comment of the new version
    shows a later attempt of the same task that it was restored.

    :param reason: why; it is stored in the comment of the new version.
    :param mark: a unique identifier of the task's logical attempt, for that comment.
    :raises SequentumRequestRefused: the agent has no such version, or its active version cannot be read.
    :raises SequentumUnavailable: the service accepted the request, but lists no new version.
    :raises SequentumError: the service refused the request or could not be reached.
    """
    active, before = _versions(port, agent_id)
    if (done := _marked(before, mark)) is not None:
        log.info("An earlier attempt restored version %s of agent %s as version %s.", version, agent_id, done)
        return done
    numbers = [each.version for each in before]
    if before.left_out and active not in numbers:
        raise SequentumRequestRefused(
            f"{counted(before.left_out, 'version')} in the service's list for agent {agent_id} cannot be read, "
            f"including the active one, so it is unknown whether version {version} has already been restored. Nothing "
            "was restored."
        )
    if active == version:
        log.info("Version %s of agent %s is already active.", version, agent_id)
        return version
    if version not in numbers:
        raise SequentumRequestRefused(
            f"Agent {agent_id} has no version {version}, only {sorted(numbers)[-MAX_NAMED:]} and older ones. Nothing "
            "was restored."
        )
    lost: SequentumError | None = None
    try:
        port.send(api.agents.restore_version(agent_id, version, f"{reason[:MAX_REASON_LENGTH]} {mark}"))
    except SequentumError as error:
        if not error.may_have_acted:
            raise
        log.warning("The response was lost; checking whether version %s was restored. (%s)", version, error)
        lost = error
    new = _find_restored(port, agent_id, version, numbers, mark, lost)
    log.info("Restored version %s of agent %s as version %s.", version, agent_id, new)
    return new


def _find_restored(
    port: Sender, agent_id: int, version: int, before: Collection[int], mark: str, lost: SequentumError | None
) -> int:
    """Return the number of the version that was created by restoring an old one.

    :param before: the versions that existed before.
    :param lost: the error, if the response was lost.
    """
    try:
        after = _versions(port, agent_id)[1]
    except SequentumError as error:
        was = "was" if lost is None else "may have been"
        raise SequentumUnavailable(
            f"Version {version} of agent {agent_id} {was} restored, but the list of versions could not be read, so no "
            f"version was pinned. A retry reads it again and does not restore twice. ({error})"
        ) from error
    new = _marked(after, mark)
    if new is None and lost is None:
        # If the service does not keep the comment, only the number shows the new version. But after a lost response,
        # the new number may be that of a version that a user saved at the same moment.
        new = max((each.version for each in after if each.version not in before), default=None)
    if new is None:
        raise lost or SequentumUnavailable(
            f"The service accepted the request to restore version {version} of agent {agent_id}, but lists no new "
            "version. Check the agent's versions in Sequentum Cloud."
        )
    return new


def _versions(port: Sender, agent_id: int) -> tuple[int | None, Page[AgentVersion]]:
    """Return the number of the active version, and all versions."""
    return port.send(api.agents.get(agent_id)).version, port.send(api.agents.list_versions(agent_id))


def _marked(versions: Sequence[AgentVersion], mark: str) -> int | None:
    return max((each.version for each in versions if mark in (each.comments or "")), default=None)
