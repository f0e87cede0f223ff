from __future__ import annotations

import io
import json
import tracemalloc
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_sequentum.exceptions import SequentumRequestRefused
from airflow_provider_sequentum.quality.contract import parse_contract
from airflow_provider_sequentum.quality.engine import Table, Workspace, open_workspace
from airflow_provider_sequentum.quality.judge import judge, removed_rows
from airflow_provider_sequentum.quality.profile import key_of, profile


class File:
    def __init__(self, text: str, name: str = "rows.csv") -> None:
        self._text, self.name = text, name

    def open(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self._text.encode())


@pytest.fixture(scope="module")
def workspace() -> Iterator[Workspace]:
    with open_workspace() as opened:
        yield opened


def table(workspace: Workspace, text: str) -> Table:
    return workspace.load([File(text)]).as_text()


ROWS = """sku,price,when,extra
A1,1.5,2026-01-01,x
A1,-2,2026-02-31,
B2,no price,2026-01-05,
,9 EUR,01.02.2026,
"""


@pytest.mark.parametrize(
    ("rule", "broken"),
    [
        ({"rule": "filled", "column": "sku"}, [3]),
        ({"rule": "filled", "column": "sku", "mostly": 0.75}, []),
        ({"rule": "unique", "columns": ["sku"]}, [1]),
        ({"rule": "unique", "columns": ["sku", "price"]}, []),
        ({"rule": "range", "column": "price", "minimum": 0}, [1, 2]),
        ({"rule": "range", "column": "price", "maximum": 8.5, "mostly": 0.6}, [2, 3]),
        ({"rule": "range", "column": "when", "minimum": "2026-01-02"}, [0, 1]),
        ({"rule": "range", "column": "when", "maximum": "2026-01-05"}, [1, 3]),
        ({"rule": "pattern", "column": "sku", "pattern": "^A"}, [2]),
        ({"rule": "allowed", "column": "sku", "values": ["B2"]}, [0, 1]),
        ({"rule": "length", "column": "price", "maximum": 3}, [2, 3]),
        ({"rule": "type", "column": "price", "type": "number"}, [2, 3]),
        ({"rule": "type", "column": "price", "type": "integer"}, [0, 2, 3]),
        ({"rule": "type", "column": "when", "type": "date"}, [1, 3]),
        ({"rule": "type", "column": "when", "type": "timestamp"}, [1, 3]),
        ({"rule": "type", "column": "sku", "type": "boolean"}, [0, 1, 2]),
        ({"rule": "type", "column": "sku", "type": "string"}, []),
    ],
)
def test_rules_about_single_records(workspace: Workspace, rule: dict[str, Any], broken: list[int]) -> None:
    rows = table(workspace, ROWS)
    found = judge(rows, parse_contract({"rules": [{**rule, "on_breach": "quarantine"}]}))
    assert [row for row, _ in removed_rows(rows, found.removal.reasons)] == broken
    assert len(found.breaches) == bool(broken)
    if rule.get("mostly", 1.0) == 1.0 and broken:
        assert found.breaches[0].records == len(broken)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"rule": "required", "columns": ["sku", "nope"]}, "nope"),
        ({"rule": "filled", "column": "nope"}, "nope"),
        ({"rule": "records", "minimum": 5}, "4, expected 5 or more"),
        ({"rule": "records", "maximum": 3}, "4, expected 3 or less"),
    ],
)
def test_rules_about_the_table(workspace: Workspace, rule: dict[str, Any], words: str) -> None:
    breaches = judge(table(workspace, ROWS), parse_contract({"rules": [rule]})).breaches
    assert len(breaches) == 1
    assert words in str(breaches[0])


def test_however_many_records_are_broken_they_are_not_all_in_memory(workspace: Workspace) -> None:
    rows = table(workspace, "sku,price\n" + "A,\n" * 100_000)
    rules = [{"rule": "filled", "column": "price", "on_breach": "quarantine"}, {"rule": "unique", "columns": ["sku"]}]
    found = judge(rows, parse_contract({"rules": rules}))
    tracemalloc.start()
    try:
        broken = sum(which == [0] for _, which in removed_rows(rows, found.removal.reasons))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert broken == rows.records
    assert peak < 5_000_000, f"{peak:,} bytes"


INVISIBLE = [
    character
    for character in map(chr, range(0x3001))
    if unicodedata.category(character) in ("Cc", "Cf", "Zs", "Zl", "Zp")
]
"""White space of any kind, and characters of which nothing is seen, such as a zero-width space."""
FILLED = {"rules": [{"rule": "filled", "column": "a"}, {"rule": "unique", "columns": ["a"]}], "key": "a"}


@pytest.mark.parametrize("count", [1, 3])
def test_a_cell_of_which_nothing_is_seen_is_empty(workspace: Workspace, count: int) -> None:
    cells = [*(character * count for character in INVISIBLE), "", None]
    records = json.dumps([{"a": cell, "b": 1} for cell in [*cells, *cells, "x", "\u200b-", "\ue000", "\ufffd"]])
    rows = workspace.load([File(records, "rows.json")]).as_text()
    found = judge(rows, parse_contract(FILLED))
    assert [(breach.rule, breach.records) for breach in found.breaches] == [("filled", 2 * len(cells))]
    assert found.filled == [4, rows.records]
    made = profile(rows, agent_id=7, run_id=1, filled=found.filled)
    assert made.columns["a"].distinct == 1.0, "the profile is made of the same cells"
    assert workspace.rows(f"SELECT count({key_of(rows, ['a'])}) FROM {rows.sql}") == [(4,)]
    strict = parse_contract({"columns": {"b": "integer"}, "schema_contract": {"columns": "freeze"}})
    assert [breach.records for breach in judge(rows, strict).breaches] == [4]


