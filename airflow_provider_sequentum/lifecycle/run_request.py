"""What a task asks a run for."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_sequentum.api import Call
    from airflow_provider_sequentum.api.runs import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """
    A run to be started. Only what is set is sent; the rest is the agent's or the service's default.

    The fields are those of https://docs.sequentum.com/api-reference/agents/start-run;
    ``input_parameters`` is already the JSON text of an object.
    """

    agent_id: int
    input_parameters: str | None = None
    parallelism: int | None = None
    parallel_max_concurrency: int | None = None
    parallel_export: str | None = None
    proxy_pool_id: int | None = None
    is_exclusive: bool | None = None
    is_wait_on_failure: bool | None = None
    log_level: str | None = None
    log_mode: str | None = None

    def call(self) -> Call[Run]:
        """Return the call that starts the run. It is not safe to repeat: each one is a billed run."""
        from airflow_provider_sequentum.api import runs

        options = asdict(self)
        return runs.start(options.pop("agent_id"), **options)

    def fingerprint(self) -> str:
        """Return a digest of everything that makes this piece of work what it is."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
