from __future__ import annotations

import json

import pytest

from airflow_provider_sequentum.sandbox.problems import problem_body
from airflow_provider_sequentum.sandbox.settings import Dialect


@pytest.mark.parametrize(
    ("form", "members"),
    [
        ("rfc7807", {"type", "title", "status", "detail", "instance"}),
        ("legacy_a", {"statusCode", "statusDescription", "message", "severity"}),
        ("legacy_b", {"statusCode", "statusDescription", "message", "errorCode"}),
    ],
)
def test_json_errors_have_the_members_of_their_form(form: str, members: set[str]) -> None:
    body, kind = problem_body(409, "No.", "/x", Dialect.model_validate({"errors": form}))
    assert set(json.loads(body)) == members
    assert "json" in kind


@pytest.mark.parametrize(("form", "start"), [("text", b"<b>"), ("html", b"<html>"), ("empty", b"")])
def test_other_errors_are_what_gateways_send(form: str, start: bytes) -> None:
    body, _ = problem_body(409, "<b>", "/x", Dialect.model_validate({"errors": form}))
    assert body.startswith(start)
    assert form == "text" or b"<b>" not in body
