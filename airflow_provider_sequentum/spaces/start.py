"""Acquiring the runs of all agents of a space.

The service starts them with one request (``run-all``), which is not idempotent either. So the order is the same as for
a single start: save the intent, send the start, save the response. From then on, each agent's run is handled
separately.

If the response to a start was lost, the runs are searched for agent by agent, and nothing is guessed. If one agent has
a run that could belong to the start, this does not prove that the request took effect, because a user or a schedule may
have started it. Only if every agent of the space has such a run is an agent's single candidate its run. If another
program ran the whole space at the same time, this cannot be detected, because the service does not show the inputs of a
run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from airflow_provider_sequentum.api import runs, spaces
from airflow_provider_sequentum.api.errors import SequentumError, UnexpectedResponse
from airflow_provider_sequentum.api.run_status import RunStatus
from airflow_provider_sequentum.exceptions import (
    AgentRunStartAmbiguous,
    AgentRunStillRunning,
    SequentumUnavailable,
    doubt_about,
)
from airflow_provider_sequentum.jobs.port import Port, Sender
from airflow_provider_sequentum.jobs.siblings import Announcement, Claim
from airflow_provider_sequentum.jobs.stop import MAX_REQUEST_SECONDS
from airflow_provider_sequentum.runs import lost_start
from airflow_provider_sequentum.runs.describe import counted, format_time, id_list
from airflow_provider_sequentum.runs.lost_start import ListedRuns, candidates_in, list_since, note_nothing_found
from airflow_provider_sequentum.runs.phases import phase_of
from airflow_provider_sequentum.runs.record import RunRecord
from airflow_provider_sequentum.runs.spend import check_credits, reserve_credits
from airflow_provider_sequentum.runs.start import raise_if_busy, send_start
from airflow_provider_sequentum.runs.stop import stop_runs
from airflow_provider_sequentum.spaces.record import SpaceConfig, SpaceRecord

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.runs import Run
    from airflow_provider_sequentum.jobs.siblings import PlannedStart

MAX_NAMED = 5
"""Maximum number of agents for which an error states why a run may be missing from their lists."""

log = logging.getLogger(__name__)


def acquire_space(port: Port, previous: SpaceRecord | None, new: SpaceRecord) -> tuple[SpaceRecord, bool]:
    """Return the record of the runs that this attempt works with. Start them only if earlier attempts left none.

    What happens to each run of an earlier attempt is decided later, as for a single run.

    :param previous: the record of an earlier attempt.
    :param new: the record of this attempt, for runs that have to be started.
    :return: the record, and whether its runs were just started.
    :raises AgentRunStartAmbiguous: the runs of an earlier start cannot be distinguished from others.
    :raises AgentRunStillRunning: runs to be replaced by new ones could not be stopped.
    :raises CreditsTooLow: fewer credits are left than ``min_credits``.
    :raises CreditLimitReached: the runs of all agents would exceed ``credit_limit``.
    :raises SequentumError: the service refused a request or could not be reached. If it is uncertain whether a start
        took effect, the record shows that.
    """
    # The announcements and claims of an earlier attempt were deleted with its XComs.
    _announce(port, new.config, (previous or new).starts_announced)
    if previous is None:
        return start_space(port, new, None), True
    config, record = new.config, stop_further_runs(port, previous)
    previous, was_cleared = record, record.was_cleared(new.max_tries or 0)
    if record.is_ambiguous and was_cleared:
        # A user who clears the task after this error wants new runs.
        log.warning("The task was cleared after its runs could not be distinguished from others; starting new ones.")
        make_room(port, record, config.stop_grace)
        return start_space(port, new, record), True
    claim_runs(port, record, is_answered=not record.is_in_doubt)
    if record.is_in_doubt:
        log.warning("An earlier attempt may have started runs of space %s. Searching for them.", record.space_id)
        record = _find_runs(port, record, new, was_cleared=was_cleared).without_doubts()
        claim_runs(port, record)
    if not record.runs:
        note_nothing_found(f"No runs of space {record.space_id} were found.", previous)
        return start_space(port, new, previous), True
    if not record.is_same_work(config.fingerprint()) or (was_cleared and config.on_clear == "rerun"):
        log.info("Stopping the active runs of space %s and starting new ones.", record.space_id)
        make_room(port, record, config.stop_grace)
        return start_space(port, new, record), True
    # From here on, the deadlines of this attempt apply. Each run keeps the max_tries that it was started with, because
    # later decisions have to take into account that the task was cleared.
    joined = record.joined_by(new).updated(config=config, ended={}, is_ambiguous=False)
    port.save(joined)
    return joined, False


def start_space(port: Port, new: SpaceRecord, previous: SpaceRecord | None, *, may_repeat: bool = True) -> SpaceRecord:
    """Start all agents: save the intent, send the start, save the runs. Raises the same as :func:`acquire_space`.

    :param new: the record of this attempt.
    :param previous: the record of the runs to replace.
    :param may_repeat: whether this attempt may send another start after one whose response was lost, if
        ``on_ambiguous_start`` is ``start``.
    """
    config = new.config
    if config.min_credits is not None:
        check_credits(port, config.min_credits, new.name)
    made = new.starts or (previous.starts_made if previous is not None else ())
    record = new.updated(starts=_reserve_credits(port, new, made)).replacing(previous)

    def save_intent() -> None:
        nonlocal record
        record = record.updated(requested_at=port.now())
        claim_runs(port, record, is_answered=False)
        port.save(record)

    def discard_intent() -> None:
        port.save(previous)
        claim_runs(port, previous or record, is_answered=not record.may_lack_runs)

    try:
        response = send_start(port, config.start_call(), f"Space {config.space_id}", save_intent, discard_intent).value
    except SequentumError as error:
        if not error.may_have_acted:
            _announce(port, config, made)
            raise_if_busy(error)
            raise
        log.warning(
            "The response to the start was lost, so runs may have been started. Searching for them. (%s)", error
        )
        found = _find_after_lost_response(port, record, new, error)
        if not found.known_runs and config.on_ambiguous_start == "start" and may_repeat:
            return start_space(port, new.updated(starts=record.starts, may_lack_runs=True), found, may_repeat=False)
        if not found.known_runs:
            # The intent is kept: the next attempt searches again, and starts the space if it still finds nothing.
            raise
        record = found
    else:
        record = record.answered(response)
        port.save(record)
        if record.is_in_doubt:
            unnamed = "The service did not name every run that it started."
            log.warning("%s Searching for the others.", unnamed)
            record = _find_after_lost_response(port, record, new, unnamed)
    claim_runs(port, record)
    _announce(port, config, record.starts_announced)
    record = stop_further_runs(port, record)
    started = [run.run_id or 0 for run in record.known_runs.values()]
    log.info("Started %s of space %s: runs %s.", counted(len(started), "agent"), config.space_id, id_list(started))
    return record


def _find_after_lost_response(
    port: Port, record: SpaceRecord, new: SpaceRecord, lost: SequentumError | str
) -> SpaceRecord:
    try:
        return _find_runs(port, record, new)
    except SequentumError as error:
        # The error to report is the lost response; the failed search is only the reason why its result is unknown.
        raise SequentumUnavailable(
            f"{lost} The runs of the agents could not be listed to find out: {error} "
            f"{doubt_about(f'Runs of space {new.space_id}', 'them')}"
        ) from error


def _reserve_credits(port: Port, new: SpaceRecord, before: tuple[PlannedStart, ...]) -> tuple[PlannedStart, ...]:
    """Return the starts of the space's agents, if the credit limit allows all of them; see :func:`.reserve_credits`."""
    config = new.config
    if config.credit_limit is None:
        return before
    agents = port.send(spaces.list_agents(config.space_id))
    if unread := max(agents.unreadable, (agents.total_record_count or 0) - len(agents)):
        raise SequentumUnavailable(
            f"{counted(unread, 'agent')} of space {config.space_id} could not be read, so the cost of a start is "
            "unknown. Nothing was started."
        )
    ids = sorted({agent.id for agent in agents if not agent.is_archived})
    return reserve_credits(port, config, ids, new.name, before) if ids else before


