"""A small client of Airflow's own REST API, for both of its versions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import httpx
from tenacity import retry, retry_if_exception, stop_after_attempt, wait_fixed

# Which task it is and where in the code: known to whoever asks for a log.
LOG_CONTEXT = frozenset(
    {"dag_id", "run_id", "task_id", "ti_id", "map_index", "try_number", "logger", "filename", "lineno"}
)


# Seconds. An API server on a busy machine may be slow for long.
PATIENCE = 120.0


class AirflowApiError(Exception):
    """Airflow's API answered with an error."""

    def __init__(self, response: httpx.Response) -> None:
        self.status_code = response.status_code
        self.is_locked_database = response.status_code == 500 and "Database error" in response.text
        request = response.request
        super().__init__(f"{request.method} {request.url.path}: {response.status_code} {response.text[:2000]}")


@dataclass(frozen=True)
class DagRun:
    """One run of a DAG."""

    dag_id: str
    run_id: str
    state: str

    @property
    def path(self) -> str:
        """Where the API keeps it."""
        return f"/dags/{self.dag_id}/dagRuns/{self.run_id}"


@dataclass(frozen=True)
class TaskInstance:
    """One task of a DAG run, as Airflow reports it now."""

    task_id: str
    map_index: int
    state: str | None
    try_number: int
    details: dict[str, Any]

    @classmethod
    def parse(cls, answer: dict[str, Any]) -> TaskInstance:
        """Read a response of the API."""
        return cls(
            task_id=answer["task_id"],
            map_index=answer["map_index"],
            state=answer["state"],
            try_number=answer["try_number"],
            details=answer,
        )


class AirflowClient:
    """Sends requests below ``/api/v2`` (Airflow 3) or ``/api/v1`` (Airflow 2).

    :param url: Where the API server listens.
    :param major: Airflow's major version.
    :param patience: Seconds a response is waited for.
    """

    def __init__(self, url: str, *, major: int, patience: float = PATIENCE) -> None:
        self.major = major
        self._http = httpx.Client(base_url=url, timeout=patience, trust_env=False)
        self._prefix = "/api/v2" if major >= 3 else "/api/v1"
        self._authenticated = major < 3

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def authenticate(self, token: str) -> None:
        """Send a user's token from now on, where not every caller is an administrator."""
        self._http.headers["Authorization"] = f"Bearer {token}"
        self._authenticated = True

    def get(self, path: str, **query: Any) -> Any:
        """Send a GET request and return the decoded answer."""
        return self.send("GET", path, params=query)

    def post(self, path: str, body: Any) -> Any:
        """Send a POST request and return the decoded answer."""
        return self.send("POST", path, json=body)

    def patch(self, path: str, body: Any, **query: Any) -> Any:
        """Send a PATCH request and return the decoded answer."""
        return self.send("PATCH", path, json=body, params=query)

    @retry(
        retry=retry_if_exception(lambda error: isinstance(error, AirflowApiError) and error.is_locked_database),
        wait=wait_fixed(1),
        stop=stop_after_attempt(10),
        reraise=True,
    )
    def send(self, method: str, path: str, **kwargs: Any) -> Any:
        """Send a request; raise :class:`AirflowApiError` for every response but a 2xx.

        A statement that SQLite did not take, because another service held its lock, was rolled back: it is sent again.
        """
        self._authenticate()
        response = self._http.request(method, self._prefix + path, **kwargs)
        if not response.is_success:
            raise AirflowApiError(response)
        if response.content and response.headers.get("content-type", "").startswith("application/json"):
            return response.json()
        return response.text

    def health(self) -> dict[str, str | None]:
        """Return the state of each component by its name; empty while the server does not answer."""
        path = "/api/v2/monitor/health" if self.major >= 3 else "/health"
        try:
            response = self._http.get(path)
        except httpx.TransportError:
            return {}
        if not response.is_success:
            return {}
        return {name: component["status"] for name, component in response.json().items()}

    def warm_up(self) -> None:
        """Let the server prepare what the first task would wait for.

        Airflow 3 builds the API of its workers on the first request to it, which takes seconds in which the server
        answers no one.
        """
        if self.major >= 3:
            self._http.get("/execution/health", timeout=PATIENCE)

    def log(self, run: DagRun, task_id: str, try_number: int, map_index: int) -> str:
        """Return a task's log as text: messages with their fields, errors without their frames."""
        answer = self.send(
            "GET",
            f"{run.path}/taskInstances/{task_id}/logs/{try_number}",
            params={"full_content": True, "map_index": map_index},
            headers={"Accept": "application/json"},
        )
        content = answer["content"]
        if isinstance(content, str):
            return content
        return "\n".join(_as_line(message) for message in content)

    def _authenticate(self) -> None:
        if self._authenticated:
            return
        response = self._http.get("/auth/token")
        if not response.is_success:
            raise AirflowApiError(response)
        self.authenticate(response.json()["access_token"])


def _as_line(message: str | dict[str, Any]) -> str:
    if isinstance(message, str):
        return message
    fields = {name: value for name, value in message.items() if name not in LOG_CONTEXT and value}
    words = [str(fields.pop(name)) for name in ("timestamp", "level", "event") if name in fields]
    errors = [f"\n  {error['exc_type']}: {error['exc_value']}" for error in fields.pop("error_detail", [])]
    return " ".join(
        [*words, *(f"{name}={json.dumps(value, default=str)}" for name, value in fields.items())]
    ) + "".join(errors)
