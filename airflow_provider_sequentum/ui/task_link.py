"""The button of a task that leads to its page at the page's own address, for those whose role hides plugins.

The API server finds it by the plugin and computes its address. No XCom is needed, so the button is there before the
task starts, after a crash of its worker, and on the runs of an earlier version.
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
"""Where the API server mounts the pages, below ``[api] base_url``."""

OWNERS = (StartAgentRunOperator, StartSpaceRunsOperator)
"""Operators whose runs are their own: they start and stop them."""
OTHERS = (AgentRunSensor, AgentBuilderOperator, CheckRunRecordsOperator)
"""Operators whose tasks have a page too."""


class TaskPageLink(BaseOperatorLink):
    """The task instance's page of this provider in Airflow."""

    name = "Sequentum details"
    operators: ClassVar[list[type[Any]]] = [*OWNERS, *OTHERS]

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002 - Airflow passes it
        """Return the page's address. It is relative to Airflow's root, so it follows a path prefix."""
        dag_id, run_id, task_id = (quote(part, safe="") for part in (ti_key.dag_id, ti_key.run_id, ti_key.task_id))
        query = f"run_id={run_id}&task_id={task_id}&map_index={ti_key.map_index}"
        return f"{PREFIX.removeprefix('/')}/dags/{dag_id}/task?{query}"


def operator_extra_links() -> list[TaskPageLink]:
    """Return the buttons that Airflow adds to tasks of the operators they name."""
    return [TaskPageLink()]
