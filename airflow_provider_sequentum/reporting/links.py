"""The extra links of a task to Sequentum Cloud, and the XComs that a task pushes about its run or session."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import BaseOperatorLink

from airflow_provider_sequentum.airflow_compat.extra_links import address_of, set_first_address

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

    from airflow_provider_sequentum.api.runs import Run
    from airflow_provider_sequentum.hooks.connection import SequentumConnection
    from airflow_provider_sequentum.hooks.port import AttemptPort

RUN_LINK_KEY = "agent_run_link"
RUN_SUMMARY_KEY = "run"
SESSION_ID_KEY = "session_id"
SESSION_SUMMARY_KEY = "session"
SESSION_LINK_KEY = "agent_builder_session_link"
SCREENSHOT_LINK_KEY = "agent_builder_screenshot_link"

UNKNOWN = {"input_parameters": None, "map_index": None, "cost": None}
"""The fields of a summary without a value: the run was started elsewhere, the task is not mapped, there is no bill."""

log = logging.getLogger(__name__)


class PushedLink(BaseOperatorLink):
    """An extra link whose address the task pushes as soon as it knows it. On Airflow 3 it works from then on."""

    key: ClassVar[str]
    """The XCom with the address."""

    leads_to_dashboard: ClassVar[bool] = True
    """Whether the link leads to the dashboard if the task ended before it knew an address. Needs Airflow 3."""

    @property
    def xcom_key(self) -> str:
        """The XCom from which Airflow 3 reads the address. The default one is only pushed when the task ends."""
        return self.key

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the address; empty until the task knows it."""
        return address_of(operator, ti_key, self.key)


class AgentRunLink(PushedLink):
    """The page of the run in Sequentum Cloud, by the connection's ``run_link_template``."""

    name = "Sequentum run"
    key = RUN_LINK_KEY


class AgentBuilderSessionLink(PushedLink):
    """The page of the Agent Builder session, by the connection's ``session_link_template``."""

    name = "Sequentum session"
    key = SESSION_LINK_KEY


class AgentBuilderScreenshotLink(PushedLink):
    """The latest screenshot of the session in ``screenshots_path``."""

    name = "Latest screenshot"
    key = SCREENSHOT_LINK_KEY
    leads_to_dashboard = False


def push_dashboard_link(
    context: Mapping[str, Any], hook: SequentumConnection, links: Iterable[BaseOperatorLink]
) -> None:
    """Let a task's links lead to the dashboard until it pushes an address, so that they are of use if it fails."""
    try:
        dashboard = hook.settings.base_url
    except Exception as error:  # noqa: BLE001 - the task fails with it as soon as it uses the connection
        log.debug("The extra links have no address: %s", error)
        return
    for link in links:
        if isinstance(link, PushedLink) and link.leads_to_dashboard:
            set_first_address(context, link.key, dashboard)


def summary_of(run: Run, link: str, **more: Any) -> dict[str, Any]:
    """Return what a task pushes under the XCom key ``run``.

    :param more: further fields: ``input_parameters``, ``map_index``, ``cost``, ``note``.
    """
    from airflow_provider_sequentum.runs.describe import run_summary

    return run_summary(run, link=link, **{**UNKNOWN, **more})


def publish_run(port: AttemptPort, run: Run, **more: Any) -> None:
    """Push the summary of a run and the address of its page, for downstream tasks and for the extra link."""
    link = port.hook.run_link(run.agent_id, run.id)
    port.push_link(RUN_LINK_KEY, link)
    port.push(RUN_SUMMARY_KEY, summary_of(run, link, **more))


def publish_session(port: AttemptPort, summary: Mapping[str, Any]) -> None:
    """Push a session's id, the address of its page and its summary, for downstream tasks and for the extra link."""
    link = port.hook.session_link(summary["session_id"])
    port.push(SESSION_ID_KEY, summary["session_id"])
    port.push_link(SESSION_LINK_KEY, link)
    port.push(SESSION_SUMMARY_KEY, {**summary, "link": link})
