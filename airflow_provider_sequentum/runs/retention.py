"""Deleting what runs left on the service, once they are old enough and their files are known to be elsewhere."""

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
from airflow_provider_sequentum.runs.describe import counted
from airflow_provider_sequentum.runs.phases import phase_of
from airflow_provider_sequentum.runs.service_time import confirmed_time
from airflow_provider_sequentum.runs.wait import LONGEST_RUN_LIST, is_cut, length_of

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.choices import RemoveMethod
    from airflow_provider_sequentum.api.files import RunFile
    from airflow_provider_sequentum.api.runs import Run
    from airflow_provider_sequentum.jobs.port import Sender

WhyNotLanded = Callable[[int, Sequence["RunFile"]], "str | None"]
"""Says why the files of a run (by its id) are not known to be landed; ``None`` if they are."""

KEPT_SIZE = 16_000
"""Bytes of a summary that the reasons for keeping runs may take, as long as there are not very many."""

SHORTEST_REASON = 20

log = logging.getLogger(__name__)


@dataclass
class Deletion:
    """What became of the old runs of an agent.

    :param agent_id: the agent.
    :param dry_run: whether nothing was deleted, but only looked for.
    :param is_cut: whether there may be older runs that the service does not list.
    :param oldest_listed: when the oldest run that it lists was created, if so.
    :param deleted: ids of the runs that were deleted, or would be.
    :param kept: why the other old runs were not, by id.
    :param in_doubt: ids of runs whose deletion was sent and not answered.
    """

    agent_id: int
    dry_run: bool
    is_cut: bool = False
    oldest_listed: datetime | None = None
    deleted: list[int] = field(default_factory=list)
    kept: dict[int, str] = field(default_factory=dict)
    in_doubt: list[int] = field(default_factory=list)

    def describe(self) -> str:
        """Return what was deleted until something ended the work, as sentences."""
        were = "was" if len(self.deleted) == 1 else "were"
        doubt = f" Run {self.in_doubt[-1]} may have been deleted: the answer was lost." if self.in_doubt else ""
        return f"{counted(len(self.deleted), 'run')} of agent {self.agent_id} {were} deleted before that.{doubt}"

    def summary(self) -> dict[str, Any]:
        """Return plain JSON values, of bounded size: of many runs the reasons are short."""
        longest = max(KEPT_SIZE // max(len(self.kept), 1), SHORTEST_REASON)
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
    """Return the runs that have ended so long ago, oldest first. One whose age is not known is not among them.

    :param now: the time by the service's clock, where it tells it.
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
    """Delete the old runs of an agent whose files are landed, or just say which these are.

    Nothing has to be remembered between two attempts: what was deleted is not listed any more.

    :param result: says which agent, and whether nothing is to be deleted; it is filled in step by step, so that what
        was deleted is known after an error too.
    :param older_than: how long ago a run has to have ended.
    :param remove_method: what to delete of it.
    :param why_not_landed: proves that a run is landed.
    :raises SequentumError: the service could not be asked, or its answer to a deletion was lost.
    """
    agent_id, dry_run = result.agent_id, result.dry_run
    reply = port.exchange(runs.list_runs(agent_id, LONGEST_RUN_LIST), budget_share=OPTIONAL_SHARE)
    listed = reply.value
    result.is_cut = is_cut(listed, LONGEST_RUN_LIST)
    if result.is_cut:
        result.oldest_listed = min((run.created for run in listed if run.created is not None), default=None)
        log.warning(
            "The service lists only the newest %d runs of agent %s. The oldest of them was created at %s; older ones "
            "are not looked at.%s",
            length_of(listed),
            agent_id,
            result.oldest_listed,
            " Those come into the list when listed ones are deleted." if remove_method == "RemoveEntireRun" else "",
        )
    for run in old_runs(listed, older_than, _service_time(port, listed, reply.served_at)):
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


def _service_time(port: Sender, listed: Sequence[Run], served_at: datetime | None) -> datetime:
    """Return a time that the service's clock has reached.

    With a ``Date`` of the future every run would be an old one. If nothing confirms it, the worker's clock counts: some
    runs are kept that are old already.

    :param served_at: the time by the ``Date`` of an answer, if there was one.
    """
    if served_at is None:
        return _latest_now(listed, port.now())
    return confirmed_time(port, served_at)


def _latest_now(listed: Sequence[Run], now: datetime) -> datetime:
    """Return a time that the service's clock has reached, where it does not tell its time.

    :param now: the time by the worker's clock, which may be ahead of it.
    """
    return min(now, max((at for run in listed for at in (run.created, run.end_time) if at is not None), default=now))


def _why_kept(port: Sender, run: Run, remove_method: RemoveMethod, why_not_landed: WhyNotLanded) -> str | None:
    try:
        listed = port.send(files.list_files(run.agent_id, run.id), budget_share=OPTIONAL_SHARE)
    except SequentumError as error:
        if error.status_code not in (401, 403, 404):
            raise
        return f"The service does not show its files: {error}"  # the key works, as the list of runs shows
    if listed.left_out:
        return f"{listed.left_out} of its files cannot be read in the service's list"
    if not listed and remove_method == "RemoveAllFiles":
        return "It has no files"
    return why_not_landed(run.id, listed)


def _delete(port: Sender, run: Run, remove_method: RemoveMethod, result: Deletion) -> str | None:
    """Delete a run; return why the service refused."""
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
    """Return why a run that was to be deleted is still there, although the service answered that it is not."""
    try:
        port.send(runs.status(run.agent_id, run.id), budget_share=OPTIONAL_SHARE)
    except SequentumError as unknown:
        if unknown.status_code != 404:
            raise
        log.info("Run %s of agent %s was deleted already.", run.id, run.agent_id)
        return None
    return f"It is still there, although the service did not know it: {error}"
