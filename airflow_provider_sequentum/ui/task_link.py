"""The button of a task that opens its page at the page's own address, for users whose role hides plugins.

The API server gets it from the plugin and computes its address. It needs no XCom, so it is available before the task
starts, after a crash of its worker, and for runs of an earlier version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

from airflow.providers.common.compat.sdk import BaseOperatorLink

from airflow_provider_sequentum.operators.agent_builder import AgentBuilderOperator
from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from airflow_provider_sequentum.operators.run_records import CheckRunRecordsOperator
from airflow_provider_sequentum.operators.space_run import StartSpaceRunsOperator
from airflow_provider_sequentum.sensors.agent_run import AgentRunSensor

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

PREFIX = "/sequentum"
"""The path of the pages in the API server, below ``[api] base_url``."""

OWNERS = (StartAgentRunOperator, StartSpaceRunsOperator)
"""Operators that own their runs: they start and stop them."""
OTHERS = (AgentRunSensor, AgentBuilderOperator, CheckRunRecordsOperator)
"""Other operators whose tasks have a page."""


class TaskPageLink(BaseOperatorLink):
    """The page of a task instance."""

    name = "Sequentum details"
    operators: ClassVar[list[type[Any]]] = [*OWNERS, *OTHERS]

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002 - Airflow passes it
        """Return the address of the page. It is relative to the root of Airflow, so it works with a path prefix."""
        dag_id, run_id, task_id = (quote(part, safe="") for part in (ti_key.dag_id, ti_key.run_id, ti_key.task_id))
        query = f"run_id={run_id}&task_id={task_id}&map_index={ti_key.map_index}"
        return f"{PREFIX.removeprefix('/')}/dags/{dag_id}/task?{query}"


def operator_extra_links() -> list[TaskPageLink]:
    """Return the buttons that Airflow adds to tasks of the listed operators."""
    return [TaskPageLink()]
