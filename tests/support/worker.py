"""Carries out procedures against the fake service, and can be killed between any two of their steps."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.lifecycle.procedure import (
    Now,
    Procedure,
    Remember,
    Say,
    Send,
    Sleep,
    Step,
    TellSiblingsRuns,
)
from tests.support.service import FakeService

T = TypeVar("T")


class Killed(BaseException):
    """The worker process died. A ``BaseException``, because nothing gets a chance to handle a SIGKILL."""


@dataclass
class Worker:
    """
    A driver like the real ones.

    :param service: answers its calls and has its clock.
    :param steps_left: it dies before it takes a further step.
    """

    service: FakeService
    steps_left: int | None = None
    said: list[str] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)
    """What of it was said as a warning."""
    sent: list[tuple[datetime, Send]] = field(default_factory=list)
    """Its calls, and when each was sent."""
    kept: list[dict[str, Any] | None] = field(default_factory=list)

    @property
    def record(self) -> dict[str, Any] | None:
        """What was kept last."""
        return self.kept[-1] if self.kept else None

    def perform(
        self,
        procedure: Procedure[T],
        remember: Callable[[dict[str, Any] | None], None] | None = None,
        siblings: Callable[[], frozenset[int]] | None = None,
    ) -> T:
        try:
            step = next(procedure)
            while True:
                self._live()
                try:
                    result = self._take(step, remember or self.kept.append, siblings)
                except SequentumError as error:
                    step = procedure.throw(error)
                else:
                    step = procedure.send(result)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    def _live(self) -> None:
        if self.steps_left is not None:
            if self.steps_left <= 0:
                raise Killed
            self.steps_left -= 1

    def _take(
        self,
        step: Step,
        remember: Callable[[dict[str, Any] | None], None],
        siblings: Callable[[], frozenset[int]] | None,
    ) -> Any:
        match step:
            case Send(call):
                self.sent.append((self.service.clock.now, step))
                return self.service.answer(call)
            case Sleep(seconds):
                self.service.clock.sleep(seconds)
            case Now():
                return self.service.clock.now
            case Remember(record):
                remember(record)
            case TellSiblingsRuns():
                return siblings() if siblings is not None else frozenset()
            case Say(level, message):
                self.said.append(message)
                if level == logging.WARNING:
                    self.warned.append(message)
        return None
