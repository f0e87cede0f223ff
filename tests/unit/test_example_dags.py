"""Decisions that the example DAGs make by themselves; the system tests run them as a whole."""

from __future__ import annotations

import ast
import importlib.util
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "dags_examples"
NINE, TEN = datetime(2026, 11, 27, 9, tzinfo=UTC), datetime(2026, 11, 27, 10, tzinfo=UTC)
HOUR = {"from": NINE.isoformat(), "to": TEN.isoformat()}


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.py")), ids=lambda file: file.stem)
def test_no_argument_has_a_name_that_airflow_gives_a_value(file: Path) -> None:
    """A task whose ``run_id`` is that of Sequentum fails before it does anything."""
    context = pytest.importorskip("airflow.sdk.definitions.context", reason="Airflow 2.11 says it elsewhere")
    tasks = [
        node
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef) and any("task" in ast.unparse(each) for each in node.decorator_list)
    ]
    for task in tasks:
        given = task.args.args[: len(task.args.args) - len(task.args.defaults)]
        assert not {argument.arg for argument in given} & context.KNOWN_CONTEXT_KEYS, task.name


@pytest.fixture
def window() -> Callable[..., Any]:
    function: Callable[..., Any] = load("hourly_incremental").window.function
    return function


def test_a_scheduled_run_extracts_its_data_interval(window: Callable[..., Any]) -> None:
    assert window(NINE, TEN, SimpleNamespace(run_after=TEN)) == HOUR


def test_a_run_without_an_interval_extracts_the_last_whole_hour(window: Callable[..., Any]) -> None:
    assert window(None, None, SimpleNamespace(run_after=TEN.replace(minute=20, second=5, microsecond=7))) == HOUR


def test_an_interval_without_length_is_refused(window: Callable[..., Any]) -> None:
    """That of Airflow 3 with a cron expression as the schedule: the agent would extract nothing, without a word."""
    with pytest.raises(ValueError, match="Use CronDataIntervalTimetable"):
        window(TEN, TEN, SimpleNamespace(run_after=TEN))


def test_an_hour_without_records_is_skipped() -> None:
    """Its run may have no files, and the load refuses a list of none."""
    assert load("hourly_incremental").dag.get_task("run_agent").on_empty == "skip"


@pytest.fixture
def approved_records() -> Any:
    return load("approved_records")


@pytest.mark.parametrize(
    ("verdict", "follows"), [("passed", "find_changes"), ("warned", "find_changes"), ("failed", "ask")]
)
def test_a_person_is_asked_about_a_broken_contract_only(approved_records: Any, verdict: str, follows: str) -> None:
    ti = SimpleNamespace(xcom_pull=lambda **_: {"verdict": verdict})
    assert approved_records.is_broken.function(ti) == follows


def test_nobody_is_asked_about_records_that_were_not_checked(approved_records: Any) -> None:
    with pytest.raises(RuntimeError, match="see the log of check_records"):
        approved_records.is_broken.function(SimpleNamespace(xcom_pull=lambda **_: None))


def test_the_run_that_a_person_approves_is_learnt_from(approved_records: Any, tmp_path: Path) -> None:
    profile = tmp_path / "run-7.json"
    profile.write_text(json.dumps({"run_id": 7, "verdict": "failed"}))
    assert approved_records.accept.function(tmp_path.as_uri(), 7, ["a.parquet"]) == ["a.parquet"]
    assert json.loads(profile.read_text()) == {"run_id": 7, "verdict": "accepted"}


def test_the_question_names_each_breach(approved_records: Any) -> None:
    if not hasattr(approved_records, "dag"):
        pytest.skip("Airflow asks a person from 3.1 on")
    ask = approved_records.dag.get_task("ask")
    report = {"run_id": 7, "records": 25, "breaches": ["fail: records: 25", "warn: <b>x</b>"]}
    ti = SimpleNamespace(xcom_pull=lambda **_: report)
    assert ask.render_template(ask.body, {"ti": ti}) == (
        "Run 7 has 25 records:\n\n    fail: records: 25\n    warn: <b>x</b>\n\nLoad them?"
    )
