"""Landing files against curl, on this machine, in one run: one large file, and many small ones.

    python -m tests.benchmarks.bench_landing [size in MiB] [number of small files]

Both fetch the same addresses, each of which redirects to a file that the server sends with ``sendfile``, and write to a
folder on the same disk. Ours takes checksums and counts records as well, so curl is also measured with ``sha256sum``
and ``wc -l`` after it, which is what it takes to know as much. What is measured of ours is the whole transfer but its
two questions to the service (the run and the list of files): fetching, checksums, record counts, the two manifests, the
verification. Each measurement is a process of its own. The start of Python, its imports and Airflow's plugins aren't
counted; curl's start is. Rounds alternate; the best of each counts, because the machine is shared. There are two large
files, because counting records is more work when cells are quoted. The small files are fetched twice: from a server
that answers at once, which shows what a file costs the processor, and from one that takes as long as a service in a
data centre nearby.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.benchmarks.loopback_server import RUN, loopback_server

ROUNDS = 5
SMALL_SIZE = 20 * 1024
AWAY = 0.05
"""Seconds that each answer of a service in a data centre nearby takes."""
PARALLEL = 8
MEBIBYTE = 1024 * 1024
ROW = b"A-1234567,A product with a name of some length,19.99,2026-11-22T10:00:00Z\n"
QUOTED_ROW = b'"A-1234567","A product with a name of some length","19.99","2026-11-22T10:00:00Z"\n'


def curl(base_url: str, folder: Path, count: int) -> tuple[float, float]:
    """Let curl fetch ``count`` files at a time and return its seconds."""
    lines = [
        f'url = "{base_url}/api/v1/{number}/download"\noutput = "{folder / str(number)}"' for number in range(count)
    ]
    config = folder.parent / "curl.txt"
    config.write_text("\n".join(lines))
    command = ["curl", "-fsSL", "--no-progress-meter", "--parallel", "--parallel-max", str(PARALLEL), "-K", str(config)]
    began = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - began, 0.0


def curl_and_sums(base_url: str, folder: Path, count: int) -> tuple[float, float]:
    """The same, then checksums and line counts of all files."""
    seconds, memory = curl(base_url, folder, count)
    names = [path.name for path in folder.iterdir()]
    began = time.perf_counter()
    for command in (["sha256sum"], ["wc", "-l"]):
        subprocess.run([*command, *names], check=True, capture_output=True, cwd=folder)
    return seconds + time.perf_counter() - began, memory


def ours(base_url: str, folder: Path, count: int, size: int) -> tuple[float, float]:
    """Let a process of its own transfer the files and return its seconds and its MiB above the idle process."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_landing", base_url, str(folder), str(count), str(size)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    measured: tuple[float, float] = tuple(json.loads(done.stdout.splitlines()[-1]))
    return measured


def _transfer_here(base_url: str, folder: Path, count: int, size: int) -> None:
    os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
    os.environ["AIRFLOW_CONN_BENCH"] = json.dumps(
        {
            "conn_type": "sequentum",
            "host": base_url,
            "password": "sk-bench",
            "extra": {"requests_per_minute": 1_000_000},
        }
    )
    import logging

    from airflow.providers.common.compat.sdk import ObjectStoragePath

    from airflow_provider_sequentum.api import runs
    from airflow_provider_sequentum.api.files import RunFile
    from airflow_provider_sequentum.api.parsing import Page
    from airflow_provider_sequentum.api.runs import Run
    from airflow_provider_sequentum.hooks.sequentum import SequentumHook
    from airflow_provider_sequentum.transfers.landing import LandingFolder
    from airflow_provider_sequentum.transfers.run_files_transfer import RunFilesTransfer

    listed = [RunFile(id=number + 1, name=f"{number}.csv", file_type=1, file_size=size) for number in range(count)]
    run = Run.model_validate({**json.loads(RUN), "status": 10})

    class Transfer(RunFilesTransfer):
        """The transfer, with the responses to its two questions at hand."""

        def _run(self) -> Run:
            return run

        def _listed(self) -> Page[RunFile]:
            return Page(listed)

    target = ObjectStoragePath(folder.as_uri())
    hook = SequentumHook("bench")
    # Looking the connection up is part of the task's start, and so are the plugins that Airflow loads for the first
    # file it opens; the response also tells the server's request limit.
    hook.send(runs.status(7, 42))
    with (target.parent / "first").open("wb") as first:  # type: ignore[no-untyped-call]
        first.write(b"")
    transfer = Transfer(
        hook=hook,
        agent_id=7,
        run_id=42,
        folder=LandingFolder(target),
        file_kinds=["delivered"],
        file_patterns=["*"],
        skip_on_empty=False,
        max_parallel_files=PARALLEL,
        remove_method=None,
        log=logging.getLogger("bench"),  # type: ignore[arg-type]
    )
    idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    transfer.transfer()
    seconds = time.perf_counter() - began
    print(json.dumps([seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - idle) / 1024]))


def compare(what: str, content: Path, count: int, delay: float = 0.0) -> None:
    """Measure and print one row."""
    size = content.stat().st_size
    contenders: dict[str, Callable[[str, Path, int], tuple[float, float]]] = {
        "curl": curl,
        "curl, sha256sum, wc": curl_and_sums,
        "ours": partial(ours, size=size),
    }
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    with loopback_server(content, delay) as base_url:
        for _ in range(ROUNDS):
            for name, measured in results.items():
                with tempfile.TemporaryDirectory() as parent:
                    folder = Path(parent, "files")
                    folder.mkdir()
                    measured.append(contenders[name](base_url, folder, count))
                    written = [path for path in folder.iterdir() if path.stat().st_size == size]
                    assert len(written) == count
    best = {name: min(measured)[0] for name, measured in results.items()}
    for name, measured in results.items():
        speed = size * count / MEBIBYTE / best[name]
        ratios = [f"{best[other] / best[name]:10.2f}" for other in ("curl", "curl, sha256sum, wc")]
        memory = max(row[1] for row in measured)
        print(f"{what:26}{name:20}{best[name]:8.2f} s{speed:7.0f} MiB/s{''.join(ratios)}{memory:8.1f} MiB")


def main() -> None:
    """Measure and print a table."""
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    print(f"Best of {ROUNDS}, {PARALLEL} files at a time. Ratios: to curl, and to curl with sha256sum and wc after it.")
    print("Memory: above the idle process.")
    with tempfile.TemporaryDirectory() as folder:
        large, small = Path(folder, "large.csv"), Path(folder, "small.csv")
        for what, row in (("", ROW), (", quoted", QUOTED_ROW)):
            block = row * (MEBIBYTE // len(row))
            # The second takes the place of the first: with both there, the disk is busy with writing them out.
            with large.open("wb") as file:
                for _ in range(size):
                    file.write(block)
            compare(f"1 x {size} MiB{what}", large, 1)
        small.write_bytes(ROW * (SMALL_SIZE // len(ROW)))
        compare(f"{count} x 20 KiB", small, count)
        compare(f"{count} x 20 KiB, {1000 * AWAY:g} ms away", small, count, AWAY)


if __name__ == "__main__":
    if len(sys.argv) > 3:
        _transfer_here(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
