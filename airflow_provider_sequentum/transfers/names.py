"""Names of files at a destination."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Sequence

from airflow_provider_sequentum.api.text import safe_file_names

MANIFEST_NAME = "_sequentum_manifest.json"
UNFINISHED_SUFFIX = ".unfinished"


def landing_names(names: Sequence[str | None]) -> list[str]:
    """Return a safe name for each of the server's, none of which is the manifest's or an unfinished file's."""
    harmless = [f"{name}_" if name and name.lower().endswith(UNFINISHED_SUFFIX) else name for name in names]
    return safe_file_names([MANIFEST_NAME, *harmless])[1:]


def unfinished_name(name: str) -> str:
    """
    Return a name for a file while it is written, a new one each time.

    Two tries of a task may write the same file at once: the first one's worker may live, but have lost touch with
    Airflow. The file's own name may be as long as the file system allows, so nothing can be added to it.
    """
    return f"{_mark(name)}-{secrets.token_hex(4)}{UNFINISHED_SUFFIX}"


def unfinished_of(names: Iterable[str], present: Iterable[str]) -> list[str]:
    """Return those of the files that are ``present`` which a killed try left of one of ``names``."""
    marks = {_mark(name) for name in names}
    return [each for each in present if each.endswith(UNFINISHED_SUFFIX) and each.partition("-")[0] in marks]


def _mark(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:32]
