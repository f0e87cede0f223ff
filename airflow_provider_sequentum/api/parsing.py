"""Converting responses to values: the base of all models, the readers of :class:`~.call.Call`, and pages of lists.

The wire format is read leniently, because the service documents it in more than one way and a response cannot be
repaired: names are camelCase, unknown fields are ignored, ``null`` means the same as absent, a value of an unexpected
type counts as absent unless the model requires it, and an element that cannot be read is omitted from its list. Two
rules are strict: text is made safe (:mod:`~airflow_provider_sequentum.api.text`), and a response with another id than
the requested one is refused.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import IntEnum
from functools import cache, lru_cache
from typing import Annotated, Any, Generic, NamedTuple, TypeVar, get_args

import pendulum
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    GetPydanticSchema,
    PlainValidator,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import core_schema, from_json

from airflow_provider_sequentum.api.call import Call, Response
from airflow_provider_sequentum.api.errors import RefusedByServer, UnexpectedResponse
from airflow_provider_sequentum.api.run_status import RunStatus, parse_run_status, status_name
from airflow_provider_sequentum.api.text import (
    MAX_MESSAGE_LENGTH,
    MAX_NAME_LENGTH,
    MAX_TEXT_LENGTH,
    MAX_WHOLE_LENGTH,
    one_line,
    safe_json,
    safe_text,
)

T = TypeVar("T")
M = TypeVar("M", bound="ApiModel")
E = TypeVar("E", bound=IntEnum)

DEFAULT_RECORDS_PER_PAGE = 100
"""The largest page that Sequentum's own client requests."""

_LIST_KEYS = ("items", "agents", "runs", "transactions")
_LARGEST_INTEGER = 2**63 - 1
_LARGEST_AMOUNT = 10**15
_FIRST_YEAR, _LAST_YEAR = 1970, 3000
# An escape sequence: a surrogate pair, which is a character, a lone surrogate, which is not, or any other. Few
# responses need this pattern and _HUGE_INTEGER, so both are texts, which re compiles on first use.
_ESCAPE = (
    r"(?s)\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<lone>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)"
)
_CONTROLS = dict.fromkeys(range(32), " ")
_HUGE_INTEGER = r"(?<=[\s:,\[])-?[0-9]{400,}(?=[\s,}\]])"

log = logging.getLogger(__name__)


def parse_time(value: object) -> pendulum.DateTime:
    """Read an ISO 8601 time as an aware UTC time.

    Fractions are cut to six digits, and a time without an offset is UTC: both occur in responses. So does the year 1,
    which .NET uses for "none". Like other times that must be mistakes, it is refused, because calculations with it
    exceed the calendar. The difference of two times within the limits can be added to a third or subtracted from it.

    :raises ValueError: if it is not an ISO 8601 text, or is before 1970 or after the year 2999.
    """
    if isinstance(value, str):
        return _parse_time_text(value)
    if not isinstance(value, datetime):
        raise ValueError("not an ISO 8601 time")  # noqa: TRY004  # the type that pydantic expects from validators
    return _in_utc(value)


@lru_cache(maxsize=1000)
def _parse_time_text(text: str) -> pendulum.DateTime:
    """Read a text. Each poll of a run returns the same two or three times again."""
    return _in_utc(datetime.fromisoformat(text.strip()))


def _in_utc(value: datetime) -> pendulum.DateTime:
    try:
        utc = value.astimezone(UTC) if value.tzinfo else value
    except OverflowError:
        raise ValueError("time out of range") from None
    if not _FIRST_YEAR <= utc.year < _LAST_YEAR:
        raise ValueError("time out of range")
    # The conversions of pendulum take ten times as long, and a list of runs has three times per run.
    return pendulum.DateTime(
        utc.year, utc.month, utc.day, utc.hour, utc.minute, utc.second, utc.microsecond, tzinfo=pendulum.UTC
    )


def time_between(earlier: datetime, later: datetime) -> timedelta:
    """Return the difference of two times. Calculating it with pendulum takes a hundred times as long."""
    return datetime.__sub__(later, earlier)


class Text(NamedTuple):
    """Annotation for fields of an :class:`ApiModel` that determines how much of a string is kept.

    :param limit: maximum bytes of UTF-8.
    :param lines: whether to keep line feeds and tabs.
    """

    limit: int
    lines: bool = False


_NAME = Text(MAX_NAME_LENGTH)
_JSON = Text(MAX_TEXT_LENGTH, lines=True)

