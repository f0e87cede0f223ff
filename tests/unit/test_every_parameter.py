"""Every parameter of every operator, sensor and transfer against every kind of value.

The parameters come from the signatures, so that a new operator is covered by itself: it only needs values to begin
with in ``USABLE``, if its required parameters have new names.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib import import_module
from itertools import product
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException, BaseOperator, TaskDeferred

import airflow_provider_sequentum
from airflow_provider_sequentum.api.call import Call
from airflow_provider_sequentum.api.client import SequentumClient
from airflow_provider_sequentum.exceptions import SequentumException, SequentumRequestRefused
from airflow_provider_sequentum.hooks.port import ClientPort
from airflow_provider_sequentum.jobs.attempt import JobAttempt
from airflow_provider_sequentum.parameters import shown
from tests.support.airflow import FakeTask
from tests.support.service import Clock
from tests.unit.test_parameters import LazyOutput, NumPyInt, OldLazyOutput

USABLE: dict[str, Any] = {
    "agent_id": 7,
    "run_id": 101,
    "space_id": 3,
    "version": 2,
    "older_than_days": 30,
    "schedule_ids": [5],
    "prompt": "Pull the prices from https://shop.example",
    "key": "sku",
}
"""Values that a parameter may have. Places in object storage are made by the test."""
INSTEAD = {
    "AgentRunSensor": {"since": "run_id", "agent_name": "agent_id"},
    "RunFilesToObjectStorageOperator": {"agent_name": "agent_id"},
    "StartAgentRunOperator": {"agent_name": "agent_id"},
    "AgentBuilderOperator": {"url": "prompt", "session_id": "prompt"},
    "ObjectStorageToInputFilesOperator": {"rows": "source", "agent_id": "space_id"},
    "CheckRunRecordsOperator": {"contract_file": "contract", "agent_name": "agent_id"},
}
"""Parameters of which only one may be given."""
TOGETHER: dict[str, dict[str, Any]] = {
    "RunFilesToObjectStorageOperator": {"file_format": "parquet", "partition_by": "sku"},
    "CheckRunRecordsOperator": {"pin_version": True},
}
"""Parameters without which others are not read."""
CONTENT = ("contract", "rows")
"""Parameters that are read in full only when the others are valid."""
CONTRACT = {"columns": {"sku": "string"}}


def classes() -> Iterator[type[BaseOperator]]:
    for folder in ("operators", "sensors", "transfers"):
        package = import_module(f"{airflow_provider_sequentum.__name__}.{folder}")
        for found in iter_modules(package.__path__):
            module = import_module(f"{package.__name__}.{found.name}")
            for name, kind in vars(module).items():
                is_operator = inspect.isclass(kind) and issubclass(kind, BaseOperator)
                if (
                    is_operator
                    and kind.__module__ == module.__name__
                    and not (name[0] == "_" or inspect.isabstract(kind))
                ):
                    yield kind


def parameters_of(kind: type[BaseOperator]) -> dict[str, inspect.Parameter]:
    found = inspect.signature(kind.__init__).parameters.items()
    return {name: each for name, each in found if name != "self" and each.kind is each.KEYWORD_ONLY}


EVERY = [(kind, name) for kind in classes() for name in parameters_of(kind)]
every_class = pytest.mark.parametrize("kind", list(classes()))


class Sent(BaseException):
    """The parameters were read, and a request was about to be sent, or the work on files to begin."""


@pytest.fixture(autouse=True)
def connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def exchange(client: SequentumClient, call: Call[Any], **_: object) -> Any:
        raise Sent(call.method, call.path, dict(call.query), call.body)

    monkeypatch.setattr(SequentumClient, "exchange", exchange)

    def work(*given: object, **options: object) -> Any:
        raise Sent(*map(str, given[:1]), {name: str(option) for name, option in options.items()})

    monkeypatch.setattr("airflow_provider_sequentum.quality.check.check_records", work)
    monkeypatch.setattr("airflow_provider_sequentum.quality.published.publish_changes", work)
    monkeypatch.setattr("airflow_provider_sequentum.quality.engine.open_workspace", nullcontext)
    monkeypatch.setattr(JobAttempt, "release", lambda *_, **__: None)
    monkeypatch.setattr(ClientPort, "sleep", lambda port, seconds: None)
    monkeypatch.setenv("AIRFLOW_CONN_SEQUENTUM_DEFAULT", json.dumps({"conn_type": "sequentum", "password": "sk-1"}))


@pytest.fixture
def usable(tmp_path: Path) -> dict[str, Any]:
    """Values for required parameters that make up a task that would do something."""
    (tmp_path / "a.csv").write_text("sku,price\nA,1\n")
    (tmp_path / "manifests").mkdir()
    places = {
        "files": str(tmp_path / "a.csv"),
        "source": str(tmp_path / "a.csv"),
        "destination": str(tmp_path / "out"),
        "pointer": str(tmp_path / "pointer.json"),
        "manifests": str(tmp_path / "manifests"),
    }
    return {**USABLE, **places}


def arguments_of(kind: type[BaseOperator], usable: dict[str, Any]) -> dict[str, Any]:
    known = parameters_of(kind)
    needed = {name for name, each in known.items() if each.default is each.empty}
    needed |= set(INSTEAD.get(kind.__name__, {}).values())
    return {name: CONTRACT if name == "contract" else usable[name] for name in sorted(needed)}


def outcome(kind: type[BaseOperator], arguments: dict[str, Any]) -> tuple[str, Any]:
    """Return what a task with these arguments comes to before anything is sent."""
    operator = kind(**{"task_id": "job", **arguments})
    try:
        return "done", operator.execute(FakeTask(Clock()).context)
    except Sent as sent:
        return "sent", sent.args
    except TaskDeferred as deferral:
        return "deferred", deferral.trigger.serialize()
    except AirflowException as error:
        return "refused", error


VALUES = [
    7, True, 7.5, float("nan"), Decimal("sNaN"), 10**5000, b"7", "x", "a\0b", "half \ud83d", timedelta.max,
    datetime(2026, 1, 31, tzinfo=UTC), [None], [[]], {"a": 1}, {7}, LazyOutput("a", None), OldLazyOutput(), object(),
]  # fmt: skip


@every_class
def test_no_value_ends_in_a_foreign_error(kind: type[BaseOperator], usable: dict[str, Any]) -> None:
    wrong = []
    for name, value in product(parameters_of(kind), VALUES):
        given = arguments_of(kind, usable)
        given.pop(INSTEAD.get(kind.__name__, {}).get(name, ""), None)
        for others in filter(None, ({"task_id": "job"}, TOGETHER.get(kind.__name__))):
            try:
                what, result = outcome(kind, {**given, **others, name: value})
            except Exception as error:  # noqa: BLE001 - each is a finding
                what, result = "foreign", error
            if what == "foreign" or (what == "refused" and not isinstance(result, SequentumException)):
                wrong.append(f"{name}={shown(value)}: {result!r}"[:300])
    assert wrong == []


@every_class
def test_all_invalid_parameters_are_named_at_once(kind: type[BaseOperator], usable: dict[str, Any]) -> None:
    given = arguments_of(kind, usable) | TOGETHER.get(kind.__name__, {})
    instead = INSTEAD.get(kind.__name__, {})
    wrong = {name: object() for name in parameters_of(kind) if name not in (*instead, *CONTENT)}
    alone = [name for name, value in wrong.items() if outcome(kind, {**given, name: value})[0] == "refused"]
    assert set(alone) >= set(given) - {*CONTENT}
    what, error = outcome(kind, {**given, **{name: wrong[name] for name in alone}})
    assert (what, type(error)) == ("refused", SequentumRequestRefused)
    assert [name for name in alone if name not in str(error)] == []


@every_class
def test_the_usable_values_are_usable(kind: type[BaseOperator], usable: dict[str, Any]) -> None:
    assert outcome(kind, arguments_of(kind, usable))[0] in ("sent", "done")


@every_class
def test_none_and_an_empty_string_are_as_good_as_nothing(kind: type[BaseOperator], usable: dict[str, Any]) -> None:
    for name, parameter in parameters_of(kind).items():
        if parameter.default is parameter.empty:
            continue
        given = arguments_of(kind, usable)
        given.pop(name, None)
        expected = comparable(outcome(kind, given))
        unset = (None, "") if name == "delimiter" else (None, "", "  ")  # a blank can be a delimiter
        found = {repr(value): comparable(outcome(kind, {**given, name: value})) for value in unset}
        assert found == dict.fromkeys(map(repr, unset), expected), name


def comparable(result: tuple[str, Any]) -> tuple[str, str]:
    what, value = result
    return what, str(value)


NUMBERS = [
    (kind, name)
    for kind, name in EVERY
    if any(word in str(parameters_of(kind)[name].annotation) for word in ("int", "float"))
]


@pytest.mark.parametrize(("kind", "name"), NUMBERS, ids=[f"{kind.__name__}.{name}" for kind, name in NUMBERS])
def test_what_is_no_number_is_refused_and_what_stands_for_one_is_one(
    kind: type[BaseOperator], name: str, usable: dict[str, Any]
) -> None:
    given = arguments_of(kind, usable)
    given.pop(INSTEAD.get(kind.__name__, {}).get(name, ""), None)
    for value in (True, False, -1, "-1", float("nan"), float("inf"), Decimal("NaN"), b"7", object(), 10**5000, {7: 7}):
        what, error = outcome(kind, {**given, name: value})
        assert (what, name in str(error)) == ("refused", True), (shown(value), what, error)
    good = [comparable(outcome(kind, {**given, name: value})) for value in (7, "7", "  7 ", NumPyInt(7), Decimal(7))]
    assert good == good[:1] * 5 or name == "schedule_ids"


FLAGS = [(kind, name) for kind, name in EVERY if "bool" in str(parameters_of(kind)[name].annotation)]


@pytest.mark.parametrize(("kind", "name"), FLAGS, ids=[f"{kind.__name__}.{name}" for kind, name in FLAGS])
def test_a_number_is_no_flag_and_a_text_is_one(kind: type[BaseOperator], name: str, usable: dict[str, Any]) -> None:
    given = arguments_of(kind, usable)
    for value in (0, 1, "yes", 1.0, [True], NumPyInt(1)):
        what, error = outcome(kind, {**given, name: value})
        assert (what, name in str(error)) == ("refused", True), (shown(value), what, error)
    for texts, flag in ((("True", " true "), True), (("False", " FALSE"), False)):
        expected = comparable(outcome(kind, {**given, name: flag}))
        assert [comparable(outcome(kind, {**given, name: text})) for text in texts] == [expected] * 2
