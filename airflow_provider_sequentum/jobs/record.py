"""The codec of everything that is stored or sent: records, configurations, events and trigger arguments.

All of it is JSON that both newer and older versions of this package can read: unknown fields are ignored, missing ones
get defaults. A record that cannot be read is never treated as "no record", because it could hide a job that is running.
"""

# Modules with models have no "from __future__ import annotations": pydantic would have to evaluate the annotations as
# strings, which takes at least a millisecond in the process of every task.
import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Self, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from airflow_provider_sequentum import parameters
from airflow_provider_sequentum.exceptions import (
    SequentumException,
    SequentumRequestRefused,
    SequentumUnavailable,
    exception_named,
)
from airflow_provider_sequentum.parameters import shown

Id = Annotated[int, BeforeValidator(parameters.parse_id)]
Count = Annotated[int, BeforeValidator(parameters.parse_count)]
Amount = Annotated[float, BeforeValidator(parameters.parse_amount)]
Seconds = Annotated[float, BeforeValidator(parameters.parse_seconds)]
Flag = Annotated[bool, BeforeValidator(parameters.parse_flag)]
Text = Annotated[str, BeforeValidator(parameters.parse_text)]
Messages = Annotated[tuple[str, ...], BeforeValidator(parameters.parse_messages)]
JsonText = Annotated[str, BeforeValidator(parameters.parse_json_object)]


def choice_of(choices: object) -> BeforeValidator:
    """Return the validator of a parameter that takes the values of a ``Literal`` type."""
    names = get_args(choices)
    return BeforeValidator(lambda value: parameters.parse_choice(value, names))


FORMAT = 2
"""Increased only if a field changes its meaning. Format 1 was used before the first release."""


S = TypeVar("S", bound="Stored")


class Stored(BaseModel):
    """Base of everything that is stored or sent."""

    model_config = ConfigDict(frozen=True, extra="ignore", validate_default=False, defer_build=True)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"format": FORMAT, **self.model_dump(mode="json", exclude_none=True)}

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Read what :meth:`to_json` wrote.

        :raises ValueError: it is something else, or has another format.
        """
        if not isinstance(value, Mapping):
            raise ValueError(f"It must be a JSON object, not {type(value).__name__}.")  # noqa: TRY004 - as pydantic does
        if value.get("format", FORMAT) != FORMAT:
            raise ValueError(f"It was written by another version of this package (format {value.get('format')!r}).")
        try:
            return cls.model_validate({name: item for name, item in value.items() if name != "format"})
        except ValidationError as error:
            raise ValueError(sentence_of(error)) from None

    def updated(self, **fields: Any) -> Self:
        """Return a copy in which some fields are replaced."""
        return self.model_copy(update=fields)


class Configuration(Stored):
    """The parameters of an operator, parsed once, before anything is sent."""

    nothing_was: ClassVar[str] = "sent"
    """What an operator does, for the message if a parameter is invalid."""

    may_be_blank: ClassVar[frozenset[str]] = frozenset()
    """Parameters for which white space is a value. For others, it means unset."""

    @model_validator(mode="before")
    @classmethod
    def _unset_means_default(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        return {
            name: value
            for name, value in values.items()
            if not parameters.is_unset(value) or (value and name in cls.may_be_blank)
        }

    @classmethod
    def of(cls, parameters: object, **more: Any) -> Self:
        """Parse the attributes of an operator that have the names of the fields.

        :raises SequentumRequestRefused: parameters are invalid. The message names all of them.
        """
        names = [name for name in cls.model_fields if hasattr(parameters, name)]
        try:
            return cls.model_validate({name: getattr(parameters, name) for name in names} | more)
        except ValidationError as error:
            raise SequentumRequestRefused(f"{sentence_of(error)} {cls._fate(parameters)}") from None

    @property
    def fate(self) -> str:
        """What became of the task's work if a parameter proves wrong: ``Nothing was sent (connection 'a').``."""
        return self._fate(self)

    @classmethod
    def _fate(cls, parameters: object) -> str:
        conn_id = getattr(parameters, "sequentum_conn_id", None)
        return f"Nothing was {cls.nothing_was}{f' (connection {shown(conn_id)})' if conn_id is not None else ''}."


