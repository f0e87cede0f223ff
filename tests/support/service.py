"""A model of Sequentum Cloud in memory: it answers the calls of procedures, on a clock that costs no time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, TypeVar

from pydantic_core import to_json

from airflow_provider_sequentum.api.call import Call, Reply, Response
from airflow_provider_sequentum.api.errors import (
    ConnectionNotMade,
    HttpStatusError,
    ResponseLost,
    SequentumError,
)
from airflow_provider_sequentum.api.pipeline import read_response
from airflow_provider_sequentum.api.run_status import RunStatus

T = TypeVar("T")

START = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
OVER = frozenset(
    {
        RunStatus.FAILURE,
        RunStatus.FAILED,
        RunStatus.STOPPED,
        RunStatus.COMPLETED,
        RunStatus.SUCCESS,
        RunStatus.SKIPPED,
    }
)
ErrorOf = Callable[[Call[Any]], SequentumError]


class Clock:
    """The time, which passes only when the code under test sleeps or a test says so."""

    def __init__(self, now: datetime = START) -> None:
        self.now = now

    def monotonic(self) -> float:
        return self.now.timestamp()

    def sleep(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@dataclass(frozen=True)
class Plan:
    """What becomes of one attempt of a run. ``seconds=None`` goes on until it is stopped."""

    outcome: RunStatus | int | str = RunStatus.SUCCESS
    seconds: float | None = 60.0
    records: int | None = 10
    errors: int = 0


def ending_in(status: int | str, seconds: float = 60.0) -> Plan:
    """Return the plan of an attempt that comes to a status by its code, known or not, or its name."""
    return Plan(RunStatus(status) if isinstance(status, int) and status in range(14) else status, seconds=seconds)


@dataclass
class FakeRun:
    """One run of the fake service."""

    id: int
    agent_id: int
    created: datetime
    plan: Plan
    started: datetime
    inputs: str | None = None
    by_stranger: bool = False
    status: RunStatus | int | str = RunStatus.RUNNING
    end_time: datetime | None = None
    table_type: str = "run"
    stop_asked_at: datetime | None = None
    killed: bool = False
    restarts: int = 0
    agent_name: str | None = None
    shown_until: datetime | None = None
    """Until then the Failure before the last restart is still what is answered."""
    old_end_time: datetime | None = None

    @property
    def is_over(self) -> bool:
        return self.status in OVER

    def settle(self, now: datetime, stop_seconds: float, *, ignores_stop: bool) -> None:
        if self.stop_asked_at is not None:
            self.status = RunStatus.STOPPING
            stopped_at = self.stop_asked_at + timedelta(seconds=stop_seconds)
            if (not ignores_stop and now >= stopped_at) or self.killed:
                self.status, self.end_time = RunStatus.STOPPED, now
        elif self.plan.seconds is not None and now >= self.started + timedelta(seconds=self.plan.seconds):
            self.status, self.end_time = self.plan.outcome, self.started + timedelta(seconds=self.plan.seconds)

    def as_json(self, now: datetime, skew: timedelta = timedelta(0)) -> dict[str, Any]:
        stale = self.shown_until is not None and now < self.shown_until
        status = RunStatus.FAILURE if stale else self.status
        end_time = self.old_end_time if stale else self.end_time
        return {
            "id": self.id,
            "configId": self.agent_id,
            "configName": self.agent_name,
            "status": int(status) if isinstance(status, int) else status,
            "created": _written(self.created, skew),
            "startTime": _written(self.started, skew),
            "endTime": end_time and _written(end_time, skew),
            "tableType": self.table_type,
            "dataCount": self.plan.records if self.is_over else 0,
            "errorCount": self.plan.errors,
            "pageCount": 1,
        }


@dataclass
class FakeService:
    """
    The service. Agents 7 and 8 exist.

    :param clock: its time.
    :param plans: what becomes of the next attempts, restarts among them; the last one repeats.
    :param faults: what the next calls of a verb (``start``, ``status``, ``runs``, ``stop``, ``kill``, ``restart``,
        ``run-all``, ...) meet: an error, and whether the call takes effect all the same. ``None`` lets one through.
    """

    clock: Clock
    plans: list[Plan] = field(default_factory=lambda: [Plan()])
    faults: dict[str, list[tuple[ErrorOf, bool] | None]] = field(default_factory=lambda: defaultdict(list))
    stop_seconds: float = 4.0
    ignores_stop: bool = False
    restart_lag: float = 0.0
    list_lag: float = 0.0
    """Seconds before a new run appears in the list."""
    most_listed: int | None = None
    """How many runs or bills it lists at most, whatever it is asked for; it then states how many there are."""
    offers_restart: bool = True
    agents: dict[int, str] = field(default_factory=lambda: {7: "Prices", 8: "Stock"})
    runs: dict[int, FakeRun] = field(default_factory=dict)
    next_id: int = 101
    requests: list[str] = field(default_factory=list)
    refuses_to_start: dict[int, str] = field(default_factory=dict)
    keeps_run_id: set[int] = field(default_factory=set)
    """Agents that the start of a space says to have started, without saying as which run."""
    archived_agents: set[int] = field(default_factory=set)
    diagnostics: dict[str, Any] | None = None
    credits: float = 1000.0
    bills: list[dict[str, Any]] = field(default_factory=list)
    """What billing lists of the runs of any agent: ``runId``, ``date``, ``endTime``, ``cost``."""
    bills_of: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    """The same of one agent, where it is another one."""
    on_start: Callable[[FakeRun], None] = lambda run: None
    skew: timedelta = timedelta(0)
    """By how much the service's clock is ahead of the worker's."""
    tells_time: bool = True

    @property
    def now(self) -> datetime:
        """The time by the service's clock."""
        return self.clock.now + self.skew

    def exchange(self, call: Call[T]) -> Reply[T]:
        """Answer a call, with the service's time in whole seconds as ``Date`` has it."""
        value = self.answer(call)
        return Reply(value, self.now.replace(microsecond=0) if self.tells_time else None)

    def answer(self, call: Call[T]) -> T:
        last = call.path.rsplit("/", 1)[-1]
        verb = "billing" if call.path.startswith("/billing/") else last
        self.requests.append(verb)
        fault = self.faults[verb].pop(0) if self.faults[verb] else None
        if fault is None:
            return read_response(call, Response(200, {}, _body(self._act(last, call))))
        error, takes_effect = fault
        if takes_effect:
            self._act(last, call)
        raise error(call)

    def count(self, verb: str) -> int:
        return self.requests.count(verb)

    def settle(self) -> None:
        for run in self.runs.values():
            if run.status not in OVER:
                run.settle(self.clock.now, self.stop_seconds, ignores_stop=self.ignores_stop)

    def start(self, agent_id: int = 7, inputs: str | None = None, *, by_stranger: bool = False) -> FakeRun:
        now = self.clock.now
        self.settle()
        run = FakeRun(
            id=self.next_id,
            agent_id=agent_id,
            created=now,
            started=now,
            plan=self._next_plan(),
            inputs=inputs,
            by_stranger=by_stranger,
        )
        self.next_id += 1  # an id is never given again, whatever is deleted
        if not by_stranger:
            self.on_start(run)
        self.runs[run.id] = run
        self.settle()
        return run

    def archive(self, run_id: int) -> None:
        self.settle()
        run = self.runs[run_id]
        if run.status is RunStatus.FAILURE:
            run.status, run.table_type = RunStatus.FAILED, "history"

    def restart(self, run_id: int, lag: float = 0.0) -> FakeRun:
        now, run = self.clock.now, self.runs[run_id]
        run.restarts += 1
        run.old_end_time, run.end_time = run.end_time, None
        run.status, run.started, run.plan = RunStatus.RUNNING, now, self._next_plan()
        run.shown_until = now + timedelta(seconds=lag)
        return run

    def _next_plan(self) -> Plan:
        return self.plans.pop(0) if len(self.plans) > 1 else self.plans[0]

    def _act(self, verb: str, call: Call[Any]) -> Any:
        self.settle()
        names = call.path.strip("/").split("/")
        if names[0] == "agent" and names[1].isdecimal():
            return self._act_on_agent(verb, call, int(names[1]), int(names[3]) if "run" in names[:3] else None)
        if verb == "all":
            wanted = str(call.query.get("name", ""))
            return [{"id": number, "name": name} for number, name in self.agents.items() if wanted in name]
        if verb == "run-all":
            return self._run_all(call)
        if verb == "diagnostics" and self.diagnostics is not None:
            return self.diagnostics
        if names[0] == "spaces" and verb == "agents":
            return [
                {"id": number, "name": name, "isArchived": number in self.archived_agents}
                for number, name in self.agents.items()
            ]
        if names[0] == "billing" and verb in ("credits", "runs"):
            left = {"availableCredits": self.credits, "retrievedAt": self.now.isoformat()}
            return left if verb == "credits" else self._bills(call, int(names[2]))
        raise not_found(call)

    def _bills(self, call: Call[Any], agent_id: int) -> Any:
        bills = self.bills_of.get(agent_id, self.bills)
        longest = min(int(call.query["recordsPerPage"]), self.most_listed or 1000)
        return {"runs": bills[:longest], "totalRecordCount": len(bills)}

    def _act_on_agent(self, verb: str, call: Call[Any], agent_id: int, run_id: int | None) -> Any:
        if agent_id not in self.agents:
            raise not_found(call)
        if verb == "start":
            assert isinstance(call.body, dict)
            return self.start(agent_id, call.body.get("inputParameters")).as_json(self.clock.now, self.skew)
        if verb == "runs":
            young = self.clock.now - timedelta(seconds=self.list_lag)
            listed = [run for run in self.runs.values() if run.agent_id == agent_id and run.created <= young]
            newest_first = sorted(listed, key=lambda run: (run.created, run.id), reverse=True)
            found = [run.as_json(self.clock.now, self.skew) for run in newest_first[: int(call.query["maxRecords"])]]
            if self.most_listed is None:
                return found
            return {"items": found[: self.most_listed], "totalRecordCount": len(newest_first)}
        run = self.runs.get(run_id or 0)
        if run is None or run.agent_id != agent_id:
            raise not_found(call)
        return self._act_on_run(verb, call, run)

    def _act_on_run(self, verb: str, call: Call[Any], run: FakeRun) -> Any:
        now = self.clock.now
        if verb == "status":
            return run.as_json(now, self.skew)
        if verb == "restart":
            if not self.offers_restart:
                raise method_not_allowed(call)
            if run.status is not RunStatus.FAILURE:
                raise conflict(call)
            return self.restart(run.id, self.restart_lag).as_json(now, self.skew)
        if run.is_over:
            raise conflict(call)
        run.killed = verb == "kill" and run.stop_asked_at is not None
        run.stop_asked_at = run.stop_asked_at or now
        self.settle()
        return None

    def _run_all(self, call: Call[Any]) -> dict[str, Any]:
        inputs = call.body.get("inputParameters") if isinstance(call.body, dict) else None
        results: list[dict[str, Any]] = []
        for number, name in self.agents.items():
            if number in self.archived_agents:
                continue
            refusal = self.refuses_to_start.get(number)
            run_id = self.start(number, inputs).id if refusal is None else None
            told_id = None if number in self.keeps_run_id else run_id
            told = {"success": refusal is None, "runId": told_id, "errorMessage": refusal}
            results.append({"agentId": number, "agentName": name, **told})
        return {"spaceId": 1, "totalAgents": len(results), "agentsStarted": len(results), "results": results}