def _announce(port: Port, config: SpaceConfig, starts: tuple[PlannedStart, ...]) -> None:
    """Tell the other tasks of the DAG run which starts this task has made."""
    if config.credit_limit is not None:
        port.announce(Announcement(starts=starts))


def stop_further_runs(port: Port, record: SpaceRecord) -> SpaceRecord:
    """Stop the additional runs of agents that the service says it has started; return the record without them.

    If it cannot be confirmed that a run has ended, it stays in the record: the owner or the next attempt stops it.
    """
    further = record.further_runs
    if not further:
        return record
    ids, agents = [run.run_id or 0 for run in further], sorted(record.further)
    log.warning(
        "The service says that it started several runs of agents %s. The task uses one of each; stopping runs %s.",
        id_list(agents),
        id_list(ids),
    )
    results = stop_runs(port, further, record.config.stop_grace)
    ended = {run.run_id or 0 for run, result in zip(further, results, strict=True) if result.confirmed}
    record = record.without_further(ended)
    port.save(record)
    return record


def claim_runs(port: Port, record: SpaceRecord, *, further: Sequence[int] = (), is_answered: bool = True) -> None:
    """Tell the mapped siblings, which may run the same agents, which runs belong to this task.

    :param further: runs that are not in the record yet.
    :param is_answered: whether each start of this task has a response.
    """
    ids = {run_id for its_runs in record.all_runs.values() for run_id in its_runs} | {*further}
    has_lost_run = record.may_lack_runs or any(run.may_lack_runs for run in (record.runs or {}).values())
    port.claim(Claim(run_ids=tuple(sorted(ids)), is_answered=is_answered, has_lost_run=has_lost_run))


