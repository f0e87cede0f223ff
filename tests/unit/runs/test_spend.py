"""The credit limit among the tasks of a DAG run, and the credits that must be left."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_sequentum.api.billing import Credits, RunCost
from airflow_provider_sequentum.api.errors import HttpStatusError
from airflow_provider_sequentum.exceptions import (
    AgentRunStartAmbiguous,
    CreditLimitReached,
    CreditsTooLow,
    SequentumRequestRefused,
    SequentumUnavailable,
)
from airflow_provider_sequentum.jobs.siblings import Announced, Announcement, PlannedStart
from airflow_provider_sequentum.runs.record import RunConfig, RunRecord
from airflow_provider_sequentum.runs.spend import (
    Bill,
    Tally,
    Verdict,
    bill_of,
    check_credits,
    planned_starts,
    read_bill,
    reserve_credits,
    start_of,
    tally,
)
from airflow_provider_sequentum.runs.start import acquire_run
from tests.support.errors import raises
from tests.support.service import START, Clock, FakeService, Plan, bad_request, response_lost, unauthorized
from tests.support.worker import Killed, Worker, answering

TEN = Decimal(10)
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def bills(*costs: float, until: datetime = START, ended: bool = True) -> list[dict[str, Any]]:
    """Return the bills of runs 1, 2, ..., one an hour, the last one an hour ago."""
    rows = []
    for number, cost in enumerate(costs, 1):
        at = (until - timedelta(hours=len(costs) + 1 - number)).isoformat()
        rows.append({"runId": number, "date": at, "startTime": at, "endTime": at if ended else None, "cost": cost})
    return rows


def rows(*costs: float, **more: Any) -> list[RunCost]:
    return [RunCost.model_validate(row) for row in bills(*costs, **more)]


def config(**more: Any) -> RunConfig:
    return RunConfig.model_validate({"agent_id": 7, "credit_limit": 10, **more})


def reserve(worker: Worker, asked: RunConfig, before: tuple[PlannedStart, ...]) -> tuple[PlannedStart, ...]:
    return reserve_credits(worker, asked, [asked.agent_id], f"Agent {asked.agent_id}", before)


def starts(*credits_: float | None, agent_id: int = 7) -> tuple[PlannedStart, ...]:
    return tuple(PlannedStart(agent_id=agent_id, credits=each, run_id=900 + n) for n, each in enumerate(credits_))


def other(task_id: str, *made: float, pending: float | None = None, agent_id: int = 7) -> Announcement:
    asks = () if pending is None else (PlannedStart(agent_id=agent_id, credits=pending),)
    return Announcement(task_id=task_id, starts=starts(*made, agent_id=agent_id), pending=asks)


# Decisions


@pytest.mark.parametrize(
    ("sums", "verdict", "at_last"),
    [
        ({}, Verdict.START, Verdict.START),
        ({"started": 8}, Verdict.START, Verdict.START),
        ({"started": 9}, Verdict.REFUSE, Verdict.REFUSE),
        ({"billed": 8, "silent": 1}, Verdict.REFUSE, Verdict.REFUSE),
        ({"started": 6, "undecided": 2}, Verdict.START, Verdict.START),
        ({"started": 6, "undecided": 4, "ahead": 2}, Verdict.WAIT, Verdict.REFUSE),
        ({"started": 6, "undecided": 4, "ahead": 4}, Verdict.YIELD, Verdict.REFUSE),
        ({"started": 6, "undecided": 4}, Verdict.WAIT, Verdict.REFUSE),
        ({"awaits_announcements": True}, Verdict.WAIT, Verdict.START),
        ({"started": 9, "awaits_announcements": True}, Verdict.REFUSE, Verdict.REFUSE),
        ({"undecided": 10, "ahead": 10, "awaits_announcements": True}, Verdict.WAIT, Verdict.REFUSE),
    ],
)
def test_what_the_announcements_mean(sums: dict[str, Any], verdict: Verdict, at_last: Verdict) -> None:
    known: dict[str, Any] = {name: value if value is True else Decimal(value) for name, value in sums.items()}
    found = Tally(Decimal(2), **known)
    assert found.decide(TEN) is verdict
    assert found.decide(TEN, is_last_look=True) is at_last


money = st.decimals(min_value=0, max_value=20, places=1)


@given(st.lists(money, min_size=7, max_size=7), st.booleans(), st.booleans())
def test_no_start_is_decided_above_the_limit(amounts: list[Decimal], awaits_announcements: bool, is_last: bool) -> None:
    forecast, billed, started, silent, ahead, behind, limit = amounts
    found = Tally(forecast, billed, started, 1, silent, ahead, ahead + behind, awaits_announcements)
    verdict = found.decide(limit, is_last_look=is_last)
    total = forecast + billed + started + silent + ahead + behind
    assert verdict is not Verdict.START or total <= limit
    assert verdict is not Verdict.REFUSE or total > limit
    assert not is_last or verdict in (Verdict.START, Verdict.REFUSE)


def test_ten_tenths_are_one() -> None:
    """Amounts are added as decimals: in binary, ten tenths are not one."""
    found = tally(other("b", pending=0.1), Announced([other("a", *[0.1] * 9)]), [Bill(7, {})], Decimal("0.1"))
    assert found.certain == 1
    assert found.decide(Decimal(1)) is Verdict.START


def test_the_tally_of_a_dag_run_has_all_agents_and_all_tries() -> None:
    announced = Announced([other("a", 1, 2, agent_id=8), other("c", pending=4)], silent_running=1, silent_ended=2)
    own = Announcement(task_id="b", starts=starts(0.5, None), pending=(PlannedStart(agent_id=7, credits=8),))
    found = tally(own, announced, [Bill(7, {1: Decimal(99)})], Decimal(8))
    assert found == Tally(
        forecast=Decimal(8),
        started=Decimal("11.5"),
        starts=4,
        silent=Decimal(16),
        undecided=Decimal(4),
        awaits_announcements=True,
    )
    assert tally(own, announced, [Bill(7, {})], Decimal(8), is_last_look=True).silent == 24


def test_mapped_siblings_come_in_the_order_of_their_map_indexes() -> None:
    siblings = [other("a", pending=1).updated(map_index=index) for index in (10, 2, 0)]
    found = tally(other("a", pending=1).updated(map_index=5), Announced(siblings), [Bill(7, {})], Decimal(1))
    assert [found.ahead, found.undecided] == [2, 3]


def test_the_tally_of_a_day_has_the_agents_bills_and_what_is_not_billed_yet() -> None:
    bill = Bill(7, {900: Decimal(3)}, {900}, since=NOON, spent=Decimal(5))
    announced = Announced([other("a", 1, 2), other("c", 50, agent_id=8), other("d", pending=60, agent_id=8)])
    found = tally(other("b", pending=1), announced, [bill], Decimal(1))
    assert [found.billed, found.started, found.starts, found.undecided] == [5, 2, 1, 0]


@pytest.mark.parametrize(
    ("billed", "ended", "cost"),
    [
        (None, False, 3),
        (1, False, 3),
        (5, False, 5),
        (1, True, 1),
        (5, True, 5),
    ],
)
@pytest.mark.parametrize("since", [None, NOON])
def test_a_start_counts_with_its_bill_once_its_run_has_ended_and_with_at_least_its_forecast_before(
    billed: int | None, ended: bool, cost: int, since: datetime | None
) -> None:
    """Nor is anything counted twice: the bill is in what was billed in the period."""
    costs = {} if billed is None else {900: Decimal(billed)}
    bill = Bill(
        7, costs, {900} if ended else (), since=since, spent=sum(costs.values(), Decimal(0)) if since else TEN * 0
    )
    found = tally(other("b", pending=1), Announced([other("a", 3)]), [bill], Decimal(1))
    assert found.billed + found.started == cost


@pytest.mark.parametrize(
    ("listed", "forecast"),
    [
        (rows(), TEN),
        (rows(2, 4), Decimal(3)),
        (rows(*[100] * 5, *[1] * 20), Decimal(1)),
        ([*rows(2, 4), *rows(6)], Decimal(6)),  # run 1 is billed in two parts
        ([*rows(2), RunCost(run_id=9, cost=Decimal("0.1"), date=START)], Decimal(2)),  # run 9 has not ended
        (rows(2, 4, ended=False), Decimal(3)),  # a service that never states the end
        ([RunCost(run_id=1)], TEN),
    ],
)
def test_the_forecast_is_the_mean_of_the_last_runs(listed: list[RunCost], forecast: Decimal) -> None:
    assert [start.credits for start in planned_starts([bill_of(7, listed, None)], TEN)] == [float(forecast)]


def test_what_is_billed_without_a_date_counts() -> None:
    listed = [*rows(1, 2, until=NOON + timedelta(hours=1)), RunCost(run_id=8, cost=Decimal(4))]
    assert bill_of(7, listed, NOON).spent == 6
    assert bill_of(7, listed, NOON - timedelta(hours=9)).spent == 7
    assert bill_of(7, listed, None).spent == 0


def test_the_start_of_a_period() -> None:
    there = datetime(2026, 12, 1, 1, 30, tzinfo=UTC).astimezone(tz=None)
    assert start_of("dag_run", there) is None
    assert start_of("day", there) == datetime(2026, 12, 1, tzinfo=UTC)
    assert start_of("month", NOON) == datetime(2026, 11, 1, tzinfo=UTC)


# The procedures


@pytest.mark.parametrize(
    ("left", "wanted", "shown"),
    [("10", 10, "10 credits"), ("10.50", 10, "10.5 credits"), ("0", 0, "0 credits"), ("1", 1, "1 credit")],
)
def test_enough_credits(left: str, wanted: float, shown: str) -> None:
    port = answering(Credits(available_credits=Decimal(left)))
    check_credits(port, wanted, "Agent 7")
    assert port.said == [f"The account has {shown} left."]


def test_too_few_credits_say_the_balance() -> None:
    with pytest.raises(
        CreditsTooLow, match=r"Agent 7 was not started: the account has 9\.99 credits left, fewer than min_credits=10"
    ):
        check_credits(answering(Credits(available_credits=Decimal("9.99"))), 10, "Agent 7")


def test_a_balance_that_cannot_be_read_is_a_failure() -> None:
    with raises(403):
        check_credits(answering(HttpStatusError("No billing", status_code=403)), 10, "Agent 7")


def test_without_a_limit_nothing_is_asked_or_announced(worker: Worker) -> None:
    assert reserve(worker, config(credit_limit=None), ()) == ()
    assert (worker.sent, worker.announced) == ([], [])


def test_a_start_is_announced_before_the_others_are_read(service: FakeService, worker: Worker) -> None:
    service.bills = bills(2, 4)
    made = reserve(worker, config(), starts(1))
    assert [each.credits for each in made] == [1, 3]
    asking, decided = worker.announced
    assert asking.pending == made[1:]
    assert (asking.starts, decided.starts, decided.pending) == (made[:1], made, ())
    assert service.requests == ["billing"]
    assert worker.said[-1] == (
        "Within the credit limit: a forecast of 3 credits (the mean of its last 2 billed runs) + 1 for 1 start of this "
        "DAG run = 4, within credit_limit=10 (credit_limit_period='dag_run')."
    )


def test_a_refused_task_withdraws_and_says_the_arithmetic(service: FakeService, worker: Worker) -> None:
    service.bills = bills(3)
    worker.others = Announced([other("a", 3, 3)], silent_ended=1)
    with pytest.raises(CreditLimitReached) as caught:
        reserve(worker, config(), ())
    assert str(caught.value) == (
        "Agent 7 was not started: a forecast of 3 credits (the mean of its last 1 billed run) + 6 for 2 starts of this "
        "DAG run + 3 for tasks that have ended or are running without an announcement = 12, more than credit_limit=10 "
        "(credit_limit_period='dag_run'). Raise the limit, then clear the task."
    )
    assert caught.value.agent_id == 7
    assert worker.announced[-1] == Announcement(task_id="run_agent")


def test_a_day_counts_what_is_billed(service: FakeService, worker: Worker) -> None:
    service.bills = bills(4, 4, until=START)
    with pytest.raises(CreditLimitReached, match=r"4 credits .* \+ 8 billed since 2026-11-22 = 12, more than"):
        reserve(worker, config(credit_limit_period="day"), ())


def test_an_agent_without_bills_starts_alone(worker: Worker) -> None:
    [start] = reserve(worker, config(), ())
    assert start.credits == 10
    worker.others = Announced([other("a", 0.5)])
    with pytest.raises(CreditLimitReached, match="the whole limit, because no run of the agent is billed yet"):
        reserve(worker, config(), ())


def test_undecided_starts_are_waited_for_a_minute_at_most(service: FakeService, worker: Worker) -> None:
    service.bills = bills(6)
    worker.others = Announced([other("z", pending=6)])
    with pytest.raises(CreditLimitReached, match=r"6 for undecided starts that other tasks have announced = 12"):
        reserve(worker, config(), ())
    assert worker.now() - START <= timedelta(minutes=1)
    assert service.count("billing") == 1
    assert all(each.pending for each in worker.announced[:-1])  # it comes first, so it keeps its place


def test_one_that_comes_later_gives_way(service: FakeService, worker: Worker) -> None:
    service.bills = bills(6)
    worker.others = Announced([other("a", pending=6)])
    with pytest.raises(CreditLimitReached):
        reserve(worker, config(), ())
    assert [each.pending == () for each in worker.announced] == [False, True, False, True]  # at first, and at last


def test_billing_that_cannot_be_read_starts_nothing(service: FakeService, worker: Worker) -> None:
    service.faults["billing"] = [(unauthorized, False)]
    with raises(401):
        reserve(worker, config(), ())
    assert worker.announced == []


@pytest.mark.parametrize(("most_listed", "count"), [(None, 1001), (100, 101)])
def test_more_bills_than_one_request_reads(
    service: FakeService, worker: Worker, most_listed: int | None, count: int
) -> None:
    service.most_listed, service.bills = most_listed, bills(*[1] * count)
    with pytest.raises(SequentumRequestRefused, match=rf"{count} entries .* Set credit_limit_period='dag_run'"):
        read_bill(worker, config(credit_limit_period="month"), 7)
    assert len(read_bill(worker, config(), 7).samples) == 20


@pytest.mark.parametrize("step", range(1, 12))
def test_an_error_at_any_step_leaves_no_start_that_no_one_decides(step: int) -> None:
    service = FakeService(Clock())
    service.bills = bills(4)
    worker = Worker(service, steps_left=step, others=Announced(others=[other("a", pending=8)]))

    def fail() -> None:
        raise RuntimeError("Airflow did not answer")

    worker.interrupt = fail
    try:
        reserve(worker, config(), starts(1))
    except (RuntimeError, CreditLimitReached):
        assert not worker.announced or worker.announced[-1].pending == ()


@pytest.mark.parametrize("period", ["day", "month"])
def test_bills_that_cannot_be_read_are_not_left_out_of_the_sum(
    service: FakeService, worker: Worker, period: str
) -> None:
    service.bills = [*bills(1, 1), {"runId": "?", "cost": 90}]
    with pytest.raises(SequentumUnavailable, match="1 bill of agent 7 cannot be read"):
        read_bill(worker, config(credit_limit_period=period), 7)


@pytest.mark.parametrize("period", ["day", "month"])
@pytest.mark.parametrize("ahead", [timedelta(hours=23), timedelta(days=40), timedelta(days=300_000)])
def test_a_date_that_nothing_confirms_begins_no_new_period(
    service: FakeService, worker: Worker, monkeypatch: pytest.MonkeyPatch, ahead: timedelta, period: str
) -> None:
    """A gateway with a wrong clock may write it."""
    service.bills = bills(4)
    exchange = service.exchange
    monkeypatch.setattr(service, "exchange", lambda call: exchange(call)._replace(served_at=service.clock.now + ahead))
    assert read_bill(worker, config(credit_limit_period=period), 7).spent == 4


@pytest.mark.parametrize("skew", [-1, 1])
def test_a_day_is_one_of_the_services_clock(service: FakeService, worker: Worker, skew: int) -> None:
    service.skew = timedelta(days=skew)
    service.bills = [*bills(8, until=service.now - timedelta(days=1)), *bills(3, until=service.now)]
    assert read_bill(worker, config(credit_limit_period="day"), 7).spent == 3


# Tries of one task


def new(**more: Any) -> RunRecord:
    asked = config()
    return RunRecord(agent_id=7, config=asked, fingerprint=asked.fingerprint(), max_tries=1, **more)


def test_a_kill_before_any_step_counts_a_start_once() -> None:
    """Whatever the step, the next try announces what was started, no more and no less."""
    for step in range(40):
        service = FakeService(Clock(), plans=[Plan(seconds=None)])
        service.bills = bills(2)
        worker = Worker(service, steps_left=step)
        try:
            acquire_run(worker, None, new())
        except Killed:
            record = RunRecord.from_json(worker.saved) if worker.saved else None
        else:
            return
        again = Worker(service)
        acquire_run(again, record, new())
        assert len(service.runs) == 1, step
        made = again.announced[-1].starts
        assert sum(each.credits or 0 for each in made) == 2, step
        assert max(sum(each.credits or 0 for each in said.starts) for said in again.announced) == 2, step
    raise AssertionError("It was killed before every step.")


def test_a_start_that_is_refused_is_withdrawn(service: FakeService, worker: Worker) -> None:
    service.bills = bills(2)
    service.faults["start"] = [(bad_request, False)]
    with raises(400):
        acquire_run(worker, None, new())
    assert worker.announced[-1].starts == ()


def test_a_second_start_after_a_lost_answer_counts_too(service: FakeService, worker: Worker) -> None:
    service.bills = bills(2)
    service.faults["start"] = [(response_lost, False)]
    asked = config(on_ambiguous_start="start")
    acquire_run(worker, None, new().updated(config=asked))
    assert [each.credits for each in worker.announced[-1].starts] == [2, 2]


# Many tasks at once


class DagRun:
    """Tasks that run one after the other, a step at a time, in an order that is drawn; some are killed and retried.

    A retry removes what the task has announced, as Airflow does, before the task can announce it again.
    """

    def __init__(self, tasks: int, costs: float, draw: Callable[[int], int], kills: int) -> None:
        self.draw, self.kills = draw, kills
        self.service = FakeService(Clock(), plans=[Plan(seconds=None)])
        self.service.bills = bills(costs)
        self.announced: dict[int, Announcement] = {}
        self.records: dict[int, dict[str, Any] | None] = {}
        self.states: dict[int, str] = dict.fromkeys(range(tasks), "running")
        self.turn = threading.Condition()
        self.current: int | None = None
        self.waiting: set[int] = set()
        self.problems: list[BaseException] = []

    def run(self) -> int:
        threads = [threading.Thread(target=self.task, args=(index,), daemon=True) for index in self.states]
        for thread in threads:
            thread.start()
        for _ in range(100_000):
            with self.turn:
                assert self.turn.wait_for(lambda: self.current is None and self.waiting == self.alive(), timeout=20)
                if not self.waiting:
                    break
                ready = sorted(self.waiting)
                self.current = ready[self.draw(len(ready))]
                self.waiting.discard(self.current)
                self.turn.notify_all()
        for thread in threads:
            thread.join(timeout=20)
        assert not self.problems, self.problems
        return len(self.service.runs)

    def alive(self) -> set[int]:
        return {index for index, state in self.states.items() if state in ("running", "up_for_retry")}

    def step(self, index: int) -> None:
        """Let another task go on, until it is this one's turn again."""
        with self.turn:
            self.current = None if self.current == index else self.current
            self.waiting.add(index)
            self.turn.notify_all()
            assert self.turn.wait_for(lambda: self.current == index, timeout=20)

    def task(self, index: int) -> None:
        state = "failed"
        try:
            while True:
                self.step(index)
                self.states[index] = "running"
                self.announced.pop(index, None)
                self.step(index)
                try:
                    self.attempt(index)
                    state = "success"
                except Killed:
                    self.states[index] = "up_for_retry"
                    continue
                except (CreditLimitReached, AgentRunStartAmbiguous):
                    pass
                break
        except BaseException as error:  # noqa: BLE001 - what goes wrong in a thread is raised in the test's
            self.problems.append(error)
        with self.turn:
            self.states[index] = state
            self.current = None
            self.turn.notify_all()

    def attempt(self, index: int) -> None:
        saved = self.records.get(index)
        acquire_run(Member(self, index), RunRecord.from_json(saved) if saved else None, new())


