"""What can be chosen about a sandbox: its limits, and the forms it answers in where the facts leave them open."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

API_PREFIX = "/api/v1"
ADMIN_PREFIX = "/sandbox"
STORAGE_PREFIX = "/storage"

BuilderEra = Literal["stateful", "single_shot"]


class Settings(BaseModel):
    """Limits and delays of a sandbox. Seconds are sandbox seconds unless said otherwise."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    rate_limit: int = Field(100, ge=1, description="Requests per window and key.")
    rate_window_seconds: float = Field(60.0, gt=0, description="Length of the window, in real seconds.")
    rate_queue: int = Field(10, ge=0, description="Requests held until the next window before 429 is answered.")
    rate_window: Literal["fixed", "sliding"] = Field("fixed", description="Whether the window moves with time.")
    builder_era: BuilderEra = Field("stateful", description="Which of the two documented builders to be.")
    builder_seconds: float = Field(4.0, ge=0, description="How long one turn of the agent builder takes.")
    long_poll_seconds: float = Field(10.0, ge=0, description="How long an events call is held when there is no news.")
    session_lifetime_seconds: float = Field(
        300.0, ge=0, description="After this, a single-shot session that has ended answers 404."
    )
    credits: float = Field(1000.0, ge=0, description="Credits the organisation starts with.")
    space_concurrency: int = Field(10, ge=1, description="Runs of one space that work at the same time.")
    archive_seconds: float = Field(3600.0, ge=0, description="After this, a Failure becomes Failed.")
    wait_on_failure_seconds: float = Field(5.0, ge=0, description="How long isWaitOnFailure keeps a run Waiting.")
    signed_url_seconds: float = Field(300.0, gt=0, description="Lifetime of a signed storage URL.")


class Dialect(BaseModel):
    """The forms the sandbox answers in, where sources disagree or are silent.

    A client that is right works with every value. The defaults are what the best evidence says.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    times: Literal["utc", "seven_digits", "mixed"] = Field(
        "mixed", description="With Z, or without offset and with seven fractional digits, or some of each."
    )
    statuses: Literal["integer", "numeric_string", "name"] = Field(
        "integer", description="How a run status is written."
    )
    paged_key: Literal["agents", "items"] = Field("agents", description="Key of the records in a page of agents.")
    start_code: Literal[200, 201, 202] = Field(202, description="HTTP status of an asynchronous start.")
    start_response: Literal["record", "run_id", "none"] = Field(
        "record", description="The run record, or {runId, status}, or an object with neither id."
    )
    restart_response: Literal["record", "run_id", "empty"] = Field(
        "record", description="Body of a restart's response."
    )
    restart_lag_seconds: float = Field(0.0, ge=0, description="How long the old Failure shows after a restart.")
    exclusive_conflict: Literal["wait", "queue", "refuse"] = Field(
        "wait", description="What becomes of a start while an exclusive run is active: Waiting, Queuing or 409."
    )
    synchronous_response: Literal["object", "array", "text"] = Field(
        "object", description="Keyed by agent name, or a bare array, or CSV text."
    )
    download: Literal[200, 301, 302, 303, 307, 308] = Field(
        302, description="Redirect code to storage, or 200 to answer with the file itself."
    )
    errors: Literal["rfc7807", "legacy_a", "legacy_b", "text", "html", "empty"] = Field(
        "rfc7807", description="Body of an error response."
    )
    retry_after: Literal["seconds", "date"] = Field("seconds", description="Form of the Retry-After header.")
    finish_id: Literal["agentId", "configId", "id", "none"] = Field(
        "agentId", description="Where the response to finish carries the new agent's id."
    )
    clock_skew_seconds: float = Field(
        0.0,
        ge=-1e9,
        le=1e9,
        description="How far the service's clock is ahead of the sandbox's: in its Date header, in all times it gives "
        "and in those it is given.",
    )
    date_header: bool = Field(True, description="Whether answers have a Date header.")
    content_encoding: Literal["identity", "gzip", "x-gzip", "zstd"] = Field(
        "identity", description="How storage keeps and serves files, whatever the request accepts."
    )
    file_size: Literal["content", "stored"] = Field(
        "content", description="Whether fileSize counts the bytes of the content, or those that storage keeps."
    )
    builder_phase: bool = Field(False, description='Add phase: "ready_to_finish" to the status of a ready session.')

    def time(self, moment: datetime | None, *, first: bool = False) -> str | None:
        """``moment`` of the sandbox's clock as text; ``first`` marks the fields that keep their offset when forms are
        mixed.
        """
        if moment is None:
            return None
        plain = self.by_service_clock(moment).astimezone(UTC).replace(tzinfo=None)
        if self.times == "utc" or (self.times == "mixed" and first):
            return plain.isoformat(timespec="milliseconds") + "Z"
        return plain.isoformat(timespec="microseconds") + "0"

    def http_date(self, moment: datetime) -> str:
        """``moment`` of the sandbox's clock as HTTP writes dates."""
        return format_datetime(self.by_service_clock(moment).astimezone(UTC), usegmt=True)

    def wait(self, seconds: float, now: datetime) -> str:
        """``seconds`` from ``now`` as the value of a ``Retry-After`` header."""
        whole = max(1, int(-(-seconds // 1)))
        return self.http_date(now + timedelta(seconds=whole)) if self.retry_after == "date" else str(whole)

    def by_service_clock(self, moment: datetime) -> datetime:
        """What the service's clock shows at ``moment`` of the sandbox's."""
        return moment + timedelta(seconds=self.clock_skew_seconds)

    def by_sandbox_clock(self, moment: datetime) -> datetime:
        """What the sandbox's clock shows at ``moment`` of the service's.

        :raises OverflowError: when no clock can show it.
        """
        return moment - timedelta(seconds=self.clock_skew_seconds)
