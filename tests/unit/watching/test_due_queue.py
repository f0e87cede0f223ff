from __future__ import annotations

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sequentum.watching.watch_list import DueQueue


def drained(queue: DueQueue[str]) -> list[tuple[float, str]]:
    items = []
    while (first := queue.first())[1] is not None:
        items.append((first[0], first[1]))
        queue.drop(first[1])
    return items


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.one_of(st.none(), st.integers(0, 9)))))
def test_what_is_due_first_comes_first_whatever_was_changed_before(changes: list[tuple[str, int | None]]) -> None:
    """``None`` drops the item."""
    queue: DueQueue[str] = DueQueue()
    due: dict[str, float] = {}
    for item, at in changes:
        if at is None:
            queue.drop(item)
            due.pop(item, None)
        else:
            queue.put(item, at)
            due[item] = at
        assert (item in queue, queue.due_at(item)) == (item in due, due.get(item, math.inf))
    items = drained(queue)
    assert [at for at, _ in items] == sorted(due.values())
    assert {item: at for at, item in items} == due
    assert queue.first() == (math.inf, None)


def test_what_is_due_at_the_same_time_comes_in_turn() -> None:
    queue: DueQueue[str] = DueQueue()
    for item in "bca":
        queue.put(item, 5.0)
    queue.put("b", 5.0)
    assert [item for _, item in drained(queue)] == ["b", "c", "a"]


def test_entries_that_are_out_of_date_do_not_pile_up() -> None:
    queue: DueQueue[int] = DueQueue()
    for number in range(100_000):
        queue.put(number % 10, 1e9 + number)
        queue.put(-number, 1e9)
        queue.drop(-number)
    assert len(queue._heap) <= 200


@pytest.mark.parametrize("items", [20_000])
def test_a_choice_among_many_costs_little(items: int) -> None:
    """The time is a bound that only a choice that looks at all of them misses."""
    queue: DueQueue[int] = DueQueue()
    for item in range(items):
        queue.put(item, float(item % 7))
    began = time.process_time()
    for now in range(2000):
        _, first = queue.first()
        assert first is not None
        queue.put(first, now + 10.0)
    assert (time.process_time() - began) / 2000 < 0.001
