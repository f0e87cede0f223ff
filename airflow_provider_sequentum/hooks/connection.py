"""What the fields of an Airflow connection mean: pure functions over their values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

from airflow_provider_sequentum.api.addresses import LARGEST_PORT
from airflow_provider_sequentum.api.settings import (
    DEFAULT_BASE_URL,
    DEFAULT_CONNECT_TIMEOUT,
    DEFAULT_READ_TIMEOUT,
    ClientSettings,
)
from airflow_provider_sequentum.parameters import is_unset

T = TypeVar("T")
D = TypeVar("D")

_YES = {"true", "1", "yes", "y", "on"}  # Airflow 2.11's test button says "y" for a ticked box
_NO = {"false", "0", "no", "n", "off"}
_JSON_NAMES = {list: "a list", bool: "a boolean", int: "a number", float: "a number"}


def settings_from_connection(
    password: str | None, host: str | None, port: int | str | None, schema: str | None, extra: object
) -> ClientSettings:
    """Return the client's settings.

    In every field ``None`` and an empty text mean that it is unset; 0 is 0 and a boolean is no number.

    :param password: the API key.
    :param host: the base URL, with or without ``https://``; production when unset.
    :param port: added to the host when it is set apart, as in a connection URI.
    :param schema: ``http`` or ``https`` when it is set apart, as in a connection URI.
    :param extra: the connection's extra, as JSON gives it; its fields are those of the provider's ``conn-fields``.
    :raises ValueError: a field is unusable; the message names it and never holds the key.
    """
    if is_unset(extra):
        extra = {}
    if not isinstance(extra, Mapping):
        kind = _JSON_NAMES.get(type(extra), "a text")
        raise ValueError(f"The connection's extra must be a JSON object, not {kind}.")  # noqa: TRY004  # one kind for all
    verify = _field(extra, "verify", _boolean, default=True)
    return ClientSettings(
        api_key=password or "",
        base_url=_base_url(host, port, schema),
        connect_timeout=_field(extra, "connect_timeout", _number, DEFAULT_CONNECT_TIMEOUT),
        read_timeout=_field(extra, "read_timeout", _number, DEFAULT_READ_TIMEOUT),
        verify=_field(extra, "ca_bundle", _path, default=True) if verify else False,
        requests_per_minute=_field(extra, "requests_per_minute", _count, None),
        allow_http=_field(extra, "allow_http", _boolean, default=False),
    )


def fill_link_template(template: object, base_url: str, **ids: int | str) -> str:
    """Return ``template`` with the ids in place of their ``{names}``; the dashboard's root without a template.

    No page addresses of the dashboard are published, so none is guessed. Ids come from the server: they are quoted.
    """
    if not template:
        return base_url
    link = str(template)
    for name, value in ids.items():
        link = link.replace("{" + name + "}", quote(str(value), safe=""))
    return link


def _base_url(host: str | None, port: int | str | None, schema: str | None) -> str:
    text = (host or "").strip()
    if not text:
        return DEFAULT_BASE_URL
    if "://" not in text:
        is_bare_ipv6 = text.count(":") > 1 and not text.startswith("[") and "/" not in text
        scheme = _field({"schema": schema}, "schema", _scheme, "https")
        text = f"{scheme}://[{text}]" if is_bare_ipv6 else f"{scheme}://{text}"
    number = _field({"port": port}, "port", _port, None)
    if number is None:
        return text
    try:
        parts = urlsplit(text)
        own_port = parts.port
    except ValueError:
        return text  # the settings refuse it, and say what is wrong
    if own_port not in (None, number):
        raise ValueError(f"The connection's field 'port' is {number}, but the host names port {own_port}.")
    if own_port is None:
        parts = parts._replace(netloc=f"{parts.netloc}:{number}")
    return urlunsplit(parts)


def _field(fields: Mapping[Any, Any], name: str, parse: Callable[[Any], T], default: D) -> T | D:
    if is_unset(fields.get(name)):
        return default
    try:
        return parse(fields[name])
    except ValueError as error:
        raise ValueError(f"The connection's field {name!r} must be {error}.") from None


def _scheme(value: object) -> str:
    scheme = str(value).strip().lower()
    if scheme not in ("http", "https"):
        raise ValueError("http or https")
    return scheme


def _port(value: object) -> int:
    text = str(value).strip()
    if isinstance(value, bool) or not (text.isascii() and text.isdecimal()) or not 0 < int(text[:6]) <= LARGEST_PORT:
        raise ValueError(f"a whole number from 1 to {LARGEST_PORT}")
    return int(text)


def _number(value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError("a number")
    return number


def _count(value: object) -> int:
    number = _number(value)
    if number < 1 or number != int(number):
        raise ValueError("a whole number, at least 1")
    return int(number)


def _path(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("the path of a file")  # noqa: TRY004  # one kind for all
    return value.strip()


def _boolean(value: object) -> bool:
    text = str(value).strip().lower()
    if text not in _YES | _NO:
        raise ValueError("true or false")
    return text in _YES
