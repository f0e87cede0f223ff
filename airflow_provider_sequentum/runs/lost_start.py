"""Finding the run that a start created, if the response to the start was lost or names another run.

The service's record of a run contains neither inputs nor a token. So the runs that were created since the start are the
candidates, by the service's own clock. Only a single one that no mapped sibling can own is adopted; nothing is guessed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_sequentum.api import runs
from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.api.parsing import time_between
from airflow_provider_sequentum.api.run_status import RunStatus
from airflow_provider_sequentum.exceptions import LATE_START, AgentRunStartAmbiguous
from airflow_provider_sequentum.runs.describe import counted, format_time, id_list
from airflow_provider_sequentum.runs.phases import phase_of
from airflow_provider_sequentum.runs.service_time import confirmed_time, is_of_another_clock
from airflow_provider_sequentum.runs.wait import MAX_LISTED_RUNS, is_cut

if TYPE_CHECKING:
    from airflow_provider_sequentum.api import Reply
    from airflow_provider_sequentum.api.parsing import Page
    from airflow_provider_sequentum.api.runs import Run
    from airflow_provider_sequentum.jobs.port import Port, Sender
    from airflow_provider_sequentum.jobs.record import JobRecord
    from airflow_provider_sequentum.jobs.siblings import Claim
    from airflow_provider_sequentum.runs.record import RunRecord

CLOCK_TOLERANCE = timedelta(seconds=3)
"""How much earlier than its start request a run may appear to have been created: ``Date`` has whole seconds, and the
clocks of the service's machines differ."""

OLDER = timedelta(minutes=1)
"""A run that was created at least this much before the start was sent is not the one that was started."""

LOOKUP_DELAYS = (5.0, 10.0)
"""Seconds before each search for a lost run, which may take a while to appear."""

SIBLING_DELAYS = (15.0, 15.0, 30.0)
"""Seconds before each further search while starts of mapped siblings are unanswered. Their responses show which run
belongs to which task."""

LOOKUP_DELAYS_IF_KILLED = (0.0, 1.0, 4.0, 10.0)
"""Seconds before each search if the task is being killed: Airflow leaves it about five seconds."""

log = logging.getLogger(__name__)


def find_lost_run(port: Port, record: RunRecord, on_ambiguous_start: str, *, is_killed: bool = False) -> Run | None:
    """Search for the run of a start whose response was lost.

    If exactly one candidate is not claimed by a mapped sibling, and no start of a sibling is unanswered, it is the run.
    Otherwise ``on_ambiguous_start`` decides; nothing is guessed.

    :param record: the intent.
    :param on_ambiguous_start: ``fail``, ``adopt`` the newest candidate, or ``start`` another run.
    :param is_killed: whether the task is being killed and has only seconds left.
    :raises AgentRunStartAmbiguous: the run cannot be distinguished from others.
    :raises SequentumError: the service could not be reached during the last search.
    """
    delays, further = (LOOKUP_DELAYS_IF_KILLED, ()) if is_killed else (LOOKUP_DELAYS, SIBLING_DELAYS)
    candidates, doubt = _look_for_candidates(port, record, delays, further)
    if not candidates and not doubt:
        return None
    if len(candidates) > 1 or doubt:
        if on_ambiguous_start == "start":
            log.warning("Any of the runs %s could be the lost one; a new run is started anyway.", _ids_of(candidates))
            return None
        if on_ambiguous_start == "fail" or not candidates:
            raise _ambiguous(record, candidates, doubt)
    run = max(candidates, key=lambda candidate: candidate.id)
    log.warning(
        "Adopting run %s of agent %s, created at %s, as the one whose start response was lost.",
        run.id,
        run.agent_id,
        format_time(run.created),
    )
    return run


