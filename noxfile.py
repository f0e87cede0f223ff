"""The tests on every Airflow and Python that are supported: ``make matrix``, or one pair of them by its name.

An environment is installed from the lock of its Airflow, so a pair means the same packages on every machine. A Python
that is not there is not fetched: its pairs are reported as skipped, and fail where ``CI`` is set.
"""

from __future__ import annotations

import nox

nox.options.default_venv_backend = "uv"
nox.options.download_python = "never"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["tests"]

PYTHONS = {
    "3.3": ("3.11", "3.12", "3.13", "3.14"),
    "3.2": ("3.11", "3.12", "3.13", "3.14"),
    "3.1": ("3.11", "3.12", "3.13"),
    "3.0": ("3.11", "3.12"),
    "2.11": ("3.11", "3.12"),
}
"""The Pythons that an Airflow supports, from the oldest that this package does."""
PAIRS = [
    nox.param(python, airflow, id=f"airflow-{airflow}-python-{python}")
    for airflow, pythons in PYTHONS.items()
    for python in pythons
]
QUICKSTART = "tests/system/test_quickstart.py"
"""A DAG from end to end on a real scheduler and triggerer: what the other tests cannot see breaks here."""
UI = [nox.param(airflow, id=f"airflow-{airflow}") for airflow in ("3.3", "3.2", "3.1")]
"""The Airflows whose UI the provider adds something to."""


@nox.session
@nox.parametrize("python,airflow", PAIRS)
def tests(session: nox.Session, airflow: str) -> None:
    """Run unit tests, integration tests and the quickstart; arguments after ``--`` take the place of all three."""
    _install(session, f"airflow-{airflow}")
    if session.posargs:
        session.run("pytest", *session.posargs)
        return
    session.run("pytest", "-q", "-m", "not slow", "-n", "auto", "tests/unit", "tests/integration")
    session.run("pytest", "-q", QUICKSTART)


@nox.session
@nox.parametrize("airflow", UI)
def ui(session: nox.Session, airflow: str) -> None:
    """Run the tests in a browser, on the Python that runs nox. Their environment has the FAB auth manager too."""
    _install(session, f"airflow-{airflow}", f"fab-{airflow}")
    session.run("pytest", "-s", *(session.posargs or ("tests/ui",)))


def _install(session: nox.Session, *locks: str) -> None:
    """Install the packages of some locks, and this one."""
    install = ("uv", "pip", "install", "--system-certs", "--quiet", "--no-deps")
    for lock in locks:
        session.run_install(*install, "--require-hashes", "--requirement", f"requirements/{lock}.txt")
    session.run_install(*install, "--no-build-isolation", "--editable", ".")
    session.run("uv", "pip", "check")
