"""The base class of the operators that own a remote job: execution, deferral, resumption and kill.

What happens to the job is decided by its owner, a :class:`~airflow_provider_sequentum.jobs.attempt.JobAttempt`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
    AirflowTaskTimeout,
    BaseOperator,
    TaskDeferred,
)

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
from airflow_provider_sequentum.airflow_compat.task_attempt import (
    current_context,
    is_own_task,
    is_retried,
    policy_retries,
    task_facts,
)
from airflow_provider_sequentum.airflow_compat.task_state import TaskState
from airflow_provider_sequentum.exceptions import (
    SequentumException,
    SequentumRequestRefused,
    SequentumUnavailable,
    doubt_about,
    from_client,
)
from airflow_provider_sequentum.reporting.links import push_dashboard_link

if TYPE_CHECKING:
    import jinja2
    from airflow.providers.common.compat.sdk import Context
    from airflow.triggers.base import BaseTrigger

    from airflow_provider_sequentum.hooks.port import AttemptPort
    from airflow_provider_sequentum.jobs.attempt import JobAttempt
    from airflow_provider_sequentum.jobs.record import JobRecord

A = TypeVar("A", bound="JobAttempt[Any]")

MAX_MESSAGE_LENGTH = 3500
"""Characters of an error message that are kept when the fate of the job is appended to it."""


class RemoteJobOperator(BaseOperator, Generic[A]):
    """Base class of the operators that own a remote job. Do not use it in a DAG."""

    state_key: ClassVar[str]
    """The key of the record in the task state store or, before Airflow 3.3, the key of the XCom."""

    sequentum_conn_id: str

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._kill_switch = KillSwitch()
        self._attempt: A | None = None

    # Implemented by subclasses

    @abstractmethod
    def _new_attempt(self, context: Context) -> A:
        """Return an attempt made from the parameters of the operator. Nothing is sent.

        :raises SequentumException: a parameter is invalid.
        """

    @abstractmethod
    def _attempt_from_record(self, value: object, context: Context) -> A:
        """Return an attempt made from a record, without reading any parameter.

        :raises ValueError: the record cannot be read.
        """

    @abstractmethod
    def _attempt_from_ids(self, values: list[object], context: Context) -> A | None:
        """Return an attempt that owns the job named by a record or event of another version; ``None`` if none is."""

    @abstractmethod
    def _trigger(self, attempt: A) -> BaseTrigger:
        """Return the trigger that waits for the job."""

    def _resolve_parameters(self, attempt: A) -> None:
        """Look up what the parameters leave open, before anything is started."""

    def _on_success(self, attempt: A, context: Context) -> None:
        """Called after the job has succeeded."""

    # Airflow's life cycle

    def execute(self, context: Context) -> Any:
        """Start the job, or join the one that an earlier attempt left, and wait until it ends."""
        if not is_own_task(self, context):
            raise SequentumRequestRefused(
                f"{type(self).__name__} was called by the code of the task {context['ti'].task_id!r}, which would not "
                "stop its job when the task is killed, and would start it again in a retry. Nothing was sent. Make it "
                "a task of its own; for several agents or inputs, map it with expand()."
            )
        previous = self._previous_attempt(context)
        if previous is None:
            attempt = self._new_attempt(context)
        else:
            # Even if a parameter is invalid, the job of the earlier attempt must have an owner.
            with self._owning(previous, context):
                attempt = self._new_attempt(context)
                is_elsewhere = attempt.config.sequentum_conn_id != previous.config.sequentum_conn_id
                if is_elsewhere:
                    self._end_elsewhere(previous)
            if not is_elsewhere:
                attempt.take_over(previous)
        with self._owning(attempt, context):
            attempt.port.connect()
            self._resolve_parameters(attempt)
            is_over = attempt.start_or_join()
            attempt.port.raise_interruption()
            if not attempt.config.wait_for_completion:
                result = attempt.result
                attempt.is_released = True
                return result
            return self._wait_until_concluded(attempt, context, is_over=is_over)

    def execute_complete(
        self, context: Context, event: Mapping[str, Any] | None = None, record: Mapping[str, Any] | None = None
    ) -> Any:
        """Continue after a deferral.

        :param event: the event of the trigger.
        :param record: the record of the job. ``dag.test`` loses it; then it is read from where it is stored.
        """
        with self._reading_record():
            value = record if record is not None else self._state(context).read_after_deferral()
        attempt = self._read_or_refuse([value, event], context)
        with self._owning(attempt, context):
            attempt.resume(event or {})
            return self._wait_until_concluded(attempt, context, is_over=True)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume after a deferral, even if Airflow itself ended it.

        If the deferral timed out (no triggerer was running to notice the deadline) or the trigger failed, Airflow drops
        the ``kwargs`` of the deferral. The job is then found by its record, and the wait continues on the worker.
        """
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except AirflowException as error:
            if next_method != DEFERRAL_FAILED:
                raise
            with self._reading_record():
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
        """End the attempt because the task was killed on the worker, or its ``execution_timeout`` expired there.

        The job is stopped, unless only the worker is being shut down and the next attempt will join the job.
        """
        self._kill_switch.kill()
        if self._attempt is None and (context := current_context()) is not None:
            self._stop_deferred(context)

    def _do_render_template_fields(
        self,
        parent: Any,
        template_fields: Iterable[str],
        context: Context,
        jinja_env: jinja2.Environment,
        seen_oids: set[int],
    ) -> None:
        """Render the templates of the operator, or of an object in a parameter.

        A resumed task works from its record, and continues if they cannot be rendered. Otherwise Airflow ends the
        attempt, which must not leave the job of an earlier one. For a mapped task, Airflow calls this method and not
        ``render_template_fields``.
        """
        try:
            with keep_values_if_resumed(context, self.log):
                super()._do_render_template_fields(parent, template_fields, context, jinja_env, seen_oids)
        except Exception:
            # "airflow tasks render" has no current context.
            if parent is not self or current_context() is None or not is_own_task(self, context):
                raise
            previous = self._previous_attempt(context)
            if previous is None:
                raise
            with self._owning(previous, context):
                raise

    # Implementation

    def _previous_attempt(self, context: Context) -> A | None:
        """Return an attempt that owns the job of an earlier one; ``None`` if there is no record."""
        with self._reading_record(may_own_job=task_facts(context, self).earlier_attempts > 0):
            value = self._state(context).read()
        return None if value is None else self._read_or_refuse([value], context)

    def _end_elsewhere(self, previous: A) -> None:
        """Stop the job of an earlier attempt with another connection: that of this attempt may not know the job.

        A cleared task continues even if that connection is gone: its job may have ended long ago.

        :raises SequentumUnavailable: it could not be confirmed that the job has ended, and the task was not cleared.
        """
        conn_id = previous.config.sequentum_conn_id
        self.log.warning("An earlier attempt used the connection %r, so this one does not continue its job.", conn_id)
        previous.port.deadline = None
        try:
            fate = previous.stop()
        except SequentumException as error:
            previous.stop_failed, fate = True, f"{doubt_about(previous.name)} ({error})"
        if not previous.stop_failed:
            self.log.info("%s", fate)
        elif previous.known_record.was_cleared(previous.task.max_tries):
            self.log.warning("%s The task was cleared since, so it starts again with its connection of today.", fate)
        else:
            raise SequentumUnavailable(
                f"{fate} It was started with the connection {conn_id!r}, which the task no longer has. Nothing was "
                "started. Clear the task to start again regardless."
            )
        previous.port.save(None)
        previous.is_released = True

    @contextmanager
    def _reading_record(self, *, may_own_job: bool = True) -> Iterator[None]:
        """Add a note to the error if Airflow cannot return the record: the task may own a job that is running.

        The next attempt reads the record again. If there is none, the note is the only trace of the job.
        """
        try:
            yield
        except Exception as error:
            if may_own_job:
                error.add_note(f"The record of this task could not be read. {doubt_about('A job that it started')}")
            raise

    @contextmanager
    def _owning(self, attempt: A, context: Context) -> Iterator[None]:
        """Own the attempt's job. Whatever ends the block, :meth:`_release` decides what happens to the job."""
        self._attempt = attempt
        try:
            # A kill has to wait for this: without the API key nothing can be stopped.
            with attempt.port.asking_airflow():
                push_dashboard_link(context, attempt.port.hook, self.operator_extra_links)
            with self._kill_switch.armed():
                try:
                    yield
                finally:
                    attempt.port.raise_interruption()
        except TaskDeferred:
            raise
        except BaseException as error:
            failure = self._release(attempt, context, error)
            if failure is error:
                raise
            raise failure from error
        finally:
            attempt.port.close()

    def _release(self, attempt: A, context: Context, error: BaseException) -> BaseException:
        """Decide what happens to the job when ``error`` ends the attempt; return the exception to raise."""
        failure = from_client(error, attempt.config.sequentum_conn_id)
        is_killed = isinstance(error, AirflowTaskTerminated)
        if is_killed:
            shutdown = SystemExit(
                f"The worker is being shut down. {attempt.name} keeps running: the next attempt {attempt.what_follows}."
            )
            if self._is_left_to_next_attempt(attempt, context, shutdown):
                self.log.warning("%s", shutdown)
                return shutdown
        try:
            is_left = is_retried(failure, attempt.task, context, self) and not self._is_ended(attempt, context)
            fate = attempt.release(is_retried=is_left, is_killed=is_killed)
        except AirflowTaskTimeout as late:
            # execution_timeout may interrupt what precedes the stop, but not the stop itself. Airflow raises it once.
            attempt.is_released = False
            return self._release(attempt, context, late)
        except BaseException as problem:
            self.log.exception("%s could not be stopped.", attempt.name)
            attempt.stop_failed = True
            fate = f"{doubt_about(attempt.name)} ({problem!r})"
            if not isinstance(problem, Exception):  # such as another Ctrl-C
                self.log.warning("%s", fate)
                problem.add_note(fate)
                raise
        if fate is not None:
            self.log.warning("%s", fate)
            if isinstance(failure, SequentumException):
                failure.args = (f"{str(failure)[:MAX_MESSAGE_LENGTH]} {fate}", *failure.args[1:])
            else:
                failure.add_note(fate)
        return self._without_retry(attempt, failure)

    def _without_retry(self, attempt: A, failure: BaseException) -> BaseException:
        """Return an exception that is not retried, if a retry would start a job beside one that may be running."""
        is_final = isinstance(failure, (AirflowFailException, AirflowSkipException))
        may_be_retried = isinstance(failure, (Exception, AirflowTaskTimeout)) and not is_final
        if not (attempt.is_abandoned and attempt.task.has_next_attempt and may_be_retried):
            return failure
        said = " ".join([str(failure), *getattr(failure, "__notes__", ())])[:MAX_MESSAGE_LENGTH]
        return attempt.abandoned(
            f"{said} The task is not retried, because before Airflow 3.3 a retry would not know of this and start "
            "another one. Make sure that it has ended, then clear the task."
        )

    def _is_left_to_next_attempt(self, attempt: A, context: Context, shutdown: SystemExit) -> bool:
        # If the kill interrupted a request to Airflow's supervisor, the supervisor cannot answer another one.
        if not (attempt.port.is_recorded and attempt.can_be_joined) or attempt.port.is_asking_airflow:
            return False

        def is_retried() -> bool:
            if attempt.task.has_next_attempt and policy_retries(shutdown, attempt.task, context, self):
                return True
            # If another attempt has started, the running task is that one, and Airflow no longer knows this one.
            return self._state(context).read() is None

        return next_attempt_is_sure(context, is_retried)

    def _is_ended(self, attempt: A, context: Context) -> bool:
        # Before Airflow 3.3 the state cannot be queried. There, no job is left to a next attempt, and no trigger is
        # notified of a mark.
        return attempt.task.keeps_records and not attempt.port.is_asking_airflow and is_ended(context)

    def _wait_until_concluded(self, attempt: A, context: Context, *, is_over: bool) -> Any:
        while not (is_over and attempt.conclude()):
            if attempt.config.deferrable:
                self._defer(attempt, context)
            attempt.wait()
            is_over = True
        attempt.is_released = True
        self._on_success(attempt, context)
        return attempt.result

    def _defer(self, attempt: A, context: Context) -> None:
        record = attempt.known_record
        # Airflow drops the kwargs when the deferral times out, and the next attempt reads the record, too.
        attempt.port.save(record)
        if self._is_ended(attempt, context):
            raise AirflowTaskTerminated("The task was marked or cleared before it could be deferred.")
        if attempt.task.keeps_records and has_supervisor(context["ti"]):
            call_after_deferral(partial(self._release_if_refused, attempt, context))
        self.defer(
            trigger=self._trigger(attempt),
            method_name="execute_complete",
            kwargs={"record": record.to_json()},
            timeout=deferral_timeout(attempt.port.deadline, attempt.port.now()),
        )

    def _release_if_refused(self, attempt: A, context: Context) -> None:
        """Release the job if Airflow refused the deferral: there is no trigger to take it over."""
        if not self._is_ended(attempt, context):
            return
        self.log.warning("The task was marked or cleared while it was being deferred.")
        try:
            fate = attempt.release(is_retried=False, is_killed=True)
        finally:
            attempt.port.close()
        if fate is not None:
            self.log.warning("%s", fate)

    def _stop_deferred(self, context: Context) -> None:
        """Stop the job of a deferred task whose ``execution_timeout`` expired: Airflow 2.11 only calls ``on_kill``.

        On Airflow 3, a task that is killed before it owns its job continues until it does, and then stops the job. The
        record must not be read here, because the supervisor may be answering another request.
        """
        if has_supervisor(context["ti"]):
            return
        value = self._state(context).read_after_deferral()
        if value is not None:
            attempt = self._read_or_refuse([value], context)
            if (fate := attempt.release(is_retried=False, is_killed=True)) is not None:
                self.log.warning("%s", fate)

    def _read_or_refuse(self, values: list[object], context: Context) -> A:
        """Return the attempt that is described by the first of the values, a record.

        An unreadable record is never treated as a missing one: it could hide a running job.

        :raises SequentumException: the record cannot be read, and the job that it names has ended.
        :raises SequentumRequestRefused: the record cannot be read, and it names no job, or the job could not be
            confirmed to have ended. The record is kept, so that a retry does not start a second job.
        """
        try:
            return self._attempt_from_record(values[0], context)
        except ValueError as error:
            failure: BaseException = SequentumRequestRefused(f"The record of this task's job cannot be read: {error}")
            attempt = self._attempt_from_ids(values, context)
            if attempt is not None:
                failure = self._release(attempt, context, failure)
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
        """Return the port of an attempt.

        :param record: the record that an earlier attempt left, if any.
        """
        from airflow_provider_sequentum.hooks.connection import SequentumConnection
        from airflow_provider_sequentum.hooks.port import AttemptPort

        port = AttemptPort(SequentumConnection(conn_id), context, self._state(context))
        if record is not None:
            port.restore(record)
        return port