def _look_for_candidates(
    port: Port, record: RunRecord, delays: Sequence[float], further: Sequence[float]
) -> tuple[list[Run], str]:
    """Return the candidates, and a sentence on why even a single one is not certain; empty if it is."""
    candidates: list[Run] = []
    doubt = ""
    for number, delay in enumerate((*delays, *further), 1):
        if number > len(delays) and not (candidates and doubt):
            break
        port.sleep(delay)
        try:
            listed = list_since(port, record)
        except SequentumError:
            if number >= len(delays):
                raise
            continue
        # A sibling claims its run a moment after it was created, so the claims are read after the list of runs.
        claims = [claim for claim in port.claims() if claim.agent_id in (None, record.agent_id)]
        found = candidates_in(listed, record, claims)
        candidates, doubt = found.all, found.doubt
        unanswered = sum(not claim.is_answered for claim in claims)
        if candidates and unanswered and not doubt:
            doubt = f"{counted(unanswered, 'mapped sibling')} may have started it."
        if candidates and not doubt:
            break
    return candidates, doubt


def note_nothing_found(message: str, record: JobRecord) -> None:
    """Log that a search has found nothing. A record that was inferred does not show that a start was sent."""
    if record.is_guess:
        log.info("%s", message)
    else:
        log.warning("%s %s", message, LATE_START)


def run_started_by(port: Port, reply: Reply[Run], record: RunRecord) -> Run:
    """Return the run that was started: the one that the response names, unless that one is older than the start."""
    run = reply.value
    since = requested_by_service(record, port.now(), reply.served_at, [run])
    if _was_created_before(run, since) and _was_created_before(
        run, confirmed_request_time(port, reply.served_at, since)
    ):
        return find_misnamed_run(port, record.started(run.id), run, is_older=True) or run
    return run


def find_misnamed_run(port: Port, record: RunRecord, named: Run | None, *, is_older: bool = False) -> Run | None:
    """Return the run that was actually started, if the response to the start names another one.

    A response may name a run that does not exist, or one that is older than the start. No task would then own the run
    that was started. So it is searched for, as after a lost response, and becomes the run of the record.

    :param record: the record, with the run that the response names.
    :param named: that run as the service shows it; ``None`` if the service has never shown it.
    :param is_older: whether it is known to be older than the start.
    :return: the run; ``None`` if the response names the right one, as far as is known.
    :raises AgentRunStartAmbiguous: the run that was started cannot be distinguished from others.
    :raises SequentumError: the service could not be reached during the last search.
    """
    if not is_older and not is_misnamed(port, record, named):
        return None
    what = "is not known to the service" if named is None else "is older than the start"
    log.warning(
        "%s, named in the response to the start, %s. Searching for the run that was started.", record.name, what
    )
    intent = record.unnamed()
    port.save(intent)  # the run that the response names is not the task's, so it must not be stopped
    try:
        found = find_lost_run(port, intent, record.config.on_ambiguous_start)
    except AgentRunStartAmbiguous:
        port.save(intent.updated(is_ambiguous=True))
        raise
    if found is None or found.id == record.run_id:  # the list may show another time than the record of the run
        port.save(record)
        return None
    started = intent.started(found.id)
    port.save(started)
    port.claim(started.claim())
    return found


def is_misnamed(port: Port, record: RunRecord, named: Run | None) -> bool:
    """Return whether the response to a start names another run than the one that was started.

    For the parameters, see :func:`find_misnamed_run`.

    :raises SequentumError: the service does not know the run, and the list of runs could not be read.
    """
    if record.run_id is None or not record.has_request_time:
        return False
    if named is None:
        listed = port.send(runs.list_runs(record.agent_id, MAX_LISTED_RUNS))
        return all(run.id != record.run_id for run in listed)
    # The worker's clock may be wrong, so it only decides whether the service's clock is worth a request.
    return _was_created_before(named, record.requested_at) and _is_older_by_list(port, named, record)


