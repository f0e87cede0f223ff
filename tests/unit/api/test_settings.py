from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_sequentum.api.errors import SequentumConfigurationError
from airflow_provider_sequentum.api.settings import ClientSettings

KEY = "sk-settings-key"


def test_the_key_is_not_part_of_the_repr() -> None:
    assert KEY not in repr(ClientSettings(api_key=KEY))


def test_white_space_around_the_key_is_dropped() -> None:
    assert ClientSettings(api_key=f" {KEY}\n").api_key == KEY


@pytest.mark.parametrize("key", ["", "  ", "sk-a\nX-Header: b", "sk-ä", "sk a", "sk-\x00"])
def test_a_key_that_cannot_be_one_is_refused_without_being_told(key: str) -> None:
    with pytest.raises(SequentumConfigurationError) as refused:
        ClientSettings(api_key=key)

    assert not key.strip() or key.strip() not in str(refused.value)


@pytest.mark.parametrize(
    ("base_url", "expected"),
    [
        ("https://dashboard.sequentum.com/", "https://dashboard.sequentum.com"),
        ("https://host.example/sequentum/api/v1/", "https://host.example/sequentum"),
        (" http://127.0.0.1:8080 ", "http://127.0.0.1:8080"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("http://localhost", "http://localhost"),
    ],
)
def test_base_urls_are_put_into_one_form(base_url: str, expected: str) -> None:
    assert ClientSettings(api_key=KEY, base_url=base_url).base_url == expected


@pytest.mark.parametrize(
    "base_url",
    [
        f"https://{KEY}",
        f"https://{KEY.upper()}/",
        f"https://host.example/{KEY}",
        f"https://host.example/{KEY.replace('k', '%6b')}/api/v1",
        "https://sk-0123456789abcdefXYZ",
        "https://sk-0123456789abcdefXYZ:443",
        "https://host.example/sk-0123456789abcdefXYZ",
    ],
)
def test_a_key_in_the_base_url_is_refused_and_not_shown(base_url: str) -> None:
    with pytest.raises(SequentumConfigurationError, match="contains an API key") as refused:
        ClientSettings(api_key=KEY, base_url=base_url)
    assert KEY.lower() not in str(refused.value).lower()
    assert "0123456789" not in str(refused.value)


@pytest.mark.parametrize("path", [KEY, f"/etc/{KEY}", "sk-0123456789abcdefXYZ", " sk-0123456789abcdefXYZ "])
def test_a_key_as_the_path_of_the_certificates_is_refused_and_not_shown(path: str) -> None:
    with pytest.raises(SequentumConfigurationError, match="contains an API key") as refused:
        ClientSettings(api_key=KEY, verify=path)
    assert path.strip() not in str(refused.value)


@pytest.mark.parametrize("host", ["sk-north.example", "sk-production-datacenter-1.example", "sk", "sk-short"])
def test_a_host_that_starts_like_a_key_is_none(host: str) -> None:
    assert ClientSettings(api_key=KEY, base_url=f"https://{host}").host == host


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "dashboard.sequentum.com",
        "ftp://host.example",
        "https://",
        "https://user:secret@host.example",
        "https://host.example?key=secret",
        "https://host.example#part",
        "https://host.example:port",
        "https://[broken",
        "https://host.exa mple",
        "https://host.example:0",
        "https://host.example:99999",
        "https://host..example",
        "https://-host.example",
        f"https://{'a' * 64}.example",
        f"https://{'a.' * 130}example",
        "https://256.1.1.1",
        "https://xn--a.example",
        "https://host\x00.example",
        "https://host_,.example",
    ],
)
def test_unusable_base_urls_are_refused(base_url: str) -> None:
    with pytest.raises(SequentumConfigurationError) as refused:
        ClientSettings(api_key=KEY, base_url=base_url)

    assert "secret" not in str(refused.value)
    assert isinstance(refused.value, ValueError)


@pytest.mark.parametrize("host", ["host.example", "127.0.0.1.host.example", "localhost.example", "10.0.0.1"])
def test_plain_http_is_refused_except_to_loopback(host: str) -> None:
    with pytest.raises(SequentumConfigurationError, match="unencrypted"):
        ClientSettings(api_key=KEY, base_url=f"http://{host}")

    assert ClientSettings(api_key=KEY, base_url=f"http://{host}", allow_http=True).base_url == f"http://{host}"


@pytest.mark.parametrize(
    "change",
    [
        {"connect_timeout": 0},
        {"read_timeout": -1},
        {"read_timeout": float("nan")},
        {"read_timeout": float("inf")},
        {"read_timeout": True},
        {"connect_timeout": "5"},
        {"connect_timeout": None},
        {"max_attempts": 0},
        {"max_attempts": 1.5},
        {"max_attempts": True},
        {"requests_per_minute": True},
        {"api_key": None},
        {"base_url": None},
        {"requests_per_minute": 0},
        {"user_agent": "a\r\nX: b"},
    ],
)
def test_unusable_values_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(SequentumConfigurationError):
        ClientSettings(**{"api_key": KEY, **change})


@pytest.mark.parametrize(
    ("base_url", "origin"),
    [
        ("https://Host.example/a", "https://host.example:443"),
        ("http://127.0.0.1:81", "http://127.0.0.1:81"),
        ("http://localhost", "http://localhost:80"),
    ],
)
def test_the_origin_names_scheme_host_and_port(base_url: str, origin: str) -> None:
    assert ClientSettings(api_key=KEY, base_url=base_url).origin == origin
