"""What changed between two runs of many records, beside DuckDB's bare join of the same files: time and memory.

    python -m tests.benchmarks.bench_changes [records]

After the first run is published, comparison and join alternate, each in a process of its own, with the same limits for
DuckDB. A comparison is repeated as a retry repeats it. ``make bench-changes BENCH_CHANGES=1000000`` takes fewer.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, stdev

import duckdb

from airflow_provider_sequentum.quality.engine import DISK, MEMORY, open_workspace
from airflow_provider_sequentum.quality.published import publish_changes

RECORDS, ROUNDS = 10_000_000, 3
MEBIBYTE = 1024 * 1024
GOAL, MEMORY_GOAL = 3.0, 512 * MEBIBYTE


class Folder:
    """The storage: a folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def now(self) -> datetime:
        return datetime.now(UTC)

    def open(self, path: str) -> Path:
        return Path(path)

    def read_pointer(self) -> bytes | None:
        pointer = self.folder / "pointer.json"
        return pointer.read_bytes() if pointer.exists() else None

    def write_pointer(self, content: bytes) -> None:
        (self.folder / "pointer.json").write_bytes(content)

    def write_changes(self, name: str, content: Path) -> str:
        target = self.folder / name
        shutil.copyfile(content, target)
        return str(target)


def make(folder: Path, records: int) -> None:
    """Write two runs: one record in a hundred has another price, one in a thousand is new or gone."""
    for run in (1, 2):
        shift = 0 if run == 1 else records // 1000
        duckdb.sql(
            f"COPY (SELECT 'SKU' || (i + {shift}) AS sku, 'Product ' || hash(i + {shift}) AS name, "
            f"((i + {shift}) * 7 % 100000) / 100 + CASE WHEN {run} = 2 AND i % 100 = 0 THEN 1 ELSE 0 END AS price "
            f"FROM range({records}) r(i)) TO '{folder}/run-{run}.parquet'"
        )


def compare(folder: Path) -> None:
    """Compare the second run with the first one."""
    publish_changes(Folder(folder), open_workspace, [f"{folder}/run-2.parquet"], key=["sku"], ignored=[])


def publish_first(folder: Path) -> None:
    """Publish the first run, which is not measured as a comparison."""
    publish_changes(Folder(folder), open_workspace, [f"{folder}/run-1.parquet"], key=["sku"], ignored=[])


def join(folder: Path) -> None:
    """Join the two files by the key and look at every value: the least that a comparison has to do."""
    spill = folder / "spill"
    with duckdb.connect(config={"memory_limit": f"{MEMORY}B", "temp_directory": str(spill)}) as connection:
        connection.execute(f"SET max_temp_directory_size = '{DISK}B'")
        connection.execute(
            f"SELECT count(*) FROM '{folder}/run-1.parquet' a FULL JOIN '{folder}/run-2.parquet' b ON a.sku = b.sku "
            "WHERE a.sku IS NULL OR b.sku IS NULL OR a.name IS DISTINCT FROM b.name OR a.price IS DISTINCT FROM b.price"
        ).fetchall()


def measured(step: str, folder: Path) -> tuple[float, int]:
    """Return the seconds and the peak memory, in bytes, of a step in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_changes", step, str(folder)]
    seconds, kibibytes = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(seconds), int(kibibytes) * 1024


def report(results: dict[str, list[tuple[float, int]]]) -> bool:
    """Print the figures and return whether the goals are met."""
    for step, figures in results.items():
        seconds, peaks = zip(*figures, strict=True)
        deviation = stdev(seconds) if len(seconds) > 1 else 0.0
        print(
            f"{step:14} n={len(figures)} mean {mean(seconds):6.1f} s deviation {deviation:4.1f}, "
            f"peak {min(peaks) / MEBIBYTE:.0f} to {max(peaks) / MEBIBYTE:.0f} MiB"
        )
    ratio = mean(one[0] / other[0] for one, other in zip(results["compare"], results["join"], strict=True))
    print(f"the comparison takes {ratio:.1f} times as long as the join (goal: {GOAL} or less)")
    return ratio <= GOAL and max(peak for _, peak in results["compare"]) < MEMORY_GOAL


def main() -> int:
    """Measure and print, or be the process that is measured; return 1 where a goal is missed."""
    steps = {"publish_first": publish_first, "compare": compare, "join": join}
    if sys.argv[1:2] and sys.argv[1] in steps:
        started = time.perf_counter()
        steps[sys.argv[1]](Path(sys.argv[2]))
        print(time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return 0
    records = int(sys.argv[1]) if sys.argv[1:] else RECORDS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, records)
        results = {"publish_first": [measured("publish_first", folder)], "compare": [], "join": []}
        for _ in range(ROUNDS):
            for step in ("compare", "join"):
                results[step].append(measured(step, folder))
    print(f"{records:,} records in each run")
    return 0 if report(results) else 1


if __name__ == "__main__":
    sys.exit(main())
