from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar

import pytest

from airflow_provider_sequentum.api.call import Call, Reply, Response
from airflow_provider_sequentum.api.errors import HttpStatusError, SequentumError
from airflow_provider_sequentum.api.pipeline import read_response
from airflow_provider_sequentum.api.run_status import RunStatus
from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.runs.retention import Deletion, delete_old_runs, old_runs
from tests.support import service as fakes
from tests.support.service import START, Clock
from tests.support.worker import Worker

T = TypeVar("T")

DAY = timedelta(days=1)


def unprocessable(call: Call[Any]) -> SequentumError:
    return HttpStatusError("No.", purpose=call.purpose, request=call.request, status_code=422)


@dataclass
class FakeRuns:
    """Runs of agent 7 by id, with the names of their files; each is a day older than the one with the next id."""

    files: dict[int, list[str]]
    clock: Clock = field(default_factory=Clock)
    error: Any = None
    unreadable: bool = False
    hides: dict[int, Any] = field(default_factory=dict)
    """Runs whose files are not shown, and the error."""
    stated: int | None = None
    """How many files of each run there are, by the service's own word."""
    deleted: list[tuple[int, str]] = field(default_factory=list)
    tells_time: bool = True
    skew: timedelta = timedelta(0)
    """By how much its clock is ahead of the worker's."""
    date_error: timedelta = timedelta(0)
    """By how much its ``Date`` is ahead of its clock."""
    tells_billing: bool = True
    is_there: bool = False
    """Whether the status of a run can be read."""

    def exchange(self, call: Call[T]) -> Reply[T]:
        names = call.path.strip("/").split("/")
        if names[-1] == "runs":
            body: Any = [
                {"id": number, "configId": 7, "status": 10, "created": at.isoformat(), "endTime": at.isoformat()}
                for number in self.files
                for at in [START + self.skew - DAY * (1001 - number)]
            ]
        elif names[-1] == "credits":
            if not self.tells_billing:
                raise fakes.unauthorized(call)
            body = {"availableCredits": 5, "retrievedAt": (self.clock.now + self.skew).isoformat()}
        elif names[-1] == "status":
            if not self.is_there:
                raise fakes.not_found(call)
            body = {"id": int(names[3]), "configId": 7, "status": 10}
        elif names[-1] == "files":
            if int(names[3]) in self.hides:
                raise self.hides[int(names[3])](call)
            body = [
                {"id": place, "name": name, "fileType": 1, "fileSize": 1}
                for place, name in enumerate(self.files[int(names[3])], 1)
            ] + ([{"id": "?"}] if self.unreadable else [])
            if self.stated is not None:
                body = {"items": body, "totalRecordCount": self.stated}
        else:
            assert call.method == "DELETE"
            if self.error is not None:
                raise self.error(call)
            self.deleted.append((int(names[3]), str(call.query["removeMethod"])))
            body = None
        answer = Response(200, {}, b"" if body is None else json.dumps(body).encode())
        date = self.clock.now + self.skew + self.date_error
        return Reply(read_response(call, answer), date if self.tells_time else None)


@pytest.fixture
def service() -> FakeRuns:
    return FakeRuns({998: ["a"], 999: ["b"], 1000: ["c"]})


@pytest.fixture
def worker(service: FakeRuns) -> Worker:
    return Worker(service)


def landed(run_id: int, listed: Sequence[Any]) -> str | None:
    return None if run_id != 999 else "No manifest"


def delete(worker: Worker, *, days: float = 0, method: Any = "RemoveAllFiles", dry_run: bool = False) -> Deletion:
    result = Deletion(7, dry_run)
    delete_old_runs(worker, result, DAY * days, method, landed)
    return result