class Member(Worker):
    """The worker of one of these tasks."""

    def __init__(self, dag_run: DagRun, index: int) -> None:
        super().__init__(dag_run.service)
        self.dag_run, self.index = dag_run, index

    def step(self) -> None:
        self.dag_run.step(self.index)
        if self.dag_run.kills and self.dag_run.draw(12) == 0:
            self.dag_run.kills -= 1
            raise Killed

    def save(self, record: Any) -> None:
        super().save(record)
        self.dag_run.records[self.index] = self.saved

    def announce(self, announcement: Announcement) -> Announcement:
        self.step()
        placed = announcement.updated(task_id="run_agent", map_index=self.index)
        self.dag_run.announced[self.index] = placed
        return placed

    def announcements(self) -> Announced:
        self.step()
        found = dict(self.dag_run.announced)
        self.step()
        if "success" in self.dag_run.states.values():
            found |= self.dag_run.announced
        silent = [state for index, state in self.dag_run.states.items() if index not in found]
        return Announced(
            [said for index, said in found.items() if index != self.index],
            silent_running=silent.count("running"),
            silent_ended=silent.count("up_for_retry") + silent.count("failed"),
        )


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 7), st.integers(0, 4), st.sampled_from([2.0, 3.0, 5.0, 11.0]))
def test_tasks_in_any_order_with_kills_never_pass_the_limit(rng: Any, tasks: int, kills: int, costs: float) -> None:
    started = DagRun(tasks, costs, rng.randrange, kills).run()
    assert started * costs <= 10
    assert started >= (1 if costs <= 10 else 0)


def test_without_kills_the_limit_is_used() -> None:
    assert {DagRun(7, 3.0, random.Random(seed).randrange, 0).run() for seed in range(5)} == {3}
