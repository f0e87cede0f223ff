"""
What a person sees of the provider, in a real browser on a real Airflow.

A connection is made by its form and tried by its button; the quickstart has its grid and its links.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from airflow_provider_sequentum.get_provider_info import CONNECTION_FIELDS, get_provider_info
from airflow_provider_sequentum.reporting.links import RUN_LINK_KEY, AgentRunLink
from tests.system.browser import Browser, missing_browser

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.system.harness import DagRun
    from tests.system.stage import Stage

pytestmark = pytest.mark.skipif(missing_browser() is not None, reason=str(missing_browser()))

STANDARD_FIELDS = get_provider_info()["connection-types"][0]["ui-field-behaviour"]


@dataclass(frozen=True)
class Form:
    """
    How an Airflow draws the form of a connection.

    :param id_field: the name of the field for the connection's id.
    :param row: a CSS selector of a field with its label and its help text.
    :param help_text: a CSS selector of the help text.
    :param prefix: what comes before the name of a field that is the provider's own.
    :param number: the kind of field that numbers are typed into.
    """

    id_field: str
    row: str
    help_text: str
    prefix: str
    number: str


AIRFLOW_3 = Form(
    id_field="connection_id",
    row="[data-scope=field][data-part=root]",
    help_text="[data-part=helper-text]",
    prefix="element_",
    number="spinbutton",
)
AIRFLOW_2 = Form(id_field="conn_id", row="tr", help_text=".help-block", prefix="extra__sequentum__", number="text")


class Person:
    """Someone in front of Airflow's pages."""

    def __init__(self, stage: Stage, browser: Browser) -> None:
        self.stage = stage
        self.browser = browser
        self.is_airflow_3 = stage.airflow.api.major >= 3
        self.form = AIRFLOW_3 if self.is_airflow_3 else AIRFLOW_2

    def go(self, path: str) -> None:
        self.browser.open(self.stage.airflow.url + path)

    def open_form(self) -> None:
        if self.is_airflow_3:
            self.go("/connections")
            self.browser.click("//button[contains(., 'Add Connection')]")
            self.browser.write("//*[@role='dialog']//input[@role='combobox']", "Sequentum")
            self.browser.click("//*[@role='option'][contains(., 'Sequentum Cloud')]")
        else:
            self.go("/connection/add")
            self.browser.wait_until(lambda: self.browser.run("return !!window.jQuery"), "the form is ready")
            self.browser.run("jQuery('#conn_type').val('sequentum').trigger('change')")
        self.browser.wait_for_text(STANDARD_FIELDS["relabeling"]["host"])

    def open_own_fields(self) -> None:
        """Open the provider's own fields; Airflow 3 closes the standard ones for it."""
        if self.is_airflow_3:
            self.browser.click("//button[contains(., 'Extra Fields') and not(contains(., 'JSON'))]")
        self.browser.wait_for_text(CONNECTION_FIELDS["session_link_template"]["description"])

    def fields(self) -> dict[str, dict[str, Any]]:
        """Return what the form shows, by the names of the fields; a field of the provider's has a bare name."""
        shown: dict[str, dict[str, Any]] = self.browser.run(f"""
            const kind = input => input.type === 'checkbox' ? 'checkbox' : input.getAttribute('role') ?? input.type;
            return Object.fromEntries([...document.querySelectorAll('input[name], textarea[name]')]
                .map(input => [input, input.closest('{self.form.row}')])
                .filter(([, row]) => row && row.offsetParent)
                .map(([input, row]) => [input.name.replace('{self.form.prefix}', ''), {{
                    label: row.querySelector('label').textContent.trim(),
                    help: row.querySelector('{self.form.help_text}')?.textContent.trim(),
                    kind: kind(input),
                    placeholder: input.placeholder,
                    value: input.type === 'checkbox' ? input.checked : input.value,
                }}]))""")
        return shown

    def write(self, **texts: str) -> None:
        for name, text in texts.items():
            full = self.form.prefix + name if name in CONNECTION_FIELDS else name
            self.browser.write(f"//input[@name='{full}']", text)

    def save(self) -> None:
        self.browser.click("//button[contains(normalize-space(.), 'Save')]")

    def run_page(self, run: DagRun) -> str:
        place = "runs/" if self.is_airflow_3 else "grid?dag_run_id="
        return f"/dags/{run.dag_id}/{place}{quote(run.run_id, safe='')}"

    def task_page(self, run: DagRun, task_id: str) -> str:
        return self.run_page(run) + (f"/tasks/{task_id}/details" if self.is_airflow_3 else f"&task_id={task_id}")