def test_what_is_landed_is_deleted_oldest_first(service: FakeRuns, worker: Worker) -> None:
    result = delete(worker)
    assert service.deleted == [(998, "RemoveAllFiles"), (1000, "RemoveAllFiles")]
    assert (result.deleted, result.kept) == ([998, 1000], {999: "No manifest"})
    assert json.loads(json.dumps(result.summary())) == {
        "agent_id": 7,
        "dry_run": False,
        "deleted": [998, 1000],
        "kept": {"999": "No manifest"},
        "in_doubt": [],
        "is_cut": False,
        "oldest_listed": None,
    }


def test_a_dry_run_deletes_nothing_and_says_the_same(service: FakeRuns, worker: Worker) -> None:
    result = delete(worker, dry_run=True)
    assert (result.deleted, result.kept) == ([998, 1000], {999: "No manifest"})
    assert service.deleted == []


def test_deletions_leave_half_of_the_request_limit_to_others(worker: Worker) -> None:
    delete(worker)
    assert {share for _, _, share in worker.sent} == {0.5}


@pytest.mark.parametrize(("days", "deleted"), [(0, [998, 1000]), (1, [998]), (2.5, [998]), (3, []), (4, [])])
def test_what_is_younger_is_left(service: FakeRuns, worker: Worker, days: float, deleted: list[int]) -> None:
    assert delete(worker, days=days).deleted == deleted


def test_a_run_without_files_is_left_unless_it_is_to_go_entirely(service: FakeRuns, worker: Worker) -> None:
    service.files[998] = []
    assert delete(worker).kept[998] == "It has no files"
    assert delete(worker, method="RemoveAllFilesAndAgentInput").deleted == [998, 1000]
    assert delete(worker, method="RemoveEntireRun").deleted == [998, 1000]


def test_a_list_of_files_that_cannot_be_read_proves_nothing(service: FakeRuns, worker: Worker) -> None:
    service.unreadable = True
    assert delete(worker).deleted == []


def test_a_list_of_files_that_is_only_a_part_of_them_proves_nothing(service: FakeRuns, worker: Worker) -> None:
    service.stated = 2
    assert (delete(worker).deleted, service.deleted) == ([], [])
    service.stated = 1
    assert delete(worker).deleted == [998, 1000]


@pytest.mark.parametrize("error", [fakes.unauthorized, fakes.not_found])
def test_a_run_whose_files_are_not_shown_is_kept_and_stops_no_other(
    service: FakeRuns, worker: Worker, error: Any
) -> None:
    service.hides = {998: error}
    result = delete(worker)
    assert result.deleted == [1000]
    assert result.kept[998].startswith("The service does not list its files: ")


@pytest.mark.parametrize("error", [fakes.server_error, fakes.response_lost, fakes.rate_limited, fakes.bad_request])
def test_files_that_could_not_be_asked_for_end_the_attempt(service: FakeRuns, worker: Worker, error: Any) -> None:
    service.hides = {998: error}
    with pytest.raises(SequentumError):
        delete(worker)
    assert service.deleted == []


@pytest.mark.parametrize("runs", [1, 30, 1000])
def test_the_summary_of_many_runs_is_bounded_and_can_be_stored(runs: int) -> None:
    kept = {2**62 + number: "Refused: \0\ud83d\u202e" + "x" * 4000 for number in range(runs)}
    summary = Deletion(7, dry_run=False, deleted=list(range(1000 - runs)), kept=kept).summary()
    stored = json.dumps(summary)
    assert len(summary["kept"]) == runs
    assert len(json.dumps(summary, ensure_ascii=False).encode()) < 48_000
    assert "\\u0000" not in stored
    assert "\\ud83d" not in stored


def test_a_run_that_is_gone_counts_as_deleted(service: FakeRuns, worker: Worker) -> None:
    service.error = fakes.not_found
    assert delete(worker).deleted == [998, 1000]


def test_a_404_that_passes_is_no_deletion(service: FakeRuns, worker: Worker) -> None:
    service.error, service.is_there = fakes.not_found, True
    result = delete(worker)
    assert result.deleted == []
    assert result.kept[998].startswith("It still exists")


