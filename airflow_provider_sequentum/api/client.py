"""The two drivers: they send calls and download files, one blocking, one asynchronous.

What to send, how to read the answer, when to repeat and how long to wait is decided elsewhere, once for both.

Limits and defaults: connection time-out 10 s, read time-out 30 s, retries as in
:mod:`airflow_provider_sequentum.api.retry`, the key's request limit as in
:mod:`airflow_provider_sequentum.api.budget`, at most 100 connections.
"""

from __future__ import annotations

import asyncio
import math
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from airflow_provider_sequentum.api.beginning import Beginning, beginning_of
from airflow_provider_sequentum.api.budget import DEFAULT_PAUSE, RequestBudget, budget_of
from airflow_provider_sequentum.api.call import Call
from airflow_provider_sequentum.api.download import Destination, Download
from airflow_provider_sequentum.api.errors import AnswerTimedOut, SequentumConfigurationError, SequentumTransportError
from airflow_provider_sequentum.api.files import RunFile
from airflow_provider_sequentum.api.http_logs import quiet_http_logs
from airflow_provider_sequentum.api.pagination import first_page, next_page
from airflow_provider_sequentum.api.parsing import Page
from airflow_provider_sequentum.api.pipeline import Pipeline, parse_retry_after, read_answer
from airflow_provider_sequentum.api.retry import async_retrying, retrying
from airflow_provider_sequentum.api.settings import ClientSettings
from airflow_provider_sequentum.api.wide_reads import wide_reads

T = TypeVar("T")

LONGEST_SLEEP = 1.0
"""Seconds after which a request that waits for the budget looks again: the limit may turn out to be higher."""
URGENT_WAIT = 0.5
"""Seconds between two attempts, at most, of somebody who can't wait: Airflow gives a killed task about five."""
LONGEST_ERROR_BODY = 64 * 1024

# Servers close idle connections after 5 s at the earliest (uvicorn); a start must not meet one being closed.
_LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=100, keepalive_expiry=4.0)


