from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from airflow_provider_sequentum.lifecycle.choices import RUN_ENDINGS
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sequentum.api.run_status import RunStatus
from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.lifecycle.announced_runs import AnnouncedRuns

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
LONGEST = 5


def run(number: int, status: RunStatus = RunStatus.SUCCESS, ended: int | None = None) -> Run:
    end = (NOON + timedelta(minutes=number if ended is None else ended)).isoformat()
    return Run.model_validate({"id": number, "configId": 7, "status": int(status), "endTime": end})


def ids(runs: list[Run]) -> list[int]:
    return [run.id for run in runs]


@pytest.mark.parametrize(
    ("ending", "ended"), [("succeeded", RunStatus.SUCCESS), ("any", RunStatus.SUCCESS), ("any", RunStatus.FAILURE)]
)
def test_what_had_ended_at_the_first_look_is_no_news(ending: str, ended: RunStatus) -> None:
    listed = [run(1, ended), run(2, RunStatus.RUNNING)]
    state = AnnouncedRuns.beginning(listed, ending, LONGEST)
    assert state.news(listed, ending) == []
    assert ids(state.news([run(1, ended), run(2), run(3)], ending)) == [2, 3]


def test_the_oldest_run_of_a_full_list_is_announced_when_it_ends() -> None:
    newer = [run(number) for number in range(11, 15)]
    state = AnnouncedRuns.beginning([run(10, RunStatus.RUNNING), *newer], "succeeded", LONGEST)
    assert ids(state.news([run(10), *newer], "succeeded")) == [10]


def test_news_come_in_the_order_in_which_they_ended() -> None:
    state = AnnouncedRuns.beginning([], "succeeded", LONGEST)
    assert ids(state.news([run(3, ended=1), run(1, ended=9), run(2, ended=5)], "succeeded")) == [3, 2, 1]


def test_a_run_that_does_not_say_when_it_ended_comes_first() -> None:
    state = AnnouncedRuns.beginning([], "succeeded", LONGEST)
    without_time = run(2).model_copy(update={"end_time": None})
    assert ids(state.news([run(1), without_time, run(3)], "succeeded")) == [2, 1, 3]


def test_what_is_no_longer_in_view_is_forgotten() -> None:
    state = AnnouncedRuns.beginning([run(1), run(2)], "succeeded", LONGEST)
    assert state.after([run(3)], [run(2), run(3)], LONGEST).run_ids == {2, 3}


@pytest.mark.parametrize(
    ("status", "endings"),
    [
        (RunStatus.SUCCESS, {"succeeded", "any"}),
        (RunStatus.COMPLETED, {"succeeded", "any"}),
        (RunStatus.FAILURE, {"any"}),
        (RunStatus.FAILED, {"any"}),
        (RunStatus.STOPPED, {"any"}),
        (RunStatus.SKIPPED, {"any"}),
        (RunStatus.RUNNING, set()),
        (RunStatus.WAITING, set()),
        (RunStatus.INVALID, set()),
    ],
)
def test_endings(status: RunStatus, endings: set[str]) -> None:
    state = AnnouncedRuns.beginning([], "any", LONGEST)
    assert {ending for ending in RUN_ENDINGS if state.news([run(1, status)], ending)} == endings


def test_a_failure_that_is_restarted_and_succeeds_is_announced_then() -> None:
    state = AnnouncedRuns.beginning([run(1, RunStatus.FAILURE)], "succeeded", LONGEST)
    assert ids(state.news([run(1)], "succeeded")) == [1]


def test_a_run_that_comes_back_into_view_is_not_announced() -> None:
    """Deleting newer runs brings older ones back into a list of limited length."""
    state = AnnouncedRuns.beginning([run(number) for number in range(10, 15)], "succeeded", LONGEST)
    assert state.news([run(number) for number in range(8, 13)], "succeeded") == []


def test_a_full_list_without_anything_known_is_said_to_be_cut_off() -> None:
    state = AnnouncedRuns.beginning([run(1)], "succeeded", LONGEST)
    assert not state.is_cut_off([run(number) for number in range(1, 6)], LONGEST)
    assert state.is_cut_off([run(number) for number in range(3, 8)], LONGEST)
    assert not state.is_cut_off([run(9)], LONGEST)


def test_a_list_is_not_cut_off_because_none_of_the_runs_that_were_seen_was_announced() -> None:
    seen = [run(number, RunStatus.FAILED) for number in range(1, LONGEST + 1)]
    state = AnnouncedRuns.beginning(seen, "succeeded", LONGEST)
    assert not state.is_cut_off([*seen[1:], run(LONGEST + 1, RunStatus.FAILED)], LONGEST)


def test_a_full_list_is_cut_off_after_an_empty_one() -> None:
    state = AnnouncedRuns.beginning([], "succeeded", LONGEST)
    assert not state.is_cut_off([], LONGEST)
    assert state.is_cut_off([run(number) for number in range(3, 8)], LONGEST)


@given(st.lists(st.lists(st.integers(1, 30), unique=True, max_size=LONGEST), max_size=12), st.sampled_from(RUN_ENDINGS))
def test_no_run_is_announced_twice_across_restarts(looks: list[list[int]], ending: str) -> None:
    """The lists grow as the service's do: the newest runs of all that were ever there."""
    known: set[int] = set()
    state: AnnouncedRuns | None = None
    announced: list[int] = []
    for look in looks:
        known |= set(look)
        listed = [run(number) for number in sorted(known)[-LONGEST:]]
        if state is None:
            state = AnnouncedRuns.beginning(listed, ending, LONGEST)
            continue
        news = state.news(listed, ending)
        announced += ids(news)
        state = AnnouncedRuns.from_json(state.after(news, listed, LONGEST).to_json())
        assert state is not None
        assert len(state.run_ids) <= LONGEST
    assert len(announced) == len(set(announced))


@pytest.mark.parametrize("value", [{}, {"format": 2}, {"format": 1}, {"format": 1, "run_ids": 3}, [1], "x"])
def test_what_cannot_be_read_is_not_taken_for_nothing(value: object) -> None:
    with pytest.raises(ValueError, match="can't be read"):
        AnnouncedRuns.from_json(value)


def test_nothing_written_is_nothing() -> None:
    assert AnnouncedRuns.from_json(None) is None
