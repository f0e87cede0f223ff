"""Everything a sandbox remembers, its credits and keys, and the file it can be kept in."""

from __future__ import annotations

import os
import secrets
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from airflow_provider_sequentum.sandbox.agents import Agent
from airflow_provider_sequentum.sandbox.data_sets import Record
from airflow_provider_sequentum.sandbox.ledger import Ledger
from airflow_provider_sequentum.sandbox.runs import Run
from airflow_provider_sequentum.sandbox.schedules import Schedule
from airflow_provider_sequentum.sandbox.sessions import Session

ORGANIZATION_ID, ORGANIZATION_NAME = 1, "Sandbox"
DEFAULT_SPACE_ID = 1


class Space(BaseModel):
    """A space: a group of agents with one concurrency limit."""

    id: int
    name: str
    created: datetime
    scope: Literal["Private", "Public", "Global"] = "Public"


class Transaction(BaseModel):
    """A movement of credits."""

    id: int
    transaction_type: Literal["Initial", "Credit", "Debit", "Adjustment"]
    amount: float
    balance: float
    created: datetime
    message: str | None = None
    agent_id: int | None = None
    run_id: int | None = None


class InputFile(BaseModel):
    """A file that was uploaded to a space as input."""

    space_id: int
    name: str
    size: int
    sha256: str
    uploaded: datetime


class State(BaseModel):
    """The memory of a sandbox."""

    clock_ahead: timedelta = timedelta(0)
    """How far the sandbox's clock is ahead of the machine's."""
    settled: datetime
    """Up to here, slots were given and schedules fired."""
    keys: dict[str, str] = {}
    """API keys by name."""
    signing_secret: str
    agents: dict[int, Agent] = {}
    runs: dict[int, Run] = {}
    deleted_runs: dict[int, Run] = {}
    sessions: dict[str, Session] = {}
    schedules: dict[int, Schedule] = {}
    spaces: dict[int, Space]
    transactions: list[Transaction] = []
    input_files: list[InputFile] = []
    data_sets: dict[str, list[Record]] = {}
    ledger: Ledger = Field(default_factory=Ledger)
    # Run ids are int64 on the wire: these exceed 32 bits, to expose a client that assumes less.
    next_agent_id: int = 1001
    next_run_id: int = 9_000_000_001
    next_schedule_id: int = 5_000_000_001

    @property
    def balance(self) -> float:
        """Credits left."""
        return self.transactions[-1].balance if self.transactions else 0.0

    def add_space(self, name: str, created: datetime) -> Space:
        """Add a space."""
        space = Space(id=max(self.spaces) + 1, name=name, created=created)
        self.spaces[space.id] = space
        return space

    def save(self, path: Path, now: datetime) -> None:
        """Write the state to a file that only its owner can read; a crash leaves the old file or the new one."""
        self.clock_ahead = now - datetime.now(UTC)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(self.model_dump_json())
        Path(temporary).replace(path)


class Account:
    """Credits and keys in a sandbox's memory. Its caller holds the engine's lock.

    :param state: the memory.
    """

    def __init__(self, state: State) -> None:
        self._state = state

    @property
    def balance(self) -> float:
        """Credits left."""
        return self._state.balance

    def charge(self, price: float, moment: datetime, *, agent_id: int, run_id: int) -> None:
        """Pay for a run, as far as there are credits."""
        paid = min(price, self.balance)
        if paid > 0:
            self._book("Debit", -paid, moment, f"Run {run_id}", agent_id, run_id)

    def add(self, amount: float, moment: datetime) -> float:
        """Credit the organisation, or take credits away, down to none; returns the balance."""
        change = max(amount, -self.balance)
        self._book("Credit" if amount >= 0 else "Adjustment", change, moment)
        return self.balance

    def add_key(self, name: str, key: str | None = None) -> str:
        """Add an API key; returns it.

        :raises ValueError: when the name is taken.
        """
        if name in self._state.keys:
            raise ValueError(f"there is already a key named {name!r}")
        self._state.keys[name] = key or "sk-sandbox-" + secrets.token_urlsafe(24)
        return self._state.keys[name]

    def key_name(self, key: str) -> str | None:
        """Name of a key, or ``None`` when it is not known."""
        for name, known in tuple(self._state.keys.items()):
            if secrets.compare_digest(known.encode(), key.encode()):
                return name
        return None

    def _book(
        self,
        kind: Literal["Credit", "Debit", "Adjustment"],
        amount: float,
        moment: datetime,
        message: str | None = None,
        agent_id: int | None = None,
        run_id: int | None = None,
    ) -> None:
        self._state.transactions.append(
            Transaction(
                id=len(self._state.transactions) + 1,
                transaction_type=kind,
                amount=amount,
                balance=self.balance + amount,
                created=moment,
                message=message,
                agent_id=agent_id,
                run_id=run_id,
            )
        )


def load_state(path: Path) -> State:
    """Read a state file.

    :raises ValueError: when the file is not one that a sandbox of this version wrote.
    """
    try:
        return State.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path} is not a state file of this sandbox: {error.errors()[0]['msg']}") from error
