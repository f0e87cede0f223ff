from __future__ import annotations

import heapq
import itertools
import random
import threading
from collections import deque
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_sequentum.api.budget import FIRST_PACE, MAX_PAUSE, PollPace, RequestBudget, budget_of
from airflow_provider_sequentum.api.errors import HttpStatusError
from airflow_provider_sequentum.api.retry import seconds_to_wait
from airflow_provider_sequentum.api.settings import DEFAULT_MAX_ATTEMPTS

LIMIT, WINDOW = 100, 60.0
HEADERS = {"x-ratelimit-limit": str(LIMIT), "x-ratelimit-window-seconds": str(WINDOW)}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class SlidingWindow:
    """The strictest limiter: no window of any position holds more than the limit. No queue."""

    def __init__(self) -> None:
        self._accepted: deque[float] = deque()

    def refuses_for(self, now: float) -> float | None:
        while self._accepted and self._accepted[0] <= now - WINDOW:
            self._accepted.popleft()
        if len(self._accepted) >= LIMIT:
            return self._accepted[0] + WINDOW - now
        self._accepted.append(now)
        return None


class FixedWindow:
    """Windows one after another, starting at any moment; as the service has it, without the queue."""

    def __init__(self, offset: float = 0.0) -> None:
        self._offset = offset
        self._window = -1.0
        self._count = 0

    def refuses_for(self, now: float) -> float | None:
        window = (now + self._offset) // WINDOW
        if window != self._window:
            self._window, self._count = window, 0
        if self._count >= LIMIT:
            return (window + 1) * WINDOW - self._offset - now
        self._count += 1
        return None


Limiter = SlidingWindow | FixedWindow


def simulate(limiter: Limiter, clients: list[int], latency: Callable[[], float]) -> tuple[list[int], float]:
    """Let clients with budgets of their own send their numbers of requests at once; count refusals per request.

    :return: how often each request was refused, and when the last one was answered.
    """
    clock = Clock()
    budgets = [RequestBudget(clock) for _ in clients]
    order = itertools.count()
    refusals: dict[tuple[int, int], int] = {
        (client, number): 0 for client, count in enumerate(clients) for number in range(count)
    }
    events = [(0.0, next(order), "try", request) for request in refusals]
    while events:
        clock.now, _, what, request = heapq.heappop(events)
        budget = budgets[request[0]]
        if what == "try":
            wait = budget.admit()
            at, following = (clock.now + wait, "try") if wait else (clock.now + latency(), "arrive")
        elif what == "arrive":
            refused_for = limiter.refuses_for(clock.now)
            at, following = clock.now + latency(), "answer" if refused_for is None else f"refuse {refused_for}"
        elif what == "answer":
            budget.settle(HEADERS)
            continue
        else:
            refused_for = float(what.split()[1])
            budget.settle(HEADERS, refused_for=refused_for)
            refusals[request] += 1
            at, following = clock.now + refused_for + random.random(), "try"
        heapq.heappush(events, (at, next(order), following, request))
    return list(refusals.values()), clock.now


@pytest.mark.parametrize("limiter", [SlidingWindow(), FixedWindow(offset=25)])
def test_a_burst_of_1000_calls_alone_on_the_key_meets_no_refusal(limiter: Limiter) -> None:
    refusals, finished = simulate(limiter, [1000], lambda: random.uniform(0.01, 3))

    assert sum(refusals) == 0
    assert finished < 12 * WINDOW


@pytest.mark.parametrize("limiter", [SlidingWindow(), FixedWindow()])
def test_two_processes_on_one_key_get_every_call_answered_within_the_attempts(limiter: Limiter) -> None:
    refusals, finished = simulate(limiter, [500, 500], lambda: random.uniform(0.01, 1))

    assert max(refusals) < 10
    assert finished < 40 * WINDOW


