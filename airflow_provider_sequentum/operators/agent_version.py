"""The operator that restores an older version of an agent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_sequentum.airflow_compat.task_attempt import map_index_of
from airflow_provider_sequentum.exceptions import about_run, client_errors_as_exceptions

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class RestoreAgentVersionOperator(BaseOperator):
    """Make an older version of an agent the active one.

    The service copies the old version to a new one. Returns the number of the new version and pins it: tasks with
    ``expected_version="pinned"`` expect it from now on. Active runs keep their version.

    A retry does not restore the version twice, because the comment of the new version identifies the task. Clearing the
    task restores it again. If the version is already active, nothing is restored, and its number is returned.

    ``None`` and an empty string leave a parameter unset.

    .. seealso:: https://docs.sequentum.com/concepts/agents

    :param agent_id: the agent, as an int or a string of digits.
    :param version: the number of the version to restore.
    :param reason: the reason, which the service stores as the comment of the new version, up to 1,000 characters.
        Default: which version was restored.
    :param sequentum_conn_id: the Airflow connection to Sequentum Cloud.
    :raises SequentumRequestRefused: the agent has no such version, or a parameter is invalid; not retried.
    :raises SequentumUnavailable: the service did not respond, or lists no new version.
    """

    template_fields: Sequence[str] = ("agent_id", "version", "reason", "sequentum_conn_id")
    ui_color = "#e3f1ee"

    def __init__(
        self,
        *,
        agent_id: int | str,
        version: int | str,
        reason: str | None = None,
        sequentum_conn_id: str = "sequentum_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.agent_id = agent_id
        self.version = version
        self.reason = reason
        self.sequentum_conn_id = sequentum_conn_id

    def execute(self, context: Context) -> int:
        """Restore the version. Returns the number of the new one."""
        from airflow_provider_sequentum.hooks.connection import SequentumConnection
        from airflow_provider_sequentum.hooks.pins import move_pin
        from airflow_provider_sequentum.hooks.port import ClientPort
        from airflow_provider_sequentum.runs.restore import RestoreConfig, restore_version

        config = RestoreConfig.of(self)
        conn_id, agent_id, version = config.sequentum_conn_id, config.agent_id, config.version
        reason = config.reason or f"Restored version {version}."
        with closing(SequentumConnection(conn_id)) as hook, about_run(agent_id), client_errors_as_exceptions(conn_id):
            new = restore_version(ClientPort(hook), agent_id, version, reason, _mark(context))
        move_pin(conn_id, agent_id, new)
        return new


def _mark(context: Context) -> str:
    """Return a mark that identifies the logical attempt of this task: retries have the same one, a cleared task not."""
    ti = context["ti"]
    names = [ti.dag_id, ti.run_id, ti.task_id, map_index_of(ti), getattr(ti, "max_tries", 0)]
    digest = hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16]
    return f"(Airflow task {ti.task_id[:100]}, {digest})"
