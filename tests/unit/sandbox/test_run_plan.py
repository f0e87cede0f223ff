from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from airflow_provider_sequentum.sandbox.run_plan import TERMINAL, Attempt, RunPlan, RunStatus

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def attempt(**plan: object) -> Attempt:
    return Attempt(plan=RunPlan.model_validate({"duration": 10} | plan), requested=T0, admitted=T0)


def names(subject: Attempt, *seconds: float) -> list[str]:
    return [status.name if isinstance(status := subject.status(at(s)), RunStatus) else str(status) for s in seconds]


def test_a_run_passes_through_its_phases() -> None:
    assert names(attempt(), 0, 0.9, 1, 8.9, 9, 9.9, 10) == [
        "Starting",
        "Starting",
        "Running",
        "Running",
        "Exporting",
        "Exporting",
        "Success",
    ]


def test_it_is_held_until_it_is_admitted() -> None:
    held = Attempt(plan=RunPlan(), requested=T0, hold=RunStatus.Waiting)
    assert held.held
    assert held.end() is None
    assert names(held, 0, 10_000) == ["Waiting", "Waiting"]


@pytest.mark.parametrize("outcome", [status.name for status in TERMINAL])
def test_it_ends_in_its_outcome(outcome: str) -> None:
    assert names(attempt(outcome=outcome), 10) == [outcome]


def test_a_skipped_run_never_works() -> None:
    skipped = attempt(outcome="Skipped")
    assert skipped.end() == T0
    assert skipped.started(at(5)) is None


@pytest.mark.parametrize("rest", ["Running", "Waiting", "UpdatingDataSet", "Invalid"])
def test_a_rest_that_is_not_terminal_lasts(rest: str) -> None:
    assert attempt(outcome=rest).end() is None
    assert names(attempt(outcome=rest), 5, 10**8) == [rest, rest]


def test_an_unknown_status_can_stand_in_for_running() -> None:
    assert attempt(working_status=42).status(at(5)) == 42


def test_waiting_on_failure_delays_the_failure() -> None:
    failing = attempt(outcome="Failure").model_copy(update={"failure_wait": 5.0})
    assert names(failing, 10, 14.9, 15) == ["Waiting", "Waiting", "Failure"]


def test_a_stop_is_graceful() -> None:
    stopped = attempt(stop_seconds=2).model_copy(update={"stop_requested": at(5)})
    assert names(stopped, 4.9, 5, 6.9, 7, 100) == ["Running", "Stopping", "Stopping", "Stopped", "Stopped"]


def test_a_stop_that_is_ignored_needs_a_kill() -> None:
    stuck = attempt(ignores_stop=True).model_copy(update={"stop_requested": at(5)})
    assert names(stuck, 10**6) == ["Stopping"]
    killed = stuck.model_copy(update={"killed": at(30)})
    assert names(killed, 29, 30) == ["Stopping", "Stopped"]


def test_an_unknown_outcome_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValidationError, match="one of Invalid, Running"):
        RunPlan(outcome="Succes")


@given(
    duration=st.floats(0, 1000),
    stop=st.none() | st.floats(0, 1000),
    moments=st.lists(st.floats(0, 3000), min_size=2, max_size=6).map(sorted),
)
def test_counts_never_shrink_and_an_end_is_final(duration: float, stop: float | None, moments: list[float]) -> None:
    subject = attempt(duration=duration).model_copy(update={"stop_requested": at(stop) if stop is not None else None})
    shares = [subject.extracted_share(at(moment)) for moment in moments]
    assert shares == sorted(shares)
    assert all(0 <= share <= 1 for share in shares)
    ends = [subject.status(at(moment)) in TERMINAL for moment in moments]
    assert ends == sorted(ends)


def test_nothing_comes_of_a_stop_until_its_delay_has_passed() -> None:
    attempt = Attempt(plan=RunPlan(duration=100, stop_delay=20, stop_seconds=5), requested=T0, admitted=T0)
    attempt.stop(at(30))
    assert [attempt.status(at(s)) for s in (31, 49, 50, 54, 55)] == [
        RunStatus.Running,
        RunStatus.Running,
        RunStatus.Stopping,
        RunStatus.Stopping,
        RunStatus.Stopped,
    ]
    assert attempt.extracted_share(at(49)) > attempt.extracted_share(at(31))


def test_a_run_that_ends_before_its_stop_takes_effect_ends_as_planned() -> None:
    attempt = Attempt(plan=RunPlan(duration=40, stop_delay=20), requested=T0, admitted=T0)
    attempt.stop(at(30))
    assert attempt.end() == at(40)
    assert attempt.status(at(40)) is RunStatus.Success
    assert attempt.status(at(1000)) is RunStatus.Success


def test_a_queued_run_with_a_delayed_stop_stops_in_the_queue() -> None:
    attempt = Attempt(plan=RunPlan(stop_delay=20, stop_seconds=5), requested=T0)
    attempt.stop(at(1))
    assert [attempt.status(at(s)) for s in (20, 21, 26)] == [
        RunStatus.Queuing,
        RunStatus.Stopping,
        RunStatus.Stopped,
    ]