def poll_and_start(limiter: Limiter, pollers: int, minutes: int) -> tuple[list[bool], list[int]]:
    """Let processes poll without end with their shares of the key, beside a start every second by a process of its own.

    :return: for each poll of the second half, whether it was refused; and how often each start was.
    """
    clock, generator, order = Clock(), random.Random(1), itertools.count()
    budgets = [RequestBudget(clock) for _ in range(pollers)]
    polls: list[tuple[float, bool]] = []
    starts = [0] * (60 * minutes)
    events: list[tuple[float, int, str, int]] = []

    def plan(seconds: float, what: str, who: int) -> None:
        heapq.heappush(events, (clock.now + seconds, next(order), what, who))

    for poller in range(pollers):
        plan(generator.random(), "poll", poller)
    for second in range(len(starts)):
        plan(second, "start", second)
    while events[0][0] < 60 * minutes:
        clock.now, _, what, who = heapq.heappop(events)
        if what == "start":
            if (refused_for := limiter.refuses_for(clock.now)) is not None:
                starts[who] += 1
                error = HttpStatusError("Too many.", retry_after=refused_for, status_code=429)
                plan(seconds_to_wait(error, starts[who], generator.random()), "start", who)
        elif (wait := budgets[who].turn(share=0.8)) > 0:
            plan(wait, "poll", who)
        else:
            refused_for = limiter.refuses_for(clock.now)
            polls.append((clock.now, refused_for is not None))
            budgets[who].settle(HEADERS, refused_for=refused_for, took=0.0)
            plan(0.1, "poll", who)
    return [refused for at, refused in polls if at > 30 * minutes], starts


@pytest.mark.parametrize("pollers", [2, 6])
@pytest.mark.parametrize("limiter", [SlidingWindow, FixedWindow])
def test_triggerers_settle_on_what_starts_leave_of_the_key(limiter: Callable[[], Limiter], pollers: int) -> None:
    polls, starts = poll_and_start(limiter(), pollers, minutes=60)

    assert max(starts) < 2 * DEFAULT_MAX_ATTEMPTS
    assert 25 < len(polls) / 30 < 50  # a minute, of the 40 that are left
    assert sum(polls) / 30 < pollers  # less than one refusal a minute for each


@settings(deadline=None, max_examples=50)
@given(latencies=st.lists(st.floats(0.0, 90.0), min_size=1, max_size=20), offset=st.floats(0.0, WINDOW))
def test_no_latency_and_no_position_of_the_windows_leads_to_a_refusal(latencies: list[float], offset: float) -> None:
    for limiter in (SlidingWindow(), FixedWindow(offset)):
        cycle = itertools.cycle(latencies)
        refusals, _ = simulate(limiter, [250], lambda cycle=cycle: next(cycle))  # type: ignore[misc]
        assert sum(refusals) == 0


def test_polling_with_a_share_leaves_room_for_a_start() -> None:
    budget = RequestBudget(Clock())

    polls = sum(budget.admit(share=0.8) == 0 for _ in range(200))
    starts = sum(budget.admit() == 0 for _ in range(200))

    assert (polls, starts) == (80, 20)


def test_a_client_may_set_itself_a_lower_limit() -> None:
    budget = RequestBudget(Clock())

    assert sum(budget.admit(per_minute=30) == 0 for _ in range(200)) == 30


def test_the_wait_ends_when_the_oldest_answer_is_a_window_old() -> None:
    clock = Clock()
    budget = RequestBudget(clock)
    for _ in range(LIMIT):
        budget.admit()
    clock.now = 5.0
    for _ in range(LIMIT):
        budget.settle(HEADERS)

    clock.now = 20.0
    assert budget.admit() == pytest.approx(45.0, abs=0.1)
    clock.now = 65.1
    assert budget.admit() == 0.0


def test_the_limit_is_learnt_from_the_headers() -> None:
    clock = Clock()
    budget = RequestBudget(clock)
    budget.admit()
    budget.settle({"x-ratelimit-limit": "10", "x-ratelimit-window-seconds": "5"})

    assert sum(budget.admit() == 0 for _ in range(50)) == 9
    clock.now = 6.0
    assert budget.admit() == 0.0


