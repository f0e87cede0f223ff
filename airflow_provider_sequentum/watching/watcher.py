"""The shared watcher: all waits of one connection in a triggerer, with one client and one request budget.

What to ask and what an answer means is decided in ``watch_list.py``. Here polls are sent, and the waits get their news.
There is one watcher for each event loop and connection. The first wait starts it; the last one to go ends it and closes
its client.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import AsyncGenerator, Coroutine
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

from airflow.providers.common.compat.sdk import Stats

from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.api.parsing import time_between
from airflow_provider_sequentum.hooks.connection import SequentumConnection
from airflow_provider_sequentum.jobs.port import WAITING_SHARE
from airflow_provider_sequentum.runs.wait import PollOutcome, PollResult, RunPoller, WaitSpec
from airflow_provider_sequentum.watching.polls import Listener, Listing, Poll, Wait
from airflow_provider_sequentum.watching.watch_list import Moment, WatchList

if TYPE_CHECKING:
    from airflow_provider_sequentum.api import AsyncSequentumClient, Call, ClientSettings
    from airflow_provider_sequentum.api.runs import Run

LINE_INTERVAL = 60.0
"""Seconds between two lines, and between two values of the gauges."""

log = logging.getLogger(__name__)


class Log(Protocol):
    """The log of a task: a logger of the standard library's, or one of Airflow's."""

    def log(self, level: int, msg: Any, /, *args: Any) -> Any:
        """Write a message at a level."""


class WatchMetrics:
    """Count what a watcher does.

    Gauges: ``sequentum.watcher.waits``, ``sequentum.watcher.agents``. Counters: ``sequentum.watcher.requests``,
    ``sequentum.watcher.rate_limited``, ``sequentum.watcher.ended``. Timer: ``sequentum.watcher.lag``, from the end of a
    run to the answer that told of it, both by the service's clock; nothing where it does not tell its time.

    :param sequentum_conn_id: the connection, which tags them.
    """

    def __init__(self, sequentum_conn_id: str) -> None:
        self._conn_id = sequentum_conn_id
        self._tags = {"conn_id": sequentum_conn_id}
        self.requests = 0
        self.refusals = 0
        """How many requests with the key this process had refused when it was published last."""
        self._lags: list[float] = []

    def ended(self, run: Run, served_at: datetime | None) -> None:
        """Count a run that was found to have ended."""
        Stats.incr("sequentum.watcher.ended", tags=self._tags)
        if run.end_time is not None and served_at is not None:
            self._lags.append(max(time_between(run.end_time, served_at).total_seconds(), 0.0))
            Stats.timing("sequentum.watcher.lag", self._lags[-1] * 1000, tags=self._tags)

    def publish(self, waits: int, agents: int, refusals: int) -> None:
        """Publish what happened since the last time.

        :param waits: how many waits there are.
        :param agents: how many agents they wait for.
        :param refusals: how many requests with the key this process had refused so far.
        """
        refused = refusals - self.refusals
        Stats.gauge("sequentum.watcher.waits", waits, tags=self._tags)
        Stats.gauge("sequentum.watcher.agents", agents, tags=self._tags)
        Stats.incr("sequentum.watcher.requests", self.requests, tags=self._tags)
        Stats.incr("sequentum.watcher.rate_limited", refused, tags=self._tags)
        mean_lag = f", {sum(self._lags) / len(self._lags):.1f} s after the end on average" if self._lags else ""
        log.debug(
            "Connection %s: %d waits for %d agents. Since the last line: %d requests, %d refused for their rate, "
            "%d ends heard of%s.",
            self._conn_id, waits, agents, self.requests, refused, len(self._lags), mean_lag,
        )  # fmt: skip
        self.requests, self.refusals, self._lags = 0, refusals, []


MOST_AT_ONCE = 50
"""Polls that may be in flight at the same time. Those that get no answer stay for minutes, and there has to be
room for others beside them."""
CONNECTION_LIFETIME = 300.0
"""Seconds after which the Airflow connection is read again, because its key may have been changed."""
HOLDUP = 1.0
"""Seconds after which the budget is asked again at the latest: it may have changed."""


def present() -> Moment:
    """Return the time by the event loop's clock and by the calendar."""
    return Moment(asyncio.get_running_loop().time(), datetime.now(UTC))


