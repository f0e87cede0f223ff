from __future__ import annotations

import json
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_sequentum.exceptions import SequentumRequestRefused
from airflow_provider_sequentum.sessions.record import Request, SessionConfig, SessionRecord, session_id_in
from airflow_provider_sequentum.sessions.state import Session, SessionState, Turn
from airflow_provider_sequentum.sessions.wait import TurnEvent
from tests.support.service import START

PROMPT = "Pull the prices from https://shop.example"
SESSION = Session(
    session_id="s1",
    state=SessionState.READY,
    turn=Turn.WORKING,
    message_sent_at=START,
    state_since=START,
    cursor=9,
    sent=2,
    agent_id=7,
    started_at=START,
    data_index=4,
)


def parsed(**fields: Any) -> SessionConfig:
    """Parse the parameters of an operator."""
    return SessionConfig.of(SimpleNamespace(sequentum_conn_id="c", **fields))


@pytest.mark.parametrize("session", [None, SESSION])
@pytest.mark.parametrize("request_", [None, *Request])
def test_what_is_written_is_read_back(session: Session | None, request_: Request | None) -> None:
    record = SessionRecord(fingerprint="f", max_tries=2, session=session, config=SessionConfig(followups=("a",)))
    record = record.sending(request_, START) if request_ is not None else record
    assert SessionRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_unknown_fields_are_ignored_and_absent_ones_have_defaults() -> None:
    later = {"format": 2, "session": {"session_id": "s1", "colour": "red"}, "mood": 3, "config": {"shape": 1}}
    assert SessionRecord.from_json(later) == SessionRecord(session=Session(session_id="s1"))
    assert SessionRecord.from_json({"format": 2}) == SessionRecord()
    assert TurnEvent.from_json({"session": {"session_id": "s1"}, "mood": 1}).session == Session(session_id="s1")


@pytest.mark.parametrize(
    "value",
    [
        None,
        "text",
        {"format": 99},
        {**SessionRecord(session=SESSION).to_json(), "format": 1},
        {**SessionRecord().to_json(), "session": {"state": "ready"}},
        {**SessionRecord().to_json(), "pending": "dance"},
        {**SessionRecord().to_json(), "requested_at": []},
    ],
)
def test_what_cannot_be_read_is_never_taken_for_no_record(value: Any) -> None:
    with pytest.raises(ValueError, match=r"\."):
        SessionRecord.from_json(value)


@pytest.mark.parametrize("event", [None, "text", {}, {"format": 1}, {"error": "SequentumUnavailable"}])
def test_an_event_that_cannot_be_read_is_never_taken_for_success(event: Any) -> None:
    with pytest.raises(ValueError, match=r"\."):
        TurnEvent.from_json(event)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([{"format": 1, "session": {"session_id": "s1"}}], "s1"),
        ([None, {"record": {"session": {"session_id": "s1"}}, "trigger": {}}], "s1"),
        ([None, "text", {"session_id": 7}, {"session_id": ""}, {"session_id": "x" * 300}], None),
        ([{"session_id": 7, "session": {"session_id": "s2"}}], "s2"),
    ],
)
def test_the_session_of_a_record_of_another_version_is_found(values: list[object], found: str | None) -> None:
    assert session_id_in(values) == found


def test_a_record_stays_small_whatever_is_sent() -> None:
    config = parsed(prompt="p" * 5000, agent_name="n" * 200).updated(screenshots_path="s3://c@bucket/" + "x" * 200)
    session = SESSION.updated(session_id="s" * 256).finished(7, "n" * 10_000, START)
    session = session.updated(error="\U0001f600" * 125)
    record = SessionRecord(
        config=config, fingerprint=config.fingerprint(), session=session, deadline=START,
        execution_deadline=START, pending=Request.FINISH, requested_at=START,
    )  # fmt: skip
    assert len(json.dumps(record.to_json())) < 4096
    assert len(json.dumps(TurnEvent(session=session, message="m" * 500).to_json())) < 4096