def find_in_place_of(port: Port, record: RunRecord, on_ambiguous_start: str) -> Run | None:
    """Return the run to work with instead of one that the service does not know.

    That run may have been deleted; or it never existed, and another run was started. It is impossible to tell which, so
    not even a single candidate is certain.

    :param record: the record of the run that the service does not know.
    :return: the run itself, if the service lists it after all; the newest candidate if ``on_ambiguous_start`` is
        ``adopt``; otherwise ``None``.
    :raises AgentRunStartAmbiguous: there are runs that may have been started, and ``on_ambiguous_start`` is ``fail``.
    """
    if not record.has_request_time:
        return None
    intent, listed = record.unnamed(), list_since(port, record)
    if (itself := next((run for run in listed.runs if run.id == record.run_id), None)) is not None:
        return itself
    found = candidates_in(listed, intent, port.claims())
    if not (found.all or found.doubt) or on_ambiguous_start == "start":
        return None
    if on_ambiguous_start == "adopt" and found.all:
        return max(found.all, key=lambda candidate: candidate.id)
    port.save(intent.updated(is_ambiguous=True))
    unknown = f"The service does not know run {record.run_id}, which its response named."
    raise _ambiguous(intent, found.all, f"{unknown} {found.doubt}".rstrip())


def _was_created_before(run: Run, requested_at: datetime | None) -> bool:
    """Return whether a run was certainly created before the start was sent."""
    created = run.created or run.start_time
    return created is not None and requested_at is not None and time_between(created, requested_at) > OLDER


def _is_older_by_list(port: Port, run: Run, record: RunRecord) -> bool:
    try:
        reply = port.exchange(runs.list_runs(record.agent_id, 1))
    except SequentumError as error:
        log.warning("Could not check whether %s is the one that was started. (%s)", record.name, error)
        return False
    return _was_created_before(run, requested_by_service(record, port.now(), reply.served_at, [run, *reply.value]))


def requested_by_service(
    record: RunRecord, now: datetime, served_at: datetime | None, seen: Iterable[Run] = ()
) -> datetime | None:
    """Return when the start was sent, by the service's clock; ``None`` if the service does not state its time.

    :param now: the time of a response, by the same clock as ``record.requested_at``. That clock may be wrong, so only
        the difference between the two times is used.
    :param served_at: the time of that response, by the service's clock.
    :param seen: the runs in that response. If they show that ``served_at`` comes from another clock, the worker's clock
        is used.
    """
    if served_at is not None and is_of_another_clock(served_at, seen):
        return record.requested_at
    return None if served_at is None else served_at - (now - record.requested_at)


def confirmed_request_time(port: Sender, served_at: datetime | None, since: datetime | None) -> datetime | None:
    """Return when the start was sent, by the service's clock, corrected if the ``Date`` header is not plausible.

    If ``Date`` is ahead of the clock of the runs' times, the started run seems to be older than its request.

    :param served_at: the time of a response, by its ``Date``.
    :param since: the result of :func:`requested_by_service` for that response.
    """
    if since is None or served_at is None:
        return since
    return since - (served_at - confirmed_time(port, served_at, OLDER))


class ListedRuns(NamedTuple):
    """An agent's runs, listed to find the one whose start was lost.

    :param runs: the list.
    :param since: when the start was sent, by the service's clock; ``None`` if the service does not state its time.
    :param confirmed_since: the same time, corrected if the ``Date`` of the list is not plausible.
    """

    runs: Page[Run]
    since: datetime | None
    confirmed_since: datetime | None


def list_since(port: Sender, record: RunRecord) -> ListedRuns:
    """List the runs of an agent.

    :param record: the intent.
    """
    reply = port.exchange(runs.list_runs(record.agent_id, MAX_LISTED_RUNS))
    since = requested_by_service(record, port.now(), reply.served_at, reply.value)
    return ListedRuns(reply.value, since, confirmed_request_time(port, reply.served_at, since))


class Candidates(NamedTuple):
    """The runs that may be the one whose start was lost.

    :param newer: those created since the start was sent.
    :param just_before: if there are none, those that would be newer if the clocks of the service's machines differed.
    :param doubt: why not even a single candidate is certain, as a sentence; empty if it is.
    """

    newer: list[Run]
    just_before: list[Run]
    doubt: str

    @property
    def all(self) -> list[Run]:
        """All candidates."""
        return self.newer or self.just_before