ApiMessage = Annotated[str, Text(MAX_MESSAGE_LENGTH)]
"""A sentence or two, on one line."""

ApiText = Annotated[str, Text(MAX_TEXT_LENGTH, lines=True)]
"""A text of many lines."""

ApiUrl = Annotated[str, Text(MAX_TEXT_LENGTH)]
"""An address."""

ApiWhole = Annotated[str, Text(MAX_WHOLE_LENGTH, lines=True)]
"""A text that is only useful as a whole, such as input parameters."""

ApiTime = Annotated[pendulum.DateTime, PlainValidator(parse_time)]
"""An aware UTC time."""

ApiId = Annotated[int, Field(ge=1, le=_LARGEST_INTEGER)]
"""The id of an existing object."""

ApiAmount = Annotated[Decimal, Field(ge=-_LARGEST_AMOUNT, le=_LARGEST_AMOUNT)]
"""An amount of credits, small enough to be added up and written as a JSON number."""

ApiCode = Annotated[E | int, Field(union_mode="left_to_right")]
"""A member of a code list; an unknown code is kept as an integer."""


def _run_status_schema(_source: object, _handler: object) -> core_schema.CoreSchema:
    # Importing pydantic's PlainSerializer, which does the same, takes each process of a task more than a millisecond.
    by_name = core_schema.plain_serializer_function_ser_schema(
        status_name, return_schema=core_schema.str_schema(), when_used="json"
    )
    return core_schema.no_info_plain_validator_function(parse_run_status, serialization=by_name)


ApiRunStatus = Annotated[RunStatus | int | str, GetPydanticSchema(_run_status_schema)]
"""A run status, written to JSON by its name; an unknown one is kept unchanged."""


