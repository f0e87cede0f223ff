"""An Airflow connection to Sequentum Cloud: its settings, and the clients made from it."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from airflow_provider_sequentum.airflow_compat.connections import aget_connection
from airflow_provider_sequentum.api.addresses import LARGEST_PORT
from airflow_provider_sequentum.api.settings import (
    DEFAULT_BASE_URL,
    DEFAULT_CONNECT_TIMEOUT,
    DEFAULT_READ_TIMEOUT,
    ClientSettings,
)
from airflow_provider_sequentum.exceptions import (
    SequentumConnectionException,
    SequentumConnectionNotFound,
    client_errors_as_exceptions,
)
from airflow_provider_sequentum.parameters import is_unset, parse_named, parse_text

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection

    from airflow_provider_sequentum.api import AsyncSequentumClient, Call, SequentumClient

T = TypeVar("T")
D = TypeVar("D")

LOOKUP_PAUSES = (1.0, 4.0, 15.0, 40.0)
"""Seconds before a connection that was not found is looked up again in a triggerer."""

DEFAULT_CONN_ID = "sequentum_default"
CONN_TYPE = "sequentum"

log = logging.getLogger(__name__)

_YES = {"true", "1", "yes", "y", "on"}  # the test button of Airflow 2.11 sends "y" for a ticked box
_NO = {"false", "0", "no", "n", "off"}
_USER_IN_ADDRESS = re.compile(r"\s*https?:[/\\]*[^/\\?#]*@", re.IGNORECASE)
"""Browsers read a backslash as a slash, and any number of slashes as two."""
_JSON_NAMES = {list: "a list", bool: "a boolean", int: "a number", float: "a number"}


class SequentumConnection(BaseHook):
    """The base class of the hook: the settings, clients and links of a connection of type ``sequentum``.

    Operators, sensors and triggers need nothing else. The methods for ``@task`` code and for Airflow's connection form
    are in :class:`~airflow_provider_sequentum.hooks.sequentum.SequentumHook`.

    :param sequentum_conn_id: the connection. It is looked up for the first request.
    """

    def __init__(self, sequentum_conn_id: str = DEFAULT_CONN_ID) -> None:
        super().__init__()
        try:
            given = DEFAULT_CONN_ID if is_unset(sequentum_conn_id) else sequentum_conn_id
            self.sequentum_conn_id = parse_named("sequentum_conn_id", parse_text, given)
        except ValueError as error:
            raise SequentumConnectionException(f"{error}. Nothing was sent.") from None

    @cached_property
    def client(self) -> SequentumClient:
        """The blocking client. One per hook; it can be used by several threads."""
        from airflow_provider_sequentum.api import SequentumClient

        with client_errors_as_exceptions(self.sequentum_conn_id):
            return SequentumClient(self.settings)

    @cached_property
    def settings(self) -> ClientSettings:
        """The validated settings of the connection.

        :raises SequentumConnectionNotFound: Airflow cannot find the connection.
        :raises SequentumConnectionException: one of its fields is invalid.
        """
        return self._settings_from(self._connection, self._connection.extra_dejson)

    def read_again(self) -> bool:
        """Read the connection again; return whether it has changed. If so, the next request uses a new client.

        A change to another base URL does not count: the ids of runs and agents may be others there.

        :raises SequentumConnectionNotFound: Airflow cannot find the connection.
        :raises SequentumConnectionException: one of its fields is invalid.
        """
        today = SequentumConnection(self.sequentum_conn_id)
        if today.settings == self.settings or today.settings.base_url != self.settings.base_url:
            return False
        self.close()
        self.__dict__.update(_connection=today._connection, settings=today.settings)
        return True

    def send(self, call: Call[T]) -> T:
        """Send one request and return the parsed response.

        :raises SequentumConnectionException: the key, the host or a field of the connection is wrong.
        :raises SequentumRequestRefused: the service refused the request.
        :raises SequentumUnavailable: there was no usable response; a retry may help.
        """
        with client_errors_as_exceptions(self.sequentum_conn_id):
            return self.client.send(call)

    async def aget_settings(self) -> ClientSettings:
        """Return :attr:`settings` without blocking the event loop.

        If the connection is not found, the lookup is repeated for a minute, because Airflow reports the same error
        while its database or secrets backend is unavailable. All waits of a connection in a triggerer depend on this
        lookup: they would fail together, and the runs of tasks without retries would be stopped.
        """
        pauses = iter(LOOKUP_PAUSES)
        while True:
            try:
                return self._settings_from(*await aget_connection(self, self.sequentum_conn_id))
            except AirflowNotFoundException as error:
                if (pause := next(pauses, None)) is None:
                    raise self._missing_connection() from error
            log.warning(
                "Airflow cannot find the connection %r; looking it up again in %g s.", self.sequentum_conn_id, pause
            )
            await asyncio.sleep(pause)

    async def aget_client(self) -> AsyncSequentumClient:
        """Return a new async client, which the caller has to close (``async with``)."""
        from airflow_provider_sequentum.api import AsyncSequentumClient

        settings = await self.aget_settings()
        with client_errors_as_exceptions(self.sequentum_conn_id):
            # Loading the certificates would block the event loop for too long.
            return await asyncio.to_thread(AsyncSequentumClient, settings)

    def run_link(self, agent_id: int, run_id: int) -> str:
        """Return the URL of a run's page, from the connection's template; without one, the URL of the dashboard."""
        return self._link("run_link_template", agent_id=agent_id, run_id=run_id)

    def session_link(self, session_id: str) -> str:
        """Return the URL of an Agent Builder session's page; see :meth:`run_link`."""
        return self._link("session_link_template", session_id=session_id)

    def close(self) -> None:
        """Close the client, if one was opened."""
        if "client" in self.__dict__:
            self.__dict__.pop("client").close()

    def _settings_from(self, connection: Connection, extra: object) -> ClientSettings:
        try:
            if not extra:
                _check_json(connection.extra)
            return settings_from_connection(
                connection.password, connection.host, connection.port, connection.schema, extra
            )
        except ValueError as error:
            raise SequentumConnectionException(
                f"{error} Nothing was sent. Edit the connection {self.sequentum_conn_id!r}."
            ) from None

    @cached_property
    def _connection(self) -> Connection:
        try:
            return self.get_connection(self.sequentum_conn_id)
        except AirflowNotFoundException as error:
            raise self._missing_connection() from error

    def _missing_connection(self) -> SequentumConnectionNotFound:
        return SequentumConnectionNotFound(
            f"Airflow cannot find the connection {self.sequentum_conn_id!r}. Nothing was sent. If it does not exist, "
            f"create it with type {CONN_TYPE!r} and the API key as its password. If it exists, Airflow failed to look "
            "it up, and a retry may help."
        )

    def _link(self, template_field: str, **ids: int | str) -> str:
        extra = self._connection.extra_dejson
        # Annotated as a dictionary, but it is any JSON that the connection contains.
        template = extra.get(template_field) if isinstance(extra, Mapping) else None  # type: ignore[redundant-expr]
        # Everyone who can see the task can see the link, and users do paste the key into the wrong field.
        if isinstance(template, str) and (secret := self._secret_in(template)):
            log.warning(
                "The field %r of the connection %r contains %s, so it is not used: everyone who can see the task would "
                "see it. Put credentials in the password only.",
                template_field,
                self.sequentum_conn_id,
                secret,
            )
            template = None
        return fill_link_template(template, self.settings.base_url, **ids)

    def _secret_in(self, template: str) -> str | None:
        """Return what credentials a link template contains; ``None`` if there are none."""
        if self.settings.is_key_in(template):
            return "an API key"
        return "a user name or a password" if _USER_IN_ADDRESS.match(template) else None


