from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sequentum.api.settings import DEFAULT_BASE_URL
from airflow_provider_sequentum.exceptions import SequentumConnectionException
from airflow_provider_sequentum.get_provider_info import CONNECTION_FIELDS
from airflow_provider_sequentum.hooks.connection import (
    SequentumConnection,
    fill_link_template,
    settings_from_connection,
)

KEY = "sk-0123456789abcdef"


def settings(**changes: Any) -> Any:
    values = {"password": KEY, "host": None, "port": None, "schema": None, "extra": {}, **changes}
    return settings_from_connection(**values)


@pytest.mark.parametrize(
    ("fields", "base_url"),
    [
        ({}, DEFAULT_BASE_URL),
        ({"host": ""}, DEFAULT_BASE_URL),
        ({"host": "  "}, DEFAULT_BASE_URL),
        ({"host": "https://sequentum.example"}, "https://sequentum.example"),
        ({"host": "https://sequentum.example/"}, "https://sequentum.example"),
        ({"host": "https://sequentum.example/api/v1/"}, "https://sequentum.example"),
        ({"host": "sequentum.example"}, "https://sequentum.example"),
        ({"host": "sequentum.example", "port": 8443}, "https://sequentum.example:8443"),
        ({"host": "127.0.0.1", "port": 8765, "schema": "http"}, "http://127.0.0.1:8765"),
        ({"host": "http://127.0.0.1:8765"}, "http://127.0.0.1:8765"),
        ({"host": "https://sequentum.example/root", "port": 8443}, "https://sequentum.example:8443/root"),
        ({"host": "sequentum.example/root/api/v1/", "port": 8443}, "https://sequentum.example:8443/root"),
        ({"host": "https://sequentum.example:8443/root", "port": 8443}, "https://sequentum.example:8443/root"),
        ({"host": "sequentum.example", "port": "8443"}, "https://sequentum.example:8443"),
        ({"host": "sequentum.example", "port": ""}, "https://sequentum.example"),
        ({"host": "[::1]", "port": 8765, "schema": "http"}, "http://[::1]:8765"),
        ({"host": "::1", "port": 8765, "schema": "HTTP"}, "http://[::1]:8765"),
        ({"host": None, "port": 8443}, DEFAULT_BASE_URL),
        ({"host": "sequentum.example", "schema": ""}, "https://sequentum.example"),
    ],
)
def test_the_base_url(fields: dict[str, Any], base_url: str) -> None:
    assert settings(**fields).base_url == base_url


def test_the_defaults() -> None:
    chosen = settings()
    assert (chosen.connect_timeout, chosen.read_timeout, chosen.verify) == (10.0, 30.0, True)
    assert (chosen.requests_per_minute, chosen.allow_http) == (None, False)


