"""The admin API under ``/sandbox``: what a test in another process does to the sandbox.

It needs no key, is not counted by the rate limit, and answers this machine only.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from airflow_provider_sequentum.sandbox.agents import Agent, ExtraFile, OutputFormat
from airflow_provider_sequentum.sandbox.builder_scripts import ScriptName
from airflow_provider_sequentum.sandbox.data_sets import Record
from airflow_provider_sequentum.sandbox.faults import Fault
from airflow_provider_sequentum.sandbox.gate import ADMIN_PREFIX, asked_from_here
from airflow_provider_sequentum.sandbox.ledger import Effect, Leak, RequestEntry, RunTruth
from airflow_provider_sequentum.sandbox.problems import Problem
from airflow_provider_sequentum.sandbox.run_files import check_output
from airflow_provider_sequentum.sandbox.run_plan import RunPlan
from airflow_provider_sequentum.sandbox.services import services_of
from airflow_provider_sequentum.sandbox.settings import Dialect, Settings
from airflow_provider_sequentum.sandbox.state import Space

Model = TypeVar("Model", bound=BaseModel)


async def _local_only(request: Request) -> None:
    if not asked_from_here(request):
        raise Problem(403, "The admin API answers this machine only.")


async def _sandbox(request: Request) -> Any:
    return services_of(request).sandbox


router = APIRouter(prefix=ADMIN_PREFIX, tags=["sandbox admin"], dependencies=[Depends(_local_only)])
# Typed as Any here and nowhere else: server.py builds the application that holds this router.
TheSandbox = Annotated[Any, Depends(_sandbox)]


class NewAgent(BaseModel):
    """An agent to be added; the fields are those of ``Sandbox.add_agent``."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1)
    records: list[Record] | None = None
    data_set: str | None = None
    outcome: str = "Success"
    duration: float = Field(3.0, ge=0)
    queue_seconds: float = Field(0.0, ge=0)
    exclusive: bool = False
    output: OutputFormat = "csv"
    file_name: str = ""
    extra_files: list[ExtraFile] = []
    description: str = ""
    input_parameters: dict[str, Any] | None = None
    space_id: int = 1


class Seconds(BaseModel):
    """A number of sandbox seconds."""

    seconds: float = Field(ge=0)


class Scale(BaseModel):
    """A speed of time."""

    scale: float = Field(gt=0)


class Amount(BaseModel):
    """An amount of credits."""

    amount: float


class KeyName(BaseModel):
    """A name for an API key."""

    name: str = Field(min_length=1)


class SpaceName(BaseModel):
    """A name for a space."""

    name: str = Field(min_length=1)


class Scripts(BaseModel):
    """Scripts of the next sessions."""

    scripts: list[ScriptName]


class AdminAgent(BaseModel):
    """An agent as the admin API shows it."""

    id: int
    name: str
    archived: bool
    exclusive: bool
    output: str
    record_count: int
    planned: list[RunPlan]


@router.get("")
async def describe(sandbox: TheSandbox) -> dict[str, Any]:
    """Addresses, key, settings, dialect and time of this sandbox."""
    return {
        **sandbox.describe(),
        "settings": sandbox.settings.model_dump(),
        "dialect": sandbox.dialect.model_dump(),
        "now": sandbox.now.isoformat(),
    }


@router.get("/agents")
async def list_agents(sandbox: TheSandbox) -> list[AdminAgent]:
    """All agents, archived ones too."""
    return [_admin_agent(agent) for agent in tuple(sandbox.engine.state.agents.values())]


@router.post("/spaces", status_code=201)
async def add_space(body: SpaceName, sandbox: TheSandbox) -> Space:
    """Add a space."""
    space: Space = sandbox.add_space(body.name)
    return space


@router.post("/agents", status_code=201)
async def add_agent(body: NewAgent, sandbox: TheSandbox) -> AdminAgent:
    """Add an agent with records, or with the records of a data set."""
    fields = body.model_dump(exclude={"data_set", "extra_files"})
    if body.data_set is not None:
        if body.data_set not in sandbox.engine.state.data_sets:
            raise Problem(400, f"There is no data set {body.data_set!r}.")
        fields["records"] = sandbox.engine.data_set(body.data_set)
    try:
        check_output(body.output)
        return _admin_agent(sandbox.add_agent(**fields, extra_files=body.extra_files))
    except (ValueError, ValidationError) as error:
        raise Problem(400, str(error)) from error


@router.get("/agents/{agent_id}/records")
async def records(agent_id: int, sandbox: TheSandbox) -> list[Record]:
    """The records an agent yields: what a pipeline should end up with."""
    agent: Agent = sandbox.engine.agent(agent_id)
    return agent.records


@router.post("/agents/{agent_id}/archived/{archived}", status_code=204)
async def set_archived(agent_id: int, archived: bool, sandbox: TheSandbox) -> None:
    """Archive an agent, or bring it back."""
    sandbox.engine.agent(agent_id).archived = archived


@router.post("/agents/{agent_id}/plans", status_code=204)
async def plan_runs(agent_id: int, plans: list[RunPlan], sandbox: TheSandbox) -> None:
    """Plan the agent's next runs and restarts, in order."""
    sandbox.plan_runs(agent_id, plans)