@pytest.mark.parametrize("tells_time", [True, False])
@pytest.mark.parametrize("skew", [-1, 0, 1])
def test_the_services_clock_may_differ_by_a_day(service: FakeRuns, worker: Worker, skew: int, tells_time: bool) -> None:
    service.skew, service.tells_time = skew * DAY, tells_time
    # By the service's clock, the runs ended three, two and one days ago.
    assert set(delete(worker, days=2.5).deleted) <= {998}
    assert 1000 not in delete(worker, days=1).deleted


@pytest.mark.parametrize("tells_billing", [True, False])
@pytest.mark.parametrize("ahead", [timedelta(hours=12), 3650 * DAY, 300_000 * DAY])
def test_a_date_that_nothing_confirms_makes_no_run_old(
    service: FakeRuns, worker: Worker, ahead: timedelta, tells_billing: bool
) -> None:
    service.date_error, service.tells_billing = ahead, tells_billing
    # The runs ended three, two and one days ago.
    assert delete(worker, days=2.7).deleted == [998]
    assert delete(worker, days=30).deleted == []
    assert any("Nothing confirms that date" in line for line in worker.warned)


def test_a_service_whose_clock_is_ahead_says_so_twice(service: FakeRuns, worker: Worker) -> None:
    service.skew = 100 * DAY
    service.date_error = 5 * DAY
    # By the service's clock, the runs ended three, two and one days ago.
    assert delete(worker, days=2.5).deleted == [998]
    assert delete(worker, days=4).deleted == []
    service.tells_billing = False
    assert delete(worker, days=0).deleted == []


@pytest.mark.parametrize("error", [fakes.bad_request, fakes.conflict, unprocessable])
def test_a_run_that_the_service_refuses_to_delete_is_kept(service: FakeRuns, worker: Worker, error: Any) -> None:
    service.error = error
    result = delete(worker)
    assert result.deleted == []
    assert result.kept[998].startswith("The service refused: ")


@pytest.mark.parametrize("error", [fakes.unauthorized, fakes.response_lost, fakes.server_error])
def test_other_errors_end_the_attempt(service: FakeRuns, worker: Worker, error: Any) -> None:
    service.error = error
    with pytest.raises(SequentumError):
        delete(worker)


@pytest.mark.parametrize(("method", "hope"), [("RemoveEntireRun", True), ("RemoveAllFiles", False)])
def test_a_full_list_hides_older_runs(service: FakeRuns, worker: Worker, method: str, hope: bool) -> None:
    service.files = {number: ["a"] for number in range(1, 1001)}
    result = delete(worker, days=998, method=method)
    assert result.is_cut
    assert result.summary()["oldest_listed"] == (START - 1000 * DAY).isoformat()
    [warning] = worker.warned
    assert "only the newest 1000 runs of agent 7" in warning
    assert ("will be listed once newer ones" in warning) is hope
    assert result.deleted == [1, 2]


@pytest.mark.parametrize(
    ("status", "end_time", "created", "is_old"),
    [
        (RunStatus.SUCCESS, START - 2 * DAY, None, True),
        (RunStatus.FAILURE, START - 2 * DAY, None, True),
        (RunStatus.STOPPED, None, START - 2 * DAY, True),
        (RunStatus.SUCCESS, START, START - 2 * DAY, False),
        (RunStatus.SUCCESS, None, None, False),
        (RunStatus.RUNNING, None, START - 2 * DAY, False),
        (RunStatus.STOPPING, START - 2 * DAY, START - 2 * DAY, False),
        (99, START - 2 * DAY, START - 2 * DAY, False),
    ],
)
def test_which_runs_are_old(status: Any, end_time: datetime | None, created: datetime | None, is_old: bool) -> None:
    run = Run(id=1, config_id=7, status=status, end_time=end_time, created=created)
    assert bool(old_runs([run], DAY, START)) is is_old
