from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest

from airflow_provider_sequentum.api.call import Call, Reply, Response
from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.api.pipeline import read_response
from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.exceptions import AgentVersionChanged, SequentumRequestRefused, SequentumUnavailable
from airflow_provider_sequentum.runs.record import RunConfig
from airflow_provider_sequentum.runs.restore import restore_version
from airflow_provider_sequentum.runs.versions import check_active_version, check_version_of_run
from tests.support import service as fakes
from tests.support.service import START, Clock, ErrorOf
from tests.support.worker import Killed, Worker

T = TypeVar("T")

MARK = "(Airflow task restore, 0123)"


@dataclass
class FakeVersions:
    """The versions of agent 7 with who saved them and why; the last one is active unless another is."""

    versions: dict[int, tuple[str | None, str | None]]
    active: int | None = None
    clock: Clock = field(default_factory=Clock)
    keeps_comments: bool = True
    creates: bool = True
    lost: ErrorOf | None = None
    hides_history: bool = False
    unreadable: tuple[int, ...] = ()
    restored: list[int] = field(default_factory=list)

    def exchange(self, call: Call[T]) -> Reply[T]:
        verb = call.path.rsplit("/", 1)[-1]
        if verb == "versions":
            if self.hides_history:
                raise fakes.unauthorized(call)
            body: Any = [
                {"version": number, "userName": who, "comments": why, "created": START.isoformat()}
                for number, (who, why) in self.versions.items()
            ]
            body = [{**each, "version": None} if each["version"] in self.unreadable else each for each in body]
        elif verb == "restore":
            body = None
            self._restore(int(call.path.split("/")[4]), dict(call.body or {})["content"])
            if self.lost is not None:
                raise self.lost(call)
        else:
            body = {"id": 7, "version": self.active}
        return Reply(read_response(call, Response(200, {}, b"" if body is None else json.dumps(body).encode())))

    def _restore(self, number: int, reason: str) -> None:
        self.restored.append(number)
        if self.creates:
            self.active = max(self.versions) + 1
            self.versions[self.active] = ("airflow", reason if self.keeps_comments else None)


@pytest.fixture
def service() -> FakeVersions:
    return FakeVersions({11: ("ann", None), 12: ("ann", "new site"), 13: ("bob", "faster")}, active=13)


@pytest.fixture
def worker(service: FakeVersions) -> Worker:
    return Worker(service)


def config(expected: Any, pinned: int | None = None) -> RunConfig:
    return RunConfig(agent_id=7, expected_version=expected, pinned_version=pinned)


def run(version: int | None) -> Run:
    return Run(id=5, config_id=7, config_version=version)


# Checking


@pytest.mark.parametrize("asked", [config(None), config(13), config("13"), config("pinned"), config("pinned", 13)])
def test_the_expected_version(worker: Worker, asked: RunConfig) -> None:
    check_active_version(worker, asked)
    check_version_of_run(worker, asked, run(13))


def test_nothing_is_asked_where_nothing_is_expected(worker: Worker) -> None:
    check_active_version(worker, config(None))
    check_active_version(worker, config("pinned"))
    check_version_of_run(worker, config(None), run(99))
    assert worker.sent == []


@pytest.mark.parametrize(("asked", "shown"), [(config(11), "11"), (config("pinned", 11), "'pinned'")])
def test_another_version_before_the_start(worker: Worker, asked: RunConfig, shown: str) -> None:
    with pytest.raises(AgentVersionChanged) as caught:
        check_active_version(worker, asked)
    message = str(caught.value)
    assert message.startswith(
        f"Agent 7 has version 13, not version 11 (expected_version={shown}). Nothing was started."
    )
    assert "Version 13 was saved by bob at 2026-11-22" in message
    assert "with the comment 'faster'" in message
    assert "Version 12 was saved by ann" in message
    assert "Version 11 was saved" not in message
    assert "expected_version=13" in message
    assert caught.value.agent_id == 7


def test_another_version_of_the_run(worker: Worker) -> None:
    with pytest.raises(AgentVersionChanged, match="Run 5 of agent 7 has version 13, not version 12") as caught:
        check_version_of_run(worker, config(12), run(13))
    assert (caught.value.agent_id, caught.value.run_id) == (7, 5)


def test_an_older_version_than_expected_is_named(service: FakeVersions, worker: Worker) -> None:
    service.active = 12
    with pytest.raises(AgentVersionChanged, match=r"has version 12, not version 13 .* Version 12 was saved by ann"):
        check_active_version(worker, config(13))


def test_many_changes_are_counted(service: FakeVersions, worker: Worker) -> None:
    service.versions = dict.fromkeys(range(1, 40), (None, "x" * 5000))
    service.active = 39
    with pytest.raises(AgentVersionChanged, match="33 more were saved before") as caught:
        check_active_version(worker, config(1))
    assert "by an unknown user" in str(caught.value)
    assert len(str(caught.value)) < 3500


def test_that_the_history_is_hidden_hides_nothing_else(service: FakeVersions, worker: Worker) -> None:
    service.hides_history = True
    with pytest.raises(AgentVersionChanged, match=r"not version 12 .*to find out who changed it"):
        check_active_version(worker, config(12))


def test_a_version_that_is_not_stated_is_not_taken_for_the_expected_one(service: FakeVersions, worker: Worker) -> None:
    service.active = None
    with pytest.raises(SequentumRequestRefused, match="cannot be checked"):
        check_active_version(worker, config(12))


