"""What is shown of a file of which only the start was read."""

from __future__ import annotations

import json

import pytest
from airflow.providers.common.compat.sdk import AirflowPlugin

if not hasattr(AirflowPlugin, "external_views"):
    pytest.skip("This Airflow has no external views.", allow_module_level=True)

from airflow_provider_sequentum.ui.questions import (
    MAX_CELL_LENGTH,
    MAX_TEXT_LENGTH,
    PREVIEW_COLUMNS,
    PREVIEW_ROWS,
    PREVIEW_SIZE,
    Preview,
    preview_of,
)

CSV = b"sku,price\n" + b"".join(b"A%d,%d\n" % (number, number) for number in range(30))


def test_the_first_rows_of_a_table() -> None:
    preview = preview_of(CSV, "out.csv")
    assert preview.columns == ("sku", "price")
    assert len(preview.rows) == PREVIEW_ROWS
    assert preview.rows[0] == ("A0", "0")


@pytest.mark.parametrize("name", ["out.json", "out.ndjson"])
def test_the_first_records_of_a_file_that_is_cut(name: str) -> None:
    records = [{"sku": f"A{number}", "tags": ["x"]} for number in range(5)]
    whole = json.dumps(records) if name == "out.json" else "\n".join(map(json.dumps, records))
    preview = preview_of(whole.encode()[:-8], name)
    assert preview.columns == ("sku", "tags")
    assert 3 <= len(preview.rows) <= 5
    assert preview.rows[0] == ("A0", "['x']")


def test_what_is_wide_or_long_is_cut() -> None:
    columns = ",".join(f"c{number}" for number in range(50))
    preview = preview_of(f"{columns}\n{','.join(['x' * 1000] * 50)}\n".encode(), "out.csv")
    assert len(preview.columns) == PREVIEW_COLUMNS
    assert len(preview.rows[0][0]) == MAX_CELL_LENGTH + 1


def test_a_text_is_a_text_and_what_is_neither_is_not_shown() -> None:
    assert preview_of(b"Started.\n" * 5000, "log.txt").text == ("Started.\n" * 5000)[:MAX_TEXT_LENGTH]
    assert preview_of("é".encode() * PREVIEW_SIZE, "log.txt").text == "é" * MAX_TEXT_LENGTH
    assert preview_of(b"\x89PNG\r\n\x1a\n\0\0", "page.png") == Preview()
    assert preview_of(b"a\0b", "log.txt") == Preview()
    assert preview_of(b"PK\x03\x04 not a workbook", "out.xlsx").rows == ()
