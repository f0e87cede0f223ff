"""The documentation names what there is."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException

from airflow_provider_sequentum import exceptions
from airflow_provider_sequentum.api.run_status import RunStatus, parse_run_status, status_name
from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.api.settings import DEFAULT_BASE_URL
from airflow_provider_sequentum.get_provider_info import CONNECTION_FIELDS, get_provider_info
from airflow_provider_sequentum.hooks.connection import settings_from_connection
from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from airflow_provider_sequentum.reporting.links import UNKNOWN
from airflow_provider_sequentum.runs.describe import run_summary
from airflow_provider_sequentum.runs.phases import Phase, phase_of_status
from airflow_provider_sequentum.sessions.state import SessionState
from docs import diagrams

try:
    from airflow.sdk.definitions.context import KNOWN_CONTEXT_KEYS
except ImportError:  # Airflow 2.11
    from airflow.utils.context import KNOWN_CONTEXT_KEYS  # type: ignore[attr-defined,no-redef]

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
    abstract = {"SequentumException", "AgentRunException", "AgentBuilderException"}
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
    assert told == {status_name(s): phase_of_status(s) for s in RunStatus if phase_of_status(s) is not Phase.UNKNOWN}
    assert all(isinstance(parse_run_status(name), RunStatus) for name in told)


@pytest.mark.parametrize("row", rows("life-cycle.md", "Parameters"), ids=lambda row: row[0])
def test_every_parameter_and_its_default(row: list[str]) -> None:
    parameter = inspect.signature(StartAgentRunOperator.__init__).parameters[row[0].strip("`")]
    assert row[1].strip("`") == ("none" if parameter.default is None else str(parameter.default))


def test_the_connection_reference_has_the_fields_of_the_form() -> None:
    labels = {"password": "API key", "host": "Base URL"}
    assert get_provider_info()["connection-types"][0]["ui-field-behaviour"]["relabeling"] == labels
    labels |= {name: field["label"] for name, field in CONNECTION_FIELDS.items()}
    assert {stored.strip("`"): label for label, stored, *_ in rows("connection.md", "Fields")} == labels


@pytest.mark.parametrize("row", rows("connection.md", "Fields")[2:], ids=lambda row: row[1])
def test_every_field_of_the_connection_has_its_type_and_default(row: list[str]) -> None:
    _, name, kind, default, _ = (cell.strip("`") for cell in row)
    schema = CONNECTION_FIELDS[name]["schema"]
    assert {"text": "string"}.get(kind, kind) == schema["type"][0]
    settings = settings_from_connection("key", None, None, None, {})
    if name not in {"requests_per_minute", "ca_bundle", "run_link_template", "session_link_template"}:  # not set
        assert default == str(getattr(settings, name)).lower().removesuffix(".0")
        assert "default" not in schema or default == str(schema["default"]).lower()


def test_the_default_base_url_is_documented() -> None:
    assert rows("connection.md", "Fields")[1][3] == f"`{DEFAULT_BASE_URL}`"


def test_the_architecture_page_names_every_folder_and_only_files_that_exist() -> None:
    text = (DOCS / "architecture.md").read_text()
    package = DOCS.parent / "airflow_provider_sequentum"
    folders = {path.parent.name for path in package.glob("*/__init__.py")} - {"data"}
    assert set(re.findall(r"`(\w+)/`", " ".join(row[0] for row in rows("architecture.md", "Layers")))) == folders
    for name in re.findall(r"`([\w/]+\.py)`", text):
        assert (package / name).exists() or (DOCS.parent / name).exists(), name
    for name in re.findall(r"`(tests/\w+/)`", text):
        assert (DOCS.parent / name).is_dir(), name


@pytest.mark.parametrize("row", rows("compatibility.md", "Kinds of faults"), ids=lambda row: row[0])
def test_every_kind_of_fault_names_tests_that_exist(row: list[str]) -> None:
    source = ""
    named = re.findall(r"`(tests/[\w/]+\.py)`|`(\w+)`", row[-1])
    assert [test for _, test in named if test]
    for file, test in named:
        if file:
            source = (DOCS.parent / file).read_text()
        else:
            assert re.search(rf"(def|class) {test}\(", source), test


def test_every_example_is_listed_and_executed_by_a_system_test() -> None:
    examples = {path.stem for path in (DOCS.parent / "dags_examples").glob("*.py")}
    assert {row[0].strip("`") for row in rows("concepts.md", "Example DAGs")} == examples
    tests = "".join(path.read_text() for path in (DOCS.parent / "tests" / "system").glob("test_*.py"))
    assert [name for name in sorted(examples) if f'"{name}"' not in tests] == []


@pytest.mark.parametrize("name", diagrams.DIAGRAMS)
def test_the_diagrams_show_what_the_code_says(name: str) -> None:
    drawn = (diagrams.IMAGES / name).read_text()
    assert drawn == diagrams.DIAGRAMS[name](), "run make docs-diagrams"


def test_the_diagram_of_the_session_has_every_state() -> None:
    assert set(diagrams.reactions()) == set(SessionState)


def test_no_picture_is_large() -> None:
    assert [path.name for path in diagrams.IMAGES.glob("*.png") if path.stat().st_size > 200_000] == []


def test_the_summary_of_a_run_is_documented_field_by_field() -> None:
    text = (DOCS / "concepts.md").read_text().partition("A summary `run` contains ")[2].partition(".")[0]
    told = set(re.findall(r"`(\w+)`", text))
    assert told == {*run_summary(Run(id=1, config_id=7)), "link", *UNKNOWN}


def test_every_xcom_is_documented_and_no_name_of_airflow_is_taken() -> None:
    """TaskFlow reserves the names of the context for arguments, so a value under such a name could not be passed on."""
    source = "".join(path.read_text() for path in (DOCS.parent / "airflow_provider_sequentum").rglob("*.py"))
    pushed = set(re.findall(r'^(?:RUN|RUNS|SESSION|SCREENSHOT|TRANSFER|CLAIM)\w*_KEY = "(\w+)"', source, re.MULTILINE))
    pushed |= set(re.findall(r'^ {4}state_key = "(\w+)"', source, re.MULTILINE))
    text = (DOCS / "concepts.md").read_text().partition("## Return values and XComs")[2].partition("\n## ")[0]
    assert len(pushed) >= 11
    assert [key for key in sorted(pushed) if f"`{key}`" not in text] == []
    assert pushed & KNOWN_CONTEXT_KEYS == set()
