from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import Stats

from airflow_provider_sequentum.api import ClientSettings
from airflow_provider_sequentum.api.call import Reply
from airflow_provider_sequentum.api.errors import HttpStatusError, SequentumError
from airflow_provider_sequentum.api.parsing import Page
from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.exceptions import SequentumConnectionNotFound
from airflow_provider_sequentum.hooks.connection import SequentumConnection
from airflow_provider_sequentum.runs.wait import PollOutcome, WaitSpec
from airflow_provider_sequentum.triggers.agent_run import AgentRunTrigger
from airflow_provider_sequentum.watching import watcher as run_watcher
from airflow_provider_sequentum.watching.polls import Wait
from airflow_provider_sequentum.watching.watch_list import Moment, WatchList
from airflow_provider_sequentum.watching.watcher import listen, wait_for_run
from tests.support.errors import raises, status_of

SETTINGS = ClientSettings(api_key="sk-first")
CHANGED = ClientSettings(api_key="sk-second")
log = logging.getLogger(__name__)


class Service:
    """What the clients of the watcher talk to: runs that are over as soon as they are said to be."""

    def __init__(self) -> None:
        self.over: set[int] = set()
        self.settings = SETTINGS
        self.lookups = 0
        self.lookup_error: Exception | None = None
        self.clients: list[Client] = []
        self.requests: Counter[str] = Counter()
        self.refuse: Callable[[Client, Any], SequentumError | None] = lambda client, call: None
        self.seconds = 0.0
        self.skew = timedelta(0)
        self.tells_time = True
        self.silent_agents: set[int] = set()

    def seconds_for(self, call: Any) -> float:
        names = call.path.split("/")
        return 3600.0 if names[2].isdecimal() and int(names[2]) in self.silent_agents else self.seconds

    def answer(self, client: Client, call: Any) -> Any:
        self.requests[call.path.rsplit("/", 1)[-1]] += 1
        if (error := self.refuse(client, call)) is not None:
            raise error
        names = call.path.split("/")
        if call.path == "/agent/all":
            return Page[Any]([], 0)
        if names[-1] == "runs":
            return Page([self.record(int(names[2]), run_id) for run_id in range(1, 30)])
        return self.record(int(names[2]), int(names[4]))

    def record(self, agent_id: int, run_id: int) -> Run:
        status = 10 if run_id in self.over else 1
        ended = (datetime.now(UTC) + self.skew).isoformat() if run_id in self.over else None
        return Run.model_validate({"id": run_id, "configId": agent_id, "status": status, "endTime": ended})


class Client:
    """One client, which has to be closed if it was ever used: then it has connections."""

    def __init__(self, service: Service, settings: ClientSettings) -> None:
        self.service, self.settings = service, settings
        self.is_open = self.is_closed = False
        self.next_turn = 0.0
        service.clients.append(self)

    async def close(self) -> None:
        self.is_open, self.is_closed = False, True

    def poll_turn(self, budget_share: float, *, is_hinted: bool = False) -> float:
        assert budget_share == 0.8
        now = asyncio.get_running_loop().time()
        wait = max(self.next_turn - now, 0.0)
        self.next_turn = now + 0.001 if wait == 0 else self.next_turn
        return wait

    async def send(self, call: Any, *, budget_share: float = 1.0) -> Any:
        return (await self.poll(call, budget_share=budget_share)).value

    async def poll(self, call: Any, *, budget_share: float) -> Reply[Any]:
        self.is_open = True
        await asyncio.sleep(self.service.seconds_for(call))
        assert not self.is_closed
        value = self.service.answer(self, call)
        return Reply(value, datetime.now(UTC) + self.service.skew if self.service.tells_time else None)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """A service, and watchers that ask it as fast as they can."""
    made = Service()

    async def aget_settings(hook: SequentumConnection) -> ClientSettings:
        made.lookups += 1
        if made.lookup_error is not None:
            raise made.lookup_error
        return made.settings

    monkeypatch.setattr(SequentumConnection, "aget_settings", aget_settings)
    monkeypatch.setattr("airflow_provider_sequentum.api.AsyncSequentumClient", lambda settings: Client(made, settings))
    monkeypatch.setattr("airflow_provider_sequentum.watching.polls.MIN_INTERVAL", 0.01)
    monkeypatch.setattr("airflow_provider_sequentum.watching.watch_list.PAGE_INTERVAL", 0.0)
    yield made
    assert not any(client.is_open for client in made.clients)


