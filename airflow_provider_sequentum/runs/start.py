"""Acquiring the one run that an attempt of a task works with: start it, join it, restart it, or find it again.

No POST request of the API is idempotent, so sending a start twice means a second billed run. The order of the steps
prevents that: save the intent, send the start, save the run id. Wherever an attempt is interrupted, the next one can
find out what happened.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from airflow_provider_sequentum.api import runs
from airflow_provider_sequentum.api.errors import SequentumError, UnexpectedResponse
from airflow_provider_sequentum.api.run_status import RunStatus, status_name
from airflow_provider_sequentum.exceptions import (
    LATE_START,
    AgentRunStartAmbiguous,
    AgentRunStillRunning,
    SequentumRequestRefused,
    SequentumUnavailable,
    doubt_about,
)
from airflow_provider_sequentum.jobs.port import NOT_FOUND_TOLERANCE, Port, Sender
from airflow_provider_sequentum.jobs.siblings import Announcement, Claim
from airflow_provider_sequentum.runs.describe import counted, format_time, id_list
from airflow_provider_sequentum.runs.phases import NextStep, Phase, next_step, phase_of
from airflow_provider_sequentum.runs.record import RunConfig, RunRecord
from airflow_provider_sequentum.runs.service_time import confirmed_time, is_of_another_clock
from airflow_provider_sequentum.runs.stop import stop_run
from airflow_provider_sequentum.runs.wait import (
    MAX_LISTED_RUNS,
    NOT_YET_FOUND_INTERVAL,
    is_cut,
    may_be_the_old_failure,
)

if TYPE_CHECKING:
    from airflow_provider_sequentum.api import Call, Reply
    from airflow_provider_sequentum.api.parsing import Page
    from airflow_provider_sequentum.api.runs import Run
    from airflow_provider_sequentum.jobs.record import JobRecord
    from airflow_provider_sequentum.jobs.siblings import PlannedStart

CLOCK_TOLERANCE = timedelta(seconds=3)
"""How much earlier than its start request a run may appear to have been created: ``Date`` has whole seconds, and the
clocks of the service's machines differ."""

OLDER = timedelta(minutes=1)
"""A run that was created at least this much before the start was sent is not the one that was started."""

JUST_BEFORE = "Runs {} seem to have been created just before the start was sent, but the service's clocks may differ."
"""The reason why it is uncertain whether the start took effect."""

LOOKUP_DELAYS = (5.0, 10.0)
"""Seconds before each search for a lost run, which may take a while to appear."""

SIBLING_DELAYS = (15.0, 15.0, 30.0)
"""Seconds before each further search while starts of mapped siblings are unanswered. Their responses show which run
belongs to which task."""

LOOKUP_DELAYS_IF_KILLED = (0.0, 1.0, 4.0, 10.0)
"""Seconds before each search if the task is being killed: Airflow leaves it about five seconds."""

BUSY_DELAYS = (10.0, 20.0, 30.0)
"""Seconds before each repetition of a start that was refused with 409: another run of the agent may be about to end."""

RESTART_REFUSALS = (400, 404, 405, 409, 422)
"""Status codes which mean that a run cannot be restarted, or that the service does not offer restarts."""

STEP_NAMES: Mapping[NextStep, str] = {
    NextStep.START: "Starting a new run",
    NextStep.STOP_AND_START: "Stopping it and starting a new run",
    NextStep.JOIN: "Joining it",
    NextStep.RESTART: "Restarting it in place",
    NextStep.REFUSE: "Only a restart is allowed, and it cannot be restarted",
}
"""The log text of each step."""

T = TypeVar("T")

log = logging.getLogger(__name__)


