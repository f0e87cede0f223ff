"""A storm is the same each time, and whole however short it is."""

from __future__ import annotations

import pytest

from tests.cluster.plan import ENDLESS, FAULTS, KILLS_PER_MINUTE, plan_storm


def test_a_seed_always_means_the_same_storm() -> None:
    assert plan_storm(7, 300) == plan_storm(7, 300)
    assert plan_storm(7, 300) != plan_storm(8, 300)


@pytest.mark.parametrize("seconds", [10.0, 60.0, 3600.0])
def test_everything_is_in_it_and_in_time(seconds: float) -> None:
    storm = plan_storm(1, seconds)
    assert {death.kind for death in storm.deaths} == set(KILLS_PER_MINUTE)
    assert {squall.kind for squall in storm.squalls} == set(FAULTS)
    for events in (storm.jobs, storm.deaths, storm.squalls):
        moments = [event.at for event in events]
        assert moments == sorted(moments)
        assert 0 <= moments[0] <= moments[-1] <= seconds


def test_an_endless_run_is_always_ended_by_somebody() -> None:
    endless = [job for job in plan_storm(1, 3600).jobs if ENDLESS in job.plans]
    assert endless
    assert {job.deed for job in endless} >= {"clear", "clear and wipe"}
    assert all(job.deed in ("clear", "clear and wipe", "mark failed", "mark success", "stop") for job in endless)


def test_the_faults_are_ones_the_sandbox_knows() -> None:
    from airflow_provider_sequentum.sandbox.faults import Fault

    for fault in FAULTS.values():
        Fault.model_validate(fault)
