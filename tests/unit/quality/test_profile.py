"""Profiles: what is counted of the cells, and of how they changed."""

from __future__ import annotations

import json
import math
import sys
import unicodedata
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airflow_provider_sequentum.quality import profile as profile_module
from airflow_provider_sequentum.quality.contract import Contract
from airflow_provider_sequentum.quality.engine import Table, Workspace, open_workspace
from airflow_provider_sequentum.quality.judge import judge
from airflow_provider_sequentum.quality.profile import ColumnChange, Profile, compare, has_value, profile


class MemoryFile:
    name = "rows.ndjson"

    def __init__(self, records: list[dict[str, Any]]) -> None:
        self.content = "\n".join(map(json.dumps, records)).encode()

    def open(self, mode: str) -> Any:
        return BytesIO(self.content)


@pytest.fixture(scope="module")
def workspace() -> Iterator[Workspace]:
    with open_workspace() as opened:
        yield opened


def table_of(workspace: Workspace, records: list[dict[str, Any]]) -> Table:
    return workspace.load([MemoryFile(records)]).as_text()


# Which characters are assigned depends on the version of Unicode, of which Python and DuckDB have their own.
CHARACTERS = st.sampled_from(" !a\x1f\x7f\t\u00a0\u3000é~") | st.characters(codec="utf-8", exclude_categories=["Cn"])


@given(st.none() | st.text(CHARACTERS, max_size=4))
@example("\u00a0!")
@example("\x7f")
@example("!\0")
def test_a_value_is_more_than_what_is_not_seen(workspace: Workspace, text: str | None) -> None:
    [(found,)] = workspace.rows(f"SELECT {has_value('v')} FROM (SELECT ?::VARCHAR v)", [text])
    assert found == any(
        unicodedata.category(character) not in ("Cc", "Cf", "Zs", "Zl", "Zp") for character in text or ""
    )


def test_how_often_a_value_is_there_counts(workspace: Workspace) -> None:
    words = ["<b>new</b>"] * 6 + ["used"] * 3 + [None]
    table = table_of(workspace, [{"state": word} for word in words])
    found = profile(table, agent_id=7, run_id=1, filled=judge(table, Contract()).filled).columns["state"]
    assert found.filled == 0.9
    assert found.shares["mark-up"] == pytest.approx(6 / 9, abs=1e-5)
    assert found.shares["letters"] == 1.0
    assert found.values == {"<b>new</b>": 0.66667, "used": 0.33333}
    assert found.words == {"new": 0.66667, "used": 0.33333}
    assert found.kinds == {"text": 1.0}


@pytest.mark.parametrize(("records", "every"), [(0, 0), (99, 1), (300, 1), (301, 2), (2_250, 8), (30_001, 101)])
def test_the_sample_is_of_neighbours_from_the_whole_table(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, records: int, every: int
) -> None:
    """Every so many blocks of 100 rows, whatever file they are in."""
    monkeypatch.setattr(profile_module, "SAMPLE", 300)
    rows = [{"n": n, **({"half": n} if n > 500 else {})} for n in range(records)]
    files = [MemoryFile(rows[start : start + 700]) for start in range(0, records, 700)]
    table = workspace.load(files).as_text()
    expected = [n for n in range(records) if n // 100 % every == 0]
    filled = judge(table, Contract()).filled
    assert profile(table, agent_id=7, run_id=1, filled=filled).rows == len(expected) <= 300
    if records:
        half = ", CAST(c1 AS INT)" if records > 501 else ", NULL"
        found = table.query(f"SELECT r, CAST(c0 AS INT){half} FROM sample ORDER BY r")
        assert found == [(n, n, n if n > 500 else None) for n in expected]


def test_each_column_has_a_change_of_its_own(workspace: Workspace) -> None:
    before: list[dict[str, Any]] = [
        {"sku": n, "price": f"{n + 1}.00 EUR", "stock": n, "name": f"Thing {n}", "day": None} for n in range(100)
    ]
    now = [
        {
            **record,
            "price": f"{(record['sku'] + 1) * 1.5:.2f} EUR" if record["sku"] < 40 else record["price"],
            "stock": record["stock"] - 1 if record["sku"] < 10 else record["stock"] + 5,
            "day": "2026-01-01" if record["sku"] == 0 else None,
        }
        for record in before
    ]
    found = compare(table_of(workspace, now), table_of(workspace, before), ["sku"], 3)
    assert found is not None
    assert (found.kept, found.added, found.matched, list(found.columns)) == (
        1.0,
        0.0,
        100,
        ["price", "stock", "name", "day"],
    )
    assert found.columns["price"] == ColumnChange(changed=0.4, rose=1.0, factor=1.5, alike=0.4)
    assert (found.columns["stock"].changed, found.columns["stock"].rose) == (1.0, 0.9)
    assert found.columns["name"] == ColumnChange(changed=0.0)
    assert found.columns["day"] == ColumnChange(changed=0.01)


def test_runs_that_share_no_column_but_the_key_have_no_changes(workspace: Workspace) -> None:
    found = compare(table_of(workspace, [{"sku": 1, "a": 2}]), table_of(workspace, [{"sku": 1, "b": 2}]), ["sku"], 3)
    assert found is not None
    assert (found.kept, found.columns) == (1.0, {})


WRITTEN = st.text(st.sampled_from("0123456789eE+-., €/:TZ"), max_size=12) | st.sampled_from(
    [
        "10E500",
        "-9E9999",
        "1e308",
        "-1e308",
        "1e-308",
        "5E-324",
        "9" * 320,
        f"{'9' * 320} EUR",
        "9999-12-31",
        "31.12.9999",
    ]
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(WRITTEN, WRITTEN, st.floats()), min_size=1, max_size=30))
@example([("10E500", "1e308", math.inf)])
@example([("", "", sys.float_info.max)])
@example([(f"{'9' * 320} EUR", "-10E500", math.nan)])
def test_whatever_is_in_the_cells_the_profile_can_be_read_again(
    workspace: Workspace, cells: list[tuple[str, str, float]]
) -> None:
    """A profile that could not be read would fail the checks of all later runs."""
    columns = [{"sku": str(n), "a": a, "b": b, "c": c} for n, (a, b, c) in enumerate(cells)]
    others = [{**record, "a": record["b"], "b": record["a"]} for record in columns]
    now, before = table_of(workspace, columns), table_of(workspace, others)
    made = profile(now, agent_id=7, run_id=2, key=["sku"], filled=judge(now, Contract()).filled)
    made = made.model_copy(update={"change": compare(now, before, ["sku"], 1)})
    read = Profile.parse(made.to_json())
    assert read is not None
    assert read.columns == made.columns