class JobConfig(Configuration):
    """The parameters that all operators of remote jobs have.

    :param sequentum_conn_id: the connection.
    :param wait_for_completion: whether the task waits until the job ends.
    :param deferrable: whether it waits in the triggerer.
    :param timeout: seconds after which it gives up.
    """

    sequentum_conn_id: Text = "sequentum_default"
    wait_for_completion: Flag = True
    deferrable: Flag = False
    timeout: Seconds | None = None

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a hash of the work. An attempt with another hash asks for other work."""


class JobRecord(Stored):
    """The fields that all records of remote jobs have.

    A record belongs to a logical attempt, which starts when a task instance is created or cleared. Retries continue it.

    :param fingerprint: a hash of the work. An attempt with another hash asks for other work.
    :param max_tries: the task instance's ``max_tries``; ``None`` if it is not known. Airflow increases it whenever the
        task is cleared, and only then, so it identifies the logical attempt.
    :param requested_at: when the start was about to be sent, by the worker's clock.
    :param deadline: when this attempt of the task gives up because of ``timeout``.
    :param execution_deadline: when it gives up because of ``execution_timeout``.
    :param is_guess: whether the record was inferred, because this version of Airflow keeps nothing between attempts.
        ``requested_at`` is then the earliest time at which a previous attempt can have started a job, and only a job
        that is still running can be that one.
    """

    fingerprint: str | None = None
    max_tries: int | None = None
    requested_at: datetime = datetime.min.replace(tzinfo=UTC)
    deadline: datetime | None = None
    execution_deadline: datetime | None = None
    is_guess: bool = False

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Read what :meth:`to_json` wrote.

        Something else may be in its place, such as the reference that a backend of the state store has left there. As
        every field may be absent, it would be read as a record without a job.
        """
        if isinstance(value, Mapping) and value.keys().isdisjoint({"format", *cls.model_fields}):
            raise ValueError("It was not written by this package.")
        return super().from_json(value)

    @property
    def has_request_time(self) -> bool:
        """Whether the time of the start is known. A record made from a trigger's arguments has none."""
        return self.requested_at.year > 1

    @property
    def earliest_deadline(self) -> datetime | None:
        """The earlier of the two deadlines."""
        return min(filter(None, (self.deadline, self.execution_deadline)), default=None)

    @property
    def execution_timeout_is_first(self) -> bool:
        """Whether ``execution_timeout`` expires first."""
        return self.execution_deadline is not None and self.execution_deadline == self.earliest_deadline

    @property
    def timeout_name(self) -> str:
        """The name, in messages, of the timeout that expires first."""
        return "execution_timeout" if self.execution_timeout_is_first else "the task's timeout"

    def is_same_work(self, fingerprint: str) -> bool:
        """Whether this attempt of the task asks for the same work."""
        return self.fingerprint is None or self.fingerprint == fingerprint

    def was_cleared(self, max_tries: int | None) -> bool:
        """Whether the task was cleared since."""
        return self.max_tries is not None and self.max_tries != max_tries

    def joined_by(self, new: "JobRecord") -> Self:
        """Return the record after the attempt of ``new`` has joined the job: from then on, its deadlines apply."""
        return self.updated(
            fingerprint=new.fingerprint,
            max_tries=new.max_tries,
            deadline=new.deadline,
            execution_deadline=new.execution_deadline,
        )


class JobEvent(Stored):
    """The event that a trigger sends to its task.

    :param error: the class of the exception that ended the wait. The job may still be running.
    :param message: its message.
    :param retry_after: seconds that the service asked to wait, if it did.
    """

    error: str | None = None
    message: str = ""
    retry_after: float | None = None

    def exception(self) -> SequentumException:
        """Return the exception that ended the wait."""
        return exception_named(self.error, self.message, self.retry_after)


def fields_of(error: BaseException) -> dict[str, Any]:
    """Return the fields of a :class:`JobEvent` for the exception that ended a wait."""
    retry_after = getattr(error, "retry_after", None)
    return {"error": type(error).__name__, "message": str(error), "retry_after": retry_after}


def fingerprint(*parts: object) -> str:
    """Return a hash of JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def sentence_of(error: ValidationError) -> str:
    """Return the errors as sentences, one for each field. They contain a value only if its parser includes it."""
    lines = []
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        name = ".".join(map(str, problem["loc"]))
        message = "must be set" if problem["type"] == "missing" else problem["msg"].removeprefix("Value error, ")
        lines.append(f"{name} {message}." if message.startswith("must") else f"{name}: {message}.".removeprefix(": "))
    return " ".join(lines)


def read_event(kind: type[S], event: object) -> S:
    """Read the event of a trigger. An unreadable event is never treated as success.

    :raises SequentumUnavailable: the event cannot be read.
    """
    try:
        return kind.from_json(event)
    except ValueError as error:
        raise SequentumUnavailable(f"The trigger's event cannot be read: {error}") from error


def objects_in(values: Iterable[object]) -> Iterator[Mapping[str, Any]]:
    """Yield the JSON objects in records or events of another version, outer ones first. Any may name the job."""
    for value in values:
        if isinstance(value, Mapping):
            yield value
            yield from objects_in(value.values())
        elif isinstance(value, (list, tuple)):
            yield from objects_in(value)
