"""Simulate histories and check each one: ``make simulate SIM="--histories 10000 --seed 7"``.

History *n* is drawn from the seed plus *n*, so that one that breaks a promise can be seen again with ``--histories 1``.
It is printed with the shortest script that still breaks the promise.
"""

from __future__ import annotations

import argparse
import gc
import logging
import math
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any, NoReturn

from tests.simulation.all_worlds import broken_promises, world_name, world_of
from tests.simulation.history import Entry, written
from tests.simulation.promises import Broken
from tests.simulation.worlds import Action, World
from tests.support.worker import LOG_LINES, PACKAGE


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate; return 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="make simulate", description=__doc__)
    parser.add_argument("--histories", type=int, default=1000)
    parser.add_argument("--seed", type=int, nargs="+", default=[1], help="of the first history; several: one by one")
    parser.add_argument("--seconds", type=float, default=math.inf, help="of CPU, after which there are no more")
    parser.add_argument("--processes", type=int, default=1, help="which share the histories; each stops by itself")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first broken promise")
    parser.add_argument("--show", action="store_true", help="print each history")
    parser.add_argument("--by-world", action="store_true", help="print the rate of each world, too")
    options = parser.parse_args(arguments)
    be_quiet()
    gc.freeze()  # Airflow's modules stay; and what a history leaves need not be looked at after each 700 objects
    gc.set_threshold(20_000, 20, 20)
    violations = [simulate(seed, options) for seed in options.seed]
    return 1 if any(violations) else 0


def simulate(first: int, options: argparse.Namespace) -> int:
    """Simulate from a seed on; return how many histories broke a promise."""
    seeds = range(first, first + options.histories)
    shares = [seeds[start :: options.processes] for start in range(options.processes)]
    if len(shares) == 1:
        parts = [simulate_each(seeds, options)]
    else:
        with ProcessPoolExecutor(len(shares)) as pool:
            parts = list(pool.map(partial(simulate_each, options=options), shares))
    count, violations, seconds = map(sum, zip(*(part[:3] for part in parts), strict=True))
    print(f"{count} histories from seed {first}, {violations} violations, {rate(count, seconds)}", flush=True)
    if options.by_world:
        for name in sorted({name for *_, spent in parts for name in spent}):
            times = [each for *_, spent in parts for each in spent[name]]
            print(f"  {name}: {len(times)} histories, {rate(len(times), sum(times))}")
    return violations


def rate(count: int, seconds: float) -> str:
    """Return how many histories were played in a second of CPU time."""
    return f"{count / seconds:.0f} a second of CPU"


def simulate_each(
    seeds: Iterable[int], options: argparse.Namespace
) -> tuple[int, int, float, defaultdict[str, list[float]]]:
    """Simulate the histories of some seeds.

    :return: their number, how many broke a promise, the seconds of CPU, and those of each history by its world.
    """
    started_at, count, violations = time.process_time(), 0, 0
    spent: defaultdict[str, list[float]] = defaultdict(list)
    before = started_at
    for seed in seeds:
        count += 1
        if not keeps_promises(seed, is_shown=options.show):
            violations += 1
            if not options.keep_going:
                break
        now = time.process_time()
        spent[world_name(seed)].append(now - before)
        before = now
        if now - started_at > options.seconds:
            break
    return count, violations, time.process_time() - started_at, spent


def keeps_promises(seed: int, *, is_shown: bool) -> bool:
    """Play the history of a seed; return whether every promise was kept. A broken one is printed."""
    world = world_of(seed)
    try:
        history = world.play()
    except Exception:  # noqa: BLE001 - an error of the operator's own is a finding like any other
        world.monkeypatch.undo()
        print(f"seed {seed} ends in an error that no attempt should meet:")
        traceback.print_exc(file=sys.stdout)
        return False
    if is_shown:
        show(history)
    broken = broken_promises(history)
    if broken:
        report(seed, world.script, broken)
    return not broken


def be_quiet() -> None:
    """Let log lines reach those who read them as a part of a history, and no terminal."""
    logging.getLogger().handlers[:] = [logging.NullHandler()]
    try:
        import structlog
    except ImportError:  # Airflow 2.11 logs with the standard library alone, operators under a name of its own
        logging.getLogger(f"airflow.task.operators.{PACKAGE}").addHandler(LOG_LINES)
        return
    structlog.configure(
        processors=[structlog.stdlib.PositionalArgumentsFormatter(), _to_the_worker],
        wrapper_class=structlog.make_filtering_bound_logger(World.log_level),
    )


def _to_the_worker(logger: Any, method: str, event: Any) -> NoReturn:
    """Give what operators and triggers log to the worker, as the handler for other loggers does."""
    import structlog

    worker = LOG_LINES.worker
    if worker is not None:
        worker.warned.append(str(event["event"]))
    raise structlog.DropEvent


def report(seed: int, script: Sequence[Action], broken: Sequence[Broken]) -> None:
    """Print the shortest script that breaks the same promise."""
    short = shrunk(seed, script, broken[0].promise)
    history = world_of(seed).replay(short)
    print(f"seed {seed} breaks a promise:")
    for name, arguments in short:
        print(f"  {name} {arguments}")
    show(history)
    for one in broken_promises(history):
        print(f"  at {one.at:.0f} s: {one.promise}: {one.text}")


def shrunk(seed: int, script: Sequence[Action], promise: str) -> list[Action]:
    """Return a script from which nothing can be left out without the promise being kept."""
    shortest = list(script)
    index = 0
    while index < len(shortest):
        shorter = shortest[:index] + shortest[index + 1 :]
        if breaks(seed, shorter, promise):
            shortest = shorter
        else:
            index += 1
    return shortest


def breaks(seed: int, script: Sequence[Action], promise: str) -> bool:
    """Return whether a script breaks the promise. One that ends in an error has broken something else."""
    world = world_of(seed)
    try:
        history = world.replay(script)
    except Exception:  # noqa: BLE001 - whatever it is
        world.monkeypatch.undo()
        return False
    return any(one.promise == promise for one in broken_promises(history))


def show(history: Sequence[Entry]) -> None:
    """Print a history."""
    for line in written(history):
        print(f"    {line[:400]}")


if __name__ == "__main__":
    sys.exit(main())
