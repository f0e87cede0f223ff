"""Pausing the schedules of an agent in the service, and resuming exactly those.

A task must not resume a schedule that a user paused. So each schedule is recorded before it is paused: a task that dies
between any two requests leaves a record of all schedules that it paused. Only the last one in the record may not be
paused yet.

Based on https://docs.sequentum.com/concepts/schedules.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator

from airflow_provider_sequentum.api import schedules
from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.exceptions import SequentumUnavailable
from airflow_provider_sequentum.jobs.record import Configuration, Id, Stored, Text
from airflow_provider_sequentum.jobs.stop import MAX_REQUEST_SECONDS
from airflow_provider_sequentum.parameters import parse_id, plain, shown
from airflow_provider_sequentum.runs.describe import counted

if TYPE_CHECKING:
    from airflow_provider_sequentum.api import Call
    from airflow_provider_sequentum.api.schedules import Schedule
    from airflow_provider_sequentum.jobs.port import Port, Sender

RETURN_VALUE_KEY = "return_value"
"""The XCom of a task's return value. The task pushes it before it has succeeded, too."""

log = logging.getLogger(__name__)


def _parse_ids(value: object) -> list[int]:
    """Return ids given as a list, also the lazy one of an upstream task, or as JSON text."""
    try:
        ids = plain(json.loads(value) if isinstance(value, str) else value)
        return [parse_id(number) for number in (ids if isinstance(ids, list) else [None])]
    except (TypeError, ValueError):
        raise ValueError(f"must be a list of ids, not {shown(value)}") from None


class SchedulesConfig(Configuration):
    """The parameters of the operators that pause and resume the schedules of an agent.

    :param schedule_ids: the schedules to resume.
    """

    sequentum_conn_id: Text = "sequentum_default"
    agent_id: Id
    schedule_ids: Annotated[tuple[int, ...], BeforeValidator(_parse_ids)] = ()


class PausedSchedules(Stored):
    """The schedules that a task paused.

    :param agent_id: the agent.
    :param max_tries: the task instance's ``max_tries``, which identifies the logical attempt: Airflow increases it when
        the task is cleared.
    :param paused: the schedules by id, with the service's time of the change; ``None`` if the task died before it read
        that time.
    """

    agent_id: int
    max_tries: int = 0
    paused: Mapping[int, datetime | None] = {}

    @property
    def ids(self) -> list[int]:
        """The ids of the schedules."""
        return sorted(self.paused)


class ResumedSchedules(Stored):
    """The schedules that a task resumed. A cleared task resumes them again.

    :param agent_id: the agent.
    :param max_tries: as in :class:`PausedSchedules`.
    :param resumed: the ids of the schedules.
    """

    agent_id: int
    max_tries: int = 0
    resumed: tuple[int, ...] = ()


def still_paused(
    previous: PausedSchedules, listed: Sequence[Schedule], *, was_cleared: bool
) -> dict[int, datetime | None]:
    """Return the schedules that an earlier attempt paused and that are still to be resumed.

    :param was_cleared: whether the task has been cleared since. Then the task that resumes them may have run, and a
        user may have paused one of them afterwards: a schedule that was changed since this task paused it is left to
        the user.
    """
    # A schedule that does not state whether it is enabled may be paused.
    found = {schedule.id: schedule for schedule in listed if schedule.is_enabled is not True}
    return {
        number: changed
        for number, changed in previous.paused.items()
        if number in found and (not was_cleared or changed in (None, found[number].updated))
    }


def pause_schedules(port: Port, agent_id: int, previous: PausedSchedules | None, max_tries: int) -> list[int]:
    """Pause the agent's enabled schedules, and return the ids of all schedules that the task has paused.

    :param port: saves the record before each change.
    :param previous: the record of an earlier attempt.
    :param max_tries: the task instance's ``max_tries``.
    :raises SequentumUnavailable: the service does not show a schedule as paused after it was paused.
    :raises SequentumError: the service refused a request or could not be reached. The record shows what was paused.
    """
    record = PausedSchedules(agent_id=agent_id, max_tries=max_tries)
    was_cleared = previous is not None and previous.max_tries != max_tries
    if previous is not None and previous.agent_id != agent_id:
        log.warning(
            "An earlier attempt of this task paused schedules of agent %s. Those of %s that are paused stay paused.",
            previous.agent_id,
            previous.ids,
        )
        previous = None
    if previous is not None and not was_cleared:
        # Airflow has deleted the XCom of the earlier attempt, and listing the schedules may fail.
        _announce(port, previous)
    try:
        listed = list_all_schedules(port, agent_id)
    except (SequentumError, SequentumUnavailable):
        if previous is not None and was_cleared and previous.ids:
            log.warning(
                "Schedules %s of agent %s were paused by this task before it was cleared. They may still be paused, "
                "and no task will resume them: check them in Sequentum Cloud.",
                previous.ids,
                agent_id,
            )
        raise
    if previous is not None:
        record = record.updated(paused=still_paused(previous, listed, was_cleared=was_cleared))
        _announce(port, record)
    record = _pause_enabled(port, record, listed)
    port.save(record)
    log.info("Paused %s of agent %s: %s.", counted(len(record.ids), "schedule"), agent_id, record.ids)
    return record.ids