def terms(run_id: int | None = 1, agent_id: int = 7, **fields: Any) -> WaitSpec:
    return WaitSpec(agent_id=agent_id, run_id=run_id, **fields)


def waits(count: int = 1, **fields: Any) -> list[asyncio.Task[tuple[PollOutcome, Run | None]]]:
    return [asyncio.create_task(wait_for_run("c", terms(number, **fields), log)) for number in range(1, count + 1)]


async def settle(seconds: float = 0.1) -> None:
    await asyncio.sleep(seconds)


async def test_everybody_hears_of_the_end_through_one_client(service: Service) -> None:
    waiting = waits(20)
    await settle()
    service.over.update(range(1, 21))
    results = await asyncio.gather(*waiting)
    assert [(outcome, run.id) for outcome, run in results if run] == [(PollOutcome.ENDED, n) for n in range(1, 21)]
    assert len(service.clients) == service.lookups == 1
    assert service.requests["status"] == 0
    await settle(0)
    assert not run_watcher._watchers[asyncio.get_running_loop()]


async def test_the_last_to_go_closes_the_client_and_a_new_one_starts_again(service: Service) -> None:
    for number in (1, 2):
        service.over.clear()
        [waiting] = waits()
        await settle(0.02)
        service.over.add(1)
        await waiting
        await settle(0.02)
        assert len(service.clients) == number
        assert not service.clients[-1].is_open


async def test_who_is_cancelled_leaves_and_the_others_go_on(service: Service) -> None:
    first, second = waits(2)
    await settle(0.02)
    first.cancel()
    await asyncio.wait([first])
    service.over.add(2)
    assert (await second)[0] is PollOutcome.ENDED
    assert first.cancelled()


async def test_no_task_and_no_client_leaks_over_many_subscriptions(service: Service) -> None:
    async def come_and_go(agent_id: int) -> None:
        waiting = waits(1000, agent_id=agent_id)
        await settle(0.01)
        for wait in waiting:
            wait.cancel()
        await asyncio.wait(waiting)

    before = len(asyncio.all_tasks())
    for agent_id in range(1, 11):
        await come_and_go(agent_id)
    await settle(0.05)
    assert len(asyncio.all_tasks()) == before
    assert not run_watcher._watchers[asyncio.get_running_loop()]
    gc.collect()
    # Asking a lazily imported module what it is an instance of would import it.
    waits_left = [thing for thing in gc.get_objects() if type(thing) is Wait]
    assert not [wait for wait in waits_left if wait.notify.__module__ == run_watcher.__name__]


async def test_who_comes_when_a_pause_is_over_joins_the_watcher_that_is_there(
    service: Service,
) -> None:
    """asyncio.timeout cancels the watcher's task to end a pause, which must not be taken for its end."""
    [first] = waits()
    await settle(0.02)
    late: list[run_watcher.RunWatcher] = []
    watcher = run_watcher._watcher_of("c")
    asyncio.get_running_loop().call_later(0.03, lambda: late.append(run_watcher._watcher_of("c")))
    time.sleep(0.06)  # noqa: ASYNC251 - the pause and the call are over in the same turn of the loop
    await settle(0.02)
    assert late == [watcher]
    service.over.add(1)
    await first


async def test_connections_and_event_loops_do_not_share_a_watcher(service: Service) -> None:
    first = asyncio.create_task(wait_for_run("a", terms(), log))
    second = asyncio.create_task(wait_for_run("b", terms(), log))
    await settle(0.02)
    service.over.add(1)
    await asyncio.gather(first, second)
    assert len(service.clients) == 2


async def test_a_missing_connection_fails_everybody(service: Service) -> None:
    service.lookup_error = SequentumConnectionNotFound("Airflow cannot find the connection 'c'.")
    results = await asyncio.gather(*waits(3), return_exceptions=True)
    assert all(isinstance(error, SequentumConnectionNotFound) for error in results)


async def test_a_wrong_key_fails_everybody_at_once_after_one_look_at_the_connection(service: Service) -> None:
    service.refuse = lambda client, call: HttpStatusError("Wrong key.", status_code=401)
    results = await asyncio.gather(*waits(50), return_exceptions=True)
    assert all(status_of(error) == 401 for error in results)
    assert service.lookups == 2
    assert service.requests.total() <= 5


