"""Faults that were fixed, put back one at a time: the checker has to find each of them.

``make simulate-faults`` copies the package, puts one fault back, and simulates until a promise is broken or a minute
is over, for ten seeds each. A fault whose text is not there any more fails the check: it has to follow the code.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import airflow_provider_sequentum

PACKAGE = Path(airflow_provider_sequentum.__file__).parent
SECONDS = 60
"""Of CPU."""
END = re.compile(r"\d+ histories from seed \d+, \d+ violations")
"""The line that a simulation from a seed ends with."""
ENOUGH = 9
"""Of ten seeds, with how many each fault has to be found."""


class Fault(NamedTuple):
    """A fault.

    :param commit: the one that fixed it.
    :param what: what went wrong.
    :param path: the module, below the package.
    :param right: what stands there.
    :param wrong: what stood there, in the words of the code as it is.
    """

    commit: str
    what: str
    path: str
    right: str
    wrong: str


FAULTS = (
    Fault(
        "b67cbfe",
        "a run is started beside one that could not be stopped",
        "runs/start.py",
        "    if result.confirmed:\n        return result.seen\n",
        "    if result.confirmed or True:\n        return result.seen\n",
    ),
    Fault(
        "1a8b776",
        "a kill does not end the work, so that a start follows it",
        "airflow_compat/kill.py",
        '            self._thread_id = None\n            raise AirflowTaskTerminated("The task was killed.")\n',
        "            self._thread_id = None\n",
    ),
    Fault(
        "e9f5ff6",
        "a run that cannot be looked at goes on when no attempt is left",
        "jobs/attempt.py",
        "        if is_retried and self.port.is_recorded:\n",
        "        if self.port.is_recorded:\n",
    ),
    Fault(
        "861b8ee",
        "the trigger of a cleared task leaves its run to an attempt that does not take it over",
        "airflow_compat/trigger_life.py",
        "        if not successor_may_join:\n            return True\n",
        "        if not successor_may_join:\n            return False\n",
    ),
    Fault(
        "3d90b20",
        "a trigger that stops a restarted run takes the old Failure for its end",
        "triggers/agent_run.py",
        '"restart_asked_at": self.restart_asked_at,',
        '"restart_asked_at": None,',
    ),
    Fault(
        "592b342",
        "a deferred space does not stop the runs that it could not look at",
        "triggers/space_run.py",
        "for wait in [*self.waits, *self.also_stop]]",
        "for wait in self.waits]",
    ),
    Fault(
        "8553bfb",
        "a lost run is looked for by the worker's clock",
        "runs/lost_start.py",
        "return None if served_at is None else served_at - (now - record.requested_at)",
        "return None if served_at is None else record.requested_at",
    ),
    Fault(
        "fba4a82",
        "the old Failure after a restart is taken for a new one",
        "runs/wait.py",
        "        and (now is None or now - asked_at < RESTART_GRACE)\n",
        "        and now is None\n",
    ),
    Fault(
        "2c040d1",
        "a cleared task sends its follow-ups again into the session that it was given",
        "sessions/start.py",
        "(was_cleared and not is_given_again)",
        "was_cleared",
    ),
    Fault(
        "7133772",
        "a kill that comes while the task gives up leaves its run",
        "runs/attempt.py",
        "        self.port.deadline = None\n        is_overdue",
        "        self.port.deadline, self.is_released = None, True\n        is_overdue",
    ),
    Fault(
        "f744ff6",
        "the trigger of a marked task leaves its run",
        "airflow_compat/trigger_life.py",
        "        if state in OVER:\n            return True\n",
        "        if state in OVER:\n            return False\n",
    ),
    Fault(
        "1092eb7",
        "a session is left to an attempt that will not come",
        "sessions/attempt.py",
        "            return super().release(is_retried=is_retried, is_killed=is_killed)\n",
        "            return super().release(is_retried=True, is_killed=is_killed)\n",
    ),
    Fault(
        "6df2d69",
        "a run that is going is not joined, and another one is started",
        "runs/start.py",
        "    config = new.config\n    step = _decide(record, run, new)\n",
        "    config = new.config\n    step = NextStep.START\n",
    ),
    Fault(
        "85a5638",
        "a message is taken for received without proof",
        "sessions/messages.py",
        "has_reacted = request is Request.FOLLOWUP and session.turn is not Turn.SENT",
        "has_reacted = request is Request.FOLLOWUP",
    ),
    Fault(
        "159f883",
        "a job whose status is refused is said to have ended",
        "jobs/stop.py",
        "        if self.is_hidden and self._is_said_over:\n",
        "        if self.is_hidden:\n",
    ),
    Fault(
        "fba4a82",
        "a stop ends at the deadline that it follows",
        "jobs/stop.py",
        "    deadline, port.deadline = port.deadline, None\n    while",
        "    deadline = port.deadline\n    while",
    ),
    Fault(
        "0bf9a8c",
        "what a start of a space may have started is not looked for when the task is killed",
        "spaces/attempt.py",
        "        if record.is_in_doubt and not (record.runs is None and record.is_guess):\n",
        "        if record.is_in_doubt and not record.is_in_doubt:\n",
    ),
    Fault(
        "4bfa74c",
        "runs of a space whose start was lost are not looked for by the next attempt",
        "spaces/start.py",
        '    if record.is_in_doubt:\n        log.warning("An earlier attempt',
        '    if record is new:\n        log.warning("An earlier attempt',
    ),
    Fault(
        "2b662be",
        "a session that ended before everything was said is a success",
        "sessions/state.py",
        "if session.sent < followups:\n            return Action.FOLLOWUPS_LEFT",
        "if session.sent > followups:\n            return Action.FOLLOWUPS_LEFT",
    ),
    Fault(
        "51224dd",
        "a follow-up that is sent again and meets the late effect of the first one is sent once more",
        "sessions/messages.py",
        "is_late_effect = record.doubted is request and (error.status_code == 409 or not is_refusal)",
        "is_late_effect = record.doubted is request and not is_refusal",
    ),
    Fault(
        "077e43a",
        "the run of a mapped sibling whose attempt has just started is taken for the lost one",
        "hooks/port.py",
        "if state in may_own_run and index not in heard]",
        "if state is None and index not in heard]",
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Put the faults back; return 1 if one was not found often enough."""
    parser = argparse.ArgumentParser(prog="make simulate-faults", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", default="", help="those whose commit or text contains this")
    options = parser.parse_args(arguments)
    enough = options.seeds * ENOUGH // 10
    is_good = True
    for fault in FAULTS:
        if options.only in f"{fault.commit} {fault.what}":
            found = look_for(fault, [1 + 1_000_000 * seed for seed in range(options.seeds)])
            is_good = is_good and len(found) >= enough
            often = f"{len(found):2d} of {options.seeds}"
            middle = f"{statistics.median(found):5.0f}" if found else "    -"
            print(f"{fault.commit}  {often}  {middle}  {fault.what}", flush=True)
    return 0 if is_good else 1


def look_for(fault: Fault, seeds: Sequence[int]) -> list[int]:
    """Simulate with the fault; return how many histories it took to find it, for the seeds that found it in time."""
    with tempfile.TemporaryDirectory() as folder:
        put_back(fault, Path(folder))
        command = [sys.executable, "-m", "tests.simulation", "--histories", "1000000", "--seconds", str(SECONDS)]
        command += ["--seed", *map(str, seeds)]
        path = os.pathsep.join([folder, str(PACKAGE.parent)])
        environment = {**os.environ, "PYTHONPATH": path}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    ends = [line.split() for line in done.stdout.splitlines() if END.match(line)]
    if len(ends) != len(seeds):
        raise RuntimeError(f"The simulation broke with {fault.commit}: {done.stderr[-500:]}")
    return [int(words[0]) for words in ends if words[5] != "0"]


def put_back(fault: Fault, folder: Path) -> None:
    """Copy the package into a folder, with the fault.

    :raises ValueError: the code that the fault changes is not there, or more than once.
    """
    copy = folder / PACKAGE.name
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "sandbox"))
    module = copy / fault.path
    text = module.read_text()
    if text.count(fault.right) != 1:
        raise ValueError(f"{fault.commit} cannot be put back into {fault.path}: what it changes is not there once.")
    module.write_text(text.replace(fault.right, fault.wrong))


if __name__ == "__main__":
    sys.exit(main())
