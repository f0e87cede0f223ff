"""Agent Builder conversations of every kind, on the worker and in the triggerer, and two whose workers die."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import DAG, Param

from airflow_provider_sequentum.operators.agent_builder import AgentBuilderOperator

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_sequentum.sessions.record import SessionRecord

PROMPT = "Pull the symbol and name of the chemical elements."
ANSWERS = ["The first table", "Keep them"]


class MortalAgentBuilderOperator(AgentBuilderOperator):
    """
    Dies by SIGKILL at each record it keeps, once before and once after keeping it, in as many tries.

    The moments it has died at are lines of the file ``params.deaths``. The announcement of the start is left out: what
    becomes of a start that no one heard the response of is the one thing that cannot be found out.
    """

    def execute(self, context: Context) -> int | None:
        """Build the agent, as mortals do."""
        _make_mortal(context)
        return super().execute(context)  # type: ignore[no-any-return]

    def execute_complete(
        self, context: Context, event: Mapping[str, Any] | None = None, record: Mapping[str, Any] | None = None
    ) -> int | None:
        """Continue, as mortals do."""
        _make_mortal(context)
        return super().execute_complete(context, event, record)  # type: ignore[no-any-return]


def _make_mortal(context: Context) -> None:
    from airflow_provider_sequentum.hooks.port import AttemptPort

    deaths, save = Path(context["params"]["deaths"]), AttemptPort.save

    def save_and_die(port: AttemptPort, record: SessionRecord | None) -> None:
        _die_once(deaths, "before", record)
        save(port, record)
        _die_once(deaths, "after", record)

    AttemptPort.save = save_and_die  # type: ignore[assignment, method-assign]


def _die_once(deaths: Path, when: str, record: SessionRecord | None) -> None:
    if record is None or record.session is None:
        return
    session, pending = record.session, record.pending
    if when == "before" and session.sent == 0 and pending is None:
        return
    moment = f"{when} {pending.value if pending else None} {session.sent} {session.state.value}\n"
    known = deaths.read_text() if deaths.exists() else ""
    if moment not in known:
        deaths.write_text(known + moment)
        os.kill(os.getpid(), signal.SIGKILL)


MODES = (("worker", False), ("triggerer", True))
PARAMS = {name: Param("", type="string") for name in ("script", "deaths", "folder")}
FILES = {
    "screenshots_path": "{{ params.folder }}/{{ task.task_id }}/screenshots",
    "conversation_path": "{{ params.folder }}/{{ task.task_id }}/conversation.json",
}
QUICK: dict[str, Any] = {"poll_interval": 1, "retry_delay": timedelta(seconds=0), "agent_name": "Elements"}
SCRIPTS = ("success", "asks_twice", "recoverable_error", "unrecoverable_error", "cancelled", "slow")
SINGLE_SHOT_SCRIPTS = ("success", "recoverable_error", "unrecoverable_error", "cancelled", "slow")

# SQLite carries a handful of tasks at a time.
with DAG("conversations", schedule=None, params=PARAMS, max_active_tasks=3, default_args=QUICK):
    for script in SCRIPTS:
        for where, deferrable in MODES:
            AgentBuilderOperator(
                task_id=f"{script}_on_the_{where}",
                prompt=f"{PROMPT} sandbox:{script}",
                followups=ANSWERS,
                deferrable=deferrable,
                **FILES,
            )

with DAG("single_shot_builds", schedule=None, params=PARAMS, max_active_tasks=3, default_args=QUICK):
    for script in SINGLE_SHOT_SCRIPTS:
        for where, deferrable in MODES:
            AgentBuilderOperator(
                task_id=f"{script}_on_the_{where}", prompt=f"{PROMPT} sandbox:{script}", deferrable=deferrable
            )

with DAG("conversation_in_the_triggerer", schedule=None, params=PARAMS, default_args=QUICK):
    AgentBuilderOperator(
        task_id="build", prompt=f"{PROMPT} {{{{ params.script }}}}", followups=ANSWERS, deferrable=True
    )

for where, deferrable in MODES:
    with DAG(f"mortal_conversation_on_the_{where}", schedule=None, params=PARAMS, default_args=QUICK):
        MortalAgentBuilderOperator(
            task_id="build",
            prompt=f"{PROMPT} {{{{ params.script }}}}",
            followups=ANSWERS,
            deferrable=deferrable,
            retries=40,
        )