async def test_a_key_that_was_changed_is_picked_up(service: Service) -> None:
    def refuse(client: Client, call: Any) -> SequentumError | None:
        if client.settings is not SETTINGS:
            return None
        service.settings = CHANGED  # by the time the service refuses the old key, the connection has the new one
        return HttpStatusError("Revoked.", status_code=401)

    service.refuse = refuse
    [waiting] = waits()
    service.over.add(1)
    assert (await waiting)[0] is PollOutcome.ENDED
    assert [client.settings for client in service.clients] == [SETTINGS, CHANGED]
    await settle(0.02)


async def test_a_key_without_access_to_one_run_fails_only_its_wait(service: Service) -> None:
    def refuse(client: Client, call: Any) -> SequentumError | None:
        return HttpStatusError("No run access.", status_code=401) if "/agent/8/" in call.path else None

    service.refuse = refuse
    [good] = waits()
    bad = asyncio.create_task(wait_for_run("c", terms(5, agent_id=8), log))
    with raises(401):
        await bad
    service.over.add(1)
    assert (await good)[0] is PollOutcome.ENDED


@pytest.mark.parametrize("agents", [1, 8])
async def test_a_key_that_may_not_list_agents_waits_all_the_same(service: Service, agents: int) -> None:
    """It is answered 401, as a wrong key is. With many agents the list is asked for hints."""

    def refuse(client: Client, call: Any) -> SequentumError | None:
        refused = call.path == "/agent/all" or "/agent/99/" in call.path
        return HttpStatusError("No access.", status_code=401) if refused else None

    service.refuse = refuse
    waiting = [asyncio.create_task(wait_for_run("c", terms(1, agent_id=7 + number), log)) for number in range(agents)]
    await settle(0.05)
    bad = asyncio.create_task(wait_for_run("c", terms(5, agent_id=99), log))
    with raises(401):
        await bad
    service.over.add(1)
    assert {outcome for outcome, _ in await asyncio.gather(*waiting)} == {PollOutcome.ENDED}


async def test_the_connection_is_read_again_now_and_then(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run_watcher, "CONNECTION_LIFETIME", 0.02)
    [waiting] = waits()
    await settle(0.05)
    service.lookup_error = RuntimeError("The metadata database is away.")
    while "could not be read" not in caplog.text:
        await settle(0.01)
    service.lookup_error, service.settings = None, CHANGED
    while service.clients[-1].settings is not CHANGED:
        await settle(0.01)
    service.over.add(1)
    await waiting
    assert service.clients[-1].settings is CHANGED
    assert "could not be read: The metadata database is away." in caplog.text
    await settle(0.02)


async def test_faults_pass_and_what_cannot_pass_is_raised(service: Service) -> None:
    service.refuse = lambda client, call: HttpStatusError("Down.", status_code=503)
    [waiting] = waits()
    await settle(0.05)
    assert not waiting.done()
    service.refuse = lambda client, call: HttpStatusError("No.", status_code=403)
    with raises(403):
        await waiting


async def test_agents_that_do_not_answer_keep_no_one_from_hearing_of_others(service: Service) -> None:
    service.silent_agents = set(range(1, 31))
    silent = [asyncio.create_task(wait_for_run("c", terms(5, agent_id=agent_id), log)) for agent_id in range(1, 31)]
    [waiting] = waits(agent_id=99)
    await settle()
    service.over.add(1)
    async with asyncio.timeout(5):
        assert (await waiting)[0] is PollOutcome.ENDED
    for wait in silent:
        wait.cancel()
    await asyncio.wait(silent)
    await settle(0.02)


async def test_a_broken_watcher_leaves_no_one_waiting(service: Service) -> None:
    def refuse(client: Client, call: Any) -> SequentumError | None:
        raise ZeroDivisionError

    service.refuse = refuse
    results = await asyncio.gather(*waits(3), return_exceptions=True)
    assert all(isinstance(error, ZeroDivisionError) for error in results)
    await settle(0.02)


async def test_who_comes_while_a_watcher_breaks_gets_a_new_one(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.over.add(1)
    late: list[asyncio.Task[tuple[PollOutcome, Run | None]]] = []

    def break_down(watch_list: WatchList, now: float) -> None:
        monkeypatch.undo()
        late.extend(waits())
        raise ZeroDivisionError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WatchList, "next_poll", break_down)
        monkeypatch = patch
        [early] = waits()
        with pytest.raises(ZeroDivisionError):
            await early
    assert (await late[0])[0] is PollOutcome.ENDED
    await settle(0.02)