def acquire_run(port: Port, previous: RunRecord | None, new: RunRecord) -> Run:
    """Return the run that this attempt works with, starting or restarting one only if earlier attempts left none.

    The port has its record.

    :param previous: the record of an earlier attempt.
    :param new: the record of this attempt: what to start if a run has to be started, and how to handle it.
    :raises AgentRunStartAmbiguous: the run that an earlier attempt started cannot be distinguished from others.
    :raises AgentRunStillRunning: the run that a new one should replace could not be stopped.
    :raises SequentumRequestRefused: only a restart is allowed, and the run cannot be restarted.
    :raises CreditsTooLow: fewer credits are left than ``min_credits``.
    :raises AgentVersionChanged: the agent has another version than the expected one.
    :raises SequentumError: the service refused a request or could not be reached. If it is uncertain whether a start
        took effect, the record shows that.
    """
    config = new.config_or_defaults
    # Airflow has deleted the XComs in which an earlier attempt announced and claimed its runs.
    _announce(port, config, new.starts if previous is None else previous.starts)
    if previous is None:
        return start_run(port, new, None)
    _claim(port, previous)
    record = previous
    if previous.run_id is None:
        record = _find_requested_run(port, previous, new)
        if record.run_id is None:
            return start_run(port, new, record)
        port.save(record)  # from here on, the run is known
        _claim(port, record)
    return take_up_run(port, record, new, _look(port, record))


def take_up_run(port: Port, record: RunRecord, new: RunRecord, run: Run | None) -> Run:
    """Return the run that this attempt works with: join, restart or replace the one that an earlier attempt left.

    Raises what :func:`acquire_run` raises.

    :param record: the record of the earlier attempt.
    :param new: the record of this attempt.
    :param run: the current state of the run; ``None`` if the service does not know it.
    """
    config = new.config_or_defaults
    step = _decide(record, run, new)
    if run is None and not record.was_cleared(new.max_tries):
        run = find_in_place_of(port, record, config.on_ambiguous_start)
        if run is not None:
            record = record.unnamed().started(run.id)
            port.save(record)
            _claim(port, record)
            step = _decide(record, run, new)
    if step is NextStep.STOP_AND_START:
        run = _stop_replaced(port, record, config)
        step = _decide(record, run, new)  # it may have succeeded before it was stopped
    if run is None or step in (NextStep.START, NextStep.STOP_AND_START):
        return start_run(port, new, record)
    if step is NextStep.REFUSE:
        raise _restart_refused(record, f"it ended as {status_name(run.status)} and was archived")
    # From here on, the deadlines and the configuration of this attempt apply to the run.
    overdue_at = record.overdue_at if config.stop_overdue else None
    joined = record.joined_by(new).updated(config=new.config, restarts_done=0, overdue_at=overdue_at)
    if step is NextStep.RESTART:
        return restart_or_start(port, joined, run, new)
    port.save(joined)
    return run


def _decide(record: RunRecord, run: Run | None, new: RunRecord) -> NextStep:
    """Decide what to do with the run of an earlier attempt, and log it.

    :param record: the record of the run.
    :param run: the run; ``None`` if the service does not know it.
    :param new: the record of this attempt.
    """
    config, was_cleared = new.config_or_defaults, record.was_cleared(new.max_tries)
    step = next_step(
        None if run is None else phase_of(run),
        is_same_work=record.is_same_work(config.fingerprint()),
        was_cleared=was_cleared,
        is_rejected=record.is_rejected,
        is_stopping=run is not None and run.status is RunStatus.STOPPING,
        on_clear=config.on_clear,
        retry_mode=config.retry_mode,
    )
    state = status_name(run.status) if run is not None else "unknown to the service"
    why = "The task was cleared" if was_cleared else "This is another attempt of the task"
    log.info("%s; its run %s of agent %s is %s. %s.", why, record.run_id, record.agent_id, state, STEP_NAMES[step])
    return step


