"""A process in which a model starts a run by a tool and waits for it; it stops at a step, to be killed there.

    python -m tests.toolset.process <agent id> <step>

The steps are requests: ``before`` and ``after`` the start, or the first look of the ``wait``. It says ``stopped``.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from airflow_provider_sequentum.api.client import SequentumClient
from tests.toolset.scripted import call, documented_toolsets, scripted_agent


def main() -> None:
    """Let the model work until the step."""
    agent_id, step = int(sys.argv[1]), sys.argv[2]
    exchange = SequentumClient.exchange

    def stop_at(reached: str) -> None:
        if reached == step:
            sys.stdout.write("stopped\n")
            sys.stdout.flush()
            time.sleep(3600)

    def stopping(client: SequentumClient, described: Any, **options: Any) -> Any:
        is_start = described.path.endswith("/start")
        stop_at("before" if is_start else "")
        reply = exchange(client, described, **options)
        stop_at("after" if is_start else "wait" if described.path.endswith("/status") else "")
        return reply

    SequentumClient.exchange = stopping  # type: ignore[method-assign, assignment]
    scripted_agent(
        documented_toolsets(agent_id),
        lambda returned: [call("sequentum_start_run")],
        lambda returned: [call("sequentum_wait_for_run", run_id=json.loads(returned[-1])["id"])],
    ).run_sync("Find the prices.")


if __name__ == "__main__":
    main()
