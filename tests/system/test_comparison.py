"""The comparison that decides whether the demo passed can fail."""

from __future__ import annotations

import duckdb
import pytest

from tests.system import quickstart

HEADER = ["state", "capital"]
ROWS: list[quickstart.Row] = [("Ohio", "Columbus"), ("Utah", "Salt Lake City"), ("Utah", "Salt Lake City")]


def test_the_order_of_rows_does_not_matter() -> None:
    assert quickstart.differences((HEADER, ROWS), (HEADER, ROWS[::-1])) == []


@pytest.mark.parametrize(
    ("header", "rows", "said"),
    [
        (HEADER, ROWS[:2], ["missing 1 x ('Utah', 'Salt Lake City')"]),
        (HEADER, [*ROWS, ("Iowa", None)], ["unexpected 1 x ('Iowa', None)"]),
        (HEADER[::-1], ROWS, ["columns ['capital', 'state'], expected ['state', 'capital']"]),
        (HEADER, [], ["missing 1 x ('Ohio', 'Columbus')", "missing 2 x ('Utah', 'Salt Lake City')"]),
    ],
)
def test_every_difference_is_said(header: list[str], rows: list[quickstart.Row], said: list[str]) -> None:
    assert quickstart.differences((HEADER, ROWS), (header, rows)) == said


def test_the_table_is_read_as_text(tmp_path_factory: pytest.TempPathFactory) -> None:
    database = tmp_path_factory.mktemp("table") / "quickstart.duckdb"
    with duckdb.connect(str(database)) as connection:
        connection.execute(
            "CREATE TABLE records AS SELECT 'Ohio' AS state, DATE '1803-03-01' AS admitted, NULL AS note"
        )
    assert quickstart.read_table(database) == (["state", "admitted", "note"], [("Ohio", "1803-03-01", None)])


def test_the_data_file_is_worth_comparing_with() -> None:
    header, rows = quickstart.read_data_file()
    assert header == ["state", "abbreviation", "capital", "admitted"]
    assert len(rows) == 50