def start_run(port: Port, new: RunRecord, previous: RunRecord | None, *, may_repeat: bool = True) -> Run:
    """Start a new run: save the intent, send the start, save the run id. Raises the same as :func:`acquire_run`.

    :param new: the record of this attempt.
    :param previous: the record of the run that this one replaces.
    :param may_repeat: whether another start may follow in this attempt if the response is lost and
        ``on_ambiguous_start`` is ``start``. There is at most one, because each may be a billed run.
    """
    # Imported here because a resumed task starts nothing.
    from airflow_provider_sequentum.runs.before_start import check_before_start

    config = new.config_or_defaults
    before = new.starts or (previous.starts_made if previous is not None else ())
    starts = check_before_start(port, config, before, is_first=previous is None)
    now = port.now()
    record = new.updated(requested_at=now, first_requested_at=now, starts=starts)
    if previous is not None:
        record = record.updated(
            replaced=previous.all_runs,
            first_requested_at=previous.first_requested_at,
            may_lack_runs=new.may_lack_runs or previous.may_lack_runs or previous.is_ambiguous,
        )
    _claim(port, record)
    port.save(record)
    try:
        reply = _send_new(port, config.start_call(), record)
    except SequentumError as error:
        if not error.may_have_acted:
            # Nothing was started, so there is no run to search for.
            port.save(previous)
            # The run that a sibling finds may be an earlier one of this task, which it no longer knows.
            _claim(port, previous or record, is_answered=not record.may_lack_runs)
            _announce(port, config, before)
            raise_if_busy(error)
            raise
        log.warning("The response to the start was lost, so a run may have been started. Searching for it. (%s)", error)
        found = _find_after_lost_response(port, config, record, error)
        if found is None and config.on_ambiguous_start == "start" and may_repeat:
            return start_run(port, new.updated(starts=starts, may_lack_runs=True), previous, may_repeat=False)
        if found is None:
            # The intent is kept: the next attempt searches again, and starts a run only if there is still none.
            raise
        run = found
    else:
        run = _started_by(port, reply, record)
    record = record.started(run.id)
    port.save(record)
    _claim(port, record)
    _announce(port, config, record.starts)
    log.info("Started run %s of agent %s.", run.id, run.agent_id)
    return run


def _send_new(port: Sender, call: Call[Run], record: RunRecord) -> Reply[Run]:
    """Send the start of a new run. A response that names an earlier run of the task is treated as a lost one."""
    reply = send_start(port, call, f"Agent {record.agent_id}")
    if reply.value.id in record.replaced:
        reason = f"the response names run {reply.value.id}, which is an earlier run of the task"
        raise call.error(UnexpectedResponse, reason, may_have_acted=True)
    return reply


def _started_by(port: Port, reply: Reply[Run], record: RunRecord) -> Run:
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
        found = find_lost_run(port, intent, record.config_or_defaults.on_ambiguous_start)
    except AgentRunStartAmbiguous:
        port.save(intent.updated(is_ambiguous=True))
        raise
    if found is None or found.id == record.run_id:  # the list may show another time than the record of the run
        port.save(record)
        return None
    started = intent.started(found.id)
    port.save(started)
    _claim(port, started)
    return found


def is_misnamed(port: Port, record: RunRecord, named: Run | None) -> bool:
    """Return whether the response to a start names another run than the one that was started.

    For the parameters, see :func:`find_misnamed_run`.

    :raises SequentumError: the service does not know the run, and the list of runs could not be read.
    """
    if record.run_id is None or not record.has_request_time:
        return False
    if named is None:
        return not _is_listed(port, record)
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
    intent = record.unnamed()
    reply = port.exchange(runs.list_runs(record.agent_id, MAX_LISTED_RUNS))
    if (listed := next((run for run in reply.value if run.id == record.run_id), None)) is not None:
        return listed
    since = requested_by_service(record, port.now(), reply.served_at, reply.value)
    claims = port.claims()
    candidates = candidates_for(intent, reply.value, since, claims)
    doubt = what_a_list_lacks(intent, reply.value, since)
    if not (candidates or doubt):
        since = confirmed_request_time(port, reply.served_at, since)
        candidates = created_just_before(intent, reply.value, since, claims)
        doubt = JUST_BEFORE.format(ids_of(candidates)) if candidates else ""
    if not (candidates or doubt) or on_ambiguous_start == "start":
        return None
    if on_ambiguous_start == "adopt" and candidates:
        return max(candidates, key=lambda candidate: candidate.id)
    port.save(intent.updated(is_ambiguous=True))
    unknown = f"The service does not know run {record.run_id}, which its response named."
    raise _ambiguous(intent, candidates, f"{unknown} {doubt}".rstrip())


def _is_listed(port: Port, record: RunRecord) -> bool:
    listed = port.send(runs.list_runs(record.agent_id, MAX_LISTED_RUNS))
    return any(run.id == record.run_id for run in listed)


def _was_created_before(run: Run, requested_at: datetime | None) -> bool:
    """Return whether a run was certainly created before the start was sent."""
    created = run.created or run.start_time
    return created is not None and requested_at is not None and created + OLDER < requested_at


def _is_older_by_list(port: Port, run: Run, record: RunRecord) -> bool:
    try:
        reply = port.exchange(runs.list_runs(record.agent_id, 1))
    except SequentumError as error:
        log.warning("Could not check whether %s is the one that was started. (%s)", record.name, error)
        return False
    return _was_created_before(run, requested_by_service(record, port.now(), reply.served_at, [run, *reply.value]))


