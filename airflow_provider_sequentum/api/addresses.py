"""Which hosts are valid, which belong to this machine or its network, and which redirects may be followed.

Pure: no host name is resolved.

A redirect comes from the service and is followed from inside the user's network. If every redirect was followed, a
public service could make the client read from the metadata address of a cloud, or from a host of the network that
requires no password.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import httpx


LARGEST_PORT = 65_535

HostKind = Literal["loopback", "link-local", "private", "public"]

_PRIVATE_SUFFIXES = (".internal", ".local", ".localdomain", ".lan", ".corp", ".intranet", ".home.arpa")
_NUMERIC_HOST = re.compile(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+)){0,3}", re.IGNORECASE)
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)", re.IGNORECASE)
_MAX_HOST_LENGTH = 253
# The last 32 bits are an IPv4 address: NAT64, its local prefix, and translated addresses.
_TRANSLATED = [ipaddress.ip_network(each) for each in ("64:ff9b::/96", "64:ff9b:1::/48", "::ffff:0:0:0/96")]
# Clouds also serve credentials at these addresses, which are not link-local.
_OF_CLOUDS = [ipaddress.ip_network(each) for each in ("168.63.129.16/32", "192.0.0.0/24")]


def is_host(host: str) -> bool:
    """Return whether a host can be resolved: what idna, ``ipaddress`` and the resolver refuse is refused here."""
    labels = host.removesuffix(".").split(".")
    if ":" in host or all(label.isdecimal() for label in labels):
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return True
    if len(host) > _MAX_HOST_LENGTH or not all(map(_LABEL.fullmatch, labels)):
        return False
    if "xn--" in host:
        import idna  # httpx uses it to decode such a host

        try:
            idna.decode(host)
        except UnicodeError:
            return False
    return True


def is_loopback(host: str | None) -> bool:
    """Return whether a host name or address can only mean this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def kind_of_host(host: str) -> HostKind:
    """Return where a host is, as far as its name or address shows. Any other name counts as public.

    Addresses are read in every spelling that the system's resolver accepts (``2130706433``, ``0x7f.1``,
    ``::ffff:127.0.0.1``), because it is the resolver that reads them in the end.
    """
    name = host.strip("[]").partition("%")[0].rstrip(".").lower()
    address = _address_of(name)
    if address is None:
        if name == "localhost" or name.endswith(".localhost"):
            return "loopback"
        return "private" if "." not in name or name.endswith(_PRIVATE_SUFFIXES) else "public"
    if address.is_loopback or address.is_unspecified:
        return "loopback"
    if address.is_link_local or any(address in network for network in _OF_CLOUDS):
        return "link-local"
    return "public" if address.is_global and not address.is_multicast else "private"


def redirect_target(own_host: str, origin: httpx.URL, location: str, *, allow_http: bool) -> httpx.URL:
    """Return the address that a redirect leads to.

    :param own_host: the host of the service.
    :param origin: the address that redirects.
    :param location: its ``Location`` header.
    :param allow_http: whether the settings allow plain http.
    :raises ValueError: if it must not be followed. The message does not contain the address, which may be a secret.
    """
    import httpx

    try:
        url = origin.join(location)
        # Joining "https:///x" would add the host of the address that redirects.
        has_own_host = bool(urlsplit(location).scheme) or location.startswith("//")
        host = url.raw_host.decode() if not has_own_host or urlsplit(location).netloc else ""
    except (httpx.InvalidURL, ValueError, TypeError):  # UnicodeError, which idna raises, is a ValueError
        url, host = origin, ""
    kind = kind_of_host(host)
    has_port = url.port is None or 0 < url.port <= LARGEST_PORT
    if url.scheme not in ("https", "http") or not has_port or not (is_host(host) or kind in ("loopback", "link-local")):
        raise ValueError("the redirect leads to an invalid address")
    if url.userinfo:
        raise ValueError("the redirect leads to an address with a user or a password")
    own = kind_of_host(own_host)
    if url.scheme == "http" and not (allow_http or own == kind == "loopback"):
        # A remote server has no reason to redirect to a service of this machine.
        raise ValueError("the redirect leads to plain http, which would expose the file")
    if kind not in ("public", own):
        raise ValueError(f"the redirect of a {own} service leads to a {kind} address")
    return url


def _address_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if not _NUMERIC_HOST.fullmatch(host):
            return None
        try:
            return ipaddress.IPv4Address(socket.inet_aton(host))
        except OSError:
            return None
    if isinstance(address, ipaddress.IPv6Address):
        if any(address in network for network in _TRANSLATED) or (int(address) >> 32 == 0 and int(address) > 1):
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return address.ipv4_mapped or address.sixtofour or address
    return address
