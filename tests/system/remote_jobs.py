"""Remote jobs of the DAGs in ``dags/remote_jobs.py``, as the sandbox really has them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_sequentum.sandbox import Sandbox
    from airflow_provider_sequentum.sandbox.sessions import Session
    from tests.system.harness import AirflowInstance, DagRun

TASK = "job"
FOR_EVER = 3600.0
AGENTS = 2
"""How many agents a space has, or tasks are mapped over."""


@dataclass(frozen=True)
class Case:
    """What to run and how.

    :param kind: ``run``, ``mapped``, ``space`` or ``session``.
    :param mode: ``worker`` or ``deferred``.
    :param params: further parameters of the DAG run.
    """

    kind: str
    mode: str
    params: dict[str, Any] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        """Return a name for reports of pytest."""
        return "-".join([self.kind, self.mode, *map(str, self.params.values())])


class RemoteJobs:
    """What one DAG run has at the service.

    :param sandbox: the service.
    :param case: what is run.
    :param duration: seconds that each run takes.
    :param script: the script of a session.
    """

    def __init__(
        self, sandbox: Sandbox, case: Case, *, duration: float = FOR_EVER, script: str = "slow", **agent: Any
    ) -> None:
        self.case = case
        self._sandbox = sandbox
        self._prompt = f"Pull the symbol and name of the chemical elements, {case} {id(self)}. sandbox:{script}"
        self.agents: list[int] = []
        self._space: int | None = None
        if case.kind == "space":
            self._space = sandbox.add_space(f"{case} {id(self)}").id
        if case.kind != "session":
            home: dict[str, Any] = {} if self._space is None else {"space_id": self._space}
            self.agents = [
                sandbox.add_agent(f"{case} {number}", duration=duration, **home, **agent).id
                for number in range(1 if case.kind == "run" else AGENTS)
            ]

    def start(self, airflow: AirflowInstance) -> DagRun:
        """Start the DAG run."""
        return airflow.trigger(f"job_{self.case.kind}_{self.case.mode}", self.params)

    @property
    def params(self) -> dict[str, Any]:
        """The parameters of the DAG run."""
        target: dict[str, Any] = {"prompt": self._prompt}
        if self._space is not None:
            target["id"] = self._space
        elif self.agents:
            target |= {"id": self.agents[0], "agents": self.agents}
        return target | self.case.params

    @property
    def map_indexes(self) -> Sequence[int]:
        """The map indexes of the tasks."""
        return range(AGENTS) if self.case.kind == "mapped" else (-1,)

    @property
    def sessions(self) -> list[Session]:
        """The sessions that were started, oldest first."""
        return [session for session in self._sandbox.engine.state.sessions.values() if session.prompt == self._prompt]

    def started(self) -> int:
        """Return how many runs or sessions were started."""
        return len(self.sessions) + sum(len(self._sandbox.ledger.starts(agent)) for agent in self.agents)

    def expected(self) -> int:
        """Return how many runs or sessions one attempt starts."""
        return len(self.agents) or 1

    def going(self) -> list[int]:
        """Return how many runs of each agent, or how many sessions, have not ended."""
        if self.case.kind == "session":
            now = self._sandbox.engine.settle()
            return [sum(session.ended(now) is None for session in self.sessions)]
        going = [run.agent_id for run in self._sandbox.ledger.going]
        return [going.count(agent) for agent in self.agents]

    def is_over(self) -> bool:
        """Return whether nothing is going."""
        return not any(self.going())

    def refuse_status(self) -> None:
        """Let the service refuse to say how runs are, for good, while they can be started and stopped."""
        routes = [f"GET /agent/{agent}/run/{{run_id}}/status" for agent in self.agents]
        for route in routes or ["GET /agent-builder/{session_id}/status", "GET /agent-builder/{session_id}/events"]:
            self._sandbox.fail_next(route, "status", status=401, body='{"message": "No run access"}', times=None)


def until(condition: Callable[[], object], timeout: float = 60) -> bool:
    """Return whether it came true in time."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def wait_until_started(job: RemoteJobs, timeout: float) -> None:
    """Wait until every run or session of the first attempt was started."""
    if not until(lambda: job.started() >= job.expected(), timeout):
        raise TimeoutError(f"{job.case}: {job.started()} of {job.expected()} were started in {timeout:g} s")
