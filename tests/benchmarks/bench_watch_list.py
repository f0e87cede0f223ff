"""What the watcher's decisions cost: many waits, each for a run of another agent, all of them on the agents list.

    python -m tests.benchmarks.bench_watch_list [waits]

CPU time of the thread, without sending. Memory is that of the list and its waits, without what a trigger has.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
import tracemalloc
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow_provider_sequentum.api import agents
from airflow_provider_sequentum.api.call import Call, Response
from airflow_provider_sequentum.runs.wait import RunPoller, WaitSpec
from airflow_provider_sequentum.watching.polls import PagePoll, Poll, Wait
from airflow_provider_sequentum.watching.watch_list import Moment, WatchList

WAITS, POLLS, SPACING = 10_000, 1_000, 0.75
BEGAN = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)


def answer_to(call: Call[Any], poll: Poll, waits: int) -> Any:
    """Return what a response says, read as the client reads it: all agents have a run that goes on."""
    if isinstance(poll, PagePoll):
        first = (poll.number - 1) * 100 + 1
        rows = [{"id": number, "status": 3, "lastActivity": BEGAN.isoformat()} for number in range(first, first + 100)]
        body: Any = {"agents": rows, "totalRecordCount": waits}
    elif call.path.endswith("/runs"):
        body = [{"id": poll.agent_id + waits, "configId": poll.agent_id, "status": 3, "created": BEGAN.isoformat()}]
    else:
        body = {"id": poll.agent_id + waits, "configId": poll.agent_id, "status": 3, "created": BEGAN.isoformat()}
    return call.parse(Response(200, {"content-type": "application/json"}, json.dumps(body).encode(), False))


def main() -> None:
    """Print the figures."""
    waits = int(sys.argv[1]) if len(sys.argv) > 1 else WAITS
    answer_to(agents.list_agents(page=1), PagePoll(1, 100), waits)  # loads what it needs
    tracemalloc.start()
    watched = WatchList()
    for number in range(1, waits + 1):
        spec = WaitSpec(agent_id=number, run_id=number + waits)
        watched.add(Wait(RunPoller(spec), lambda *_: None), Moment(0.0, BEGAN))
    print(f"{tracemalloc.get_traced_memory()[0] / 1024 / waits:.1f} kB for each of {waits} waits")
    tracemalloc.stop()
    choices, readings, intakes = [], [], []
    for turn in range(POLLS):
        now = 1.0 + SPACING * turn
        moment = Moment(now, BEGAN + timedelta(seconds=now))
        began = time.thread_time()
        watched.pass_time(moment)
        watched.due(now)
        poll = watched.next_poll(now)
        call = poll.call()
        chosen = time.thread_time()
        answer = answer_to(call, poll, waits)
        read = time.thread_time()
        watched.answered(poll, answer, moment)
        choices.append(chosen - began)
        readings.append(read - chosen)
        intakes.append(time.thread_time() - read)
    for name, spent in (("choose a poll", choices), ("read a response", readings), ("take it in", intakes)):
        print(f"{name}: {statistics.fmean(spent) * 1000:.2f} ms on average, {max(spent) * 1000:.1f} ms at most")


if __name__ == "__main__":
    main()
