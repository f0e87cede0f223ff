"""The operators that pause the schedules of an agent while a DAG runs it, and resume them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_sequentum.airflow_compat.task_attempt import task_facts
from airflow_provider_sequentum.airflow_compat.task_state import TaskState
from airflow_provider_sequentum.exceptions import (
    SequentumRequestRefused,
    about_run,
    client_errors_as_exceptions,
)

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_sequentum.hooks.port import AttemptPort
    from airflow_provider_sequentum.jobs.record import Stored
    from airflow_provider_sequentum.runs.schedules import SchedulesConfig

S = TypeVar("S", bound="Stored")

log = logging.getLogger(__name__)


class _AgentSchedulesOperator(BaseOperator):
    """Base class: an agent, a connection, and a record of what was done."""

    state_key: ClassVar[str]
    agent_id: int | str
    sequentum_conn_id: str

    @contextmanager
    def _working(self, context: Context) -> Iterator[tuple[AttemptPort, SchedulesConfig]]:
        """Yield the port and the parsed parameters; errors become exceptions that name the agent and the connection."""
        from airflow_provider_sequentum.hooks.connection import SequentumConnection
        from airflow_provider_sequentum.hooks.port import AttemptPort
        from airflow_provider_sequentum.runs.schedules import SchedulesConfig

        config = SchedulesConfig.of(self)
        with (
            closing(SequentumConnection(config.sequentum_conn_id)) as hook,
            about_run(config.agent_id),
            client_errors_as_exceptions(config.sequentum_conn_id),
        ):
            yield AttemptPort(hook, context, TaskState(context, self.state_key)), config

    def _previous(self, context: Context, kind: type[S]) -> S | None:
        """Return the record of an earlier attempt.

        :raises SequentumRequestRefused: it cannot be read. It is not taken for none, because it says what to resume.
        """
        value = TaskState(context, self.state_key).read()
        try:
            return None if value is None else kind.from_json(value)
        except ValueError as error:
            raise SequentumRequestRefused(
                f"The record of this task cannot be read: {error} Nothing was paused or resumed. Look at the agent's "
                f"schedules in Sequentum Cloud, then delete the key {self.state_key!r} from the task's state store and "
                "clear the task."
            ) from error


class PauseAgentSchedulesOperator(_AgentSchedulesOperator):
    """Pause the schedules that an agent has in Sequentum Cloud, while a DAG runs the agent.

    Returns the ids of the schedules that it paused, for :class:`ResumeAgentSchedulesOperator`. Schedules that were
    already paused are not among them. A run that a schedule has already started keeps running.

    The schedules are recorded before they are paused, and pushed for the downstream task, even if this task fails. On
    Airflow 3.3 and later the record is kept between attempts: a retry returns what earlier attempts paused, too. Older
    versions keep nothing between attempts; set ``retries=0`` there.

    ``None`` and an empty string leave a parameter unset.

    .. seealso:: https://docs.sequentum.com/concepts/schedules

    :param agent_id: the agent, as an int or a string of digits.
    :param sequentum_conn_id: the Airflow connection to Sequentum Cloud.
    :raises SequentumRequestRefused: the service does not know the agent, or ``agent_id`` is invalid; not retried.
    :raises SequentumUnavailable: the service did not respond, or still shows a schedule as enabled.
    """

    template_fields: Sequence[str] = ("agent_id", "sequentum_conn_id")
    ui_color = "#e3f1ee"
    state_key = "sequentum_paused_schedules"

    def __init__(self, *, agent_id: int | str, sequentum_conn_id: str = "sequentum_default", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.agent_id = agent_id
        self.sequentum_conn_id = sequentum_conn_id

    def execute(self, context: Context) -> list[int]:
        """Pause the schedules. Returns their ids."""
        from airflow_provider_sequentum.runs.schedules import PausedSchedules, pause_schedules

        task = task_facts(context, self)
        if task.is_retry and not task.keeps_records:
            log.warning(
                "An earlier attempt may have paused schedules of agent %s. This Airflow keeps nothing between "
                "attempts, so they are not resumed later: look at SequentumHook().list_paused_schedules(agent_id=%s).",
                self.agent_id,
                self.agent_id,
            )
        with self._working(context) as (port, config):
            return pause_schedules(port, config.agent_id, self._previous(context, PausedSchedules), task.max_tries)


class ResumeAgentSchedulesOperator(_AgentSchedulesOperator):
    """Resume the schedules of an agent that :class:`PauseAgentSchedulesOperator` paused, and no others.

    Set ``trigger_rule="all_done"``, or make it a teardown, so that it also runs after the upstream tasks have failed.
    Returns the ids of the schedules that it resumed, including those that were deleted in the meantime. Runs that a
    schedule would have started while it was paused are not made up for.

    A retry does not resume a schedule again that an earlier attempt has resumed, because a user may have paused it
    since. This needs Airflow 3.3.

    .. seealso:: https://docs.sequentum.com/concepts/schedules

    :param agent_id: the agent, as an int or a string of digits.
    :param schedule_ids: the ids of the schedules: the output of the task that paused them, as a list or as JSON text.
        Nothing is resumed if it is unset, for example because that task paused nothing.
    :param sequentum_conn_id: the Airflow connection to Sequentum Cloud.
    :raises SequentumRequestRefused: a parameter is invalid; not retried.
    :raises SequentumUnavailable: the service did not respond, or still shows a schedule as paused.
    """

    template_fields: Sequence[str] = ("agent_id", "schedule_ids", "sequentum_conn_id")
    ui_color = "#e3f1ee"
    state_key = "sequentum_resumed_schedules"

    def __init__(
        self,
        *,
        agent_id: int | str,
        schedule_ids: Sequence[int | str] | str | None,
        sequentum_conn_id: str = "sequentum_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.agent_id = agent_id
        self.schedule_ids = schedule_ids
        self.sequentum_conn_id = sequentum_conn_id

    def execute(self, context: Context) -> list[int]:
        """Resume the schedules. Returns their ids."""
        from airflow_provider_sequentum.runs.schedules import ResumedSchedules, resume_schedules

        with self._working(context) as (port, config):
            previous, ids = self._previous(context, ResumedSchedules), config.schedule_ids
            return resume_schedules(port, config.agent_id, ids, previous, task_facts(context, self).max_tries)
