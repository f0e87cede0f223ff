"""Each violated invariant is found, and what may happen in a storm is not taken for one."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.cluster.facts import Case, Intervention, RunFact, TaskFact
from tests.cluster.invariants import (
    GRACE,
    duplicates,
    given_up,
    leaked,
    lost,
    refused_stops,
    unheard,
    violations,
    wrong_landing,
    wrong_state,
)
from tests.cluster.people import Click, Lifetime, Placed
from tests.cluster.plan import Job
from tests.system.harness import DagRun

ROWS = 3


def at(seconds: float) -> datetime:
    return datetime(2026, 11, 25, 12, tzinfo=UTC) + timedelta(seconds=seconds)


NOW = at(1000)


def run(run_id: int, started: float, ended: float | None, status: str = "Success") -> RunFact:
    return RunFact(run_id=run_id, started=at(started), ended=None if ended is None else at(ended), status=status)


def case(*runs: RunFact, state: str | None = "success", result: int | None = None, **fields: Any) -> Case:
    task = TaskFact(state=state, ended=at(fields.pop("ended", 100)), result=result)
    return Case(name="job", population="provider", task=task, runs=runs, **fields)


def person(kind: str, when: float) -> dict[str, Any]:
    return {"interventions": [Intervention(kind=kind, asked=at(when - 1), done=at(when))]}


WELL = {
    "one run": case(run(1, 0, 30), result=1),
    "a failed run and a new one": case(run(1, 0, 30, "Failed"), run(2, 40, 60), result=2),
    "someone stopped it": case(run(1, 0, 30, "Stopped"), state="failed", **person("stop", 29)),
    "cleared while it went": case(run(1, 0, 30, "Stopped"), run(2, 35, 60), result=2, **person("clear", 25)),
    "cleared as it succeeded": case(run(1, 0, 24), run(2, 35, 60), result=2, **person("clear", 25)),
    "cleared and its record wiped": case(
        run(1, 0, 30, "Stopped"), run(2, 28, 60), result=2, **person("clear and wipe", 25)
    ),
    "marked as failed": case(run(1, 0, 30, "Stopped"), state="failed", ended=28, **person("mark failed", 27)),
    "marked as success": case(run(1, 0, 30, "Stopped"), state="success", ended=28, **person("mark success", 27)),
    "landed": case(run(1, 0, 30), result=1, landing="success", landed_rows=ROWS),
}


@pytest.mark.parametrize("name", WELL)
def test_what_may_happen_violates_nothing(name: str) -> None:
    assert violations([WELL[name]], NOW, ROWS) == []


def test_a_task_that_never_came_to_its_turn() -> None:
    (found,) = violations([case(state="running")], NOW, ROWS)
    assert (found.kind, found.what) == ("wrong states", "the task has not ended, it is running")


class TestDuplicates:
    def test_a_run_beside_one_that_goes(self) -> None:
        found = duplicates(case(run(1, 0, 50), run(2, 20, 60), result=2))
        assert found == ["run 2 was started beside run 1 (Success)"]

    def test_a_run_beside_one_that_never_ends(self) -> None:
        assert duplicates(case(run(1, 0, None, "Running"), run(2, 20, 60), result=2))

    def test_a_run_after_one_that_succeeded(self) -> None:
        assert duplicates(case(run(1, 0, 10), run(2, 20, 60), result=2))

    def test_a_clear_before_the_first_run_excuses_nothing(self) -> None:
        assert duplicates(case(run(1, 0, 50), run(2, 20, 60), result=2, **person("clear", -5)))


class TestLost:
    def test_a_success_that_is_not_returned(self) -> None:
        assert lost(case(run(1, 0, 10), state="failed")) == ["run 1 succeeded and its task did not return it"]

    def test_a_success_beside_the_returned_one(self) -> None:
        assert lost(case(run(1, 0, 50), run(2, 20, 60), result=2))


class TestLeaked:
    def test_a_run_that_outlives_its_task(self) -> None:
        beyond = 100 + GRACE.total_seconds() + 1
        found = leaked(case(run(1, 0, beyond), state="failed", ended=100), NOW)
        assert found == ["run 1 went on for 46 s without a task that waited for it"]
        assert not leaked(case(run(1, 0, beyond - 2), state="failed", ended=100), NOW)

    def test_a_run_that_never_ends(self) -> None:
        [found] = leaked(case(run(1, 0, None, "Running"), state="failed", **person("mark failed", 99)), NOW)
        assert found.endswith("and still goes on")

    def test_a_run_that_outlives_its_successor_s_start(self) -> None:
        cleared = case(run(1, 0, None, "Running"), run(2, 20, 60), result=2, **person("clear", 15))
        assert leaked(cleared, NOW)

    def test_a_run_of_a_task_that_is_still_at_it_is_no_leak(self) -> None:
        waiting = Case(name="job", population="provider", task=TaskFact(state="deferred"), runs=[run(1, 0, None)])
        assert not leaked(waiting, NOW)


class TestMarksThatNobodyHears:
    def marked(self, *, heard: bool) -> Case:
        mark = Intervention(kind="mark failed", asked=at(49), done=at(50), heard=heard)
        return case(run(1, 0, None, "Running"), state="failed", ended=50, interventions=[mark])

    def test_a_run_that_no_one_could_stop_is_told_apart(self) -> None:
        assert unheard(self.marked(heard=False)) == ["no process was there to stop run 1"]
        assert leaked(self.marked(heard=False), NOW) == []

    def test_a_run_that_somebody_could_have_stopped_is_leaked(self) -> None:
        assert unheard(self.marked(heard=True)) == []
        assert leaked(self.marked(heard=True), NOW)

    def test_a_run_whose_record_was_wiped_with_a_clear_that_no_one_heard(self) -> None:
        wiped = case(run(1, 0, None, "Running"), run(2, 20, 60), result=2, **person("clear and wipe", 15))
        assert leaked(wiped, NOW)
        unheard_wipe = replace(wiped, interventions=[replace(wiped.interventions[0], heard=False)])
        assert unheard(unheard_wipe) == ["no process was there to stop run 1"]
        assert leaked(unheard_wipe, NOW) == []

    def test_who_hears_of_a_second_wipe_has_not_known_of_the_run(self) -> None:
        wipes = person("clear and wipe", 15)["interventions"] + person("clear and wipe", 30)["interventions"]
        for heard in (False, True):
            first = replace(wipes[0], heard=heard)
            wiped = case(run(1, 0, None, "Running"), run(2, 40, 60), result=2, interventions=[first, wipes[1]])
            assert bool(unheard(wiped)) is not heard
            assert bool(leaked(wiped, NOW)) is heard

    def test_a_clear_that_kept_the_record_excuses_nothing(self) -> None:
        clear = Intervention(kind="clear", asked=at(14), done=at(15), heard=False)
        cleared = case(run(1, 0, None, "Running"), run(2, 20, 60), result=2, interventions=[clear])
        assert leaked(cleared, NOW)

    @pytest.mark.parametrize(("last", "heard"), [(48.0, False), (53.5, False), (54.5, True), (None, False)])
    def test_a_triggerer_that_did_not_live_for_some_seconds_afterwards_has_not_heard(
        self, last: float | None, heard: bool
    ) -> None:
        job = Job(name="job", at=0, deferrable=True, duration=1)
        placed = Placed(job, "provider", 7, DagRun("d", "job", "running"))
        click = Click(placed, "mark failed", asked=at(49), done=at(50), triggerer=3)
        assert click.is_heard({} if last is None else {3: Lifetime("TriggererJob", at(0), at(last))}) is heard

    @pytest.mark.parametrize(
        ("first", "last", "heard"), [(0, 48, False), (0, 49.5, True), (59, 90, True), (61, 90, False)]
    )
    def test_of_a_clear_a_triggerer_hears_once_a_scheduler_has_scheduled_the_task_again(
        self, first: float, last: float, heard: bool
    ) -> None:
        """A cleared task has no state before that, and Airflow cancels the triggers of those that have another one."""
        job = Job(name="job", at=0, deferrable=True, duration=1)
        placed = Placed(job, "provider", 7, DagRun("d", "job", "running"))
        lifetimes = {
            3: Lifetime("TriggererJob", at(0), at(60)),
            4: Lifetime("SchedulerJob", at(first), at(last)),
        }
        assert Click(placed, "clear and wipe", at(49), at(50), triggerer=3).is_heard(lifetimes) is heard

    @pytest.mark.parametrize("lived", [True, False])
    def test_a_worker_hears_if_its_process_was_there(self, lived: bool) -> None:
        job = Job(name="job", at=0, deferrable=False, duration=1)
        placed = Placed(job, "provider", 7, DagRun("d", "job", "running"))
        assert Click(placed, "mark failed", at(49), at(50), worker_lived=lived).is_heard({}) is lived


class TestStopsThatAreRefused:
    def marked(self, refused: int, taken: int) -> Case:
        going = replace(run(1, 0, None, "Running"), stops_refused=refused, stops_taken=taken)
        return case(going, state="failed", ended=50, **person("mark failed", 50))

    def test_a_run_that_the_service_would_not_stop_is_told_apart(self) -> None:
        assert refused_stops(self.marked(4, 0)) == ["4 requests to find or stop run 1 were refused"]
        assert leaked(self.marked(4, 0), NOW) == []

    @pytest.mark.parametrize(("refused", "taken"), [(0, 0), (4, 1)])
    def test_a_run_that_no_one_tried_to_stop_or_that_was_not_followed_up_is_leaked(
        self, refused: int, taken: int
    ) -> None:
        assert refused_stops(self.marked(refused, taken)) == []
        assert leaked(self.marked(refused, taken), NOW)

    def test_a_run_that_was_started_afterwards_is_not_left_going(self) -> None:
        next_one = replace(run(2, 20, 90, "Success"), stops_refused=1)
        wiped = case(run(1, 0, 18, "Stopped"), next_one, result=2, **person("clear and wipe", 15))
        assert refused_stops(wiped) == []
        unheard_wipe = replace(wiped, interventions=[replace(wiped.interventions[0], heard=False)])
        assert unheard(unheard_wipe) == []

    def test_a_run_that_was_over_by_then_is_not_left_going(self) -> None:
        """The service refuses to stop a run that is over, which is no fault."""
        over = replace(run(1, 0, 51, "Success"), stops_refused=1)
        assert refused_stops(case(over, state="failed", ended=50, **person("mark failed", 50))) == []

    def test_a_task_that_ended_by_itself_is_not_excused(self) -> None:
        going = replace(run(1, 0, None, "Running"), stops_refused=4)
        assert leaked(case(going, state="failed", ended=50), NOW)


class TestWrongState:
    @pytest.mark.parametrize("state", [None, "queued", "running", "deferred", "up_for_retry", "scheduled"])
    def test_a_task_that_has_not_ended(self, state: str | None) -> None:
        assert wrong_state(case(run(1, 0, 10), state=state)) == [f"the task has not ended, it is {state}"]

    @pytest.mark.parametrize("status", ["Failure", "Failed", "Stopped", "Skipped", "Running"])
    def test_a_success_without_a_success(self, status: str) -> None:
        assert wrong_state(case(run(1, 0, 10, status), result=1))

    def test_a_success_with_another_s_run(self) -> None:
        assert wrong_state(case(run(1, 0, 10), result=77))

    def test_a_success_without_a_run(self) -> None:
        assert wrong_state(case())

    def test_a_failure_whose_run_succeeded(self) -> None:
        assert wrong_state(case(run(1, 0, 10), state="failed"))

    def test_a_mark_does_not_excuse_a_task_that_goes_on(self) -> None:
        assert wrong_state(case(run(1, 0, 10), state="deferred", **person("mark failed", 5)))


class TestLanding:
    @pytest.mark.parametrize(
        ("landing", "rows"), [("failed", ROWS), ("upstream_failed", 0), ("success", 0), ("success", 2 * ROWS)]
    )
    def test_files_that_are_missing_or_doubled(self, landing: str, rows: int) -> None:
        assert wrong_landing(case(run(1, 0, 10), result=1, landing=landing, landed_rows=rows), ROWS)

    def test_a_task_without_landing(self) -> None:
        assert not wrong_landing(case(run(1, 0, 10), result=1), ROWS)


def test_a_task_that_failed_though_no_one_ended_it_has_given_up() -> None:
    assert given_up(case(run(1, 0, 10, "Failure"), state="failed"))
    assert not given_up(case(run(1, 0, 10, "Stopped"), state="failed", **person("stop", 9)))


def test_violations_are_told_by_kind_and_case() -> None:
    bad = case(run(1, 0, 50), run(2, 20, 60), result=2)
    found = violations([WELL["one run"], bad], NOW, ROWS)
    assert {violation.kind for violation in found} == {"duplicate runs", "lost runs"}
    assert all(violation.case is bad for violation in found)
