"""What Airflow's own timing asks of a trigger."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import datetime, timedelta
from typing import TypeVar

T = TypeVar("T")

SHORTEST_TRIGGER_LIFE = 10.0
"""
Seconds before a trigger may fire. Airflow fails a task whose trigger fires while the scheduler has not yet taken in
that the task was deferred (apache/airflow #66374, #71580); with 8 seconds and more it was not seen to happen.
"""

BACKSTOP = timedelta(minutes=2)
"""How long after a trigger's own deadline Airflow's deferral timeout follows: no triggerer may be there to notice."""


async def not_too_soon(waiting: Awaitable[T]) -> T:
    """Return what is waited for, but not before :data:`SHORTEST_TRIGGER_LIFE` is over."""
    clock = asyncio.get_running_loop().time
    begun = clock()
    result = await waiting
    await asyncio.sleep(begun + SHORTEST_TRIGGER_LIFE - clock())
    return result


def deferral_timeout(deadline: datetime | None, now: datetime) -> timedelta | None:
    """Return the timeout to defer with: a backstop behind the trigger's own deadline, if it has one."""
    return None if deadline is None else max(deadline - now, timedelta()) + BACKSTOP
