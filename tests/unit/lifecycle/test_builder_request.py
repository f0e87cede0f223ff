from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_sequentum.api.errors import SequentumConfigurationError
from airflow_provider_sequentum.lifecycle.builder_request import SessionRequest, parse_messages

PROMPT = "Pull the prices from https://shop.example"


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({}, "found none of them"),
        ({"prompt": "  "}, "found none of them"),
        ({"prompt": PROMPT, "url": "https://shop.example"}, "found prompt and url"),
        ({"prompt": PROMPT, "session_id": "s1"}, "found prompt and session_id"),
        ({"prompt": PROMPT, "followups": ("a", " ")}, "Follow-up 2 of 2 is empty"),
    ],
)
def test_bad_input_is_named(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        SessionRequest(**fields)


@pytest.mark.parametrize("fields", [{"prompt": "too short"}, {"prompt": "x" * 5001}, {"session_id": "s" * 300}])
def test_what_the_client_would_refuse_is_found_before_anything_is_sent(fields: dict[str, Any]) -> None:
    request = SessionRequest(**fields)
    with pytest.raises(SequentumConfigurationError):
        request.check()


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        ({"prompt": PROMPT}, {"mode": "prompt", "prompt": PROMPT}),
        ({"url": "https://shop.example", "space_id": 3}, {"mode": "url", "url": "https://shop.example", "spaceId": 3}),
        ({"url": " https://shop.example\n", "prompt": " "}, {"mode": "url", "url": "https://shop.example"}),
        ({"url": "https://shop.example", "prompt": ""}, {"mode": "url", "url": "https://shop.example"}),
        ({"url": " ", "prompt": PROMPT}, {"mode": "prompt", "prompt": PROMPT}),
    ],
)
def test_the_mode_follows_from_what_is_given(fields: dict[str, Any], body: dict[str, Any]) -> None:
    assert SessionRequest(**fields).call().body == body


def test_the_fingerprint_changes_with_everything_that_is_asked_for() -> None:
    requests = [
        SessionRequest(prompt=PROMPT),
        SessionRequest(prompt=PROMPT, space_id=3),
        SessionRequest(prompt=PROMPT, followups=("a",)),
        SessionRequest(prompt=PROMPT + "!"),
        SessionRequest(url=PROMPT),
    ]
    assert len({request.fingerprint() for request in requests}) == len(requests)
    assert SessionRequest(prompt=PROMPT).fingerprint() == requests[0].fingerprint()


def test_the_fingerprint_is_the_same_in_every_release() -> None:
    # With another one, a retry after an upgrade would give the session up in which its earlier try has been talking.
    request = SessionRequest(prompt=PROMPT, space_id=3, followups=("a",))
    assert request.fingerprint() == "61aa1a2374fe53f56b317cab7429410478a3329f79ab7247d8e1cef573a307c8"


def test_messages_may_be_a_list_one_string_or_nothing() -> None:
    assert parse_messages(None) == ()
    assert parse_messages("one") == ("one",)
    assert parse_messages(["a", "b"]) == ("a", "b")
    with pytest.raises(ValueError, match="list of strings"):
        parse_messages([1])
    with pytest.raises(ValueError, match="list of strings"):
        parse_messages({"a": 1})
