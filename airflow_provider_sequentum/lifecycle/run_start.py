"""
Getting hold of the one run a task works with: started, joined, restarted, or found again.

No POST of the API is idempotent, so a start that is sent twice is a second billed run. What keeps that from happening
is the order of things: remember the intent, send the start, remember the run. Whoever is interrupted anywhere in
between leaves enough behind for the next try to find out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from airflow_provider_sequentum.api.errors import (
    BadRequest,
    Conflict,
    MethodNotAllowed,
    NotFound,
    SequentumError,
    UnprocessableRequest,
)
from airflow_provider_sequentum.api.run_status import RunStatus, status_name
from airflow_provider_sequentum.lifecycle.next_run import MOST_RUNS_LISTED
from airflow_provider_sequentum.lifecycle.next_try import NextTry, next_try
from airflow_provider_sequentum.lifecycle.phases import Phase, phase_of
from airflow_provider_sequentum.lifecycle.procedure import (
    Procedure,
    now,
    remember,
    say,
    send,
    siblings_runs,
    sleep,
    warn,
)
from airflow_provider_sequentum.lifecycle.run_guards import check_credits
from airflow_provider_sequentum.lifecycle.run_record import RunRecord
from airflow_provider_sequentum.lifecycle.run_stop import STOP_GRACE, stop_run
from airflow_provider_sequentum.lifecycle.run_wait import NOT_YET_FOUND_INTERVAL
from airflow_provider_sequentum.lifecycle.tolerance import NOT_FOUND_TOLERANCE, may_be_the_old_failure

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.runs import Run
    from airflow_provider_sequentum.lifecycle.run_request import RunRequest

CLOCK_SKEW = timedelta(seconds=30)
"""How far the service's clock and the worker's are allowed to be apart when a lost run is looked for."""

LOOKS_FOR_LOST_RUN = (5.0, 10.0)
"""Seconds before each look for a lost run: it may take a moment to appear."""

HASTY_LOOKS_FOR_LOST_RUN = (0.0, 1.0, 4.0, 10.0)
"""The same for a task that is being killed: Airflow gives it about five seconds."""


class StartAmbiguous(Exception):
    """A start was sent, its answer was lost, and several runs could be it."""

    def __init__(self, agent_id: int, run_ids: list[int]) -> None:
        super().__init__(f"agent {agent_id}: runs {run_ids}")
        self.agent_id = agent_id
        self.run_ids = run_ids


class StillGoing(Exception):
    """Runs that new ones should replace could not be confirmed to have stopped, so nothing was started."""

    def __init__(self, agent_ids: list[int], run_ids: list[int]) -> None:
        super().__init__(f"agents {agent_ids}: runs {run_ids}")
        self.agent_ids = agent_ids
        self.run_ids = run_ids


class RestartRefused(Exception):
    """Only a restart was allowed, and the run can't be restarted."""

    def __init__(self, agent_id: int, run_id: int, reason: str) -> None:
        super().__init__(reason)
        self.agent_id = agent_id
        self.run_id = run_id
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPolicy:
    """
    What the DAG author chose.

    :param on_ambiguous_start: what to do when a start's answer was lost and several runs could be it: ``fail``,
        ``adopt`` the newest, or ``start`` another.
    :param on_clear: what a cleared task does with a run that is still going: ``rerun`` stops it, ``join`` waits for it.
    :param retry_mode: what a retry does after Failure: ``restart_or_new``, ``restart`` or ``new``.
    :param stop_grace: seconds a run gets to wind down when it is stopped, before it is killed.
    :param min_credits: start nothing unless so many credits are left; ``None`` doesn't ask.
    """

    on_ambiguous_start: str = "fail"
    on_clear: str = "rerun"
    retry_mode: str = "restart_or_new"
    stop_grace: float = STOP_GRACE
    min_credits: float | None = None


@dataclass(frozen=True, slots=True)
class HeldRun:
    """The run a task works with now, and the record that leads to it."""

    record: RunRecord
    run: Run


def hold_run(
    request: RunRequest, policy: RunPolicy, max_tries: int, left_behind: RunRecord | None
) -> Procedure[HeldRun]:
    """
    Return the run this try works with, starting or restarting one only if the earlier tries left none to go on with.

    :param request: the run to start, if one has to be started.
    :param max_tries: the task instance's ``max_tries``, which names the logical attempt.
    :param left_behind: the record of an earlier try.
    :raises StartAmbiguous: see :class:`RunPolicy`.
    :raises RestartRefused: see :class:`RunPolicy`.
    :raises CreditsShort: see :class:`RunPolicy`.
    :raises StillGoing: the run that a new one should replace could not be stopped. The next try stops it again.
    :raises SequentumError: the service refused, or could not be asked. If a start is in doubt, the record says so.
    """
    if left_behind is None:
        return (yield from start_run(request, policy, max_tries, None))
    cleared = left_behind.max_tries != max_tries
    record: RunRecord | None = left_behind
    if left_behind.run_id is None:
        record = yield from _find_what_was_intended(left_behind, policy, max_tries)
    if record is None or record.run_id is None:
        return (yield from start_run(request, policy, max_tries, left_behind))
    run = yield from _look(record)
    decision = next_try(
        None if run is None else phase_of(run),
        same_inputs=record.fingerprint == request.fingerprint(),
        cleared=cleared,
        abandoned=record.abandoned,
        stopping=run is not None and run.status is RunStatus.STOPPING,
        on_clear=policy.on_clear,
        retry_mode=policy.retry_mode,
    )
    yield from say(_explain(decision, record, run, cleared))
    return (yield from _carry_out(decision, request, policy, max_tries, record, run))


