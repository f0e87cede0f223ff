"""All text of the service passes one edge: whatever a response holds can be stored, printed and sent on."""

from __future__ import annotations

import json
import logging
import unicodedata
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from airflow_provider_sequentum.api import agent_builder, agents, errors, files, runs, schedules, spaces
from airflow_provider_sequentum.api.call import Call
from airflow_provider_sequentum.api.pipeline import error_of_status, read_response
from airflow_provider_sequentum.api.text import MAX_LINE_LENGTH, MAX_MESSAGE_LENGTH, MAX_NAME_LENGTH, MAX_TEXT_LENGTH
from tests.unit.api.samples import SAMPLES
from tests.unit.api.support import answer

HOSTILE = "a\x00b\x1b[31mc\x9bd\u202ee\u2028f\x85g\r\nForged: line\ud83d"
PAIRED = "\U0001f600 Ünïcode"


def strings_of(value: Any) -> Iterator[str]:
    """Every string in a value, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, BaseModel):
        yield from strings_of(dict(value))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from strings_of(key)
            yield from strings_of(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings_of(item)


def poisoned(value: Any, poison: str) -> Any:
    """The documented answer with poison after each of its strings, keys left alone."""
    if isinstance(value, str):
        return value + poison
    if isinstance(value, dict):
        return {name: poisoned(item, poison) for name, item in value.items()}
    if isinstance(value, list):
        return [poisoned(item, poison) for item in value]
    return value


def is_safe(text: str) -> bool:
    """Whether PostgreSQL stores it, UTF-8 encodes it and no terminal obeys it."""
    return all(character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs") for character in text)


@pytest.mark.parametrize("poison", [HOSTILE, "x" * 100_000, "\u202e" * 5_000])
@pytest.mark.parametrize(("call", "sample"), [(call, sample) for _, _, call, sample in SAMPLES if sample is not None])
def test_no_string_of_any_model_is_unsafe_or_unbounded(call: Call[Any], sample: Any, poison: str) -> None:
    content = json.dumps(poisoned(sample, poison))
    try:
        value = read_response(call, answer(content))
    except errors.SequentumError as error:
        value = str(error)

    for text in strings_of(value):
        assert is_safe(text)
        text.encode()
        assert len(text.encode()) <= 150_000


@pytest.mark.parametrize(
    ("field", "limit"),
    [("message", MAX_MESSAGE_LENGTH), ("configName", MAX_NAME_LENGTH), ("errorMessage", MAX_MESSAGE_LENGTH)],
)
def test_a_run_s_text_is_one_bounded_line(field: str, limit: int) -> None:
    body = json.dumps({"id": 42, field: f"It broke.\r\nERROR forged {HOSTILE} " + "x" * 5_000_000})

    run = read_response(runs.status(7, 42), answer(body))

    text = run.config_name if field == "configName" else run.message
    assert text is not None
    assert "\n" not in text
    assert text.startswith("It broke.  ERROR forged a\ufffdb")
    assert text.endswith("\u2026")
    assert len(text.encode()) <= limit


def test_ordinary_text_is_left_as_it_is() -> None:
    body = json.dumps({"id": 42, "configName": PAIRED, "message": "  two  spaces "})

    run = read_response(runs.status(7, 42), answer(body))

    assert (run.config_name, run.message) == (PAIRED, "  two  spaces ")


def test_the_text_of_builder_events_keeps_its_lines_and_json_is_cleaned_at_every_depth() -> None:
    event = {
        "eventIndex": 1,
        "content": "first\r\nsecond\x00" + "x" * 20_000,
        "plan": {"st\x00eps": [{"name": HOSTILE, "size": float("nan"), "rows": 2**70}]},
        "imageBase64": "QUJD" * 100_000,
    }
    (read,) = read_response(agent_builder.events("s"), answer(json.dumps({"events": [event]}))).events

    assert read.content is not None
    assert read.content.startswith("first\nsecond\ufffdx")
    assert len(read.content.encode()) <= MAX_TEXT_LENGTH
    ((name, (step,)),) = read.plan.items()
    assert name == "st\ufffdeps"
    assert is_safe(step["name"])
    assert (step["size"], step["rows"]) == (None, str(2**70))
    assert read.image_base64 == "QUJD" * 100_000


def test_input_parameters_stay_whole() -> None:
    text = json.dumps({"urls": ["https://shop.example/" + "a" * 1000] * 50}, indent=1)
    listed = read_response(schedules.list_schedules(7), answer(json.dumps([{"id": 1, "inputParameters": text}])))
    agent = read_response(agents.get(7), answer(json.dumps({"id": 7, "inputParameters": {"urls": text}})))

    assert listed[0].input_parameters == text
    assert agent.input_parameters == {"urls": text}


@pytest.mark.parametrize(
    "content",
    [
        b'\xef\xbb\xbf{"id": 42, "message": "odd"}',
        b'{"id": 42, "message": "odd", "runTimeSec": NaN, "dataCount": Infinity, "traffic": -Infinity}',
        b'{"id": 42, "message": "odd", "configName": "\\ud83d"}',
        b'{"id": 42, "message": "odd", "configName": "\\udc00\\ud83d tail"}',
        b'{"id": 42, "message": "odd", "configName": "\xff\xfe"}',
        b'{"id": 42, "message": "odd", "configName": "a\x00\x1fb"}',
        b'{"id": 42, "message": "odd", "dataCount": ' + b"9" * 5_000 + b"}",
        b'{"id": 42, "message": "odd", "dataCount": 1e999}',
        '{"id": 42, "message": "odd"}'.encode("utf-16"),
        b'{"id": 42, "message": "odd", "traffic": 99999999999999999999}',
    ],
)
def test_json_is_read_as_leniently_as_python_reads_it(content: bytes) -> None:
    run = read_response(runs.status(7, 42), answer(content))

    assert (run.id, run.message) == (42, "odd")
    assert (run.data_count, run.traffic) == (None, None)
    assert all(map(is_safe, strings_of(run)))
    json.dumps(run.model_dump(mode="json"), allow_nan=False).encode()


def test_an_escaped_backslash_before_a_u_and_a_whole_emoji_survive_the_repair() -> None:
    content = rb'{"id": 42, "message": "C:\\ud83d \ud83d\ude00", "configName": "\ud83d"}'

    run = read_response(runs.status(7, 42), answer(content))

    assert (run.message, run.config_name) == ("C:\\ud83d \U0001f600", "\ufffd")


def test_a_cut_page_of_events_with_half_an_emoji_is_read() -> None:
    content = b'{"events": [{"eventIndex": 0, "content": "\\ud83d"}, {"eventIndex": 1, "content": "cu'
    cut = answer(content)._replace(is_cut=True)

    page = read_response(agent_builder.events("s"), cut)

    assert [event.content for event in page.events] == ["\ufffd"]


@pytest.mark.parametrize("bad", [b'{"status": 1}', b'"x"', b"null", b'{"id": "one"}', b'{"id": 0}'])
def test_one_bad_element_does_not_spoil_its_list(bad: bytes, caplog: pytest.LogCaptureFixture) -> None:
    content = b'[{"id": 43}, ' + bad + b', {"id": 42, "configName": "\\ud83d"}, ' + bad + b"]"

    listed = read_response(runs.list_runs(7, 4), answer(content))

    assert [run.id for run in listed] == [43, 42]
    assert listed.unreadable == 2
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "2 of 4 elements" in record.getMessage()


def test_one_bad_element_does_not_spoil_a_list_within_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    results = [{"agentId": 7, "runId": 42, "success": True}, {"runId": 43}, "x", {"agentId": 8, "errorMessage": "no\n"}]

    space_run = read_response(spaces.run_all(3), answer(json.dumps({"results": results, "totalAgents": 4})))

    assert [(result.agent_id, result.run_id) for result in space_run.results] == [(7, 42), (8, None)]
    assert space_run.results[1].error_message == "no "
    assert "2 of 4 elements" in caplog.text


@pytest.mark.parametrize("call", [runs.list_runs(7), files.list_files(7, 42)])
def test_a_list_of_which_nothing_can_be_read_is_not_an_empty_list(call: Call[Any]) -> None:
    with pytest.raises(errors.UnexpectedResponse):
        read_response(call, answer(b'[{"name": "a"}, null]'))


@pytest.mark.parametrize("status", [200, 400, 409, 500])
@pytest.mark.parametrize("field", ["title", "detail", "message", "error", "statusDescription", "errorCode"])
def test_no_exception_is_longer_than_a_line_or_obeyed_by_a_terminal(status: int, field: str) -> None:
    body = json.dumps({"success": False, field: f"{HOSTILE} " + "y" * 200_000})
    with pytest.raises(errors.SequentumError) as caught:
        read_response(runs.start(7), answer(body, status))

    told = str(caught.value)
    assert told.isprintable()
    assert len(told.encode()) <= MAX_LINE_LENGTH


def test_every_error_passes_the_edge_whoever_raises_it() -> None:
    error = errors.SequentumError(HOSTILE + "z" * 10_000, purpose=f"stop {HOSTILE}", request=HOSTILE)

    assert all(text.isprintable() for text in (str(error), error.purpose, error.request))
    assert len(str(error).encode()) <= MAX_LINE_LENGTH


def test_the_caller_s_own_session_id_forges_no_line() -> None:
    error = error_of_status(agent_builder.status("s\nERROR forged"), answer(b"", 404))

    assert str(error).isprintable()


@pytest.mark.parametrize("session_id", ["a\x00b", "a\nb\x1b", "x" * 257, "", " \ud83d"])
def test_a_session_id_that_cannot_be_kept_as_it_is_is_no_session_id(session_id: str) -> None:
    call = agent_builder.start(prompt="Get all the prices")
    with pytest.raises(errors.UnexpectedResponse) as caught:
        read_response(call, answer(json.dumps({"sessionId": session_id})))

    assert caught.value.may_have_acted


def test_what_a_synchronous_run_gives_can_be_stored() -> None:
    records = read_response(
        runs.run_synchronously(7), answer(b'\xef\xbb\xbf{"Prices": [{"a": "\\u0000", "b": NaN, "c": "\\ud83d"}]}')
    )

    assert records == {"Prices": [{"a": "\ufffd", "b": None, "c": "\ufffd"}]}
