"""How the URL of an extra link gets from the task to the button.

Airflow 3 reads the URL directly from its metadata database, bypassing the XCom backend. If a backend stores XComs in
object storage, the button would lead to the file with the XCom. So the URL is stored without the backend, too. Airflow
2.11 reads it through the backend.

Whenever a process of the task ends, Airflow 3 asks each link for its URL and stores it. Pulling an XCom that was never
pushed would log an error although the task is fine, so a process returns the URL that it knows. Only the process of a
resumed task pulls the XCom, which the previous process stored in this way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.providers.common.compat.sdk import XCom

from airflow_provider_sequentum.airflow_compat.dag_run import has_supervisor
from airflow_provider_sequentum.airflow_compat.deferral import is_resumed

_KNOWN = "_sequentum_link_addresses"
"""The attribute of an operator with the URLs that its process knows, by XCom key."""


def push_address(context: Mapping[str, Any], key: str, address: str) -> None:
    """Store a link's URL under ``key``, and remember it for the end of the process."""
    _remember(context, key, address)
    ti = context["ti"]
    if not has_supervisor(ti):
        ti.xcom_push(key=key, value=address)
        return
    from airflow.sdk.bases.xcom import BaseXCom

    BaseXCom.set(key=key, value=address, dag_id=ti.dag_id, task_id=ti.task_id, run_id=ti.run_id, map_index=ti.map_index)


def set_first_address(context: Mapping[str, Any], key: str, address: str) -> None:
    """Set the URL of a link until the task pushes another one. Needs Airflow 3."""
    if not is_resumed(context):
        _remember(context, key, address)


def address_of(operator: object, ti_key: Any, key: str) -> str:
    """Return a link's URL; empty if there is none.

    :param operator: the operator that has the link.
    :param ti_key: the task instance in its own process on Airflow 3, its key in the webserver of Airflow 2.11.
    """
    known: dict[str, str] = getattr(operator, _KNOWN, {})
    if key in known:
        return known[key]
    if not has_supervisor(ti_key):
        return XCom.get_value(ti_key=ti_key, key=key) or ""
    if not is_resumed({"ti": ti_key}):
        return ""
    from airflow.sdk.bases.xcom import BaseXCom

    return BaseXCom.get_value(ti_key=ti_key, key=key) or ""


def _remember(context: Mapping[str, Any], key: str, address: str) -> None:
    operator = context.get("task")
    if operator is not None:
        operator.__dict__.setdefault(_KNOWN, {})[key] = address
