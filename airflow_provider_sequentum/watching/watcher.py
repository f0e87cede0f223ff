"""The shared watcher: all waits of one connection in a triggerer, with one client and one request budget.

``watch_list.py`` decides what to poll and what a response means. This module sends the polls and notifies the waits.
There is one watcher for each event loop and connection. The first wait starts it; when the last one has left, the
watcher ends and closes its client.
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
"""Seconds between two log lines, and between two values of the gauges."""

log = logging.getLogger(__name__)


class Log(Protocol):
    """The log of a task: a logger of the standard library or of Airflow."""

    def log(self, level: int, msg: Any, /, *args: Any) -> Any:
        """Write a message at a level."""


class WatchMetrics:
    """The metrics of a watcher.

    Gauges: ``sequentum.watcher.waits``, ``sequentum.watcher.agents``. Counters: ``sequentum.watcher.requests``,
    ``sequentum.watcher.rate_limited``, ``sequentum.watcher.ended``. Timer: ``sequentum.watcher.lag``, from the end of a
    run to the response that showed it, both by the service's clock; not emitted if the service does not state its time.

    :param sequentum_conn_id: the connection, with which the metrics are tagged.
    """

    def __init__(self, sequentum_conn_id: str) -> None:
        self._conn_id = sequentum_conn_id
        self._tags = {"conn_id": sequentum_conn_id}
        self.requests = self.refused = 0
        """Since the metrics were last published."""
        self._lags: list[float] = []

    def ended(self, run: Run, served_at: datetime | None) -> None:
        """Count a run that has ended."""
        Stats.incr("sequentum.watcher.ended", tags=self._tags)
        if run.end_time is not None and served_at is not None:
            self._lags.append(max(time_between(run.end_time, served_at).total_seconds(), 0.0))
            Stats.timing("sequentum.watcher.lag", self._lags[-1] * 1000, tags=self._tags)

    def publish(self, waits: int, agents: int) -> None:
        """Publish how many waits and agents there are, and what happened since the last time."""
        Stats.gauge("sequentum.watcher.waits", waits, tags=self._tags)
        Stats.gauge("sequentum.watcher.agents", agents, tags=self._tags)
        Stats.incr("sequentum.watcher.requests", self.requests, tags=self._tags)
        Stats.incr("sequentum.watcher.rate_limited", self.refused, tags=self._tags)
        mean_lag = f", noticed {sum(self._lags) / len(self._lags):.1f} s later on average" if self._lags else ""
        log.debug(
            "Connection %s: %d waits for %d agents. Since the last line: %d requests, %d refused with 429, "
            "%d runs ended%s.",
            self._conn_id, waits, agents, self.requests, self.refused, len(self._lags), mean_lag,
        )  # fmt: skip
        self.requests, self.refused, self._lags = 0, 0, []


MAX_AT_ONCE = 50
"""Maximum number of polls in flight. Those without a response take minutes to time out, and must not block others."""
CONNECTION_LIFETIME = 300.0
"""Seconds after which the Airflow connection is read again, because its key may have been changed."""
BUDGET_CHECK_INTERVAL = 1.0
"""Maximum number of seconds until the budget is checked again, because it may have changed."""


def present() -> Moment:
    """Return the current time by the event loop's clock and in UTC."""
    return Moment(asyncio.get_running_loop().time(), datetime.now(UTC))


async def wait_for_run(sequentum_conn_id: str, spec: WaitSpec, task_log: Log) -> tuple[PollOutcome, Run | None]:
    """Wait until a run has ended or the deadline has passed, with the watcher of the connection.

    :param sequentum_conn_id: the connection.
    :param spec: what to wait for.
    :param task_log: the log of the task.
    :return: why the wait has ended, and the latest record of the run, which is ``None`` only if none was read before
        the deadline.
    :raises SequentumException: the connection is missing or invalid.
    :raises SequentumError: polling failed with an error that is not temporary, or for too long. The run may be active.
    """
    over: asyncio.Future[tuple[PollOutcome, Run | None]] = asyncio.get_running_loop().create_future()
    # Airflow routes log lines to the log of the task by the context of the trigger's asyncio task.
    context = contextvars.copy_context()
    watcher = _watcher_of(sequentum_conn_id)

    def notify(result: PollResult, error: BaseException | None, served_at: datetime | None) -> None:
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

    wait = Wait(RunPoller(spec), notify)
    watcher.join(wait)
    try:
        return await over
    finally:
        watcher.leave(wait)


