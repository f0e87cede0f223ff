"""Requests per second of both drivers against bare httpx, on this machine, in one run.

    python -m tests.benchmarks.bench_client [rounds]

Bare httpx does what a client cannot do without: it sends the key and decodes the JSON. In every round both send the
same number of requests. The ratio is the median over the rounds, which a busy machine disturbs least.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable

import httpx

from airflow_provider_sequentum.api import AsyncSequentumClient, ClientSettings, SequentumClient, runs
from tests.benchmarks.loopback_server import loopback_server

ROUNDS = 100
REQUESTS = 50
CONCURRENCY = 10
GOAL = 0.8
KEY = "sk-benchmark-key"
HEADERS = {"Authorization": f"ApiKey {KEY}"}
PATH = "/api/v1/agent/7/run/42/status"

Rates = list[tuple[float, float]]
"""Requests per second of bare httpx and of this client, round by round."""


def blocking(base_url: str, rounds: int) -> Rates:
    """Measure the blocking drivers, one request at a time."""
    with httpx.Client(headers=HEADERS) as bare, SequentumClient(ClientSettings(api_key=KEY, base_url=base_url)) as ours:

        def ask_barely() -> None:
            assert bare.get(base_url + PATH).raise_for_status().json()["id"] == 42

        def ask() -> None:
            assert ours.send(runs.status(7, 42)).id == 42

        def rate(request: Callable[[], None]) -> float:
            began = time.perf_counter()
            for _ in range(REQUESTS):
                request()
            return REQUESTS / (time.perf_counter() - began)

        return [(rate(ask_barely), rate(ask)) for _ in range(rounds + 1)][1:]


async def asynchronous(base_url: str, rounds: int) -> Rates:
    """Measure the asynchronous drivers, ten requests at a time."""
    settings = ClientSettings(api_key=KEY, base_url=base_url)
    async with httpx.AsyncClient(headers=HEADERS) as bare, AsyncSequentumClient(settings) as ours:

        async def ask_barely() -> None:
            assert (await bare.get(base_url + PATH)).raise_for_status().json()["id"] == 42

        async def ask() -> None:
            assert (await ours.send(runs.status(7, 42))).id == 42

        async def worker(request: Callable[[], Awaitable[None]]) -> None:
            for _ in range(REQUESTS // CONCURRENCY):
                await request()

        async def rate(request: Callable[[], Awaitable[None]]) -> float:
            began = time.perf_counter()
            await asyncio.gather(*(worker(request) for _ in range(CONCURRENCY)))
            return REQUESTS / (time.perf_counter() - began)

        # The first round opens the connections and learns the limit.
        return [(await rate(ask_barely), await rate(ask)) for _ in range(rounds + 1)][1:]


def main() -> None:
    """Measure and print a table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    print(f"medians of {rounds} rounds of {REQUESTS} requests, goal {GOAL}")
    print(f"{'driver':8}{'bare httpx/s':>14}{'this client/s':>15}{'ratio':>8}")
    with loopback_server() as base_url:
        for name, rates in (
            ("sync", blocking(base_url, rounds)),
            ("async", asyncio.run(asynchronous(base_url, rounds))),
        ):
            bare, ours = (statistics.median(column) for column in zip(*rates, strict=True))
            ratio = statistics.median(our_rate / bare_rate for bare_rate, our_rate in rates)
            print(f"{name:8}{bare:14.0f}{ours:15.0f}{ratio:8.2f}")


if __name__ == "__main__":
    main()
