"""The admin API under ``/sandbox``: what a test in another process does to the sandbox.

It needs no key, is not counted by the rate limit, and answers this machine only, web pages of other sites excepted:
the request gate checks that.
"""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from airflow_provider_sequentum.sandbox.agents import Agent, ExtraFile, OutputFormat
from airflow_provider_sequentum.sandbox.breakages import Breakage
from airflow_provider_sequentum.sandbox.builder_scripts import ScriptName
from airflow_provider_sequentum.sandbox.data_sets import Record
from airflow_provider_sequentum.sandbox.faults import Fault
from airflow_provider_sequentum.sandbox.ledger import ActualRun, Effect, Leak, RequestEntry
from airflow_provider_sequentum.sandbox.problems import Problem
from airflow_provider_sequentum.sandbox.routes import TheService
from airflow_provider_sequentum.sandbox.run_files import check_output
from airflow_provider_sequentum.sandbox.run_plan import RunPlan
from airflow_provider_sequentum.sandbox.settings import Dialect, Settings
from airflow_provider_sequentum.sandbox.state import Space

Model = TypeVar("Model", bound=BaseModel)


router = APIRouter(tags=["sandbox admin"])


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
async def describe(service: TheService) -> dict[str, Any]:
    """Addresses, key, settings, dialect and time of this sandbox."""
    return {
        **service.describe(),
        "settings": service.settings.model_dump(),
        "dialect": service.dialect.model_dump(),
        "now": service.now.isoformat(),
    }


@router.get("/agents")
async def list_agents(service: TheService) -> list[AdminAgent]:
    """All agents, archived ones too."""
    return [_admin_agent(agent) for agent in tuple(service.engine.state.agents.values())]


@router.post("/spaces", status_code=201)
async def add_space(body: SpaceName, service: TheService) -> Space:
    """Add a space."""
    return service.add_space(body.name)


@router.post("/agents", status_code=201)
async def add_agent(body: NewAgent, service: TheService) -> AdminAgent:
    """Add an agent with records, or with the records of a data set."""
    fields = body.model_dump(exclude={"data_set", "extra_files"})
    if body.data_set is not None:
        if body.data_set not in service.engine.state.data_sets:
            raise Problem(400, f"There is no data set {body.data_set!r}.")
        fields["records"] = service.engine.data_set(body.data_set)
    try:
        check_output(body.output)
        return _admin_agent(service.add_agent(**fields, extra_files=body.extra_files))
    except (ValueError, ValidationError) as error:
        raise Problem(400, str(error)) from error


@router.get("/agents/{agent_id}/records")
async def records(agent_id: int, service: TheService) -> list[Record]:
    """The records an agent yields: what a pipeline should end up with."""
    agent: Agent = service.engine.agent(agent_id)
    return agent.records


@router.post("/agents/{agent_id}/archived/{archived}", status_code=204)
async def set_archived(agent_id: int, archived: bool, service: TheService) -> None:
    """Archive an agent, or bring it back."""
    service.engine.agent(agent_id).archived = archived


@router.post("/agents/{agent_id}/plans", status_code=204)
async def plan_runs(agent_id: int, plans: list[RunPlan], service: TheService) -> None:
    """Plan the agent's next runs and restarts, in order."""
    service.plan_runs(agent_id, plans)


@router.post("/agents/{agent_id}/breakages", status_code=201)
async def break_runs(agent_id: int, body: Breakage, service: TheService) -> Breakage:
    """Let the agent's runs deliver wrong records, from its next run or a given one on."""
    try:
        return service.break_runs(agent_id, body.kind, column=body.column, from_run=body.from_run)
    except ValueError as error:
        raise Problem(400, str(error)) from error


@router.delete("/agents/{agent_id}/breakages", status_code=204)
async def repair_runs(agent_id: int, service: TheService) -> None:
    """Let the agent's next runs deliver its records as they are."""
    service.repair_runs(agent_id)


@router.put("/agents/{agent_id}/runs/{run_id}/plan", status_code=204)
async def replan(agent_id: int, run_id: int, plan: RunPlan, service: TheService) -> None:
    """Change what becomes of a run that is under way."""
    service.engine.replan(agent_id, run_id, plan)


