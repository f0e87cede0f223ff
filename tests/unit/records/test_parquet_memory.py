"""Memory does not grow with the file that becomes Parquet."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from airflow_provider_sequentum.records.columns import choose_types
from airflow_provider_sequentum.records.writing import RecordFile, write_parquet

MEGABYTE = 1_000_000


def convert(megabytes: int, by: Sequence[str], folder: Path) -> tuple[int, int]:
    """Make a CSV file of this size and convert it. Returns its records and the peak of the memory in bytes."""
    path = folder / "rows.csv"
    text = "a description of forty characters or so, "
    with path.open("w") as file:
        file.write("sku,region,price,sold,text\n")
        number = 0
        while file.tell() < megabytes * MEGABYTE:
            file.writelines(
                f'{n:08d},R{n % 300},{n % 9999 / 100},2024-01-{n % 28 + 1:02d},"{text}{n * 7919 % 1000003}"\n'
                for n in range(number, number + 1000)
            )
            number += 1000
    source = RecordFile(path, path.name)
    columns = source.types()
    work = folder / "work"
    work.mkdir()
    parts = write_parquet(source, list(columns), choose_types([columns], {}, {}), by, work, lambda: None)
    return sum(part.records for part in parts), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.slow
@pytest.mark.parametrize(("by", "sizes"), [([], (20, 200)), (["region"], (100, 400))])
def test_some_times_the_file_takes_no_more_memory(by: list[str], sizes: tuple[int, int], tmp_path: Path) -> None:
    """With margin for a row group (32 MiB). What is gathered of partitions (64 MiB) is full with the smaller file."""
    peaks = []
    for megabytes in sizes:
        folder = tmp_path / str(megabytes)
        folder.mkdir()
        command = [sys.executable, "-m", "tests.unit.records.test_parquet_memory", str(megabytes), str(folder), *by]
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(ended.stdout))
    assert peaks[1] < peaks[0] + 70 * MEGABYTE


if __name__ == "__main__":
    sys.stdout.write(str(convert(int(sys.argv[1]), sys.argv[3:], Path(sys.argv[2]))[1]))
