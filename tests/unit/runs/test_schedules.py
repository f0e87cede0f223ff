from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest

from airflow_provider_sequentum.api.call import Call, Reply, Response
from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.api.pipeline import read_response
from airflow_provider_sequentum.api.schedules import Schedule
from airflow_provider_sequentum.exceptions import SequentumUnavailable
from airflow_provider_sequentum.runs.schedules import (
    PausedSchedules,
    ResumedSchedules,
    pause_schedules,
    resume_schedules,
    still_paused,
)
from tests.support import service as fakes
from tests.support.service import START, Clock
from tests.support.worker import Killed, Worker

T = TypeVar("T")

LATER = START + timedelta(hours=1)


@dataclass
class FakeSchedules:
    """The schedules of agent 7: whether each is enabled, and when it was changed."""

    enabled: dict[int, bool]
    clock: Clock = field(default_factory=Clock)
    changed: dict[int, datetime] = field(default_factory=dict)
    ignores: set[int] = field(default_factory=set)
    unreadable: list[Any] = field(default_factory=list)
    stated: int | None = None
    """How many schedules there are, by the service's own word."""
    refuses: set[int] = field(default_factory=set)
    hides_once: set[int] = field(default_factory=set)
    """Schedules to whose next switch the service answers 404, although they are there."""
    silent: set[int] = field(default_factory=set)
    """Schedules that do not state whether they are enabled."""

    def exchange(self, call: Call[T]) -> Reply[T]:
        self.clock.sleep(1)
        names = call.path.strip("/").split("/")
        assert names[:3] == ["agent", "7", "schedules"]
        if call.method == "GET":
            listed = [
                {
                    "id": number,
                    "configId": 7,
                    "isEnabled": None if number in self.silent else on,
                    "updated": self.changed.get(number, START).isoformat(),
                }
                for number, on in self.enabled.items()
            ]
            body: Any = [*listed, *self.unreadable]
            if self.stated is not None:
                body = {"items": body, "totalRecordCount": self.stated}
            return Reply(read_response(call, Response(200, {}, json.dumps(body).encode())))
        number, verb = int(names[3]), names[4]
        if number in self.refuses:
            raise fakes.unauthorized(call)
        if number not in self.enabled or number in self.hides_once:
            self.hides_once.discard(number)
            raise fakes.not_found(call)
        if number not in self.ignores:
            self.enabled[number] = verb == "enable"
            self.changed[number] = self.clock.now
        return Reply(read_response(call, Response(204, {}, b"")))


@pytest.fixture
def service() -> FakeSchedules:
    return FakeSchedules({1: True, 2: False, 3: True})


@pytest.fixture
def worker(service: FakeSchedules) -> Worker:
    return Worker(service)


def pause(worker: Worker, max_tries: int = 0) -> list[int]:
    previous = None if worker.saved is None else PausedSchedules.from_json(worker.saved)
    return pause_schedules(worker, 7, previous, max_tries)


def resume(worker: Worker, ids: list[int], max_tries: int = 0) -> list[int]:
    previous = None if worker.saved is None else ResumedSchedules.from_json(worker.saved)
    return resume_schedules(worker, 7, ids, previous, max_tries)


def schedule(number: int, *, is_enabled: bool | None, updated: datetime | None = START) -> Schedule:
    return Schedule(id=number, is_enabled=is_enabled, updated=updated)


def record(**paused: datetime | None) -> PausedSchedules:
    return PausedSchedules(agent_id=7, paused={int(name[1:]): at for name, at in paused.items()})


@pytest.mark.parametrize("steps", range(12))
def test_a_kill_before_any_step_of_the_pause(service: FakeSchedules, steps: int) -> None:
    dying = Worker(service, steps_left=steps)
    try:
        pause(dying)
    except Killed:
        paused = {number for number in (1, 3) if not service.enabled[number]}
        assert paused <= set(dying.pushed.get("return_value", []))
    next_worker = Worker(service, kept=dying.kept)
    assert pause(next_worker) == [1, 3]
    assert next_worker.pushed["return_value"] == [1, 3]
    assert not any(service.enabled.values())


@pytest.mark.parametrize("steps", range(7))
def test_a_kill_before_any_step_of_the_resumption(service: FakeSchedules, steps: int) -> None:
    service.enabled = {1: False, 2: False, 3: False}
    dying = Worker(service, steps_left=steps)
    try:
        resume(dying, [1, 3])
    except Killed:
        assert steps < 5
    assert resume(Worker(service, kept=dying.kept), [1, 3]) == [1, 3]
    assert service.enabled == {1: True, 2: False, 3: True}


@pytest.mark.parametrize(
    ("kept", "listed", "was_cleared", "expected"),
    [
        (record(s1=START), schedule(1, is_enabled=False), False, {1: START}),
        (record(s1=None), schedule(1, is_enabled=False), False, {1: None}),
        (record(s1=START), schedule(1, is_enabled=True), False, {}),
        (record(s1=START), schedule(1, is_enabled=None), False, {1: START}),
        (record(s1=START), schedule(1, is_enabled=None, updated=LATER), True, {}),
        (record(s1=START), schedule(2, is_enabled=False), False, {}),
        (record(s1=START), schedule(1, is_enabled=False, updated=LATER), False, {1: START}),
        (record(s1=START), schedule(1, is_enabled=False, updated=LATER), True, {}),
        (record(s1=START), schedule(1, is_enabled=False), True, {1: START}),
        (record(s1=None), schedule(1, is_enabled=False, updated=LATER), True, {1: None}),
    ],
)
def test_what_is_still_the_tasks(
    kept: PausedSchedules, listed: Schedule, was_cleared: bool, expected: dict[int, datetime | None]
) -> None:
    assert still_paused(kept, [listed], was_cleared=was_cleared) == expected


