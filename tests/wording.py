"""Find words that an Airflow engineer would not use: ``make lint-wording`` prints each with what to write instead.

Checked are Markdown and reStructuredText, the Makefile and the project file, and in Python files comments, docstrings,
other strings and names. Only what is wrong in every place is listed, so that nothing has to be argued with.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import tokenize
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[1]
SUFFIXES = {".md", ".py", ".rst", ".toml"}
FOLDERS = ("airflow_provider_sequentum", "dags_examples", "docs", "tests")

# Regular expressions that match whole words; a space stands for any white space, a line break too.
WORDS = {
    "begun": "started",
    "beginnings?(?! with)": "start",
    "anew": "again",
    "(some|no)body('s)?": "someone, no one; better: who it is, such as a user",
    "in vain": "without result",
    "(go|goes|going|gone|went) on with": "continue, resume",
    "mend(s|ed|ing)?": "fix, correct",
    "bears?(?! in mind)|borne": "tolerate",
    "meanwhile(?=[.;:!?)])": "in the meantime, or nothing",
    "can't": "cannot",
    "(is|are|was|were|be|been) told(?! apart| to\\b)": "is informed, documented, reported",
    "(is|are|was|were|be) said in|as said( above)?": "is logged, documented; as described",
    "(to|could|can|may|all) be had": "available",
    "(next|earlier|previous|last|new|same|another|older|later) tr(y|ies)(?! number)": "attempt",
    "hasty": "quick",
}
PATTERNS = [
    (re.compile(rf"\b(?:{word})".replace(" ", r"\s+") + r"(?!\w)", re.IGNORECASE), use) for word, use in WORDS.items()
]

# Files that quote these words.
ALLOWED = {"tests/wording.py", "tests/unit/test_wording.py"}

NO_WORDS = {
    tokenize.OP,
    tokenize.NUMBER,
    tokenize.NEWLINE,
    tokenize.NL,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
}


@dataclass(frozen=True)
class Finding:
    """A word, where it stands, and what to write instead."""

    line: int
    word: str
    instead: str


def find_in_text(text: str, first_line: int = 1) -> list[Finding]:
    """Return what is found in a text, in the order of the text."""
    matches = [(match, instead) for pattern, instead in PATTERNS for match in pattern.finditer(text)]
    return [
        Finding(first_line + text.count("\n", 0, match.start()), " ".join(match.group().split()), instead)
        for match, instead in sorted(matches, key=lambda found: found[0].start())
    ]


def find_in_python(source: str) -> list[Finding]:
    """Return what is found in comments, strings and names. The words of a name count as words."""
    found = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_WORDS:
            text = words_of(token.string) if token.type == tokenize.NAME else token.string
            found += find_in_text(text, token.start[0])
    return found


def words_of(name: str) -> str:
    """Return a name as words: ``test_beginBeforeEnd`` as ``test begin Before End``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).replace("_", " ")


def find_in(path: Path) -> list[Finding]:
    text = path.read_text(encoding="utf-8")
    return find_in_python(text) if path.suffix == ".py" else find_in_text(text)


def checked_files(root: Path, folders: Sequence[str] = FOLDERS) -> Iterator[Path]:
    """Yield the project's files: those in its root folder, and all below the folders."""
    below = [path for folder in folders for path in (root / folder).rglob("*")]
    for path in sorted([*root.iterdir(), *below]):
        is_text = path.suffix in SUFFIXES or path.name == "Makefile"
        if is_text and path.is_file() and path.relative_to(root).as_posix() not in ALLOWED:
            yield path


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make lint-wording", description=__doc__)
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of the project")
    parser.add_argument("--folders", nargs="+", default=FOLDERS, help="folders to check, beside the root folder")
    parser.add_argument("--count", action="store_true", help="print how many there are in each folder")
    chosen = parser.parse_args(arguments)

    folders: Counter[str] = Counter()
    for path in checked_files(chosen.root, chosen.folders):
        relative = path.relative_to(chosen.root)
        for finding in find_in(path):
            folders["/".join(relative.parts[:2][: len(relative.parts) - 1]) or "."] += 1
            if not chosen.count:
                print(f"{relative}:{finding.line}: {finding.word} -> {finding.instead}")
    if chosen.count:
        for folder, count in sorted(folders.items()):
            print(f"{count:5} {folder}")
    return 1 if folders else 0


if __name__ == "__main__":
    sys.exit(main())
