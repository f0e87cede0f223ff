"""Three uploads of rows by a process that kills itself after a step, and then the next attempt; once for each step.

    python -m tests.support.upload_process <space id>

A step is the moment before a request, or after its response. After each process it says what became of it, as ``2
killed``, ``2 retried`` or ``6 lived``, and waits for a line. The processes are forked, so Airflow is imported once.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from airflow_provider_sequentum.api.client import SequentumClient
from airflow_provider_sequentum.transfers.input_files import ObjectStorageToInputFilesOperator
from tests.support.airflow import FakeTask
from tests.support.service import Clock

UPLOADS = 3


def upload(space_id: str, step: int) -> None:
    """Upload a file for each of three mapped tasks; its rows name the step."""
    for index in range(UPLOADS):
        task = FakeTask(Clock(), retries=2)
        task.ti.task_id, task.ti.map_index = "upload", index
        rows = [{"page": index, "step": step}]
        ObjectStorageToInputFilesOperator(task_id="upload", space_id=space_id, rows=rows).execute(task.context)


def die_after(steps: int) -> None:
    """Let this process kill itself after so many steps."""
    left, exchange = steps, SequentumClient.exchange

    def take_step() -> None:
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    def stepping(client: SequentumClient, call: Any, **options: Any) -> Any:
        take_step()
        reply = exchange(client, call, **options)
        take_step()
        return reply

    SequentumClient.exchange = stepping  # type: ignore[method-assign, assignment]


def in_child(space_id: str, step: int, *, dies: bool) -> bool:
    """Upload in a process of its own; return whether it was killed."""
    child = os.fork()
    if child == 0:
        if dies:
            die_after(step)
        upload(space_id, step)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    if os.waitstatus_to_exitcode(status):
        raise SystemExit("An upload failed.")
    return False


def say(step: int, fate: str) -> None:
    """Say what became of a process, and wait for a line."""
    sys.stdout.write(f"{step} {fate}\n")
    sys.stdout.flush()
    sys.stdin.readline()


def main() -> None:
    """Kill a process after each step until one lives."""
    space_id, step = sys.argv[1], 0
    upload(space_id, -1)  # an earlier DAG run; it also imports what the processes then share
    while in_child(space_id, step, dies=True):
        say(step, "killed")
        in_child(space_id, step, dies=False)
        say(step, "retried")
        step += 1
    say(step, "lived")


if __name__ == "__main__":
    main()
