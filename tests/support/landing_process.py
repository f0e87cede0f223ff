"""A process that lands a run's files and stops in the middle of a large one, to be killed there.

    python -m tests.support.landing_process <agent id> <run id> <destination> <bytes after which to stop>

It says ``stopped`` when it has stopped.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, cast

from airflow_provider_sequentum.transfers.landing import Progress
from airflow_provider_sequentum.transfers.run_files import RunFilesToObjectStorageOperator
from tests.support.landing import FakeTaskInstance


def main() -> None:
    """Land the files until so many bytes have come."""
    agent_id, run_id, destination, limit = sys.argv[1:]
    moved = Progress.moved

    def moved_until_limit(self: Progress, size: int) -> None:
        moved(self, size)
        if self._bytes > int(limit):
            sys.stdout.write("stopped\n")
            sys.stdout.flush()
            time.sleep(3600)

    Progress.moved = moved_until_limit  # type: ignore[method-assign]
    # One file at a time, in the order of the list: what is whole when the process is killed is then known.
    operator = RunFilesToObjectStorageOperator(
        task_id="land", agent_id=agent_id, run_id=run_id, destination=destination, max_parallel_files=1
    )
    operator.execute(cast("Any", {"ti": FakeTaskInstance()}))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    main()