def _announce(port: Port, config: RunConfig, starts: tuple[PlannedStart, ...]) -> None:
    """Tell the other tasks of the DAG run which starts this task has made."""
    if config.credit_limit is not None:
        port.announce(Announcement(starts=starts))


def _claim(port: Port, record: RunRecord, *, is_answered: bool = False) -> None:
    """Tell the mapped siblings which runs belong to this task, and whether one of its starts is unanswered."""
    port.claim(
        Claim(
            agent_id=record.agent_id,
            run_ids=record.all_runs,
            is_answered=is_answered or record.run_id is not None,
            has_lost_run=record.may_lack_runs,
        )
    )


def send_start(port: Sender, call: Call[T], what: str) -> Reply[T]:
    """Send a start request, and repeat it while the service refuses it because another run is active.

    :param what: what to start, for the log.
    """
    for delay in BUSY_DELAYS:
        try:
            return port.exchange(call)
        except SequentumError as error:
            if error.status_code != 409:
                raise
            log.warning("%s cannot be started now; trying again in %g s. (%s)", what, delay, error)
        port.sleep(delay)
    return port.exchange(call)


def raise_if_busy(error: SequentumError) -> None:
    """Let Airflow retry the task if its start was refused because another run is active.

    :raises SequentumUnavailable: the start was refused with 409.
    """
    if error.status_code == 409:
        raise SequentumUnavailable(f"{error} Nothing was started; a retry sends the start again.") from error


def _stop_replaced(port: Sender, record: RunRecord, config: RunConfig) -> Run | None:
    result = stop_run(port, record, config.stop_grace)
    if result.confirmed:
        return result.seen
    raise AgentRunStillRunning(
        f"{record.name} should be replaced, but it could not be confirmed that it has stopped, so nothing was started. "
        f"{doubt_about('It')} A retry stops it again.",
        agent_id=record.agent_id,
        run_id=record.run_id,
    )


def _find_after_lost_response(port: Port, config: RunConfig, record: RunRecord, lost: SequentumError) -> Run | None:
    try:
        return find_lost_run(port, record, config.on_ambiguous_start)
    except AgentRunStartAmbiguous:
        port.save(record.updated(is_ambiguous=True))
        raise
    except SequentumError as error:
        # The error to report is the lost response; the failed search is only the reason why its result is unknown.
        raise SequentumUnavailable(
            f"{lost} The agent's runs could not be listed to find out: {error} "
            f"{doubt_about(f'A run of agent {config.agent_id}')}"
        ) from error


def restart_or_start(port: Port, record: RunRecord, run: Run, new: RunRecord) -> Run:
    """Restart a run in Failure in place; if the service refuses, start a new run if ``retry_mode`` allows it.

    :param record: the record of the run.
    :param new: the record of this attempt, for a new run.
    :raises SequentumRequestRefused: the restart was refused and ``retry_mode`` is ``restart``.
    """
    restarting = record.restarting(port.now(), run.end_time)
    port.save(restarting)
    try:
        response = port.send(runs.restart(run.agent_id, run.id))
    except SequentumError as error:
        if error.may_have_acted:
            # The following wait finds out: a Failure that lasts longer than the grace period is a new one.
            log.warning("The response to the restart was lost; checking whether the run leaves Failure. (%s)", error)
            return run
        port.save(record)  # nothing was restarted, so there is no old Failure to ignore
        if error.status_code not in RESTART_REFUSALS:
            raise
        now = _look(port, record)
        if now is not None and phase_of(now) not in (Phase.RESTARTABLE, Phase.ARCHIVED):
            log.info("%s was restarted by a person or another program; joining it.", record.name)
            return now
        if new.config_or_defaults.retry_mode == "restart":
            raise _restart_refused(record, f"the service refused: {error}") from error
        log.warning("%s cannot be restarted, so a new run is started. (%s)", record.name, error)
        return start_run(port, new, record)
    now_run = run if response is None else response
    if now_run.id != run.id:
        now_run = _which_was_restarted(port, run, now_run)
        port.save(restarting.updated(run_id=now_run.id))
    log.info("Restarted run %s of agent %s in place.", now_run.id, run.agent_id)
    return now_run


