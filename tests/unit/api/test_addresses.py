from __future__ import annotations

import httpx
import pytest

from airflow_provider_sequentum.api.addresses import is_host, is_loopback, kind_of_host, redirect_target
from airflow_provider_sequentum.api.settings import ClientSettings

PUBLIC = ClientSettings(api_key="sk-addresses")
SANDBOX = ClientSettings(api_key="sk-addresses", base_url="http://127.0.0.1:8765")
COMPANY = ClientSettings(api_key="sk-addresses", base_url="https://10.1.2.3")
INTRANET = ClientSettings(api_key="sk-addresses", base_url="https://sequentum.corp")


def follow(settings: ClientSettings, location: str) -> str:
    return str(
        redirect_target(
            settings.host,
            httpx.URL(f"{settings.base_url}/api/v1/file"),
            location,
            allow_http=settings.allow_http,
        )
    )


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.0.0.1.", "0", "0.0.0.0"),
        *("localhost", "LOCALHOST", "localhost.", "a.localhost", "::1", "[::1]", "::ffff:127.0.0.1", "::127.0.0.1"),
        *("[::ffff:7f00:1]", "2002:7f00:1::", "64:ff9b::7f00:1", "::"),
        *("64:ff9b:1::7f00:1", "::ffff:0:127.0.0.1"),
    ],
)
def test_every_spelling_of_this_machine(host: str) -> None:
    assert kind_of_host(host) == "loopback"


@pytest.mark.parametrize(
    ("host", "kind"),
    [
        *((host, "link-local") for host in ("169.254.169.254", "0xa9fea9fe", "2852039166", "::ffff:a9fe:a9fe")),
        *((host, "link-local") for host in ("168.63.129.16", "192.0.0.192", "::ffff:0:168.63.129.16")),
        *((host, "link-local") for host in ("fe80::1", "fe80::1%eth0", "[fe80::1]")),
        *((host, "private") for host in ("10.0.0.1", "10.1", "192.168.1.1", "172.16.0.1", "100.64.0.1", "fd00::1")),
        *((host, "private") for host in ("intranet", "metadata.google.internal", "printer.local", "224.0.0.1")),
        *((host, "public") for host in ("8.8.8.8", "134744072", "2606:4700::1", "storage.example", "10.example.com")),
    ],
)
def test_where_a_host_is(host: str, kind: str) -> None:
    assert kind_of_host(host) == kind


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *((host, True) for host in ("a", "a.b", "a_b.c-d", "a.b.", "127.0.0.1", "::1", "xn--bcher-kva.example")),
        *((host, False) for host in ("", "a..b", ".a", "-a.b", "a" * 64, "a." * 130, "256.1.1.1", "1.2.3.4.5", "a b")),
        *((host, False) for host in ("a\x00b", "xn--a.example", "xn--\u00e4", ":::", "a,b", "a\n")),
    ],
)
def test_what_can_be_looked_up(host: str, expected: bool) -> None:
    assert is_host(host) is expected


@pytest.mark.parametrize(("host", "expected"), [("127.8.9.1", True), ("::1", True), (None, False), ("0.0.0.0", False)])
def test_loopback(host: str | None, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    "location",
    [
        *(
            "javascript:alert(1)",
            "data:text/plain,a",
            "mailto:a@b",
            "file:///etc/passwd",
            "ftp://a.example/x",
            "blob:x",
        ),
        *("https://", "https:///x", "https://[::1", "https://a.example:port/", "https://a.example:99999/", "//"),
        *("https://xn--a.example/", f"https://{'a' * 64}.example/", "https://a..example/", "https://a\x00b/", "\x00"),
        *("http://storage.example/x", "http://127.0.0.1/x"),
        *("https://169.254.169.254/latest", "https://127.0.0.1/", "https://10.0.0.1/", "https://localhost/x"),
        *("https://2130706433/", "https://0x7f.1/", "https://[::ffff:169.254.169.254]/", "https://127.0.0.1./"),
        *(
            "https://metadata.google.internal/",
            "https://kubernetes/",
            "https://127\u30020\u30020\u30021/",
            "//127.0.0.1/",
        ),
    ],
)
def test_a_public_service_leads_nowhere_else(location: str) -> None:
    with pytest.raises(ValueError, match=r"^the redirect ") as refused:
        follow(PUBLIC, location)

    assert refused.value.__context__ is None


@pytest.mark.parametrize(
    ("settings", "location", "target"),
    [
        (PUBLIC, "https://storage.example/x?s=1", "https://storage.example/x?s=1"),
        (PUBLIC, "https://8.8.8.8/x", "https://8.8.8.8/x"),
        (PUBLIC, "/content/3", "https://dashboard.sequentum.com/content/3"),
        (PUBLIC, "//storage.example/x", "https://storage.example/x"),
        (SANDBOX, "http://localhost:9/x", "http://localhost:9/x"),
        (SANDBOX, "https://storage.example/x", "https://storage.example/x"),
        (COMPANY, "https://192.168.7.7/x", "https://192.168.7.7/x"),
        (INTRANET, "https://10.0.0.9/x", "https://10.0.0.9/x"),
    ],
)
def test_redirects_that_are_followed(settings: ClientSettings, location: str, target: str) -> None:
    assert follow(settings, location) == target


@pytest.mark.parametrize(
    ("settings", "location"),
    [(COMPANY, "https://127.0.0.1/x"), (COMPANY, "https://169.254.169.254/"), (SANDBOX, "https://10.0.0.1/")],
)
def test_a_local_service_leads_to_its_own_kind_only(settings: ClientSettings, location: str) -> None:
    with pytest.raises(ValueError, match="leads to a"):
        follow(settings, location)
