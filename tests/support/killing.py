"""Operators whose process kills itself at a step, each in a process of its own.

    python -m tests.support.killing

A line of JSON on the input names the operator, its arguments, the folders whose changes are steps, and the step to die
at. The response is a line of JSON: the steps that were taken and whether the process was killed. A step is the moment
before a file or a folder is made, renamed or removed, the middle of each write of a file that lands, and the moment
before and after each request. The processes are forked, so Airflow is imported once.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from airflow_provider_sequentum.api.client import SequentumClient
from airflow_provider_sequentum.transfers import landing as landing_module
from tests.support.landing import FakeTaskInstance

CHECKOUT = Path(__file__).parents[2]
_ANSWER = "the response: "
_RANDOM = re.compile(r"-\w{8}(?=\.unfinished$|$)")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Killing:
    """Runs operators in processes that kill themselves."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, operator: str, arguments: dict[str, Any], folders: list[Path], step: int | None) -> list[str]:
        """Run an operator until it comes to a step, and return the steps until there.

        :param operator: its module and its class, with a colon between them.
        :param step: counted from 0; ``None`` lets it live.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        asked = {"operator": operator, "arguments": arguments, "folders": [*map(str, folders)], "step": step}
        stdin.write(json.dumps(asked) + "\n")
        stdin.flush()
        # Airflow logs to the same place.
        said = next((line for line in stdout if line.startswith(_ANSWER)), None)
        assert said is not None, "it ended without a response"
        status, steps = json.loads(said.removeprefix(_ANSWER))
        assert status == (0 if step is None else -signal.SIGKILL), steps
        return list(steps)


@contextmanager
def killing(*modules: str) -> Iterator[Killing]:
    """Start the process that forks the others.

    :param modules: what they all need and is imported once.
    """
    command = [sys.executable, "-m", "tests.support.killing", *modules]
    with subprocess.Popen(command, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        watchdog = threading.Timer(600, process.kill)
        watchdog.start()
        try:
            yield Killing(process)
        finally:
            process.kill()
            watchdog.cancel()


class _Steps:
    """Counts the steps of this process, tells them, and kills it at one of them."""

    def __init__(self, fatal: int | None, folders: list[str], pipe: int) -> None:
        self._fatal, self._folders, self._pipe, self._taken = fatal, folders, pipe, 0

    def take(self, what: str) -> None:
        os.write(self._pipe, json.dumps(what).encode() + b"\n")
        if self._taken == self._fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        self._taken += 1

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Take a step where the interpreter is about to change a file in one of the folders."""
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & _WRITES):
            return
        if event not in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"):
            return
        path = arguments[1] if event == "os.rename" else arguments[0]
        if isinstance(path, (str, os.PathLike)) and any(os.fspath(path).startswith(each) for each in self._folders):
            self.take(f"{event} {_RANDOM.sub('', Path(path).name)}")


class _Torn:
    """A file that is written by halves, with a step between them."""

    def __init__(self, stream: Any, take: Callable[[], None]) -> None:
        self._stream, self._take = stream, take

    def write(self, data: bytes, /) -> object:
        half = len(data) // 2
        self._stream.write(data[:half])
        if hasattr(self._stream, "flush"):
            self._stream.flush()
        self._take()
        return self._stream.write(data[half:])


def _instrument(steps: _Steps) -> None:
    exchange, landing = SequentumClient.exchange, landing_module.landing

    def stepping(client: SequentumClient, call: Any, **options: Any) -> Any:
        steps.take("before a request")
        reply = exchange(client, call, **options)
        steps.take("after a request")
        return reply

    @contextmanager
    def by_halves(target: Any, expected_size: int | None = None) -> Iterator[Any]:
        with landing(target, expected_size) as stream:
            yield _Torn(stream, lambda: steps.take(f"half of {target.name}"))

    SequentumClient.exchange = stepping  # type: ignore[method-assign, assignment]
    landing_module.landing = by_halves
    sys.addaudithook(steps.hear)


def _in_child(asked: dict[str, Any]) -> tuple[int, list[str]]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        module, _, name = asked["operator"].partition(":")
        operator = getattr(importlib.import_module(module), name)(task_id="killed", **asked["arguments"])
        _instrument(_Steps(asked["step"], asked["folders"], writing))
        operator.execute({"ti": FakeTaskInstance()})
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        steps = [json.loads(line) for line in told]
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), steps


def main() -> None:
    """Run what is asked for until nothing more is."""
    for module in sys.argv[1:]:
        importlib.import_module(module)
    for line in sys.stdin:
        sys.stdout.write(f"\n{_ANSWER}{json.dumps(_in_child(json.loads(line)))}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
