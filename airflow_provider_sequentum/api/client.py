"""The two clients: they send calls and download files, one blocking, one asynchronous.

What to send, how to read the answer, when to repeat and how long to wait is decided elsewhere, once for both.

Limits and defaults: connection time-out 10 s, read time-out 30 s, retries as in
:mod:`airflow_provider_sequentum.api.retry`, the key's request limit as in
:mod:`airflow_provider_sequentum.api.budget`, at most 100 connections, answers of at most 64 MiB.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, closing
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import httpx
from tenacity import AsyncRetrying, Retrying

from airflow_provider_sequentum.api.budget import DEFAULT_PAUSE, budget_of
from airflow_provider_sequentum.api.call import Call, Reply
from airflow_provider_sequentum.api.parsing import Page, first_page, next_page
from airflow_provider_sequentum.api.pipeline import Pipeline, retry_after_of
from airflow_provider_sequentum.api.retry import Deadline, retry_options
from airflow_provider_sequentum.api.settings import ClientSettings
from airflow_provider_sequentum.api.transport import (
    LONGEST_ANSWER,
    BoundedBody,
    async_raw_pieces,
    location_of,
    new_async_client,
    new_client,
    raw_pieces,
    read_at_most,
    sending,
    wide_reads,
)

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.download import Destination, Download
    from airflow_provider_sequentum.api.files import RunFile

T = TypeVar("T")

LONGEST_SLEEP = 1.0
"""Seconds after which a request that waits for the budget checks again: the limit may turn out to be higher."""
URGENT_WAIT = 0.5
"""Seconds between two attempts, at most, of an urgent client: Airflow gives a killed task about five."""
LONGEST_ERROR_BODY = 64 * 1024

# InvalidURL is none of httpx's HTTPErrors.
_NETWORK_ERRORS = (httpx.HTTPError, httpx.InvalidURL)


class _Client:
    """What both clients have: the settings, the pipeline, and the budget of the key."""

    def __init__(self, settings: ClientSettings, clock: Callable[[], float], *, urgent: bool = False) -> None:
        self.settings = settings
        self._clock = clock
        self._urgent = urgent
        self._pipeline = Pipeline(settings)
        self._budget = budget_of(settings.origin, settings.api_key)

    @property
    def refusals(self) -> int:
        """How many requests with this key were refused with 429, in this process."""
        return self._budget.refusals

    def _seconds_until_turn(self, call: Call[Any], share: float, deadline: Deadline) -> float:
        """Return 0 when the request may be sent, and otherwise how long to sleep before asking again."""
        deadline.check(call)
        wait = self._budget.admit(
            share=share,
            per_minute=self.settings.requests_per_minute,
            urgent=self._urgent,
            is_poll=_is_poll(call, share),
            is_of_stop=call.is_of_stop,
        )
        return min(wait, LONGEST_SLEEP, deadline.remaining) if wait > 0 else 0.0

    def _settle(self, response: httpx.Response | None, took: float | None = None) -> None:
        if response is None:
            self._budget.settle(took=took)
        elif response.status_code != 429:
            self._budget.settle(response.headers, took=took)
        else:
            pause = retry_after_of(response.headers)
            self._budget.settle(response.headers, refused_for=DEFAULT_PAUSE if pause is None else pause, took=took)

    def _took(self, sent_at: float, call: Call[Any], share: float) -> float | None:
        """Return the seconds that a poll took; ``None`` for what may take long without the key being busy."""
        return self._clock() - sent_at if _is_poll(call, share) else None

    def _retries(self, call: Call[Any], deadline: Deadline) -> dict[str, Any]:
        longest_wait = URGENT_WAIT if self._urgent else math.inf
        return retry_options(call, self.settings.max_attempts, deadline, longest_wait=longest_wait)

    def _check_time(self, call: Call[Any], deadline: Deadline) -> None:
        """Give up a body that comes in small pieces for longer than there is time."""
        if call.safe_to_repeat and deadline.remaining <= 0:
            raise httpx.ReadTimeout("the answer takes too long")


def _is_poll(call: Call[Any], share: float) -> bool:
    return share < 1 and call.when_silent is None  # the service answers a long poll late by intention


class SequentumClient(_Client):
    """Sends calls and waits for their answers. May be shared by threads.

    :param settings: where, with which key, how patient.
    :param transport: how requests leave the process; a test hands in an ``httpx.MockTransport``.
    :param sleep: waits between attempts and for the budget; a test hands in its own.
    :param urgent: wait neither for the budget nor long between attempts, whatever ``Retry-After`` says. For a process
        that is about to be killed and has a run to stop.
    :param clock: gives the time in seconds for ``within``; a test hands in its own.

    Certificates and proxies are looked at when something is sent, which raises ``SequentumConfigurationError`` if they
    cannot be used: loading them is most of what a client costs.
    """

    def __init__(
        self,
        settings: ClientSettings,
        *,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        urgent: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(settings, clock, urgent=urgent)
        self._transport = transport
        self._sleep = sleep

    def send(self, call: Call[T], *, budget_share: float = 1.0, within: float | None = None) -> T:
        """Send a call and return its value; parameters and errors as for :meth:`exchange`."""
        return self.exchange(call, budget_share=budget_share, within=within).value

    def exchange(self, call: Call[T], *, budget_share: float = 1.0, within: float | None = None) -> Reply[T]:
        """Send a call and return its value together with the service's own time.

        :param call: what an endpoint function returned.
        :param budget_share: part of the key's request budget this call may help to fill, from 0 to 1. Polling takes
            less than 1, so that a start finds room.
        :param within: seconds after which the call is given up. Neither the wait for the budget, nor the pauses between
            attempts, nor, for calls that are safe to repeat, the wait for an answer lasts longer. A request that is
            not safe to repeat and was sent keeps its read time-out. Default: no limit.
        :raises ConnectionNotMade: when the time passed before anything was sent.
        :raises SequentumError: one of the errors in :mod:`airflow_provider_sequentum.api.errors`; when the time passed
            later, the last one.
        """
        deadline = Deadline(within, self._clock)
        policy = Retrying(sleep=self._sleep, **self._retries(call, deadline))
        reply: Reply[T] = policy(self._attempt, call, budget_share, deadline)
        return reply

    def pages(self, call: Call[Page[T]]) -> Iterator[Page[T]]:
        """Yield the pages of a list, each asked for when it is wanted, from the call's page on."""
        following: Call[Page[T]] | None = first_page(call)
        previous = None
        while following is not None:
            page = self.send(following)
            yield page
            following, previous = next_page(following, page, previous), page

    def records(self, call: Call[Page[T]]) -> Iterator[T]:
        """Yield the records of all pages of a list; pages are asked for as their records are wanted."""
        for page in self.pages(call):
            yield from page

    def download(self, *, agent_id: int | str, run_id: int | str, file: RunFile, destination: Destination) -> int:
        """Fetch a file of a run in constant memory; resume where the connection broke.

        :param file: the file, as ``files.list_files`` lists it.
        :param destination: where the bytes go. After an error it holds a part of the file.
        :return: number of bytes written.
        :raises SequentumError: when the file cannot be had, also after ``max_attempts`` without progress.
        """
        from airflow_provider_sequentum.api.download import Download

        download = Download(self._pipeline, agent_id, run_id, file, destination)
        options = retry_options(
            download.call,
            self.settings.max_attempts,
            Deadline(None, self._clock),
            count_attempts=lambda _state: download.attempts_without_progress,
        )
        return Retrying(sleep=self._sleep, **options)(self._fetch, download)

    def close(self) -> None:
        """Close the connections."""
        for name in ("_http", "_storage_http"):
            if name in vars(self):
                vars(self)[name].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _attempt(self, call: Call[T], budget_share: float, deadline: Deadline) -> Reply[T]:
        try:
            with closing(self._request(call, budget_share, deadline)) as response:
                body = BoundedBody(response, call.longest_answer or LONGEST_ANSWER)
                for data in raw_pieces(response):
                    if body.take(data):
                        break
                    self._check_time(call, deadline)
        except _NETWORK_ERRORS as error:
            if call.when_silent is not None and isinstance(error, httpx.ReadTimeout):
                return Reply(call.when_silent())
            failure = self._pipeline.transport_error(call, error)
        else:
            return self._pipeline.reply(call, response, body)
        # Raised out here, so that no context carries httpx's error, which holds the request and its key.
        raise failure

    def _request(
        self, call: Call[Any], budget_share: float, deadline: Deadline, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        """Send the request of a call when it is its turn; the body of the response is unread."""
        http = self._http
        while (wait := self._seconds_until_turn(call, budget_share, deadline)) > 0:
            self._sleep(wait)
        response: httpx.Response | None = None
        sent_at = self._clock()
        try:
            with sending():
                response = http.send(self._pipeline.build(call, headers, deadline.remaining), stream=True)
        finally:
            self._settle(response, self._took(sent_at, call, budget_share))
        return response

    @cached_property
    def _http(self) -> httpx.Client:
        return new_client(self.settings, self._transport)

    @cached_property
    def _storage_http(self) -> httpx.Client:
        """The client for storage of other origins, which may have certificates of the public authorities."""
        return new_client(self.settings, self._transport, for_storage=True)

    def _http_for(self, url: httpx.URL) -> httpx.Client:
        port = url.port or (443 if url.scheme == "https" else 80)
        is_service = f"{url.scheme}://{url.host}:{port}" == self.settings.origin
        trusts_other = isinstance(self.settings.verify, str) or self.settings.origin.startswith("http:")
        return self._storage_http if trusts_other and not is_service else self._http

    def _fetch(self, download: Download) -> int:
        headers = download.start_attempt()
        try:
            response = self._request(download.call, 1.0, Deadline(None, self._clock), headers)
            while (request := self._take(download, response)) is not None:
                with sending():
                    response = self._http_for(request.url).send(request, stream=True)
        except _NETWORK_ERRORS as error:
            failure = self._pipeline.transport_error(download.call, error)
        else:
            return download.finish()
        raise failure

    def _take(self, download: Download, response: httpx.Response) -> httpx.Request | None:
        """Take a response to a download; return the request that comes next, or ``None`` after the file."""
        with closing(response):
            location = location_of(response)
            # A redirect's body is read too: unread, the connection to the API could not be used for the next file.
            small = response.is_error or location is not None
            error_body = read_at_most(response, LONGEST_ERROR_BODY).content if small else b""
            request = download.follow(response, location, error_body)
            if request is None:
                with wide_reads(response):
                    download.write_all(raw_pieces(response))
            return request


class AsyncSequentumClient(_Client):
    """Sends calls and awaits their answers. To be used within one event loop.

    :param settings: where, with which key, how patient.
    :param transport: how requests leave the process; a test hands in an ``httpx.MockTransport``. Downloads
        use it when it is a blocking transport too, as that one is.
    :param sleep: waits between attempts and for the budget; a test hands in its own.
    :param clock: gives the time in seconds for ``within``; a test hands in its own.
    :raises SequentumConfigurationError: when certificates or proxies cannot be used.
    """

    def __init__(
        self,
        settings: ClientSettings,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(settings, clock)
        self._transport = transport
        self._sleep = sleep
        self._http = new_async_client(settings, transport)

    async def send(self, call: Call[T], *, budget_share: float = 1.0, within: float | None = None) -> T:
        """Send a call and return its value; see :meth:`SequentumClient.exchange`."""
        return (await self.exchange(call, budget_share=budget_share, within=within)).value

    async def exchange(self, call: Call[T], *, budget_share: float = 1.0, within: float | None = None) -> Reply[T]:
        """Send a call and return its value and the service's own time; see :meth:`SequentumClient.exchange`."""
        deadline = Deadline(within, self._clock)
        policy = AsyncRetrying(sleep=self._sleep, **self._retries(call, deadline))
        return await policy(self._attempt, call, budget_share, deadline)

    def poll_turn(self, budget_share: float, *, is_hinted: bool = False) -> float:
        """Admit a poll now, or return the seconds to wait before asking again.

        What to poll is best decided when it may be sent: an admitted poll is sent by :meth:`poll`, and has to be.

        :param is_hinted: whether it is known that the poll will find something. Then it may take a later one's place.
        :return: 0 when it is admitted.
        """
        per_minute = self.settings.requests_per_minute
        return self._budget.turn(share=budget_share, per_minute=per_minute, is_hinted=is_hinted)

    async def poll(self, call: Call[T], *, budget_share: float) -> Reply[T]:
        """Send an admitted poll, once: whoever polls decides again what comes next when there is no answer.

        :raises SequentumError: there is no usable answer.
        """
        return await self._send_admitted(call, budget_share, Deadline(None, self._clock))

    async def pages(self, call: Call[Page[T]]) -> AsyncIterator[Page[T]]:
        """Yield the pages of a list, each asked for when it is wanted, from the call's page on."""
        following: Call[Page[T]] | None = first_page(call)
        previous = None
        while following is not None:
            page = await self.send(following)
            yield page
            following, previous = next_page(following, page, previous), page

    async def records(self, call: Call[Page[T]]) -> AsyncIterator[T]:
        """Yield the records of all pages of a list; pages are asked for as their records are wanted."""
        async for page in self.pages(call):
            for record in page:
                yield record

    async def download(self, *, agent_id: int | str, run_id: int | str, file: RunFile, destination: Destination) -> int:
        """Fetch a file of a run; see :meth:`SequentumClient.download`.

        All of it happens in a thread: a download at the speed of a disk would keep the event loop busy. The
        thread ends soon after the awaiting task was cancelled.
        """
        given: object = self._transport
        transport = given if isinstance(given, httpx.BaseTransport) else None
        guarded = _UntilCancelled(destination)

        def fetch() -> int:
            with SequentumClient(self.settings, transport=transport, sleep=guarded.sleep) as client:
                return client.download(agent_id=agent_id, run_id=run_id, file=file, destination=guarded)

        try:
            return await asyncio.to_thread(fetch)
        finally:
            guarded.cancelled.set()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def _attempt(self, call: Call[T], budget_share: float, deadline: Deadline) -> Reply[T]:
        while (wait := self._seconds_until_turn(call, budget_share, deadline)) > 0:
            await self._sleep(wait)
        return await self._send_admitted(call, budget_share, deadline)

    async def _send_admitted(self, call: Call[T], budget_share: float, deadline: Deadline) -> Reply[T]:
        try:
            async with aclosing(await self._open(call, budget_share, deadline)) as response:
                body = BoundedBody(response, call.longest_answer or LONGEST_ANSWER)
                async for data in async_raw_pieces(response):
                    if body.take(data):
                        break
                    self._check_time(call, deadline)
        except _NETWORK_ERRORS as error:
            if call.when_silent is not None and isinstance(error, httpx.ReadTimeout):
                return Reply(call.when_silent())
            failure = self._pipeline.transport_error(call, error)
        else:
            return self._pipeline.reply(call, response, body)
        # Raised out here, so that no context carries httpx's error, which holds the request and its key.
        raise failure

    async def _open(self, call: Call[Any], budget_share: float, deadline: Deadline) -> httpx.Response:
        response: httpx.Response | None = None
        sent_at = self._clock()
        try:
            with sending():
                response = await self._http.send(self._pipeline.build(call, within=deadline.remaining), stream=True)
        finally:
            self._settle(response, self._took(sent_at, call, budget_share))
        return response


class _UntilCancelled:
    """A destination and a sleep that end the thread of a download once the task that awaits it was cancelled."""

    def __init__(self, destination: Destination) -> None:
        self.cancelled = threading.Event()
        self._destination = destination

    def write(self, data: bytes, /) -> object:
        if self.cancelled.is_set():
            raise asyncio.CancelledError
        return self._destination.write(data)

    def sleep(self, seconds: float) -> None:
        if self.cancelled.wait(seconds):
            raise asyncio.CancelledError