def _find_runs(port: Port, record: SpaceRecord, new: SpaceRecord, *, was_cleared: bool = False) -> SpaceRecord:
    """Search for the runs that a start without a response may have started, and save those that were found.

    An agent without a run keeps the intent, so that the next attempt searches again before it starts the agent.

    :param record: what is known about the runs.
    :param new: the record of this attempt.
    :param was_cleared: whether the task was cleared since. Then the search omits agents whose run could not be
        distinguished from others, because the user knows of them.
    :raises AgentRunStartAmbiguous: runs cannot be distinguished from others, and ``on_ambiguous_start`` is ``fail``.
    :raises SequentumError: the service could not be reached at the last attempt of the search.
    """
    if was_cleared and record.runs is not None:
        record = record.without_ambiguous_runs()
    search = SpaceSearch(record)
    search.look_until_known(port)
    found, doubtful, policy = search.certain, search.doubtful, new.config.on_ambiguous_start
    if doubtful and policy == "adopt":
        found |= {agent: max(several, key=lambda run: run.id) for agent, several in doubtful.items() if several}
    for agent_id, run in found.items():
        log.warning(
            "Adopting run %s of agent %s, created at %s, as the one whose start response was lost.",
            run.id,
            agent_id,
            format_time(run.created),
        )
    if found or record.runs is not None:
        started = {agent: search.agents[agent].started(run.id) for agent, run in found.items()}
        record = search.record.updated(runs={**search.agents, **started})
    if doubtful and (policy == "fail" or (policy == "adopt" and not all(doubtful.values()))):
        port.save(record.updated(is_ambiguous=True, max_tries=new.max_tries))
        raise AgentRunStartAmbiguous(
            f"{search.describe_doubt()} None was adopted and none was started. Check them in Sequentum Cloud, stop "
            "those you do not want, then clear the task to start new runs; or set on_ambiguous_start='adopt' or "
            "'start'."
        )
    if doubtful and policy == "start":
        log.warning("%s New ones are started anyway.", search.describe_doubt())
        record = record.updated(may_lack_runs=True)
    port.save(record)
    return record


