"""What changes when a website does and its agent does not notice: records that are wrong in a run that succeeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from airflow_provider_sequentum.sandbox.data_sets import Record

BreakageKind = Literal[
    "column_empty",
    "price_as_text",
    "decimal_comma",
    "shifted_columns",
    "page_missing",
    "page_twice",
    "half_missing",
    "bot_wall",
    "mojibake",
    "truncated_text",
]

_BOT_WALL = "Please verify that you are a human. Access to this page has been denied."
_PAGES = 5
_CUT = 5


class Breakage(BaseModel):
    """A breakage of an agent's data, from a given run on.

    =================== ==================================================================
    kind                what becomes of the records
    =================== ==================================================================
    ``column_empty``    a column has no value (default: the last column)
    ``price_as_text``   numbers become texts such as ``9.5 EUR`` (default: the first column of numbers)
    ``decimal_comma``   the same with ``9,5``
    ``shifted_columns`` each value stands in the column to the right of its own
    ``page_missing``    the second of five pages is missing
    ``page_twice``      the second of five pages comes twice, in place of the third
    ``half_missing``    the second half is missing
    ``bot_wall``        every value is the text of a page that asks for a human
    ``mojibake``        texts in UTF-8 are read as Windows-1252
    ``truncated_text``  texts are cut off after five characters
    =================== ==================================================================
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: BreakageKind
    column: str | None = Field(None, description="For the kinds that break one column.")
    from_run: int | None = Field(None, ge=1, description="The agent's first broken run, from 1; default its next one.")

    def apply(self, records: list[Record]) -> list[Record]:
        """Return the records as a run delivers them that is broken.

        :raises ValueError: there is nothing in them that it could break, so that it would show nothing.
        """
        broken = _KINDS[self.kind](records, self.column)
        if broken == records:
            where = "the records" if self.column is None else f"column {self.column!r}"
            raise ValueError(f"breakage {self.kind!r} changes nothing in {where}")
        return broken


def _in_column(records: list[Record], column: str | None, change: Callable[[Any], Any]) -> list[Record]:
    return [{name: change(value) if name == column else value for name, value in each.items()} for each in records]


def _column_empty(records: list[Record], column: str | None) -> list[Record]:
    last = list(records[0])[-1] if records else None
    return _in_column(records, column or last, lambda value: "" if isinstance(value, str) else None)


def _numbers_as(write: Callable[[str], str]) -> Callable[[list[Record], str | None], list[Record]]:
    def change(records: list[Record], column: str | None) -> list[Record]:
        names = records[0] if records else {}
        numeric = (name for name in names if all(_is_number(each.get(name)) for each in records))
        chosen = column or next(numeric, None)
        return _in_column(records, chosen, lambda value: write(str(value)) if _is_number(value) else value)

    return change


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return not isinstance(value, bool)


def _shifted(records: list[Record], _: str | None) -> list[Record]:
    return [dict(zip(each, [None, *each.values()], strict=False)) for each in records]


def _page(records: list[Record], number: int) -> slice:
    return slice(len(records) * (number - 1) // _PAGES, len(records) * number // _PAGES)


def _page_missing(records: list[Record], _: str | None) -> list[Record]:
    return records[_page(records, 1)] + records[_page(records, 3).start :]


def _page_twice(records: list[Record], _: str | None) -> list[Record]:
    second = _page(records, 2)
    return records[: second.stop] + records[second] + records[_page(records, 4).start :]


def _in_texts(change: Callable[[str], str]) -> Callable[[list[Record], str | None], list[Record]]:
    def apply(records: list[Record], column: str | None) -> list[Record]:
        return [
            {
                name: change(value) if isinstance(value, str) and column in (None, name) else value
                for name, value in each.items()
            }
            for each in records
        ]

    return apply


_KINDS: Mapping[str, Callable[[list[Record], str | None], list[Record]]] = {
    "column_empty": _column_empty,
    "price_as_text": _numbers_as(lambda number: f"{number} EUR"),
    "decimal_comma": _numbers_as(lambda number: number.replace(".", ",")),
    "shifted_columns": _shifted,
    "page_missing": _page_missing,
    "page_twice": _page_twice,
    "half_missing": lambda records, _: records[: len(records) // 2],
    "bot_wall": lambda records, _: [dict.fromkeys(each, _BOT_WALL) for each in records],
    "mojibake": _in_texts(lambda text: text.encode().decode("cp1252", errors="replace")),
    "truncated_text": _in_texts(lambda text: text[:_CUT]),
}


def parse_breakage(text: str) -> tuple[str, Breakage]:
    """Return the agent's name and the breakage that ``NAME:KIND``, ``NAME:KIND:RUN`` says.

    :raises ValueError: it says none.
    """
    name, _, rest = text.partition(":")
    kind, _, run = rest.partition(":")
    if not name or kind not in get_args(BreakageKind) or (run and not (run.isdecimal() and int(run))):
        raise ValueError(f"{text!r} is no NAME:KIND or NAME:KIND:RUN with one of {', '.join(get_args(BreakageKind))}")
    return name, Breakage.model_validate({"kind": kind, "from_run": int(run) if run else None})
