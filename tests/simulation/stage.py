"""Attempts of several tasks at the same time, in virtual time: one acts, until it waits or another one gets ahead."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Mapping
from threading import Semaphore, Thread
from typing import TypeVar

from tests.support.service import Clock

A = TypeVar("A", bound=Hashable)

PAUSES = (0.0, 0.0, 0.0, 1.0, 5.0, 20.0)
"""Seconds that one of several attempts may take before a step, while the others go on."""


class Stage:
    """Where attempts act in turn, each in a thread of its own. Which is next is drawn, so that a seed is a history.

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
        self._turns: dict[int, Semaphore] = {}
        self._is_over = Semaphore(0)
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
        self._turns = {actor: Semaphore(0) for actor in works}
        threads = [Thread(target=self._perform, args=(actor, work)) for actor, (_, work) in works.items()]
        for thread in threads:
            thread.start()
        self._pass_on()
        self._is_over.acquire()
        for thread in threads:
            thread.join()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def pause(self, seconds: float) -> None:
        """Let time pass for the one whose turn it is: the others act meanwhile."""
        if len(self._wakes) < 2:
            self._clock.sleep(seconds)
            return
        actor = self.current
        self._wakes[actor] = self._clock.monotonic() + seconds
        self._pass_on()
        self._turns[actor].acquire()

    def step(self) -> None:
        """Let others get ahead, perhaps, of the one whose turn it is."""
        if len(self._wakes) > 1 and self._draw.random() < self._hesitation:
            self.pause(self._draw.choice(PAUSES))

    def _perform(self, actor: int, work: Callable[[], None]) -> None:
        self._turns[actor].acquire()
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised where the work was given out
            self._error = error
        del self._wakes[actor]
        self._pass_on()

    def _pass_on(self) -> None:
        if not self._wakes:
            self._is_over.release()
            return
        earliest = min(self._wakes.values())
        actor = self._draw.choice([actor for actor, wake in self._wakes.items() if wake == earliest])
        self._clock.sleep(max(earliest - self._clock.monotonic(), 0.0))
        self.take(actor)
        self._turns[actor].release()