@router.put("/agents/{agent_id}/runs/{run_id}/plan", status_code=204)
async def replan(agent_id: int, run_id: int, plan: RunPlan, sandbox: TheSandbox) -> None:
    """Change what becomes of a run that is under way."""
    sandbox.engine.replan(agent_id, run_id, plan)


@router.post("/agents/{agent_id}/runs/{run_id}/archive", status_code=204)
async def archive(agent_id: int, run_id: int, sandbox: TheSandbox) -> None:
    """Make a Failure run Failed now."""
    sandbox.archive(agent_id, run_id)


@router.post("/sessions/{session_id}/cancel", status_code=204)
async def cancel_session(session_id: str, sandbox: TheSandbox) -> None:
    """Cancel a session as somebody else would."""
    sandbox.desk.cancel(session_id)


@router.post("/builder-scripts", status_code=204)
async def script_sessions(body: Scripts, sandbox: TheSandbox) -> None:
    """Choose what happens in the next sessions, in order."""
    sandbox.script_sessions(*body.scripts)


@router.post("/faults", status_code=201)
async def add_fault(fault: Fault, sandbox: TheSandbox) -> Fault:
    """Let requests fail."""
    try:
        added: Fault = sandbox.faults.add(fault)
    except ValueError as error:
        raise Problem(400, str(error)) from error
    return added


@router.get("/faults")
async def list_faults(sandbox: TheSandbox) -> list[Fault]:
    """Faults that have yet to strike."""
    faults: list[Fault] = sandbox.faults.waiting
    return faults


@router.delete("/faults", status_code=204)
async def clear_faults(sandbox: TheSandbox) -> None:
    """Let requests succeed again."""
    sandbox.faults.clear()


@router.post("/clock/advance")
async def advance(body: Seconds, sandbox: TheSandbox) -> dict[str, str]:
    """Move the clock forward."""
    return {"now": sandbox.advance(body.seconds).isoformat()}


@router.put("/clock/scale", status_code=204)
async def set_scale(body: Scale, sandbox: TheSandbox) -> None:
    """Let time run at another speed."""
    sandbox.engine.clock.set_scale(body.scale)


@router.post("/credits")
async def add_credits(body: Amount, sandbox: TheSandbox) -> dict[str, float]:
    """Give credits, or take them with a negative amount."""
    return {"balance": sandbox.engine.add_credits(body.amount)}


@router.post("/api-keys", status_code=201)
async def add_api_key(body: KeyName, sandbox: TheSandbox) -> dict[str, str]:
    """Add an API key with a request budget of its own."""
    try:
        return {"name": body.name, "api_key": sandbox.add_api_key(body.name)}
    except ValueError as error:
        raise Problem(409, str(error)) from error


@router.patch("/settings")
async def change_settings(changes: dict[str, Any], sandbox: TheSandbox) -> Settings:
    """Change limits and delays; the names are those of the sandbox's settings."""
    settings: Settings = _changed(sandbox.settings, changes)
    sandbox.engine.touch()
    return settings


@router.patch("/dialect")
async def change_dialect(changes: dict[str, Any], sandbox: TheSandbox) -> Dialect:
    """Change the forms of answers."""
    dialect: Dialect = _changed(sandbox.dialect, changes)
    return dialect


@router.get("/ledger/requests")
async def ledger_requests(sandbox: TheSandbox) -> list[RequestEntry]:
    """Every request to the API and to storage."""
    requests: list[RequestEntry] = sandbox.ledger.requests
    return requests


@router.get("/ledger/effects")
async def ledger_effects(sandbox: TheSandbox, kind: str | None = None, agent_id: int | None = None) -> list[Effect]:
    """Everything requests brought about; of one kind or agent when asked."""
    effects: list[Effect] = sandbox.ledger.effects
    return [e for e in effects if kind in (None, e.kind) and agent_id in (None, e.agent_id)]


@router.get("/ledger/leaks")
async def ledger_leaks(sandbox: TheSandbox) -> list[Leak]:
    """Authorization headers that reached storage."""
    leaks: list[Leak] = sandbox.ledger.leaks
    return leaks


@router.get("/ledger/rate-limited")
async def ledger_rate_limited(sandbox: TheSandbox) -> list[RequestEntry]:
    """Requests the limiter refused."""
    entries: list[RequestEntry] = sandbox.ledger.rate_limited
    return entries


@router.get("/ledger/runs")
async def ledger_runs(sandbox: TheSandbox, agent_id: int | None = None) -> list[RunTruth]:
    """The true course of the runs."""
    runs: list[RunTruth] = sandbox.ledger.runs(agent_id)
    return runs


def _admin_agent(agent: Agent) -> AdminAgent:
    return AdminAgent(
        id=agent.id, name=agent.name, archived=agent.archived, exclusive=agent.exclusive,
        output=agent.output, record_count=len(agent.records), planned=agent.planned,
    )  # fmt: skip


def _changed(model: Model, changes: dict[str, Any]) -> Model:
    try:
        checked = type(model).model_validate(model.model_dump() | changes)
    except ValidationError as error:
        raise Problem(400, str(error)) from error
    for name in changes:
        setattr(model, name, getattr(checked, name))
    return model
