"""A worker that dies at a step: in the middle of real requests, of what is stored and of what is pushed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from airflow_provider_sequentum.api.client import SequentumClient
from tests.support.airflow import FakeTaskInstance, StateStore
from tests.support.worker import Killed

STEPS = ((SequentumClient, "exchange"), (StateStore, "set"), (StateStore, "delete"), (FakeTaskInstance, "xcom_push"))


@dataclass
class Mortal:
    """Counts the steps of a task, before each request and each value stored, and ends it at one of them.

    :param steps_left: it dies before the step after so many; ``None`` lets it live.
    """

    steps_left: int | None = None
    dies_after_requests: bool = False
    """Whether the moment after a request is a step too: only for a task whose last step is one."""

    def step(self) -> None:
        if self.steps_left is None:
            return
        if self.steps_left == 0:
            raise Killed
        self.steps_left -= 1

    def outlives(self, steps: int, action: Callable[[], Any]) -> bool:
        """Return whether ``action`` needs no more than so many steps; it dies at the next one otherwise."""
        self.steps_left = steps
        try:
            action()
        except Killed:
            return False
        finally:
            self.steps_left = None
        return True


@pytest.fixture
def mortal(monkeypatch: pytest.MonkeyPatch) -> Mortal:
    mortal, exchange = Mortal(), SequentumClient.exchange

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*args: Any, **kwargs: Any) -> Any:
            mortal.step()
            result = function(*args, **kwargs)
            if mortal.dies_after_requests and function is exchange:
                mortal.step()
            return result

        return stepped

    for owner, name in STEPS:
        monkeypatch.setattr(owner, name, dying(getattr(owner, name)))
    return mortal
