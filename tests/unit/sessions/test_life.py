"""The life of a task and its Agent Builder session: see ``tests/support/life.py``."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from airflow_provider_sequentum.airflow_compat import dag_run
from airflow_provider_sequentum.operators.agent_builder import AgentBuilderOperator
from tests.support.builder import FakeBuilder, first_event, use_builder
from tests.support.life import RETRIES, THOROUGH, TaskLife
from tests.support.service import bad_request, not_found, not_reached, response_lost

FOLLOWUPS = ("Add the price.", "Add the stock.")
GIVEN = "given"


class SessionLife(TaskLife):
    """Everything but how the session is started. Only this task speaks in its sessions."""

    verbs = ("start", "start", "status", "events", *["followup"] * 4, "finish", "finish", "cancel", "stop")
    service: FakeBuilder

    def begin(
        self,
        skew: int,
        *,
        is_single_shot: bool,
        followups: int,
        has_state_store: bool,
        first_loss: str | None = None,
        **arguments: Any,
    ) -> None:
        self.service = FakeBuilder(single_shot=is_single_shot, on_start=self.check_start)
        self.service.skew = timedelta(seconds=skew)
        if first_loss is not None:
            self.service.faults[first_loss] = [(response_lost, True)]
        self.followups = [] if is_single_shot else list(FOLLOWUPS[:followups])
        self.arguments = {**arguments, "followups": self.followups, "timeout": 3000, "poll_interval": 60}
        self.begin_task(has_state_store=has_state_store)
        use_builder(self.monkeypatch, self.worker)

    def teardown(self) -> None:
        if hasattr(self, "service"):
            self.service.ignores_cancel = False
        super().teardown()

    def operator(self) -> AgentBuilderOperator:
        return AgentBuilderOperator(task_id="build", retries=RETRIES, **self.arguments)

    def event(self) -> dict[str, Any]:
        assert self.deferral is not None
        self.worker.deadline = None
        return first_event(self.deferral.trigger)

    def stop_as_the_trigger_does(self, state: str) -> None:
        assert self.deferral is not None
        self.worker.deadline = None
        self.monkeypatch.setattr(dag_run, "state_of", lambda _: state)
        self.deferral.trigger.trigger_id = 1  # a triggerer runs it
        asyncio.run(self.deferral.trigger.stop())

    def failed(self, *, retried: bool) -> None:
        if self.is_said_to_be_lost():
            known = json.dumps(self.worker.kept)
            self.told |= {name for name in self.mine_going() if f'"{name}"' not in known}
        super().failed(retried=retried)

    def is_said_to_be_lost(self) -> bool:
        return "A session may have been started" in " ".join(self.worker.warned)

    # What has to hold

    def check_start(self, name: str) -> None:
        """Called for every session that this task starts."""
        known = json.dumps(self.worker.kept)
        for other, attempt in self.attempts.items():
            session = self.service.sessions[other]
            if other in self.told:
                continue
            if not session.is_over:
                assert f'"{other}"' not in known, f"session {other} goes on while another one is started"
                assert self.is_said_to_be_lost(), f"a lost session {other} goes on unsaid"
                self.told.add(other)
            elif f'"{other}"' not in known and self.arguments["on_ambiguous_start"] == "start":
                self.told.add(other)  # its start was lost, and the author wants another one then
            elif attempt == self.logical_attempt and self.task.has_state_store:
                assert session.status != "completed", f"session {other} went well and another one is started"
        self.attempts[name] = self.logical_attempt

    def mine_going(self) -> set[str]:
        return self.service.going()

    @invariant()
    def at_most_one_session_goes(self) -> None:
        if hasattr(self, "task"):
            assert len(self.mine_going() - self.told) <= 1

    @invariant()
    def each_message_is_sent_once_and_in_order(self) -> None:
        if hasattr(self, "task"):
            for name in self.service.sessions:
                said = self.said_in(name)
                assert said == self.followups[: len(said)], f"session {name}"

    def said_in(self, name: str) -> list[str]:
        """Return the messages of a session that the task's records tell of."""
        return self.service.sessions[name].messages

    def check_success(self, result: int | None) -> None:
        if result is None:
            [name] = self.mine_going() - self.told
            assert self.service.sessions[name].status == "ready"
            assert self.arguments.get("finish") is False
            self.told.add(name)  # it is another task's, or a person's, from now on
        else:
            [name] = [name for name, session in self.service.sessions.items() if session.agent_id == result]
            if self.service.single_shot:
                self.told.add(name)  # once its agent is saved, such a session completes by itself
            assert self.mine_going() <= self.told, "success while another session goes on"
        self.check_all_was_said(name)
        self.check_is_own(name)

    def check_all_was_said(self, name: str) -> None:
        assert self.said_in(name) == self.followups, "success without having said everything"

    def check_is_own(self, name: str) -> None:
        assert self.attempts[name] == self.logical_attempt, "success with a session of an earlier attempt"

    # What happens to the service

    @rule(looks=st.sampled_from([1, 2, 5, 100]))
    def plan_the_next_turns(self, looks: int) -> None:
        self.service.looks = looks

    @rule(refused=st.integers(1, 10))
    def the_session_is_not_found_for_a_while(self, refused: int) -> None:
        self.service.faults["status"] = [(not_found, False)] * refused

    @rule(refused=st.integers(1, 60))
    def a_session_cannot_be_cancelled(self, refused: int) -> None:
        for verb in ("cancel", "stop"):
            self.service.faults[verb] = [(bad_request, False)] * refused

    @rule(ignored=st.booleans())
    def a_cancellation_takes_no_effect(self, ignored: bool) -> None:
        self.service.ignores_cancel = ignored

    @rule(status=st.sampled_from(["cancelled", "error"]))
    def a_session_ends(self, status: str) -> None:
        for name in self.mine_going():
            self.service.sessions[name].status = status

    @rule()
    def what_is_over_is_torn_down(self) -> None:
        for session in self.service.sessions.values():
            session.is_torn_down = session.is_over

    # How the task ends otherwise

    @invariant()
    def a_skipped_task_has_cancelled_its_session(self) -> None:
        if hasattr(self, "task") and self.state == "skipped":
            assert self.arguments["on_ready"] == "cancel"
            assert self.mine_going() <= self.told or self.is_said()