def _carry_out(
    decision: NextTry, request: RunRequest, policy: RunPolicy, max_tries: int, left_behind: RunRecord, run: Run | None
) -> Procedure[HeldRun]:
    record = replace(left_behind, max_tries=max_tries)
    if run is not None:
        if decision is NextTry.JOIN:
            yield from remember(record.to_json())
            return HeldRun(record, run)
        if decision is NextTry.RESTART:
            return (yield from restart_or_start(HeldRun(record, run), request, policy))
        if decision is NextTry.REFUSE:
            raise RestartRefused(run.agent_id, run.id, f"it has ended as {status_name(run.status)} and was archived")
        if decision is NextTry.STOP_AND_START:
            result = yield from stop_run(run.agent_id, run.id, policy.stop_grace, record.restart_asked_at)
            if not result.confirmed:
                raise StillGoing([run.agent_id], [run.id])
    return (yield from start_run(request, policy, max_tries, left_behind))


def start_run(
    request: RunRequest, policy: RunPolicy, max_tries: int, left_behind: RunRecord | None, *, once_more: bool = True
) -> Procedure[HeldRun]:
    """
    Start a new run: intent, start, record. Raises what :func:`hold_run` raises.

    :param left_behind: the record of the run that this one replaces.
    :param once_more: whether a start whose answer was lost may be followed by another one in this try, where the policy
        is to start anew. It is never followed by more than one: each may be a billed run.
    """
    yield from check_credits(policy.min_credits)
    record = RunRecord(
        agent_id=request.agent_id,
        fingerprint=request.fingerprint(),
        max_tries=max_tries,
        intended_at=(yield from now()),
        replaced=left_behind.all_runs if left_behind is not None else (),
    )
    yield from remember(record.to_json())
    try:
        run = yield from send(request.call())
    except SequentumError as error:
        if not error.may_have_acted:
            # Nothing was started, so there is nothing to look for.
            yield from remember(left_behind.to_json() if left_behind is not None else None)
            raise
        yield from warn(f"The answer to the start was lost, so a run may have been started. Looking for it. ({error})")
        try:
            found = yield from find_lost_run(record, policy)
        except StartAmbiguous:
            yield from remember(replace(record, is_ambiguous=True).to_json())
            raise
        if found is None and policy.on_ambiguous_start == "start" and once_more:
            return (yield from start_run(request, policy, max_tries, left_behind, once_more=False))
        if found is None:
            # The intent stays: the next try looks again, later, and starts a run only if there is still none.
            raise
        run = found
    record = record.started(run.id)
    yield from remember(record.to_json())
    yield from say(f"Run {run.id} of agent {run.agent_id} has been started.")
    return HeldRun(record, run)


def restart_or_start(held: HeldRun, request: RunRequest, policy: RunPolicy) -> Procedure[HeldRun]:
    """
    Restart the held run in place; if that is refused, start a new one where the policy allows it.

    :raises RestartRefused: the restart was refused and ``retry_mode`` is ``restart``.
    """
    from airflow_provider_sequentum.api import runs

    agent_id, run_id = held.run.agent_id, held.run.id
    record = held.record.restarting((yield from now()), held.run.end_time)
    yield from remember(record.to_json())
    try:
        answer = yield from send(runs.restart(agent_id, run_id))
    except (BadRequest, Conflict, MethodNotAllowed, NotFound, UnprocessableRequest) as error:
        yield from remember(held.record.to_json())  # nothing was restarted, so no old Failure has to be told apart
        run = yield from _look(held.record)
        if run is not None and phase_of(run) not in (Phase.RESTARTABLE, Phase.ARCHIVED):
            yield from say(f"Run {run_id} of agent {agent_id} was restarted by somebody else; joining it.")
            return HeldRun(held.record, run)
        if policy.retry_mode == "restart":
            raise RestartRefused(agent_id, run_id, f"the service refused: {error}") from error
        yield from warn(f"Run {run_id} of agent {agent_id} can't be restarted, so a new run is started. ({error})")
        return (yield from start_run(request, policy, record.max_tries, held.record))
    except SequentumError as error:
        if not error.may_have_acted:
            yield from remember(held.record.to_json())
            raise
        # The wait that follows finds out: a Failure that stays for the grace period is a new ending.
        yield from warn(f"The answer to the restart was lost; watching whether the run leaves Failure. ({error})")
        return HeldRun(record, held.run)
    if answer is not None and answer.id != run_id:
        record = replace(record, run_id=answer.id)
        yield from remember(record.to_json())
    yield from say(f"Run {run_id} of agent {agent_id} has been restarted in place.")
    return HeldRun(record, answer or held.run)


