"""What web pages, proxies and foreign names get from the sandbox: nothing."""

from __future__ import annotations

import socket

import pytest

from airflow_provider_sequentum.sandbox import Sandbox
from tests.integration.sandbox.client import Api, plain, send

FOREIGN_HOSTS = [
    "127.evil.com",
    "127.0.0.1.evil.com",
    "localhost.evil.com",
    "evil.com",
    "evil.com:8765",
    "notlocalhost",
    "localhost.",
    "127.0.0.1.",
    "127.1",
    "127.0.0.01",
    "127.0.0.256",
    "0x7f000001",
    "2130706433",
    "[::ffff:127.0.0.1]",
    "[127.0.0.1]",
    "[::2]",
    "[::1",
    "::1",
    "0.0.0.0",
    "user@127.0.0.1",
    "127.0.0.1@evil.com",
    "localhost:8765@evil.com",
    "localhost, evil.com",
    "localhost:http",
    "localhost:",
    "localhost/",
    "",
]
OWN_HOSTS = ["localhost", "LocalHost", "localhost:1", "127.0.0.1", "127.9.8.7", "127.0.0.1:65535", "[::1]", "[::1]:80"]
PATHS = ["/sandbox", "/sandbox/ledger/runs", "/", "/docs", "/openapi.json", "/api/v1/agent/all"]


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
def test_a_foreign_host_is_refused_everywhere(sandbox: Sandbox, host: str) -> None:
    key = f"Authorization: ApiKey {sandbox.api_key}"
    for origin, paths in ((sandbox.base_url, PATHS), (sandbox.storage.origin, ["/storage/1/2/3"])):
        for path in paths:
            answer = send(origin, path, [f"Host: {host}", key])
            assert answer.status_code in (400, 403), path
            assert sandbox.api_key not in answer.text
    assert sandbox.ledger.requests == []
    assert sandbox.ledger.leaks == []


@pytest.mark.parametrize("host", OWN_HOSTS)
def test_loopback_by_any_of_its_names_is_served(sandbox: Sandbox, host: str) -> None:
    key = f"Authorization: ApiKey {sandbox.api_key}"
    assert [send(sandbox.base_url, path, [f"Host: {host}", key]).status_code for path in PATHS] == [200] * len(PATHS)
    assert send(sandbox.storage.origin, "/storage/1/2/3", [f"Host: {host}"]).status_code == 403  # not signed
    assert [entry.path for entry in sandbox.ledger.requests] == ["/agent/all", "/storage/1/2/3"]


@pytest.mark.parametrize(
    ("headers", "version"),
    [
        ([], "1.1"),
        ([], "1.0"),
        (["Host: localhost", "Host: evil.com"], "1.1"),
        (["Host: evil.com", "Host: localhost"], "1.0"),
        (["Host: localhost", "Host: localhost"], "1.1"),
        (["Host: evil.com", "X-Forwarded-Host: localhost"], "1.1"),
        (["Host: evil.com", "Forwarded: host=localhost"], "1.1"),
        (["Host: evil.com", "X-Original-Host: localhost", "X-Forwarded-For: 127.0.0.1"], "1.1"),
    ],
)
def test_a_host_is_there_once_and_in_its_own_header(sandbox: Sandbox, headers: list[str], version: str) -> None:
    assert send(sandbox.base_url, "/sandbox", headers, version=version).status_code in (400, 403)


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "http://evil.com/sandbox"),
        ("GET", "http://127.0.0.1/sandbox"),
        ("GET", "http://evil.com/api/v1/agent/all"),
        ("CONNECT", "127.0.0.1:80"),
        ("OPTIONS", "*"),
    ],
)
def test_the_sandbox_is_no_proxy(sandbox: Sandbox, method: str, target: str) -> None:
    assert send(sandbox.base_url, target, ["Host: 127.0.0.1"], method).status_code == 400


def test_a_name_that_was_given_is_served_too() -> None:
    with Sandbox(allowed_hosts=["Sandbox.Internal", "fd00::5"]) as sandbox:
        for host in ("sandbox.internal", "SANDBOX.internal:8765", "[fd00::5]:1", "localhost"):
            assert send(sandbox.base_url, "/sandbox", [f"Host: {host}"]).status_code == 200
        for host in ("internal", "x.sandbox.internal", "sandbox.internal.evil.com"):
            assert send(sandbox.base_url, "/sandbox", [f"Host: {host}"]).status_code == 403


def test_listening_on_all_addresses_adds_no_name() -> None:
    with Sandbox(host="0.0.0.0") as sandbox:
        assert send(sandbox.base_url, "/", ["Host: 0.0.0.0"]).status_code == 403
        assert plain.get(sandbox.base_url + "/").status_code == 200