class ApiModel(BaseModel):
    """Base of all models: immutable, camelCase on the wire, snake_case in Python, with safe and bounded strings.

    A string is converted to one line of up to 500 bytes, unless its field is annotated otherwise (:class:`Text`).
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="ignore",
        frozen=True,
        allow_inf_nan=False,
        defer_build=True,  # a task imports twenty models and uses two, and building one takes more than a millisecond
    )

    @model_validator(mode="wrap")
    @classmethod
    def _read_generously(cls, data: Any, handler: Callable[[Any], Any]) -> Any:
        if not isinstance(data, Mapping):
            return handler(data)
        stated = _safe_fields(cls, data)
        try:
            return handler(stated)
        except ValidationError as error:
            # One field of an unexpected type must not make a whole run unreadable.
            readable = _readable_part(cls, stated, error)
            if readable == stated:
                raise
            return handler(readable)


class _Total(ApiModel):
    """The fields of a response beside its list."""

    total_record_count: Annotated[int, Field(ge=0)] | None = Field(
        default=None, validation_alias=AliasChoices("totalRecordCount", "totalCount")
    )


class Page(list[T], Generic[T]):
    """One page of a list, with the length of the whole list if the server states it.

    :param records: the records of the page.
    :param total_record_count: number of records on all pages; ``None`` if the response is a plain array.
    :param unreadable: number of records that were omitted because they could not be read. Add it to the length to find
        out whether a list of limited length is full.
    :param gaps: where records were omitted: for each one the number of readable records before it; empty if unknown.
    """

    def __init__(
        self,
        records: list[T],
        total_record_count: int | None = None,
        unreadable: int = 0,
        gaps: tuple[int, ...] = (),
    ) -> None:
        super().__init__(records)
        self.total_record_count = total_record_count
        self.unreadable = unreadable
        self.gaps = gaps

    @property
    def length(self) -> int:
        """The number of records of the page, including those that could not be read."""
        return len(self) + self.unreadable

    @property
    def left_out(self) -> int:
        """How many records are missing from a list that was requested without pages, as far as the response shows."""
        return max(self.unreadable, (self.total_record_count or 0) - len(self))


def read_json(content: bytes, *, is_cut: bool = False) -> Any:
    """Return the JSON value of a response, read at least as leniently as by Python's ``json``.

    Byte order marks, lone surrogates, invalid UTF-8 and control characters in strings are accepted. Integers of
    hundreds of digits count as ``null``; NaN and infinities are returned as floats.

    :param content: the body.
    :param is_cut: whether it is only the first part of the body.
    :raises ValueError: if it is not JSON.
    """
    if not content.strip():
        raise ValueError("the response is empty")
    try:
        return from_json(content, allow_partial=is_cut)
    except ValueError:
        # The fast parser is strict. If it refuses the characters of a text, they are replaced and it is read again.
        text = content.decode(json.detect_encoding(content), errors="replace")
        text = re.sub(_ESCAPE, lambda found: "\\ufffd" if found["lone"] else found[0], text.translate(_CONTROLS))
        return from_json(re.sub(_HUGE_INTEGER, "null", text).encode(errors="replace"), allow_partial=is_cut)


def read_nothing(response: Response) -> None:
    """Read the response of a call without a return value: any 2xx except a refusal and an HTML page of a gateway."""
    if response.first_byte == b"{":
        raise_if_refused(read_json(response.content))
    if response.first_byte == b"<":
        raise ValueError("the response is an HTML page")


def read_one(model: type[M], **asked: int | str | None) -> Callable[[Response], M]:
    """Return a reader of one object.

    :param model: the model of the object.
    :param asked: wire names and values of the requested ids. A response with another id is an ``UnexpectedResponse``.
        If the response lacks an id, the requested one is used, except for the object's own ``id``.
    """

    def read(response: Response) -> M:
        data = raise_if_refused(read_json(response.content, is_cut=response.is_cut))
        return model.model_validate(_with_asked_ids(model, data, asked))

    return read


def read_list(model: type[M], **asked: int | str | None) -> Callable[[Response], Page[M]]:
    """Return a reader of a list, or of one page of it: an array, or an object with the list in one of ``_LIST_KEYS``.

    Records that cannot be read are omitted, and a single warning states their number.

    :param model: the model of each record.
    :param asked: as for :func:`read_one`, for each record and for the object around them.
    """

    def read(response: Response) -> Page[M]:
        data = raise_if_refused(read_json(response.content, is_cut=response.is_cut))
        _with_asked_ids(model, data, asked)
        records, total = _records_of(data)
        page: Page[M] = Page([], total)
        failure: ValidationError | None = None
        for record in records:
            try:
                page.append(model.model_validate(_with_asked_ids(model, record, asked)))
            except ValidationError as error:
                page.unreadable += 1
                page.gaps += (len(page),)
                failure = error
        if failure is not None:
            if not page:
                raise failure
            _warn_of_unreadable(page.unreadable, len(records), model.__name__)
        return page

    return read


def raise_if_refused(data: Any) -> Any:
    """Return the data, unless it is a refusal by the Agent Builder.

    :raises RefusedByServer: the response has ``success: false``; the message is the server's reason.
    """
    if isinstance(data, dict) and str(data.get("success")).strip().lower() == "false":
        raise RefusedByServer(str(data.get("error") or data.get("message") or "the server states no reason"))
    return data


def first_page(call: Call[Page[T]]) -> Call[Page[T]]:
    """Return the call with paging enabled, which requires both parameters."""
    return replace(call, query={"pageIndex": 1, "recordsPerPage": DEFAULT_RECORDS_PER_PAGE, **call.query})


def next_page(call: Call[Page[T]], page: Page[T], previous: Page[T] | None) -> Call[Page[T]] | None:
    """Return the call for the page after this one, or ``None`` after the last.

    The server may return shorter pages than requested, so the length of the previous page is used to count the records
    before this one.

    :param call: the call that returned the page, with both paging parameters.
    :param page: the page.
    :param previous: the page before it.
    :raises UnexpectedResponse: the server returns the same page repeatedly, or an empty one before the end.
    """
    page_index, records_per_page = int(call.query["pageIndex"]), int(call.query["recordsPerPage"])
    if page.total_record_count is None:
        # A plain array is the whole list: the server did not page.
        return None
    if previous is not None:
        if page and page == previous:
            raise call.error(UnexpectedResponse, f"page {page_index} repeats the previous page")
        records_per_page = previous.length
    if (page_index - 1) * records_per_page + page.length >= page.total_record_count:
        return None
    if not page:
        raise call.error(
            UnexpectedResponse, f"page {page_index} is empty, but the list has {page.total_record_count} records"
        )
    return replace(call, query={**call.query, "pageIndex": page_index + 1})


def _safe_fields(model: type[ApiModel], data: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the fields of the model, without ``null`` and without values that cannot be stored."""
    texts = _texts_of(model)
    fields: dict[str, Any] = {}
    for name, value in data.items():
        if value is None or name not in texts:
            continue
        text, kind = texts[name], value.__class__
        if kind is str:
            fields[name] = safe_text(value, text.limit, lines=text.lines) if text else value
        elif kind is int:
            if -_LARGEST_INTEGER <= value <= _LARGEST_INTEGER:
                fields[name] = value
        elif text and (kind is dict or kind is list or kind is float):
            fields[name] = safe_json(value, text.limit, lines=text.lines)
        elif kind is bool and name not in _flags_of(model):
            continue  # pydantic would convert it to 1 or 0, and so to an id
        else:
            fields[name] = value
    return fields