def _find_what_was_intended(record: RunRecord, policy: RunPolicy, max_tries: int) -> Procedure[RunRecord | None]:
    """Find the run of a try that was interrupted between its intent and the service's answer."""
    yield from warn(
        f"An earlier try may have started a run of agent {record.agent_id} whose id is not known. Looking for it."
    )
    try:
        run = yield from find_lost_run(record, policy)
    except StartAmbiguous as error:
        if record.is_ambiguous and record.max_tries != max_tries:
            # Clearing the task is how a person, having been told and having looked, says: start anew.
            yield from warn(f"Any of the runs {error.run_ids} could be it. The task was cleared since; starting anew.")
            return None
        yield from remember(replace(record, is_ambiguous=True, max_tries=max_tries).to_json())
        raise
    if run is None:
        yield from say(f"No such run of agent {record.agent_id} was found.")
        return None
    return record.started(run.id)


def find_lost_run(
    record: RunRecord, policy: RunPolicy, looks: tuple[float, ...] = LOOKS_FOR_LOST_RUN
) -> Procedure[Run | None]:
    """
    Look for the run that a start with a lost answer may have started.

    :param record: the intent.
    :param looks: seconds before each look.
    :raises StartAmbiguous: several runs could be it, and the policy is to fail.
    """
    from airflow_provider_sequentum.api import runs

    candidates: list[Run] = []
    for number, pause in enumerate(looks, 1):
        yield from sleep(pause)
        try:
            listed = yield from send(runs.list_runs(record.agent_id, MOST_RUNS_LISTED))
        except SequentumError:
            if number == len(looks):
                raise
            continue
        # A sibling says which run it holds a moment after it started it, so it is asked after the service is.
        candidates = candidates_for(record, listed, (yield from siblings_runs()))
        if candidates:
            break
    if len(candidates) > 1 and policy.on_ambiguous_start == "fail":
        raise StartAmbiguous(record.agent_id, [run.id for run in candidates])
    if len(candidates) > 1 and policy.on_ambiguous_start == "start":
        yield from warn(
            f"Any of the runs {[run.id for run in candidates]} could be it; a new one is started all the same."
        )
        return None
    if candidates:
        run = max(candidates, key=lambda candidate: candidate.id)
        yield from warn(
            f"Adopting run {run.id} of agent {run.agent_id}, created {run.created}: taken for the lost one."
        )
        return run
    return None


def candidates_for(record: RunRecord, listed: list[Run], others: frozenset[int] = frozenset()) -> list[Run]:
    """
    Return the runs that may be the one a lost start started: those created since the intent.

    :param others: runs that are known to be somebody else's.
    """
    return [
        run
        for run in listed
        if run.id not in record.replaced
        and run.id not in others
        and _may_be_as_young(run, record.intended_at - CLOCK_SKEW)
        and not (record.is_guess and phase_of(run).is_over)
    ]


def _may_be_as_young(run: Run, moment: datetime) -> bool:
    known = run.created or run.start_time
    # A run that does not say how old it is can only be ruled out when it is over.
    return known >= moment if known is not None else not phase_of(run).is_over


def _look(record: RunRecord) -> Procedure[Run | None]:
    """
    Return the record's run; ``None`` if the service doesn't know it, and not just not yet.

    A Failure that may be the old one of a restart is looked at again until it is told apart: nobody can know whether an
    earlier try that asked for the restart lived to send it.
    """
    from airflow_provider_sequentum.api import runs

    while True:
        try:
            run = yield from send(runs.status(record.agent_id, record.run_id or 0))
        except NotFound:
            if (yield from now()) - record.intended_at > NOT_FOUND_TOLERANCE:
                return None
        else:
            restartable = phase_of(run) is Phase.RESTARTABLE
            asked_at, ended_at = record.restart_asked_at, record.failure_ended_at
            if not (restartable and may_be_the_old_failure(run, asked_at, ended_at, (yield from now()))):
                return run
        yield from sleep(NOT_YET_FOUND_INTERVAL)


def _explain(decision: NextTry, record: RunRecord, run: Run | None, cleared: bool) -> str:
    state = status_name(run.status) if run is not None else "unknown to the service"
    then = {
        NextTry.START: "Starting a new run",
        NextTry.STOP_AND_START: "Stopping it and starting a new run",
        NextTry.JOIN: "Going on with it",
        NextTry.RESTART: "Restarting it in place",
        NextTry.REFUSE: "Only a restart is allowed, and it can't be restarted",
    }[decision]
    why = "The task was cleared" if cleared else "An earlier try of this task ended early"
    return f"{why}; its run {record.run_id} of agent {record.agent_id} is {state}. {then}."