class SequentumClient:
    """Sends calls and waits for their answers. May be shared by threads.

    :param settings: where, with which key, how patient.
    :param transport: how requests leave the process; a test hands in an ``httpx.MockTransport``.
    :param sleep: waits between attempts and for the budget; a test hands in its own.
    :param urgent: don't wait for the budget, nor long between attempts, whatever ``Retry-After`` says. For a process
        that is about to be killed and has a run to stop.
    """

    def __init__(
        self,
        settings: ClientSettings,
        *,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        urgent: bool = False,
    ) -> None:
        self._core = _Core(settings)
        self._urgent = urgent
        self._sleep = sleep
        self._http = httpx.Client(transport=transport, verify=_verification(settings), limits=_LIMITS)

    def send(self, call: Call[T], *, budget_share: float = 1.0) -> T:
        """Send a call and return its value.

        :param call: what an endpoint function returned.
        :param budget_share: part of the key's request budget this call may help to fill, from 0 to 1.
            Somebody who polls takes less than 1, so that others find room.
        :raises SequentumError: one of the errors in :mod:`airflow_provider_sequentum.api.errors`.
        """
        longest_wait = URGENT_WAIT if self._urgent else math.inf
        policy = retrying(call, self._core.max_attempts, self._sleep, longest_wait=longest_wait)
        value: T = policy(self._attempt, call, budget_share)
        return value

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
        """Fetch a file of a run in constant memory; go on where it broke off when the connection breaks.

        :param agent_id: the agent.
        :param run_id: the run.
        :param file: the file, as ``files.list_files`` lists it.
        :param destination: where the bytes go. After an error it holds a part of the file.
        :return: number of bytes written.
        :raises SequentumError: when the file cannot be had, also after ``max_attempts`` without progress.
        """
        download = self._core.download(agent_id, run_id, file, destination)
        policy = retrying(
            download.call, self._core.max_attempts, self._sleep, lambda _state: download.attempts_without_progress
        )
        return policy(self._fetch, download)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _attempt(self, call: Call[T], budget_share: float) -> T:
        try:
            response = self._exchange(call, budget_share)
            beginning = self._read(call, response)
        except AnswerTimedOut:
            if call.when_silent is None:
                raise
            return call.when_silent()
        return read_answer(call, self._core.pipeline.answer_of(response, beginning.content, is_cut=beginning.is_cut))

    def _read(self, call: Call[Any], response: httpx.Response) -> Beginning:
        try:
            return beginning_of(response.iter_bytes(), call.longest_answer)
        except httpx.HTTPError as error:
            failure = self._core.pipeline.transport_error(call, error)
        finally:
            response.close()
        raise failure

    def _exchange(self, call: Call[Any], budget_share: float, headers: dict[str, str] | None = None) -> httpx.Response:
        request = self._core.pipeline.build(call, headers)
        while (wait := self._core.admit(budget_share, urgent=self._urgent)) > 0:
            self._sleep(min(wait, LONGEST_SLEEP))
        response: httpx.Response | None = None
        try:
            response = self._send(call, request)
        finally:
            self._core.settle(response)
        return response

    def _send(self, call: Call[Any], request: httpx.Request) -> httpx.Response:
        try:
            with quiet_http_logs():
                return self._http.send(request, stream=True)
        except httpx.HTTPError as error:
            failure = self._core.pipeline.transport_error(call, error)
        # Raised out here, so that no context carries httpx's error, which holds the request and its key.
        raise failure

    def _fetch(self, download: Download) -> int:
        download.begin_attempt()
        response = self._exchange(download.call, 1.0, download.headers())
        while (request := self._take(download, response)) is not None:
            response = self._send(download.call, request)
        return download.finish()

    def _take(self, download: Download, response: httpx.Response) -> httpx.Request | None:
        failure: SequentumTransportError
        try:
            # A redirect's body is read too: unread, the connection to the API could not be used for the next file.
            small = response.is_error or response.has_redirect_location
            error_body = beginning_of(response.iter_bytes(), LONGEST_ERROR_BODY).content if small else b""
            request = download.follow(response, error_body)
            if request is None:
                with wide_reads(response):
                    for data in response.iter_bytes():
                        download.write(data)
        except httpx.HTTPError as error:
            failure = self._core.pipeline.transport_error(download.call, error)
        else:
            return request
        finally:
            response.close()
        raise failure


