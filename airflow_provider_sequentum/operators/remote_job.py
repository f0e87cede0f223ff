"""What Airflow asks of an operator whose work is done elsewhere: deferral, resumption, kill. Written once.

What happens to the job is decided by its owner, a :class:`~airflow_provider_sequentum.jobs.attempt.JobAttempt`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from airflow.providers.common.compat.sdk import AirflowException, AirflowTaskTimeout, BaseOperator, TaskDeferred

from airflow_provider_sequentum.airflow_compat.dag_run import has_supervisor
from airflow_provider_sequentum.airflow_compat.deferral import (
    DEFERRAL_FAILED,
    call_after_deferral,
    deferral_timed_out,
    deferral_timeout,
    keep_values_if_resumed,
)
from airflow_provider_sequentum.airflow_compat.kill import (
    AirflowTaskTerminated,
    KillSwitch,
    is_ended,
    next_attempt_is_sure,
)
from airflow_provider_sequentum.airflow_compat.task_attempt import current_context, is_retried
from airflow_provider_sequentum.airflow_compat.task_state import TaskState
from airflow_provider_sequentum.exceptions import SequentumException, SequentumRequestRefused, doubt_about, from_client
from airflow_provider_sequentum.reporting.links import lead_to_dashboard

if TYPE_CHECKING:
    import jinja2
    from airflow.providers.common.compat.sdk import Context
    from airflow.triggers.base import BaseTrigger

    from airflow_provider_sequentum.hooks.port import AttemptPort
    from airflow_provider_sequentum.jobs.attempt import JobAttempt
    from airflow_provider_sequentum.jobs.record import JobRecord

A = TypeVar("A", bound="JobAttempt[Any]")

LONGEST_MESSAGE = 3500
"""Characters of an error message before what became of the job is added to it."""


class RemoteJobOperator(BaseOperator, Generic[A]):
    """Base of the operators that own a remote job; not an operator to use by itself."""

    state_key: ClassVar[str]
    """Where the record is kept: in the task state store or, where there is none, in an XCom."""

    sequentum_conn_id: str

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._kill_switch = KillSwitch()
        self._attempt: A | None = None

    # What a subclass says

    @abstractmethod
    def _new_attempt(self, context: Context) -> A:
        """Return an attempt at what the parameters ask for; sends nothing.

        :raises SequentumException: a parameter has no usable value.
        """

    @abstractmethod
    def _attempt_from_record(self, value: object, context: Context) -> A:
        """Return an attempt at what a record asks for, reading no parameter; raises ``ValueError``."""

    @abstractmethod
    def _attempt_from_ids(self, values: list[object], context: Context) -> A | None:
        """Return an attempt that owns the job which a record or an event of another version names, if it does."""

    @abstractmethod
    def _trigger(self, attempt: A) -> BaseTrigger:
        """Return the trigger that waits in the triggerer."""

    # Airflow's life cycle

    def execute(self, context: Context) -> Any:
        """Start the job, or join the one that an earlier attempt left, and wait for its end."""
        with self._doubting(may_own_job=int(getattr(context["ti"], "try_number", 1) or 1) > 1):
            value = self._state(context).read()
        previous = None if value is None else self._read_or_refuse([value], context)
        if previous is None:
            attempt = self._new_attempt(context)
        else:
            # Whatever keeps this attempt from its parameters, what an earlier one has started has an owner.
            with self._owning(previous, context):
                attempt = self._new_attempt(context)
            attempt.take_over(previous)
        with self._owning(attempt, context):
            attempt.port.connect()
            self._complete(attempt)
            is_over = attempt.start_or_join()
            if not attempt.config.wait_for_completion:
                attempt.is_let_go = True
                return attempt.result
            return self._wait_until_concluded(attempt, context, is_over=is_over)

    def execute_complete(
        self, context: Context, event: Mapping[str, Any] | None = None, record: Mapping[str, Any] | None = None
    ) -> Any:
        """Continue after a deferral.

        :param event: what the trigger saw.
        :param record: what was handed on. ``dag.test`` loses it; then it is read from where it is kept.
        """
        with self._doubting():
            value = record if record is not None else self._state(context).read_after_deferral()
        attempt = self._read_or_refuse([value, event], context)
        with self._owning(attempt, context):
            attempt.resume(event or {})
            return self._wait_until_concluded(attempt, context, is_over=True)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume after a deferral, also after one that Airflow itself ended.

        Airflow drops everything that was handed on when its deferral timeout passes, because no triggerer was there to
        notice the deadline, and when the trigger failed. The job is found by its record, and the wait continues here.
        """
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except AirflowException as error:
            if next_method != DEFERRAL_FAILED:
                raise
            with self._doubting():
                value = self._state(context).read_after_deferral()
            if value is None:
                raise
            if deferral_timed_out(next_kwargs):
                self.log.warning("The deferral timed out, and no triggerer noticed. Continuing on the worker.")
            else:
                self.log.warning("The trigger failed (%s). Waiting on the worker.", error)
            attempt = self._read_or_refuse([value], context)
            with self._owning(attempt, context):
                attempt.wait()
                return self._wait_until_concluded(attempt, context, is_over=True)

    def on_kill(self) -> None:
        """End the attempt: the task was killed on the worker, or its ``execution_timeout`` passed there.

        What becomes of the job is decided by its owner: it is stopped, unless just the worker is being shut down and
        the next attempt joins it.
        """
        self._kill_switch.kill()
        if self._attempt is None and (context := current_context()) is not None:
            self._stop_deferred(context)

    def render_template_fields(self, context: Context, jinja_env: jinja2.Environment | None = None) -> None:
        """Render the templates. A resumed task works from its record, and continues if they cannot be rendered."""
        with keep_values_if_resumed(context, self.log):
            super().render_template_fields(context, jinja_env)

    # The parts of it

    def _complete(self, attempt: A) -> None:
        """Find out what the parameters leave open, before anything is started."""

    @contextmanager
    def _doubting(self, *, may_own_job: bool = True) -> Iterator[None]:
        """Let an error with which Airflow does not give the record say that there may be a job.

        The next attempt reads it again. If none comes, this is all that people hear of the job.
        """
        try:
            yield
        except Exception as error:
            if may_own_job:
                error.add_note(f"The record of this task could not be read. {doubt_about('A job that it started')}")
            raise

    @contextmanager
    def _owning(self, attempt: A, context: Context) -> Iterator[None]:
        """Own the attempt's job: whatever ends the block, the job is let go in one of the ways that leave no doubt."""
        self._attempt = attempt
        try:
            # A kill waits for this: without the connection's key nothing can be stopped.
            with attempt.port.asking_airflow():
                lead_to_dashboard(context, attempt.port.hook, self.operator_extra_links)
            with self._kill_switch.armed():
                yield
        except TaskDeferred:
            raise
        except BaseException as error:
            failure = self._let_go(attempt, context, error)
            if failure is error:
                raise
            raise failure from error
        finally:
            attempt.port.close()

    def _let_go(self, attempt: A, context: Context, error: BaseException) -> BaseException:
        """Decide what becomes of the job when ``error`` ends the attempt; return the exception to fail with."""
        failure = from_client(error, attempt.config.sequentum_conn_id)
        is_killed = isinstance(error, AirflowTaskTerminated)
        if is_killed and self._is_left_to_next_attempt(attempt, context):
            message = f"The worker is being shut down. {attempt.name} keeps running: the next attempt will join it."
            self.log.warning("%s", message)
            return SystemExit(message)
        try:
            is_left = is_retried(failure, attempt.task, context, self) and not self._is_ended(attempt, context)
            fate = attempt.let_go(is_retried=is_left, is_killed=is_killed)
        except AirflowTaskTimeout as late:
            # It ends what comes before a stop, and not the stop itself. Airflow raises it once.
            attempt.is_let_go = False
            return self._let_go(attempt, context, late)
        except BaseException as problem:
            self.log.exception("%s could not be stopped.", attempt.name)
            attempt.stop_failed = True
            fate = f"{doubt_about(attempt.name)} ({problem!r})"
            if not isinstance(problem, Exception):  # Ctrl-C once more, say
                self.log.warning("%s", fate)
                problem.add_note(fate)
                raise
        if fate is not None:
            self.log.warning("%s", fate)
            if isinstance(failure, SequentumException):
                failure.args = (f"{str(failure)[:LONGEST_MESSAGE]} {fate}", *failure.args[1:])
            else:
                failure.add_note(fate)
        return failure

    def _is_left_to_next_attempt(self, attempt: A, context: Context) -> bool:
        # A kill in the middle of a question to Airflow's supervisor leaves no one to ask.
        return (
            attempt.port.is_recorded
            and attempt.can_be_joined
            and not attempt.port.is_asking_airflow
            and next_attempt_is_sure(context, has_next_attempt=attempt.task.has_next_attempt)
        )

    def _is_ended(self, attempt: A, context: Context) -> bool:
        # Before Airflow 3.3 it cannot be asked, and the job is not left to anyone who would have to hear of a mark.
        return attempt.task.keeps_records and not attempt.port.is_asking_airflow and is_ended(context)

    def _wait_until_concluded(self, attempt: A, context: Context, *, is_over: bool) -> Any:
        while not (is_over and attempt.conclude()):
            if attempt.config.deferrable:
                self._defer(attempt, context)
            attempt.wait()
            is_over = True
        attempt.is_let_go = True
        self._on_success(attempt, context)
        return attempt.result

    def _on_success(self, attempt: A, context: Context) -> None:
        """Do what is left when the job has succeeded."""

    def _defer(self, attempt: A, context: Context) -> None:
        record = attempt.port.record
        if record is None:
            raise RuntimeError("There is no job to wait for.")
        # Airflow loses what a deferral carries when its timeout passes, and the next attempt reads this as well.
        attempt.port.save(record)
        if self._is_ended(attempt, context):
            raise AirflowTaskTerminated("The task was marked or cleared before it could be deferred.")
        if attempt.task.keeps_records and has_supervisor(context["ti"]):
            call_after_deferral(partial(self._let_go_if_refused, attempt, context))
        self.defer(
            trigger=self._trigger(attempt),
            method_name="execute_complete",
            kwargs={"record": record.to_json()},
            timeout=deferral_timeout(attempt.port.deadline, attempt.port.now()),
        )

    def _let_go_if_refused(self, attempt: A, context: Context) -> None:
        """Let the job go if Airflow has refused the deferral, so that no trigger takes the job over."""
        if not self._is_ended(attempt, context):
            return
        self.log.warning("The task was marked or cleared while it was being deferred.")
        try:
            fate = attempt.let_go(is_retried=False, is_killed=True)
        finally:
            attempt.port.close()
        if fate is not None:
            self.log.warning("%s", fate)

    def _stop_deferred(self, context: Context) -> None:
        """Stop the job of a deferred task whose ``execution_timeout`` passed: Airflow 2.11 calls only ``on_kill``.

        From Airflow 3 on, a task that is killed before it owns its job goes on until it does, and then stops it. Here
        nothing may be read: its supervisor may be in the middle of an answer.
        """
        if has_supervisor(context["ti"]):
            return
        value = self._state(context).read_after_deferral()
        if value is not None:
            attempt = self._read_or_refuse([value], context)
            if (fate := attempt.let_go(is_retried=False, is_killed=True)) is not None:
                self.log.warning("%s", fate)

    def _read_or_refuse(self, values: list[object], context: Context) -> A:
        """Return an attempt at what the first of the values, a record, asks for.

        A record that cannot be read is never treated as none: it could hide a job that is running.

        :raises SequentumException: it cannot be read, and the job that it names has ended.
        :raises SequentumRequestRefused: it cannot be read, and the job that it names cannot be determined, or could not
            be confirmed to have ended. The record stays: a retry must not start a job beside it.
        """
        try:
            return self._attempt_from_record(values[0], context)
        except ValueError as error:
            failure: BaseException = SequentumRequestRefused(f"The record of this task's job cannot be read: {error}")
            attempt = self._attempt_from_ids(values, context)
            if attempt is not None:
                failure = self._let_go(attempt, context, failure)
            if not isinstance(failure, SequentumRequestRefused):
                raise failure from error
            if attempt is None or attempt.stop_failed:
                raise SequentumRequestRefused(
                    f"{failure} Nothing was started. Look in Sequentum Cloud whether a job is running, then "
                    f"delete the key {self.state_key!r} from the task's state store and clear the task."
                ) from error
            self._state(context).save(None)
            raise SequentumException(f"{failure} A retry, or clearing the task, starts a new job.") from error

    def _state(self, context: Context) -> TaskState:
        return TaskState(context, self.state_key)

    def _port(self, context: Context, conn_id: str, record: JobRecord | None = None) -> AttemptPort:
        """Return the port of an attempt that works from ``record``, if an earlier one left one."""
        from airflow_provider_sequentum.hooks.connection import SequentumConnection
        from airflow_provider_sequentum.hooks.port import AttemptPort

        port = AttemptPort(SequentumConnection(conn_id), context, self._state(context))
        if record is not None:
            port.restore(record)
        return port
