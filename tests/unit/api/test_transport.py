"""How requests leave the process: certificates, proxies, logs, and bodies that are bounded."""

from __future__ import annotations

import gzip
import logging
import ssl
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import certifi
import httpx
import pytest

from airflow_provider_sequentum.api import AsyncSequentumClient, ClientSettings, SequentumClient, runs
from airflow_provider_sequentum.api.errors import (
    ResponseLost,
    SequentumConfigurationError,
    SequentumError,
    UnexpectedResponse,
)
from airflow_provider_sequentum.api.transport import (
    MAX_RESPONSE_SIZE,
    READ_SIZE,
    Inflater,
    decompressed,
    new_client,
    sending,
    wide_reads,
)
from tests.unit.api.support import Driver, fresh_settings

MakeDriver = Callable[..., Driver]
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, "SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def use(kind: type[SequentumClient | AsyncSequentumClient]) -> None:
    """Make a client; the blocking one looks at its environment when it sends something."""
    client = kind(fresh_settings())
    if isinstance(client, SequentumClient):
        client.send(runs.start(7))


@pytest.mark.parametrize("client", [SequentumClient, AsyncSequentumClient])
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SSL_CERT_FILE", "{}/missing.pem"),
        ("SSL_CERT_FILE", "{}"),
        ("SSL_CERT_FILE", "{}/no.pem"),
        ("SSL_CERT_DIR", "{}/missing"),
        ("SSL_CERT_DIR", "{}/no.pem"),
        ("HTTPS_PROXY", "socks5://user:TOP-SECRET@proxy.example:1080"),
        ("HTTPS_PROXY", "gopher://user:TOP-SECRET@proxy.example"),
        ("HTTPS_PROXY", "http://user:TOP-SECRET@proxy.example:port"),
        ("https_proxy", "http://user:TOP-SECRET@[::1"),
        ("ALL_PROXY", "socks5://TOP-SECRET"),
        ("HTTP_PROXY", "http://\x01TOP-SECRET"),
    ],
)
def test_a_broken_environment_is_a_configuration_error_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    client: type[SequentumClient | AsyncSequentumClient],
    variable: str,
    value: str,
) -> None:
    (tmp_path / "no.pem").write_text("no certificate")
    monkeypatch.setenv(variable, value.format(tmp_path))

    with pytest.raises(SequentumConfigurationError, match=variable) as error:
        use(client)

    assert "TOP-SECRET" not in str(error.value)
    assert error.value.__context__ is None or error.value.__suppress_context__
    assert not error.value.transient


