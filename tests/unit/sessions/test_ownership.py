"""Whatever ends an attempt, no session goes on that no one owns, or the reader of the error is told of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from itertools import count
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_sequentum.airflow_compat.kill import AirflowTaskTerminated
from airflow_provider_sequentum.exceptions import (
    AgentBuilderEnded,
    AgentBuilderException,
    AgentBuilderTimeout,
    SequentumConnectionException,
    SequentumException,
    SequentumRequestRefused,
    SequentumUnavailable,
)
from airflow_provider_sequentum.hooks.port import AttemptPort
from airflow_provider_sequentum.reporting.links import SESSION_LINK_KEY
from tests.support import builder
from tests.support.builder import BuildTask, FakeBuilder, FakeSession, both_modes, first_event, use_builder
from tests.support.service import ErrorOf, bad_request, not_found, response_lost, server_error, unauthorized
from tests.support.worker import Killed, Worker

build = partial(builder.build, followups=["one"])


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> FakeBuilder:
    fake = FakeBuilder(looks=2)
    use_builder(monkeypatch, Worker(fake))
    return fake


# At every step


def raising(error: type[BaseException]) -> Callable[[], None]:
    def happens() -> None:
        raise error("at this step")

    return happens


def was_interrupted(worker: Worker) -> bool:
    return worker.steps_left is None


def says_so(error: BaseException) -> bool:
    return "may be running and costing credits" in " ".join([str(error), *getattr(error, "__notes__", [])])


@both_modes
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, AirflowTaskTerminated])
@pytest.mark.parametrize("durable", [True, False], ids=["store", "no store"])
def test_an_error_at_any_step_leaves_no_session(
    monkeypatch: pytest.MonkeyPatch, deferrable: bool, error: type[BaseException], durable: bool
) -> None:
    told = 0
    for step in count():
        service = FakeBuilder(looks=2)
        worker = Worker(service)
        with pytest.MonkeyPatch.context() as patch:
            use_builder(patch, worker)
            worker.interrupt, worker.steps_left = raising(error), step
            try:
                assert service.task(durable=durable).run(build(deferrable=deferrable)) == 700
            except error as raised:
                assert service.going() == set() or says_so(raised), step  # noqa: PT017
                told += bool(service.going())
            if not was_interrupted(worker):
                break  # the work has no further step
    assert step > 12
    # Only while the answer to the start is on its way can no one know the session.
    assert told <= 1


@both_modes
def test_an_error_at_any_step_of_a_task_that_is_retried_builds_one_agent(deferrable: bool) -> None:
    for step in count():
        service = FakeBuilder(looks=2)
        worker = Worker(service)
        with pytest.MonkeyPatch.context() as patch:
            use_builder(patch, worker)
            worker.interrupt, worker.steps_left = raising(RuntimeError), step
            world = service.task(retries=1)
            try:
                assert world.run(build(deferrable=deferrable)) == 700
            except RuntimeError as raised:
                is_told = says_so(raised)
            else:
                if was_interrupted(worker):
                    continue  # it happened in the triggerer, and the worker took over
                break
            world.next_attempt()
            try:
                assert world.run(build(deferrable=deferrable)) >= 700
            except AgentBuilderEnded as refused:
                assert refused.reason == "ambiguous"  # noqa: PT017
                assert is_told
            else:
                assert service.going() == set()
                assert [session.messages for session in service.sessions.values() if session.agent_id] == [["one"]]
    assert step > 12


@both_modes
def test_a_worker_that_dies_at_any_step_is_followed_by_an_attempt_that_owns_its_session(deferrable: bool) -> None:
    for step in count():
        service = FakeBuilder(looks=2)
        worker = Worker(service)
        with pytest.MonkeyPatch.context() as patch:
            use_builder(patch, worker)
            worker.interrupt, worker.steps_left = raising(Killed), step
            # A dead worker cleans up nothing: whatever it does after its death meets its death again.
            patch.setattr("airflow_provider_sequentum.sessions.attempt.cancel_session", raising_call(Killed))
            world = service.task(retries=1)
            try:
                assert world.run(build(deferrable=deferrable)) == 700
            except Killed:
                assert was_interrupted(worker)
            else:
                if was_interrupted(worker):
                    continue  # it was the triggerer that died, and another one took over
                break
        with pytest.MonkeyPatch.context() as patch:
            worker.steps_left = None
            use_builder(patch, worker)
            world.next_attempt()
            try:
                assert world.run(build(deferrable=deferrable)) == 700
            except AgentBuilderEnded as refused:
                assert refused.reason == "ambiguous"  # noqa: PT017
                assert says_so(refused)  # noqa: PT017
            else:
                assert service.going() == set()
                assert service.agents == [700]
    assert step > 12


def raising_call(error: type[BaseException]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        raise error

    return call


# What is refused, and what cannot be written


@both_modes
@pytest.mark.parametrize("error", [unauthorized, bad_request])
@pytest.mark.parametrize("retries", [0, 3])
def test_a_status_that_is_refused_for_good_ends_the_session(
    service: FakeBuilder, deferrable: bool, error: ErrorOf, retries: int
) -> None:
    service.broken["status"] = error
    with pytest.raises(SequentumException) as caught:
        service.task(retries=retries).run(build(deferrable=deferrable))
    assert isinstance(caught.value, SequentumConnectionException | SequentumRequestRefused)
    assert service.sessions["s1"].status == "cancelled"
    # It cannot be seen, because the status is refused.
    assert says_so(caught.value)


@both_modes
@pytest.mark.parametrize("key", ["session_id", "session", SESSION_LINK_KEY])
@pytest.mark.parametrize("retries", [0, 1])
def test_an_xcom_that_cannot_be_pushed_ends_the_session(
    service: FakeBuilder, monkeypatch: pytest.MonkeyPatch, deferrable: bool, key: str, retries: int
) -> None:
    verb = "push_link" if key == SESSION_LINK_KEY else "push"
    push = getattr(AttemptPort, verb)

    def failing(port: AttemptPort, name: str, value: Any) -> None:
        if name == key:
            raise ConnectionError("The API server is away.")
        push(port, name, value)

    monkeypatch.setattr(AttemptPort, verb, failing)
    world = service.task(retries=retries)
    with pytest.raises(ConnectionError) as caught:
        world.run(build(deferrable=deferrable))
    if retries:
        assert "The next attempt joins it" in "".join(caught.value.__notes__)
        monkeypatch.setattr(AttemptPort, verb, push)
        world.next_attempt()
        assert world.run(build(deferrable=deferrable)) == 700
        assert service.count("start") == 1
    else:
        assert service.going() == set()
        assert "has been cancelled" in "".join(caught.value.__notes__)


@both_modes
@pytest.mark.parametrize("cannot_write", [1, 2, 3])
def test_a_state_store_that_cannot_be_written_ends_the_session(
    service: FakeBuilder, monkeypatch: pytest.MonkeyPatch, deferrable: bool, cannot_write: int
) -> None:
    world, calls = service.task(retries=3), count(1)
    write = world.store.set

    def failing(key: str, value: Any, **how: Any) -> None:
        if next(calls) >= cannot_write:
            raise ConnectionError("The API server is away.")
        write(key, value, **how)

    monkeypatch.setattr(world.store, "set", failing)
    with pytest.raises(ConnectionError):
        world.run(build(deferrable=deferrable))
    assert service.going() == set()
    assert service.count("start") == (0 if cannot_write == 1 else 1)


def test_a_lost_answer_to_the_start_says_that_a_session_may_be_running_and_how_to_look(service: FakeBuilder) -> None:
    for choice, error in (("fail", AgentBuilderEnded), ("start", SequentumException)):
        service.faults["start"] = [(response_lost, True)]
        with pytest.raises(error) as caught:
            service.task(retries=1).run(build(on_ambiguous_start=choice))
        assert says_so(caught.value)
        assert "The API cannot list sessions" in str(caught.value)
        assert "in Sequentum Cloud" in str(caught.value)


@both_modes
def test_a_cancellation_that_fails_is_repeated_and_then_said(service: FakeBuilder, deferrable: bool) -> None:
    service.ignores_cancel = True
    with pytest.raises(AgentBuilderEnded, match=r"on_ready='fail'.*may be running and costing credits"):
        service.task().run(build(deferrable=deferrable, on_ready="fail"))
    assert service.count("cancel") > 2


# The deadline


@both_modes
def test_a_deadline_bounds_everything_that_comes_before_the_cancellation(
    service: FakeBuilder, deferrable: bool
) -> None:
    service.looks = 10_000
    world = service.task()
    started = service.clock.now
    run = build(deferrable=deferrable, timeout=20, poll_interval=5)
    service.faults["status"] = [None, *[(server_error, False)] * 8]
    with pytest.raises(AgentBuilderTimeout):
        world.run(run)
    assert service.going() == set()
    assert service.clock.now - started < timedelta(seconds=40)


@both_modes
@pytest.mark.parametrize("verb", ["followup", "finish"])
def test_it_bounds_the_looking_after_a_lost_message_too(service: FakeBuilder, deferrable: bool, verb: str) -> None:
    service.broken[verb] = response_lost
    world, started = service.task(), service.clock.now
    with pytest.raises(AgentBuilderTimeout):
        world.run(build(deferrable=deferrable, timeout=40))
    assert service.going() == set()
    assert service.clock.now - started < timedelta(seconds=60)


@both_modes
@pytest.mark.parametrize("keep", [False, True])
def test_a_finish_found_done_at_the_deadline_is_a_success(service: FakeBuilder, deferrable: bool, keep: bool) -> None:
    service.faults["finish"] = [(response_lost, True)]
    finish = service._finish

    def late(session: Any, call: Any) -> dict[str, Any]:
        service.clock.sleep(500)
        return finish(session, call)

    service._finish = late  # type: ignore[method-assign]
    world = service.task()
    assert world.run(build(deferrable=deferrable, timeout=100, keep_session=keep)) == 700
    assert world.xcoms["session"]["status"] == "completed"


def test_a_single_shot_build_that_ends_before_it_can_be_cancelled_is_a_success(service: FakeBuilder) -> None:
    service.single_shot, service.looks = True, 3
    service.faults["stop"] = [(server_error, False)] * 9
    world = service.task()
    assert world.run(build(followups=None, timeout=15)) == 700


@pytest.mark.parametrize(
    ("deferrable", "end"),
    [(False, server_error), (True, server_error), (False, Killed)],
    ids=["an outage", "an outage in the triggerer", "a death"],
)
@pytest.mark.parametrize("on_lost_session", ["fail", "start"])
def test_an_agent_that_an_attempt_has_seen_is_returned_by_the_next_one(
    service: FakeBuilder, deferrable: bool, end: Any, on_lost_session: str
) -> None:
    """A single-shot server forgets a session soon after its end, and its agent is built."""
    service.single_shot = True
    status = service._status

    def ending(session: FakeSession, call: Any) -> dict[str, Any]:
        if session.agent_id is not None:
            service.broken["status"] = end
        return status(session, call)

    service._status = ending  # type: ignore[method-assign]
    operator = build(followups=None, deferrable=deferrable, on_lost_session=on_lost_session)
    world = service.task(retries=1)
    with pytest.raises((SequentumUnavailable, Killed)):
        world.run(operator)
    service.broken.clear()
    service.sessions["s1"].is_torn_down = True
    world.next_attempt()
    assert world.run(build(followups=None, deferrable=deferrable, on_lost_session=on_lost_session)) == 700
    assert len(service.sessions) == 1


def an_outage(service: FakeBuilder, world: BuildTask) -> dict[str, Any]:
    service.faults["status"] = [None, *[(server_error, False)] * 400]
    return {}


def a_timeout(service: FakeBuilder, world: BuildTask) -> dict[str, Any]:
    service.looks = 1000
    return {"timeout": 15}


def a_lost_xcom(service: FakeBuilder, world: BuildTask) -> dict[str, Any]:
    push = world.ti.xcom_push

    def failing(key: str, value: Any) -> None:
        if service.going():
            raise RuntimeError("not pushed")
        push(key, value)

    world.ti.xcom_push = failing  # type: ignore[method-assign]
    return {}


def an_unexpected_error_at_the_start(service: FakeBuilder, world: BuildTask) -> dict[str, Any]:
    start = service._start

    def broken(call: Any) -> dict[str, Any]:
        start(call)
        raise RuntimeError("not read")

    service._start = broken  # type: ignore[method-assign]
    return {}


ENDS = [an_outage, a_timeout, a_lost_xcom, an_unexpected_error_at_the_start]


@both_modes
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("durable", [True, False], ids=["store", "no store"])
def test_no_retry_starts_a_session_beside_one_that_could_not_be_ended(
    service: FakeBuilder, deferrable: bool, end: Callable[..., dict[str, Any]], durable: bool
) -> None:
    world = service.task(retries=1, durable=durable)
    service.broken["cancel"] = server_error
    parameters = end(service, world)
    with pytest.raises((RuntimeError, SequentumException)) as caught:
        world.run(build(followups=None, deferrable=deferrable, **parameters))
    if not durable:
        # No later attempt could know of the session, so Airflow must not make one.
        assert isinstance(caught.value, AgentBuilderEnded)
        assert caught.value.reason == "ambiguous"
        assert says_so(caught.value)
        return
    world.next_attempt()
    with suppress(RuntimeError, SequentumException):
        world.run(build(followups=None, deferrable=deferrable, **parameters))
    assert len(service.sessions) == 1


@both_modes
@pytest.mark.parametrize("end", ENDS)
def test_without_a_store_the_last_attempt_fails_with_what_happened(
    service: FakeBuilder, deferrable: bool, end: Callable[..., dict[str, Any]]
) -> None:
    world = service.task(durable=False)
    service.broken["cancel"] = server_error
    parameters = end(service, world)
    with pytest.raises((SequentumUnavailable, AgentBuilderTimeout, RuntimeError)) as caught:
        world.run(build(followups=None, deferrable=deferrable, **parameters))
    assert says_so(caught.value)


@both_modes
@pytest.mark.parametrize("status", ["error", "cancelled"])
@pytest.mark.parametrize("agent_id", [None, 7])
def test_a_session_that_ends_badly_says_whether_an_agent_exists(
    service: FakeBuilder, deferrable: bool, status: str, agent_id: int | None
) -> None:
    """A single-shot server saves the agent as soon as there is one, and an abort does not remove it."""
    service.single_shot = True
    start = service._start

    def ends_badly(call: Any) -> dict[str, Any]:
        answer = start(call)
        session = service.sessions[answer["sessionId"]]
        session.status, session.agent_id, session.error = status, agent_id, "it broke"
        return answer

    service._start = ends_badly  # type: ignore[method-assign]
    with pytest.raises(AgentBuilderException) as caught:
        service.task().run(build(followups=None, deferrable=deferrable))
    assert ("No agent was saved." in str(caught.value)) == (agent_id is None)
    assert ("Agent 7 exists." in str(caught.value)) == (agent_id is not None)
    assert caught.value.agent_id == agent_id


def test_the_start_itself_may_take_longer_than_the_deadline(service: FakeBuilder) -> None:
    start = service._start

    def slow(call: Any) -> dict[str, Any]:
        service.clock.sleep(500)
        return start(call)

    service._start = slow  # type: ignore[method-assign]
    with pytest.raises(AgentBuilderTimeout):
        service.task().run(build(timeout=100))
    assert service.going() == set()


def test_a_retry_that_cannot_look_before_its_deadline_cancels_the_session(service: FakeBuilder) -> None:
    service.broken["finish"] = server_error
    world = service.task(retries=1)
    with pytest.raises(SequentumException):
        world.run(build(timeout=1000))
    world.next_attempt()

    def slow(call: Any) -> Any:
        service.broken.clear()
        service.clock.sleep(500)
        return server_error(call)

    service.broken["status"] = slow
    with pytest.raises(AgentBuilderTimeout, match="has been cancelled"):
        world.run(build(timeout=100))


@both_modes
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, AirflowTaskTerminated])
def test_an_error_while_the_answer_to_the_start_is_read_says_that_a_session_may_be_running(
    service: FakeBuilder, deferrable: bool, error: type[BaseException]
) -> None:
    start = service._start

    def interrupted(call: Any) -> dict[str, Any]:
        start(call)
        raise error("in the middle of the answer")

    service._start = interrupted  # type: ignore[method-assign]
    with pytest.raises(error) as caught:
        service.task(retries=1).run(build(deferrable=deferrable))
    assert says_so(caught.value)


# Two clocks

SKEWS = [timedelta(0), timedelta(seconds=-45), timedelta(seconds=45), timedelta(days=1), timedelta(days=-1)]


@both_modes
@pytest.mark.parametrize("skew", SKEWS, ids=str)
@pytest.mark.parametrize("tells_time", [True, False])
def test_the_service_s_clock_may_be_wrong(
    service: FakeBuilder, deferrable: bool, skew: timedelta, tells_time: bool
) -> None:
    service.skew, service.tells_time = skew, tells_time
    world = service.task()
    assert world.run(build(deferrable=deferrable, timeout=600)) == 700
    took = (service.clock.now - world.ti.start_date).total_seconds()
    assert 0 <= world.xcoms["session"]["elapsed_seconds"] <= took
    assert service.sessions["s1"].messages == ["one"]


@pytest.mark.parametrize("skew", SKEWS, ids=str)
def test_the_age_of_a_given_session_is_told_by_the_service_s_clock(service: FakeBuilder, skew: timedelta) -> None:
    service.skew = skew
    service.begin("s1", status="ready")
    service.clock.sleep(300)
    world = service.task()
    assert world.run(build(session_id="s1", followups=None)) == 700
    assert 299 <= world.xcoms["session"]["elapsed_seconds"] < 310


# Cleared, with the state store wiped


@pytest.mark.parametrize("wipes_store", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_a_cleared_task_starts_over_or_continues_the_session_that_it_was_given(
    service: FakeBuilder, wipes_store: bool, given: bool
) -> None:
    start: dict[str, Any] = {"session_id": "s1"} if given else {}
    if given:
        service.begin("s1")
    world = service.task()
    with pytest.raises(TaskDeferred) as deferred:
        build(deferrable=True, **start).execute(world.context)
    assert world.xcoms["session_id"] == "s1"
    arguments = deferred.value.trigger.serialize()[1]
    assert (arguments["stop_on_kill"], arguments["successor_may_join"]) == (True, given)
    world.clear(wipes_store=wipes_store)
    if wipes_store and not given:
        service.sessions["s1"].status = "cancelled"  # by the trigger: see the trigger's own tests
    assert world.run(build(deferrable=True, **start)) == 700
    assert service.going() == set()
    assert world.xcoms["session_id"] == ("s1" if given else "s2")


# What is sent and stored stays small


def test_record_event_and_trigger_stay_small_and_the_summary_bounded(service: FakeBuilder) -> None:
    start = service._start

    def with_findings(call: Any) -> dict[str, Any]:
        answer = start(call)
        session = service.sessions["s1"]
        session.tell("data_extracted", columns=["c" * 500] * 100, rows=[["\U0001f600" * 900] * 100] * 9, totalRows=9)
        session.tell("user_message", message="m" * 100_000)
        return answer

    service._start = with_findings  # type: ignore[method-assign]
    world = service.task(retries=1)
    with pytest.raises(TaskDeferred) as deferred:
        build(deferrable=True, prompt="p" * 5000, on_ready="finish").execute(world.context)
    event = first_event(deferred.value.trigger)
    assert len(world.store.values["sequentum_session"]) < 4096
    assert len(str(deferred.value.trigger.serialize())) < 4096
    assert len(str(deferred.value.kwargs)) < 4096
    assert len(str(event)) < 2048
    with pytest.raises(TaskDeferred):
        world.resume(build(deferrable=True), deferred.value, event)
    summary = world.xcoms["session"]
    assert (summary["total_rows"], summary["is_cut"]) == (9, True)
    world.next_attempt()  # nothing of what was read is left but the record
    assert world.run(build(prompt="p" * 5000, deferrable=False)) == 700
    again = world.xcoms["session"]
    assert {name: again[name] for name in ("columns", "rows", "total_rows")} == {
        name: summary[name] for name in ("columns", "rows", "total_rows")
    }
    assert len(repr(again)) < 48_000


def test_a_404_is_no_end(service: FakeBuilder) -> None:
    service.looks = 1000
    service.ignores_cancel = True
    world = service.task()
    service.faults["status"] = [None, None]
    run = build(timeout=30)
    cancel = service._cancel

    def then_404(session: Any, call: Any) -> dict[str, Any]:
        service.faults["status"] = [(not_found, False)]
        return cancel(session, call)

    service._cancel = then_404  # type: ignore[method-assign]
    with pytest.raises(AgentBuilderTimeout, match="may be running and costing credits"):
        world.run(run)


# A session that the service does not show may go on all the same


@both_modes
@pytest.mark.parametrize("single_shot", [False, True])
@pytest.mark.parametrize("retries", [0, 1])
def test_a_session_that_is_not_shown_is_cancelled_all_the_same(
    service: FakeBuilder, deferrable: bool, single_shot: bool, retries: int
) -> None:
    service.looks, service.single_shot = 1000, single_shot
    service.broken["status"] = not_found
    with pytest.raises(AgentBuilderEnded, match="was asked to end"):
        service.task(retries).run(build(deferrable=deferrable, followups=[]))
    assert service.going() == set()


def test_a_session_that_is_not_shown_and_not_cancelled_may_go_on(service: FakeBuilder) -> None:
    service.looks = 1000
    service.broken["status"], service.broken["cancel"] = not_found, unauthorized
    with pytest.raises(AgentBuilderEnded, match="may be running and costing credits"):
        service.task().run(build())


def test_a_session_that_is_gone_everywhere_is_said_to_be_lost_and_nothing_else(service: FakeBuilder) -> None:
    service.broken |= dict.fromkeys(("status", "cancel", "stop"), not_found)
    with pytest.raises(AgentBuilderEnded, match=r"on_lost_session='start'\. \(connection 'sequentum_default'\)$"):
        service.task().run(build())


def test_no_session_is_started_beside_one_that_is_just_not_shown(
    service: FakeBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.looks = 1000
    world = service.task(retries=1)
    with pytest.raises(TaskDeferred):
        build(deferrable=True).execute(world.context)
    world.next_attempt()
    service.faults["status"] = [(not_found, False)] * 14
    service.looks = 2
    assert world.run(build(on_lost_session="start")) == 700
    assert service.sessions["s1"].status == "cancelled"


def test_a_session_that_is_to_be_kept_is_kept_also_where_it_is_not_shown(service: FakeBuilder) -> None:
    service.looks = 1000
    service.broken["status"] = not_found
    with pytest.raises(AgentBuilderEnded):
        service.task().run(build(keep_session=True))
    assert service.count("cancel") == 0
