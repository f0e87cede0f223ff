"""What a task's process does that costs CPU: the modules it imports, and the models whose schemas it builds.

Who adds to one of these lists looks at what ``make bench-task`` says before and after.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.benchmarks.bench_task import Leg, environment_of_tasks, measure

pytest.importorskip("airflow.sdk.execution_time.supervisor")

PACKAGE = "airflow_provider_sequentum"
IN_ANY_LEG = {
    *("airflow_compat", "airflow_compat.connections", "airflow_compat.dag_run", "airflow_compat.deferral"),
    *("airflow_compat.extra_links", "airflow_compat.kill", "airflow_compat.task_attempt", "airflow_compat.task_state"),
    *("api", "api.addresses", "api.call", "api.choices", "api.errors", "api.parsing", "api.run_status", "api.runs"),
    *("api.settings", "api.text", "exceptions", "hooks", "hooks.connection", "hooks.port", "jobs", "jobs.attempt"),
    *("jobs.port", "jobs.record", "jobs.siblings", "jobs.stop", "operators", "operators.agent_run"),
    *("operators.remote_job", "parameters", "reporting", "reporting.links", "runs", "runs.attempt", "runs.describe"),
    *("runs.lost_start", "runs.outcome", "runs.phases", "runs.record", "runs.service_time", "runs.start", "runs.stop"),
    "runs.wait",
}
IN_FIRST_LEG = {
    *("airflow_compat.trigger_life", "api.budget", "api.client", "api.pipeline", "api.retry", "api.transport"),
    *("runs.before_start", "triggers", "triggers.agent_run", "triggers.remote_job"),
}
IN_RESUMED_LEG = {"reporting.asset_events"}


@pytest.fixture(scope="module")
def legs() -> Iterator[dict[str, Leg]]:
    with environment_of_tasks() as environment:
        first = measure("first", environment)
        yield {"first": first, "resume": measure("resume", environment, first.record)}


def provider_modules(leg: Leg) -> set[str]:
    return {name.removeprefix(f"{PACKAGE}.") for name in leg.modules if name.startswith(f"{PACKAGE}.")}


def test_the_first_leg_of_a_deferred_task_imports_only_what_it_uses(legs: dict[str, Leg]) -> None:
    assert provider_modules(legs["first"]) - IN_ANY_LEG == IN_FIRST_LEG


def test_a_resumed_leg_imports_only_what_it_uses(legs: dict[str, Leg]) -> None:
    assert provider_modules(legs["resume"]) - IN_ANY_LEG == IN_RESUMED_LEG


def test_a_resumed_leg_loads_neither_triggers_nor_serializers(legs: dict[str, Leg]) -> None:
    assert not {"airflow.triggers.base", "pydantic.functional_serializers"} & set(legs["resume"].modules)


def test_a_leg_builds_only_the_models_that_it_reads(legs: dict[str, Leg]) -> None:
    assert legs["first"].built == ["Claim", "Run", "RunConfig", "RunRecord", "WaitSpec"]
    assert legs["resume"].built == ["RunEvent", "RunRecord"]


@pytest.mark.parametrize("leg", ["first", "resume"])
def test_pydantic_reads_only_the_annotations_of_documented_models_as_text(legs: dict[str, Leg], leg: str) -> None:
    assert legs[leg].annotated_by_text == ["Run", "_Total"]  # as texts, they are documented by their aliases