@pytest.mark.parametrize("address", ["http://a..b:3128", f"http://{'a' * 64}:3128"])
def test_a_proxy_that_cannot_be_looked_up_is_named_when_something_is_sent(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", address)
    with SequentumClient(fresh_settings(max_attempts=1)) as client, pytest.raises(SequentumError) as error:
        client.send(runs.start(7))

    assert not error.value.may_have_acted
    assert isinstance(error.value, SequentumConfigurationError)
    assert "HTTPS_PROXY" in str(error.value)


@pytest.mark.parametrize("content", [None, b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\nAAAA\n", "folder"])
def test_a_broken_ca_bundle_is_named(tmp_path: Path, content: bytes | str | None) -> None:
    path = tmp_path / "ca.pem"
    if content == "folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)

    with pytest.raises(SequentumConfigurationError, match="ca_bundle"):
        SequentumClient(ClientSettings(api_key="sk-certificates", verify=str(path))).send(runs.start(7))


def test_storage_of_another_origin_may_have_a_public_certificate_or_one_s_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    certificates = Path(certifi.where()).read_text().split("-----BEGIN CERTIFICATE-----")[1:4]
    own, public = tmp_path / "own.pem", tmp_path / "public.pem"
    own.write_text(f"-----BEGIN CERTIFICATE-----{certificates[0]}")
    public.write_text("".join(f"-----BEGIN CERTIFICATE-----{certificate}" for certificate in certificates[1:]))
    monkeypatch.setenv("SSL_CERT_FILE", str(public))
    trusted: list[int] = []
    real = httpx.Client

    def spy(*, verify: ssl.SSLContext, **options: object) -> httpx.Client:
        trusted.append(len(verify.get_ca_certs()))
        return real(verify=verify, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(httpx, "Client", spy)
    settings = fresh_settings(verify=str(own))
    new_client(settings, None).close()
    new_client(settings, None, for_storage=True).close()

    assert trusted == [1, 3]


def test_a_client_that_sends_nothing_reads_no_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/no/such/file.pem")
    SequentumClient(fresh_settings()).close()


def test_plain_http_needs_no_certificates_and_trusts_none(monkeypatch: pytest.MonkeyPatch) -> None:
    contexts: list[ssl.SSLContext] = []
    real = httpx.Client

    def spy(*, verify: ssl.SSLContext, **options: object) -> httpx.Client:
        contexts.append(verify)
        return real(verify=verify, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(httpx, "Client", spy)
    settings = fresh_settings(base_url="http://127.0.0.1:8080")
    new_client(settings, None).close()
    new_client(settings, None, for_storage=True).close()
    plain, storage = contexts
    assert (plain.verify_mode, plain.check_hostname, plain.get_ca_certs()) == (ssl.CERT_REQUIRED, True, [])
    assert storage.verify_mode is ssl.CERT_REQUIRED
    assert storage.get_ca_certs()


@pytest.mark.parametrize("verify", [True, False])
def test_a_redirect_from_plain_http_to_storage_is_verified_as_configured(verify: bool) -> None:
    with SequentumClient(fresh_settings(base_url="http://127.0.0.1:80", verify=verify)) as client:
        assert client._http_for(httpx.URL("http://127.0.0.1/file")) is client._http
        assert client._http_for(httpx.URL("https://storage.example/file")) is client._storage_http


def test_a_location_that_is_no_address_is_an_unexpected_answer(driver: MakeDriver) -> None:
    for location in ("javascript:alert(1)", "data:,x", "https://[::1", "\x7f", "https://xn--a.example/"):
        client = driver(httpx.Response(302, headers={"Location": location}))
        with pytest.raises(UnexpectedResponse, match="302") as error:
            client.send(runs.start(7))
        assert error.value.may_have_acted
        with pytest.raises(UnexpectedResponse):
            client.send(runs.status(7, 42))


class Streamed(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that comes in pieces, as from a socket."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    async def __aiter__(self):  # type: ignore[no-untyped-def]  # noqa: ANN204
        for piece in self._pieces:
            yield piece


def streamed(content: bytes, **headers: str) -> Callable[[httpx.Request], httpx.Response]:
    pieces = [content[start : start + 65_536] for start in range(0, len(content), 65_536)]
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _request: httpx.Response(200, headers=names, stream=Streamed(iter(pieces)))


def bomb(size: int) -> bytes:
    compressor = zlib.compressobj(9, wbits=31)
    piece = b" " * 1024 * 1024
    return b"".join(compressor.compress(piece) for _ in range(size // len(piece))) + compressor.flush()


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "GZIP", "identity", "aws-chunked"])
def test_an_answer_is_decompressed(driver: MakeDriver, coding: str) -> None:
    content = b'{"id": 42}'
    if "gzip" in coding.lower():
        content = gzip.compress(content)

    assert driver(streamed(content, content_encoding=coding)).send(runs.status(7, 42)).id == 42


def test_an_answer_that_expands_without_end_is_given_up_in_bounded_memory(driver: MakeDriver) -> None:
    packed = bomb(6 * MAX_RESPONSE_SIZE)
    tracemalloc.start()
    with pytest.raises(UnexpectedResponse, match="more than 64 MiB") as error:
        driver(streamed(packed, content_encoding="gzip")).send(runs.start(7))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert error.value.may_have_acted
    assert peak < 4 * MAX_RESPONSE_SIZE


def test_an_answer_without_end_is_given_up(driver: MakeDriver) -> None:
    def endless(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=Streamed(iter(lambda: b" " * 1024 * 1024, None)))

    with pytest.raises(UnexpectedResponse, match="more than 64 MiB"):
        driver(endless).send(runs.status(7, 42))


@pytest.mark.parametrize(
    ("content", "coding"),
    [(gzip.compress(gzip.compress(b"{}")), "gzip, gzip"), (b"{}", "br"), (b"no gzip", "gzip"), (b"{}", "gzip,zstd")],
    ids=["twice", "unknown", "none", "two"],
)
def test_codings_that_were_not_asked_for_are_a_damaged_answer(driver: MakeDriver, content: bytes, coding: str) -> None:
    with pytest.raises(ResponseLost, match="damaged") as error:
        driver(streamed(content, content_encoding=coding)).send(runs.start(7))

    assert error.value.may_have_acted


@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
def test_a_gzip_of_several_members_is_read_whole_however_it_is_cut(size: int) -> None:
    packed = gzip.compress(b"one" * 1000) + gzip.compress(b"two" * READ_SIZE) + b"\0" * 20
    pieces = (packed[start : start + size] for start in range(0, len(packed), size))

    assert b"".join(decompressed(pieces, "gzip")) == b"one" * 1000 + b"two" * READ_SIZE


def test_no_piece_is_larger_than_a_read() -> None:
    assert {len(piece) <= READ_SIZE for piece in Inflater().pieces(bomb(32 * READ_SIZE))} == {True}


def test_compressed_data_that_ends_early_is_damaged() -> None:
    with pytest.raises(httpx.DecodingError):
        list(decompressed(iter([gzip.compress(b"x" * 1000)[:-4]]), "gzip"))


def test_only_our_own_requests_are_kept_out_of_httpx_s_log(caplog: pytest.LogCaptureFixture) -> None:
    transport = httpx.MockTransport(lambda _request: httpx.Response(200))
    # Airflow, once another test has loaded it, raises the level of this logger.
    with caplog.at_level(logging.INFO, logger="httpx"), httpx.Client(transport=transport) as client:
        with sending():
            client.get("https://storage.example/file?signature=secret")
        client.get("https://other.example/of-another-user")

    assert "secret" not in caplog.text
    assert "of-another-user" in caplog.text


@pytest.mark.parametrize("name", ["httpcore.connection", "httpcore.http11", "httpcore.proxy"])
def test_httpcore_is_kept_quiet_too(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger=name), sending():
        logging.getLogger(name).debug("Location: https://storage.example/?signature=secret")

    assert caplog.text == ""


class NetworkStream:
    def __init__(self) -> None:
        self.asked: list[tuple[int, float | None]] = []

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self.asked.append((max_bytes, timeout))
        return b"data"


def test_reads_are_widened_within_the_block_only() -> None:
    stream = NetworkStream()
    response = httpx.Response(200, extensions={"network_stream": stream})

    with wide_reads(response):
        assert stream.read(65_536, timeout=3.0) == b"data"
        stream.read(2 * READ_SIZE)
    stream.read(65_536)

    assert stream.asked == [(READ_SIZE, 3.0), (2 * READ_SIZE, None), (65_536, None)]


def test_a_response_without_a_socket_is_left_alone() -> None:
    response = httpx.Response(200, content=b"a")
    with wide_reads(response):
        assert response.read() == b"a"


def test_a_connection_that_two_threads_widen_one_after_the_other_serves_both() -> None:
    stream = NetworkStream()
    response = httpx.Response(200, extensions={"network_stream": stream})

    with wide_reads(response):
        # The first body has been read, so the pool has given its connection to the second.
        second = wide_reads(response)
        second.__enter__()
    assert stream.read(1) == b"data"
    second.__exit__(None, None, None)
    stream.read(2)

    assert stream.asked == [(1, None), (2, None)]
