"""Sends a burst of calls and prints how many were answered: a process of its own for the tests of the limit.

python -m tests.integration.api.burst BASE_URL COUNT threads|tasks   (the key comes on standard input)
"""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor

from airflow_provider_sequentum.api import AsyncSequentumClient, ClientSettings, SequentumClient, agents


def burst_of_threads(settings: ClientSettings, count: int) -> int:
    """Send from 16 threads; return how many calls were answered."""
    with SequentumClient(settings) as client, ThreadPoolExecutor(16) as threads:
        return len(list(threads.map(lambda _: client.send(agents.list_agents(page=1)), range(count))))


async def burst_of_tasks(settings: ClientSettings, count: int) -> int:
    """Send from as many tasks as calls; return how many calls were answered."""
    async with AsyncSequentumClient(settings) as client:
        return len(await asyncio.gather(*(client.send(agents.list_agents(page=1)) for _ in range(count))))


if __name__ == "__main__":
    key_settings = ClientSettings(api_key=sys.stdin.readline(), base_url=sys.argv[1])
    if sys.argv[3] == "threads":
        answered = burst_of_threads(key_settings, int(sys.argv[2]))
    else:
        answered = asyncio.run(burst_of_tasks(key_settings, int(sys.argv[2])))
    sys.stdout.write(f"{answered}\n")
