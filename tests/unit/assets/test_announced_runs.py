from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sequentum.api.run_status import RunStatus
from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.assets.announced_runs import MAX_OUT_OF_VIEW, AnnouncedRuns
from airflow_provider_sequentum.parameters import RunEnding

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
LONGEST = 5
RUN_ENDINGS = get_args(RunEnding)


def run(number: int, status: RunStatus = RunStatus.SUCCESS, ended: int | None = None) -> Run:
    end = (NOON + timedelta(minutes=number if ended is None else ended)).isoformat()
    return Run.model_validate({"id": number, "configId": 7, "status": int(status), "endTime": end})


def first_look(listed: list[Run], ending: str) -> AnnouncedRuns:
    return AnnouncedRuns.at_first_look(listed, ending, is_full=len(listed) >= LONGEST)


def after(state: AnnouncedRuns, announced: list[Run], listed: list[Run]) -> AnnouncedRuns:
    return state.after(announced, listed, is_full=len(listed) >= LONGEST)


def misses_runs(state: AnnouncedRuns, listed: list[Run]) -> bool:
    return state.misses_runs(listed, is_full=len(listed) >= LONGEST)


def ids(runs: list[Run]) -> list[int]:
    return [run.id for run in runs]


@pytest.mark.parametrize(
    ("ending", "ended"), [("succeeded", RunStatus.SUCCESS), ("any", RunStatus.SUCCESS), ("any", RunStatus.FAILURE)]
)
def test_what_had_ended_at_the_first_look_is_no_news(ending: str, ended: RunStatus) -> None:
    listed = [run(1, ended), run(2, RunStatus.RUNNING)]
    state = first_look(listed, ending)
    assert state.unannounced(listed, ending) == []
    assert ids(state.unannounced([run(1, ended), run(2), run(3)], ending)) == [2, 3]


def test_the_oldest_run_of_a_full_list_is_announced_when_it_ends() -> None:
    newer = [run(number) for number in range(11, 15)]
    state = first_look([run(10, RunStatus.RUNNING), *newer], "succeeded")
    assert ids(state.unannounced([run(10), *newer], "succeeded")) == [10]


def test_news_come_in_the_order_in_which_they_ended() -> None:
    state = first_look([], "succeeded")
    assert ids(state.unannounced([run(3, ended=1), run(1, ended=9), run(2, ended=5)], "succeeded")) == [3, 2, 1]


def test_a_run_that_does_not_say_when_it_ended_comes_first() -> None:
    state = first_look([], "succeeded")
    without_time = run(2).model_copy(update={"end_time": None})
    assert ids(state.unannounced([run(1), without_time, run(3)], "succeeded")) == [2, 1, 3]


@pytest.mark.parametrize("shown", [[], [2], [1, 3]], ids=str)
def test_a_list_that_lacks_runs_once_announces_none_twice(shown: list[int]) -> None:
    state = first_look([run(1), run(2), run(3)], "succeeded")
    state = after(state, [], [run(number) for number in shown])
    assert state.unannounced([run(1), run(2), run(3)], "succeeded") == []


def test_of_what_is_no_longer_in_view_the_newest_are_remembered() -> None:
    state = AnnouncedRuns(run_ids=tuple(range(1, MAX_OUT_OF_VIEW + 3)))  # number 1 is listed, the others are not
    assert state.after([], [run(1)], is_full=False).run_ids == (1, *range(3, MAX_OUT_OF_VIEW + 3))


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
    state = first_look([], "any")
    assert {ending for ending in RUN_ENDINGS if state.unannounced([run(1, status)], ending)} == endings


def test_a_failure_that_is_restarted_and_succeeds_is_announced_then() -> None:
    state = first_look([run(1, RunStatus.FAILURE)], "succeeded")
    assert ids(state.unannounced([run(1)], "succeeded")) == [1]


def test_a_run_that_comes_back_into_view_is_not_announced() -> None:
    """Deleting newer runs brings older ones back into a list of limited length."""
    state = first_look([run(number) for number in range(10, 15)], "succeeded")
    assert state.unannounced([run(number) for number in range(8, 13)], "succeeded") == []


def test_a_full_list_without_anything_known_is_said_to_be_cut_off() -> None:
    state = first_look([run(1)], "succeeded")
    assert not misses_runs(state, [run(number) for number in range(1, 6)])
    assert misses_runs(state, [run(number) for number in range(3, 8)])
    assert not misses_runs(state, [run(9)])


def test_a_list_is_not_cut_off_because_none_of_the_runs_that_were_seen_was_announced() -> None:
    seen = [run(number, RunStatus.FAILED) for number in range(1, LONGEST + 1)]
    state = first_look(seen, "succeeded")
    assert not misses_runs(state, [*seen[1:], run(LONGEST + 1, RunStatus.FAILED)])


def test_a_full_list_is_cut_off_after_an_empty_one() -> None:
    state = first_look([], "succeeded")
    assert not misses_runs(state, [])
    assert misses_runs(state, [run(number) for number in range(3, 8)])


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
            state = first_look(listed, ending)
            continue
        news = state.unannounced(listed, ending)
        announced += ids(news)
        state = AnnouncedRuns.from_json(after(state, news, listed).to_json())
        assert state is not None
        assert len(state.run_ids) <= LONGEST
    assert len(announced) == len(set(announced))


@pytest.mark.parametrize("value", [{"format": 1}, {"format": 2, "run_ids": 3}, [1], "x", None])
def test_what_cannot_be_read_is_not_taken_for_nothing(value: object) -> None:
    with pytest.raises(ValueError, match=r"format 1|run_ids|must be a JSON object"):
        AnnouncedRuns.from_json(value)


@pytest.mark.parametrize("changes", [{"run_ids": None}, {"floor": None}, {"one_more": [1]}], ids=str)
def test_a_record_of_another_version_is_understood(changes: dict[str, object]) -> None:
    """A field more after a rollback, one less after an upgrade."""
    written = AnnouncedRuns(run_ids=(3, 4), floor=2, newest=9).to_json() | changes
    read = AnnouncedRuns.from_json({name: value for name, value in written.items() if value is not None})
    assert read.newest == 9
    assert read.run_ids == (() if "run_ids" in changes else (3, 4))
    assert read.floor == (0 if "floor" in changes else 2)