@pytest.fixture(scope="module")
def person(stage: Stage) -> Iterator[Person]:
    with Browser() as browser:
        yield Person(stage, browser)


@pytest.fixture(scope="module")
def finished_run(stage: Stage) -> DagRun:
    run = stage.airflow.wait(stage.airflow.trigger("quickstart"), timeout=240)
    assert run.state == "success", stage.airflow.states(run)
    return run


def test_the_form_shows_every_field_with_its_help(person: Person) -> None:
    person.open_form()
    person.open_own_fields()
    shown = person.fields()
    for name, field in CONNECTION_FIELDS.items():
        kind = field["schema"]["type"][0]
        expected = {"boolean": "checkbox", "string": "text"}.get(kind, person.form.number)
        assert (shown[name]["label"], shown[name]["help"]) == (field["label"], field["description"])
        assert shown[name]["kind"] == expected
        assert shown[name]["value"] == (field["schema"].get("default") or ("" if kind != "boolean" else False))


def test_the_form_asks_for_a_key_and_an_address(person: Person) -> None:
    person.open_form()
    shown = person.fields()
    for name, label in STANDARD_FIELDS["relabeling"].items():
        assert shown[name]["label"] == label
        assert shown[name]["placeholder"] == STANDARD_FIELDS["placeholders"][name]
    assert shown["password"]["kind"] == "password"
    assert not shown.keys() & set(STANDARD_FIELDS["hidden-fields"])


def test_what_is_typed_is_stored(person: Person) -> None:
    typed = {"requests_per_minute": "50", "connect_timeout": "2.5", "run_link_template": "https://example.com/{run_id}"}
    person.open_form()
    person.write(**{person.form.id_field: "made_by_hand"}, host="https://sequentum.example", password="sk-secret")
    person.open_own_fields()
    person.write(**typed)
    person.save()
    api = person.stage.airflow.api
    person.browser.wait_until(
        lambda: "made_by_hand" in {stored["connection_id"] for stored in api.get("/connections")["connections"]},
        "the connection is stored",
    )
    stored = api.get("/connections/made_by_hand")
    extra = json.loads(stored["extra"])
    assert stored["host"] == "https://sequentum.example"
    assert {name: str(extra[name]) for name in typed} == typed
    assert (extra["verify"], extra["allow_http"]) == (True, False)
    assert extra["requests_per_minute"] == 50, "a number is stored as one"


def test_the_test_button_proves_the_key(person: Person) -> None:
    sandbox = person.stage.sandbox
    assert sandbox is not None
    asked = len(sandbox.ledger.requests)
    if person.is_airflow_3:
        # The port stands apart: for a connection without one, the button of Airflow 3.3.2 asks about port 0 and is
        # refused by its own server.
        host, _, port = sandbox.base_url.rpartition(":")
        connection = {"conn_type": "sequentum", "host": host, "port": int(port), "password": sandbox.api_key}
        person.stage.airflow.add_connection("to_be_tested", connection)
        person.go("/connections")
        button = "//tr[contains(., 'to_be_tested')]//button[@aria-label='Test Connection']"
        person.browser.click(button)
        person.browser.click(f"{button}[.//*[@color='green']]")
    else:
        person.open_form()
        person.write(conn_id="to_be_tested", host=sandbox.base_url, password=sandbox.api_key)
        person.browser.click("//button[@id='test-connection']")
        person.browser.wait_for_text(f"Connected to {sandbox.base_url}")
    assert any(entry.path.endswith("/agent/all") for entry in sandbox.ledger.requests[asked:])


def test_the_grid_shows_the_quickstart_done(person: Person, finished_run: DagRun) -> None:
    person.go(person.run_page(finished_run))
    for task_id in person.stage.airflow.states(finished_run):
        person.browser.wait_for_text(task_id)


def test_the_button_on_a_task_leads_to_its_run(person: Person, finished_run: DagRun) -> None:
    person.go(person.task_page(finished_run, "run_agent"))
    person.browser.wait_for_text(AgentRunLink.name)
    address = person.browser.address_of(AgentRunLink.name)
    assert address == person.stage.airflow.xcom(finished_run, "run_agent", RUN_LINK_KEY)
    person.browser.open(address)
    person.browser.wait_for_text(f"Run {person.stage.airflow.xcom(finished_run, 'run_agent')}")
