"""What the fields of an Airflow connection mean: pure functions over their values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from airflow_provider_sequentum.api.addresses import LARGEST_PORT
from airflow_provider_sequentum.api.settings import (
    DEFAULT_BASE_URL,
    DEFAULT_CONNECT_TIMEOUT,
    DEFAULT_READ_TIMEOUT,
    ClientSettings,
)

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
    if _is_unset(extra):
        extra = {}
    if not isinstance(extra, Mapping):
        kind = _JSON_NAMES.get(type(extra), "a text")
        raise ValueError(f"The connection's extra must be a JSON object, not {kind}.")  # noqa: TRY004  # one kind for all
    verify = _boolean(extra, "verify", default=True)
    return ClientSettings(
        api_key=password or "",
        base_url=_base_url(host, port, schema),
        connect_timeout=_number(extra, "connect_timeout", DEFAULT_CONNECT_TIMEOUT),
        read_timeout=_number(extra, "read_timeout", DEFAULT_READ_TIMEOUT),
        verify=(_path(extra, "ca_bundle") or True) if verify else False,
        requests_per_minute=_count(extra, "requests_per_minute"),
        allow_http=_boolean(extra, "allow_http", default=False),
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
        scheme = "https" if _is_unset(schema) else str(schema).strip().lower()
        if scheme not in ("http", "https"):
            raise ValueError("The connection's field 'schema' must be http or https.")
        text = f"{scheme}://[{text}]" if is_bare_ipv6 else f"{scheme}://{text}"
    if _is_unset(port):
        return text
    number = _port(port)
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


def _port(port: object) -> int:
    text = str(port).strip()
    if isinstance(port, bool) or not (text.isascii() and text.isdecimal()) or not 0 < int(text[:6]) <= LARGEST_PORT:
        raise ValueError(f"The connection's field 'port' must be a whole number from 1 to {LARGEST_PORT}.")
    return int(text)


def _is_unset(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _number(extra: Mapping[Any, Any], name: str, default: float) -> float:
    value: Any = extra.get(name)
    if _is_unset(value):
        return default
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"The connection's field {name!r} must be a number.")
    return number


def _count(extra: Mapping[Any, Any], name: str) -> int | None:
    if _is_unset(extra.get(name)):
        return None
    number = _number(extra, name, 0.0)
    if number < 1 or number != int(number):
        raise ValueError(f"The connection's field {name!r} must be a whole number, at least 1.")
    return int(number)


def _path(extra: Mapping[Any, Any], name: str) -> str | None:
    value = extra.get(name)
    if _is_unset(value):
        return None
    if not isinstance(value, str):
        raise ValueError(f"The connection's field {name!r} must be the path of a file.")  # noqa: TRY004  # one kind for all
    return value.strip()


def _boolean(extra: Mapping[Any, Any], name: str, *, default: bool) -> bool:
    value = extra.get(name)
    if _is_unset(value):
        return default
    text = str(value).strip().lower()
    if text in _YES | _NO:
        return text in _YES
    raise ValueError(f"The connection's field {name!r} must be true or false.")
