"""How a task handles its runs, and what bounds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from airflow_provider_sequentum.lifecycle.run_ending import OutcomePolicy
from airflow_provider_sequentum.lifecycle.run_start import RunPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a task handles its run; see the parameters of :class:`~.agent_run.StartAgentRunOperator`."""

    policy: RunPolicy
    outcome: OutcomePolicy
    poll_interval: float | None
    stop_on_timeout: bool
    restarts: int
    restart_delay: float
    retries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """
    What bounds this try, carried through a deferral.

    :param own: when the task's ``timeout`` passes.
    :param execution: when its ``execution_timeout`` passes.
    :param restarts_done: how often the run was restarted in this try.
    """

    own: datetime | None = None
    execution: datetime | None = None
    restarts_done: int = 0

    @property
    def execution_comes_first(self) -> bool:
        """Whether it is ``execution_timeout`` that passes first."""
        return self.execution is not None and (self.own is None or self.execution <= self.own)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "own": self.own and self.own.isoformat(),
            "execution": self.execution and self.execution.isoformat(),
            "restarts_done": self.restarts_done,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Bounds:
        """Read what :meth:`to_json` wrote."""
        own, execution = values["own"], values["execution"]
        return cls(
            own=datetime.fromisoformat(own) if own else None,
            execution=datetime.fromisoformat(execution) if execution else None,
            restarts_done=values["restarts_done"],
        )