async def wait_for_run(sequentum_conn_id: str, spec: WaitSpec, task_log: Log) -> tuple[PollOutcome, Run | None]:
    """Wait until a run has ended or the deadline has passed, with the watcher of the connection.

    :param sequentum_conn_id: the connection.
    :param spec: what to wait for.
    :param task_log: gets what the person who watches the task should know.
    :return: why the wait is over, and the run's last record, which is ``None`` only if the service gave none when the
        deadline passed.
    :raises SequentumException: the connection is missing or unusable.
    :raises SequentumError: checking the run failed in a way that cannot pass, or for too long. It may still be running.
    """
    over: asyncio.Future[tuple[PollOutcome, Run | None]] = asyncio.get_running_loop().create_future()
    # Airflow finds the task's log by the context of the trigger's own task.
    context = contextvars.copy_context()
    watcher = _watcher_of(sequentum_conn_id)

    def hear(result: PollResult, error: BaseException | None, served_at: datetime | None) -> None:
        if result.message is not None:
            context.run(task_log.log, result.level, "%s", result.message)
        run = wait.poller.run
        if result.outcome is PollOutcome.ENDED and run is not None:
            watcher.metrics.ended(run, served_at)
        if over.done():
            return
        if isinstance(error, asyncio.CancelledError):
            over.cancel()
        elif error is not None:
            over.set_exception(error)
        elif result.outcome is not None:
            over.set_result((result.outcome, run))

    wait = Wait(RunPoller(spec), hear)
    watcher.join(wait)
    try:
        return await over
    finally:
        watcher.leave(wait)


async def listen(sequentum_conn_id: str, agent_id: int, interval: float) -> AsyncGenerator[Listing]:
    """Yield an agent's newest runs, now and whenever there is news, with the watcher of the connection.

    :param interval: seconds after which news is due.
    :raises SequentumException: the connection is missing or unusable.
    :raises SequentumError: the agent could not be looked at.
    """
    watcher, listener = _watcher_of(sequentum_conn_id), Listener(agent_id, interval)
    watcher.join(listener)
    try:
        while True:
            yield await listener.next_listing()
    finally:
        watcher.leave(listener)


def _watcher_of(sequentum_conn_id: str) -> RunWatcher:
    """Return the watcher of a connection on this event loop."""
    watchers = _watchers.setdefault(asyncio.get_running_loop(), {})
    watcher = watchers.get(sequentum_conn_id)
    if watcher is None or watcher.is_over:
        watcher = watchers[sequentum_conn_id] = RunWatcher(sequentum_conn_id)
    return watcher


_watchers: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, RunWatcher]] = WeakKeyDictionary()