def _readable_part(model: type[ApiModel], stated: dict[str, Any], error: ValidationError) -> dict[str, Any]:
    """Return the fields without invalid ones, and lists of models without invalid elements."""
    readable = dict(stated)
    bad: dict[str, set[str]] = {}
    for place in error.errors(include_url=False, include_input=False):
        name, *rest = map(str, place["loc"]) if place["loc"] else ("",)
        if rest and isinstance(stated.get(name), list) and _texts_of(model).get(name) is None:
            bad.setdefault(name, set()).add(rest[0])
        else:
            readable.pop(name, None)
    for name, indices in bad.items():
        if name in readable and len(indices) < len(stated[name]):
            readable[name] = [element for index, element in enumerate(stated[name]) if str(index) not in indices]
            _warn_of_unreadable(len(indices), len(stated[name]), name)
    return readable


def _warn_of_unreadable(count: int, total: int, what: str) -> None:
    log.warning("Omitted %d of %d elements (%s) of a response: unreadable.", count, total, what)


@cache
def _texts_of(model: type[ApiModel]) -> Mapping[str, Text | None]:
    """Return the wire names of a model and how their strings are kept; ``None`` for models, which handle their own."""
    texts: dict[str, Text | None] = {}
    for name, field in model.model_fields.items():
        marks = [mark for mark in field.metadata if isinstance(mark, Text)]
        text = marks[0] if marks else _text_of(field.annotation)
        texts.update(dict.fromkeys(_names_of(model, name), text))
    return texts


@cache
def _flags_of(model: type[ApiModel]) -> frozenset[str]:
    """Return the wire names of a model's fields that may be true or false."""
    return frozenset(
        wire_name
        for name, field in model.model_fields.items()
        if {bool, Any}.intersection(
            part for part in _parts_of(field.annotation) if isinstance(part, type) or part is Any
        )
        for wire_name in _names_of(model, name)
    )


def _text_of(annotation: Any) -> Text | None:
    parts = list(_parts_of(annotation))
    if any(isinstance(part, type) and issubclass(part, ApiModel) for part in parts):
        return None
    return next((part for part in parts if isinstance(part, Text)), _JSON if Any in parts else _NAME)


def _parts_of(annotation: Any) -> list[Any]:
    """Return an annotation and all its parts: members of unions, arguments, metadata."""
    return [annotation, *(part for argument in get_args(annotation) for part in _parts_of(argument))]


@cache
def _names_of(model: type[ApiModel], name: str) -> tuple[str, ...]:
    """Return all names of a field, given one of them; those of the wire format come first."""
    for field_name, field in model.model_fields.items():
        alias = field.validation_alias
        choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
        names = tuple(dict.fromkeys([*(str(choice) for choice in choices if choice), field_name]))
        if name in names:
            return names
    return (name,)


def _with_asked_ids(model: type[ApiModel], data: Any, asked: Mapping[str, int | str | None]) -> Any:
    """Return an object with the requested ids added if it lacks them.

    :raises UnexpectedResponse: it has another id.
    """
    if not isinstance(data, dict):
        return data
    completed = data
    for wire_name, value in asked.items():
        if value is None:
            continue
        names = _names_of(model, wire_name)
        stated = [(name, data[name]) for name in names if data.get(name) is not None]
        for name, other in stated:
            if other != value and str(other).strip() != str(value):
                raise UnexpectedResponse(f"its {name} is {one_line(str(other), 100)}, but {value} was requested")
        # The object's own id is required: otherwise any JSON would be accepted as a response.
        if not stated and names[0] != "id":
            completed = {**completed, names[0]: value}
    return completed


def _records_of(data: Any) -> tuple[list[Any], int | None]:
    if isinstance(data, list):
        return data, None
    if isinstance(data, dict):
        records = next((data[key] for key in _LIST_KEYS if isinstance(data.get(key), list)), None)
        if records is not None:
            return records, _Total.model_validate(data).total_record_count
    raise ValueError("the response contains no list")
