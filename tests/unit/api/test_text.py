from __future__ import annotations

import unicodedata
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sequentum.api.text import (
    MAX_FILE_NAME_LENGTH,
    MAX_LINE_LENGTH,
    one_line,
    safe_file_name,
    safe_file_names,
    safe_json,
    safe_text,
)


@pytest.mark.parametrize(
    "name",
    ["output.csv", "Prices 2026-11-22 (final).tar.gz", ".hidden", "naïve.csv", "价格.csv", "a" * 255, "a&b=c", "a .b"],
)
def test_an_ordinary_name_is_kept(name: str) -> None:
    assert safe_file_name(name) == name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("../../x", "x"),
        ("..\\..\\x.csv", "x.csv"),
        ("/etc/passwd", "passwd"),
        ("C:\\Windows\\x.dll", "x.dll"),
        ("C:x", "C_x"),
        ("a/", "a"),
        ("a\x00.csv", "a_.csv"),
        ("a\n\x1b[31m.csv", "a__[31m.csv"),
        ("moc\u202evsc.exe", "moc_vsc.exe"),
        ("a. . ", "a"),
        ("CON", "_CON"),
        ("con.csv", "_con.csv"),
        ("com1 .txt", "_com1 .txt"),
        ("COM¹", "_COM¹"),
        ("console.csv", "console.csv"),
        ('<a>:"b"|?*.csv', "_a___b____.csv"),
        ("a\ud800.csv", "a_.csv"),
        ("e\u0301.csv", "é.csv"),
    ],
)
def test_a_hostile_name_is_made_harmless(name: str, expected: str) -> None:
    assert safe_file_name(name) == expected


@pytest.mark.parametrize("name", [None, "", ".", "..", "/", "...", " ", "\x00", "a/..", "???"])
def test_a_name_of_which_nothing_is_left_gets_a_plain_one(name: str | None) -> None:
    assert safe_file_name(name) == "file"


def test_an_over_long_name_keeps_its_suffix() -> None:
    safe = safe_file_name("ü" * 400 + ".csv")

    assert safe.endswith("ü.csv")
    assert len(safe.encode()) <= MAX_FILE_NAME_LENGTH


def test_duplicates_are_numbered_before_the_suffix() -> None:
    names = ["data.csv", "DATA.csv", "x/data.csv", "data (2).csv", None, None, "a" * 300 + ".csv", "a" * 301 + ".csv"]

    safe = safe_file_names(names)

    assert safe[:6] == ["data.csv", "DATA (2).csv", "data (3).csv", "data (2) (2).csv", "file", "file (2)"]
    assert safe[7].endswith("a (2).csv")


def is_safe(name: str) -> bool:
    return (
        0 < len(name.encode()) <= MAX_FILE_NAME_LENGTH
        and PurePosixPath(name).name == name
        and PureWindowsPath(name).name == name
        and name not in (".", "..")
        and "\x00" not in name
        and not name.endswith((".", " "))
    )


@given(names=st.lists(st.none() | st.text() | st.text(alphabet="./\\aA:*\x00 \u0301é", max_size=400), max_size=8))
def test_any_names_become_safe_and_distinct(names: list[str | None]) -> None:
    safe = safe_file_names(names)

    assert len(safe) == len(names)
    assert all(is_safe(name) for name in safe)
    assert len({name.casefold() for name in safe}) == len(safe)


@given(name=st.text())
def test_a_safe_name_is_stable(name: str) -> None:
    assert safe_file_name(safe_file_name(name)) == safe_file_name(name)


def test_the_file_system_takes_the_names(tmp_path: Path) -> None:
    names = safe_file_names(["../../x", "/etc/passwd", "a\x00b", "CON", "é" * 300, "x", "x", None, "..", "a:b"])
    for name in names:
        (tmp_path / name).write_text(name)

    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


@pytest.mark.parametrize(
    ("text", "safe", "with_lines"),
    [
        ("Prices, 12 \u20ac", "Prices, 12 \u20ac", "Prices, 12 \u20ac"),
        ("a\x00\x1b\x7f\x9bb", "a\ufffd\ufffd\ufffd\ufffdb", "a\ufffd\ufffd\ufffd\ufffdb"),
        ("\ud83d a \udc00", "\ufffd a \ufffd", "\ufffd a \ufffd"),
        ("a\u202eb\u2066c\u200fd\ufeffe", "a\ufffdb\ufffdc\ufffdd\ufffde", "a\ufffdb\ufffdc\ufffdd\ufffde"),
        ("a\nb\tc\rd\r\ne", "a b c d  e", "a\nb\tc d\ne"),
        ("a\u2028b\u2029c\x85d\xa0e\x0bf", "a b c d e f", "a b c d e f"),
        ("\U0001f600", "\U0001f600", "\U0001f600"),
    ],
)
def test_text_is_made_safe(text: str, safe: str, with_lines: str) -> None:
    assert safe_text(text, 100) == safe
    assert safe_text(text, 100, lines=True) == with_lines


@given(st.text(max_size=300), st.integers(10, 300), st.booleans())
def test_safe_text_is_bounded_can_be_encoded_and_stays_as_it_is_the_second_time(
    text: str, limit: int, lines: bool
) -> None:
    safe = safe_text(text, limit, lines=lines)

    assert len(safe.encode()) <= limit
    assert safe_text(safe, limit, lines=lines) == safe
    line = one_line(text, limit)
    assert not {unicodedata.category(character) for character in line} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert len(line.encode()) <= limit


def test_text_from_outside_stays_on_one_short_line() -> None:
    assert one_line("a\r\nb\x00\x1b[31m  c" + "x" * 1000).startswith("a b\ufffd\ufffd[31m c")
    assert len(one_line("x" * 1_000_000).encode()) == MAX_LINE_LENGTH
    assert one_line(" \n" * 5_000 + "x", 20_000) == "x"


@pytest.mark.parametrize(
    ("value", "safe"),
    [
        ({"a\x00": [1, 2.5, True, None, "b\x00"]}, {"a\ufffd": [1, 2.5, True, None, "b\ufffd"]}),
        (
            [float("nan"), float("inf"), 2**63, -(2**63), -(2**63) - 1],
            [None, None, str(2**63), -(2**63), str(-(2**63) - 1)],
        ),
    ],
)
def test_json_is_made_safe(value: object, safe: object) -> None:
    assert safe_json(value) == safe


def test_json_is_bounded_in_depth() -> None:
    value: object = "deep"
    for _ in range(5_000):
        value = [value]

    levels, kept = 0, safe_json(value)
    while kept is not None:
        (kept,), levels = kept, levels + 1
    assert levels == 60
