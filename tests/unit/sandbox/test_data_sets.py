from __future__ import annotations

from pathlib import Path

import pytest

from airflow_provider_sequentum.sandbox.data_sets import DEFAULT, SHIPPED, choose, read_folder, read_records


def test_the_shipped_data_is_complete() -> None:
    shipped = read_folder(SHIPPED)
    assert {name: len(records) for name, records in shipped.items()} == {"us_states": 50, "chemical_elements": 118}
    assert DEFAULT in shipped
    elements = shipped["chemical_elements"]
    assert [int(row["atomic_number"]) for row in elements] == list(range(1, 119))
    assert len({row["symbol"] for row in elements}) == 118
    assert {row["period"] for row in elements} == set("1234567")
    states = shipped["us_states"]
    assert len({row["abbreviation"] for row in states}) == len({row["capital"] for row in states}) == 50
    assert min(row["admitted"] for row in states) == "1787-12-07"
    assert all(name in (SHIPPED / "SOURCES.md").read_text() for name in ("us_states.csv", "chemical_elements.csv"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", '\ufeffx,y\r\n1,"two\r\nlines \u2028 here"\r\n'),
        ("a.json", '[{"x": "1", "y": "two\\r\\nlines \\u2028 here"}]'),
        ("a.ndjson", '{"x": "1", "y": "two\\r\\nlines \u2028 here"}\n\n'),
    ],
)
def test_files_are_read(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_bytes(text.encode())
    assert read_records(tmp_path / name) == [{"x": "1", "y": "two\r\nlines \u2028 here"}]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.csv", b"x,y\n1\n", "more or fewer values"),
        ("a.csv", b"x,y\n1,2,3\n", "more or fewer values"),
        ("a.csv", b"\xff\xfe\x00", "cannot be read"),
        ("a.json", b'{"x": 1}', "not a list of objects"),
        ("a.json", b"[1]", "not a list of objects"),
        ("a.json", b"[", "cannot be read"),
        ("a.txt", b"x", "are not read"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=problem):
        read_records(tmp_path / name)


def test_a_folder_without_data_or_with_two_of_a_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no"):
        read_folder(tmp_path)
    (tmp_path / "a.csv").write_text("x\n1\n")
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(ValueError, match="two data files named 'a'"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("List all US states", "us_states"),
        ("Every chemical element, please", "chemical_elements"),
        ("all US-states and their towns", "us_states"),
        ("Pull product name and price", None),
    ],
)
def test_a_prompt_chooses_its_data(prompt: str, name: str | None) -> None:
    assert choose(prompt, ["us_states", "chemical_elements"]) == name
