"""The command ``sequentum-sandbox``."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_sequentum.sandbox.breakages import parse_breakage
from airflow_provider_sequentum.sandbox.server import Sandbox

if TYPE_CHECKING:
    from airflow_provider_sequentum.sandbox.agents import Agent

_EPILOG = """\
examples:
  sequentum-sandbox                              serve the sample agents on port 8765
  sequentum-sandbox --port 9000 --time-scale 10  on another port, ten times as fast
  sequentum-sandbox --data-folder ./my-data      one agent for each CSV or JSON file
  sequentum-sandbox --state-file sandbox.json    remember agents and runs between starts
  sequentum-sandbox --ready-file ready.json      write addresses and key for another process

how to use it:
  Set AIRFLOW_CONN_SEQUENTUM_DEFAULT to the printed connection, or use the printed address and key with any
  HTTP client (header "Authorization: ApiKey <key>"). Open the address in a browser to see agents, runs and
  sessions. <address>/docs documents the API, and the admin API under /sandbox, which adds agents, plans
  outcomes, injects faults, moves the clock and reads the ledger.

how a run ends:
  As its agent says, unless the run's input parameters say otherwise, for example
  {"sandbox_outcome": "Failure", "sandbox_duration": 2}. Outcomes: Success, Completed, Failure, Failed, Stopped,
  Skipped; or Running, Queuing, Waiting to never end. A restart follows the agent's next plan.

how a build goes:
  Name a script in the prompt, as sandbox:asks_twice. Scripts: success, asks_twice, recoverable_error,
  unrecoverable_error, cancelled, slow, huge. Name a data set in the prompt to choose what the agent yields.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted; returns the exit code."""
    options = _parser().parse_args(arguments)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        with _sandbox(options) as sandbox:
            _break(sandbox, options.breakage)
            _announce(sandbox, options.ready_file)
            stop.wait()
    except (OSError, ValueError) as error:
        print(f"sequentum-sandbox: {error}", file=sys.stderr)
        return 2
    return 0


def _sandbox(options: argparse.Namespace) -> Sandbox:
    return Sandbox(
        time_scale=options.time_scale,
        rate_limit=options.rate_limit,
        builder_era=options.builder_era,
        data_folder=options.data_folder,
        state_file=options.state_file,
        seed=options.seed,
        port=options.port,
        storage_port=options.storage_port,
        credits=options.credits,
        space_concurrency=options.space_concurrency,
        host=options.host,
        allowed_hosts=options.allow_host,
        api_key=os.environ.get("SEQUENTUM_SANDBOX_API_KEY"),
        sample_agents=not options.no_sample_agents,
    )


def _break(sandbox: Sandbox, breakages: Sequence[str]) -> None:
    agents = {agent.name: agent.id for agent in _agents(sandbox)}
    for name, breakage in map(parse_breakage, breakages):
        if name not in agents:
            raise ValueError(f"there is no agent {name!r} to break; there are {', '.join(agents)}")
        sandbox.break_runs(agents[name], breakage.kind, from_run=breakage.from_run)


def _agents(sandbox: Sandbox) -> list[Agent]:
    with sandbox.engine.lock:  # requests are answered already, and may add agents
        return list(sandbox.engine.state.agents.values())


def _announce(sandbox: Sandbox, ready_file: Path | None) -> None:
    print(f"Sequentum sandbox   {sandbox.base_url}")
    print(f"API documentation   {sandbox.base_url}/docs")
    print(f"API key             {sandbox.api_key}")
    print(f"Airflow connection  AIRFLOW_CONN_SEQUENTUM_DEFAULT='{sandbox.connection_uri}'")
    for agent in _agents(sandbox):
        print(f"agent {agent.id}          {agent.name} ({len(agent.records)} records)")
    print("Press Ctrl-C to stop.", flush=True)
    if ready_file is not None:
        # Renamed into place, so that a process that waits for the file finds it whole.
        temporary = ready_file.with_name(ready_file.name + ".part")
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(sandbox.describe()), encoding="utf-8")
        temporary.replace(ready_file)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sequentum-sandbox",
        description="A local stand-in for Sequentum Cloud: agents, runs, files and the agent builder, for development "
        "and tests.\nNothing leaves this machine. The API key is new at each start (or the one in the state file); "
        "set\nSEQUENTUM_SANDBOX_API_KEY to choose it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="answer requests for this host name or address too, as of a container; may be given several times "
        "(default: --host and the names of the loopback interface)",
    )
    add("--port", type=int, default=8765, help="port of the API; 0 for a free one (default: %(default)s)")
    add("--storage-port", type=int, default=0, help="port of signed downloads (default: a free one)")
    add("--time-scale", type=float, default=1.0, metavar="X", help="sandbox seconds per second (default: 1)")
    add("--rate-limit", type=int, default=100, metavar="N", help="requests per minute and key (default: 100)")
    add(
        "--builder-era",
        choices=["stateful", "single_shot"],
        default="stateful",
        help="conversational agent builder, or the later single-shot one (default: %(default)s)",
    )
    add("--credits", type=float, default=1000.0, help="credits to start with (default: %(default)s)")
    add("--space-concurrency", type=int, default=10, metavar="N", help="runs at once per space (default: 10)")
    add("--data-folder", type=Path, metavar="DIR", help="CSV and JSON files, each an agent of its own")
    add(
        "--breakage",
        action="append",
        default=[],
        metavar="NAME:KIND[:RUN]",
        help="let the runs of an agent deliver wrong records from its first, or the RUN-th, run on, as "
        "us_states:page_missing:3; may be given several times",
    )
    add("--no-sample-agents", action="store_true", help="leave out the agents with the shipped data sets")
    add("--state-file", type=Path, metavar="FILE", help="remember everything in this file")
    add("--ready-file", type=Path, metavar="FILE", help="write addresses and key here, as JSON, once serving")
    add("--seed", type=int, default=0, help="seed of faults that apply by chance (default: 0)")
    return parser