@pytest.mark.parametrize(
    ("extra", "name", "value"),
    [
        ({"connect_timeout": 3}, "connect_timeout", 3.0),
        ({"read_timeout": "4.5"}, "read_timeout", 4.5),
        ({"requests_per_minute": "60"}, "requests_per_minute", 60),
        ({"requests_per_minute": ""}, "requests_per_minute", None),
        ({"verify": False}, "verify", False),
        ({"verify": "false"}, "verify", False),
        ({"verify": None}, "verify", True),
        ({"ca_bundle": "/etc/ca.pem"}, "verify", "/etc/ca.pem"),
        ({"verify": "no", "ca_bundle": "/etc/ca.pem"}, "verify", False),
        ({"allow_http": "Yes"}, "allow_http", True),
        ({"allow_http": "y"}, "allow_http", True),
    ],
)
def test_the_extras(extra: dict[str, Any], name: str, value: object) -> None:
    assert getattr(settings(extra=extra), name) == value


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"password": None}, "key is missing"),
        ({"password": "  "}, "key is missing"),
        ({"password": "sk with space"}, "characters that are not allowed in a key"),
        ({"password": f"{KEY}\nX-Injected: 1"}, "characters that are not allowed in a key"),
        ({"host": "http://sequentum.example"}, "plain http"),
        ({"host": "ftp://sequentum.example"}, "base URL must look like"),
        ({"host": f"https://user:{KEY}@sequentum.example"}, "must not contain a user"),
        ({"host": "https://"}, "base URL must look like"),
        ({"extra": {"connect_timeout": "soon"}}, "'connect_timeout' must be a number"),
        ({"extra": {"read_timeout": -1}}, "greater than 0"),
        ({"extra": {"requests_per_minute": 0.5}}, "at least 1"),
        ({"extra": {"requests_per_minute": -5}}, "at least 1"),
        ({"extra": {"requests_per_minute": "inf"}}, "'requests_per_minute' must be a number"),
        ({"extra": {"read_timeout": "nan"}}, "'read_timeout' must be a number"),
        ({"extra": {"read_timeout": 10**400}}, "'read_timeout' must be a number"),
        ({"extra": {"verify": "perhaps"}}, "'verify' must be true or false"),
        ({"host": "sequentum.example", "port": 0}, "'port' must be a whole number from 1"),
        ({"host": "sequentum.example", "port": 65536}, "'port' must be a whole number from 1"),
        ({"host": "sequentum.example", "port": -1}, "'port' must be a whole number from 1"),
        ({"host": "sequentum.example", "port": True}, "'port' must be a whole number from 1"),
        ({"host": "sequentum.example", "port": "https"}, "'port' must be a whole number from 1"),
        ({"host": "sequentum.example", "port": "9" * 5000}, "'port' must be a whole number from 1"),
        ({"host": "https://sequentum.example:1", "port": 2}, "'port' is 2, but the host names port 1"),
        *(
            ({"host": host}, "must look like")
            for host in ("sequentum.example:", "https:/sequentum.example", "http:///x")
        ),
        ({"host": "sequentum.example:0"}, "port of the Sequentum base URL"),
        ({"host": "sequentum.example:65536"}, "port must be valid"),
        ({"host": "sequentum.example", "schema": "ftp"}, "'schema' must be http or https"),
        ({"host": "a..example"}, "host of the Sequentum base URL"),
        ({"host": f"{'a' * 64}.example"}, "host of the Sequentum base URL"),
        ({"host": "256.1.1.1"}, "host of the Sequentum base URL"),
        ({"host": "xn--a.example"}, "host of the Sequentum base URL"),
        ({"host": "sequentum\x00.example"}, "base URL"),
        ({"extra": {"connect_timeout": 0}}, "connect_timeout must be greater than 0"),
        ({"extra": {"read_timeout": "0"}}, "read_timeout must be greater than 0"),
        ({"extra": {"requests_per_minute": 0}}, "'requests_per_minute' must be a whole number, at least 1"),
        ({"extra": {"requests_per_minute": 2.5}}, "'requests_per_minute' must be a whole number, at least 1"),
        ({"extra": {"requests_per_minute": True}}, "'requests_per_minute' must be a number"),
        ({"extra": {"connect_timeout": True}}, "'connect_timeout' must be a number"),
        ({"extra": {"read_timeout": False}}, "'read_timeout' must be a number"),
        ({"extra": {"read_timeout": 1e12}}, "read_timeout must be greater than 0 and at most"),
        ({"extra": {"ca_bundle": ["a.pem"]}}, "'ca_bundle' must be a file path"),
        ({"extra": {"ca_bundle": 0}}, "'ca_bundle' must be a file path"),
        ({"extra": ["requests_per_minute"]}, "extra must be a JSON object, not a list"),
        ({"host": 5}, "field 'host' must be a string"),
        ({"host": False, "port": 8443}, "field 'host' must be a string"),
        ({"host": ["https://sequentum.example"]}, "field 'host' must be a string"),
        ({"extra": "text"}, "extra must be a JSON object, not a string"),
        ({"extra": 3}, "extra must be a JSON object, not a number"),
        ({"extra": False}, "extra must be a JSON object, not a boolean"),
    ],
)
def test_an_unusable_field_is_named_and_the_key_is_not(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        settings(**fields)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("unset", [None, "", "  "])
def test_what_is_empty_is_unset(unset: str | None) -> None:
    everything = dict.fromkeys(CONNECTION_FIELDS, unset)

    assert settings(extra=everything, host=unset, port=unset, schema=unset) == settings()
    assert settings(extra=unset) == settings()


@given(st.dictionaries(st.sampled_from(sorted(CONNECTION_FIELDS)), st.none() | st.text() | st.integers() | st.floats()))
def test_no_extra_breaks_otherwise_than_by_an_error_that_names_it(extra: dict[str, Any]) -> None:
    try:
        settings(extra=extra)
    except ValueError as error:
        told = str(error)
    else:
        return
    assert KEY not in told
    assert told


def test_a_link_template() -> None:
    filled = fill_link_template("https://ui/{agent_id}/runs/{run_id}?x={other}", "https://base", agent_id=7, run_id=42)
    assert filled == "https://ui/7/runs/42?x={other}"


@pytest.mark.parametrize(
    "template",
    [
        *(None, "", " ", 5, True, ["https://ui"], {"https://": 1}, "ui.example/{run_id}", "//ui.example", "ftp://ui"),
        *("javascript:alert(1)//https://", " JavaScript:alert(1)", "data:text/html,x", "\x01javascript:alert(1)"),
    ],
)
def test_6_9_without_a_template_of_a_page_the_link_leads_to_the_dashboard(template: object) -> None:
    assert fill_link_template(template, "https://base", run_id=42) == "https://base"


@pytest.mark.parametrize("extra", ["x", "{'verify': false}", '{"verify": false,}', "{", '"x"', "[1]", "7"])
async def test_an_extra_that_is_no_json_object_is_not_taken_for_an_empty_one(
    monkeypatch: pytest.MonkeyPatch, extra: str
) -> None:
    connection = {"conn_type": "sequentum", "password": KEY, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_SEQUENTUM_DEFAULT", json.dumps(connection))
    with pytest.raises(SequentumConnectionException, match="extra must be a JSON object") as caught:
        SequentumConnection().settings  # noqa: B018 - reading it is what is tested
    assert KEY not in str(caught.value)
    with pytest.raises(SequentumConnectionException, match="extra must be a JSON object"):
        await SequentumConnection().aget_settings()


def test_what_the_server_says_cannot_change_where_a_link_leads() -> None:
    assert fill_link_template("https://ui/{session_id}", "", session_id="../x?y#z@evil") == (
        "https://ui/..%2Fx%3Fy%23z%40evil"
    )


@pytest.mark.parametrize("unset", [None, "", " "])
def test_an_unset_connection_is_the_default_one(unset: Any) -> None:
    assert SequentumConnection(unset).sequentum_conn_id == "sequentum_default"
