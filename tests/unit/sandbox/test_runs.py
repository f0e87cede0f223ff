from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sequentum.sandbox.run_plan import Attempt, RunPlan, RunStatus
from airflow_provider_sequentum.sandbox.runs import Run, RunOptions, admissions, observe

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def run(
    number: int = 1,
    requested: float = 0,
    *,
    exclusive: bool = False,
    agent: int = 7,
    admitted: bool = False,
    **plan: object,
) -> Run:
    attempt = Attempt(plan=RunPlan.model_validate({"duration": 10} | plan), requested=at(requested))
    attempt.admitted = at(requested) if admitted else None
    return Run(
        id=number,
        agent_id=agent,
        space_id=1,
        sequence=number,
        agent_version=1,
        created=at(requested),
        exclusive=exclusive,
        options=RunOptions(),
        total_records=100,
        attempts=[attempt],
        archive_seconds=60,
    )


def admit_all(runs: list[Run], now: datetime, limit: int, since: datetime = T0) -> None:
    for subject, moment in admissions(runs, since, now, limit):
        subject.attempt.admitted = moment


def test_counts_grow_first_extracted_then_exported() -> None:
    subject = run(admitted=True)
    halfway, exporting, done = (observe(subject, at(s)) for s in (5, 9.5, 10))
    assert (halfway.data_count, halfway.export_count) == (50, None)
    assert (exporting.data_count, exporting.export_count) == (100, 50)
    assert (done.data_count, done.export_count, done.table_type) == (100, 100, "history")


def test_a_failure_has_part_of_the_data_and_stays_in_the_active_table() -> None:
    seen = observe(run(admitted=True, outcome="Failure"), at(10))
    assert (seen.status, seen.table_type, seen.data_count, seen.error_count) == (RunStatus.Failure, "run", 50, 1)
    assert seen.message == "The success criteria were not met."


def test_a_failure_is_archived_after_a_while() -> None:
    subject = run(admitted=True, outcome="Failure")
    assert observe(subject, at(69)).status is RunStatus.Failure
    archived = observe(subject, at(70))
    assert (archived.status, archived.table_type) == (RunStatus.Failed, "history")


def test_a_failure_can_be_archived_earlier() -> None:
    subject = run(admitted=True, outcome="Failure").model_copy(update={"archived": at(11)})
    assert observe(subject, at(11)).status is RunStatus.Failed


def test_the_old_failure_may_show_for_a_while_after_a_restart() -> None:
    subject = run(admitted=True, outcome="Failure")
    subject.attempts.append(Attempt(plan=RunPlan(duration=10), requested=at(20), admitted=at(20)))
    subject.restart_shown = at(22)
    assert observe(subject, at(21)).status is RunStatus.Failure
    assert observe(subject, at(22)).status is RunStatus.Running


def test_a_slot_is_given_when_it_became_free_however_late_one_looks() -> None:
    first, second = run(1), run(2, requested=1)
    admit_all([first, second], at(1000), limit=1)
    assert (first.attempt.admitted, second.attempt.admitted) == (at(0), at(10))


def test_an_exclusive_run_waits_for_its_own_agent_only() -> None:
    first, second, other = run(1, exclusive=True), run(2, exclusive=True), run(3, agent=8)
    admit_all([first, second, other], at(5), limit=10)
    assert second.attempt.held
    assert other.attempt.admitted == at(0)
    admit_all([first, second, other], at(50), limit=10, since=at(5))
    assert second.attempt.admitted == at(10)


def test_queue_seconds_are_spent_even_when_there_is_room() -> None:
    subject = run(queue_seconds=4)
    admit_all([subject], at(3), limit=10)
    assert subject.attempt.held
    admit_all([subject], at(5), limit=10)
    assert subject.attempt.admitted == at(4)


@given(
    plans=st.lists(
        st.tuples(st.integers(0, 30), st.integers(0, 20), st.integers(0, 5), st.booleans(), st.integers(1, 3)),
        max_size=12,
    ),
    limit=st.integers(1, 4),
    looks=st.lists(st.integers(0, 200), max_size=5).map(sorted),
)
def test_how_often_one_looks_changes_nothing_and_limits_hold(
    plans: list[tuple[int, int, int, bool, int]], limit: int, looks: list[int]
) -> None:
    def build() -> list[Run]:
        return [
            run(i, requested, exclusive=exclusive, agent=agent, duration=duration, queue_seconds=queue)
            for i, (requested, duration, queue, exclusive, agent) in enumerate(plans)
        ]

    often, once = build(), build()
    since = T0
    for look in [*looks, 400]:
        # Like the engine: a run is known from its request on.
        known = [r for r in often if r.created <= at(look)]
        admit_all(known, at(look), limit, since)
        since = at(look)
    admit_all(once, at(400), limit)
    for moment in range(400):
        working = [
            r
            for r in once
            if r.attempt.admitted
            and r.attempt.admitted <= at(moment)
            and (end := r.attempt.end()) is not None
            and end > at(moment)
        ]
        assert len(working) <= limit
        for r in working:
            assert not (r.exclusive and sum(o.agent_id == r.agent_id for o in working) > 1)
    assert [r.attempt.admitted for r in often] == [r.attempt.admitted for r in once]