@router.post("/agents/{agent_id}/runs/{run_id}/archive", status_code=204)
async def archive(agent_id: int, run_id: int, service: TheService) -> None:
    """Make a Failure run Failed now."""
    service.archive(agent_id, run_id)


@router.post("/sessions/{session_id}/cancel", status_code=204)
async def cancel_session(session_id: str, service: TheService) -> None:
    """Cancel a session, as another client would."""
    service.sessions.cancel(session_id)


@router.post("/builder-scripts", status_code=204)
async def script_sessions(body: Scripts, service: TheService) -> None:
    """Choose what happens in the next sessions, in order."""
    service.script_sessions(*body.scripts)


@router.post("/faults", status_code=201)
async def add_fault(fault: Fault, service: TheService) -> Fault:
    """Let requests fail."""
    try:
        return service.faults.add(fault)
    except ValueError as error:
        raise Problem(400, str(error)) from error


@router.get("/faults")
async def list_faults(service: TheService) -> list[Fault]:
    """Faults that still apply."""
    return service.faults.waiting


@router.delete("/faults", status_code=204)
async def clear_faults(service: TheService) -> None:
    """Let requests succeed again."""
    service.faults.clear()


@router.post("/clock/advance")
async def advance(body: Seconds, service: TheService) -> dict[str, str]:
    """Move the clock forward."""
    return {"now": service.advance(body.seconds).isoformat()}


@router.put("/clock/scale", status_code=204)
async def set_scale(body: Scale, service: TheService) -> None:
    """Let time run at another speed."""
    service.engine.clock.set_scale(body.scale)


@router.post("/credits")
async def add_credits(body: Amount, service: TheService) -> dict[str, float]:
    """Give credits, or take them with a negative amount."""
    return {"balance": service.engine.add_credits(body.amount)}


@router.post("/api-keys", status_code=201)
async def add_api_key(body: KeyName, service: TheService) -> dict[str, str]:
    """Add an API key with a request budget of its own."""
    try:
        return {"name": body.name, "api_key": service.add_api_key(body.name)}
    except ValueError as error:
        raise Problem(409, str(error)) from error


@router.patch("/settings")
async def change_settings(changes: dict[str, Any], service: TheService) -> Settings:
    """Change limits and delays; the names are those of the sandbox's settings."""
    settings: Settings = _changed(service.settings, changes)
    service.engine.touch()
    return settings


@router.patch("/dialect")
async def change_dialect(changes: dict[str, Any], service: TheService) -> Dialect:
    """Change the forms of responses."""
    return _changed(service.dialect, changes)


@router.get("/ledger/requests")
async def ledger_requests(service: TheService) -> list[RequestEntry]:
    """Every request to the API and to storage."""
    return service.ledger.requests


@router.get("/ledger/effects")
async def ledger_effects(service: TheService, kind: str | None = None, agent_id: int | None = None) -> list[Effect]:
    """Everything that requests brought about; of one kind or agent when asked."""
    effects: list[Effect] = service.ledger.effects
    return [e for e in effects if kind in (None, e.kind) and agent_id in (None, e.agent_id)]


@router.get("/ledger/leaks")
async def ledger_leaks(service: TheService) -> list[Leak]:
    """Authorization headers that reached storage."""
    return service.ledger.leaks


@router.get("/ledger/rate-limited")
async def ledger_rate_limited(service: TheService) -> list[RequestEntry]:
    """Requests the limiter refused."""
    return service.ledger.rate_limited


@router.get("/ledger/runs")
async def ledger_runs(service: TheService, agent_id: int | None = None, going: bool | None = None) -> list[ActualRun]:
    """The runs as they really are; of one agent, or only those that are going or have ended, when asked."""
    return [run for run in service.ledger.runs(agent_id) if going in (None, run.going)]


def _admin_agent(agent: Agent) -> AdminAgent:
    return AdminAgent(
        id=agent.id,
        name=agent.name,
        archived=agent.archived,
        exclusive=agent.exclusive,
        output=agent.output,
        record_count=len(agent.records),
        planned=agent.planned,
    )


def _changed(model: Model, changes: dict[str, Any]) -> Model:
    try:
        checked = type(model).model_validate(model.model_dump() | changes)
    except ValidationError as error:
        raise Problem(400, str(error)) from error
    for name in changes:
        setattr(model, name, getattr(checked, name))
    return model
