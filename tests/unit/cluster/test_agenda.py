"""What is due is done in order, again if it has to be, and until told to stop."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster.agenda import Agenda


def test_actions_are_done_in_the_order_of_their_moments() -> None:
    agenda, stop, done = Agenda(), threading.Event(), []
    now = time.monotonic()
    agenda.add(now + 0.02, stop.set)
    agenda.add(now + 0.01, lambda: done.append("second"))
    agenda.add(now, lambda: done.append("first"))
    agenda.work(stop)
    assert done == ["first", "second"]
    assert agenda.is_empty()


def test_what_can_not_be_done_is_tried_again() -> None:
    agenda, stop, answers = Agenda(), threading.Event(), [0.0, 0.01, None]
    tries: list[float | None] = []

    def action() -> float | None:
        tries.append(answers[len(tries)])
        if len(tries) == len(answers):
            stop.set()
        return tries[-1]

    agenda.add(time.monotonic(), action)
    agenda.work(stop)
    assert tries == answers


def test_an_action_may_add_others() -> None:
    agenda, stop, done = Agenda(), threading.Event(), []

    def add_another() -> None:
        agenda.add(time.monotonic(), stop.set)
        done.append(1)

    agenda.add(time.monotonic(), add_another)
    agenda.work(stop)
    assert done == [1]
    assert agenda.is_empty()


def test_what_breaks_is_not_kept_secret() -> None:
    agenda = Agenda()
    agenda.add(time.monotonic(), lambda: 1 / 0)
    with ThreadPoolExecutor(1) as threads, pytest.raises(ZeroDivisionError):
        threads.submit(agenda.work, threading.Event()).result()
