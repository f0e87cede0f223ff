"""The ports of procedures on a worker: the client of a connection, a clock and, for an attempt, the task's state."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.providers.common.compat.sdk import AirflowTaskTimeout

from airflow_provider_sequentum.airflow_compat.dag_run import states_in_dag_run, tasks_that_set
from airflow_provider_sequentum.airflow_compat.extra_links import push_address
from airflow_provider_sequentum.airflow_compat.task_attempt import map_index_of
from airflow_provider_sequentum.airflow_compat.task_state import TaskState
from airflow_provider_sequentum.api.errors import HttpStatusError
from airflow_provider_sequentum.exceptions import SequentumRequestRefused
from airflow_provider_sequentum.jobs.port import steady_clock
from airflow_provider_sequentum.jobs.siblings import Announced, Announcement, Claim

if TYPE_CHECKING:
    from airflow_provider_sequentum.api import Call, Reply, SequentumClient
    from airflow_provider_sequentum.hooks.connection import SequentumConnection
    from airflow_provider_sequentum.jobs.record import JobRecord, Stored

T = TypeVar("T")
S = TypeVar("S", Claim, Announcement)

CLAIM_KEY = "sequentum_claim"
"""The XCom in which a mapped task claims the run that it starts as its own."""

ANNOUNCEMENT_KEY = "sequentum_credits"
"""The XCom in which a task with a credit limit announces its starts."""

RUNNING = ("running", "restarting")
"""The states of a task that may be about to claim or announce what it starts."""

ENDED_BADLY = ("up_for_retry", "failed")
"""The states of a task that may have ended before it repeated the claims and announcements of an earlier attempt."""

LAST_WAIT = 3.0
"""Seconds to wait for the response to a request that was interrupted. Airflow gives a killed task about five seconds,
and there may be a job to stop."""

log = logging.getLogger(__name__)


class ClientPort:
    """Sends requests with the client of a hook; see :class:`~.jobs.port.Sender`.

    :param hook: the connection.
    """

    def __init__(self, hook: SequentumConnection) -> None:
        self.hook = hook
        self.deadline: datetime | None = None
        self._urgent: SequentumClient | None = None
        self._clock = steady_clock()
        self._interruption: BaseException | None = None

    def connect(self) -> None:
        """Look up the connection and create its client.

        :raises SequentumConnectionNotFound: Airflow cannot find the connection.
        :raises SequentumConnectionException: one of its fields is invalid.
        """
        _ = self.hook.client

    def send(self, call: Call[T], *, budget_share: float = 1.0, within: float | None = None) -> T:
        """Send a request and return the parsed response."""
        return self.exchange(call, budget_share=budget_share, within=within).value

    def exchange(self, call: Call[T], *, budget_share: float = 1.0, within: float | None = None) -> Reply[T]:
        """Send a request and return the parsed response with the service's time.

        If the key is refused, the connection is read again: a task may wait for hours, and its key may be replaced.

        If a kill, a timeout or Ctrl-C interrupts a request that changes something, the response is still awaited, for
        as long as the task has time. The run of a start without a response may look like others, and a session could
        not be found at all. The exception is raised afterwards; see :meth:`raise_interruption`.
        """
        self.raise_interruption()
        try:
            return self._exchange(call, budget_share, within)
        except HttpStatusError as error:
            if error.status_code != 401 or self._interruption is not None or not self._has_new_key():
                raise
        return self._exchange(call, budget_share, within)

    def raise_interruption(self) -> None:
        """Raise the exception that interrupted the last request, if it has not been raised yet."""
        interruption, self._interruption = self._interruption, None
        if interruption is not None:
            raise interruption

    def _exchange(self, call: Call[T], budget_share: float, within: float | None) -> Reply[T]:
        client = self._urgent or self.hook.client
        limits = [limit for limit in (within, self._time_left()) if limit is not None]
        return client.exchange(
            call,
            budget_share=budget_share,
            within=min(limits, default=None),
            on_interruption=None if call.safe_to_repeat else self._postpone,
        )

    def _postpone(self, interruption: BaseException) -> float | None:
        self._interruption = interruption
        # Airflow does not end the process at an execution_timeout.
        return None if isinstance(interruption, AirflowTaskTimeout) else LAST_WAIT

    def _has_new_key(self) -> bool:
        """Return whether the connection was changed. If so, the next request uses what it says now."""
        try:
            is_new = self.hook.read_again()
        except Exception as error:  # noqa: BLE001 - whatever keeps Airflow from reading it, the key was refused
            log.warning("The connection %r could not be read again. (%s)", self.hook.sequentum_conn_id, error)
            return False
        if is_new:
            log.info("The connection %r was changed; continuing with its new values.", self.hook.sequentum_conn_id)
            if self._urgent is not None:
                self._urgent.close()
                self._urgent = None
                self.hurry()
        return is_new

    def now(self) -> datetime:
        """Return the time."""
        return self._clock()

    def sleep(self, seconds: float) -> None:
        """Wait, at most until the deadline."""
        self.raise_interruption()
        left = self._time_left()
        time.sleep(seconds if left is None else min(seconds, left))

    def hurry(self) -> None:
        """Switch to a separate client that ignores the request budget and barely waits between attempts.

        For a task that is being killed: the kill may have interrupted a request of the hook's client, and Airflow gives
        the process about five seconds.
        """
        from airflow_provider_sequentum.api import SequentumClient

        self.deadline = None
        self._urgent = self._urgent or SequentumClient(self.hook.settings, urgent=True)

    def close(self) -> None:
        """Close the client that :meth:`hurry` opened, if any."""
        if self._urgent is not None:
            self._urgent.close()

    def _time_left(self) -> float | None:
        return None if self.deadline is None else max((self.deadline - self.now()).total_seconds(), 0.0)


class AttemptPort(ClientPort):
    """The port of an attempt: also saves its record and exchanges messages with other tasks of the DAG run; see
    :class:`~.jobs.port.Port`.

    :param hook: the connection.
    :param context: the task's context.
    :param state: where the record is stored.
    """

    def __init__(self, hook: SequentumConnection, context: Mapping[str, Any], state: TaskState) -> None:
        super().__init__(hook)
        self.record: Stored | None = None
        self.is_recorded = False
        self.is_asking_airflow = False
        self._context = context
        self._state = state
        self._map_index = map_index_of(context["ti"])

    def connect(self) -> None:
        """Look up the connection and create its client."""
        with self.asking_airflow():
            super().connect()

    def _has_new_key(self) -> bool:
        if self.is_asking_airflow:
            return False
        with self.asking_airflow():
            return super()._has_new_key()

    def save(self, record: Stored | None) -> None:
        """Save the record for the task's next attempt."""
        self.record, self.is_recorded = record, False
        with self.asking_airflow():
            self._state.save(None if record is None else record.to_json())
        self.is_recorded = record is not None and self._state.keeps_records

    def restore(self, record: JobRecord) -> None:
        """Continue with the record of an earlier attempt."""
        self.record, self.is_recorded, self.deadline = record, self._state.keeps_records, record.earliest_deadline

    def push(self, key: str, value: object) -> None:
        """Push an XCom."""
        with self.asking_airflow():
            self._context["ti"].xcom_push(key=key, value=value)

    def push_link(self, key: str, address: str) -> None:
        """Push the URL of an extra link."""
        with self.asking_airflow():
            push_address(self._context, key, address)

    def claim(self, claim: Claim) -> None:
        """Tell the mapped siblings which runs this task has started or is about to start."""
        if self._map_index >= 0:
            self.push(CLAIM_KEY, claim.updated(map_index=self._map_index).to_json())

    def claims(self) -> list[Claim]:
        """Return the claims of the mapped siblings. If they cannot be read, one start counts as unanswered.

        A sibling that has claimed nothing and is running or has failed counts as an unanswered start, too: Airflow
        deletes the XComs of an attempt when the next one starts, which may end before it claims its run again.
        """
        if self._map_index < 0:
            return []
        if self.is_asking_airflow:
            return [Claim(is_answered=False)]
        try:
            claims, states = self._read_messages([self._context["ti"].task_id], CLAIM_KEY, Claim)
        except ValueError:  # what another version of this package pushed
            return [Claim(is_answered=False)]
        heard = {claim.map_index for claim in claims} | {self._map_index}
        may_own_run = (*RUNNING, *ENDED_BADLY)
        silent = [index for (_, index), state in states.items() if state in may_own_run and index not in heard]
        claims += [Claim(is_answered=False, map_index=index) for index in silent]
        return [claim for claim in claims if claim.map_index != self._map_index]

    def announce(self, announcement: Announcement) -> Announcement:
        """Tell the other tasks of the DAG run what this task starts."""
        placed = announcement.updated(task_id=self._context["ti"].task_id, map_index=self._map_index)
        self.push(ANNOUNCEMENT_KEY, placed.to_json())
        return placed

    def announcements(self) -> Announced:
        """Return what the other tasks of the DAG run have announced.

        :raises SequentumRequestRefused: an announcement cannot be read, and so may be one of any amount.
        """
        ti = self._context["ti"]
        task_ids = tasks_that_set(self._context["dag"], "credit_limit")
        try:
            found, states = self._read_messages(task_ids, ANNOUNCEMENT_KEY, Announcement)
        except ValueError as error:
            raise SequentumRequestRefused(
                f"What another task of this DAG run announced in the XCom {ANNOUNCEMENT_KEY!r} cannot be read: {error} "
                "So it is not known what credit_limit leaves. Nothing was started. Clear the tasks that have a "
                "credit_limit."
            ) from error
        heard = {(each.task_id, each.map_index) for each in found} | {(ti.task_id, self._map_index)}
        quiet = [state for place, state in states.items() if place not in heard]
        return Announced(
            others=[each for each in found if (each.task_id, each.map_index) != (ti.task_id, self._map_index)],
            silent_running=sum(state in RUNNING for state in quiet),
            silent_ended=sum(state in ENDED_BADLY for state in quiet),
        )

    def _read_messages(
        self, task_ids: Collection[str], key: str, kind: type[S]
    ) -> tuple[list[S], dict[tuple[str, int], str | None]]:
        """Return what tasks of the DAG run have pushed under a key, and the states of these tasks.

        The XComs are read before the states. In the other order, a task could be up for retry when the states are read,
        and the retry could have deleted its XComs by the time they are read. But between the two reads, a retry may
        also push the XCom again and succeed. So the XComs are read again if a task has succeeded.
        """
        said = self._pull_messages(task_ids, key, kind)
        with self.asking_airflow():
            states = states_in_dag_run(self._context, task_ids)
        if "success" in states.values():
            said |= self._pull_messages(task_ids, key, kind)
        return list(said.values()), states

    def _pull_messages(
        self, task_ids: Collection[str], key: str, kind: type[S]
    ) -> dict[tuple[str | None, int | None], S]:
        with self.asking_airflow():
            pushed = self._context["ti"].xcom_pull(task_ids=list(task_ids), key=key) or []
        said = [kind.from_json(value) for value in pushed if value is not None]
        return {(getattr(each, "task_id", None), each.map_index): each for each in said}

    @contextmanager
    def asking_airflow(self) -> Iterator[None]:
        """Mark a request to Airflow's supervisor, which cannot answer another one after an interrupted request."""
        self.is_asking_airflow = True
        try:
            yield
        except Exception:
            self.is_asking_airflow = False  # the request was answered with an error
            raise
        self.is_asking_airflow = False