def test_what_was_paused_is_recorded_before_it_is(service: FakeSchedules, worker: Worker) -> None:
    service.refuses = {3}
    with pytest.raises(SequentumError):
        pause(worker)
    assert PausedSchedules.from_json(worker.saved).ids == [1, 3]
    assert worker.pushed["return_value"] == [1, 3]


def test_a_schedule_that_is_deleted_while_it_is_paused_is_not_returned(service: FakeSchedules) -> None:
    class Deleting(Worker):
        def save(self, kept: Any) -> None:
            super().save(kept)
            if 3 in kept.paused:
                service.enabled.pop(3, None)

    assert pause(Deleting(service)) == [1]


@pytest.mark.parametrize("act", [pause, lambda worker: resume(worker, [1, 2])], ids=["pause", "resume"])
def test_a_request_that_is_accepted_and_has_no_effect(service: FakeSchedules, worker: Worker, act: Any) -> None:
    service.ignores = {1, 2}
    with pytest.raises(SequentumUnavailable, match=r"Schedules \[(1|2)\]"):
        act(worker)
    service.ignores = set()
    act(worker)
    assert service.enabled[1] is (act is not pause)


@pytest.mark.parametrize("hidden", [{1}, {1, 3}])
def test_a_404_that_passes_is_no_deleted_schedule(service: FakeSchedules, worker: Worker, hidden: set[int]) -> None:
    service.hides_once = set(hidden)
    with pytest.raises(SequentumUnavailable, match=rf"Schedules \[{', '.join(map(str, sorted(hidden)))}\]"):
        pause(worker)
    assert pause(worker) == [1, 3]
    assert not any(service.enabled.values())


@pytest.mark.parametrize("refused", [{1}, {2}, {1, 2}])
def test_a_schedule_that_cannot_be_resumed_is_in_no_other_s_way(
    service: FakeSchedules, worker: Worker, refused: set[int]
) -> None:
    service.enabled = {1: False, 2: False, 3: False}
    service.refuses = set(refused)
    with pytest.raises(SequentumError) as caught:
        resume(worker, [1, 2, 3])
    assert service.enabled == {number: number not in refused for number in (1, 2, 3)}
    assert f"Schedules {sorted(refused)} of agent 7 are still paused" in " ".join(worker.warned)
    assert caught.value.status_code == 401
    service.refuses = set()
    service.enabled[3] = False  # by a user, who is not overruled
    assert resume(worker, [1, 2, 3]) == [1, 2, 3]
    assert service.enabled == {1: True, 2: True, 3: False}


def test_a_404_to_a_resumption_is_looked_into_by_the_retry(service: FakeSchedules, worker: Worker) -> None:
    service.enabled = {1: False, 2: False, 3: False}
    service.hides_once, service.refuses = {1}, {2}
    with pytest.raises(SequentumError):
        resume(worker, [1, 2, 3])
    service.refuses = set()
    assert resume(worker, [1, 2, 3]) == [1, 2, 3]
    assert all(service.enabled.values())


def test_what_was_paused_before_a_clear_is_said_when_the_list_does_not_come(
    service: FakeSchedules, worker: Worker
) -> None:
    pause(worker)
    service.stated = 9
    with pytest.raises(SequentumUnavailable):
        pause(worker, max_tries=1)
    assert any("Schedules [1, 3] of agent 7 were paused by this task" in line for line in worker.warned)


def test_a_schedule_that_no_longer_states_whether_it_is_enabled_is_still_the_tasks(
    service: FakeSchedules, worker: Worker
) -> None:
    pause(worker)
    service.silent = {3}
    with pytest.raises(SequentumUnavailable, match=r"Schedules \[3\]"):
        pause(worker)
    assert worker.pushed["return_value"] == [1, 3]


def test_a_schedule_that_cannot_be_read_is_not_passed_over(service: FakeSchedules, worker: Worker) -> None:
    service.unreadable = [{"id": "?"}]
    with pytest.raises(SequentumUnavailable, match="1 schedule of agent 7 cannot be read"):
        pause(worker)
    assert service.enabled == {1: True, 2: False, 3: True}


def test_schedules_that_are_not_in_the_list_are_not_passed_over(service: FakeSchedules, worker: Worker) -> None:
    service.stated = 5
    with pytest.raises(SequentumUnavailable, match="2 schedules of agent 7 cannot be read"):
        pause(worker)
    assert service.enabled == {1: True, 2: False, 3: True}


def test_the_record_of_another_agent_is_said_and_left(service: FakeSchedules, worker: Worker) -> None:
    worker.kept.append(PausedSchedules(agent_id=8, paused={5: None}).to_json())
    assert pause(worker) == [1, 3]
    assert any("agent 8" in line and "[5]" in line for line in worker.warned)


def test_a_record_of_another_version_is_read() -> None:
    stored = {"format": 2, "agent_id": 7, "paused": {"1": None, "3": "2026-11-22T09:00:00Z"}, "later": True}
    read = PausedSchedules.from_json(stored)
    assert read.paused == {1: None, 3: datetime(2026, 11, 22, 9, tzinfo=UTC)}
    assert PausedSchedules.from_json(json.loads(json.dumps(read.to_json()))) == read
