"""The organisation's credits and API keys."""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import Literal

from airflow_provider_sequentum.sandbox.state import State, Transaction


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
        """Credit the organisation, or take credits away, down to none; answers the balance."""
        change = max(amount, -self.balance)
        self._book("Credit" if amount >= 0 else "Adjustment", change, moment)
        return self.balance

    def add_key(self, name: str, key: str | None = None) -> str:
        """Add an API key; answers it.

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