class Sessions(SessionLife):
    """The task starts its sessions."""

    @initialize(
        deferrable=st.booleans(),
        is_single_shot=st.sampled_from([False, False, True]),
        followups=st.sampled_from([0, 1, 1, 2]),
        first_loss=st.sampled_from([None, "followup", "finish"]),
        has_state_store=st.sampled_from([True, True, False]),
        on_ready=st.sampled_from(["finish", "finish", "fail", "cancel", "leave"]),
        on_ambiguous_start=st.sampled_from(["fail", "start"]),
        on_lost_session=st.sampled_from(["fail", "start"]),
        skew=st.sampled_from([0, -86400, -45, 45, 86400]),
    )
    def begin_to_start(self, on_ready: str, **arguments: Any) -> None:
        ending = {"finish": False} if on_ready == "leave" else {"on_ready": on_ready}
        self.begin(**ending, **arguments)

    def operator(self) -> AgentBuilderOperator:
        self.arguments["prompt"] = f"Pull the prices, for the {self.inputs}th time"
        return super().operator()


class GivenSessions(SessionLife):
    """The task continues the session that another one has started."""

    forgotten = 0

    @initialize(
        deferrable=st.booleans(),
        is_single_shot=st.sampled_from([False, False, True]),
        followups=st.sampled_from([0, 1, 1, 2]),
        first_loss=st.sampled_from([None, "followup", "finish"]),
        has_state_store=st.sampled_from([True, True, False]),
        on_ready=st.sampled_from(["finish", "fail", "cancel"]),
        skew=st.sampled_from([0, -86400, -45, 45, 86400]),
    )
    def begin_to_continue(self, **arguments: Any) -> None:
        self.begin(session_id=GIVEN, on_ambiguous_start="fail", **arguments)
        self.service.begin(GIVEN)

    def check_start(self, name: str) -> None:
        raise AssertionError("a session was started although one was given")

    def check_is_own(self, name: str) -> None:
        assert name == GIVEN

    # A session that is given is found again without a record, and nothing tells what was said in it: the docs say so.

    def records_are_discarded(self) -> None:
        self.forgotten = len(self.service.sessions[GIVEN].messages)

    def said_in(self, name: str) -> list[str]:
        return super().said_in(name)[self.forgotten :]

    def check_all_was_said(self, name: str) -> None:
        if self.said_in(name) or not self.forgotten:  # a session that has ended takes no more messages
            super().check_all_was_said(name)


def test_a_second_interrupt_while_the_session_is_being_cancelled_says_that_it_may_be_running() -> None:
    life = GivenSessions()
    life.begin_to_continue(
        deferrable=False, is_single_shot=False, followups=0, has_state_store=True, on_ready="finish", skew=0
    )
    try:
        life.the_status_is_refused(refused=60)
        life.task.ti.max_tries = 0
        life.an_attempt_meets_an_error_that_no_one_foresaw(step=2, error=KeyboardInterrupt)
        assert life.told == {GIVEN}
    finally:
        life.teardown()


TestSessions = Sessions.TestCase
TestGivenSessions = GivenSessions.TestCase
TestSessions.settings = TestGivenSessions.settings = THOROUGH


def a_life(on_ready: str, *, deferrable: bool, followups: int) -> Sessions:
    life = Sessions()
    life.begin_to_start(
        on_ready,
        deferrable=deferrable,
        is_single_shot=False,
        followups=followups,
        first_loss=None,
        has_state_store=True,
        on_ambiguous_start="fail",
        on_lost_session="fail",
        skew=0,
    )
    return life


def test_a_message_whose_answer_no_one_saw_before_the_time_was_up_is_no_success() -> None:
    """No triggerer was there until the deferral's timeout, and then no time is left for a request."""
    life = a_life("leave", deferrable=True, followups=1)
    life.a_try_runs(death=None, calls_on_kill=False)
    for error in ("Trigger failure", "Trigger timeout"):
        life.the_deferral_breaks(None, error)
    life.teardown()


def test_a_lost_session_is_said_once_even_if_the_start_after_it_is_not_reached() -> None:
    life = a_life("finish", deferrable=False, followups=0)
    life.a_try_runs(death=2, calls_on_kill=False)
    assert (life.mine_going(), life.told) == ({"s1"}, set())
    life.clear()
    life.service.faults["start"] = [(not_reached, False)]
    life.a_try_runs(death=None, calls_on_kill=False)
    assert life.told == {"s1"}
    life.the_inputs_change()
    life.teardown()
    assert life.state == "success"