@pytest.mark.parametrize("value", ["0", "-5", "nan", "inf", "1e400", "", "x", "99999999999999999999"])
def test_hostile_headers_teach_nothing(value: str) -> None:
    budget = RequestBudget(Clock())
    budget.admit()
    budget.settle({"x-ratelimit-limit": value, "x-ratelimit-window-seconds": value})

    assert sum(budget.admit() == 0 for _ in range(500)) == LIMIT - 1


def test_a_refusal_holds_everyone_back_and_halves_what_is_taken_once() -> None:
    clock = Clock()
    budget = RequestBudget(clock)
    for _ in range(3):
        budget.admit()
    for _ in range(3):
        budget.settle(HEADERS, refused_for=30)

    assert budget.admit() == 30.0
    clock.now = 30.0
    assert sum(budget.admit() == 0 for _ in range(200)) == LIMIT // 2 - 3


def test_what_is_urgent_is_admitted_whatever_is_left() -> None:
    budget = RequestBudget(Clock())
    budget.admit()
    budget.settle(HEADERS, refused_for=30)

    assert {budget.admit(urgent=True) for _ in range(LIMIT + 1)} == {0.0}
    assert budget.admit() == 30.0


def test_a_stop_waits_for_the_limit_of_the_key_only() -> None:
    budget = RequestBudget(Clock())
    for _ in range(3):
        budget.admit()
    for _ in range(3):
        budget.settle(HEADERS, refused_for=86_400)

    assert budget.admit(per_minute=1) == MAX_PAUSE
    assert sum(budget.admit(per_minute=1, is_of_stop=True) == 0 for _ in range(2 * LIMIT)) == LIMIT - 3
    assert budget.admit(is_of_stop=True) > 0


def test_while_a_stop_waits_nothing_else_is_admitted() -> None:
    clock = Clock()
    budget = RequestBudget(clock)
    for _ in range(LIMIT):
        budget.admit()
        budget.settle(HEADERS)
    assert budget.admit(is_of_stop=True, goes_first=True) > 0
    clock.now += WINDOW
    assert budget.admit(is_of_stop=True, goes_first=True) > 0
    clock.now += 0.5
    assert min(budget.admit(), budget.admit(share=0.5, is_poll=True), budget.admit(is_of_stop=True)) > 0
    assert budget.admit(urgent=True) == 0
    assert budget.admit(is_of_stop=True, goes_first=True) == 0
    clock.now += 1
    assert budget.admit() == 0


def test_what_a_refusal_took_comes_back_window_by_window() -> None:
    clock = Clock()
    budget = RequestBudget(clock)
    budget.admit()
    budget.settle(HEADERS, refused_for=1)

    for _ in range(5):
        clock.now += WINDOW + 1
        budget.admit()
        budget.settle(HEADERS)
    clock.now += WINDOW + 1

    assert sum(budget.admit() == 0 for _ in range(200)) == LIMIT


def test_a_pause_is_bounded() -> None:
    budget = RequestBudget(Clock())
    budget.admit()
    budget.settle(refused_for=86_400)

    assert budget.admit() == MAX_PAUSE


def test_threads_never_get_more_than_the_limit_between_them() -> None:
    budget = RequestBudget(Clock())
    admitted: list[float] = []

    def work() -> None:
        admitted.extend(wait for wait in (budget.admit() for _ in range(100)) if wait == 0)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(admitted) == LIMIT


def test_clients_of_one_key_share_a_budget() -> None:
    assert budget_of("https://a.example:443", "key") is budget_of("https://a.example:443", "key")
    assert budget_of("https://a.example:443", "key") is not budget_of("https://b.example:443", "key")
    assert budget_of("https://a.example:443", "key") is not budget_of("https://a.example:443", "other")


