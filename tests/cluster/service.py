"""The service under test conditions: a sandbox in a process of its own, which can die and come back."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from airflow_provider_sequentum.sandbox.ledger import ActualRun, Effect, Leak, RequestEntry
from tests.system.harness.service import Service, free_port, stop_all
from tests.system.stage import CHECKOUT

BOOT_TIMEOUT = 60.0
PATIENCE = 20.0


class SandboxService:
    """A sandbox that keeps its state in a file, and its admin API as methods.

    :param folder: where its state, its log and its keys are.
    :param api_key: its first key.
    :param record: the file in which what is asked of it is written down, see :mod:`.recorded_sandbox`.
    """

    def __init__(self, folder: Path, api_key: str, record: Path | None = None) -> None:
        folder.mkdir(parents=True)
        self._ready = folder / "ready.json"
        plain = [str(Path(sys.executable).parent / "sequentum-sandbox")]
        command = [
            *(plain if record is None else [sys.executable, "-m", "tests.cluster.recorded_sandbox", str(record)]),
            *("--port", str(free_port()), "--storage-port", str(free_port()), "--no-sample-agents"),
            *("--space-concurrency", "1000", "--credits", "1000000"),
            *("--state-file", str(folder / "state.json"), "--ready-file", str(self._ready)),
        ]
        environment = {**os.environ, "SEQUENTUM_SANDBOX_API_KEY": api_key, "PYTHONPATH": str(CHECKOUT)}
        self.service = Service("sandbox", command, log_folder=folder, environment=environment)
        self.base_url = ""
        self.storage_url = ""

    def start(self) -> None:
        """Start it, again after a death, and return once it serves."""
        self._ready.unlink(missing_ok=True)
        self.service.start()
        deadline = time.monotonic() + BOOT_TIMEOUT
        while not self._ready.exists():
            self.service.raise_if_dead()
            if time.monotonic() > deadline:
                raise TimeoutError(f"The sandbox does not serve: {self.service.log_path}")
            time.sleep(0.05)
        described = json.loads(self._ready.read_text())
        self.base_url, self.storage_url = described["base_url"], described["storage_url"]

    def kill(self) -> None:
        """End it as a crash does."""
        self.service.kill()

    def stop(self) -> None:
        """End it."""
        stop_all([self.service])

    # The admin API

    def add_key(self, name: str) -> str:
        """Add a key, with a request budget of its own, and return it."""
        key: str = self._admin("POST", "/api-keys", {"name": name})["api_key"]
        return key

    def add_agent(self, name: str, duration: float, rows: int, plans: list[dict[str, Any]]) -> int:
        """Add an agent that delivers so many rows, with the plans of its first runs; return its id."""
        records = [{"number": number, "job": name} for number in range(rows)]
        agent_id: int = self._admin("POST", "/agents", {"name": name, "duration": duration, "records": records})["id"]
        if plans:
            self._admin("POST", f"/agents/{agent_id}/plans", plans)
        return agent_id

    def add_fault(self, fault: dict[str, Any]) -> None:
        """Let requests fail."""
        self._admin("POST", "/faults", fault)

    def clear_faults(self) -> None:
        """Remove all faults."""
        self._admin("DELETE", "/faults")

    def archive(self, agent_id: int, run_id: int) -> None:
        """Make a Failure run Failed."""
        self._admin("POST", f"/agents/{agent_id}/runs/{run_id}/archive")

    def runs(self, agent_id: int | None = None) -> list[ActualRun]:
        """Return the runs as they really are."""
        query = {} if agent_id is None else {"agent_id": agent_id}
        return [ActualRun.model_validate(run) for run in self._admin("GET", "/ledger/runs", params=query)]

    def effects(self) -> list[Effect]:
        """Return all that requests brought about."""
        return [Effect.model_validate(effect) for effect in self._admin("GET", "/ledger/effects")]

    def leaks(self) -> list[Leak]:
        """Return the keys that reached storage."""
        return [Leak.model_validate(leak) for leak in self._admin("GET", "/ledger/leaks")]

    def requests(self) -> list[RequestEntry]:
        """Return the requests it has had."""
        return [RequestEntry.model_validate(request) for request in self._admin("GET", "/ledger/requests")]

    def _admin(self, method: str, path: str, body: Any = None, params: dict[str, Any] | None = None) -> Any:
        url = f"{self.base_url}/sandbox{path}"
        response = httpx.request(method, url, json=body, params=params, timeout=PATIENCE, trust_env=False)
        response.raise_for_status()
        return response.json() if response.content else None


class DashboardUser:
    """Who uses the service's own pages: their requests are the service's API, with a key of their own."""

    def __init__(self, service: SandboxService, api_key: str) -> None:
        self._service = service
        self._headers = {"Authorization": f"ApiKey {api_key}"}

    def act(self, verb: str, agent_id: int, run_id: int) -> None:
        """Stop or restart a run."""
        url = f"{self._service.base_url}/api/v1/agent/{agent_id}/run/{run_id}/{verb}"
        httpx.post(url, headers=self._headers, timeout=PATIENCE, trust_env=False).raise_for_status()

    def look(self, agent_id: int, run_id: int) -> None:
        """Look at a run. Beyond a hundred runs a minute, the service holds a look for up to a minute."""
        url = f"{self._service.base_url}/api/v1/agent/{agent_id}/run/{run_id}/status"
        httpx.get(url, headers=self._headers, timeout=6 * PATIENCE, trust_env=False).raise_for_status()
