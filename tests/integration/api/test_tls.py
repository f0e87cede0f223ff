"""Who the key is given to over TLS: nobody whose certificate is not trusted."""

from __future__ import annotations

import asyncio
import io
import ipaddress
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from airflow_provider_sequentum.api import AsyncSequentumClient, ClientSettings, SequentumClient, agents, files
from airflow_provider_sequentum.api.errors import ConnectionNotMade

KEY = "sk-tls"
HERE = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
ELSEWHERE = x509.DNSName("elsewhere.example")
CA_USAGE = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


class Authority:
    """A certificate authority of somebody's own."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("An authority of our own")
        public = self._key.public_key()
        extensions = [
            x509.BasicConstraints(ca=True, path_length=0),
            CA_USAGE,
            x509.SubjectKeyIdentifier.from_public_key(public),
        ]
        self._certificate = self._sign(self._name, public, extensions, days=10)

    def write(self, path: Path) -> Path:
        """Write its certificate."""
        path.write_bytes(_pem(self._certificate))
        return path

    def issue(self, path: Path, host: x509.GeneralName, days: int) -> Path:
        """Write a server's certificate with its key; it is valid for so many days, or was."""
        key = ec.generate_private_key(ec.SECP256R1())
        extensions = [x509.SubjectAlternativeName([host])]
        certificate = self._sign(_name("server"), key.public_key(), extensions, days)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path.write_bytes(private + _pem(certificate))
        return path

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, extensions: Sequence[x509.ExtensionType], days: int
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=30))
            .not_valid_after(now + timedelta(days=days))
        )
        # Python 3.13 checks strictly: every certificate says by which key it is signed, an authority's what it is for.
        signed_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        for extension in (*extensions, signed_by):
            builder = builder.add_extension(
                extension, critical=isinstance(extension, (x509.BasicConstraints, x509.KeyUsage))
            )
        return builder.sign(self._key, hashes.SHA256())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _serve(
    certificate: Path, keys: list[str | None], *, body: bytes = b"[]", location: str | None = None
) -> ThreadingHTTPServer:
    """Start a server that gives the same answer to everything and notes the keys it was given."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            keys.append(self.headers.get("Authorization"))
            self.send_response(302 if location else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if location:
                self.send_header("Location", location)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            """Say nothing."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def _url(server: ThreadingHTTPServer) -> str:
    return f"https://127.0.0.1:{server.server_port}"


@dataclass
class Server:
    """An HTTPS server that has no agents, and the keys it was given."""

    url: str
    keys: list[str | None]


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def serve(authority: Authority, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers with a certificate for a host."""
    running: list[ThreadingHTTPServer] = []

    def start(host: x509.GeneralName = HERE, days: int = 10) -> Server:
        keys: list[str | None] = []

        server = _serve(authority.issue(tmp_path / "server.pem", host, days), keys)
        running.append(server)
        return Server(_url(server), keys)

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Ask a server for its agents with one of the clients."""

    def settings(server: Server, verify: bool | str) -> ClientSettings:
        return ClientSettings(api_key=KEY, base_url=server.url, verify=verify, max_attempts=1)

    def blocking(server: Server, verify: bool | str = True) -> Any:
        with SequentumClient(settings(server, verify)) as client:
            return client.send(agents.list_agents())

    async def asynchronous(server: Server, verify: bool | str = True) -> Any:
        async with AsyncSequentumClient(settings(server, verify)) as client:
            return await client.send(agents.list_agents())

    return blocking if request.param == "sync" else lambda *arguments: asyncio.run(asynchronous(*arguments))


def test_a_certificate_nobody_vouches_for_is_refused_by_default(serve: Callable[..., Server], ask: Any) -> None:
    server = serve()
    with pytest.raises(ConnectionNotMade, match="certificate"):
        ask(server)
    assert server.keys == []


def test_an_authority_of_one_s_own_can_be_named(
    serve: Callable[..., Server], ask: Any, authority: Authority, tmp_path: Path
) -> None:
    server = serve()
    assert list(ask(server, str(authority.write(tmp_path / "ca.pem")))) == []
    assert server.keys == [f"ApiKey {KEY}"]


@pytest.mark.parametrize(("host", "days"), [(ELSEWHERE, 10), (HERE, -1)], ids=["another host's", "an old one"])
def test_a_wrong_certificate_of_that_authority_is_refused(
    serve: Callable[..., Server], ask: Any, authority: Authority, tmp_path: Path, host: x509.GeneralName, days: int
) -> None:
    server = serve(host, days)
    with pytest.raises(ConnectionNotMade, match="certificate"):
        ask(server, str(authority.write(tmp_path / "ca.pem")))
    assert server.keys == []


@pytest.mark.parametrize("trusted_by", ["public", "own", "nobody"])
def test_storage_may_have_a_public_certificate_beside_an_authority_of_one_s_own(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch, trusted_by: str
) -> None:
    public, stranger = Authority(), Authority()
    monkeypatch.setenv("SSL_CERT_FILE", str(public.write(tmp_path / "public.pem")))
    signer = {"public": public, "own": authority, "nobody": stranger}[trusted_by]
    keys: list[str | None] = []
    storage = _serve(signer.issue(tmp_path / "storage.pem", HERE, 10), keys, body=b"a,b\n")
    service = _serve(authority.issue(tmp_path / "service.pem", HERE, 10), [], location=f"{_url(storage)}/out.csv")
    settings = ClientSettings(
        api_key=KEY, base_url=_url(service), verify=str(authority.write(tmp_path / "own.pem")), max_attempts=1
    )
    target = io.BytesIO()
    with SequentumClient(settings) as client:

        def fetch() -> None:
            client.download(agent_id=7, run_id=42, file=files.RunFile(id=1, name="out.csv"), destination=target)

        if trusted_by == "nobody":
            with pytest.raises(ConnectionNotMade, match="certificate"):
                fetch()
        else:
            fetch()
    for server in (storage, service):
        server.shutdown()
        server.server_close()

    assert (target.getvalue(), keys) == ((b"", []) if trusted_by == "nobody" else (b"a,b\n", [None]))


def test_a_public_certificate_does_not_do_for_a_service_with_an_authority_of_its_own(
    serve: Callable[..., Server], ask: Any, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.write(tmp_path / "public.pem")))
    with pytest.raises(ConnectionNotMade, match="certificate"):
        ask(server, str(Authority().write(tmp_path / "own.pem")))
    assert server.keys == []


def test_checking_can_be_switched_off_by_whoever_means_it(serve: Callable[..., Server], ask: Any) -> None:
    server = serve()
    ask(server, False)
    assert server.keys == [f"ApiKey {KEY}"]