def _pause_enabled(port: Port, record: PausedSchedules, listed: Sequence[Schedule]) -> PausedSchedules:
    """Pause the enabled schedules, and return the record once the service shows them as paused."""
    agent_id = record.agent_id
    for schedule in listed:
        # If a schedule does not state whether it is enabled, it would be unknown whether to resume it.
        if schedule.is_enabled is not True:
            continue
        record = record.updated(paused={**record.paused, schedule.id: None})
        port.save(record)
        _announce(port, record)
        log.info("Pausing schedule %s of agent %s.", describe_schedule(schedule), agent_id)
        _switch(port, schedules.disable, agent_id, schedule.id)
    if record.paused:
        after = {schedule.id: schedule for schedule in list_all_schedules(port, agent_id)}
        if wrong := _not_switched(after, record.ids, is_enabled=False):
            raise _unconfirmed(wrong, "paused")
        record = record.updated(paused={n: after[n].updated for n in record.ids if n in after})
    return record


def resume_schedules(
    port: Port, agent_id: int, ids: Collection[int], previous: ResumedSchedules | None, max_tries: int
) -> list[int]:
    """Resume schedules, and return the ids of all schedules that the task has resumed.

    Schedules that an earlier attempt resumed are skipped, because a user may have paused them since. If one cannot be
    resumed, the others still are.

    :param port: saves the record after each change.
    :param ids: the schedules that were paused.
    :param previous: the record of an earlier attempt.
    :param max_tries: the task instance's ``max_tries``.
    :raises SequentumUnavailable: the service still shows a schedule as paused after it was resumed.
    :raises SequentumError: the service refused a request or could not be reached. The record shows what was resumed.
    """
    record = ResumedSchedules(agent_id=agent_id, max_tries=max_tries)
    if previous is not None and (previous.agent_id, previous.max_tries) == (agent_id, max_tries):
        record = previous
    fresh = sorted(set(ids) - set(record.resumed))
    problems: dict[int, SequentumError] = {}
    for number in fresh:
        log.info("Resuming schedule %s of agent %s.", number, agent_id)
        try:
            # If the service is down, the remaining requests do not all wait for a response.
            is_known = _switch(port, schedules.enable, agent_id, number, MAX_REQUEST_SECONDS if problems else None)
        except SequentumError as error:
            problems[number] = error
            continue
        if is_known:
            record = record.updated(resumed=(*record.resumed, number))
            port.save(record)
    if problems:
        log.warning("Schedules %s of agent %s are still paused, as far as is known.", sorted(problems), agent_id)
        raise next(iter(problems.values()))
    if fresh:
        after = {schedule.id: schedule for schedule in list_all_schedules(port, agent_id)}
        if wrong := _not_switched(after, fresh, is_enabled=True):
            port.save(record.updated(resumed=tuple(n for n in record.resumed if n not in wrong)))
            raise _unconfirmed(wrong, "resumed")
    log.info("Resumed %s of agent %s: %s.", counted(len(fresh), "schedule"), agent_id, fresh)
    return sorted(set(ids))


def describe_schedule(schedule: Schedule) -> str:
    """Return the name of a schedule in messages."""
    name = f" ({schedule.name!r})" if schedule.name else ""
    return f"{schedule.id}{name}"


def _announce(port: Port, record: PausedSchedules) -> None:
    """Push the ids for the task that resumes the schedules, which runs even if this one fails."""
    port.push(RETURN_VALUE_KEY, record.ids)


def _switch(
    port: Sender,
    switch: Callable[[int, int], Call[None]],
    agent_id: int,
    schedule_id: int,
    within: float | None = None,
) -> bool:
    """Pause or resume a schedule; return whether the service knows it. The list shows whether it was deleted."""
    try:
        port.send(switch(agent_id, schedule_id), within=within)
    except SequentumError as error:
        if error.status_code != 404:
            raise
        log.warning("The service does not know schedule %s of agent %s.", schedule_id, agent_id)
        return False
    return True


def list_all_schedules(port: Sender, agent_id: int) -> Sequence[Schedule]:
    """Return the schedules of an agent.

    :raises SequentumUnavailable: some of them cannot be read.
    """
    listed = port.send(schedules.list_schedules(agent_id))
    if listed.left_out:
        raise SequentumUnavailable(
            f"{counted(listed.left_out, 'schedule')} of agent {agent_id} cannot be read, so the agent's schedules "
            "can be neither paused nor resumed. Check them in Sequentum Cloud."
        )
    return listed


def _not_switched(after: Mapping[int, Schedule], ids: Collection[int], *, is_enabled: bool) -> list[int]:
    """Return the schedules that exist but do not have the requested state: an accepted request proves nothing."""
    return [number for number in ids if number in after and after[number].is_enabled is not is_enabled]


def _unconfirmed(ids: list[int], what: str) -> SequentumUnavailable:
    return SequentumUnavailable(
        f"Schedules {ids} were {what}, but the service does not show that. A retry sends the requests again; or check "
        "them in Sequentum Cloud."
    )