class AsyncSequentumClient:
    """Sends calls and awaits their answers. To be used within one event loop.

    :param settings: where, with which key, how patient.
    :param transport: how requests leave the process; a test hands in an ``httpx.MockTransport``. Downloads
        use it when it is a blocking transport too, as that one is.
    :param sleep: waits between attempts and for the budget; a test hands in its own.
    """

    def __init__(
        self,
        settings: ClientSettings,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._core = _Core(settings)
        self.settings = settings
        self._transport = transport
        self._sleep = sleep
        self._http = httpx.AsyncClient(transport=transport, verify=_verification(settings), limits=_LIMITS)

    async def send(self, call: Call[T], *, budget_share: float = 1.0) -> T:
        """Send a call and return its value; see :meth:`SequentumClient.send`."""
        return await async_retrying(call, self._core.max_attempts, self._sleep)(self._attempt, call, budget_share)

    def spacing(self, budget_share: float = 1.0) -> float:
        """Return the seconds between requests that use up a share of the key's budget evenly."""
        return self._core.spacing(budget_share)

    @property
    def refusals(self) -> int:
        """How many requests with this key were refused with 429, in this process."""
        return self._core.refusals

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
        cancelled = threading.Event()
        given: object = self._transport
        transport = given if isinstance(given, httpx.BaseTransport) else None

        def fetch() -> int:
            with SequentumClient(self.settings, transport=transport, sleep=_sleep_until(cancelled)) as client:
                guarded = _UntilSet(cancelled, destination)
                return client.download(agent_id=agent_id, run_id=run_id, file=file, destination=guarded)

        try:
            return await asyncio.to_thread(fetch)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def _attempt(self, call: Call[T], budget_share: float) -> T:
        try:
            response = await self._exchange(call, budget_share)
            beginning = await self._read(call, response)
        except AnswerTimedOut:
            if call.when_silent is None:
                raise
            return call.when_silent()
        return read_answer(call, self._core.pipeline.answer_of(response, beginning.content, is_cut=beginning.is_cut))

    async def _read(self, call: Call[Any], response: httpx.Response) -> Beginning:
        beginning = Beginning(call.longest_answer)
        try:
            async for chunk in response.aiter_bytes():
                if beginning.take(chunk):
                    break
        except httpx.HTTPError as error:
            failure = self._core.pipeline.transport_error(call, error)
        else:
            return beginning
        finally:
            await response.aclose()
        raise failure

    async def _exchange(self, call: Call[Any], budget_share: float) -> httpx.Response:
        request = self._core.pipeline.build(call)
        while (wait := self._core.admit(budget_share)) > 0:
            await self._sleep(min(wait, LONGEST_SLEEP))
        response: httpx.Response | None = None
        try:
            response = await self._send(call, request)
        finally:
            self._core.settle(response)
        return response

    async def _send(self, call: Call[Any], request: httpx.Request) -> httpx.Response:
        try:
            with quiet_http_logs():
                return await self._http.send(request, stream=True)
        except httpx.HTTPError as error:
            failure = self._core.pipeline.transport_error(call, error)
        # Raised out here, so that no context carries httpx's error, which holds the request and its key.
        raise failure


class _Core:
    """What both drivers share: the pipeline and the budget of one client."""

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self.pipeline = Pipeline(settings)
        self._budget: RequestBudget = budget_of(settings.origin, settings.api_key)

    def admit(self, share: float, *, urgent: bool = False) -> float:
        return self._budget.admit(share=share, per_minute=self._settings.requests_per_minute, urgent=urgent)

    def spacing(self, share: float) -> float:
        return self._budget.spacing(share=share, per_minute=self._settings.requests_per_minute)

    @property
    def refusals(self) -> int:
        return self._budget.refusals

    @property
    def max_attempts(self) -> int:
        return self._settings.max_attempts

    def settle(self, response: httpx.Response | None) -> None:
        if response is None:
            self._budget.settle()
        elif response.status_code != 429:
            self._budget.settle(response.headers)
        else:
            pause = parse_retry_after(response.headers.get("retry-after"), datetime.now(UTC))
            self._budget.settle(response.headers, refused_for=DEFAULT_PAUSE if pause is None else pause)

    def download(self, agent_id: int | str, run_id: int | str, file: RunFile, destination: Destination) -> Download:
        return Download(
            self._settings, self.pipeline, agent_id=agent_id, run_id=run_id, file=file, destination=destination
        )


def _verification(settings: ClientSettings) -> ssl.SSLContext | bool:
    if isinstance(settings.verify, bool):
        return settings.verify
    try:
        return ssl.create_default_context(cafile=settings.verify)
    except OSError as error:
        raise SequentumConfigurationError(
            f"The certificates in {settings.verify} cannot be read: {error}. Nothing was sent."
        ) from None


class _DownloadCancelled(Exception):
    """Ends the thread of a download nobody waits for any more."""


class _UntilSet:
    """A destination that takes no more once an event is set."""

    def __init__(self, event: threading.Event, destination: Destination) -> None:
        self._event = event
        self._destination = destination

    def write(self, data: bytes, /) -> object:
        if self._event.is_set():
            raise _DownloadCancelled
        return self._destination.write(data)


def _sleep_until(event: threading.Event) -> Callable[[float], None]:
    def sleep(seconds: float) -> None:
        if event.wait(seconds):
            raise _DownloadCancelled

    return sleep
