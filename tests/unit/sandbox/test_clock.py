from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from airflow_provider_sequentum.sandbox.clock import Clock

START = datetime(2026, 1, 1, tzinfo=UTC)


class _Real:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_time_runs_at_its_scale() -> None:
    real = _Real()
    clock = Clock(scale=60, start=START, monotonic=real)
    real.seconds = 2
    assert clock.now() == START + timedelta(minutes=2)


def test_a_new_scale_applies_from_now_on() -> None:
    real = _Real()
    clock = Clock(start=START, monotonic=real)
    real.seconds = 10
    clock.set_scale(100)
    assert clock.now() == START + timedelta(seconds=10)
    real.seconds = 11
    assert clock.now() == START + timedelta(seconds=110)


def test_advancing_adds_to_running_time() -> None:
    real = _Real()
    clock = Clock(start=START, monotonic=real)
    real.seconds = 1
    assert clock.advance(5) == START + timedelta(seconds=6)


@pytest.mark.parametrize("seconds", [-1, -0.001])
def test_time_does_not_run_backwards(seconds: float) -> None:
    with pytest.raises(ValueError, match="forward"):
        Clock().advance(seconds)


@pytest.mark.parametrize("scale", [0, -3])
def test_time_does_not_stand_still(scale: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Clock(scale)
