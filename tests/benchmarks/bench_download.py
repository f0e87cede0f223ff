"""Download speed and memory of both drivers against curl, on this machine, in one run.

    python -m tests.benchmarks.bench_download [size in MiB]

The server sends a real file with ``sendfile``; everybody writes to a file in the same folder. Every download is a
process of its own that measures itself once it is running, so neither the start of Python nor the idle process
counts. Rounds alternate, and the best of each contender counts, because the machine is shared.
"""

from __future__ import annotations

import asyncio
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from airflow_provider_sequentum.api import AsyncSequentumClient, ClientSettings, SequentumClient, files
from tests.benchmarks.loopback_server import loopback_server

ROUNDS = 5
SPEED_GOAL = 0.9
MEMORY_GOAL = 64
MEBIBYTE = 1024 * 1024


def curl(base_url: str, target: Path, size: int) -> tuple[float, float]:
    """Return curl's own time for the whole transfer, and no memory."""
    done = subprocess.run(
        ["curl", "-sS", "-L", "-o", str(target), "-w", "%{time_total}", f"{base_url}/api/v1/download"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert target.stat().st_size == size
    return float(done.stdout), 0.0


def ours(driver: str, base_url: str, target: Path, size: int) -> tuple[float, float]:
    """Run one download in a fresh process and return its seconds and its MiB above the idle process."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_download", driver, base_url, str(target), str(size)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    measured: tuple[float, float] = tuple(json.loads(done.stdout))
    assert target.stat().st_size == size
    return measured


def _measure_sync(settings: ClientSettings, file: files.RunFile, target: Path) -> tuple[float, float]:
    with SequentumClient(settings) as client, target.open("wb") as destination:
        idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.perf_counter()
        client.download(agent_id=7, run_id=42, file=file, destination=destination)
        return time.perf_counter() - began, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - idle) / 1024


async def _measure_async(settings: ClientSettings, file: files.RunFile, target: Path) -> tuple[float, float]:
    async with AsyncSequentumClient(settings) as client:
        with target.open("wb") as destination:
            idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            began = time.perf_counter()
            await client.download(agent_id=7, run_id=42, file=file, destination=destination)
            return time.perf_counter() - began, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - idle) / 1024


def _download_here(driver: str, base_url: str, target: str, size: str) -> None:
    settings = ClientSettings(api_key="sk-benchmark-key", base_url=base_url)
    file = files.RunFile(id=1, name="file", file_size=int(size))
    if driver == "sync":
        measured = _measure_sync(settings, file, Path(target))
    else:
        measured = asyncio.run(_measure_async(settings, file, Path(target)))
    print(json.dumps(measured))


def main() -> None:
    """Measure and print a table."""
    size = int(sys.argv[1]) * MEBIBYTE if len(sys.argv) > 1 else 1024 * MEBIBYTE
    if shutil.which("curl") is None:
        sys.exit("curl is not installed; there is nothing to compare with.")
    print(f"{size // MEBIBYTE} MiB, best of {ROUNDS}; goals: {SPEED_GOAL} of curl, {MEMORY_GOAL} MiB above idle")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "source"), Path(folder, "target")
        with source.open("wb") as content:
            for _ in range(size // MEBIBYTE):
                content.write(bytes(MEBIBYTE))
        with loopback_server(source) as base_url:
            results: dict[str, list[tuple[float, float]]] = {"curl": [], "sync": [], "async": []}
            for _ in range(ROUNDS):
                results["curl"].append(curl(base_url, target, size))
                results["sync"].append(ours("sync", base_url, target, size))
                results["async"].append(ours("async", base_url, target, size))
    fastest_curl = min(seconds for seconds, _ in results["curl"])
    for name, measured in results.items():
        seconds, memory = min(measured)[0], max(memory for _, memory in measured)
        speed = size / MEBIBYTE / seconds
        print(f"{name:6}{speed:8.0f} MiB/s{fastest_curl / seconds:6.2f} of curl{memory:8.1f} MiB above idle")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        _download_here(*sys.argv[1:])
    else:
        main()
