"""Attempts of several tasks at the same time, in virtual time: one acts, until it waits or another one gets ahead."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import partial

from greenlet import getcurrent, greenlet

from tests.support.service import Clock

PAUSES = (0.0, 0.0, 0.0, 1.0, 5.0, 20.0)
"""Seconds that one of several attempts may take before a step, while the others go on."""


class Stage:
    """Where attempts act in turn, each in a greenlet, since it waits amid synchronous code. Which is next is drawn, so
    that a seed is a history.

    :param clock: the time of them all. It passes while all of them wait.
    :param draw: draws who is ahead.
    :param on_turn: is called with the one whose turn it is from now on.
    :param hesitation: how often one lets others get ahead before a step.
    """

    def __init__(self, clock: Clock, draw: random.Random, on_turn: Callable[[int], None], hesitation: float) -> None:
        self.current = 0
        self._clock = clock
        self._draw = draw
        self._on_turn = on_turn
        self._hesitation = hesitation
        self._wakes: dict[int, float] = {}
        self._director = getcurrent()
        self._error: BaseException | None = None

    def take(self, actor: int) -> None:
        """Give someone the stage."""
        self.current = actor
        self._on_turn(actor)

    def act(self, works: Mapping[int, tuple[float, Callable[[], None]]]) -> None:
        """Let some act at the same time, until all have ended.

        :param works: for each after how many seconds it enters, and what it does.
        :raises BaseException: what one of them raised.
        """
        now = self._clock.monotonic()
        self._wakes = {actor: now + delay for actor, (delay, _) in works.items()}
        self._director = getcurrent()
        actors = {actor: greenlet(partial(self._perform, actor, work)) for actor, (_, work) in works.items()}
        while self._wakes:
            actors[self._next()].switch()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def pause(self, seconds: float) -> None:
        """Let time pass for the one whose turn it is: the others act meanwhile."""
        if len(self._wakes) < 2:
            self._clock.sleep(seconds)
            return
        self._wakes[self.current] = self._clock.monotonic() + seconds
        self._director.switch()

    def step(self) -> None:
        """Let others get ahead, perhaps, of the one whose turn it is."""
        if len(self._wakes) > 1 and self._draw.random() < self._hesitation:
            self.pause(self._draw.choice(PAUSES))

    def _perform(self, actor: int, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised where the work was given out
            self._error = error
        del self._wakes[actor]

    def _next(self) -> int:
        """Let the one act whose time comes first; one of several is drawn."""
        earliest = min(self._wakes.values())
        actor = self._draw.choice([actor for actor, wake in self._wakes.items() if wake == earliest])
        self._clock.sleep(max(earliest - self._clock.monotonic(), 0.0))
        self.take(actor)
        return actor
