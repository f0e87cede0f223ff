"""Which requests the sandbox serves at all: those meant for it, and not those that a web page of another site makes.

A browser on this machine sends what any web page wants sent. But a page cannot choose the ``Host``, ``Origin`` and
``Sec-Fetch-Site`` headers that the browser sends: these say whom a request is for and which site made it. A name that
an attacker's DNS resolves to this machine ("DNS rebinding") is recognised by its ``Host``.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from starlette.datastructures import Headers

from airflow_provider_sequentum.sandbox.problems import Problem

if TYPE_CHECKING:
    from starlette.types import Scope

_NAME = r"\[[0-9a-f:.]+\]|[0-9a-z._-]+"
_HOST = re.compile(rf"(?P<name>{_NAME})(?::[0-9]{{1,5}})?")
_ALL_ADDRESSES = frozenset({"", "0.0.0.0", "[::]"})  # noqa: S104 - recognised, not listened on
_LOOPBACK_NETWORK = ipaddress.IPv4Network("127.0.0.0/8")


def own_names(host: str, further: Iterable[str] = ()) -> frozenset[str]:
    """Names and addresses the sandbox is reached by, beside those of the loopback interface.

    :param host: the address it listens on. All addresses (``0.0.0.0``, ``::``) is a name of none.
    :raises ValueError: for something that cannot be a name or an address.
    """
    names = {_normal(name) for name in (host, *further)} - _ALL_ADDRESSES
    for name in names:
        if re.fullmatch(_NAME, name) is None:
            raise ValueError(f"{name!r} is not the name or address of a host (give it without scheme and port)")
    return frozenset(names)


def check_target(scope: Scope, names: frozenset[str]) -> None:
    """Check that a request is meant for this sandbox.

    :raises Problem: 403 unless there is exactly one ``Host``, which is a loopback address, ``localhost`` or one of
        ``names``; 400 for a target that is not a path, as a proxy would be sent.
    """
    hosts = Headers(scope=scope).getlist("host")
    if len(hosts) != 1 or not _is_own(hosts[0], names):
        raise Problem(403, "This sandbox does not answer to that Host. The option --allow-host adds a name.")
    if not scope["path"].startswith("/"):
        raise Problem(400, "The target of a request must be a path: the sandbox is not a proxy.")


def check_admin(scope: Scope) -> None:
    """Check that an admin request comes from this machine, and not from a web page of another site.

    :raises Problem: 403 for either; 415 for a body that is not declared to be JSON, which a form of any page can send.
    """
    if not _is_loopback(scope["client"][0] if scope["client"] else ""):
        raise Problem(403, "The admin API answers this machine only.")
    headers = Headers(scope=scope)
    own_origin = "http://" + headers["host"].lower()
    if any(origin.lower() != own_origin for origin in headers.getlist("origin")):
        raise Problem(403, "The admin API does not answer web pages of another origin.")
    if any(site not in ("same-origin", "none") for site in headers.getlist("sec-fetch-site")):
        raise Problem(403, "The admin API does not answer web pages of another site.")
    has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
    media_types = [value.partition(";")[0].strip().lower() for value in headers.getlist("content-type")]
    if media_types != ["application/json"] and (has_body or media_types):
        raise Problem(415, "The admin API takes Content-Type: application/json.")


def _is_own(host: str, names: frozenset[str]) -> bool:
    match = _HOST.fullmatch(host.lower())
    if match is None:
        return False
    name = match["name"]
    if name == "localhost" or name in names:
        return True
    return name.startswith("[") == (":" in name) and _is_loopback(name.strip("[]"))


def _is_loopback(address: str) -> bool:
    """Whether this is the literal of a loopback address; ``is_loopback`` would include IPv4 mapped into IPv6."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return parsed in _LOOPBACK_NETWORK if parsed.version == 4 else parsed == ipaddress.IPv6Address("::1")


def _normal(name: str) -> str:
    name = name.strip().lower()
    return f"[{name}]" if ":" in name and not name.startswith("[") else name
