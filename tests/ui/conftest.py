"""One Airflow and one browser for all of these tests. Without a browser they fail: who runs them wants to know."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.system.browser import Browser, missing_browser
from tests.ui.scene import Scene

if TYPE_CHECKING:
    from collections.abc import Iterator


CHECKOUT = Path(__file__).parents[2]
AXE = CHECKOUT / "build" / "axe" / "axe_playwright_python" / "axe.min.js"


@pytest.fixture(scope="session", autouse=True)
def installed() -> None:
    if missing := missing_browser():
        pytest.fail(f"{missing}. To install: apt-get install chromium chromium-driver", pytrace=False)


@pytest.fixture(scope="session")
def scene(installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    # With a path prefix, since what works below one works without it too.
    with Scene(tmp_path_factory.mktemp("scene"), base_path="/air") as running:
        yield running


@pytest.fixture(scope="session")
def axe() -> str:
    """The accessibility checker, as a script."""
    if not AXE.exists():
        pytest.fail(f"{AXE} is missing. To fetch it: make {AXE.relative_to(CHECKOUT)}", pytrace=False)
    return AXE.read_text()


@pytest.fixture(scope="session")
def browser(installed: None) -> Iterator[Browser]:
    with Browser() as window:
        yield window
