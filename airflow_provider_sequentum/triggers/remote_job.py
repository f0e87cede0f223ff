"""The base class of the triggers that wait for a remote job and stop it when a user ends its task."""

from __future__ import annotations

import asyncio
import inspect
from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_sequentum.airflow_compat.trigger_life import job_is_abandoned, with_minimum_lifetime
from airflow_provider_sequentum.exceptions import doubt_about

if TYPE_CHECKING:
    from airflow_provider_sequentum.jobs.stop import JobStopper


PAUSES = (1.0, 4.0, 15.0, 40.0)
"""Seconds before the stop of a job is tried again, because Airflow could not provide the state of the task or the
connection, for example while its API server is down."""


class RemoteJobTrigger(BaseTrigger):
    """Base class of the triggers that wait for a remote job. A trigger never starts, restarts or downloads anything.

    It fires once and ends, and it can start over on another triggerer.

    The parameters of a subclass's constructor are keyword-only JSON values, which Airflow stores. Each is an attribute
    with the same name.

    :param sequentum_conn_id: the connection.
    :param stop_on_kill: whether to stop the job when a user ends the deferred task (Airflow 3.3 and later).
    :param successor_may_join: whether the new attempt of a cleared task may take over the job.
    :param other: unknown arguments that another version of this package has stored. They are kept.
    """

    xcom_key: ClassVar[str]
    """The key of the XCom with the job of an attempt."""

    def __init__(
        self, sequentum_conn_id: str, stop_on_kill: bool, successor_may_join: bool, other: Mapping[str, Any]
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sequentum_conn_id = sequentum_conn_id
        self.stop_on_kill = stop_on_kill
        self.successor_may_join = successor_may_join
        self._other = other
        self._stopping: asyncio.Task[None] | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**{name: getattr(self, name) for name in _names_of(type(self))}, **self._other}

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the path of the class and the arguments."""
        return f"{type(self).__module__}.{type(self).__qualname__}", self.arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, then fire one event."""
        try:
            event = await with_minimum_lifetime(self.wait())
        except asyncio.CancelledError:
            if self.stop_on_kill and self.is_in_dag_test:
                await self._stop_if_abandoned()
            raise
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]

    async def on_kill(self) -> None:
        """Stop the job if a user ended the deferred task and no new attempt takes over the job.

        Airflow cancels this method after about a second, so the work is done in a separate task.
        """
        if self.stop_on_kill:
            self._stopping = asyncio.create_task(self._stop_if_abandoned())
            await asyncio.shield(self._stopping)

    async def _stop_if_abandoned(self) -> None:
        for pause in (*PAUSES, None):
            try:
                await self._decide()
            except Exception as error:  # nothing awaits this task, so the error has to be logged here
                if pause is None:
                    self.log.exception("%s", doubt_about(self.job_name))
                    return
                self.log.warning("%s could not be stopped; trying again in %g s. (%s)", self.job_name, pause, error)
                await asyncio.sleep(pause)
            else:
                return

    async def _decide(self) -> None:
        """Stop the job, unless another attempt or triggerer works with it."""
        if self.is_in_dag_test or await job_is_abandoned(
            self.task_instance,
            xcom_key=self.xcom_key,
            is_own=self.is_own,
            successor_may_join=self.successor_may_join,
        ):
            await self.stop()
        else:
            self.log.info(
                "%s keeps running: the trigger moved to another triggerer, or a new attempt took it over.",
                self.job_name,
            )

    async def stop(self) -> None:
        """Stop the job, if it has to end with its task."""
        from airflow_provider_sequentum.hooks.connection import SequentumConnection
        from airflow_provider_sequentum.jobs.stop import astop_jobs

        if stoppers := await self.stoppers():
            # A new client, because the one that waited is being closed.
            async with await SequentumConnection(self.sequentum_conn_id).aget_client() as client:
                await astop_jobs(client, stoppers)

    @property
    def is_in_dag_test(self) -> bool:
        """Whether it runs in ``dag.test()``, which does not call ``on_kill`` after Ctrl-C, and not in a triggerer."""
        return self.trigger_id is None

    @property
    @abstractmethod
    def job_name(self) -> str:
        """The name of the job in log lines."""

    @abstractmethod
    async def wait(self) -> dict[str, Any]:
        """Return the event, as soon as there is one."""

    @abstractmethod
    async def stoppers(self) -> Sequence[JobStopper[Any]]:
        """Return what stops the job when a user ends its task; empty if the job keeps running."""

    @abstractmethod
    def is_own(self, xcom: Any) -> bool:
        """Return whether an XCom of the task names this trigger's job."""


@cache
def _names_of(kind: type[RemoteJobTrigger]) -> tuple[str, ...]:
    """Return the names of a constructor's parameters. Cached, because the inspection takes longer than serializing."""
    parameters = inspect.signature(kind).parameters.values()
    return tuple(parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY)