class RunWatcher:
    """The waits of one connection on one event loop.

    :param sequentum_conn_id: the connection.
    """

    def __init__(self, sequentum_conn_id: str) -> None:
        self._hook = SequentumConnection(sequentum_conn_id)
        self._list = WatchList()
        self.metrics = WatchMetrics(sequentum_conn_id)
        self._connection: tuple[ClientSettings, AsyncSequentumClient] | None = None
        self._open_clients: set[AsyncSequentumClient] = set()
        self._answered: Call[Any] | None = None
        self._judging = asyncio.Lock()
        self._next_check = self._next_line = 0.0
        self._in_flight: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._is_ending = False
        # A context of its own, and empty: what the watcher logs is not part of the first trigger's log.
        self._task = asyncio.get_running_loop().create_task(
            self._watch(), name=f"run watcher of {sequentum_conn_id}", context=contextvars.Context()
        )
        self._task.add_done_callback(self._end)

    @property
    def is_over(self) -> bool:
        """Whether the watcher has ended or is about to, so that no one must wait with it any more."""
        return self._is_ending or self._task.done()

    def join(self, who: Wait | Listener) -> None:
        """Take up a wait or a listener."""
        if isinstance(who, Listener):
            self._list.listen(who, present().steady)
        else:
            self._list.add(who, present())
        self._changed.set()

    def leave(self, who: Wait | Listener) -> None:
        """Let a wait or a listener go. The last one to go ends the watcher, which closes its client."""
        if isinstance(who, Listener):
            self._list.drop(who)
        else:
            self._list.remove(who)
        if self._list.is_idle:
            self._is_ending = True
            self._task.cancel()

    async def _watch(self) -> None:
        try:
            await self._connect()
            await self._ask_on()
        finally:
            self._is_ending = True
            for task in self._in_flight:
                task.cancel()
            await asyncio.gather(*self._in_flight, return_exceptions=True)
            if self._connection is not None:
                self.metrics.publish(0, 0, self._client.refusals)
            for client in self._open_clients:
                await client.close()

    async def _ask_on(self) -> None:
        """Send one poll after the other, for as long as the watcher lives."""
        while True:
            self._changed.clear()
            moment = present()
            self._list.pass_time(moment)
            at = self._list.due(moment.steady)
            if at <= moment.steady:
                at = moment.steady + self._send_if_admitted(moment.steady)
            if moment.steady >= self._next_check:
                self._next_check = moment.steady + CONNECTION_LIFETIME
                self._start(self._check_connection())
            if moment.steady >= self._next_line:
                self._next_line = moment.steady + LINE_INTERVAL
                self.metrics.publish(len(self._list), self._list.agent_count, self._client.refusals)
            at = min(at, self._next_check, self._next_line, self._list.next_fixed_look())
            await self._pause(at - moment.steady)

    def _send_if_admitted(self, now: float) -> float:
        """Send the poll that is due if the key's budget admits one; return the seconds until the next attempt.

        A poll is chosen when it may be sent, never before: what is more urgent then comes first.
        """
        if len(self._in_flight) >= MOST_AT_ONCE:
            return HOLDUP
        wait = self._client.poll_turn(WAITING_SHARE, is_hinted=self._list.is_hinted)
        if wait > 0:
            return min(wait, HOLDUP)
        poll = self._list.next_poll(now)
        self._start(self._ask(poll, poll.call()))
        return 0.0

    async def _pause(self, seconds: float) -> None:
        # asyncio.timeout would end each pause with a cancellation and an exception.
        waking = asyncio.get_running_loop().call_later(max(seconds, 0.0), self._changed.set)
        try:
            await self._changed.wait()
        finally:
            waking.cancel()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._in_flight.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        self._changed.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._list.fail_all(error)

    async def _ask(self, poll: Poll, call: Call[Any]) -> None:
        client = self._client
        self.metrics.requests += 1
        try:
            reply = await client.poll(call, budget_share=WAITING_SHARE)
        except SequentumError as error:
            if error.status_code == 401:
                await self._judge_refusal(poll, call, error, client)
            else:
                self._list.failed(poll, error, present())
        else:
            self._answered = call
            self._list.answered(poll, reply.value, present()._replace(served_at=reply.served_at))

    async def _judge_refusal(
        self, poll: Poll, call: Call[Any], error: SequentumError, client: AsyncSequentumClient
    ) -> None:
        # One at a time: questions that were on their way together are refused together, and judged with the first.
        async with self._judging:
            if not (self._list.is_idle or client is not self._client or await self._connect()):
                if await self._key_works(call):
                    self._list.failed(poll, error, present())
                    return
                self._list.fail_all(error)
            self._list.ask_again(poll, present())

    @property
    def _client(self) -> AsyncSequentumClient:
        if self._connection is None:
            raise RuntimeError("The watcher is not connected.")
        return self._connection[1]

    async def _connect(self) -> bool:
        """Read the connection; return whether it is another one than before."""
        from airflow_provider_sequentum.api import AsyncSequentumClient

        settings = await self._hook.aget_settings()
        self._next_check = present().steady + CONNECTION_LIFETIME
        if self._connection is not None and self._connection[0] == settings:
            return False
        # Loading the certificates takes longer than an event loop should be kept.
        client = await asyncio.to_thread(AsyncSequentumClient, settings)
        if self._connection is not None:
            others = {task for task in self._in_flight if task is not asyncio.current_task()}
            self._start(self._close_after(others, self._client))
        self._open_clients.add(client)
        self._connection = settings, client
        self.metrics.refusals = client.refusals
        return True

    async def _close_after(self, users: set[asyncio.Task[None]], client: AsyncSequentumClient) -> None:
        """Close an old client when those who may still use it are done."""
        if users:
            await asyncio.wait(users)
        await client.close()
        self._open_clients.discard(client)

    async def _check_connection(self) -> None:
        try:
            async with self._judging:
                is_new = await self._connect()
            if is_new:
                log.info("The connection %r was changed; using what it says now.", self._hook.sequentum_conn_id)
        except Exception as error:  # noqa: BLE001 - Airflow looks it up in many ways, and the old key still works
            log.warning("The connection %r could not be read: %s", self._hook.sequentum_conn_id, error)

    async def _key_works(self, refused: Call[Any]) -> bool:
        """Tell a wrong key from one without access to a certain run or to the list of agents, which is a 401 as well.

        It asks for what the key was given before or, where that is nothing yet, for something else than was refused.
        """
        from airflow_provider_sequentum.api import agents

        proof = self._answered
        if proof is None or proof.path == refused.path:
            all_agents = agents.list_agents(records_per_page=1)
            proof = all_agents if refused.path != all_agents.path else self._list.call_for_any()
        try:
            await self._client.send(proof, budget_share=WAITING_SHARE)
        except SequentumError as error:
            return error.status_code != 401
        return True

    def _end(self, task: asyncio.Task[None]) -> None:
        watchers = _watchers.get(task.get_loop(), {})
        if watchers.get(self._hook.sequentum_conn_id) is self:
            del watchers[self._hook.sequentum_conn_id]
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None:
            self._list.fail_all(error)