@pytest.mark.parametrize("name", ["http://sandbox", "sandbox:8765", "a b", "*", "sandbox/"])
def test_what_is_no_name_cannot_be_allowed(name: str) -> None:
    with pytest.raises(ValueError, match="not the name or address of a host"):
        Sandbox(allowed_hosts=[name])


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.com"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1.evil.com"},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "http://localhost:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "Cross-Site"},
        {"Sec-Fetch-Site": ""},
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/faults"), ("DELETE", "/faults"), ("PATCH", "/settings"), ("PUT", "/clock/scale"), ("POST", "/credits")],
)
def test_a_page_of_another_site_changes_nothing(
    sandbox: Sandbox, headers: dict[str, str], method: str, path: str
) -> None:
    sandbox.fail_next("GET /spaces")
    before = sandbox.settings.model_copy(), len(sandbox.faults.waiting), sandbox.engine.state.balance
    body = {"route": "*", "scale": 9, "amount": 5, "rate_limit": 1}
    answer = plain.request(method, f"{sandbox.base_url}/sandbox{path}", json=body, headers=headers)
    assert answer.status_code == 403
    assert (sandbox.settings, len(sandbox.faults.waiting), sandbox.engine.state.balance) == before
    assert sandbox.engine.clock.scale == 1


def test_the_sandboxs_own_pages_may_use_the_admin_api(sandbox: Sandbox) -> None:
    headers = {"Origin": sandbox.base_url, "Sec-Fetch-Site": "same-origin"}
    answer = plain.post(f"{sandbox.base_url}/sandbox/credits", json={"amount": 5}, headers=headers)
    assert (answer.status_code, answer.json()) == (200, {"balance": 1005})
    typed = plain.get(f"{sandbox.base_url}/sandbox", headers={"Sec-Fetch-Site": "none"})
    assert typed.status_code == 200


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/plain; application/json",
        "application/jsonp",
        None,
    ],
)
def test_what_a_form_can_send_is_refused(sandbox: Sandbox, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    url = f"{sandbox.base_url}/sandbox/credits"
    assert plain.post(url, content=b'{"amount": 5}', headers=headers).status_code == 415
    assert plain.post(url, content=iter([b'{"amount": 5}']), headers=headers).status_code == 415
    assert sandbox.engine.state.balance == 1000


def test_json_is_taken_with_a_charset_and_nothing_is_taken_without_a_type(sandbox: Sandbox) -> None:
    agent = sandbox.add_agent("Prices")
    json_type = {"Content-Type": "Application/JSON; charset=utf-8"}
    answer = plain.post(f"{sandbox.base_url}/sandbox/credits", content=b'{"amount": 5}', headers=json_type)
    assert answer.status_code == 200
    archive = f"{sandbox.base_url}/sandbox/agents/{agent.id}/archived/true"
    assert plain.post(archive, headers={"Content-Type": "text/plain"}).status_code == 415
    assert plain.post(archive).status_code == 204


def test_a_preflight_grants_nothing(sandbox: Sandbox, api: Api) -> None:
    wishes = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,authorization"}
    for path in [*PATHS, "/sandbox/faults"]:
        for origin in ("http://evil.com", sandbox.base_url):
            answer = plain.options(sandbox.base_url + path, headers={"Origin": origin, **wishes})
            assert answer.status_code in (401, 403, 405), path
            assert not [name for name in answer.headers if name.startswith("access-control-")]
    read = api.http.get("/agent/all", headers={"Origin": "http://evil.com"})
    assert not [name for name in read.headers if name.startswith("access-control-")]


def test_a_websocket_is_not_opened(sandbox: Sandbox) -> None:
    upgrade = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAA"]
    for path in ("/", "/sandbox", "/api/v1/agent/all"):
        assert send(sandbox.base_url, path, ["Host: evil.com", *upgrade]).status_code == 403
        assert send(sandbox.base_url, path, ["Host: localhost", *upgrade]).status_code != 101


@pytest.mark.parametrize("header", ["X-Forwarded-For: 127.0.0.1", "X-Real-IP: 127.0.0.1", "Forwarded: for=127.0.0.1"])
def test_another_machine_does_not_become_this_one(monkeypatch: pytest.MonkeyPatch, header: str) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
        route.connect(("192.0.2.1", 9))  # sends nothing: it only finds this machine's address
        address = route.getsockname()[0]
    if address.startswith("127."):
        pytest.skip("this machine has no address beside loopback")
    with Sandbox(host=address) as sandbox:
        assert send(sandbox.base_url, "/sandbox", [f"Host: {address}", header]).status_code == 403
        assert send(sandbox.base_url, "/", [f"Host: {address}", header]).status_code == 200
