"""Reading a connection on an event loop.

Before Airflow 3.3.2, even ``aget_connection`` masks the secrets of a connection with a blocking call to the supervisor.
On an event loop, the call raises ``DeadlockImminentError`` while another one is in progress, so it is made in a thread.
``common-compat`` has done the same since 1.21, but Airflow's constraints have older versions of it.

The supervisor of a trigger in ``dag.test()`` cannot be awaited (as of 3.3.2): there, ``aget_connection`` only finds
connections in environment variables.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseHook, Connection

if TYPE_CHECKING:
    from collections.abc import Mapping


async def aget_connection(hook: BaseHook, conn_id: str) -> tuple[Connection, Mapping[str, Any]]:
    """Return a connection and its extra, without blocking the event loop.

    :raises AirflowNotFoundException: Airflow cannot find the connection.
    """
    if hasattr(Connection, "aextra_dejson") and not _is_in_dag_test():
        connection = await hook.aget_connection(conn_id)
        return connection, await connection.aextra_dejson()
    from asgiref.sync import sync_to_async

    def read() -> tuple[Connection, Mapping[str, Any]]:
        connection = hook.get_connection(conn_id)
        return connection, connection.extra_dejson

    return await sync_to_async(read)()


def _is_in_dag_test() -> bool:
    # A process with a supervisor has imported this module. Airflow 2.11 has no supervisor.
    supervisor = getattr(sys.modules.get("airflow.sdk.execution_time.task_runner"), "SUPERVISOR_COMMS", None)
    return supervisor is not None and not hasattr(supervisor, "asend")
