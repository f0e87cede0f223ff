"""What ``make build`` left in ``dist/``, and an environment that holds nothing but its wheel and what that asks for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.metadata import Metadata

if TYPE_CHECKING:
    from collections.abc import Callable

CHECKOUT = Path(__file__).parents[2]
DIST = CHECKOUT / "dist"
LOCK = CHECKOUT / "requirements" / "airflow-3.3.txt"


@pytest.fixture(scope="session")
def wheel() -> Path:
    return _only("*.whl")


@pytest.fixture(scope="session")
def sdist() -> Path:
    return _only("*.tar.gz")


@pytest.fixture(scope="session")
def sources() -> list[Path]:
    """The files of the checkout that belong to the project, relative to it."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in names.split("\0") if name and (CHECKOUT / name).is_file()]


@pytest.fixture(scope="session")
def metadata(wheel: Path) -> Metadata:
    import zipfile

    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Metadata.from_email(archive.read(name))


@pytest.fixture(scope="session")
def install(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Install the wheel with an extra, or without, into a new environment; returns the folder of its commands.

    Only what the package declares is installed; the lock says no more than in which version.
    """

    def into_new_environment(extra: str) -> Path:
        folder = tmp_path_factory.mktemp("environment") / "venv"
        python = folder / "bin" / "python"
        requirement = f"airflow-provider-sequentum[{extra}] @ {wheel.as_uri()}"
        _uv("venv", "--python", sys.executable, str(folder))
        _uv("pip", "install", "--system-certs", "--python", str(python), "--constraint", str(LOCK), requirement)
        return folder / "bin"

    return into_new_environment


@pytest.fixture(scope="session")
def bare(install: Callable[[str], Path]) -> Path:
    """The commands of an environment with the wheel and its dependencies."""
    return install("")


def _uv(*arguments: str) -> None:
    subprocess.run([Path(sys.executable).with_name("uv"), *arguments, "--quiet"], check=True)


def _only(pattern: str) -> Path:
    found = list(DIST.glob(pattern))
    assert len(found) == 1, f"make build leaves one {pattern} in {DIST}, there is {found}"
    return found[0]
