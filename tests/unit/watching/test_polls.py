from __future__ import annotations

import pytest

from airflow_provider_sequentum.api.errors import HttpStatusError
from airflow_provider_sequentum.api.parsing import Page
from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.watching.polls import Listener


def runs(newest: int, count: int, *, running: int = 0) -> list[Run]:
    numbers = range(newest, newest - count, -1)
    return [
        Run.model_validate({"id": number, "configId": 7, "status": 1 if number == running else 10})
        for number in numbers
    ]


async def heard(listener: Listener, listed: list[Run]) -> tuple[int, bool]:
    """Let a listener ask until it has what it wants; return how much that was and whether there may be more."""
    while listener.notify(listed[: listener.list_size], listener.list_size):
        pass
    found, is_full = await listener.next_listing()
    return len(found), is_full


async def test_a_list_that_is_cut_is_asked_for_again_in_full() -> None:
    listener = Listener(7, 60.0)
    assert listener.list_size == 1000
    assert await heard(listener, runs(300, 300)) == (300, False)
    assert listener.list_size == 200
    assert await heard(listener, runs(700, 700)) == (700, False)


async def test_a_list_of_known_runs_is_not_asked_for_again() -> None:
    listener = Listener(7, 60.0)
    await heard(listener, runs(300, 300))
    assert await heard(listener, runs(301, 301)) == (200, True)


async def test_a_run_that_is_still_running_stays_in_view() -> None:
    listener = Listener(7, 60.0)
    for newest in (300, 420, 500):
        await heard(listener, runs(newest, newest, running=150))
        assert listener.list_size > newest - 150


async def test_the_longest_list_is_not_asked_for_twice() -> None:
    listener = Listener(7, 60.0)
    await heard(listener, runs(10, 10))
    assert await heard(listener, runs(1500, 1490)) == (1000, True)


async def test_an_error_is_raised_after_what_was_heard_before() -> None:
    listener = Listener(7, 60.0)
    listener.notify([], 1000)
    listener.fail(HttpStatusError("Down.", status_code=503))
    assert await listener.next_listing() == ([], False)
    with pytest.raises(HttpStatusError, match="Down"):
        await listener.next_listing()


def test_what_cannot_be_read_counts_for_the_length_of_a_list() -> None:
    listener = Listener(7, 60.0)
    listener.notify(runs(1, 1), 200)
    assert listener.notify(Page(runs(4, 2), unreadable=1), 3), "older ones may have come since"