class SpaceSearch:
    """The search for the runs that a start without a response may have started.

    :param record: what is known about the runs.
    """

    def __init__(self, record: SpaceRecord) -> None:
        self.record = record
        """The record. It has an intent for every agent of which a run is expected, once these agents are known."""
        self.certain: dict[int, Run] = {}
        """The runs that certainly belong to the start, by agent."""
        self.doubtful: dict[int, list[Run]] = {}
        """The runs that may belong to the start or not, by agent; empty if an agent's run may be hidden."""
        self._is_confirmed = record.runs is not None or record.is_guess
        self._lists: dict[int, ListedRuns] = {}
        self._missing: list[int] = []
        self._doubts: dict[int, str] = {}
        self._unanswered = self._unlisted = 0

    @property
    def agents(self) -> dict[int, RunRecord]:
        """The agents and their records."""
        return self.record.runs or {}

    def look_until_known(self, port: Port, *, is_killed: bool = False) -> None:
        """Search until every agent has a run, and longer if it may become clear which task the runs belong to.

        :param is_killed: whether the task is being killed, so that only seconds are left.
        :raises SequentumError: the service could not be reached at the last attempt.
        """
        delays: tuple[float, ...] = lost_start.LOOKUP_DELAYS_IF_KILLED if is_killed else lost_start.LOOKUP_DELAYS
        further = () if is_killed else lost_start.SIBLING_DELAYS
        for number, delay in enumerate((*delays, *further), 1):
            if number > len(delays) and not (self.doubtful and (self._unanswered or self._is_unproven)):
                break
            port.sleep(delay)
            try:
                self._look(port)
            except SequentumError:
                if number >= len(delays):
                    raise
                continue
            if not self._missing and not self._unanswered:
                break

    @property
    def _is_unproven(self) -> bool:
        """Whether nothing shows that the start took effect."""
        return not self._is_confirmed and bool(self._missing or self._unlisted)

    def _look(self, port: Port) -> None:
        """List the runs of each agent without a known run. The first error ends this, because others would follow."""
        if self.record.runs is None or self.record.is_incomplete:
            self._expect_all_agents(port)
        lost = [agent for agent, record in self.agents.items() if record.run_id is None]
        for agent in lost:
            if agent not in {*self.certain, *self.doubtful} or agent in self._doubts:
                self._lists[agent] = list_since(port, self.agents[agent])
        # A sibling claims its run a moment after it started it, so the claims are read after the lists.
        claims = port.claims()
        self._unanswered = sum(not claim.is_answered for claim in claims)
        found = {agent: candidates_in(listed, self.agents[agent], claims) for agent, listed in self._lists.items()}
        self._doubts = {agent: each.doubt for agent, each in found.items() if each.doubt}
        self._missing = [agent for agent in lost if not found[agent].newer]
        is_clear = not (self._is_unproven or self._unanswered)
        self.certain = {
            agent: each.newer[0]
            for agent, each in found.items()
            if is_clear and len(each.newer) == 1 and not each.doubt
        }
        self.doubtful = {
            agent: each.all for agent, each in found.items() if (each.all or each.doubt) and agent not in self.certain
        }

    def _expect_all_agents(self, port: Port) -> None:
        """Expect a run of every agent of the space, because the service did not state which ones it started."""
        call = spaces.list_agents(self.record.space_id)
        agents = port.send(call)
        named = self.agents.keys() | self.record.not_started.keys()
        if not (agents or named or self.record.is_guess):
            # With an empty list, nothing would count as started, and the start would be repeated.
            raise call.error(UnexpectedResponse, "it lists no agent, but the response to the start did not say so")
        if self.record.is_incomplete and agents.left_out:
            log.warning(
                "%s of space %s cannot be read, neither in the list of agents nor in the response to the start. %s",
                counted(agents.left_out, "agent"),
                self.record.space_id,
                doubt_about("Runs of them", "them"),
            )
        unnamed = (agent.id for agent in agents if not agent.is_archived and agent.id not in named)
        self._unlisted = agents.left_out
        intents = {agent_id: self.record.intent_of(agent_id) for agent_id in unnamed}
        self.record = self.record.updated(runs={**self.agents, **intents}, is_incomplete=False)

    def describe_doubt(self) -> str:
        """Return what was found and why it is not conclusive."""
        ids = sorted(run.id for found in self.doubtful.values() for run in found)
        lost = f"A start of space {self.record.space_id} was sent and its response was lost."
        found = f"Runs {id_list(ids)} of agents {id_list(sorted(self.doubtful))} may belong to it, or not."
        sentences = [lost, found, *list(self._doubts.values())[:MAX_NAMED]]
        if self._is_unproven:
            missing = f"Agents {id_list(self._missing)} have no such run" if self._missing else ""
            unread = f"{counted(self._unlisted, 'agent')} could not be read" if self._unlisted else ""
            sentences.append(f"{' and '.join(filter(None, (missing, unread)))}, so it may never have taken effect.")
        if self._unanswered:
            sentences.append(f"Starts of {counted(self._unanswered, 'mapped sibling')} have no response either.")
        return " ".join(sentences)


