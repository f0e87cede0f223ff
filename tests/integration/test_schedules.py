"""Pausing and resuming an agent's schedules against the sandbox, with a kill at every step."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from airflow_provider_sequentum.api import schedules
from airflow_provider_sequentum.api.schedules import ScheduleDefinition, ScheduleType
from airflow_provider_sequentum.exceptions import SequentumRequestRefused
from airflow_provider_sequentum.hooks.sequentum import SequentumHook
from airflow_provider_sequentum.operators.schedules import PauseAgentSchedulesOperator, ResumeAgentSchedulesOperator
from airflow_provider_sequentum.sandbox import Sandbox
from airflow_provider_sequentum.sandbox.agents import Agent
from tests.support.airflow import FakeTask, FakeTaskInstance
from tests.support.deaths import Mortal, mortal
from tests.support.service import Clock

__all__ = ["mortal"]


@pytest.fixture
def agent(sandbox: Sandbox) -> Agent:
    return sandbox.add_agent("Prices", records=[{"name": "Tea"}], duration=1)


@pytest.fixture
def ids(agent: Agent) -> list[int]:
    """Three schedules, of which a user has paused the last one."""
    hook = SequentumHook()
    numbers = [
        hook.send(
            schedules.create(
                agent.id,
                ScheduleDefinition(
                    name=name, schedule_type=ScheduleType.CRON, cron_expression="0 6 * * *", is_enabled=True
                ),
            )
        ).id
        for name in ("daily", "weekly", "paused by a user")
    ]
    hook.send(schedules.disable(agent.id, numbers[2]))
    return numbers


def enabled(agent: Agent) -> list[int]:
    return [one.id for one in SequentumHook().send(schedules.list_schedules(agent.id)) if one.is_enabled]


def new_task(name: str, *, has_state_store: bool = True) -> FakeTask:
    return FakeTask(Clock(datetime.now(UTC)), 2, has_state_store=has_state_store, ti=FakeTaskInstance(task_id=name))


def pause(agent: Agent, task: FakeTask) -> Any:
    return PauseAgentSchedulesOperator(task_id="pause", agent_id=agent.id, retries=2).execute(task.context)


def resume(agent: Agent, schedule_ids: Any, task: FakeTask) -> Any:
    return ResumeAgentSchedulesOperator(task_id="resume", agent_id=agent.id, schedule_ids=schedule_ids).execute(
        task.context
    )


def test_only_what_was_paused_is_resumed(agent: Agent, ids: list[int]) -> None:
    paused = pause(agent, new_task("pause"))
    assert paused == ids[:2]
    assert enabled(agent) == []
    assert [one.id for one in SequentumHook().list_paused_schedules(agent.id)] == ids
    assert resume(agent, paused, new_task("resume")) == ids[:2]
    assert enabled(agent) == ids[:2]


@pytest.mark.usefixtures("sandbox")
def test_an_agent_without_schedules(agent: Agent) -> None:
    assert pause(agent, new_task("pause")) == []
    assert resume(agent, None, new_task("resume")) == []


def test_an_unknown_agent_is_named(sandbox: Sandbox) -> None:
    with pytest.raises(SequentumRequestRefused, match="agent 999") as caught:
        PauseAgentSchedulesOperator(task_id="pause", agent_id=999).execute(new_task("pause").context)
    assert caught.value.agent_id == 999


def test_a_kill_at_any_step_of_the_pause(agent: Agent, ids: list[int], mortal: Mortal) -> None:
    for steps in itertools.count():
        task = new_task("pause")
        lived = mortal.outlives(steps, partial(pause, agent, task))
        if not lived:
            # Whether or not Airflow tries again, the task that resumes finds what was paused.
            shown = task.ti.pushed("return_value") or []
            assert set(ids[:2]) - set(enabled(agent)) <= set(shown), steps
            task.next_attempt()
            assert pause(agent, task) == ids[:2], steps
        assert enabled(agent) == [], steps
        resume(agent, ids[:2], new_task("resume"))
        assert enabled(agent) == ids[:2], steps
        if lived:
            break
    assert steps == 9


def test_a_kill_at_any_step_of_the_resumption(agent: Agent, ids: list[int], mortal: Mortal) -> None:
    for steps in itertools.count():
        paused = pause(agent, new_task("pause"))
        task = new_task("resume")
        lived = mortal.outlives(steps, partial(resume, agent, paused, task))
        if not lived:
            task.next_attempt()
            assert resume(agent, paused, task) == ids[:2], steps
        assert enabled(agent) == ids[:2], steps
        if lived:
            break
    assert steps == 5


def test_the_list_cannot_be_read_by_the_last_attempt(
    sandbox: Sandbox, agent: Agent, ids: list[int], mortal: Mortal
) -> None:
    """Airflow has removed what the first attempt showed: what it paused is shown again before anything can fail."""
    task = new_task("pause")
    assert not mortal.outlives(5, lambda: pause(agent, task))
    paused = [number for number in ids[:2] if number not in enabled(agent)]
    assert paused
    task.next_attempt()
    assert not mortal.outlives(1, lambda: pause(agent, task))
    assert set(paused) <= set(task.ti.pushed("return_value"))


def test_what_a_user_paused_between_two_attempts_of_the_resumption_stays_paused(
    agent: Agent, ids: list[int], mortal: Mortal
) -> None:
    paused = pause(agent, new_task("pause"))
    task = new_task("resume")
    assert not mortal.outlives(2, lambda: resume(agent, paused, task))
    assert enabled(agent) == ids[:1]
    SequentumHook().send(schedules.disable(agent.id, ids[0]))
    task.next_attempt()
    resume(agent, paused, task)
    assert enabled(agent) == ids[1:2]


def test_what_a_dead_dag_left_paused_is_found_and_told_from_what_a_user_paused(
    sandbox: Sandbox, agent: Agent, ids: list[int], mortal: Mortal
) -> None:
    """The task dies for good after it has paused one schedule, and the task that resumes never runs."""
    hook = SequentumHook()
    [by_user] = hook.list_paused_schedules(agent.id)
    sandbox.advance(3600)
    assert not mortal.outlives(5, lambda: pause(agent, new_task("pause")))
    found = {schedule.id: schedule for schedule in hook.list_paused_schedules(agent_id=agent.id)}
    assert found.keys() == {ids[0], ids[2]}
    assert by_user.updated is not None
    assert found[ids[2]].updated == by_user.updated
    assert (found[ids[0]].updated or by_user.updated) >= by_user.updated + timedelta(hours=1)
    assert found[ids[0]].name == "daily"


def test_a_cleared_dag_run_leaves_to_a_user_what_the_user_paused_since(
    sandbox: Sandbox, agent: Agent, ids: list[int]
) -> None:
    first, second = new_task("pause"), new_task("resume")
    resume(agent, pause(agent, first), second)
    sandbox.advance(60)
    SequentumHook().send(schedules.disable(agent.id, ids[0]))
    first.clear()
    second.clear()
    assert pause(agent, first) == ids[1:2]
    resume(agent, ids[1:2], second)
    assert enabled(agent) == ids[1:2]


def test_a_pause_that_is_cleared_before_the_resumption_keeps_what_it_paused(agent: Agent, ids: list[int]) -> None:
    task = new_task("pause")
    pause(agent, task)
    task.clear()
    assert pause(agent, task) == ids[:2]


def test_a_resumption_that_is_cleared_resumes_again(agent: Agent, ids: list[int]) -> None:
    paused = pause(agent, new_task("pause"))
    task = new_task("resume")
    resume(agent, paused, task)
    pause(agent, new_task("pause"))
    task.clear()
    resume(agent, paused, task)
    assert enabled(agent) == ids[:2]


def test_a_schedule_that_was_deleted_is_no_error(agent: Agent, ids: list[int]) -> None:
    paused = pause(agent, new_task("pause"))
    SequentumHook().send(schedules.delete(agent.id, ids[0]))
    assert resume(agent, paused, new_task("resume")) == ids[:2]
    assert enabled(agent) == ids[1:2]


def test_airflow_without_a_state_store(
    agent: Agent, ids: list[int], mortal: Mortal, task_log: pytest.LogCaptureFixture
) -> None:
    """What the only attempt paused is shown even if it dies; a second attempt says what it cannot know."""
    task = new_task("pause", has_state_store=False)
    assert not mortal.outlives(5, lambda: pause(agent, task))
    shown = task.ti.pushed("return_value")
    assert set(ids[:2]) - set(enabled(agent)) <= set(shown)
    task.next_attempt()
    pause(agent, task)
    assert "list_paused_schedules" in task_log.text
