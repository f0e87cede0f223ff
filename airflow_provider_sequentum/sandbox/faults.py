"""Faults on request: what a network, a gateway or the service itself does to a response."""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections.abc import Callable, Collection
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

FaultKind = Literal[
    "status",
    "status_after",
    "reset_before",
    "reset_after",
    "delay",
    "late",
    "never",
    "truncated",
    "garbage",
    "html",
    "empty",
    "altered",
]
# Faults that leave the action undone.
BEFORE: frozenset[str] = frozenset({"status", "reset_before"})


class Fault(BaseModel):
    """A fault, the requests it applies to, and how often.

    ========================== ================================ ==========================================
    kind                       the action                       the client sees
    ========================== ================================ ==========================================
    ``status``                 is not done                      ``status`` with ``body`` or a problem
    ``status_after``           is done                          the same
    ``reset_before``           is not done                      a connection reset
    ``reset_after``            is done                          a connection reset
    ``delay``                  is done after ``delay`` seconds  its response, late
    ``late``                   is done at once                  its response after ``delay`` seconds
    ``never``                  is done                          no response, until it gives up
    ``truncated``              is done                          its response, cut off in the middle
    ``garbage``                is done                          its status with bytes that are no JSON
    ``html``                   is done                          its status with a page of HTML
    ``empty``                  is done                          its status without a body
    ``altered``                is done                          its response with other values in its JSON
    ========================== ================================ ==========================================
    """

    model_config = ConfigDict(extra="forbid")

    route: str = Field(
        description='Method and path, as "POST /agent/{agent_id}/start", "GET /agent/7/runs", "GET *" or "*". '
        "The path is without /api/v1; downloads from storage are under /storage."
    )
    fault: FaultKind = "status"
    status: int | None = Field(None, ge=200, le=599, description="For status and status_after; default 503.")
    body: str | None = Field(None, description="Body in place of the usual one.")
    headers: dict[str, str] = Field({}, description="Further headers of a response whose body is replaced.")
    delay: float = Field(0.0, ge=0, description="Real seconds to wait first, with any kind; with late, last.")
    after_bytes: int | None = Field(None, ge=0, description="Where to cut a truncated response; default half.")
    values: dict[str, Any] = Field(
        {}, description="For altered: new values of members, in every object of the response that has them."
    )
    raw_values: dict[str, str] = Field(
        {},
        description="The same as literal text, which need not be JSON, as NaN or a string with half an emoji.",
    )
    where: dict[str, Any] = Field({}, description='For altered: only objects with these members, as {"id": 42}.')
    prefix: str = Field("", description="For altered: text in front of the response, as a byte order mark.")
    times: int | None = Field(
        1, ge=1, description="How often it applies; null for always, which is the default with seconds."
    )
    seconds: float | None = Field(
        None, gt=0, description="For how many real seconds it applies, from its first time on."
    )
    probability: float = Field(1.0, gt=0, le=1, description="Chance to apply to a matching request (seeded).")

    _until: float | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _consistent(self) -> Fault:
        if self.status is not None and self.fault not in ("status", "status_after"):
            raise ValueError(f"a {self.fault!r} fault has no status of its own")
        if self.fault in ("delay", "late") and self.delay <= 0:
            raise ValueError(f"a {self.fault!r} fault needs a delay above 0")
        alterations = bool(self.values or self.raw_values or self.prefix)
        if alterations != (self.fault == "altered") or (self.where and not alterations):
            raise ValueError("values, raw_values, prefix and where are of an 'altered' fault, which needs one of them")
        if self.seconds is not None and "times" not in self.model_fields_set:
            self.times = None
        return self

    def matches(self, method: str, path: str) -> bool:
        """Whether the fault is meant for this request."""
        wanted, _, pattern = self.route.rpartition(" ")
        if wanted not in ("", "*", method):
            return False
        return re.fullmatch(_expression(pattern), path) is not None

    def apply_at(self, now: float) -> None:
        """Count one application at ``now``, a time of a monotonic clock."""
        if self.times is not None:
            self.times -= 1
        if self.seconds is not None and self._until is None:
            self._until = now + self.seconds

    def is_over(self, now: float) -> bool:
        """Whether it does not apply any more."""
        return self.times == 0 or (self._until is not None and self._until <= now)

    def alter(self, body: bytes) -> bytes:
        """The body of an ``altered`` response; one that is not JSON only gets the prefix."""
        prefix = self.prefix.encode("utf-8", "surrogatepass")
        try:
            content = json.loads(body)
        except ValueError:
            return prefix + body
        # Literal text cannot be a JSON value: marks stand for it until the rest is written.
        marks = {name: f"raw value {number} of a fault" for number, name in enumerate(self.raw_values)}
        _replace_members(content, {**self.values, **marks}, self.where)
        text = json.dumps(content)
        for name, mark in marks.items():
            text = text.replace(json.dumps(mark), self.raw_values[name])
        return prefix + text.encode("utf-8", "surrogatepass")


def _replace_members(content: Any, values: dict[str, Any], where: dict[str, Any]) -> None:
    if isinstance(content, list):
        for element in content:
            _replace_members(element, values, where)
    elif isinstance(content, dict):
        for element in content.values():
            _replace_members(element, values, where)
        if all(name in content and content[name] == value for name, value in where.items()):
            content.update({name: value for name, value in values.items() if name in content})


def _expression(pattern: str) -> str:
    """A path pattern as a regular expression: ``{name}`` is one segment, ``*`` anything."""
    parts = re.split(r"(\{\w+\}|\*)", pattern)
    return "".join(".*" if part == "*" else "[^/]+" if part.startswith("{") else re.escape(part) for part in parts)


class Faults:
    """The faults that were added and still apply.

    :param seed: seed of their chance.
    :param routes: every known ``METHOD path``, so that a fault for a route that does not exist is refused.
    :param monotonic: source of real seconds; replaced in tests.
    """

    def __init__(
        self, seed: int, routes: Collection[str] = (), monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._random = random.Random(seed)  # noqa: S311 - chance, not secrecy
        self._routes = routes
        self._monotonic = monotonic
        self._faults: list[Fault] = []
        self._lock = threading.Lock()  # the API and storage are served by threads of their own

    @property
    def waiting(self) -> list[Fault]:
        """The faults that still apply, in the order in which they were added."""
        now = self._monotonic()
        return [fault for fault in self._faults if not fault.is_over(now)]

    def add(self, fault: Fault) -> Fault:
        """Add a fault.

        :raises ValueError: when no route of the sandbox could ever match it.
        """
        if self._routes and not any(self._could_match(fault, route) for route in self._routes):
            raise ValueError(f"no route matches {fault.route!r}; the routes are: {', '.join(sorted(self._routes))}")
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """Remove all faults."""
        with self._lock:
            self._faults.clear()

    def take(self, method: str, path: str) -> Fault | None:
        """The first fault that applies to this request, used up by one."""
        now = self._monotonic()
        with self._lock:
            self._faults = [fault for fault in self._faults if not fault.is_over(now)]
            for fault in self._faults:
                if fault.matches(method, path) and self._random.random() < fault.probability:
                    fault.apply_at(now)
                    return fault
        return None

    @staticmethod
    def _could_match(fault: Fault, route: str) -> bool:
        method, _, template = route.partition(" ")
        wanted, _, literal = fault.route.rpartition(" ")
        if wanted not in ("", "*", method):
            return False
        return fault.matches(method, template) or re.fullmatch(_expression(template), literal) is not None