def test_nothing_is_asked_about_a_run_that_does_not_state_its_version_yet(worker: Worker) -> None:
    check_version_of_run(worker, config(12), run(None))
    assert not worker.sent


def test_what_is_expected_is_no_part_of_the_request() -> None:
    assert config(12).start_call().body == config(None).start_call().body
    assert config(12).fingerprint() == config(None).fingerprint()


# Restoring


def restore(worker: Worker, version: int = 11) -> int:
    return restore_version(worker, 7, version, "Prices were missing.", MARK)


def test_a_restored_version_has_a_new_number(service: FakeVersions, worker: Worker) -> None:
    assert restore(worker) == 14
    assert service.versions[14] == ("airflow", f"Prices were missing. {MARK}")


@pytest.mark.parametrize("steps", range(8))
def test_a_kill_before_any_step(service: FakeVersions, steps: int) -> None:
    try:
        restore(Worker(service, steps_left=steps))
    except Killed:
        assert steps < 5
    assert restore(Worker(service)) == 14
    assert service.restored == [11]


@pytest.mark.parametrize("lost", [fakes.response_lost, fakes.server_error])
def test_an_answer_that_is_lost(service: FakeVersions, worker: Worker, lost: ErrorOf) -> None:
    service.lost = lost
    assert restore(worker) == 14
    service.lost, service.creates = lost, False
    with pytest.raises(SequentumError, match=r"Lost|Broken"):
        restore_version(worker, 7, 12, "Why not.", "(another task)")


def test_a_version_without_the_mark_of_the_task_proves_nothing_where_the_answer_was_lost(
    service: FakeVersions, worker: Worker
) -> None:
    service.lost, service.keeps_comments = fakes.response_lost, False  # a user may have saved it in the same moment
    with pytest.raises(SequentumError, match="Lost"):
        restore(worker)


@pytest.mark.parametrize("letter", ["x", "é", "価", "😀"])
def test_a_retry_knows_its_mark_after_a_long_reason(service: FakeVersions, worker: Worker, letter: str) -> None:
    restored = [restore_version(worker, 7, 11, letter * 2000, MARK) for _ in range(2)]
    assert (restored, service.restored) == ([14, 14], [11])


def test_a_refusal_is_raised(service: FakeVersions, worker: Worker) -> None:
    service.lost, service.creates = fakes.unauthorized, False
    with pytest.raises(SequentumError, match="No access"):
        restore(worker)


def test_a_service_that_keeps_no_comments(service: FakeVersions, worker: Worker) -> None:
    service.keeps_comments = False
    assert restore(worker) == 14


def test_a_request_that_is_accepted_and_has_no_effect(service: FakeVersions, worker: Worker) -> None:
    service.creates = False
    with pytest.raises(SequentumUnavailable, match="lists no new version"):
        restore(worker)


def test_the_active_version_is_not_restored(service: FakeVersions, worker: Worker) -> None:
    assert restore(worker, 13) == 13
    assert service.restored == []


def test_an_unknown_version_is_refused(service: FakeVersions, worker: Worker) -> None:
    with pytest.raises(SequentumRequestRefused, match=r"no version 9, only \[11, 12, 13\]"):
        restore(worker, 9)
    assert service.restored == []


@pytest.mark.parametrize("lost", [fakes.response_lost, fakes.server_error])
def test_what_an_attempt_restored_is_not_restored_again_because_it_cannot_be_read(lost: ErrorOf) -> None:
    service = FakeVersions({1: ("ann", None), 2: ("bob", None)}, active=2, lost=lost, unreadable=(3,))
    with pytest.raises(SequentumError):
        restore_version(Worker(service), 7, 1, "Back.", MARK)
    service.lost = None
    with pytest.raises(
        SequentumRequestRefused,
        match=r"1 version in the service's list for agent 7 cannot be read.* Nothing was restored",
    ):
        restore_version(Worker(service), 7, 1, "Back.", MARK)
    assert service.restored == [1]


def test_an_old_version_that_cannot_be_read_does_no_harm() -> None:
    service = FakeVersions({1: ("ann", None), 2: ("bob", None), 3: ("bob", None)}, active=3, unreadable=(1,))
    assert restore_version(Worker(service), 7, 2, "Back.", MARK) == 4


@pytest.mark.parametrize("fault", [fakes.server_error, fakes.unauthorized, fakes.not_found])
@pytest.mark.parametrize("lost", [None, fakes.response_lost])
def test_that_a_version_was_restored_is_said_when_it_cannot_be_looked_up(lost: ErrorOf | None, fault: ErrorOf) -> None:
    service = FakeVersions({1: ("ann", None), 2: ("bob", None)}, active=2, lost=lost)
    exchange = service.exchange

    def failing(call: Call[Any]) -> Any:
        if service.restored and call.method == "GET":
            raise fault(call)
        return exchange(call)

    service.exchange = failing  # type: ignore[method-assign]
    words = "was restored" if lost is None else "may have been restored"
    with pytest.raises(SequentumUnavailable, match=rf"Version 1 of agent 7 {words}.* A retry reads it again"):
        restore_version(Worker(service), 7, 1, "Back.", MARK)
    service.exchange, service.lost = exchange, None  # type: ignore[method-assign]
    assert restore_version(Worker(service), 7, 1, "Back.", MARK) == 3
    assert service.restored == [1]