def settings_from_connection(
    password: str | None, host: str | None, port: int | str | None, schema: str | None, extra: object
) -> ClientSettings:
    """Return the client's settings.

    In every field, ``None`` and an empty string mean that it is unset; 0 is 0, and a boolean is not a number.

    :param password: the API key.
    :param host: the base URL, with or without ``https://``; production if unset.
    :param port: the port, if it is a separate field, as in a connection URI.
    :param schema: ``http`` or ``https``, if it is a separate field, as in a connection URI.
    :param extra: the connection's extra, parsed from JSON; its fields are those of the provider's ``conn-fields``.
    :raises ValueError: a field is invalid; the message names the field and never contains the key.
    """
    if is_unset(extra):
        extra = {}
    if not isinstance(extra, Mapping):
        kind = _JSON_NAMES.get(type(extra), "a string")
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
    """Return ``template`` with the ids in place of their ``{names}``; without a template, the URL of the dashboard.

    The URLs of the dashboard's pages are not documented, so none is guessed. The ids come from the server, so they are
    quoted. The link is opened in a browser, so only HTTP URLs are accepted: ``javascript:`` would run code.
    """
    link = str(template or "").strip()
    if not link.lower().startswith(("https://", "http://")):
        return base_url
    for name, value in ids.items():
        link = link.replace("{" + name + "}", quote(str(value), safe=""))
    return link


def _base_url(host: str | None, port: int | str | None, schema: str | None) -> str:
    text = _field({"host": host}, "host", _text, "")
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
        return text  # the settings reject it with an error message
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


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("a string")  # noqa: TRY004  # one kind for all
    return value.strip()


def _check_json(extra: str | None) -> None:
    """Reject an extra that is not JSON, which Airflow would treat as empty."""
    try:
        json.loads((extra or "").strip() or "{}")
    except ValueError as error:
        raise ValueError(f"The connection's extra must be a JSON object: {error}.") from None


def _path(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("a file path")  # noqa: TRY004  # one kind for all
    return value.strip()


def _boolean(value: object) -> bool:
    text = str(value).strip().lower()
    if text not in _YES | _NO:
        raise ValueError("true or false")
    return text in _YES