async def test_many_questions_refused_together_are_one_refusal(service: Service) -> None:
    service.seconds = 0.02
    service.refuse = lambda client, call: HttpStatusError("Wrong key.", status_code=401)
    waiting = [asyncio.create_task(wait_for_run("c", terms(5, agent_id=number), log)) for number in range(1, 40)]
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(status_of(error) == 401 for error in results)
    await settle(0.05)
    assert service.lookups == 2
    assert service.requests.total() <= 39 + 2  # each once, the agents list, and a look whether the key works


async def test_a_deadline_is_kept_while_an_answer_does_not_come(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_sequentum.watching.watch_list.LAST_LOOK", 0.05)
    service.seconds = 3600.0
    deadline = datetime.now(UTC) + timedelta(seconds=0.05)
    assert await wait_for_run("c", terms(deadline=deadline), log) == (PollOutcome.DEADLINE, None)
    await settle(0.02)


who = contextvars.ContextVar[str]("who", default="no one")


class Notes:
    """A log that notes in whose context it was written."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def log(self, level: int, msg: Any, /, *args: Any) -> None:
        self.lines.append((who.get(), str(msg % args)))


async def test_each_trigger_reads_its_own_lines_in_its_own_log(service: Service) -> None:
    notes = Notes()

    async def wait(name: str, run_id: int) -> None:
        who.set(name)
        await wait_for_run("c", terms(run_id), notes)

    waiting = [asyncio.create_task(wait("first", 1)), asyncio.create_task(wait("second", 2))]
    async with asyncio.timeout(30):
        while len(notes.lines) < 2:
            await settle(0.01)
    service.over.update({1, 2})
    await asyncio.gather(*waiting)
    assert {(name, line.split(":")[0]) for name, line in notes.lines} == {
        ("first", "Run 1 of agent 7"),
        ("second", "Run 2 of agent 7"),
    }


async def test_metrics_and_a_line_a_minute(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen: Counter[str] = Counter()
    for kind in ("incr", "gauge", "timing"):
        monkeypatch.setattr(Stats, kind, lambda name, *_, **__: seen.update([name]))
    monkeypatch.setattr(run_watcher, "LINE_INTERVAL", 0.02)
    caplog.set_level(logging.DEBUG, "airflow_provider_sequentum.watching")
    waiting = waits(2)
    await settle(0.05)
    service.over.add(1)
    await waiting[0]
    await settle(0.05)
    service.over.add(2)
    await waiting[1]
    assert {name.removeprefix("sequentum.watcher.") for name in seen} == {
        "waits", "agents", "requests", "rate_limited", "ended", "lag"
    }  # fmt: skip
    assert "Connection c: 2 waits for 1 agents." in caplog.text
    assert "1 runs ended, noticed 0.0 s later on average" in caplog.text
    assert "sk-" not in caplog.text


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """Gauges and counters, as they were told."""
    told: list[tuple[str, float]] = []
    for kind in ("incr", "gauge"):
        monkeypatch.setattr(Stats, kind, lambda name, value=1, **_: told.append((name.split(".")[-1], value)))
    return told


async def test_who_ends_says_that_no_one_waits_and_leaves_nothing_untold(
    service: Service, metrics: list[tuple[str, float]]
) -> None:
    [waiting] = waits()
    await settle(0.05)
    assert [value for name, value in metrics if name == "waits"] == [1]
    service.over.add(1)
    await waiting
    await settle(0.02)
    assert dict(metrics)["waits"] == dict(metrics)["agents"] == 0
    assert sum(value for name, value in metrics if name == "requests") == service.requests.total()


async def test_polls_that_were_refused_with_429_are_counted_once(
    service: Service, metrics: list[tuple[str, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_watcher, "LINE_INTERVAL", 0.02)
    service.refuse = lambda client, call: HttpStatusError("Busy.", status_code=429)
    [waiting] = waits()
    await settle(0.1)
    refused = service.requests.total()
    service.refuse = lambda client, call: None
    await settle(0.1)
    service.over.add(1)
    await waiting
    await settle(0.02)
    assert sum(value for name, value in metrics if name == "rate_limited") == refused > 0


async def test_the_client_of_an_old_key_is_closed_when_no_one_uses_it(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_watcher, "CONNECTION_LIFETIME", 0.02)
    service.seconds = 0.2
    [waiting] = waits()
    await settle(0.05)
    service.settings = CHANGED
    await settle(0.05)
    assert [client.is_closed for client in service.clients] == [False, False]
    await settle(0.3)
    assert [client.is_closed for client in service.clients] == [True, False]
    service.over.add(1)
    assert (await waiting)[0] is PollOutcome.ENDED
    await settle(0.02)


async def test_the_trigger_fires_once_with_what_the_watcher_heard(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_sequentum.airflow_compat.trigger_life.MIN_TRIGGER_LIFETIME", 0.0)
    service.over.add(1)
    trigger = AgentRunTrigger(sequentum_conn_id="c", agent_id=7, run_id=1)
    events = [event.payload async for event in trigger.run()]
    assert [(event["outcome"], event["run"]["id"]) for event in events] == [("ended", 1)]
    service.refuse = lambda client, call: HttpStatusError("No.", status_code=403)
    events = [event.payload async for event in trigger.run()]
    assert [(event.get("outcome"), event["error"]) for event in events] == [(None, "SequentumConnectionException")]
    await settle(0.02)


@pytest.mark.parametrize("skew", [timedelta(days=1), -timedelta(days=1)])
@pytest.mark.parametrize("tells_time", [True, False])
async def test_lag_is_measured_by_the_services_clock_alone(
    service: Service, monkeypatch: pytest.MonkeyPatch, skew: timedelta, tells_time: bool
) -> None:
    lags: list[float] = []
    monkeypatch.setattr(Stats, "timing", lambda name, value, **_: lags.append(value))
    service.skew, service.tells_time = skew, tells_time
    [waiting] = waits()
    await settle(0.02)
    service.over.add(1)
    await waiting
    await settle(0.02)
    assert len(lags) == tells_time
    assert all(0 <= lag < 1000 for lag in lags)


# Listeners


async def test_a_listener_hears_of_an_agents_runs_again_and_again(service: Service) -> None:
    async with aclosing(listen("c", 7, 0.01)) as listings:
        first = await anext(listings)
        assert [run.status for run in first.runs if run.id == 3] == [1]
        service.over.add(3)
        async for listing in listings:
            if any(run.status == 10 for run in listing.runs):
                break
        assert not listing.is_full
    await settle()


async def test_waits_and_listeners_share_a_watcher_and_the_last_to_go_ends_it(service: Service) -> None:
    [waiting] = waits()
    async with aclosing(listen("c", 7, 0.01)) as listings:
        await anext(listings)
        service.over.add(1)
        assert (await waiting)[0] is PollOutcome.ENDED
        await settle(0.05)
        assert not any(client.is_closed for client in service.clients)
    await settle(0.05)
    assert [client.is_closed for client in service.clients] == [True]


async def test_a_fault_ends_a_listening_and_no_other(service: Service) -> None:
    def refuse(client: Client, call: Any) -> SequentumError | None:
        return HttpStatusError("Down.", status_code=503) if "/agent/8/" in call.path else None

    service.refuse = refuse
    [waiting] = waits()
    with raises(503):
        await anext(listen("c", 8, 0.01))
    service.over.add(1)
    assert (await waiting)[0] is PollOutcome.ENDED


async def test_a_watcher_that_has_sent_a_poll_sleeps_until_the_next_one_is_due(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    wakings: list[Moment] = []
    really_pass = WatchList.pass_time

    def pass_time(watch_list: WatchList, moment: Moment) -> None:
        wakings.append(moment)
        really_pass(watch_list, moment)

    monkeypatch.setattr(WatchList, "pass_time", pass_time)
    service.seconds = 3600.0
    [waiting] = waits()
    await settle()
    assert len(wakings) == 1
    waiting.cancel()
    await settle(0.02)


async def test_a_wrong_key_and_a_missing_connection_end_a_listening(service: Service) -> None:
    service.refuse = lambda client, call: HttpStatusError("Wrong key.", status_code=401)
    with raises(401):
        await anext(listen("c", 8, 0.01))
    service.lookup_error = SequentumConnectionNotFound("Airflow cannot find the connection 'c'.")
    with pytest.raises(SequentumConnectionNotFound):
        await anext(listen("c", 8, 0.01))
    await settle(0.02)
