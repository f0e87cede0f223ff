"""A response about another id than the one that was asked for is none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_provider_sequentum.api import agent_builder, agents, analytics, billing, files, runs, schedules, spaces
from airflow_provider_sequentum.api.call import Call
from airflow_provider_sequentum.api.errors import UnexpectedResponse
from airflow_provider_sequentum.api.pipeline import read_response
from airflow_provider_sequentum.api.schedules import ScheduleDefinition
from tests.unit.api.support import answer

NIGHTLY = ScheduleDefinition(name="nightly")
PROMPT = "session-1"


@pytest.mark.parametrize(
    ("call", "body", "asked", "stated"),
    [
        (runs.status(7, 42), {"id": 43, "configId": 7}, 42, 43),
        (runs.status(7, 42), {"runId": 43, "configId": 7}, 42, 43),
        (runs.status(7, 42), {"id": 42, "runId": 43}, 42, 43),
        (runs.status(7, 42), {"id": 42, "configId": 8}, 7, 8),
        (runs.status(7, 42), {"id": 42, "agentId": 8}, 7, 8),
        (runs.status(7, 42), {"id": 42, "configId": 7, "agentId": 8}, 7, 8),
        (runs.status(7, 42), {"id": 42, "configId": "eight"}, 7, "eight"),
        (runs.start(7), {"id": 43, "configId": 8}, 7, 8),
        (runs.restart(7, 42), {"id": 43, "configId": 8}, 7, 8),
        (runs.list_runs(7), [{"id": 42}, {"id": 43, "configId": 8}], 7, 8),
        (runs.list_runs(7), {"runs": [{"id": 42}], "agentId": 8}, 7, 8),
        (agents.get(7), {"id": 8}, 7, 8),
        (agents.list_agents(space_id=3), [{"id": 8, "spaceId": 4}], 3, 4),
        (spaces.get(3), {"id": 4}, 3, 4),
        (spaces.list_agents(3), [{"id": 7, "spaceId": 3}, {"id": 8, "spaceId": 4}], 3, 4),
        (spaces.run_all(3), {"spaceId": 4, "results": []}, 3, 4),
        (schedules.list_schedules(7), [{"id": 1, "configId": 8}], 7, 8),
        (schedules.get(7, 1), {"id": 2, "configId": 7}, 1, 2),
        (schedules.get(7, 1), {"id": 1, "configId": 8}, 7, 8),
        (schedules.create(7, NIGHTLY), {"id": 1, "configId": 8}, 7, 8),
        (schedules.update(7, 1, NIGHTLY), {"id": 2}, 1, 2),
        (files.list_files(7, 42), [{"id": 1, "runId": 43}], 42, 43),
        (analytics.run_diagnostics(7, 42), {"runId": 43}, 42, 43),
        (analytics.latest_failure(7), {"runId": 42, "agentId": 8}, 7, 8),
        (analytics.records_summary(agent_id=7), {"agentId": 8}, 7, 8),
        (billing.agent_report(7, "2026-11-01", "2026-11-02"), {"agentId": 8}, 7, 8),
        (billing.list_agent_runs(7, "2026-11-01", "2026-11-02"), {"runs": [], "agentId": 8}, 7, 8),
        (agent_builder.status(PROMPT), {"sessionId": "session-2", "status": "ready"}, PROMPT, "session-2"),
        (agent_builder.conversation(PROMPT), {"sessionId": "session-2"}, PROMPT, "session-2"),
        (agent_builder.finish(PROMPT), {"sessionId": "session-2", "agentId": 7}, PROMPT, "session-2"),
        (
            agent_builder.events(PROMPT),
            {"events": [{"eventIndex": 0, "sessionId": "session-2"}]},
            PROMPT,
            "session-2",
        ),
    ],
)
def test_another_id_is_an_unexpected_answer_that_names_both(
    call: Call[Any], body: Any, asked: object, stated: object
) -> None:
    with pytest.raises(UnexpectedResponse, match=f"is {stated}, but {asked} was requested") as caught:
        read_response(call, answer(json.dumps(body)))

    assert caught.value.may_have_acted is call.changes_something


@pytest.mark.parametrize("stated", [42, "42", " 42 ", None])
def test_the_same_id_in_another_form_is_the_same(stated: object) -> None:
    run = read_response(runs.status("7", 42), answer(json.dumps({"runId": 42, "id": stated, "configId": "7"})))

    assert (run.id, run.agent_id) == (42, 7)


def test_the_agent_s_id_stands_in_where_it_is_absent() -> None:
    assert read_response(runs.status(7, 42), answer(b'{"id": 42}')).agent_id == 7
    assert [run.agent_id for run in read_response(runs.list_runs(7), answer(b'[{"id": 42}]'))] == [7]


def test_any_json_is_not_taken_for_a_run() -> None:
    with pytest.raises(UnexpectedResponse):
        read_response(runs.status(7, 42), answer(b'{"detail": "maintenance"}'))


def test_a_restart_may_change_the_run_s_id() -> None:
    restarted = read_response(runs.restart(7, 42), answer(b'{"id": 43, "configId": 7}'))

    assert restarted is not None
    assert restarted.id == 43
