from __future__ import annotations

from typing import Any, get_args

import pytest

from airflow_provider_sequentum.sandbox.breakages import Breakage, BreakageKind, parse_breakage
from tests.unit.test_docs import rows

RECORDS: list[dict[str, Any]] = [
    {"sku": f"A{number}", "name": f"Café {number}", "price": number + 0.5} for number in range(10)
]


def broken(kind: str, column: str | None = None, records: list[dict[str, Any]] = RECORDS) -> list[dict[str, Any]]:
    return Breakage.model_validate({"kind": kind, "column": column}).apply(records)


def skus(records: list[dict[str, Any]]) -> str:
    return "".join(record["sku"].removeprefix("A") for record in records)


def test_breakages_of_cells() -> None:
    assert broken("column_empty")[3] == {"sku": "A3", "name": "Café 3", "price": None}
    assert broken("column_empty", "name")[3] == {"sku": "A3", "name": "", "price": 3.5}
    assert broken("price_as_text")[3]["price"] == "3.5 EUR"
    assert broken("decimal_comma", "price")[3]["price"] == "3,5"
    assert broken("shifted_columns")[3] == {"sku": None, "name": "A3", "price": "Café 3"}
    assert len(set(broken("bot_wall")[3].values())) == 1
    assert broken("mojibake")[3]["name"] == "CafÃ© 3"
    assert broken("truncated_text")[3]["name"] == "Café "


def test_breakages_of_pages() -> None:
    assert skus(broken("page_missing")) == "01456789"
    assert skus(broken("page_twice")) == "0123236789"
    assert skus(broken("half_missing")) == "01234"


@pytest.mark.parametrize("kind", get_args(BreakageKind))
def test_each_changes_the_records_it_is_shown_and_not_those_of_the_agent(kind: str) -> None:
    before = [dict(record) for record in RECORDS]
    assert broken(kind) != RECORDS
    assert before == RECORDS


@pytest.mark.parametrize(
    ("kind", "column", "records"),
    [
        ("mojibake", None, [{"a": "x"}]),
        ("price_as_text", None, [{"a": "x"}]),
        ("column_empty", "absent", RECORDS),
        ("page_missing", None, [{"a": "x"}]),
        ("bot_wall", None, []),
    ],
)
def test_one_that_would_change_nothing_is_refused(kind: str, column: str | None, records: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match=f"'{kind}' changes nothing"):
        broken(kind, column, records)


@pytest.mark.parametrize("text", ["", "a", "a:", ":bot_wall", "a:nothing", "a:bot_wall:0", "a:bot_wall:x"])
def test_a_text_that_says_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no NAME:KIND"):
        parse_breakage(text)


def test_a_text_says_agent_kind_and_run() -> None:
    assert parse_breakage("us states:bot_wall:3") == ("us states", Breakage(kind="bot_wall", from_run=3))
    assert parse_breakage("a:mojibake") == ("a", Breakage(kind="mojibake"))


def test_every_kind_is_documented() -> None:
    assert [row[0].strip("`") for row in rows("sandbox.md", "Breakages")] == list(get_args(BreakageKind))
