"""One Airflow and one browser for all of these tests. Without a browser they fail: who runs them wants to know."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.system.browser import Browser, missing_browser
from tests.ui.scene import Scene

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    if missing := missing_browser():
        pytest.fail(f"{missing}. To install: apt-get install chromium chromium-driver", pytrace=False)
    with Scene(tmp_path_factory.mktemp("scene")) as running:
        yield running


@pytest.fixture(scope="session")
def browser(scene: Scene) -> Iterator[Browser]:
    with Browser() as window:
        yield window
