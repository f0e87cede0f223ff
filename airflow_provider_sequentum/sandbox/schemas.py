"""Bodies on the wire, as the API pages describe them: camelCase, and null where the facts say so."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, WithJsonSchema, model_validator
from pydantic.alias_generators import to_camel

# A time that is already in the form the dialect asks for.
Time = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
# A run status: the service's integer, or what the dialect or a plan puts in its place.
Status = int | str
# int32 as in the paths and bodies of the service.
Int32 = Annotated[StrictInt, Field(ge=-(2**31), le=2**31 - 1)]


class ResponseBody(BaseModel):
    """Base of what the sandbox answers."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, serialize_by_alias=True)


class Body(BaseModel):
    """Base of what the sandbox is sent: names in any case, unknown members ignored, no guessing of types."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _any_case(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        names = {to_camel(name).lower(): to_camel(name) for name in cls.model_fields}
        return {names.get(str(key).lower(), key): value for key, value in data.items()}


class RunResponse(ResponseBody):
    """A run (API page "run status")."""

    id: int
    config_id: int
    config_name: str | None
    space_id: int
    organization_id: int
    organization_name: str | None
    sequence: int
    parallelism: int | None
    parallel_max_concurrency: int | None
    parallel_export: Literal["Combined", "Separated"] | None
    parallel_set: int | None
    start_time: Time | None
    end_time: Time | None
    created: Time | None
    status: Status
    message: str | None
    config_version: int | None
    action_count: int
    page_count: int
    dynamic_page_count: int
    request_count: int
    data_count: int
    input_count: int | None
    error_count: int
    export_count: int | None
    traffic: int | None
    run_time_sec: int | None
    server_name: str | None
    table_type: Literal["run", "history"] | None
    tag: str | None


class StartBody(Body):
    """Body of start; every member may be left out."""

    is_run_synchronously: StrictBool = False
    input_parameters: StrictStr | None = None
    parallelism: Annotated[StrictInt, Field(ge=1, le=50)] | None = None
    parallel_max_concurrency: Annotated[StrictInt, Field(ge=1, le=50)] | None = None
    parallel_export: Literal["Combined", "Separated"] | None = None
    proxy_pool_id: Int32 | None = None
    timeout: Annotated[StrictInt, Field(ge=1, le=3600)] = 60
    is_exclusive: StrictBool | None = None
    is_wait_on_failure: StrictBool | None = None
    log_level: Literal["Fatal", "Error", "Warning", "Info"] | None = None
    log_mode: Literal["Text", "TextAndHtml"] | None = None


class RunFileResponse(ResponseBody):
    """A file of a run."""

    id: int
    name: str | None
    file_type: int | None
    file_size: int
    created: Time
    region_id: int | None


class AgentResponse(ResponseBody):
    """An agent."""

    id: int | None
    name: str | None
    description: str | None
    documentation: str | None
    icon: str | None
    image: str | None
    start_url: str | None
    agent_templates: str | None
    config_type: int
    input_parameters: dict[str, Any] | None
    is_active: bool
    status: Status | None
    validation_status: int | None
    version: int
    proxy_pool_id: int | None
    space_id: int | None
    user_id: int | None
    created: Time | None
    updated: Time | None
    last_activity: Time | None


class VersionResponse(ResponseBody):
    """A version of an agent."""

    version: int
    user_name: str | None
    created: Time
    comments: str | None
    file_size: int


class RestoreBody(Body):
    """Body of a version's restore."""

    content: StrictStr | None = None


class BuilderStartBody(Body):
    """Body of an agent builder start, of either era."""

    mode: StrictStr | None = None
    url: StrictStr | None = None
    prompt: StrictStr | None = None
    space_id: Int32 | None = None


class FollowupBody(Body):
    """Body of a follow-up."""

    message: StrictStr | None = None


class FinishBody(Body):
    """Body of finish."""

    agent_name: StrictStr | None = None


class BuilderEnvelope(ResponseBody):
    """Response of the stateful builder's verbs."""

    success: bool
    error: str | None


class SessionEnvelope(BuilderEnvelope):
    """Response of the stateful builder's start."""

    session_id: str | None


class SessionId(ResponseBody):
    """Response of the single-shot builder's start."""

    session_id: str


class SessionStatusResponse(ResponseBody):
    """Status of a session of the stateful builder."""

    status: str | None
    last_event_index: int
    config_id: int | None
    agent_name: str | None
    error: str | None


class SingleShotStatusResponse(ResponseBody):
    """Status of a session of the single-shot builder."""

    status: str | None
    agent_id: int | None
    agent_name: str | None
    error: str | None
    agent_elapsed_seconds: float | None
    browser_io_seconds: float | None


class EventsResponse(ResponseBody):
    """A page of events; their fields depend on their type."""

    events: list[dict[str, Any]]
    last_event_index: int


class ConversationResponse(ResponseBody):
    """The messages of a session."""

    session_id: str | None
    config_id: int
    status: str | None
    total_message_count: int
    last_user_prompt: str | None
    message_history: str | None
    summarized_context: str | None
    updated: Time


class ProblemResponse(ResponseBody):
    """An error as RFC 7807 describes it."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