@lru_cache(maxsize=1000)
def _written(moment: datetime, skew: timedelta) -> str:
    """Write a time by the service's clock. Each poll of a run is answered with the same two or three times again."""
    return (moment + skew).isoformat()


def _body(value: Any) -> bytes:
    return b"" if value is None else to_json(value)


def not_found(call: Call[Any]) -> SequentumError:
    return HttpStatusError("No such thing.", purpose=call.purpose, request=call.request, status_code=404)


def conflict(call: Call[Any]) -> SequentumError:
    return HttpStatusError("Not in this state.", purpose=call.purpose, request=call.request, status_code=409)


def bad_request(call: Call[Any]) -> SequentumError:
    return HttpStatusError("Bad input.", purpose=call.purpose, request=call.request, status_code=400)


def method_not_allowed(call: Call[Any]) -> SequentumError:
    return HttpStatusError("No such endpoint.", purpose=call.purpose, request=call.request, status_code=405)


def unauthorized(call: Call[Any]) -> SequentumError:
    return HttpStatusError("No access.", purpose=call.purpose, request=call.request, status_code=401)


def rate_limited(call: Call[Any]) -> SequentumError:
    return HttpStatusError("Too many.", purpose=call.purpose, request=call.request, status_code=429, retry_after=7.0)


def server_error(call: Call[Any]) -> SequentumError:
    """Return a 5xx. For a call that changes something it leaves open whether the service acted."""
    acted = call.changes_something
    return HttpStatusError("Broken.", purpose=call.purpose, request=call.request, status_code=503, may_have_acted=acted)


def response_lost(call: Call[Any]) -> SequentumError:
    return ResponseLost("Lost.", purpose=call.purpose, request=call.request, may_have_acted=call.changes_something)


def not_reached(call: Call[Any]) -> SequentumError:
    return ConnectionNotMade("Not reached.", purpose=call.purpose, request=call.request)
