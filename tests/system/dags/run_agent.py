"""DAGs with one task that runs an agent, on the worker and deferred, whose worker can be told to end at a step."""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import DAG, AirflowFailException, Param, get_current_context, task

from airflow_provider_sequentum.airflow_compat.kill import is_ended
from airflow_provider_sequentum.hooks.port import AttemptPort
from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_sequentum.api import Call

BEFORE_POST, AFTER_POST, AFTER_RECORD, ON_RESUME = "before POST", "after POST", "after record", "on resume"
KILLED_BEFORE_POST = "killed before POST"
"""Not a death: the task waits until it is killed by a person, then goes on if no one keeps it from that."""
ENDED_WHILE_DEFERRED = "ended while it is being deferred"
"""Not a death: the task waits until a person has marked or cleared it, after its last question to Airflow."""
SHUT_DOWN = "shut down"
"""Not a death: the worker is asked to end while the task waits, as Kubernetes does with a pod."""


def die() -> None:
    """End this process as the kernel does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def mortal(moment: str) -> None:
    """Let this process meet its end at ``moment``."""
    exchange, save, sleep = AttemptPort.exchange, AttemptPort.save, AttemptPort.sleep

    def exchange_and_die(port: AttemptPort, call: Call[Any], **options: Any) -> Any:
        is_start = call.path.endswith("/start")
        if is_start and moment == KILLED_BEFORE_POST:
            signal.pause()
        if is_start and moment == BEFORE_POST:
            die()
        reply = exchange(port, call, **options)
        if is_start and moment == AFTER_POST:
            die()
        return reply

    def save_and_die(port: AttemptPort, record: Any) -> None:
        save(port, record)
        if record is not None and record.run_id is not None and moment == AFTER_RECORD:
            die()

    def sleep_and_die(port: AttemptPort, seconds: float) -> None:
        if moment == SHUT_DOWN:
            os.kill(os.getppid(), signal.SIGTERM)
        sleep(port, seconds)

    AttemptPort.exchange = exchange_and_die  # type: ignore[assignment, method-assign]
    AttemptPort.save = save_and_die  # type: ignore[assignment, method-assign]
    AttemptPort.sleep = sleep_and_die  # type: ignore[assignment, method-assign]


class MortalOperator(StartAgentRunOperator):
    """The operator, whose worker dies in its first attempt.

    :param die_at: one of the moments above; nothing for a long life.
    """

    template_fields: Sequence[str] = (*StartAgentRunOperator.template_fields, "die_at")

    def __init__(self, *, die_at: str = "{{ params.die_at }}", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.die_at = die_at

    def execute(self, context: Context) -> int:
        """Run the agent, for as long as this process lives."""
        if self.die_at and context["ti"].try_number == 1:
            mortal(self.die_at)
        run_id: int = super().execute(context)
        return run_id

    def defer(self, **how: Any) -> NoReturn:
        """Ask Airflow for the deferral."""
        context = get_current_context()
        while self.die_at == ENDED_WHILE_DEFERRED and context["ti"].try_number == 1 and not is_ended(context):
            time.sleep(0.05)
        super().defer(**how)

    def execute_complete(self, context: Context, event: Any = None, record: Any = None) -> int:
        """Take in the trigger's event."""
        if self.die_at == ON_RESUME and context["ti"].try_number == 1:
            die()
        run_id: int = super().execute_complete(context, event, record)
        return run_id


@task
def chosen_agents(params: Any = None) -> list[int]:
    """Return the agents to run."""
    return list(params["agents"])


PARAMS = {"agent_id": Param(1, type="integer"), "die_at": "", "timeout": 3600}
COMMON: dict[str, Any] = {
    "task_id": "run_agent",
    "agent_id": "{{ params.agent_id }}",
    "timeout": "{{ params.timeout }}",
    "poll_interval": 1,
    "retries": 2,
    "retry_delay": timedelta(seconds=1),
}

for deferrable, mode in ((False, "worker"), (True, "deferred")):
    with DAG(f"run_agent_{mode}", schedule=None, params=PARAMS):
        MortalOperator(**COMMON, deferrable=deferrable)
    with DAG(f"run_agent_limited_{mode}", schedule=None, params=PARAMS):
        MortalOperator(
            **{**COMMON, "retries": 0},
            deferrable=deferrable,
            execution_timeout=timedelta(seconds=25),
            on_timeout="leave",
        )

with DAG("run_agent_once", schedule=None, params=PARAMS):
    MortalOperator(**{**COMMON, "retries": 0}, deferrable=False)

with DAG("run_agent_joining", schedule=None, params=PARAMS):
    MortalOperator(**COMMON, deferrable=True, on_clear="join")

with DAG("run_agent_behind_another_task", schedule=None, params=PARAMS):

    @task
    def works_once(ti: Any = None) -> None:
        """Fail when it is run again."""
        if ti.try_number > 1:
            raise AirflowFailException("once was enough")

    works_once() >> MortalOperator(**COMMON, deferrable=True)

with DAG("run_agents_mapped", schedule=None, params={"agents": Param([], type="array")}):
    StartAgentRunOperator.partial(
        task_id="run_agent", deferrable=True, poll_interval=5, retries=2, retry_delay=timedelta(seconds=1)
    ).expand(agent_id=chosen_agents())
