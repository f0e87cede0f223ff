"""Acquiring the one run that an attempt of a task works with: start it, join it, restart it, or find it again.

No POST request of the API is idempotent, so sending a start twice means a second billed run. The order of the steps
prevents that: save the intent, send the start, save the run id. Wherever an attempt is interrupted, the next one can
find out what happened.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

from airflow_provider_sequentum.api import runs
from airflow_provider_sequentum.api.errors import SequentumError, UnexpectedResponse
from airflow_provider_sequentum.api.run_status import RunStatus, status_name
from airflow_provider_sequentum.exceptions import (
    AgentRunStartAmbiguous,
    AgentRunStillRunning,
    SequentumRequestRefused,
    SequentumUnavailable,
    doubt_about,
)
from airflow_provider_sequentum.jobs.port import NOT_FOUND_TOLERANCE, Port, Sender
from airflow_provider_sequentum.jobs.siblings import Announcement
from airflow_provider_sequentum.runs.lost_start import (
    find_in_place_of,
    find_lost_run,
    note_nothing_found,
    run_started_by,
)
from airflow_provider_sequentum.runs.phases import NextStep, Phase, next_step, phase_of
from airflow_provider_sequentum.runs.record import RunConfig, RunRecord
from airflow_provider_sequentum.runs.stop import stop_run
from airflow_provider_sequentum.runs.wait import (
    NOT_YET_FOUND_INTERVAL,
    may_be_the_old_failure,
)

if TYPE_CHECKING:
    from airflow_provider_sequentum.api import Call, Reply
    from airflow_provider_sequentum.api.runs import Run
    from airflow_provider_sequentum.jobs.siblings import PlannedStart

BUSY_DELAYS = (10.0, 20.0, 30.0)
"""Seconds before each repetition of a start that was refused with 409: another run of the agent may be about to end."""

RESTART_REFUSALS = (400, 404, 405, 409, 422)
"""Status codes which mean that a run cannot be restarted, or that the service does not offer restarts."""

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
    config = new.config
    # Airflow has deleted the XComs in which an earlier attempt announced and claimed its runs.
    _announce(port, config, new.starts if previous is None else previous.starts)
    if previous is None:
        return start_run(port, new, None)
    port.claim(previous.claim())
    record = previous
    if previous.run_id is None:
        record = _find_requested_run(port, previous, new)
        if record.run_id is None:
            return start_run(port, new, record)
        port.save(record)  # from here on, the run is known
        port.claim(record.claim())
    return take_up_run(port, record, new, _look(port, record))


def take_up_run(port: Port, record: RunRecord, new: RunRecord, run: Run | None) -> Run:
    """Return the run that this attempt works with: join, restart or replace the one that an earlier attempt left.

    Raises what :func:`acquire_run` raises.

    :param record: the record of the earlier attempt.
    :param new: the record of this attempt.
    :param run: the current state of the run; ``None`` if the service does not know it.
    """
    config = new.config
    step = _decide(record, run, new)
    if run is None and not record.was_cleared(new.max_tries):
        run = find_in_place_of(port, record, config.on_ambiguous_start)
        if run is not None:
            record = record.unnamed().started(run.id)
            port.save(record)
            port.claim(record.claim())
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
    config, was_cleared = new.config, record.was_cleared(new.max_tries)
    step = next_step(
        None if run is None else phase_of(run),
        is_same_work=record.is_same_work(config.fingerprint()),
        was_cleared=was_cleared,
        is_rejected=record.is_rejected,
        is_stopping=run is not None and run.status is RunStatus.STOPPING,
        on_clear=config.on_clear,
        retry_mode=config.retry_mode,
    )
    state = f"has the status {status_name(run.status)}" if run is not None else "is unknown to the service"
    why = "The task was cleared" if was_cleared else "This is another attempt of the task"
    log.info("%s; its run %s of agent %s %s. %s.", why, record.run_id, record.agent_id, state, step.value)
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

    config = new.config
    before = new.starts or (previous.starts_made if previous is not None else ())
    starts = check_before_start(port, config, before, is_first=previous is None)
    record = new.updated(first_requested_at=port.now(), starts=starts).replacing(previous)

    def save_intent() -> None:
        nonlocal record
        record = record.updated(requested_at=port.now())
        port.claim(record.claim())
        port.save(record)

    def discard_intent() -> None:
        port.save(previous)
        # The run that a sibling finds may be an earlier one of this task, which it no longer knows.
        port.claim((previous or record).claim(is_answered=not record.may_lack_runs))

    try:
        reply = send_start(port, config.start_call(), f"Agent {record.agent_id}", save_intent, discard_intent)
        _refuse_earlier_run(reply.value, record, config)
    except SequentumError as error:
        if not error.may_have_acted:
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
        run = run_started_by(port, reply, record)
    record = record.started(run.id)
    port.save(record)
    port.claim(record.claim())
    _announce(port, config, record.starts)
    log.info("Started run %s of agent %s.", run.id, run.agent_id)
    return run


def _refuse_earlier_run(run: Run, record: RunRecord, config: RunConfig) -> None:
    """Treat a response that names an earlier run of the task as a lost one."""
    if run.id in record.replaced:
        reason = f"the response names run {run.id}, which is an earlier run of the task"
        raise config.start_call().error(UnexpectedResponse, reason, may_have_acted=True)


def _announce(port: Port, config: RunConfig, starts: tuple[PlannedStart, ...]) -> None:
    """Tell the other tasks of the DAG run which starts this task has made."""
    if config.credit_limit is not None:
        port.announce(Announcement(starts=starts))


def send_start(
    port: Port, call: Call[T], what: str, save_intent: Callable[[], None], discard_intent: Callable[[], None]
) -> Reply[T]:
    """Save the intent and send a start request; repeat both while the service refuses it because another run is active.

    Whenever it is certain that no start was sent, no intent is left: otherwise the attempt that ends then, or the next
    one, would search for its run, and could find that of another user.

    :param what: what to start, for the log.
    :param save_intent: saves the intent.
    :param discard_intent: saves that nothing was started.
    """
    for delay in (*BUSY_DELAYS, None):
        before = port.record
        try:
            save_intent()
        except BaseException:
            port.record = before
            raise
        try:
            return port.exchange(call)
        except SequentumError as error:
            if error.may_have_acted:
                raise
            discard_intent()
            if error.status_code != 409 or delay is None:
                raise
            log.warning("%s cannot be started now; trying again in %g s. (%s)", what, delay, error)
        port.sleep(delay)
    raise RuntimeError("The last repetition ends in a response or an error.")


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
        if new.config.retry_mode == "restart":
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
    policy = new.config.on_ambiguous_start
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
