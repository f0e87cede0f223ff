from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sequentum.api.run_status import RunStatus, parse_run_status
from airflow_provider_sequentum.runs.phases import PHASES, Phase, phase_of_status

# Written down a second time on purpose: a change of the table has to be meant.
EXPECTED = {
    0: Phase.UNKNOWN,
    1: Phase.ACTIVE,
    2: Phase.ACTIVE,
    3: Phase.ACTIVE,
    4: Phase.ACTIVE,
    5: Phase.ACTIVE,
    6: Phase.RESTARTABLE,
    7: Phase.ARCHIVED,
    8: Phase.STOPPED,
    9: Phase.SUCCEEDED,
    10: Phase.SUCCEEDED,
    11: Phase.SKIPPED,
    12: Phase.ACTIVE,
    13: Phase.UNKNOWN,
}
OVER = {6, 7, 8, 9, 10, 11}


def test_every_status_has_a_phase() -> None:
    assert set(PHASES) == set(RunStatus)


@pytest.mark.parametrize("code", sorted(EXPECTED))
@pytest.mark.parametrize(
    "spell", [int, str, lambda code: RunStatus(code).name, lambda code: RunStatus(code).name.lower()]
)
def test_the_phase_of_each_status_however_it_is_spelt(code: int, spell: object) -> None:
    assert callable(spell)
    assert phase_of_status(parse_run_status(spell(code))) is EXPECTED[code]


@pytest.mark.parametrize("code", sorted(EXPECTED))
@pytest.mark.parametrize("table_type", [None, "run", "history", "History", "", "elsewhere"])
def test_only_a_failure_in_history_is_archived_by_its_table(code: int, table_type: str | None) -> None:
    archived = code == 6 and (table_type or "").lower() == "history"
    assert phase_of_status(RunStatus(code), table_type) is (Phase.ARCHIVED if archived else EXPECTED[code])


@pytest.mark.parametrize("code", sorted(EXPECTED))
def test_what_is_over(code: int) -> None:
    assert phase_of_status(RunStatus(code)).is_over is (code in OVER)


@given(st.one_of(st.integers(), st.text(), st.none(), st.floats(), st.booleans()))
def test_whatever_the_service_says_an_unknown_status_is_never_an_end(value: object) -> None:
    status = parse_run_status(value)
    known = isinstance(status, RunStatus)
    assert known or phase_of_status(status) is Phase.UNKNOWN
