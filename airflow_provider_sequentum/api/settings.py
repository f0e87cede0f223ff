"""The settings of a client: the address of the service, the API key, timeouts and limits.

Standard library only, except for the validation of internationalized host names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from airflow_provider_sequentum.api.addresses import LARGEST_PORT, is_host, is_loopback
from airflow_provider_sequentum.api.call import API_PREFIX
from airflow_provider_sequentum.api.errors import SequentumConfigurationError

DEFAULT_BASE_URL = "https://dashboard.sequentum.com"
DEFAULT_CONNECT_TIMEOUT = 10.0
DEFAULT_READ_TIMEOUT = 30.0
DEFAULT_MAX_ATTEMPTS = 5

_MIN_KEY_LENGTH = 8
_KEY_IN_ADDRESS = re.compile(r"(?:^|/)\s*sk-[a-z0-9_-]{16,}\s*(?=$|[/:])", re.IGNORECASE)
"""A host or a part of a path that can only be a key, even if it is not that of the connection."""
_WHERE_THE_KEY_BELONGS = "It only belongs in the field for the key (in a connection: password)."

MAX_TIMEOUT = 86_400.0
"""Seconds. Sockets of the system do not accept arbitrarily large timeouts."""


@dataclass(frozen=True, kw_only=True)
class ClientSettings:
    """Settings of a client. They are validated on creation; the key is not part of the ``repr``.

    :param api_key: API key, created by an administrator in the Control Center. Surrounding white space is removed. It
        is only sent to the origin of the base URL, in the ``Authorization`` header.
    :param base_url: root of the deployment, without ``/api/v1``.
    :param connect_timeout: seconds to wait for a connection.
    :param read_timeout: seconds without data after which the client gives up on a response. Calls that start, restart,
        create or finish something, or send a follow-up, wait at least 90 s, and long polls 60 s.
    :param verify: how to verify the server's certificate: ``True``, ``False``, or the path of a PEM file with the
        authorities to trust for the service. Storage on other origins, to which downloads are redirected, may have a
        certificate of the public authorities as well.
    :param max_attempts: how often to send a request at most if it fails with temporary errors; see
        :mod:`airflow_provider_sequentum.api.retry`. 1 leaves retries to the caller.
    :param requests_per_minute: a lower limit for this key in this process. ``None`` uses the limit stated by the server
        (100 per 60 s until its first response).
    :param allow_http: allow plain ``http`` to hosts other than loopback. The key is then sent unencrypted.
    :param user_agent: text to put before the client's own ``User-Agent``.
    :raises SequentumConfigurationError: if a value is invalid.
    """

    api_key: str = field(repr=False)
    base_url: str = DEFAULT_BASE_URL
    connect_timeout: float = DEFAULT_CONNECT_TIMEOUT
    read_timeout: float = DEFAULT_READ_TIMEOUT
    verify: bool | str = True
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    requests_per_minute: int | None = None
    allow_http: bool = False
    user_agent: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "api_key", _checked_key(self.api_key))
        object.__setattr__(self, "base_url", _checked_base_url(self.base_url, allow_http=self.allow_http))
        # Both are shown in messages, and users do paste the key into the wrong field.
        if self.is_key_in(self.base_url):
            raise SequentumConfigurationError(f"The Sequentum base URL contains an API key. {_WHERE_THE_KEY_BELONGS}")
        if isinstance(self.verify, str) and self.is_key_in(self.verify):
            raise SequentumConfigurationError(
                f"The path of the certificates (verify; in a connection: ca_bundle) contains an API key. "
                f"{_WHERE_THE_KEY_BELONGS}"
            )
        for name in ("connect_timeout", "read_timeout"):
            _check_timeout(name, getattr(self, name))
        _check_count("max_attempts", self.max_attempts)
        if self.requests_per_minute is not None:
            _check_count("requests_per_minute", self.requests_per_minute)
        if self.user_agent is not None and not (self.user_agent.isascii() and self.user_agent.isprintable()):
            raise SequentumConfigurationError("user_agent must consist of printable ASCII characters.")

    @property
    def origin(self) -> str:
        """Scheme, host and port of the server, to which the key may be sent."""
        parts = urlsplit(self.base_url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return f"{parts.scheme}://{self.host}:{port}"

    @property
    def host(self) -> str:
        """The server's host, in lower case."""
        return urlsplit(self.base_url).hostname or ""

    def is_key_in(self, text: str) -> bool:
        """Return whether a text to be shown, such as an address, contains this key, or what looks like a key."""
        is_own = len(self.api_key) >= _MIN_KEY_LENGTH and self.api_key.lower() in unquote(text).lower()
        return is_own or _KEY_IN_ADDRESS.search(text) is not None


def _check_timeout(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_TIMEOUT:
        raise SequentumConfigurationError(f"{name} must be greater than 0 and at most {MAX_TIMEOUT:.0f} seconds.")


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SequentumConfigurationError(f"{name} must be a whole number, at least 1.")


def _checked_key(api_key: object) -> str:
    key = api_key.strip() if isinstance(api_key, str) else ""
    if not key:
        raise SequentumConfigurationError(
            "The Sequentum API key is missing. Create one in the Control Center (Users, Manage API keys)."
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise SequentumConfigurationError(
            "The Sequentum API key contains characters that are not allowed in a key. Copy it again."
        )
    return key


def _checked_base_url(base_url: object, *, allow_http: bool) -> str:
    # The messages do not contain the URL, because users do paste credentials into it.
    text = str(base_url or "").strip().rstrip("/").removesuffix(API_PREFIX).rstrip("/")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise SequentumConfigurationError(
            f"The Sequentum base URL cannot be read as a URL: its host and port must be valid (1 to {LARGEST_PORT})."
        ) from None
    is_plain = text.isascii() and text.isprintable() and " " not in text
    # With an empty port, "https:/host" would lead to a host called https.
    if parts.scheme not in ("https", "http") or not host or parts.netloc.endswith(":") or not is_plain:
        raise SequentumConfigurationError(f"The Sequentum base URL must look like {DEFAULT_BASE_URL}.")
    if parts.username is not None or parts.query or parts.fragment:
        raise SequentumConfigurationError(
            "The Sequentum base URL must not contain a user, a password, a query or a fragment. "
            "The key has a field of its own."
        )
    if port == 0:
        raise SequentumConfigurationError(f"The port of the Sequentum base URL must be from 1 to {LARGEST_PORT}.")
    if not is_host(host):
        raise SequentumConfigurationError("The host of the Sequentum base URL is not a valid host name or address.")
    if parts.scheme == "http" and not allow_http and not is_loopback(host):
        raise SequentumConfigurationError(
            "The Sequentum base URL is plain http, which would send the API key unencrypted. "
            "Use https, or set allow_http if the network path to the server is secure."
        )
    return text
