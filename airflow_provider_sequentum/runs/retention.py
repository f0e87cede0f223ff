"""Deleting old runs or their files from the service, once the files are known to be landed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_sequentum.api import files, runs
from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.api.text import safe_text
from airflow_provider_sequentum.jobs.port import OPTIONAL_SHARE
from airflow_provider_sequentum.runs.describe import counted, format_time
from airflow_provider_sequentum.runs.phases import phase_of
from airflow_provider_sequentum.runs.service_time import confirmed_time
from airflow_provider_sequentum.runs.wait import MAX_LISTED_RUNS, is_cut

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.choices import RemoveMethod
    from airflow_provider_sequentum.api.files import RunFile
    from airflow_provider_sequentum.api.runs import Run
    from airflow_provider_sequentum.jobs.port import Sender

WhyNotLanded = Callable[[int, Sequence["RunFile"]], "str | None"]
"""Returns why the files of a run (by its id) are not known to be landed; ``None`` if they are."""

KEPT_SIZE = 16_000
"""Maximum bytes of the reasons for keeping runs in a summary, unless there are very many."""

MIN_REASON_LENGTH = 20

log = logging.getLogger(__name__)


@dataclass
class Deletion:
    """What became of the old runs of an agent.

    :param agent_id: the agent.
    :param dry_run: whether runs are only listed and not deleted.
    :param is_cut: whether there may be older runs that the service does not list.
    :param oldest_listed: if so, when the oldest listed run was created.
    :param deleted: the ids of the runs that were deleted, or would be.
    :param kept: why the other old runs were kept, by id.
    :param in_doubt: the ids of runs whose deletion was requested without a response.
    """

    agent_id: int
    dry_run: bool
    is_cut: bool = False
    oldest_listed: datetime | None = None
    deleted: list[int] = field(default_factory=list)
    kept: dict[int, str] = field(default_factory=dict)
    in_doubt: list[int] = field(default_factory=list)

    def describe(self) -> str:
        """Return what was deleted before an error, as sentences."""
        were = "was" if len(self.deleted) == 1 else "were"
        doubt = f" Run {self.in_doubt[-1]} may have been deleted: the response was lost." if self.in_doubt else ""
        return f"{counted(len(self.deleted), 'run')} of agent {self.agent_id} {were} deleted before that.{doubt}"

    def summary(self) -> dict[str, Any]:
        """Return plain JSON values of bounded size: with many runs, the reasons are cut."""
        longest = max(KEPT_SIZE // max(len(self.kept), 1), MIN_REASON_LENGTH)
        return {
            "agent_id": self.agent_id,
            "dry_run": self.dry_run,
            "deleted": self.deleted,
            "kept": {str(run_id): safe_text(reason, longest) for run_id, reason in self.kept.items()},
            "in_doubt": self.in_doubt,
            "is_cut": self.is_cut,
            "oldest_listed": None if self.oldest_listed is None else self.oldest_listed.isoformat(),
        }


def old_runs(listed: Sequence[Run], older_than: timedelta, now: datetime) -> list[Run]:
    """Return the runs that ended more than ``older_than`` ago, oldest first. Runs of unknown age are not included.

    :param now: the time by the service's clock, as far as is known.
    """
    ended = [(run.end_time or run.created, run) for run in listed if phase_of(run).is_over]
    old = [(at, run) for at, run in ended if at is not None and at < now - older_than]
    return [run for _, run in sorted(old, key=lambda each: (each[0], each[1].id))]


def delete_old_runs(
    port: Sender,
    result: Deletion,
    older_than: timedelta,
    remove_method: RemoveMethod,
    why_not_landed: WhyNotLanded,
) -> None:
    """Delete the old runs of an agent whose files are landed, or only list them.

    Nothing has to be saved between attempts, because deleted runs are no longer listed.

    :param result: the agent, and whether this is a dry run. It is updated at each step, so that after an error it is
        known what was deleted.
    :param older_than: how long ago a run must have ended.
    :param remove_method: what to delete.
    :param why_not_landed: checks whether a run is landed.
    :raises SequentumError: the service could not be reached, or its response to a deletion was lost.
    """
    agent_id, dry_run = result.agent_id, result.dry_run
    reply = port.exchange(runs.list_runs(agent_id, MAX_LISTED_RUNS), budget_share=OPTIONAL_SHARE)
    listed = reply.value
    result.is_cut = is_cut(listed, MAX_LISTED_RUNS)
    if result.is_cut:
        result.oldest_listed = min((run.created for run in listed if run.created is not None), default=None)
        log.warning(
            "The service lists only the newest %s of agent %s. The oldest of them was created at %s; older runs "
            "are not checked.%s",
            counted(listed.length, "run"),
            agent_id,
            format_time(result.oldest_listed),
            " They will be listed once newer ones are deleted." if remove_method == "RemoveEntireRun" else "",
        )
    # With a Date in the future, every run would be old. If nothing confirms it, some old runs may be kept.
    now = _latest_now(listed, port.now()) if reply.served_at is None else confirmed_time(port, reply.served_at)
    for run in old_runs(listed, older_than, now):
        reason = _why_kept(port, run, remove_method, why_not_landed)
        if reason is None and not dry_run:
            reason = _delete(port, run, remove_method, result)
        if reason is None:
            result.deleted.append(run.id)
            log.info("Run %s of agent %s: %s.", run.id, agent_id, "would be deleted" if dry_run else "deleted")
        else:
            result.kept[run.id] = reason
            log.info("Run %s of agent %s is kept: %s.", run.id, agent_id, reason)
    done = "would be deleted (dry_run=True)" if dry_run else f"deleted ({remove_method})"
    log.info("%s of agent %s %s, %d kept.", counted(len(result.deleted), "run"), agent_id, done, len(result.kept))


def _latest_now(listed: Sequence[Run], now: datetime) -> datetime:
    """Return a time that the service's clock has reached, if its responses have no ``Date``.

    :param now: the time by the worker's clock, which may be ahead.
    """
    return min(now, max((at for run in listed for at in (run.created, run.end_time) if at is not None), default=now))


def _why_kept(port: Sender, run: Run, remove_method: RemoveMethod, why_not_landed: WhyNotLanded) -> str | None:
    try:
        listed = port.send(files.list_files(run.agent_id, run.id), budget_share=OPTIONAL_SHARE)
    except SequentumError as error:
        if error.status_code not in (401, 403, 404):
            raise
        return f"The service does not list its files: {error}"  # the key is valid, because runs could be listed
    if listed.left_out:
        return f"{counted(listed.left_out, 'file')} in the service's list cannot be read"
    if not listed and remove_method == "RemoveAllFiles":
        return "It has no files"
    return why_not_landed(run.id, listed)


def _delete(port: Sender, run: Run, remove_method: RemoveMethod, result: Deletion) -> str | None:
    """Delete a run, and return why the service refused; ``None`` if it did not."""
    try:
        port.send(runs.delete(run.agent_id, run.id, remove_method), budget_share=OPTIONAL_SHARE)
    except SequentumError as error:
        if error.status_code == 404:
            return _why_unknown(port, run, error)
        if error.status_code in (400, 409, 422):
            return f"The service refused: {error}"
        if error.may_have_acted:
            result.in_doubt.append(run.id)
        raise
    return None


def _why_unknown(port: Sender, run: Run, error: SequentumError) -> str | None:
    """Return why a run still exists although its deletion was answered with 404; ``None`` if it does not exist."""
    try:
        port.send(runs.status(run.agent_id, run.id), budget_share=OPTIONAL_SHARE)
    except SequentumError as unknown:
        if unknown.status_code != 404:
            raise
        log.info("Run %s of agent %s had already been deleted.", run.id, run.agent_id)
        return None
    return f"It still exists, although the service responded that it does not: {error}"
