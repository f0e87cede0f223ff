from __future__ import annotations

from itertools import product
from typing import get_args

import pytest

from airflow_provider_sequentum.parameters import OnClear, RetryMode
from airflow_provider_sequentum.runs.phases import NextStep, Phase, next_step

ON_CLEAR, RETRY_MODES = get_args(OnClear), get_args(RetryMode)

# A retry of the same work: what becomes of the run of the attempt before.
RETRY = {
    (None, "restart_or_new"): NextStep.START,
    (None, "restart"): NextStep.START,
    (None, "new"): NextStep.START,
    (Phase.ACTIVE, "restart_or_new"): NextStep.JOIN,
    (Phase.ACTIVE, "restart"): NextStep.JOIN,
    (Phase.ACTIVE, "new"): NextStep.JOIN,
    (Phase.UNKNOWN, "restart_or_new"): NextStep.JOIN,
    (Phase.UNKNOWN, "restart"): NextStep.JOIN,
    (Phase.UNKNOWN, "new"): NextStep.JOIN,
    (Phase.SUCCEEDED, "restart_or_new"): NextStep.JOIN,
    (Phase.SUCCEEDED, "restart"): NextStep.JOIN,
    (Phase.SUCCEEDED, "new"): NextStep.JOIN,
    (Phase.SKIPPED, "restart_or_new"): NextStep.JOIN,
    (Phase.SKIPPED, "restart"): NextStep.JOIN,
    (Phase.SKIPPED, "new"): NextStep.JOIN,
    (Phase.RESTARTABLE, "restart_or_new"): NextStep.RESTART,
    (Phase.RESTARTABLE, "restart"): NextStep.RESTART,
    (Phase.RESTARTABLE, "new"): NextStep.START,
    (Phase.ARCHIVED, "restart_or_new"): NextStep.START,
    (Phase.ARCHIVED, "restart"): NextStep.REFUSE,
    (Phase.ARCHIVED, "new"): NextStep.START,
    (Phase.STOPPED, "restart_or_new"): NextStep.START,
    (Phase.STOPPED, "restart"): NextStep.START,
    (Phase.STOPPED, "new"): NextStep.START,
}
PHASES = [None, *Phase]
EVERYTHING = list(product(PHASES, [True, False], [True, False], [True, False], [True, False], ON_CLEAR, RETRY_MODES))


def decide(phase: Phase | None, **changes: object) -> NextStep:
    situation = {
        "is_same_work": True,
        "was_cleared": False,
        "is_rejected": False,
        "is_stopping": False,
        "on_clear": "rerun",
        "retry_mode": "restart_or_new",
        **changes,
    }
    return next_step(phase, **situation)  # type: ignore[arg-type]


def test_the_table_of_retries_is_complete() -> None:
    assert set(RETRY) == set(product(PHASES, RETRY_MODES))


@pytest.mark.parametrize(("phase", "retry_mode"), sorted(RETRY, key=str))
@pytest.mark.parametrize("on_clear", ON_CLEAR)
def test_a_retry(phase: Phase | None, retry_mode: str, on_clear: str) -> None:
    assert decide(phase, retry_mode=retry_mode, on_clear=on_clear) is RETRY[phase, retry_mode]


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("retry_mode", RETRY_MODES)
@pytest.mark.parametrize("on_clear", ON_CLEAR)
def test_a_cleared_task_never_returns_a_run_that_is_over(phase: Phase | None, retry_mode: str, on_clear: str) -> None:
    decision = decide(phase, was_cleared=True, on_clear=on_clear, retry_mode=retry_mode)
    if phase is None or phase.is_over:
        assert decision is NextStep.START
    else:
        assert decision is (NextStep.JOIN if on_clear == "join" else NextStep.STOP_AND_START)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("reason", [{"is_same_work": False}, {"is_rejected": True}])
@pytest.mark.parametrize("retry_mode", RETRY_MODES)
def test_a_useless_run_is_replaced(phase: Phase | None, reason: dict[str, bool], retry_mode: str) -> None:
    is_running = phase is not None and not phase.is_over
    assert decide(phase, retry_mode=retry_mode, **reason) is (NextStep.STOP_AND_START if is_running else NextStep.START)


def test_a_run_that_is_being_stopped_is_waited_out_and_replaced() -> None:
    assert decide(Phase.ACTIVE, is_stopping=True) is NextStep.STOP_AND_START
    assert decide(Phase.ACTIVE, is_stopping=True, was_cleared=True, on_clear="join") is NextStep.STOP_AND_START


@pytest.mark.parametrize(
    ("phase", "is_same_work", "was_cleared", "is_rejected", "is_stopping", "on_clear", "retry_mode"), EVERYTHING
)
def test_in_every_situation(
    phase: Phase | None,
    is_same_work: bool,
    was_cleared: bool,
    is_rejected: bool,
    is_stopping: bool,
    on_clear: str,
    retry_mode: str,
) -> None:
    decision = next_step(
        phase,
        is_same_work=is_same_work,
        was_cleared=was_cleared,
        is_rejected=is_rejected,
        is_stopping=is_stopping,
        on_clear=on_clear,
        retry_mode=retry_mode,
    )
    is_running = phase is not None and not phase.is_over
    # No second run beside one that is going, and nothing stopped or restarted that is not there to be.
    assert (decision is NextStep.START) <= (not is_running)
    assert (decision is NextStep.STOP_AND_START) <= is_running
    assert (decision is NextStep.RESTART) <= (phase is Phase.RESTARTABLE)
    assert (decision is NextStep.REFUSE) <= (retry_mode == "restart" and phase is Phase.ARCHIVED)
    # What is returned was asked for.
    assert (decision is NextStep.JOIN and not is_running) <= (is_same_work and not was_cleared and not is_rejected)
