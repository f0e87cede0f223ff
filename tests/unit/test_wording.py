"""What ``make lint-wording`` finds, and what it leaves alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import wording
from tests.wording import find_in_python, find_in_text

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A run has begun.", ["begun"]),
        ("From the beginning of a run", ["beginning"]),
        ("It is built anew. Anew!", ["anew", "Anew"]),
        ("Somebody stopped nobody's run", ["Somebody", "nobody's"]),
        ("waited in vain", ["in vain"]),
        ("is gone on\n  with", ["gone on with"]),
        ("the retry goes on with it", ["goes on with"]),
        ("mends, mended and mending", ["mends", "mended", "mending"]),
        ("A wait bears it; faults are borne", ["bears", "borne"]),
        ("was removed meanwhile.", ["meanwhile"]),
        ("it can't", ["can't"]),
        ("Which is told in the log", ["is told"]),
        ("is said in the log, as said above", ["is said in", "as said above"]),
        ("could not all be had", ["all be had"]),
        ("The next try joins it. Earlier tries", ["next try", "Earlier tries"]),
        ("a hasty look", ["hasty"]),
    ],
)
def test_words_to_replace(text: str, words: list[str]) -> None:
    assert [finding.word for finding in find_in_text(text)] == words


@pytest.mark.parametrize(
    "text",
    [
        "The run has started; it begins with a request, beginning with the first one.",
        "Authorization: Bearer token",
        "Bear in mind that the run continues meanwhile on the service",
        "amended, commend, vain, renewed",
        "The two are told apart, and the sandbox is told to fail",
        "cannot, scant",
        "the next try number, try again, retry",
        "It goes on. With that,",
    ],
)
def test_normal_english(text: str) -> None:
    assert find_in_text(text) == []


def test_every_word_says_what_to_write_and_that_is_no_word_to_replace() -> None:
    for instead in wording.WORDS.values():
        assert instead
        assert find_in_text(instead) == []


def test_python_comments_strings_and_names_with_their_lines() -> None:
    source = (
        '"""Docstring\nthat has begun.\n"""\n'
        "x = 1  # anew\n"
        'y = f"it can\'t {x}"\n'
        "def test_somebody_waits(): ...\n"
        "class WaitsInVain: ...\n"
        "run.begunAt = 2\n"
        "someBodyPart = not_anewX\n"
    )
    found = [(finding.line, finding.word) for finding in find_in_python(source)]
    assert found == [
        (2, "begun"),
        (4, "anew"),
        (5, "can't"),
        (6, "somebody"),
        (7, "In Vain"),
        (8, "begun"),
        (9, "anew"),
    ]


def project(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_findings_are_printed_and_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = project(
        tmp_path,
        Makefile="a:\n\tmend\n",
        README_DOT_md="fine",
        LICENSE="begun",
        docs__a__b_DOT_md="\nanew",
        tests__wording_DOT_py="'begun'",
        tests__unit__c_DOT_py="begun",
        tests__unit__d_DOT_csv="begun",
        build__e_DOT_md="begun",
    )
    assert wording.main(["--root", str(root)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "Makefile:2: mend -> fix, correct",
        "docs/a/b.md:2: anew -> again",
        "tests/unit/c.py:1: begun -> started",
    ]
    assert wording.main(["--root", str(root), "--count"]) == 1
    assert capsys.readouterr().out.split() == ["1", ".", "1", "docs/a", "1", "tests/unit"]


def test_clean_files_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert wording.main(["--root", str(project(tmp_path, README_DOT_md="A run has started."))]) == 0
    assert capsys.readouterr().out == ""
