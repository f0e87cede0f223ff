"""The two clients, one blocking and one asynchronous. They send calls and download files.

What to send, how to read the response, when to repeat a request and how long to wait is decided elsewhere, by code that
both share.

Limits and defaults: connection timeout 10 s, read timeout 30 s, retries as in
:mod:`airflow_provider_sequentum.api.retry`, the key's request limit as in
:mod:`airflow_provider_sequentum.api.budget`, at most 100 connections, responses of at most 64 MiB.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent import futures
from contextlib import aclosing, closing
from contextvars import copy_context
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import httpx
from tenacity import AsyncRetrying, Retrying

from airflow_provider_sequentum.api.budget import DEFAULT_PAUSE, budget_of
from airflow_provider_sequentum.api.call import Call, Reply
from airflow_provider_sequentum.api.errors import ConnectionNotMade, ResponseLost
from airflow_provider_sequentum.api.parsing import Page, first_page, next_page
from airflow_provider_sequentum.api.pipeline import Pipeline, retry_after_of
from airflow_provider_sequentum.api.retry import Deadline, retry_options
from airflow_provider_sequentum.api.settings import ClientSettings
from airflow_provider_sequentum.api.transport import (
    MAX_RESPONSE_SIZE,
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

MAX_SLEEP = 1.0
"""Seconds after which a request that waits for the budget checks it again: the limit may have been raised."""
URGENT_WAIT = 0.5
"""Maximum seconds between two attempts of an urgent client: Airflow gives a killed task about five."""
MAX_ERROR_BODY_SIZE = 64 * 1024

# InvalidURL is not an HTTPError of httpx.
_NETWORK_ERRORS = (httpx.HTTPError, httpx.InvalidURL)


class _Client:
    """Base of both clients, with the settings, the pipeline, and the budget of the key."""

    def __init__(self, settings: ClientSettings, clock: Callable[[], float], *, urgent: bool = False) -> None:
        self.settings = settings
        self._clock = clock
        self._urgent = urgent
        self._pipeline = Pipeline(settings)
        self._budget = budget_of(settings.origin, settings.api_key)

    def _seconds_until_turn(self, call: Call[Any], share: float, deadline: Deadline) -> float:
        """Return 0 if the request may be sent, and otherwise how long to sleep before checking again."""
        deadline.check(call)
        wait = self._budget.admit(
            share=share,
            per_minute=self.settings.requests_per_minute,
            urgent=self._urgent,
            is_poll=_is_poll(call, share),
            is_of_stop=call.is_of_stop,
            goes_first=call.is_of_stop and call.changes_something,
        )
        if wait <= 0:
            deadline.go_on()
            return 0.0
        if call.is_of_stop:
            deadline.pause()
        return min(wait, MAX_SLEEP, deadline.remaining)

    def _settle(self, response: httpx.Response | None, took: float | None = None) -> None:
        if response is None:
            self._budget.settle(took=took)
        elif response.status_code != 429:
            self._budget.settle(response.headers, took=took)
        else:
            pause = retry_after_of(response.headers)
            self._budget.settle(response.headers, refused_for=DEFAULT_PAUSE if pause is None else pause, took=took)

    def _took(self, sent_at: float, call: Call[Any], share: float) -> float | None:
        """Return the seconds that a poll took; ``None`` for requests that may take long even without a queue."""
        return self._clock() - sent_at if _is_poll(call, share) else None

    def _retries(self, call: Call[Any], deadline: Deadline) -> dict[str, Any]:
        longest_wait = URGENT_WAIT if self._urgent else math.inf
        return retry_options(call, self.settings.max_attempts, deadline, longest_wait=longest_wait)

    def _check_time(self, call: Call[Any], deadline: Deadline) -> None:
        """Give up on a body that arrives in small pieces, once the time is up."""
        if call.safe_to_repeat and deadline.remaining <= 0:
            raise httpx.ReadTimeout("the response takes too long")


class _RequestInThread(Generic[T]):
    """A request in a thread of its own: the exception of a signal handler, which only interrupts the main thread, does
    not lose its response.

    :param call: the call that the request is for.
    """

    def __init__(self, call: Call[T]) -> None:
        self._call = call
        self._reply: futures.Future[Reply[T]] | None = None
        """The reply to the request that was sent last; ``None`` before the first."""

    def send(self, send: Callable[[], Reply[T]]) -> Reply[T]:
        """Call ``send`` in a thread, and return what it returns."""
        reply: futures.Future[Reply[T]] = futures.Future()
        self._reply = reply

        def fulfill() -> None:
            try:
                reply.set_result(send())
            except BaseException as error:  # noqa: BLE001 - raised in the other thread
                reply.set_exception(error)

        # A daemon, because a process that is to end does not wait for it.
        threading.Thread(target=copy_context().run, args=(fulfill,), daemon=True).start()
        return reply.result()

    def late_reply(self, seconds: float | None) -> Reply[T]:
        """Return the reply, after an interruption.

        :param seconds: how long to wait for it; ``None`` means no limit.
        :raises ConnectionNotMade: no request was sent.
        :raises ResponseLost: it did not arrive in time.
        """
        if self._reply is None:
            raise self._call.error(ConnectionNotMade, "the task was interrupted before")
        futures.wait([self._reply], seconds)
        if not self._reply.done():
            reason = "the task was interrupted, and no response arrived in time"
            raise self._call.error(ResponseLost, reason, may_have_acted=self._call.changes_something)
        return self._reply.result()


def _is_poll(call: Call[Any], share: float) -> bool:
    return share < 1 and call.when_silent is None  # the service delays the response to a long poll on purpose


class SequentumClient(_Client):
    """Sends calls and waits for their responses. Threads may share a client.

    :param settings: address of the service, API key, timeouts and limits.
    :param transport: sends the requests; tests pass an ``httpx.MockTransport``.
    :param sleep: waits between attempts and for the budget; tests pass their own.
    :param urgent: do not wait for the budget, and only briefly between attempts, even if ``Retry-After`` asks for more.
        For a process that is about to be killed and has a run to stop.
    :param clock: returns the time in seconds for ``within``; tests pass their own.

    Certificates and proxies are only read when something is sent, because loading them is most of the cost of a client.
    If they are invalid, sending raises ``SequentumConfigurationError``.
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

    def exchange(
        self,
        call: Call[T],
        *,
        budget_share: float = 1.0,
        within: float | None = None,
        on_interruption: Callable[[BaseException], float | None] | None = None,
    ) -> Reply[T]:
        """Send a call and return its value together with the time of the service.

        :param call: the return value of an endpoint function.
        :param budget_share: the part of the key's request budget that may be in use for this call to be sent, from 0 to
            1. Polls use less than 1, so that there is room for starts.
        :param within: seconds after which to give up on the call. It limits the wait for the budget (except that of a
            stop, see :class:`.Call`), the pauses between attempts and, for calls that are safe to repeat, the wait for
            a response. A request that is not safe to repeat keeps its read timeout once it was sent. Default: no limit.
        :param on_interruption: called with an exception that a signal handler raises during the call; it returns how
            many seconds to wait for the response to a request that has been sent (``None``: no limit). The caller
            raises the exception later. By default, it is raised immediately, and the response is lost.
        :raises ConnectionNotMade: if the time passed, or the call was interrupted, before anything was sent.
        :raises SequentumError: one of the errors in :mod:`airflow_provider_sequentum.api.errors`. If the time passed
            later, it is the last error.
        """
        deadline = Deadline(within, self._clock)
        policy = Retrying(sleep=self._sleep, **self._retries(call, deadline))
        if on_interruption is None:
            reply: Reply[T] = policy(self._attempt, call, budget_share, deadline)
            return reply
        request = _RequestInThread(call)
        try:
            reply = policy(self._attempt, call, budget_share, deadline, request.send)
        except Exception:
            raise
        except BaseException as interruption:  # noqa: BLE001 - the caller raises it
            seconds = on_interruption(interruption)
        else:
            return reply
        return request.late_reply(seconds)

    def pages(self, call: Call[Page[T]]) -> Iterator[Page[T]]:
        """Yield the pages of a list, starting with the page of the call. Each one is requested when it is needed."""
        following: Call[Page[T]] | None = first_page(call)
        previous = None
        while following is not None:
            page = self.send(following)
            yield page
            following, previous = next_page(following, page, previous), page

    def records(self, call: Call[Page[T]]) -> Iterator[T]:
        """Yield the records of all pages of a list. Each page is requested when its records are needed."""
        for page in self.pages(call):
            yield from page

    def download(self, *, agent_id: int | str, run_id: int | str, file: RunFile, destination: Destination) -> int:
        """Download a file of a run in constant memory. After a lost connection, the download is resumed.

        :param file: the file, as returned by ``files.list_files``.
        :param destination: where the bytes are written. After an error it contains a part of the file.
        :return: number of bytes written.
        :raises SequentumError: if the file cannot be downloaded, also after ``max_attempts`` without progress.
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

    def _attempt(
        self,
        call: Call[T],
        budget_share: float,
        deadline: Deadline,
        perform: Callable[[Callable[[], Reply[T]]], Reply[T]] = lambda send: send(),
    ) -> Reply[T]:
        self._wait_for_turn(call, budget_share, deadline)
        return perform(lambda: self._send_admitted(call, budget_share, deadline))

    def _send_admitted(self, call: Call[T], budget_share: float, deadline: Deadline) -> Reply[T]:
        try:
            with closing(self._open(call, budget_share, deadline)) as response:
                body = BoundedBody(response, call.max_response_size or MAX_RESPONSE_SIZE)
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
        # Raised here, so that its context does not contain httpx's error, which holds the request with the key.
        raise failure

    def _wait_for_turn(self, call: Call[Any], budget_share: float, deadline: Deadline) -> None:
        """Wait until the budget admits a request of the call."""
        _ = self._http  # if the certificates are invalid, nothing is admitted
        while (wait := self._seconds_until_turn(call, budget_share, deadline)) > 0:
            self._sleep(wait)

    def _open(
        self, call: Call[Any], budget_share: float, deadline: Deadline, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        """Send an admitted request of a call; the body of the response is not read."""
        response: httpx.Response | None = None
        sent_at = self._clock()
        try:
            with sending():
                response = self._http.send(self._pipeline.build(call, headers, deadline.remaining), stream=True)
        finally:
            self._settle(response, self._took(sent_at, call, budget_share))
        return response

    @cached_property
    def _http(self) -> httpx.Client:
        return new_client(self.settings, self._transport)

    @cached_property
    def _storage_http(self) -> httpx.Client:
        """The client for storage on other origins, which may have certificates of the public authorities."""
        return new_client(self.settings, self._transport, for_storage=True)

    def _http_for(self, url: httpx.URL) -> httpx.Client:
        port = url.port or (443 if url.scheme == "https" else 80)
        is_service = f"{url.scheme}://{url.host}:{port}" == self.settings.origin
        trusts_other = isinstance(self.settings.verify, str) or self.settings.origin.startswith("http:")
        return self._storage_http if trusts_other and not is_service else self._http

    def _fetch(self, download: Download) -> int:
        headers, deadline = download.start_attempt(), Deadline(None, self._clock)
        try:
            self._wait_for_turn(download.call, 1.0, deadline)
            response = self._open(download.call, 1.0, deadline, headers)
            while (request := self._take(download, response)) is not None:
                with sending():
                    response = self._http_for(request.url).send(request, stream=True)
        except _NETWORK_ERRORS as error:
            failure = self._pipeline.transport_error(download.call, error, is_redirected=download.is_redirected)
        else:
            return download.finish()
        raise failure

    def _take(self, download: Download, response: httpx.Response) -> httpx.Request | None:
        """Process a response to a download; return the next request, or ``None`` once the file has been read."""
        with closing(response):
            location = location_of(response)
            # A redirect's body is read too: otherwise the connection to the API could not be reused for the next file.
            small = response.is_error or location is not None
            error_body = read_at_most(response, MAX_ERROR_BODY_SIZE).content if small else b""
            request = download.follow(response, location, error_body)
            if request is None:
                with wide_reads(response):
                    download.write_all(raw_pieces(response))
            return request


class AsyncSequentumClient(_Client):
    """Sends calls and awaits their responses. For use within one event loop.

    :param settings: address of the service, API key, timeouts and limits.
    :param transport: sends the requests; tests pass an ``httpx.MockTransport``. Downloads use it if it is a blocking
        transport as well, like that one.
    :param sleep: waits between attempts and for the budget; tests pass their own.
    :param clock: returns the time in seconds for ``within``; tests pass their own.
    :raises SequentumConfigurationError: if certificates or proxies are invalid.
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
        """Send a call and return its value and the time of the service; see :meth:`SequentumClient.exchange`."""
        deadline = Deadline(within, self._clock)
        policy = AsyncRetrying(sleep=self._sleep, **self._retries(call, deadline))
        return await policy(self._attempt, call, budget_share, deadline)

    def poll_turn(self, budget_share: float, *, is_hinted: bool = False) -> float:
        """Admit a poll now, or return the seconds to wait before trying again.

        Decide what to poll once a poll is admitted. An admitted poll has to be sent, with :meth:`poll`.

        :param is_hinted: whether it is known that the poll will find a change. Then it may be sent before its turn.
        :return: 0 if it is admitted.
        """
        per_minute = self.settings.requests_per_minute
        return self._budget.turn(share=budget_share, per_minute=per_minute, is_hinted=is_hinted)

    async def poll(self, call: Call[T], *, budget_share: float) -> Reply[T]:
        """Send an admitted poll, without retries: if it fails, the caller decides what to poll next.

        :raises SequentumError: there is no usable response.
        """
        return await self._send_admitted(call, budget_share, Deadline(None, self._clock))

    async def pages(self, call: Call[Page[T]]) -> AsyncIterator[Page[T]]:
        """Yield the pages of a list, starting with the page of the call. Each one is requested when it is needed."""
        following: Call[Page[T]] | None = first_page(call)
        previous = None
        while following is not None:
            page = await self.send(following)
            yield page
            following, previous = next_page(following, page, previous), page

    async def records(self, call: Call[Page[T]]) -> AsyncIterator[T]:
        """Yield the records of all pages of a list. Each page is requested when its records are needed."""
        async for page in self.pages(call):
            for record in page:
                yield record

    async def download(self, *, agent_id: int | str, run_id: int | str, file: RunFile, destination: Destination) -> int:
        """Download a file of a run; see :meth:`SequentumClient.download`.

        It runs in a thread, because a download at the speed of a disk would keep the event loop busy. The thread ends
        soon after the awaiting task was cancelled.
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
                body = BoundedBody(response, call.max_response_size or MAX_RESPONSE_SIZE)
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
        # Raised here, so that its context does not contain httpx's error, which holds the request with the key.
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
    """A destination and a sleep function that end the thread of a download after the awaiting task was cancelled."""

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
