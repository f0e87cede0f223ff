"""What the fields of an Airflow connection mean: pure functions over their values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from airflow_provider_sequentum.api.settings import (
    DEFAULT_BASE_URL,
    DEFAULT_CONNECT_TIMEOUT,
    DEFAULT_READ_TIMEOUT,
    ClientSettings,
)

_YES = {"true", "1", "yes", "y", "on"}  # Airflow 2.11's test button says "y" for a ticked box
_NO = {"false", "0", "no", "n", "off"}


def settings_from_connection(
    password: str | None, host: str | None, port: int | None, schema: str | None, extra: Mapping[str, Any]
) -> ClientSettings:
    """
    Return the client's settings.

    :param password: the API key.
    :param host: the base URL, with or without ``https://``; production when empty.
    :param port: added to the host when it is set apart, as in a connection URI.
    :param schema: ``http`` or ``https`` when it is set apart, as in a connection URI.
    :param extra: the connection's extra; its fields are those of the provider's ``conn-fields``.
    :raises ValueError: a field is unusable; the message names it and never holds the key.
    """
    verify = _boolean(extra, "verify", default=True)
    return ClientSettings(
        api_key=password or "",
        base_url=_base_url(host, port, schema),
        connect_timeout=_number(extra, "connect_timeout") or DEFAULT_CONNECT_TIMEOUT,
        read_timeout=_number(extra, "read_timeout") or DEFAULT_READ_TIMEOUT,
        verify=(str(extra.get("ca_bundle") or "") or True) if verify else False,
        requests_per_minute=int(limit) if (limit := _number(extra, "requests_per_minute")) else None,
        allow_http=_boolean(extra, "allow_http", default=False),
    )


def fill_link_template(template: object, base_url: str, **ids: int | str) -> str:
    """
    Return ``template`` with the ids in place of their ``{names}``; the dashboard's root without a template.

    No page addresses of the dashboard are published, so none is guessed. Ids come from the server: they are quoted.
    """
    if not template:
        return base_url
    link = str(template)
    for name, value in ids.items():
        link = link.replace("{" + name + "}", quote(str(value), safe=""))
    return link


def _base_url(host: str | None, port: int | None, schema: str | None) -> str:
    if not host or not host.strip():
        return DEFAULT_BASE_URL
    url = host.strip() if "://" in host else f"{schema or 'https'}://{host.strip()}"
    return f"{url.rstrip('/')}:{port}" if port else url


def _number(extra: Mapping[str, Any], name: str) -> float | None:
    value = extra.get(name)
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"The connection's field {name!r} must be a number.")
    return number


def _boolean(extra: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = extra.get(name)
    if value is None or value == "":
        return default
    text = str(value).strip().lower()
    if text in _YES | _NO:
        return text in _YES
    raise ValueError(f"The connection's field {name!r} must be true or false.")
