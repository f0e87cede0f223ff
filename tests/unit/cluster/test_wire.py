"""What was recorded on the wire becomes a history, and the checker finds in it what it finds in a simulated one."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.people import Click, Placed
from tests.cluster.plan import Deed, Job
from tests.cluster.wire import Verdict, describe, judge, read_requests
from tests.system.harness import DagRun

NOW = datetime(2026, 11, 28, 9, 0, tzinfo=UTC)
PLACED = Placed(Job("job-001", 0.0, True, 30.0), "provider", 1001, DagRun("storm_deferred", "job-001", "success"))
MAY_GO_ON = "Run 11 may be running and costing credits"


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def lines(
    seconds: float,
    path: str,
    answer: Any = None,
    *,
    by: str = "default",
    acted: int | None = 200,
    told: int | None = 200,
    same: bool = True,
    took: float = 0,
) -> list[str]:
    """Return what is written of a request: where the service answered, and what was sent."""
    asked = {"id": f"{seconds} {path}", "at": at(seconds).timestamp(), "method": "", "by": by}
    asked["path"] = f"/agent/1001{path}"
    written = [{**asked, "told": told, "same": same}]
    if acted is not None:
        written = [{**asked, "acted_at": at(seconds + took).timestamp(), "status": acted, "answer": answer}, *written]
    return [json.dumps(line) for line in written]


def run(number: int, status: int, ended: float | None = None) -> dict[str, Any]:
    end = None if ended is None else at(ended).replace(tzinfo=None).isoformat()
    return {"id": number, "configId": 1001, "status": status, "endTime": end}


def started(seconds: float, number: int) -> list[str]:
    return lines(seconds, "/start", run(number, 1), acted=202, told=202)


def census(number: int, status: int, ended: float | None = None) -> list[str]:
    return lines(900, f"/run/{number}/status", run(number, status, ended), by="census")


def a_try(number: int, begins: float, ends: float | None, state: str | None, *, max_tries: int = 2) -> dict[str, Any]:
    place = {"dag_id": "storm_deferred", "run_id": "job-001", "try_number": number, "max_tries": max_tries}
    return {**place, "start_date": at(begins), "end_date": None if ends is None else at(ends), "state": state}


def click(deed: Deed, seconds: float, *, heard: bool = True) -> Click:
    return Click(PLACED, deed, at(seconds), at(seconds + 1), triggerer=None, worker_lived=heard)


def verdict(
    home: Path, record: list[list[str]], tries: list[dict[str, Any]], *clicks: Click, result: int | None = None
) -> Verdict:
    results = {("storm_deferred", "job-001"): result}
    wire = [line for entry in record for line in entry]
    [found] = judge([PLACED], wire, tries, results, clicks, {}, home)
    return found


def promises(found: Verdict) -> list[str]:
    return [one.promise for one in found.broken]


def test_a_request_is_what_the_service_answered_and_whether_that_was_sent() -> None:
    wire = [
        *lines(1, "/start", run(11, 1), acted=202, told=202),
        *lines(2, "/start", run(12, 1), acted=202, told=None, same=False),
        *lines(3, "/run/11/stop", acted=None, told=503, same=False),
        *lines(4, "/run/11/stop", acted=204, told=204, by="dashboard user"),
        *lines(5, "/run/11/stop", acted=204, told=204, by="someone else"),
        *lines(6, "/run/11/status", run(11, 8, 5))[:1],  # the service died before it was sent
    ]
    [(agent_id, found)] = read_requests(wire).items()
    assert agent_id == 1001
    assert [(entry["by"], entry["status"], entry["lost"]) for entry in found] == [
        ("task", 200, False),
        ("task", 200, True),
        ("task", 503, True),
        ("person", 200, False),
        ("task", 200, True),
    ]
    assert found[-1]["answer"]["endTime"] == at(5).isoformat(), "a time without an offset is UTC"


def test_a_run_that_ends_well_breaks_nothing(tmp_path: Path) -> None:
    record = [started(1, 11), census(11, 10, 30)]
    found = verdict(tmp_path, record, [a_try(1, 0, 35, "success")], result=11)
    assert (promises(found), found.requests) == ([], 2)
    assert describe([found], "provider") == "provider: 1 histories, 2 requests on the wire, 0 broken promises"
    assert describe([found], "plain").startswith("plain: 0 histories")


def test_a_second_run_beside_the_first_is_found(tmp_path: Path) -> None:
    record = [started(1, 11), started(20, 12), census(11, 10, 60), census(12, 10, 70)]
    tries = [a_try(1, 0, 10, "failed"), a_try(2, 15, 75, "success")]
    found = verdict(tmp_path, record, tries, click("stop", 5), result=12)
    assert promises(found) == ["one run at a time"]
    assert describe([found], "provider").splitlines()[1] == (
        "provider job-001: at 20 s: one run at a time: run 11 goes on, 12 is started "
        "[tries: 1 of 3 09:00:00 failed, 2 of 3 09:00:15 success; people: stop 09:00:05]"
    )


@pytest.mark.parametrize(
    ("name", "is_told"), [("attempt=1.log", True), ("attempt=1.log.trigger.7.log", True), ("", False)]
)
def test_what_the_log_of_a_try_says_is_heard(tmp_path: Path, name: str, is_told: bool) -> None:
    logs = tmp_path / "logs" / "dag_id=storm_deferred" / "run_id=job-001" / "task_id=run"
    logs.mkdir(parents=True)
    if name:
        (logs / name).write_text(f"first\n{MAY_GO_ON}\n")
    record = [started(1, 11), started(20, 12), census(11, 10, 60), census(12, 10, 70)]
    tries = [a_try(1, 0, 10, "failed"), a_try(2, 15, 75, "success")]
    assert bool(promises(verdict(tmp_path, record, tries, result=12))) is not is_told


@pytest.mark.parametrize("lived", [True, False])
@pytest.mark.parametrize(("max_tries", "broken"), [(3, ["a cleared task starts over"]), (2, [])])
def test_a_clear_that_airflow_follows_up_with_a_retry_is_none(
    tmp_path: Path, lived: bool, max_tries: int, broken: list[str]
) -> None:
    # The worker may also die in the seconds between the click and Airflow's telling it.
    record = [started(1, 11), census(11, 10, 30)]
    tries = [a_try(1, 0, 40, "up_for_retry"), a_try(2, 50, 60, "success", max_tries=max_tries)]
    found = verdict(tmp_path, record, tries, click("clear", 20, heard=lived), result=11)
    assert promises(found) == broken


@pytest.mark.parametrize(
    ("deed", "heard", "is_broken"),
    [("mark failed", True, True), ("mark failed", False, False), ("mark success", False, False), ("stop", True, True)],
)
def test_a_run_that_is_left_is_found_unless_no_process_heard_of_the_mark(
    tmp_path: Path, deed: Deed, heard: bool, is_broken: bool
) -> None:
    record = [started(1, 11), census(11, 4)]
    found = verdict(tmp_path, record, [a_try(1, 0, 20, "failed")], click(deed, 20, heard=heard))
    assert bool(promises(found)) is is_broken


@pytest.mark.parametrize(("heard", "is_broken"), [(False, False), (True, True)])
def test_a_trigger_that_looks_on_after_a_clear_that_it_did_not_hear_of_changes_nothing(
    tmp_path: Path, heard: bool, is_broken: bool
) -> None:
    record = [
        started(1, 11),
        lines(24, "/run/11/status", run(11, 4)),
        started(50, 12),
        census(11, 4),
        census(12, 10, 60),
    ]
    tries = [a_try(1, 0, 10, "failed"), a_try(2, 45, 65, "success")]
    clicks = [click("clear and wipe", 20, heard=heard), click("clear and wipe", 40)]
    assert bool(promises(verdict(tmp_path, record, tries, *clicks, result=12))) is is_broken


@pytest.mark.parametrize(("stops", "is_broken"), [([503, None], False), ([503, 204], True), ([], True)])
def test_a_service_that_refuses_every_stop_cannot_be_stopped(
    tmp_path: Path, stops: list[int | None], is_broken: bool
) -> None:
    record = [started(1, 11), census(11, 4)]
    for seconds, told in enumerate(stops, 21):
        acted = told if told == 204 else None
        record.append(lines(seconds, "/run/11/stop", acted=acted, told=told, same=acted is not None))
    found = verdict(tmp_path, record, [a_try(1, 0, 22, "failed")], click("mark failed", 20))
    assert bool(promises(found)) is is_broken


@pytest.mark.parametrize(
    ("told", "looks", "is_broken"),
    [
        (None, [(200, False, 0), (200, True, 8)], False),  # a gateway's page, and a response after the process is gone
        (None, [(200, False, 0), (200, True, 1)], True),
        (None, [], True),
        (202, [(200, True, 8)], True),
    ],
)
def test_a_run_whose_start_was_lost_has_to_be_found_before_it_is_stopped(
    tmp_path: Path, told: int | None, looks: list[tuple[int, bool, float]], is_broken: bool
) -> None:
    record = [lines(1, "/start", run(11, 1), acted=202, told=told, same=told is not None), census(11, 4)]
    for seconds, (status, same, took) in enumerate(looks, 18):
        record.append(lines(seconds, "/runs", [run(11, 4)], told=status, same=same, took=took))
    found = verdict(tmp_path, record, [a_try(1, 0, 22, "failed")], click("mark failed", 20))
    assert bool(promises(found)) is is_broken


@pytest.mark.parametrize(
    ("deed", "broken"), [("clear", []), ("archive", []), (None, ["a Failure is restarted in place"])]
)
def test_what_people_did_is_part_of_the_history(tmp_path: Path, deed: Deed | None, broken: list[str]) -> None:
    record = [started(1, 11), lines(10, "/run/11/status", run(11, 6, 9)), started(30, 12), census(12, 10, 60)]
    max_tries = 3 if deed == "clear" else 2
    tries = [a_try(1, 0, 12, "failed"), a_try(2, 25, 65, "success", max_tries=max_tries)]
    clicks = [] if deed is None else [click(deed, 20)]
    assert promises(verdict(tmp_path, record, tries, *clicks, result=12)) == broken


def test_a_task_that_has_not_ended_is_found(tmp_path: Path) -> None:
    found = verdict(tmp_path, [started(1, 11), census(11, 10, 30)], [a_try(1, 0, None, "deferred")])
    assert promises(found) == ["a task ends"]