def test_the_record_holds_what_a_resumed_task_needs_and_not_what_only_a_start_needs() -> None:
    config = parsed(prompt=PROMPT, followups=["a"], timeout=5, on_ready="fail", conversation_path="file:///c.json")
    kept = SessionRecord.from_json(SessionRecord(config=config).to_json()).config
    assert kept == config.updated(prompt=None)
    given = parsed(session_id="s1", followups=["a"])
    assert SessionRecord.from_json(SessionRecord(config=given).to_json()).config.is_given


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({}, "none of them has a value"),
        ({"prompt": "  "}, "none of them has a value"),
        ({"prompt": PROMPT, "url": "https://shop.example"}, "prompt and url have a value"),
        ({"prompt": PROMPT, "session_id": "s1"}, "prompt and session_id have a value"),
        ({"session_id": "None"}, "not 'None', the text of a template whose value is None"),
        ({"prompt": PROMPT, "followups": ("a", " ")}, "number 2 of 2 is empty"),
        ({"prompt": PROMPT, "followups": {"a": 1}}, "list of strings"),
        ({"prompt": PROMPT, "followups": [1]}, "list of strings"),
        ({"prompt": PROMPT, "finish": False, "on_ready": "cancel"}, "only applies with finish=True"),
        ({"prompt": PROMPT, "finish": "False", "on_ready": "fail"}, "only applies with finish=True"),
        ({"prompt": PROMPT, "on_ready": "dance"}, "on_ready must be one of"),
        ({"prompt": PROMPT, "on_ambiguous_start": "adopt"}, "on_ambiguous_start must be one of"),
        ({"prompt": PROMPT, "on_lost_session": "cry"}, "on_lost_session must be one of"),
        ({"prompt": PROMPT, "poll_interval": True}, "poll_interval must be"),
        ({"prompt": PROMPT, "timeout": "soon"}, "timeout must be"),
        ({"prompt": PROMPT, "space_id": "my space"}, "space_id must be"),
        ({"prompt": "too short"}, "10 to 5000"),
        ({"prompt": "x" * 5001}, "10 to 5000"),
        ({"session_id": "s" * 300}, "session id"),
    ],
)
def test_bad_input_is_named_before_anything_is_sent(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(SequentumRequestRefused, match=complaint) as caught:
        parsed(**fields)
    assert isinstance(caught.value, AirflowFailException)
    assert "Nothing was sent (connection 'c')" in str(caught.value)


@pytest.mark.parametrize(
    ("value", "messages"),
    [
        (None, ()),
        ("", ()),
        ("one", ("one",)),
        (["a", "b"], ("a", "b")),
        (("a",), ("a",)),
        ([], ()),
        (iter(["a"]), ("a",)),
    ],
)
def test_messages_may_be_a_list_one_string_or_nothing(value: object, messages: tuple[str, ...]) -> None:
    assert parsed(prompt=PROMPT, followups=value).followups == messages


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        ({"prompt": PROMPT}, {"mode": "prompt", "prompt": PROMPT}),
        ({"url": "https://shop.example", "space_id": 3}, {"mode": "url", "url": "https://shop.example", "spaceId": 3}),
        ({"url": " https://shop.example\n", "prompt": " "}, {"mode": "url", "url": "https://shop.example"}),
        ({"url": " ", "prompt": PROMPT}, {"mode": "prompt", "prompt": PROMPT}),
    ],
)
def test_the_mode_follows_from_what_is_given(fields: dict[str, Any], body: dict[str, Any]) -> None:
    assert parsed(**fields).start_call().body == body


def test_the_fingerprint_changes_with_everything_that_is_asked_for() -> None:
    configs = [
        parsed(prompt=PROMPT),
        parsed(prompt=PROMPT, space_id=3),
        parsed(prompt=PROMPT, followups=("a",)),
        parsed(prompt=PROMPT + "!"),
        parsed(url=PROMPT),
        parsed(session_id="s1"),
    ]
    assert len({config.fingerprint() for config in configs}) == len(configs)
    assert parsed(prompt=PROMPT, timeout=3, on_ready="fail").fingerprint() == configs[0].fingerprint()


def test_the_fingerprint_is_the_same_in_every_release() -> None:
    # With another one, a retry after an upgrade would give up the session of its earlier attempt.
    config = parsed(prompt=PROMPT, space_id=3, followups=("a",))
    assert config.fingerprint() == "3b2c4452c5229b2b11fc935c01b43ce024d12e13695c9d0c62b5cc6d67cad051"


def test_a_time_is_kept_to_the_microsecond() -> None:
    moment = datetime.fromisoformat("2026-11-22T09:00:00.123456+00:00")
    record = SessionRecord(requested_at=moment)
    assert SessionRecord.from_json(record.to_json()).requested_at == moment
