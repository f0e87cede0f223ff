"""What becomes of a job when Airflow can no longer render the templates of its task."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, BaseOperator

from airflow_provider_sequentum.operators import remote_job
from airflow_provider_sequentum.operators.agent_builder import AgentBuilderOperator
from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from airflow_provider_sequentum.operators.remote_job import RemoteJobOperator
from airflow_provider_sequentum.operators.space_run import StartSpaceRunsOperator
from airflow_provider_sequentum.sensors.agent_run import AgentRunSensor
from tests.support.airflow import FakeTask, deferred_by, use_fakes
from tests.support.builder import FakeBuilder, use_builder
from tests.support.service import Clock, FakeService, Plan
from tests.support.worker import Worker

GONE = "{{ this_is_gone.now }}"
ARGUMENTS: dict[type[BaseOperator], dict[str, Any]] = {
    StartAgentRunOperator: {"agent_id": 7},
    StartSpaceRunsOperator: {"space_id": 1},
    AgentBuilderOperator: {"prompt": "Get the prices."},
    AgentRunSensor: {"agent_id": 7, "run_id": 101},
}
OWNERS = [kind for kind in ARGUMENTS if issubclass(kind, RemoteJobOperator)]


class World:
    """A deferred task of the kind, whose job ends only if it is stopped."""

    def __init__(self, kind: type[BaseOperator], monkeypatch: pytest.MonkeyPatch, *, is_mapped: bool) -> None:
        self.kind, self.is_mapped = kind, is_mapped
        self.service: Any
        if kind is AgentBuilderOperator:
            self.service = FakeBuilder(looks=10_000)
            use_builder(monkeypatch, Worker(self.service))
        else:
            self.service = FakeService(Clock(), agents={7: "Prices"}, plans=[Plan(seconds=None)] * 2)
            use_fakes(monkeypatch, Worker(self.service))
        self.task = FakeTask(self.service.clock, retries=1)
        self.task.ti.map_index = 0 if is_mapped else -1
        monkeypatch.setattr(remote_job, "current_context", lambda: self.task.context)

    def operator(self, **arguments: Any) -> BaseOperator:
        return self.kind(task_id="run_agent", deferrable=True, retries=1, **{**ARGUMENTS[self.kind], **arguments})

    def defer(self) -> None:
        deferred_by(lambda: self.operator().execute(self.task.context))

    def render(self) -> BaseOperator:
        """Render as Airflow does, and return the operator that it would execute."""
        arguments = {**ARGUMENTS[self.kind], next(iter(ARGUMENTS[self.kind])): GONE}
        if not self.is_mapped:
            operator = self.operator(**arguments)
            operator.render_template_fields(self.task.context)
            return operator
        with DAG("dag", schedule=None) as dag:
            mapped = self.kind.partial(task_id="run_agent", deferrable=True, retries=1, **arguments).expand(
                sequentum_conn_id=["sequentum_default"]
            )
        context = self.task.context
        context.update(dag=dag, params={}, dag_run=SimpleNamespace(conf={}), run_id="manual")
        context["ti"].task = mapped
        mapped.render_template_fields(context)
        found: BaseOperator = context["task"]
        return found

    def is_going(self) -> bool:
        if isinstance(self.service, FakeBuilder):
            return not self.service.sessions["s1"].is_over
        self.service.settle()
        return not self.service.runs[101].is_over


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Callable[..., World]:
    return lambda kind, *, is_mapped: World(kind, monkeypatch, is_mapped=is_mapped)


MAPPED = pytest.mark.parametrize("is_mapped", [False, True], ids=["not mapped", "mapped"])


@MAPPED
@pytest.mark.parametrize("kind", ARGUMENTS)
def test_a_resumed_task_goes_on_without_its_templates(
    world: Callable[..., World], kind: type[BaseOperator], is_mapped: bool
) -> None:
    made = world(kind, is_mapped=is_mapped)
    made.task.ti.next_method = "execute_complete"  # type: ignore[attr-defined]
    assert type(made.render()) is kind


@MAPPED
@pytest.mark.parametrize("attempts_left", [True, False])
@pytest.mark.parametrize("kind", OWNERS)
def test_an_attempt_that_ends_with_its_templates_leaves_the_job_of_the_one_before_to_the_next_or_ends_it(
    world: Callable[..., World], kind: type[BaseOperator], attempts_left: bool, is_mapped: bool
) -> None:
    made = world(kind, is_mapped=is_mapped)
    made.defer()
    if attempts_left:
        made.task.ti.max_tries += 1
    made.task.next_attempt()
    with pytest.raises(Exception, match="this_is_gone") as caught:
        made.render()
    assert made.is_going() is attempts_left
    assert ("The next attempt" in "".join(caught.value.__notes__)) is attempts_left


@MAPPED
@pytest.mark.parametrize("kind", OWNERS)
def test_the_first_attempt_fails_with_its_templates(
    world: Callable[..., World], kind: type[BaseOperator], is_mapped: bool
) -> None:
    made = world(kind, is_mapped=is_mapped)
    with pytest.raises(Exception, match="this_is_gone"):
        made.render()
    assert made.service.requests == []


@pytest.mark.parametrize("kind", OWNERS)
def test_to_look_at_the_templates_of_a_task_does_nothing_to_its_job(
    world: Callable[..., World], kind: type[BaseOperator], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``airflow tasks render`` does it outside of any attempt, and code of another task may do it."""
    made = world(kind, is_mapped=False)
    made.defer()
    made.task.next_attempt()
    made.task.ti.task = BaseOperator(task_id="another")
    with pytest.raises(Exception, match="this_is_gone"):
        made.render()
    made.task.ti.task = None
    monkeypatch.setattr(remote_job, "current_context", lambda: None)
    with pytest.raises(Exception, match="this_is_gone"):
        made.render()
    assert made.is_going()
