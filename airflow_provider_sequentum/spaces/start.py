"""
Getting hold of the runs of all agents of a space.

The service starts them by one request (``run-all``), which is no more idempotent than a start. So the order of things
is the same: remember the intent, send it, remember what it answered. What became of a lost answer is found out agent by
agent. From then on each agent's run has a life of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.runs.phases import phase_of
from airflow_provider_sequentum.lifecycle.procedure import Procedure, now, remember, say, send, sleep, warn
from airflow_provider_sequentum.runs.start import check_credits
from airflow_provider_sequentum.runs.record import RunRecord
from airflow_provider_sequentum.runs.start import (
    LOOKS_FOR_LOST_RUN,
    RunPolicy,
    StartAmbiguous,
    StillGoing,
    find_lost_run,
)
from airflow_provider_sequentum.runs.stop import StopResult, stop_run
from airflow_provider_sequentum.lifecycle.space_record import SpaceRecord, SpaceRequest

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.spaces import SpaceRun

_Trouble = StartAmbiguous | SequentumError | None


def hold_space(
    request: SpaceRequest, policy: RunPolicy, max_tries: int, left_behind: SpaceRecord | None
) -> Procedure[SpaceRecord]:
    """
    Return the record of the runs this try works with, starting all of them only if there is nothing to go on with.

    What becomes of each run that is in the record is decided by its own :func:`.hold_run`.

    :param request: the runs to start, if they have to be started.
    :param policy: what the DAG author chose.
    :param max_tries: the task instance's ``max_tries``, which names the logical attempt.
    :param left_behind: the record of an earlier try.
    :raises StartAmbiguous: the runs of an earlier start can't be told from others.
    :raises CreditsShort: see :class:`.RunPolicy`.
    :raises StillGoing: runs that new ones should replace could not be stopped. The next try stops them again.
    :raises SequentumError: the service refused, or could not be asked. If a start is in doubt, the record says so.
    """
    if left_behind is None:
        return (yield from start_space(request, policy, max_tries, left_behind))
    cleared, record = left_behind.max_tries != max_tries, left_behind
    if record.is_ambiguous and cleared:
        yield from warn("The task was cleared since its runs could not be told from others; starting anew.")
        yield from _make_room((record.runs or {}).values(), policy)
        return (yield from start_space(request, policy, max_tries, record))
    if record.is_in_doubt:
        yield from warn(f"An earlier try may have started runs of space {record.space_id}. Looking for them.")
        record = (yield from find_space_runs(record, request, policy, max_tries)).without_doubts()
    runs = record.runs or {}
    if not runs:
        yield from say(f"No runs of space {record.space_id} were found.")
        return (yield from start_space(request, policy, max_tries, left_behind))
    if record.fingerprint != request.fingerprint() or (cleared and policy.on_clear == "rerun"):
        yield from say(f"This is new work: stopping what is still going in space {record.space_id}, and starting anew.")
        yield from _make_room(runs.values(), policy)
        return (yield from start_space(request, policy, max_tries, record))
    record = replace(record, max_tries=max_tries)
    yield from remember(record.to_json())
    return record


def start_space(
    request: SpaceRequest, policy: RunPolicy, max_tries: int, left_behind: SpaceRecord | None
) -> Procedure[SpaceRecord]:
    """
    Start all agents of the space: intent, start, record. Raises what :func:`hold_space` raises.

    :param left_behind: the record of the runs that these ones replace.
    """
    from airflow_provider_sequentum.api import spaces

    yield from check_credits(policy.min_credits)
    record = SpaceRecord(
        space_id=request.space_id,
        fingerprint=request.fingerprint(),
        max_tries=max_tries,
        intended_at=(yield from now()),
        replaced=left_behind.all_runs if left_behind is not None else {},
    )
    yield from remember(record.to_json())
    try:
        answer = yield from send(spaces.run_all(request.space_id, input_parameters=request.input_parameters))
    except SequentumError as error:
        if not error.may_have_acted:
            # Nothing was started, so there is nothing to look for.
            yield from remember(left_behind.to_json() if left_behind is not None else None)
            raise
        yield from warn(f"The answer was lost, so runs may have been started. Looking for them. ({error})")
        record = yield from find_space_runs(record, request, policy, max_tries)
        if not record.without_doubts().runs:
            # The intent stays: the next try looks again, later, and starts the space only if there is still nothing.
            yield from remember(replace(record, runs=None).to_json())
            raise
        return record
    record = _with_answer(record, request, answer)
    yield from remember(record.to_json())
    yield from say(f"{len(record.runs or {})} agents of space {request.space_id} have been started.")
    return record


def find_space_runs(
    record: SpaceRecord,
    request: SpaceRequest,
    policy: RunPolicy,
    max_tries: int,
    looks: tuple[float, ...] = LOOKS_FOR_LOST_RUN,
) -> Procedure[SpaceRecord]:
    """
    Look for the runs that a start with a lost answer may have started, agent by agent, and remember what was found.

    An agent without such a run keeps the intent, so that the next try looks once more before it starts the agent.

    :param looks: seconds before each look.
    :raises StartAmbiguous: of some agent, several runs could be it, and the policy is to fail.
    :raises SequentumError: at the last look, the service could not be asked about some agent.
    """
    record, trouble = yield from _look_for_lost(record, request, policy, looks)
    if isinstance(trouble, StartAmbiguous):
        record = replace(record, is_ambiguous=True, max_tries=max_tries)
        if others := [run.run_id for run in _known(record, over=())]:
            yield from warn(f"Runs {others} of the other agents go on. Clearing the task stops them.")
    yield from remember(record.to_json())
    if trouble is not None:
        raise trouble
    return record


def _look_for_lost(
    record: SpaceRecord, request: SpaceRequest, policy: RunPolicy, looks: tuple[float, ...]
) -> Procedure[tuple[SpaceRecord, _Trouble]]:
    """Return the record with the runs that were found, and why others were not: the first reason, if there is any."""
    trouble: _Trouble = None
    for pause in looks:
        yield from sleep(pause)
        record, trouble = yield from _look_once(record, request, policy)
        if isinstance(trouble, StartAmbiguous) or not record.is_in_doubt:
            break
    return record, trouble


def _look_once(
    record: SpaceRecord, request: SpaceRequest, policy: RunPolicy
) -> Procedure[tuple[SpaceRecord, _Trouble]]:
    from airflow_provider_sequentum.api import spaces

    known = dict(record.runs or {})
    if record.runs is None:
        try:
            agents = yield from send(spaces.list_agents(record.space_id))
        except SequentumError as error:
            return record, error
        known = {agent.id: record.intent_of(request.of_agent(agent.id)) for agent in agents if not agent.is_archived}
    troubles: list[StartAmbiguous | SequentumError] = []
    for intent in [run for run in known.values() if run.run_id is None]:
        try:
            found = yield from find_lost_run(intent, policy, looks=(0.0,))
        except (StartAmbiguous, SequentumError) as error:
            troubles.append(error)
        else:
            if found is not None:
                known[intent.agent_id] = intent.started(found.id)
    # No further look helps where runs can't be told from others, so that is what there is to say.
    troubles.sort(key=lambda error: not isinstance(error, StartAmbiguous))
    return replace(record, runs=known), next(iter(troubles), None)


def stop_space(
    record: SpaceRecord, request: SpaceRequest, over: Collection[int], stop_grace: float, looks: tuple[float, ...]
) -> Procedure[None]:
    """
    Stop the runs of a task that is being killed, those whose start was lost too. No error is raised.

    :param over: agents whose runs need no stop.
    :param looks: seconds before each look for lost runs. What is known is stopped before anything is looked for.
    """
    asked: set[int] = set()
    for pause in looks:
        news = [run for run in _known(record, over) if run.run_id not in asked]
        yield from _ask_to_stop(news)
        asked |= {run.run_id or 0 for run in news}
        if not record.is_in_doubt:
            break
        yield from sleep(pause)
        record, trouble = yield from _look_for_lost(record, request, RunPolicy(), looks=(0.0,))
        if trouble is not None:
            yield from warn(f"Could not find every run of space {record.space_id}: {trouble}")
        yield from remember(replace(record, is_ambiguous=isinstance(trouble, StartAmbiguous)).to_json())
    yield from stop_runs(_known(record, over), stop_grace)
    if record.is_in_doubt:
        yield from warn(
            f"Runs of space {record.space_id} may still be going and costing credits: look at them in Sequentum Cloud."
        )


def _known(record: SpaceRecord, over: Collection[int]) -> list[RunRecord]:
    return [run for agent, run in (record.runs or {}).items() if run.run_id is not None and agent not in over]


def stop_runs(stops: Iterable[RunRecord], stop_grace: float) -> Procedure[list[StopResult]]:
    """Stop many runs: ask all of them first, then wait for each. No error is raised."""
    stops = [stop for stop in stops if stop.run_id is not None]
    yield from _ask_to_stop(stops)
    results = []
    for stop in stops:
        result = yield from stop_run(stop.agent_id, stop.run_id or 0, stop_grace, stop.restart_asked_at)
        results.append(result)
    return results


def _ask_to_stop(stops: Iterable[RunRecord]) -> Procedure[None]:
    from airflow_provider_sequentum.api import runs

    for stop in stops:
        try:
            yield from send(runs.stop(stop.agent_id, stop.run_id or 0))
        except SequentumError as error:
            yield from warn(f"Run {stop.run_id} of agent {stop.agent_id} did not take the stop, asking again: {error}")


def _make_room(records: Iterable[RunRecord], policy: RunPolicy) -> Procedure[None]:
    stops = yield from _still_going(records)
    results = yield from stop_runs(stops, policy.stop_grace)
    going = [stop for stop, result in zip(stops, results, strict=True) if not result.confirmed]
    if going:
        raise StillGoing([stop.agent_id for stop in going], [stop.run_id for stop in going if stop.run_id is not None])


def _with_answer(record: SpaceRecord, request: SpaceRequest, answer: SpaceRun) -> SpaceRecord:
    runs, not_started = {}, {}
    for result in answer.results:
        intent = record.intent_of(request.of_agent(result.agent_id))
        if result.run_id is not None:
            runs[result.agent_id] = intent.started(result.run_id)
        elif result.success:
            runs[result.agent_id] = intent  # started, it says, and does not say as what: to be looked for
        else:
            not_started[result.agent_id] = result.error_message or "the service does not say why"
    return replace(record, runs=runs, not_started=not_started)


def _still_going(records: Iterable[RunRecord]) -> Procedure[list[RunRecord]]:
    from airflow_provider_sequentum.api import runs

    going = []
    for record in records:
        if record.run_id is None:
            continue
        try:
            run = yield from send(runs.status(record.agent_id, record.run_id))
        except SequentumError as error:
            yield from warn(f"Could not look at run {record.run_id} of agent {record.agent_id}: {error}")
            going.append(record)
        else:
            if record.restart_asked_at is not None or not phase_of(run).is_over:
                going.append(record)
    return going
