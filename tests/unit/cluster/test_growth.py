"""Growth is told from the ups and downs of a steady load."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster.growth import Sample, growths

IDLE: dict[str, Any] = {"waits": 0, "memory": 200.0, "handles": 40, "connections": 0, "tasks": 8, "objects": 300_000}
BUSY: dict[str, Any] = {**IDLE, "waits": 20, "memory": 210.0, "handles": 50, "connections": 5, "tasks": 30}


def sample(at: float = 0, **fields: Any) -> Sample:
    return Sample(at=at, **fields)


def load(name: str = "waits", per_sample: float = 0) -> list[Sample]:
    """Twenty minutes of ups and downs, with one figure growing steadily."""
    return [
        sample(number, **{**BUSY, "tasks": 30 + number % 7, name: BUSY[name] + number % 3 + per_sample * number})
        for number in range(60)
    ]


def test_ups_and_downs_are_no_growth() -> None:
    assert growths(sample(**IDLE), load(), sample(**IDLE)) == []


@pytest.mark.parametrize(
    ("name", "per_sample"), [("memory", 2), ("objects", 2000), ("handles", 1), ("connections", 0.5), ("tasks", 1.5)]
)
def test_what_grows_is_named(name: str, per_sample: float) -> None:
    [found] = growths(sample(**IDLE), load(name, per_sample), sample(**IDLE))
    assert found.startswith(f"{name} grew from")


@pytest.mark.parametrize(("name", "left"), [("handles", 60), ("connections", 5), ("tasks", 20), ("waits", 1)])
def test_what_is_left_after_the_load_is_named(name: str, left: int) -> None:
    [found] = growths(sample(**IDLE), load(), sample(**{**IDLE, name: left}))
    assert name in found


def test_too_few_samples_are_not_judged() -> None:
    with pytest.raises(ValueError, match="too few"):
        growths(sample(**IDLE), load()[:8], sample(**IDLE))
