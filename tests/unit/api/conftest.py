from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings

from tests.unit.api.support import Driver

# pytest --hypothesis-profile=thorough: what a release is tested with.
settings.register_profile("thorough", max_examples=10_000, deadline=None)


@pytest.fixture(params=["sync", "async"])
def driver(request: pytest.FixtureRequest) -> Callable[..., Driver]:
    """A maker of clients with scripted servers, once with the blocking and once with the asynchronous driver."""
    return lambda *replies, **settings: Driver(request.param, replies, **settings)