def test_not_a_number_is_no_value(workspace: Workspace) -> None:
    rows = workspace.load([File('[{"a": NaN}, {"a": 1.5}, {"a": NaN}, {"a": null}]', "rows.json")]).as_text()
    found = judge(rows, parse_contract(FILLED))
    assert [(breach.rule, breach.records) for breach in found.breaches] == [("filled", 3)]
    assert found.filled == [1]
    text = workspace.load([File('[{"a": "nan"}, {"a": "NaN"}]', "rows.json")]).as_text()
    assert judge(text, parse_contract(FILLED)).breaches == []


def test_no_record_is_a_breach_unless_the_contract_says_how_many_there_may_be(workspace: Workspace) -> None:
    empty = table(workspace, "sku\n")
    assert [breach.rule for breach in judge(empty, parse_contract({})).breaches] == ["records"]
    assert judge(empty, parse_contract({"rules": [{"rule": "records", "minimum": 0}]})).breaches == []
    # A maximum alone does not allow it.
    at_most = parse_contract({"rules": [{"rule": "records", "maximum": 100}]})
    assert [breach.on_breach for breach in judge(empty, at_most).breaches] == ["fail"]


@pytest.mark.parametrize(
    ("mode", "on_breach", "rows", "dropped", "blanked"),
    [
        ("evolve", [], [], set(), []),
        ("freeze", ["fail", "fail"], [], set(), []),
        ("discard_row", ["quarantine", "quarantine"], [0, 2, 3], set(), []),
        ("discard_value", ["warn", "warn"], [], {"extra"}, [2, 3]),
    ],
)
def test_schema_modes(
    workspace: Workspace, mode: str, on_breach: list[str], rows: list[int], dropped: set[str], blanked: list[int]
) -> None:
    columns = {"sku": "string", "price": "number", "when": "string"}
    judged = table(workspace, ROWS)
    found = judge(judged, parse_contract({"columns": columns, "schema_contract": mode}))
    assert [breach.on_breach for breach in found.breaches] == on_breach
    assert [row for row, _ in removed_rows(judged, found.removal.reasons)] == rows
    assert found.removal.columns == dropped
    assert [row for row, _ in removed_rows(judged, found.removal.blanked)] == blanked


def test_a_pattern_that_is_none_is_refused(workspace: Workspace) -> None:
    contract = parse_contract({"rules": [{"rule": "pattern", "column": "sku", "pattern": "("}]})
    with pytest.raises(SequentumRequestRefused, match="sku"):
        judge(table(workspace, ROWS), contract)


@pytest.mark.parametrize("wrong", ["(", "(?=A)", "[a", "A{1,5000}"])
@pytest.mark.parametrize("place", [0, 2, 4])
def test_of_many_rules_the_one_whose_pattern_is_none_is_named(workspace: Workspace, wrong: str, place: int) -> None:
    """They are counted in one pass, whose error says only that some pattern is wrong."""
    rules: list[dict[str, Any]] = [
        {"rule": "filled", "column": "sku"},
        {"rule": "range", "column": "price", "minimum": 1, "maximum": 9},
        {"rule": "allowed", "column": "sku", "values": ["A1"]},
        {"rule": "pattern", "column": "sku", "pattern": "^A"},
    ]
    rules.insert(place, {"rule": "pattern", "column": "when", "pattern": wrong})
    with pytest.raises(SequentumRequestRefused, match="when: ") as refused:
        judge(table(workspace, ROWS), parse_contract({"rules": rules}))
    assert not any(name in str(refused.value) for name in ("sku", "price"))


def test_what_no_single_rule_is_to_blame_for_is_no_refusal(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some rules fail together, and each of them alone does not."""
    contract = parse_contract(
        {"rules": [{"rule": "pattern", "column": column, "pattern": "^A"} for column in ("sku", "price")]}
    )
    judged, rows = table(workspace, ROWS), Workspace.rows

    def failing(self: Workspace, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        if len(parameters) > 1:
            raise duckdb.InvalidInputException("not all of it at once")
        return rows(self, sql, parameters)

    monkeypatch.setattr(Workspace, "rows", failing)
    with pytest.raises(duckdb.InvalidInputException, match="not all of it at once"):
        judge(judged, contract)


def is_seen(text: str) -> bool:
    return any(unicodedata.category(character) not in ("Cc", "Cf", "Zs", "Zl", "Zp", "Cn") for character in text)


HOSTILE = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters='\0",\r\n'), min_size=1, max_size=8)


@settings(max_examples=25, deadline=None)
@given(st.lists(HOSTILE.filter(is_seen), min_size=1, max_size=6), HOSTILE.filter(str.strip))
def test_names_and_values_are_never_sql(workspace: Workspace, values: list[str], name: str) -> None:
    text = name.join(["", "\n"]) + "\n".join(values) + "\n"
    contract = parse_contract({"rules": [{"rule": "allowed", "column": name, "values": values[:1]}]})
    rows = workspace.load([File(text)], delimiter=",").as_text()
    if name not in rows.columns or rows.records != len(values):
        return  # such as a name that is a byte order mark
    broken = sum(value != values[0] for value in values)
    assert sum(breach.records or 0 for breach in judge(rows, contract).breaches) == broken