def find_runs_to_stop(port: Port, record: SpaceRecord, *, is_killed: bool) -> tuple[list[RunRecord], str]:
    """Return the runs that a start without a response has certainly started, and a sentence about others that it may
    have started; empty if there are none.

    :param is_killed: whether the task is being killed, so that only seconds are left.
    """
    search = SpaceSearch(record)
    in_doubt = doubt_about(f"Runs of space {record.space_id}", "them")
    try:
        search.look_until_known(port, is_killed=is_killed)
    except SequentumError as error:
        return [], f"{in_doubt} ({error})"
    found = [search.agents[agent].started(run.id) for agent, run in search.certain.items()]
    return found, f"{in_doubt} {search.describe_doubt()}" if search.doubtful else ""


def stop_stopping_runs(
    port: Sender, records: Mapping[int, RunRecord], seen: dict[int, Run | SequentumError | None], stop_grace: float
) -> dict[int, AgentRunStillRunning]:
    """Wait for the end of all runs that are already being stopped, and update ``seen``.

    :return: the errors for runs whose end could not be confirmed.
    """
    stopping = [agent for agent, run in seen.items() if getattr(run, "status", None) is RunStatus.STOPPING]
    errors = {}
    results = stop_runs(port, [records[agent] for agent in stopping], stop_grace)
    for agent, result in zip(stopping, results, strict=True):
        if result.confirmed:
            seen[agent] = result.seen
        else:
            errors[agent] = still_running([records[agent]])
    return errors


def make_room(port: Sender, record: SpaceRecord, stop_grace: float) -> None:
    """Stop all runs that are still active.

    :raises AgentRunStillRunning: the end of some runs could not be confirmed.
    """
    active = _active_runs(port, list(record.known_runs.values()))
    results = stop_runs(port, active, stop_grace)
    left = [run for run, result in zip(active, results, strict=True) if not result.confirmed]
    if left:
        raise still_running(left)


def still_running(records: Sequence[RunRecord]) -> AgentRunStillRunning:
    """Return the error for runs to be replaced that could not be stopped."""
    runs, agents = [record.run_id or 0 for record in records], [record.agent_id for record in records]
    return AgentRunStillRunning(
        f"Runs {id_list(runs)} of agents {id_list(agents)} should be replaced, but it could not be confirmed that they "
        f"have stopped, so nothing was started. {doubt_about('They', 'them')} A retry stops them again.",
        agent_id=agents[0] if len(agents) == 1 else None,
        run_id=runs[0] if len(runs) == 1 else None,
    )


def _active_runs(port: Sender, records: Sequence[RunRecord]) -> list[RunRecord]:
    """Return the runs that are not known to have ended. If the service is down, the remaining runs are not polled."""
    active: list[RunRecord] = []
    for number, record in enumerate(records):
        try:
            run = port.send(runs.status(record.agent_id, record.run_id or 0), within=MAX_REQUEST_SECONDS)
        except SequentumError as error:
            log.warning("Could not check run %s of agent %s: %s", record.run_id, record.agent_id, error)
            if error.transient:
                return [*active, *records[number:]]
            active.append(record)
        else:
            if record.restart_asked_at is not None or not phase_of(run).is_over:
                active.append(record)
    return active
