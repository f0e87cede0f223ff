"""Answers that no honest server gives: damaged, cut off, about something else, or made to do harm."""

from __future__ import annotations

import json
from typing import Any

import httpx
from hypothesis import strategies as st

KEY = "sk-hostile+answers/key"

texts = st.text() | st.sampled_from(
    [KEY, f"key {KEY}!", "2026-13-45T99:99:99", "9" * 5000, "NaN", "\ud800", "../../x", "6", "Failure", "\x00"]
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 2**31, 2**63, 2**64, 10**400, 1e308, -0.0])
    | st.floats(allow_nan=True, allow_infinity=True)
    | texts
)
keys = st.text(max_size=5) | st.sampled_from(
    [
        *("id", "runId", "configId", "agentId", "status", "created", "success", "error", "message", "title", "detail"),
        *("items", "agents", "runs", "transactions", "totalRecordCount", "events", "eventIndex", "lastEventIndex"),
    ]
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=5), max_leaves=12
)


@st.composite
def mangled(draw: st.DrawFn, sample: Any) -> Any:
    """The documented answer with some of its parts replaced by anything."""
    if isinstance(sample, dict):
        return {
            name: draw(values) if draw(st.integers(0, 5)) == 0 else draw(mangled(value))
            for name, value in sample.items()
            if draw(st.integers(0, 9))
        }
    if isinstance(sample, list):
        return [draw(mangled(value)) for value in sample] + draw(st.lists(values, max_size=1))
    return sample


@st.composite
def bodies(draw: st.DrawFn, sample: Any) -> bytes:
    """Valid, mangled and hostile bodies."""
    kind = draw(st.sampled_from(["valid", "mangled", "mangled", "json", "cut", "bytes", "html", "deep", "echo"]))
    if kind == "bytes":
        return draw(st.binary())
    if kind == "html":
        return f"<html><body>{draw(texts)} {KEY}</body></html>".encode(errors="replace")
    if kind == "deep":
        return draw(st.sampled_from([b"[", b'{"id":', b'{"a":['])) * 50_000
    if kind == "echo":
        return (
            json.dumps({"title": KEY, "detail": f"the key {KEY}", "success": False}).encode().replace(b"+", b"\\u002b")
        )
    value = sample if kind == "valid" else draw(values) if kind == "json" else draw(mangled(sample))
    # The server may escape characters or not; Python writes NaN, which JSON does not have.
    text = json.dumps(value, ensure_ascii=draw(st.booleans())).encode(errors="replace")
    return text[: draw(st.integers(0, len(text)))] if kind == "cut" else text


@st.composite
def responses(draw: st.DrawFn, sample: Any) -> httpx.Response:
    """What a server might answer in place of ``sample``."""
    status = draw(st.sampled_from([200, 200, 200, 201, 202, 204, 302, 400, 401, 404, 409, 429, 500, 503, 599, 999]))
    header = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20) | st.just(KEY)
    headers = {
        "retry-after": draw(header | st.sampled_from(["1e999", "Sun, 22 Nov 2026 08:00:30 GMT", "-1"])),
        "content-type": draw(header | st.sampled_from(["application/json", "text/html", "text/csv"])),
    }
    return httpx.Response(status, headers=headers, content=draw(bodies(sample)))
