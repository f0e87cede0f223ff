"""What the parameters that operators of runs have in common mean for a try."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_sequentum.exceptions import SequentumRequestRefused
from airflow_provider_sequentum.lifecycle.arguments import parse_count, parse_credits, parse_seconds
from airflow_provider_sequentum.task_try import begun_at, execution_deadline

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_sequentum.operators.run_options import Bounds, RunOptions

T = TypeVar("T")


class RunParameters:
    """
    Part of an operator that starts runs.

    The parameters stay in the signature of each operator, where a DAG author, an editor and the documentation look.
    """

    retries: int | None
    execution_timeout: timedelta | None
    sequentum_conn_id: str
    deferrable: bool
    poll_interval: float | None
    timeout: float | str | timedelta | None
    on_timeout: str
    restarts: int
    restart_delay: float
    retry_mode: str
    on_clear: str
    on_ambiguous_start: str
    stop_grace: float
    min_credits: float | str | None
    min_records: int | str | None
    max_errors: int | str | None
    on_empty: str

    def _options(self) -> RunOptions:
        from airflow_provider_sequentum.lifecycle.run_ending import OutcomePolicy
        from airflow_provider_sequentum.lifecycle.run_start import RunPolicy
        from airflow_provider_sequentum.operators.run_options import RunOptions

        return RunOptions(
            policy=RunPolicy(
                on_ambiguous_start=self.on_ambiguous_start,
                on_clear=self.on_clear,
                retry_mode=self.retry_mode,
                stop_grace=self.stop_grace,
                min_credits=self._checked(parse_credits, self.min_credits),
            ),
            outcome=OutcomePolicy(
                min_records=self._checked(parse_count, "min_records", self.min_records),
                max_errors=self._checked(parse_count, "max_errors", self.max_errors),
                on_empty=self.on_empty,
            ),
            poll_interval=self.poll_interval,
            stop_on_timeout=self.on_timeout == "stop",
            restarts=self.restarts,
            restart_delay=self.restart_delay,
            retries=self.retries or 0,
        )

    def _bounds(self, context: Context) -> Bounds:
        from airflow_provider_sequentum.operators.run_options import Bounds

        timeout = self._checked(parse_seconds, "timeout", self.timeout)
        return Bounds(
            own=begun_at(context, datetime.now(UTC)) + timedelta(seconds=timeout) if timeout else None,
            # A worker watches execution_timeout itself; while a task is deferred, Airflow 3 does not.
            execution=execution_deadline(context, self.execution_timeout) if self.deferrable else None,
        )

    def _checked(self, parse: Callable[..., T], *arguments: Any) -> T:
        try:
            return parse(*arguments)
        except ValueError as error:
            raise SequentumRequestRefused(
                f"{error} Nothing was started (connection {self.sequentum_conn_id!r})."
            ) from error