async def listen(sequentum_conn_id: str, agent_id: int, interval: float) -> AsyncGenerator[Listing]:
    """Yield an agent's newest runs, now and whenever there is news, with the watcher of the connection.

    :param interval: maximum number of seconds between two polls, if the budget allows.
    :raises SequentumException: the connection is missing or invalid.
    :raises SequentumError: the runs of the agent could not be listed.
    """
    watcher = _watcher_of(sequentum_conn_id)
    news: asyncio.Queue[Listing | BaseException] = asyncio.Queue()
    listener = Listener(agent_id, interval, news.put_nowait)
    watcher.join(listener)
    try:
        while True:
            listing = await news.get()
            if isinstance(listing, BaseException):
                raise listing
            yield listing
    finally:
        watcher.leave(listener)


def _watcher_of(sequentum_conn_id: str) -> RunWatcher:
    """Return the watcher of a connection on this event loop."""
    watchers = _watchers.setdefault(asyncio.get_running_loop(), {})
    if sequentum_conn_id not in watchers:
        watchers[sequentum_conn_id] = RunWatcher(sequentum_conn_id)
    return watchers[sequentum_conn_id]


_watchers: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, RunWatcher]] = WeakKeyDictionary()
"""Those that may be joined."""


class RunWatcher:
    """The waits of one connection on one event loop.

    :param sequentum_conn_id: the connection.
    """

    def __init__(self, sequentum_conn_id: str) -> None:
        self._hook = SequentumConnection(sequentum_conn_id)
        self._list = WatchList()
        self.metrics = WatchMetrics(sequentum_conn_id)
        self._connection: tuple[ClientSettings, AsyncSequentumClient] | None = None
        self._answered: Call[Any] | None = None
        self._checking_key = asyncio.Lock()
        self._next_check = self._next_line = 0.0
        self._in_flight: dict[asyncio.Task[None], AsyncSequentumClient] = {}
        """What is going on, and the client that it may use."""
        self._changed = asyncio.Event()
        # With an empty context, so that the watcher does not write to the log of the first trigger's task.
        self._task = asyncio.get_running_loop().create_task(
            self._watch(), name=f"run watcher of {sequentum_conn_id}", context=contextvars.Context()
        )
        self._task.add_done_callback(self._end)

    def join(self, who: Wait | Listener) -> None:
        """Add a wait or a listener."""
        self._list.add(who, present())
        self._changed.set()

    def leave(self, who: Wait | Listener) -> None:
        """Remove a wait or a listener. When the last one has left, the watcher ends and closes its client."""
        self._list.remove(who)
        if self._list.is_idle:
            self._retire()
            self._task.cancel()

    def _retire(self) -> None:
        """Let no one join any more."""
        watchers = _watchers.get(self._task.get_loop(), {})
        if watchers.get(self._hook.sequentum_conn_id) is self:
            del watchers[self._hook.sequentum_conn_id]

    def _end(self, task: asyncio.Task[None]) -> None:
        self._retire()
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None:
            self._list.fail_all(error)

    async def _watch(self) -> None:
        try:
            await self._connect()
            await self._send_polls()
        finally:
            self._retire()
            clients = set(self._in_flight.values())
            for task in self._in_flight:
                task.cancel()
            await asyncio.gather(*self._in_flight, return_exceptions=True)
            if self._connection is not None:
                self.metrics.publish(0, 0)
                clients.add(self._client)
            for client in clients:
                await client.close()

    async def _send_polls(self) -> None:
        """Send polls until the watcher is cancelled."""
        while True:
            self._changed.clear()
            moment = present()
            self._list.pass_time(moment)
            at = self._list.due(moment.steady)
            if at <= moment.steady:
                at = self._send_if_admitted(moment.steady)
            if moment.steady >= self._next_check:
                self._next_check = moment.steady + CONNECTION_LIFETIME
                self._start(self._check_connection())
            if moment.steady >= self._next_line:
                self._next_line = moment.steady + LINE_INTERVAL
                self.metrics.publish(len(self._list), self._list.agent_count)
            at = min(at, self._next_check, self._next_line, self._list.next_fixed_look())
            # Cheaper than asyncio.timeout, which ends each pause with a cancellation and an exception.
            waking = asyncio.get_running_loop().call_later(max(at - moment.steady, 0.0), self._changed.set)
            try:
                await self._changed.wait()
            finally:
                waking.cancel()

    def _send_if_admitted(self, now: float) -> float:
        """Send the poll that is due if the key's budget admits one; return when the next may be sent.

        A poll is not chosen before it may be sent, so that the most urgent one comes first.
        """
        if len(self._in_flight) >= MAX_AT_ONCE:
            return now + BUDGET_CHECK_INTERVAL
        wait = self._client.poll_turn(WAITING_SHARE, is_hinted=self._list.is_hinted)
        if wait > 0:
            return now + min(wait, BUDGET_CHECK_INTERVAL)
        poll = self._list.next_poll(now)
        self._start(self._ask(poll, poll.call()))
        return self._list.due(now)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._in_flight[task] = self._client
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        client = self._in_flight.pop(task)
        # An old client is closed when nothing can use it any more.
        if client is not self._client and client not in self._in_flight.values() and not self._task.done():
            self._start(client.close())
        self._changed.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._list.fail_all(error)

    async def _ask(self, poll: Poll, call: Call[Any]) -> None:
        client = self._client
        self.metrics.requests += 1
        try:
            reply = await client.poll(call, budget_share=WAITING_SHARE)
        except SequentumError as error:
            self.metrics.refused += error.status_code == 429
            if error.status_code == 401 and await self._is_invalid_now(call, error, client):
                self._list.ask_again(poll, present())
            else:
                self._list.failed(poll, error, present())
        else:
            self._answered = call
            self._list.answered(poll, reply.value, present()._replace(served_at=reply.served_at))

    async def _is_invalid_now(self, call: Call[Any], error: SequentumError, client: AsyncSequentumClient) -> bool:
        """Return whether the key of a refused request is not valid any more, after all waits failed or have another."""
        # One at a time: requests that were in flight together are refused together, and handled with the first one.
        async with self._checking_key:
            if self._list.is_idle or client is not self._client or await self._connect():
                return True
            if await self._key_works(call):
                return False
            self._list.fail_all(error)
            return True

    async def _key_works(self, refused: Call[Any]) -> bool:
        """Return whether the key is valid, and just has no access to a run or to the list of agents (also a 401).

        It repeats a request that succeeded before or, if there is none yet, sends another one than the refused.
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

    @property
    def _client(self) -> AsyncSequentumClient:
        if self._connection is None:
            raise RuntimeError("The watcher is not connected.")
        return self._connection[1]

    async def _connect(self) -> bool:
        """Read the connection; return whether it has changed."""
        from airflow_provider_sequentum.api import AsyncSequentumClient

        settings = await self._hook.aget_settings()
        self._next_check = present().steady + CONNECTION_LIFETIME
        if self._connection is not None and self._connection[0] == settings:
            return False
        # Loading the certificates would block the event loop for too long.
        self._connection = settings, await asyncio.to_thread(AsyncSequentumClient, settings)
        return True

    async def _check_connection(self) -> None:
        try:
            async with self._checking_key:
                is_new = await self._connect()
            if is_new:
                log.info("The connection %r was changed; using what it says now.", self._hook.sequentum_conn_id)
        except Exception as error:  # noqa: BLE001 - Airflow looks it up in many ways, and the old key still works
            log.warning("The connection %r could not be read: %s", self._hook.sequentum_conn_id, error)
