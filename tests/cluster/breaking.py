"""Kills parts of the installation, brings them back, and disturbs the service."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from functools import partial

import httpx

from tests.cluster.agenda import Agenda
from tests.cluster.plan import FAULTS, Death, Squall
from tests.cluster.service import SandboxService
from tests.system.harness import Cluster

AGAIN = 1.0
"""Seconds until something that cannot be done now is tried again."""


class Breaking:
    """
    Death, resurrection and bad weather.

    :param cluster: what is killed.
    :param service: what is killed and disturbed.
    """

    def __init__(self, cluster: Cluster, service: SandboxService) -> None:
        self._cluster = cluster
        self._service = service
        self.agenda = Agenda()
        self.deaths: Counter[str] = Counter()
        self.squalls: Counter[str] = Counter()
        self.collapses: Counter[str] = Counter()
        """Services that ended by themselves, for example because the database was gone, and were started again."""
        self._down: set[str] = set()
        self.agenda.add(time.monotonic(), self._look_after)

    def strike(self, death: Death) -> float | None:
        """Kill a process, unless it is dead already."""
        name = self._victim(death)
        if name in self._down:
            return AGAIN
        self._down.add(name)
        kill, revive = self._ways(name)
        kill()
        self.deaths[death.kind] += 1
        self.agenda.add(time.monotonic() + death.downtime, partial(self._revive, name, revive))
        return None

    def disturb(self, squall: Squall) -> float | None:
        """Let requests to the service fail."""
        try:
            self._service.add_fault(FAULTS[squall.kind])
        except httpx.TransportError:
            return AGAIN
        self.squalls[squall.kind] += 1
        return None

    def calm(self) -> bool:
        """Disturb no more; return whether everybody lives."""
        if self._down:
            return False
        self._service.clear_faults()
        return True

    def _victim(self, death: Death) -> str:
        kinds = {"worker": self._cluster.workers, "triggerer": self._cluster.triggerers}
        names = kinds.get(death.kind, [death.kind])
        return names[int(death.choice * len(names))]

    def _ways(self, name: str) -> tuple[Callable[[], None], Callable[[], None]]:
        """Return how to kill and how to revive a process."""
        if name == "postgres":
            return self._cluster.postgres.crash, self._cluster.postgres.recover
        if name == "sandbox":
            return self._service.kill, self._service.start
        return partial(self._cluster.kill, name), partial(self._cluster.start, name)

    def _revive(self, name: str, revive: Callable[[], None]) -> None:
        revive()
        self._down.discard(name)

    def _look_after(self) -> float:
        """Start again what ended by itself, as the machines of a real installation do."""
        for name in self._cluster.services:
            if name not in self._down and not self._cluster.is_running(name):
                self.collapses[name] += 1
                self._cluster.kill(name)  # what it forked may live on
                self._cluster.start(name)
        return AGAIN
