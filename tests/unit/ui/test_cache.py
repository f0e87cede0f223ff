"""What the API server asks: once for all, within four requests a minute, the most urgent first."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, Any, Self

import pytest
from airflow.providers.common.compat.sdk import AirflowPlugin

from airflow_provider_sequentum.api import ClientSettings
from airflow_provider_sequentum.api.errors import ConnectionNotMade
from airflow_provider_sequentum.exceptions import SequentumConnectionNotFound
from airflow_provider_sequentum.ui.cache import REQUESTS_PER_MINUTE, RETRY_AFTER, WINDOW, Known, Question, ServiceCache

if TYPE_CHECKING:
    from collections.abc import Callable

if not hasattr(AirflowPlugin, "external_views"):
    pytest.skip("This Airflow has no external views.", allow_module_level=True)


class World:
    """A clock that passes only when the cache waits, and pages that are open while it does."""

    def __init__(self, key: str = "sk-one") -> None:
        self.now = 1000.0
        self.asked: list[tuple[float, str]] = []
        self.keys = {"sequentum_default": key}
        self.ends_at = float("inf")
        self.while_waiting: Callable[[], None] = lambda: None
        self.error: Exception | None = None
        self.cache = ServiceCache(self.open, lambda: self.now, self.sleep)  # type: ignore[arg-type]

    def open(self, conn_id: str) -> Client:
        if conn_id not in self.keys:
            raise SequentumConnectionNotFound("no")
        return Client(ClientSettings(api_key=self.keys[conn_id]))

    def sleep(self, seconds: float) -> None:
        """Let time pass, with a look of each open page every ten seconds."""
        until = self.now + seconds
        while self.now < until:
            self.now = min(self.now + 10, until)
            if self.now < self.ends_at:
                self.while_waiting()

    def question(self, name: str, conn_id: str = "sequentum_default", **options: Any) -> Question[str]:
        def ask(_client: object) -> str:
            self.asked.append((self.now, name))
            if self.error is not None:
                raise self.error
            return f"{name} at {self.now:g}"

        return Question(conn_id, name, ask, **options)

    def look(self, question: Question[str]) -> Known[str]:
        """Look, and let the cache work until it has nothing to do."""
        known = self.cache.look(question)
        for thread in threading.enumerate():
            if thread.name.startswith("sequentum-ui-") and thread is not threading.current_thread():
                thread.join(20)
                assert not thread.is_alive()
        return known


class Client:
    def __init__(self, settings: ClientSettings) -> None:
        self.settings = settings

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is open."""


def test_a_page_does_not_wait_and_the_next_look_has_the_answer() -> None:
    world = World()
    question = world.question("runs")
    first = world.look(question)
    assert (first.value, first.at, first.is_waiting) == (None, None, True)
    second = world.look(question)
    assert (second.value, second.is_waiting) == ("runs at 1000", False)
    assert second.at is not None, "each figure has its age"
    assert len(world.asked) == 1


def test_what_is_fresh_enough_is_not_asked_again() -> None:
    world = World()
    question = world.question("runs", fresh_for=15)
    world.look(question)
    world.now += 14
    world.look(question)
    assert len(world.asked) == 1
    world.now += 1
    world.look(question)
    assert len(world.asked) == 2


def test_fifty_open_pages_and_two_hundred_agents_take_four_requests_a_minute() -> None:
    world = World()
    world.ends_at = world.now + 600
    tabs = [world.question(f"runs of agent {number}", weight=4.0) for number in range(25)]
    page = [world.question(f"runs of agent {number}") for number in range(200)]

    def all_look() -> None:
        for _ in range(25):  # as many look at the page of all agents
            for question in page:
                world.cache.look(question)
        for question in tabs:
            world.cache.look(question)

    world.while_waiting = all_look
    all_look()
    world.look(tabs[0])
    times = [at for at, _ in world.asked]
    most = max(sum(at <= other < at + 60 for other in times) for at in times)
    assert most == REQUESTS_PER_MINUTE == 4
    assert 36 <= len(times) <= 48, "and what may be asked is asked"


def test_two_connections_with_one_key_share_its_requests() -> None:
    world = World()
    world.keys["other"] = "sk-one"
    for number in range(4):
        world.look(world.question(str(number)))
    fifth = world.question("of the other", conn_id="other")

    def look() -> None:
        world.cache.look(fifth)

    world.while_waiting = look
    world.look(fifth)
    assert world.asked[-1] == (1000.0 + WINDOW, "of the other")


def test_the_most_urgent_comes_first_and_nothing_is_forgotten() -> None:
    world = World()
    world.ends_at = world.now + 1800
    going = [world.question(f"run {number}", weight=4.0) for number in range(6)]
    slow = world.question("credits", fresh_for=300.0)

    def all_look() -> None:
        for question in (*going, slow):
            world.cache.look(question)

    world.while_waiting = all_look
    all_look()
    world.look(slow)
    counts = Counter(name for _, name in world.asked)
    assert counts["credits"] >= 3, "at least every ten minutes"
    assert min(counts[question.name] for question in going) >= 15
    assert max(counts[question.name] for question in going) - min(counts[question.name] for question in going) <= 2


def test_what_no_page_wants_any_more_is_not_asked() -> None:
    world = World()
    world.cache.look(world.question("a"))
    world.ends_at = 0.0
    for number in range(8):
        world.cache.look(world.question(f"{number}"))
    world.look(world.question("z"))
    assert len(world.asked) == REQUESTS_PER_MINUTE, "while the rest waited, all pages were closed"


def test_a_service_that_is_away_leaves_the_last_answer_with_its_age() -> None:
    world = World()
    question = world.question("runs")
    world.look(question)
    first = world.look(question)
    world.error = ConnectionNotMade("Could not reach it.", purpose="x", request="GET /", may_have_acted=False)
    world.now += 20
    world.look(question)
    known = world.look(question)
    assert (known.value, known.at) == (first.value, first.at)
    assert known.problem is not None
    assert known.problem.startswith("Could not reach it.")
    assert known.failed_at is not None
    asked = len(world.asked)
    world.now += RETRY_AFTER - 1
    world.look(question)
    assert len(world.asked) == asked, "it is not asked again at once"
    world.error = None
    world.now += 1
    world.look(question)
    assert world.look(question).problem is None


def test_a_connection_that_only_the_workers_have_is_named() -> None:
    world = World()
    question = world.question("runs", conn_id="of_the_workers")
    world.look(question)
    known = world.look(question)
    assert known.problem is not None
    assert "'of_the_workers'" in known.problem
    assert "only the workers have the connection" in known.problem
    assert world.asked == []


def test_an_error_that_no_one_expects_does_not_end_the_asking(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.error = RuntimeError("with the sk-one in it")
    question = world.question("runs")
    world.look(question)
    assert world.look(question).problem == "An unexpected error; see the API server's log."
    world.error = None
    world.now += RETRY_AFTER
    world.look(question)
    assert world.look(question).value is not None


def test_a_change_makes_everything_of_the_connection_old() -> None:
    world = World()
    question = world.question("runs", fresh_for=3600)
    world.look(question)
    world.cache.expire("sequentum_default")
    world.look(question)
    assert len(world.asked) == 2


def test_what_is_not_looked_at_for_an_hour_is_dropped() -> None:
    world = World()
    world.look(world.question("runs"))
    world.now += 3600
    world.look(world.question("other"))
    assert world.cache.peek(world.question("runs")) == Known()


def test_peeking_asks_nothing() -> None:
    world = World()
    assert world.cache.peek(world.question("runs")) == Known()
    assert world.asked == []