def candidates_in(listed: ListedRuns, record: RunRecord, claims: Sequence[Claim]) -> Candidates:
    """Return which runs of a list may be the one whose start was lost.

    :param record: the intent.
    :param claims: the claims of the mapped siblings, whose runs are not candidates.
    """
    newer = candidates_for(record, listed.runs, listed.since, claims)
    doubt = _what_the_list_lacks(listed, record) or _may_be_lost_by_sibling(newer, claims)
    if newer or doubt:
        return Candidates(newer, [], doubt)
    just_before = _created_just_before(listed, record, claims)
    doubt = (
        f"Runs {_ids_of(just_before)} seem to have been created just before the start was sent, but the service's "
        "clocks may differ."
    )
    return Candidates([], just_before, doubt if just_before else "")


def candidates_for(
    record: RunRecord, listed: Sequence[Run], since: datetime | None, claims: Iterable[Claim] = ()
) -> list[Run]:
    """Return the runs that were created since the start was sent.

    :param since: when it was sent; see :func:`requested_by_service`. If that is not known, ids decide.
    """
    claimed = {run_id for claim in claims for run_id in claim.run_ids}
    return [
        run
        for run in listed
        if not (run.id in record.replaced or run.id in claimed or (record.is_guess and phase_of(run).is_over))
        and _may_be_newer(run, record, since)
    ]


def _created_just_before(listed: ListedRuns, record: RunRecord, claims: Iterable[Claim]) -> list[Run]:
    """Return the runs that would be newer if the clocks of the service's machines differed.

    A run that had already ended is not the lost one, and a run that is being stopped is more likely the task's run from
    before it was cleared. If the record is a guess, it is not certain that a start was sent.
    """
    since = listed.confirmed_since
    if since is None or record.is_guess:
        return []
    earlier = candidates_for(record, listed.runs, since - OLDER, claims)
    going = [run for run in earlier if run.end_time is None or run.end_time >= since]
    return [run for run in going if run.status not in (RunStatus.STOPPING, RunStatus.STOPPED)]


def _what_the_list_lacks(listed: ListedRuns, record: RunRecord) -> str:
    """Return why the lost run may be missing from the list, as a sentence; empty if it cannot be."""
    found, unreadable = listed.runs, listed.runs.unreadable
    if unreadable:
        return f"{counted(unreadable, 'run')} in the service's list for agent {record.agent_id} cannot be read."
    if is_cut(found, MAX_LISTED_RUNS) and all(_may_be_newer(run, record, listed.since) for run in found):
        return f"More runs were created since than the {len(found)} that the service lists."
    return ""


def _may_be_lost_by_sibling(candidates: Sequence[Run], claims: Sequence[Claim]) -> str:
    """Return why a candidate may be a lost run of a mapped sibling, as a sentence; empty if none can be."""
    # Ids increase: a run that a sibling has lost has a lower id than the run that it has started since.
    newest = max((max(claim.run_ids, default=0) for claim in claims if claim.has_lost_run), default=0)
    if any(candidate.id < newest for candidate in candidates):
        return "A mapped sibling has lost a run that was started at about the same time."
    return ""


def _may_be_newer(run: Run, record: RunRecord, since: datetime | None) -> bool:
    created = run.created or run.start_time
    if created is not None and since is not None:
        return created >= since - CLOCK_TOLERANCE
    # Ids increase. A run of unknown age can only be ruled out by its id, or because it has ended.
    newest_own = max(record.replaced, default=0)
    return run.id > newest_own and not (newest_own == 0 and phase_of(run).is_over)


def _ambiguous(record: RunRecord, candidates: Sequence[Run], doubt: str) -> AgentRunStartAmbiguous:
    return AgentRunStartAmbiguous(
        f"A start of agent {record.agent_id} was sent and the response was lost. Any of the runs {_ids_of(candidates)} "
        f"could be it, so none was adopted and none was started. {doubt} Check them in Sequentum Cloud, stop those you "
        "do not want, then clear the task to start a new run; or set on_ambiguous_start='adopt' or 'start'.",
        agent_id=record.agent_id,
        run_id=candidates[0].id if len(candidates) == 1 else None,
    )


def _ids_of(candidates: Sequence[Run]) -> str:
    return id_list(sorted(run.id for run in candidates))  # the oldest is the most likely one