def _which_was_restarted(port: Sender, run: Run, response: Run) -> Run:
    """Return the run that was restarted, if the id in the response to the restart is not the run's.

    The response is not documented: the id may be a new id of the run, or that of something else.
    """
    until = port.now() + NOT_FOUND_TOLERANCE
    while True:
        seen = run
        with suppress(SequentumError):
            seen = port.send(runs.status(run.agent_id, run.id))
        if phase_of(seen) is not Phase.RESTARTABLE:
            log.warning("Run %s is active again, although the response to its restart names %s.", run.id, response.id)
            return seen
        try:
            return port.send(runs.status(response.agent_id, response.id))
        except SequentumError as error:
            if error.status_code != 404 or port.now() >= until:
                return seen if error.status_code == 404 else response
        port.sleep(NOT_YET_FOUND_INTERVAL)


def _restart_refused(record: RunRecord, reason: str) -> SequentumRequestRefused:
    return SequentumRequestRefused(
        f"{record.name} cannot be restarted: {reason.rstrip('.')}. No new run was started, because retry_mode is "
        "'restart'. Clear the task to start one."
    )


def _find_requested_run(port: Port, record: RunRecord, new: RunRecord) -> RunRecord:
    """Find the run of an attempt that was interrupted between its intent and the service's response.

    :return: the record, with the run if one was found.
    """
    policy = new.config_or_defaults.on_ambiguous_start
    log.warning(
        "An earlier attempt may have started a run of agent %s whose id is unknown. Searching for it.", record.agent_id
    )
    try:
        run = find_lost_run(port, record, "fail" if policy == "start" else policy)
    except AgentRunStartAmbiguous as error:
        if policy == "start":
            log.warning("%s A new run is started anyway (on_ambiguous_start='start').", error)
            return record.updated(is_ambiguous=True)
        if record.is_ambiguous and record.was_cleared(new.max_tries):
            # A user who clears the task after this error wants a new run.
            log.warning("%s The task has been cleared since, so a new run is started.", error)
            return record
        port.save(record.updated(is_ambiguous=True, max_tries=new.max_tries))
        raise
    if run is None:
        note_nothing_found(f"No such run of agent {record.agent_id} was found.", record)
        return record
    return record.started(run.id)


def note_nothing_found(message: str, record: JobRecord) -> None:
    """Log that a search has found nothing. A record that was inferred does not show that a start was sent."""
    if record.is_guess:
        log.info("%s", message)
    else:
        log.warning("%s %s", message, LATE_START)


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
            log.warning("Any of the runs %s could be the lost one; a new run is started anyway.", ids_of(candidates))
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
            reply = port.exchange(runs.list_runs(record.agent_id, MAX_LISTED_RUNS))
        except SequentumError:
            if number >= len(delays):
                raise
            continue
        listed, since = reply.value, requested_by_service(record, port.now(), reply.served_at, reply.value)
        # A sibling claims its run a moment after it was created, so the claims are read after the list of runs.
        claims = [claim for claim in port.claims() if claim.agent_id in (None, record.agent_id)]
        candidates = candidates_for(record, listed, since, claims)
        unanswered = sum(not claim.is_answered for claim in claims)
        doubt = what_a_list_lacks(record, listed, since)
        if not doubt and candidates and unanswered:
            doubt = f"{counted(unanswered, 'mapped sibling')} may have started it."
        elif not doubt:
            doubt = may_be_lost_by_sibling(candidates, claims)
        if candidates and not doubt:
            break
        if not candidates and not doubt and number >= len(delays):
            since = confirmed_request_time(port, reply.served_at, since)
            candidates = created_just_before(record, listed, since, claims)
            doubt = JUST_BEFORE.format(ids_of(candidates)) if candidates else ""
    return candidates, doubt


def may_be_lost_by_sibling(candidates: Sequence[Run], claims: Sequence[Claim]) -> str:
    """Return why a candidate may be a lost run of a mapped sibling, as a sentence; empty if none can be."""
    # Ids increase: a run that a sibling has lost has a lower id than the run that it has started since.
    newest = max((max(claim.run_ids, default=0) for claim in claims if claim.has_lost_run), default=0)
    if any(candidate.id < newest for candidate in candidates):
        return "A mapped sibling has lost a run that was started at about the same time."
    return ""


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


