"""A key is found wherever and however it was written."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from tests.cluster.canary import Search

KEY = "sk-canary-0123456789abcdef"
FERNET_KEY = Fernet.generate_key().decode()
HEADER = f"ApiKey {KEY}"

WRITTEN: dict[str, Any] = {
    "text": f"Authorization: {HEADER}",
    "JSON": {"headers": [{"authorization": HEADER}]},
    "bytes": b"\x00\x80" + KEY.encode() + b"\xff",
    "a memoryview": memoryview(KEY.encode()),
    "Base64": base64.b64encode(HEADER.encode()).decode(),
    "Base64 of JSON": base64.b64encode(json.dumps({"password": KEY}).encode()).decode(),
    "hexadecimal": KEY.encode().hex(),
    "compressed": zlib.compress(f'{{"key": "{KEY}"}}'.encode()),
    "encrypted": Fernet(FERNET_KEY).encrypt(f'{{"key": "{KEY}"}}'.encode()).decode(),
}


@pytest.fixture
def search() -> Search:
    return Search({"key": KEY, "other": "sk-canary-other"}, FERNET_KEY)


@pytest.mark.parametrize("how", WRITTEN)
def test_a_key_in_a_row_is_found(search: Search, how: str) -> None:
    rows = [{"id": 1, "value": None}, {"id": 2, "value": WRITTEN[how]}, {"id": 3, "value": WRITTEN[how]}]
    [sighting] = search.in_rows("xcom", rows)
    assert (sighting.needle, sighting.place) == ("key", "column xcom.value")


@pytest.mark.parametrize("before", ["", "x", "xx", "xxx"])
def test_base64_is_seen_through_whatever_stands_before(search: Search, before: str) -> None:
    assert search.in_bytes(base64.b64encode(f"{before}{KEY}!".encode()), "place")


def test_nothing_is_found_where_nothing_is(search: Search) -> None:
    rows: list[dict[str, Any]] = [
        {"value": KEY[:-1]},
        {"value": Fernet.generate_key()},
        {"value": b"gAAAAnot encrypted"},
        {"value": b""},
    ]
    assert search.in_rows("xcom", rows) == []


def test_files_and_their_names_are_looked_through(search: Search, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "attempt=1.log").write_text(f"sent {HEADER}")
    (tmp_path / "logs" / "attempt=2.log").write_text("sent nothing")
    (tmp_path / f"{KEY}.txt").touch()
    places = {sighting.place for sighting in search.in_files(tmp_path)}
    assert places == {"file logs/attempt=1.log", f"the name of file {KEY}.txt"}
