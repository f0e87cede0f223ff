"""Faults on request: what a network, a gateway or a tired server does to an answer."""

from __future__ import annotations

import random
import re
from collections.abc import Collection
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

FaultKind = Literal[
    "status", "status_after", "reset_before", "reset_after", "delay", "truncated", "garbage", "html", "empty"
]
#: Faults that leave the action undone.
BEFORE: frozenset[str] = frozenset({"status", "reset_before"})


class Fault(BaseModel):
    """A fault, the requests it strikes, and how often.

    ========================== ================================ =====================================
    kind                       the action                       the client sees
    ========================== ================================ =====================================
    ``status``                 is not done                      ``status`` with ``body`` or a problem
    ``status_after``           is done                          the same
    ``reset_before``           is not done                      a connection reset
    ``reset_after``            is done                          a connection reset
    ``delay``                  is done after ``delay`` seconds  its answer, late
    ``truncated``              is done                          its answer, cut off in the middle
    ``garbage``                is done                          its status with bytes that mean nothing
    ``html``                   is done                          its status with a page of HTML
    ``empty``                  is done                          its status without a body
    ========================== ================================ =====================================
    """

    model_config = ConfigDict(extra="forbid")

    route: str = Field(
        description='Method and path, as "POST /agent/{agent_id}/start", "GET /agent/7/runs", "GET *" or "*". '
        "The path is without /api/v1; downloads from storage are under /storage."
    )
    fault: FaultKind = "status"
    status: int | None = Field(None, ge=200, le=599, description="For status and status_after; default 503.")
    body: str | None = Field(None, description="Body in place of the usual one.")
    headers: dict[str, str] = Field({}, description="Further headers of a status fault.")
    delay: float = Field(0.0, ge=0, description="Real seconds to wait first, with any kind.")
    after_bytes: int | None = Field(None, ge=0, description="Where to cut a truncated answer; default half.")
    times: int | None = Field(1, ge=1, description="How often it strikes; null for always.")
    probability: float = Field(1.0, gt=0, le=1, description="Chance to strike a matching request (seeded).")

    @model_validator(mode="after")
    def _consistent(self) -> Fault:
        if self.status is not None and self.fault not in ("status", "status_after"):
            raise ValueError(f"a {self.fault!r} fault has no status of its own")
        if self.fault == "delay" and self.delay <= 0:
            raise ValueError("a 'delay' fault needs a delay above 0")
        return self

    def matches(self, method: str, path: str) -> bool:
        """Whether the fault is meant for this request."""
        wanted, _, pattern = self.route.rpartition(" ")
        if wanted not in ("", "*", method):
            return False
        return re.fullmatch(_expression(pattern), path) is not None


def _expression(pattern: str) -> str:
    """A path pattern as a regular expression: ``{name}`` is one segment, ``*`` anything."""
    parts = re.split(r"(\{\w+\}|\*)", pattern)
    return "".join(".*" if part == "*" else "[^/]+" if part.startswith("{") else re.escape(part) for part in parts)


class Faults:
    """The faults that are waiting to strike.

    :param routes: every known ``METHOD path``, so that a fault for a route that does not exist is refused.
    """

    def __init__(self, seed: int, routes: Collection[str] = ()) -> None:
        self._random = random.Random(seed)  # noqa: S311 - chance, not secrecy
        self.routes = routes
        self.waiting: list[Fault] = []

    def add(self, fault: Fault) -> Fault:
        """Arm a fault.

        :raises ValueError: when no route of the sandbox could ever match it.
        """
        if self.routes and not any(self._could_match(fault, route) for route in self.routes):
            raise ValueError(f"no route matches {fault.route!r}; the routes are: {', '.join(sorted(self.routes))}")
        self.waiting.append(fault)
        return fault

    def clear(self) -> None:
        """Disarm all faults."""
        self.waiting.clear()

    def take(self, method: str, path: str) -> Fault | None:
        """The first fault that strikes this request, used up by one."""
        for fault in self.waiting:
            if fault.matches(method, path) and self._random.random() < fault.probability:
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times == 0:
                        self.waiting.remove(fault)
                return fault
        return None

    @staticmethod
    def _could_match(fault: Fault, route: str) -> bool:
        method, _, template = route.partition(" ")
        wanted, _, literal = fault.route.rpartition(" ")
        if wanted not in ("", "*", method):
            return False
        return fault.matches(method, template) or re.fullmatch(_expression(template), literal) is not None
