from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sequentum.transfers.names import (
    MANIFEST_NAME,
    UNFINISHED_SUFFIX,
    landing_names,
    unfinished_name,
    unfinished_of,
)


@given(st.lists(st.one_of(st.none(), st.text(max_size=20), st.sampled_from([MANIFEST_NAME, "a" + UNFINISHED_SUFFIX]))))
def test_no_file_takes_the_manifests_name_nor_an_unfinished_ones(names: list[str | None]) -> None:
    landed = landing_names(names)
    assert len({name.casefold() for name in landed}) == len(names)
    assert MANIFEST_NAME.casefold() not in {name.casefold() for name in landed}
    assert not any(name.lower().endswith(UNFINISHED_SUFFIX) for name in landed)


def test_a_hostile_name_stays_in_the_folder() -> None:
    assert landing_names(["../../etc/passwd", "..", None]) == ["passwd", "file", "file (2)"]


def test_what_a_killed_try_left_is_told_from_what_others_write() -> None:
    mine, again, others = unfinished_name("a.csv"), unfinished_name("a.csv"), unfinished_name("b.csv")
    assert mine != again
    assert unfinished_of(["a.csv", "c.csv"], [mine, "a.csv", others, again, "x.unfinished"]) == [mine, again]
