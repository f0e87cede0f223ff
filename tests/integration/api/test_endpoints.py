"""Every endpoint over real HTTP, with both drivers, and in every form the sandbox can answer in."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import timedelta
from typing import Any, get_args

import pytest
from pydantic.alias_generators import to_camel

from airflow_provider_sequentum.api import (
    AsyncSequentumClient,
    ClientSettings,
    SequentumClient,
    agent_builder,
    agents,
    analytics,
    billing,
    files,
    runs,
    schedules,
    spaces,
)
from airflow_provider_sequentum.api.call import Call
from airflow_provider_sequentum.api.errors import (
    HttpStatusError,
    UnexpectedResponse,
)
from airflow_provider_sequentum.api.run_status import RunStatus, status_name
from airflow_provider_sequentum.sandbox import RunPlan, Sandbox, run_plan
from airflow_provider_sequentum.sandbox.schemas import StartBody
from airflow_provider_sequentum.sandbox.settings import Dialect
from tests.support.errors import raises

Send = Callable[[Call[Any]], Any]


def test_a_run_from_start_to_deletion(send: Send, service: Sandbox) -> None:
    agent = service.add_agent("Prices", records=[{"sku": "A1"}, {"sku": "A2"}], duration=10)

    started = send(runs.start(agent.id, input_parameters={"url": "https://shop.example"}))
    assert started.agent_id == agent.id
    assert service.ledger.starts(agent.id)[0].input_parameters == '{"url": "https://shop.example"}'
    assert send(runs.status(agent.id, started.id)).status in (RunStatus.QUEUING, RunStatus.STARTING, RunStatus.RUNNING)
    service.advance(60)
    ended = send(runs.status(agent.id, started.id))
    assert (ended.status, ended.data_count) == (RunStatus.SUCCESS, 2)
    assert ended.created <= ended.start_time <= ended.end_time
    assert [run.id for run in send(runs.list_runs(agent.id))] == [started.id]
    assert files.FileType.DELIVERED_FILE in [file.file_type for file in send(files.list_files(agent.id, started.id))]

    send(runs.delete(agent.id, started.id))
    with raises(404):
        send(runs.status(agent.id, started.id))


def test_stop_kill_and_restart(send: Send, service: Sandbox) -> None:
    agent = service.add_agent("Prices", duration=1000)
    service.plan_runs(
        agent.id, [RunPlan(duration=1000), RunPlan(duration=1000, ignores_stop=True), RunPlan(outcome="Failure")]
    )

    stopped, killed, failed = (send(runs.start(agent.id)).id for _ in range(3))
    send(runs.stop(agent.id, stopped))
    send(runs.kill(agent.id, killed))
    send(runs.kill(agent.id, killed))
    service.advance(30)

    assert send(runs.status(agent.id, stopped)).status is RunStatus.STOPPED
    assert send(runs.status(agent.id, killed)).status is RunStatus.STOPPED
    assert send(runs.status(agent.id, failed)).status is RunStatus.FAILURE
    restarted = send(runs.restart(agent.id, failed))
    assert restarted is None or restarted.id == failed
    assert len(service.ledger.restarts) == 1


def test_6_23_a_parallel_start_is_followed_by_the_id_it_answers(send: Send, service: Sandbox) -> None:
    agent = service.add_agent("Prices", duration=10)

    started = send(runs.start(agent.id, parallelism=4, parallel_max_concurrency=2, parallel_export="Separated"))
    service.advance(60)

    ended = send(runs.status(agent.id, started.id))
    assert (ended.status, ended.parallelism, ended.parallel_max_concurrency) == (RunStatus.SUCCESS, 4, 2)
    delivered = [file for file in send(files.list_files(agent.id, started.id)) if file.file_type == 1]
    assert len(delivered) == 4


def test_6_24_status_and_list_need_no_run_history_endpoint(send: Send, service: Sandbox) -> None:
    agent = service.add_agent("Prices", duration=10)
    service.plan_runs(agent.id, [RunPlan(outcome="Failure"), RunPlan(outcome="Failure"), RunPlan(duration=1000)])
    archived, failed, going = (send(runs.start(agent.id)).id for _ in range(3))
    service.advance(200)

    service.archive(agent.id, archived)

    run = send(runs.status(agent.id, archived))
    assert (run.status, run.table_type) == (RunStatus.FAILED, "history")
    assert {run.id: (run.status, run.table_type) for run in send(runs.list_runs(agent.id))} == {
        archived: (RunStatus.FAILED, "history"),
        failed: (RunStatus.FAILURE, "run"),
        going: (RunStatus.RUNNING, "run"),
    }


def test_a_synchronous_run(send: Send, service: Sandbox) -> None:
    agent = service.add_agent("Prices", records=[{"sku": "A1"}], duration=0.2)

    for form in ("object", "array", "text"):
        service.dialect.synchronous_response = form
        assert "A1" in str(send(runs.run_synchronously(agent.id)))


def test_agents_and_their_versions(send: Send, service: Sandbox) -> None:
    ids = {service.add_agent(f"Prices {number}", description="laptops").id for number in range(7)}
    one = min(ids)

    assert {agent.id for agent in send(agents.list_agents())} == ids
    page = send(agents.list_agents(name="PRICES", sort_column="name", descending=True, page=2, records_per_page=3))
    assert (len(page), page.total_record_count) == (3, 7)
    assert send(agents.get(one)).name == "Prices 0"
    assert {agent.id for agent in send(agents.search("laptops"))} == ids
    versions = send(agents.list_versions(one))
    send(agents.restore_version(one, versions[0].version, "the last one was worse"))
    assert len(send(agents.list_versions(one))) == len(versions) + 1


def test_a_conversation_with_the_agent_builder(send: Send, service: Sandbox) -> None:
    session = send(agent_builder.start(prompt="Population of all US states")).session_id
    service.advance(60)
    assert send(agent_builder.status(session)).status == "ready"
    page = send(agent_builder.events(session))
    assert [event.event_index for event in page.events] == list(range(len(page.events)))
    send(agent_builder.followup(session, "And the capitals, please"))
    service.advance(60)
    assert send(agent_builder.events(session, page.last_event_index)).events[0].event_index > page.last_event_index
    agent_id = send(agent_builder.finish(session, "States")).agent_id
    assert send(agent_builder.status(session)).agent_id == agent_id
    assert send(agent_builder.conversation(session)).agent_id == agent_id
    assert send(agents.get(agent_id)).name == "States"


def test_ending_a_session(send: Send, service: Sandbox) -> None:
    cancelled, stopped = (send(agent_builder.start(prompt="Population of all US states")).session_id for _ in "ab")

    send(agent_builder.cancel(cancelled))
    send(agent_builder.stop(stopped))

    assert send(agent_builder.status(cancelled)).status == "cancelled"
    assert send(agent_builder.status(stopped)).status == "ready"
    with raises(409):
        send(agent_builder.finish(cancelled, "States"))


def test_the_single_shot_builder(send: Send, service: Sandbox) -> None:
    service.settings.builder_era = "single_shot"

    session = send(agent_builder.start(prompt="Population of all US states")).session_id
    with pytest.raises(HttpStatusError) as refused:
        send(agent_builder.finish(session, "States"))
    assert refused.value.status_code in (404, 405)
    service.advance(60)

    assert send(agent_builder.status(session)).agent_id is not None
    send(agent_builder.stop(session))


def test_schedules(send: Send, service: Sandbox) -> None:
    agent = service.add_agent("Prices")
    definition = schedules.ScheduleDefinition(
        name="Often",
        schedule_type=schedules.ScheduleType.RUN_EVERY,
        run_every_count=30,
        run_every_period=schedules.RunEveryPeriod.MINUTES,
        input_parameters={"a": 1},
        is_enabled=True,
    )

    created = send(schedules.create(agent.id, definition))
    assert created.schedule_type is schedules.ScheduleType.RUN_EVERY
    renamed = definition.model_copy(update={"name": "Seldom"})
    assert send(schedules.update(agent.id, created.id, renamed)).name == "Seldom"
    send(schedules.disable(agent.id, created.id))
    assert send(schedules.get(agent.id, created.id)).is_enabled is False
    send(schedules.enable(agent.id, created.id))
    assert [one.id for one in send(schedules.list_schedules(agent.id))] == [created.id]
    assert {one.schedule_id for one in send(schedules.upcoming())} == {created.id}
    send(schedules.delete(agent.id, created.id))
    assert send(schedules.list_schedules(agent.id)) == []


def test_spaces_and_input_files(send: Send, service: Sandbox) -> None:
    agent = service.add_agent("Prices")

    (space, *_) = send(spaces.list_spaces())
    assert send(spaces.get(space.id)) == send(spaces.search(space.name.upper())) == space
    assert [one.id for one in send(spaces.list_agents(space.id))] == [agent.id]
    send(spaces.upload_input_file(space.id, "input.csv", b"url\nhttps://shop.example\n"))
    result = send(spaces.run_all(space.id, input_parameters={"a": 1}))
    assert [(one.agent_id, one.success) for one in result.results] == [(agent.id, True)]


def test_analytics_and_billing(send: Send, service: Sandbox) -> None:
    agent = service.add_agent("Prices", outcome="Failure", duration=1)
    assert send(analytics.latest_failure(agent.id)) is None
    run = send(runs.start(agent.id))
    service.advance(30)
    today, tomorrow = service.now.date(), service.now.date() + timedelta(days=1)

    assert send(analytics.latest_failure(agent.id)).run_id == run.id
    diagnostics = send(analytics.run_diagnostics(agent.id, run.id))
    assert (diagnostics.status, bool(diagnostics.possible_causes)) == (RunStatus.FAILURE, True)
    summary = send(analytics.runs_summary(start_date=today, end_date=tomorrow, include_details=True))
    assert summary.total_runs == 1
    assert [detail.run_id for detail in summary.failed_run_details] == [run.id]
    assert send(analytics.records_summary(agent_id=agent.id)).run_count == 1

    left = send(billing.credits()).available_credits
    assert send(billing.spending()).current_balance == left
    assert send(billing.history()).total_record_count == len(send(billing.history())) >= 1
    (cost,) = send(billing.list_agents(today, tomorrow))
    assert cost.agent_id == agent.id
    assert send(billing.agent_report(agent.id, today, tomorrow)).total_cost == cost.cost
    assert [one.run_id for one in send(billing.list_agent_runs(agent.id, today, tomorrow))] == [run.id]


def options(name: str) -> tuple[Any, ...]:
    """Every value a form of responses can have."""
    return get_args(Dialect.model_fields[name].annotation)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, value)
        for name in ("times", "statuses", "paged_key", "start_code", "restart_response")
        for value in options(name)
    ]
    + [("start_response", "record"), ("start_response", "run_id")],
)
def test_every_form_of_answers_reads_the_same(
    settings: ClientSettings, service: Sandbox, name: str, value: Any
) -> None:
    setattr(service.dialect, name, value)
    agent = service.add_agent("Prices", outcome="Failure", duration=1)

    with SequentumClient(settings) as client:
        started = client.send(runs.start(agent.id))
        service.advance(30)
        run = client.send(runs.status(agent.id, started.id))
        restarted = client.send(runs.restart(agent.id, started.id))
        listed = list(client.records(agents.list_agents()))

    assert (run.id, run.status, run.agent_id) == (started.id, RunStatus.FAILURE, agent.id)
    assert run.created is not None
    assert abs(run.created.timestamp() - service.now.timestamp()) < 3600
    assert restarted is None or restarted.id == started.id
    assert [one.id for one in listed] == [agent.id]


def test_the_error_of_a_start_that_names_no_run_says_so(settings: ClientSettings, service: Sandbox) -> None:
    service.dialect.start_response = "none"
    agent = service.add_agent("Prices")

    with SequentumClient(settings) as client, pytest.raises(UnexpectedResponse) as error:
        client.send(runs.start(agent.id))

    assert error.value.may_have_acted
    assert len(service.ledger.starts(agent.id)) == 1


@pytest.mark.parametrize("form", options("errors"))
def test_every_form_of_errors_is_understood(settings: ClientSettings, service: Sandbox, form: Any) -> None:
    service.dialect.errors = form

    with SequentumClient(settings) as client:
        with raises(404) as missing:
            client.send(agents.get(999_999))
        with pytest.raises(HttpStatusError):
            client.send(runs.start(999_999))

    assert missing.value.title
    assert "<" not in str(missing.value)


@pytest.mark.parametrize("form", options("finish_id"))
def test_every_form_of_finish_is_understood(settings: ClientSettings, service: Sandbox, form: Any) -> None:
    service.dialect.finish_id = form

    with SequentumClient(settings) as client:
        session = client.send(agent_builder.start(prompt="Population of all US states")).session_id
        service.advance(60)
        finished = client.send(agent_builder.finish(session, "States"))

    assert (finished.agent_id is None) is (form == "none")


def test_a_wrong_key_is_refused(service: Sandbox) -> None:
    with (
        SequentumClient(ClientSettings(api_key="sk-wrong-key", base_url=service.base_url)) as client,
        raises(401) as error,
    ):
        client.send(agents.list_agents())

    assert "sk-wrong-key" not in str(error.value)


def test_deleting_a_run_that_is_going_is_refused(settings: ClientSettings, service: Sandbox) -> None:
    agent = service.add_agent("Prices", duration=1000)

    with SequentumClient(settings) as client:
        run = client.send(runs.start(agent.id))
        with raises(400):
            client.send(runs.delete(agent.id, run.id))


async def test_a_long_poll_for_events_ends_without_news(service: Sandbox, settings: ClientSettings) -> None:
    service.settings.long_poll_seconds = 0.2

    async with AsyncSequentumClient(settings) as client:
        session = (await client.send(agent_builder.start(prompt="Population of all US states"))).session_id
        service.advance(60)
        last = (await client.send(agent_builder.events(session))).last_event_index
        page = await client.send(agent_builder.events(session, last))

    assert (page.events, page.last_event_index) == ([], last)


def test_screenshots_of_ten_megabytes_are_read(service: Sandbox, settings: ClientSettings) -> None:
    service.script_sessions("huge")

    with SequentumClient(settings) as client:
        session = client.send(agent_builder.start(prompt="Population of all US states")).session_id
        service.advance(600)
        seen, cursor = 0, agent_builder.BEFORE_FIRST_EVENT
        last = client.send(agent_builder.status(session)).last_event_index
        while cursor != last:
            page = client.send(agent_builder.events(session, cursor))
            seen, cursor = seen + len(page.events), page.last_event_index

    assert seen >= 5000


def test_the_sandbox_reads_every_member_that_a_start_can_have() -> None:
    # It ignores members that it does not know, as the service does: a start with one would prove nothing.
    options: dict[str, Any] = dict.fromkeys(inspect.signature(runs.start).parameters, 1) | {"input_parameters": "{}"}

    assert set(runs.start(**options).body or ()) <= {to_camel(name) for name in StartBody.model_fields}


def test_the_sandbox_has_every_status_of_the_client() -> None:
    assert {int(s): status_name(s) for s in RunStatus} == {int(s): s.name for s in run_plan.RunStatus}
