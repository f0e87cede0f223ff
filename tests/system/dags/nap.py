"""A DAG without any network: one task that waits deferred, one that reads its result."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import DAG, BaseOperator, Param, task
from airflow.providers.common.compat.standard.triggers import TimeDeltaTrigger

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class NapOperator(BaseOperator):
    """Wait deferred for ``params.seconds``."""

    def execute(self, context: Context) -> None:
        """Defer at once."""
        seconds = context["params"]["seconds"]
        self.log.info("Going to nap for %s seconds", seconds)
        self.defer(trigger=TimeDeltaTrigger(timedelta(seconds=seconds)), method_name="wake_up")

    def wake_up(self, context: Context, event: Any) -> str:
        """Return what the next task reads."""
        self.log.info("Awake")
        return "rested"


@task
def report(mood: str) -> str:
    """Pass on how the nap was."""
    return f"{mood} after a nap"


with DAG("nap", schedule=None, params={"seconds": Param(8, type="number")}):
    report(NapOperator(task_id="nap").output)
