"""The documentation names what there is."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException

from airflow_provider_sequentum import exceptions
from airflow_provider_sequentum.api.run_status import RunStatus, parse_run_status, status_name
from airflow_provider_sequentum.lifecycle.phases import Phase, phase_of
from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator

DOCS = Path(__file__).parents[2] / "docs"


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading."""
    text = (DOCS / page).read_text().partition(f"## {heading}\n")[2]
    table = re.search(r"\n\|(?:.*\n\|)*.*\n", text)
    assert table is not None
    lines = table[0].strip().splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_exception_is_explained() -> None:
    names = {
        name for name, kind in inspect.getmembers(exceptions, inspect.isclass) if kind.__module__ == exceptions.__name__
    }
    abstract = {"SequentumException", "AgentRunException", "AgentBuilderException", "SpaceRunsException"}
    explained = set(re.findall(r"^\| `(\w+)`(?:, `(\w+)`)?", (DOCS / "errors.md").read_text(), re.MULTILINE))
    assert {name for pair in explained for name in pair if name} == names - abstract


def test_what_is_said_to_be_retried_is() -> None:
    for line in (DOCS / "errors.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        for name in re.findall(r"`(\w+)`", cells[0]) if line.startswith("| `") else []:
            kind = getattr(exceptions, name)
            is_final = issubclass(kind, AirflowFailException | AirflowSkipException)
            assert cells[2].startswith("no") is is_final, name


def test_the_table_of_phases_is_the_code() -> None:
    told: dict[str, Phase] = {}
    for phase, statuses, *_ in rows("life-cycle.md", "What a status means"):
        if phase != "unknown":
            told |= {name.strip(" *"): Phase(phase) for name in statuses.split(",")}
    assert told == {status_name(s): phase_of(s) for s in RunStatus if phase_of(s) is not Phase.UNKNOWN}
    assert all(isinstance(parse_run_status(name), RunStatus) for name in told)


@pytest.mark.parametrize("row", rows("life-cycle.md", "Parameters"), ids=lambda row: row[0])
def test_every_parameter_and_its_default(row: list[str]) -> None:
    parameter = inspect.signature(StartAgentRunOperator.__init__).parameters[row[0].strip("`")]
    assert row[1].strip("`") == ("none" if parameter.default is None else str(parameter.default))
