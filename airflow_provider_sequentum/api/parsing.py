"""Answers become values: the base of all models, and the readers a :class:`~.call.Call` carries.

The wire format is read generously, because the service documents it in more than one way: names are
camelCase, unknown fields are ignored, ``null`` means the same as absent, and a value of an unexpected
type counts as absent unless the model cannot do without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import IntEnum
from functools import cache
from typing import Annotated, Any, Generic, TypeVar

import pendulum
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, TypeAdapter, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import from_json

from airflow_provider_sequentum.api.call import Answer
from airflow_provider_sequentum.api.run_status import RunStatus, parse_run_status

T = TypeVar("T")
M = TypeVar("M", bound="ApiModel")
E = TypeVar("E", bound=IntEnum)

_LIST_KEYS = ("items", "agents", "runs", "transactions")
_TOTAL_KEYS = ("totalRecordCount", "totalCount")


def parse_time(value: object) -> pendulum.DateTime:
    """Read an ISO 8601 time as an aware UTC time.

    Fractions are cut to six digits, and a time without an offset is UTC: both occur on the wire.

    :raises ValueError: when it is no ISO 8601 text.
    """
    if isinstance(value, str):
        value = datetime.fromisoformat(value.strip())
    if not isinstance(value, datetime):
        raise ValueError("not an ISO 8601 time")  # noqa: TRY004  # what pydantic takes as "does not validate"
    try:
        utc = value.astimezone(UTC) if value.tzinfo else value
    except OverflowError:
        raise ValueError("time out of range") from None
    # pendulum's own conversions cost ten times as much, and a list of runs has three times per run.
    return pendulum.DateTime(
        utc.year, utc.month, utc.day, utc.hour, utc.minute, utc.second, utc.microsecond, tzinfo=pendulum.UTC
    )


ApiTime = Annotated[pendulum.DateTime, PlainValidator(parse_time)]
"""An aware UTC time."""

ApiId = Annotated[int, Field(ge=1, le=2**63 - 1)]
"""The id of something that exists."""

ApiCode = Annotated[E | int, Field(union_mode="left_to_right")]
"""A member of a code list; an unknown code is kept as the integer it is."""

ApiRunStatus = Annotated[RunStatus | int | str, PlainValidator(parse_run_status)]
"""A run status; an unknown one is kept as it came."""


class ApiModel(BaseModel):
    """Base of all models: immutable, camelCase on the wire, snake_case in Python."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True, allow_inf_nan=False
    )

    @model_validator(mode="wrap")
    @classmethod
    def _read_generously(cls, data: Any, handler: Callable[[Any], Any]) -> Any:
        if not isinstance(data, Mapping):
            return handler(data)
        stated = {name: value for name, value in data.items() if value is not None}
        try:
            return handler(stated)
        except ValidationError as error:
            # One field of an unexpected type must not make a whole run unreadable.
            unreadable = {place["loc"][0] for place in error.errors(include_url=False) if place["loc"]}
            readable = {name: value for name, value in stated.items() if name not in unreadable}
            if len(readable) == len(stated):
                raise
            return handler(readable)


class Page(list[T], Generic[T]):
    """One page of a list, with the length of the whole list where the server states it.

    :param records: what the page holds.
    :param total_record_count: number of records on all pages; ``None`` for an answer that is a plain array.
    """

    def __init__(self, records: list[T], total_record_count: int | None = None) -> None:
        super().__init__(records)
        self.total_record_count = total_record_count


def read_nothing(answer: Answer) -> None:
    """Read the answer of a call which only acts: any 2xx will do but a refusal and a gateway's page."""
    first = answer.content.lstrip()[:1]
    if first == b"{":
        raise_if_refused(from_json(answer.content))
    if first == b"<":
        raise ValueError("the answer is a page")


def read_one(model: type[M], **defaults: Any) -> Callable[[Answer], M]:
    """Return a reader of one object.

    :param model: what the object is.
    :param defaults: wire names and values to use where the answer is silent, because the caller knows them.
    """

    def read(answer: Answer) -> M:
        data = raise_if_refused(_json_of(answer))
        return model.model_validate(_completed(data, defaults))

    return read


def read_list(model: type[M], **defaults: Any) -> Callable[[Answer], list[M]]:
    """Return a reader of a list in any of its shapes: an array, or an object with the array in it."""
    read_records = read_page(model, **defaults)
    return lambda answer: list(read_records(answer))


def read_page(model: type[M], **defaults: Any) -> Callable[[Answer], Page[M]]:
    """Return a reader of a page in any of its shapes: ``items``, ``agents``, ``runs``, ``transactions``, array."""

    def read(answer: Answer) -> Page[M]:
        data = raise_if_refused(_json_of(answer))
        records, total = _records_of(data)
        completed = [_completed(record, defaults) for record in records]
        return Page(_list_adapter(model).validate_python(completed), total)

    return read


class Refused(ValueError):
    """The answer says ``success: false``; the text is the server's reason."""


def raise_if_refused(data: Any) -> Any:
    """Return the data, unless it is the Agent Builder's envelope of a refusal.

    :raises Refused: when the answer says ``success: false``.
    """
    if isinstance(data, dict) and data.get("success") is False:
        raise Refused(str(data.get("error") or data.get("message") or "the server gives no reason"))
    return data


def _json_of(answer: Answer) -> Any:
    if not answer.content.strip():
        raise ValueError("the answer is empty")
    return from_json(answer.content, allow_inf_nan=False, allow_partial=answer.is_cut)


def _completed(data: Any, defaults: Mapping[str, Any]) -> Any:
    if not (defaults and isinstance(data, dict)):
        return data
    return {**defaults, **{name: value for name, value in data.items() if value is not None}}


def _records_of(data: Any) -> tuple[list[Any], int | None]:
    if isinstance(data, list):
        return data, None
    if isinstance(data, dict):
        records = next((data[key] for key in _LIST_KEYS if isinstance(data.get(key), list)), None)
        total = next((data[key] for key in _TOTAL_KEYS if isinstance(data.get(key), int)), None)
        if records is not None:
            return records, total
    raise ValueError("the answer holds no list")


@cache
def _list_adapter(model: type[M]) -> TypeAdapter[list[M]]:
    return TypeAdapter(list[model])  # type: ignore[valid-type]