def test_an_even_pace_uses_up_the_share_over_the_window() -> None:
    budget = RequestBudget(Clock())
    budget.pace.level = 1.0

    assert budget.spacing() == 0.6
    assert budget.spacing(share=0.8) == 0.75
    assert budget.spacing(per_minute=30) == 2.0


def test_a_signal_handler_may_use_the_budget_while_its_own_thread_is_inside() -> None:
    class Interrupting(Clock):
        def __call__(self) -> float:
            if not self.interrupted:
                self.interrupted = True
                budget.admit()
                budget.settle()
            return self.now

        interrupted = True

    clock = Interrupting()
    budget = RequestBudget(clock)
    clock.interrupted = False

    assert budget.admit() == 0.0


# The pace of polls


def test_a_level_that_held_is_raised_and_one_that_is_not_used_is_not() -> None:
    pace = PollPace()
    pace.window_passed(in_use=False)
    assert pace.level == FIRST_PACE
    for _ in range(10):
        pace.window_passed(in_use=True)
    assert pace.level == 1.0


@pytest.mark.parametrize(("excess", "factor"), [(0.02, 0.9), (0.25, 0.5625), (0.9, 0.4)])
def test_the_level_falls_by_what_was_too_much(excess: float, factor: float) -> None:
    pace = PollPace()
    assert pace.exceeded(excess, now=0.0)
    assert pace.level == pytest.approx(FIRST_PACE * factor)


def test_news_of_one_window_counts_once_and_as_the_worst_of_it() -> None:
    pace = PollPace()
    assert pace.exceeded(0.1, now=0.0)
    assert not pace.exceeded(0.1, now=1.0)
    assert pace.exceeded(0.25, now=2.0)
    assert pace.level == pytest.approx(FIRST_PACE * 0.5625)


def poll(budget: RequestBudget, clock: Clock, seconds: float) -> None:
    while (wait := budget.turn(share=0.8)) > 0:
        clock.now += wait
    clock.now += seconds
    budget.settle(HEADERS, took=seconds)


def test_a_poll_that_is_held_lowers_the_pace_without_a_refusal() -> None:
    clock = Clock()
    budget = RequestBudget(clock)
    for _ in range(10):
        poll(budget, clock, 0.2)
    level = budget.pace.level
    poll(budget, clock, 12.0)
    assert budget.pace.level == pytest.approx(level * 0.64, rel=0.01)


def test_polls_pause_while_they_seem_to_be_held_and_starts_do_not() -> None:
    clock = Clock()
    budget = RequestBudget(clock)
    assert budget.turn(share=0.8) == 0
    clock.now += 4.0
    assert budget.turn(share=0.8) > 0
    assert budget.admit() == 0


def test_an_agent_that_does_not_answer_does_not_stop_the_others() -> None:
    clock = Clock()
    budget = RequestBudget(clock)
    assert budget.turn(share=0.8) == 0  # never answered
    clock.now += 2.4
    poll(budget, clock, 0.2)
    clock.now += 10.0
    assert budget.turn(share=0.8) == 0


def test_a_poll_that_will_find_something_takes_the_place_of_a_later_one() -> None:
    clock = Clock()
    clock.now = 1000.0
    budget = RequestBudget(clock)
    spacing = budget.spacing(share=0.8)
    while budget.turn(share=0.8) == 0:
        pass
    assert [budget.turn(share=0.8, is_hinted=True) for _ in range(2)] == [0, 0]
    assert budget.turn(share=0.8, is_hinted=True) > 0
    assert budget.turn(share=0.8) == pytest.approx(3 * spacing)


def test_after_a_held_answer_the_next_window_is_used_less() -> None:
    clock = Clock()
    budget = RequestBudget(clock)
    assert budget.turn(share=0.8) == 0
    clock.now += 10.0
    budget.settle(HEADERS, took=10.0)
    assert budget.spacing(share=0.8) > 60 / (LIMIT * budget.pace.level)
    in_relief = budget.spacing(share=0.8)
    clock.now += WINDOW
    assert budget.spacing(share=0.8) < in_relief