def candidates_for(
    record: RunRecord, listed: Sequence[Run], since: datetime | None, claims: Iterable[Claim] = ()
) -> list[Run]:
    """Return the runs that may be the one whose start was lost: those created since the start was sent.

    :param since: when it was sent; see :func:`requested_by_service`. If that is not known, ids decide.
    :param claims: the claims of the mapped siblings, whose runs are not candidates.
    """
    claimed = {run_id for claim in claims for run_id in claim.run_ids}
    return [
        run
        for run in listed
        if not (run.id in record.replaced or run.id in claimed or (record.is_guess and phase_of(run).is_over))
        and _may_be_newer(run, record, since)
    ]


def created_just_before(
    record: RunRecord, listed: Sequence[Run], since: datetime | None, claims: Iterable[Claim] = ()
) -> list[Run]:
    """Return the runs that are not candidates, but would be if the clocks of the service's machines differed.

    One of them may be the lost run, so no other run is started. A run that had already ended is not the lost one, and a
    run that is being stopped is more likely the task's run from before it was cleared. If the record is a guess, it is
    not certain that a start was sent.

    For the parameters, see :func:`candidates_for`.
    """
    if since is None or record.is_guess:
        return []
    earlier = candidates_for(record, listed, since - OLDER, claims)
    going = [run for run in earlier if run.end_time is None or run.end_time >= since]
    return [run for run in going if run.status not in (RunStatus.STOPPING, RunStatus.STOPPED)]


def what_a_list_lacks(record: RunRecord, listed: Page[Run], since: datetime | None) -> str:
    """Return why the lost run may be missing from a list of runs, as a sentence; empty if it cannot be.

    For the parameters, see :func:`candidates_for`.
    """
    if listed.unreadable:
        return f"{counted(listed.unreadable, 'run')} in the service's list for agent {record.agent_id} cannot be read."
    if is_cut(listed, MAX_LISTED_RUNS) and all(_may_be_newer(run, record, since) for run in listed):
        return f"More runs were created since than the {len(listed)} that the service lists."
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
        f"A start of agent {record.agent_id} was sent and the response was lost. Any of the runs {ids_of(candidates)} "
        f"could be it, so none was adopted and none was started. {doubt} Check them in Sequentum Cloud, stop those you "
        "do not want, then clear the task to start a new run; or set on_ambiguous_start='adopt' or 'start'.",
        agent_id=record.agent_id,
        run_id=candidates[0].id if len(candidates) == 1 else None,
    )


def ids_of(candidates: Sequence[Run]) -> str:
    """Return the ids as text."""
    return id_list(sorted(run.id for run in candidates))  # the oldest is the most likely one


def look_at_runs(
    looks: Mapping[int, tuple[Sender, RunRecord]], clock: Sender
) -> dict[int, Run | SequentumError | None]:
    """Poll runs, each until the result is certain.

    A run that the service does not know may be too new. A Failure may be the one from before a restart, because an
    earlier attempt may have saved the intent to restart the run without sending the request. The runs are polled in
    turn, so that many runs take no longer than one.

    :param looks: for each run, the port to poll it with and its record.
    :param clock: the port that provides the time and waits.
    :return: for each run, its latest record, the error that prevented reading it, or ``None`` if the service does not
        know it.
    """
    seen: dict[int, Run | SequentumError | None] = {}
    missing_since: dict[int, datetime] = {}
    while True:
        for key, (port, record) in looks.items():
            if key in seen:
                continue
            try:
                run = port.send(runs.status(record.agent_id, record.run_id or 0))
            except SequentumError as error:
                is_missing = error.status_code == 404
                since = missing_since.setdefault(key, clock.now())
                if not is_missing or clock.now() - since >= NOT_FOUND_TOLERANCE:
                    seen[key] = None if is_missing else error
            else:
                missing_since.pop(key, None)
                if not may_be_the_old_failure(run, record, clock.now()):
                    seen[key] = run
        if len(seen) == len(looks):
            return seen
        clock.sleep(NOT_YET_FOUND_INTERVAL)


def _look(port: Sender, record: RunRecord) -> Run | None:
    [seen] = look_at_runs({0: (port, record)}, port).values()
    if isinstance(seen, SequentumError):
        raise seen
    return seen
