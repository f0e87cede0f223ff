from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.unit.api.support import Driver


@pytest.fixture(params=["sync", "async"])
def driver(request: pytest.FixtureRequest) -> Callable[..., Driver]:
    """A maker of clients with scripted servers, once with the blocking and once with the asynchronous driver."""
    return lambda *replies, **settings: Driver(request.param, replies, **settings)
