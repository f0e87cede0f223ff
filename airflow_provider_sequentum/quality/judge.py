"""Checking a table of records against a contract: which rules are broken, by which records and by how many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from airflow_provider_sequentum.api.text import one_line
from airflow_provider_sequentum.quality.contract import (
    Allowed,
    Contract,
    Filled,
    HasType,
    Length,
    Pattern,
    Range,
    Records,
    Required,
    Unique,
    refused,
)
from airflow_provider_sequentum.quality.engine import Table
from airflow_provider_sequentum.quality.profile import AMOUNT_OF, DATE_KINDS, KIND_OF, NUMBER_OF, has_value, of
from airflow_provider_sequentum.runs.describe import comma_list

EXAMPLES = 3
"""The number of values that a breach shows."""

MAX_EXAMPLE_LENGTH = 60
"""The maximum number of characters shown of a value."""

_TYPES = {
    "string": "true",
    "integer": r"regexp_full_match(trim({}), '[-+]?\d+')",
    "number": r"regexp_full_match(trim({}), '[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?')",
    "boolean": r"lower(trim({})) IN ('true', 'false')",
    "date": r"regexp_full_match(trim({0}), '\d{{4}}-\d\d-\d\d') AND TRY_CAST(trim({0}) AS DATE) IS NOT NULL",
    "timestamp": r"regexp_full_match(trim({0}), '\d{{4}}-\d\d-\d\d([T ].*)?') AND "
    r"TRY_CAST(trim({0}) AS TIMESTAMPTZ) IS NOT NULL",
}
"""SQL that is true for a text that is a valid value of a type."""

_ON_BREACH_OF_MODE = {"freeze": "fail", "discard_row": "quarantine", "discard_value": "warn"}


@dataclass(frozen=True)
class Breach:
    """A rule that is broken.

    :param rule: the rule's name; ``learnt`` for drift, compared with earlier runs.
    :param column: the column, if the rule is about one.
    :param on_breach: what to do about the breach.
    :param message: what was found and what was expected.
    :param records: the number of records that break the rule, if it is about single records.
    :param examples: some of their values.
    """

    rule: str
    column: str | None
    on_breach: str
    message: str
    records: int | None = None
    examples: tuple[str, ...] = ()

    @property
    def finding(self) -> str:
        """What was found, with examples. Column names in it can be arbitrary text, so it is sanitized and shortened."""
        return one_line(self.message) + (f" (such as {', '.join(map(repr, self.examples))})" if self.examples else "")

    def __str__(self) -> str:
        place = f" {self.column!r:.100}" if self.column is not None else ""
        return f"{self.on_breach}: {self.rule}{place}: {self.finding}"


@dataclass(frozen=True)
class Removal:
    """What is removed from the files that passed.

    :param columns: columns that are dropped.
    :param reasons: the tests whose failing records are quarantined.
    :param blanked: the tests for whose failing records the value of the column is dropped.
    """

    columns: frozenset[str] = frozenset()
    reasons: tuple[_RowTest, ...] = ()
    blanked: tuple[_RowTest, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.columns or self.reasons or self.blanked)


@dataclass(frozen=True)
class _RowTest:
    """A condition for records that break a rule.

    :param sql: true for a record that breaks the rule.
    :param column: the column whose values are shown.
    """

    sql: str
    parameters: tuple[object, ...]
    column: str | None
    reason: str


_Question = tuple[_RowTest, str]
"""A test, and SQL for the records that it applies to."""


@dataclass(frozen=True)
class Judgement:
    """The result of checking records against a contract.

    :param removal: records and values that are removed because of the breaches.
    :param filled: for each column, the number of records that have a value.
    """

    breaches: list[Breach]
    removal: Removal
    filled: list[int]


def judge(table: Table, contract: Contract) -> Judgement:
    """Check a table against a contract.

    :raises SequentumRequestRefused: a pattern is not a regular expression.
    """
    judging = _Judging(table)
    filled = judging.count_all(contract)
    for rule in contract.rules:
        judging.judge(rule)
    judging.judge_schema(contract)
    if table.records and (missing := [name for name in contract.key if name not in table.columns]):
        message = f"missing; there are {_quoted(table.names)}"
        judging.breaches.append(Breach("key", ", ".join(missing), "fail", message))
    minimums = [rule.minimum for rule in contract.rules if isinstance(rule, Records)]
    if table.records == 0 and all(minimum is None for minimum in minimums):
        judging.breaches.append(Breach("records", None, "fail", "the files contain none"))
    return Judgement(
        judging.breaches,
        Removal(frozenset(judging.dropped), tuple(judging.quarantined), tuple(judging.blanked)),
        filled,
    )


class _Judging:
    def __init__(self, table: Table) -> None:
        self._table = table
        self.breaches: list[Breach] = []
        self.dropped: list[str] = []
        self.quarantined: list[_RowTest] = []
        self.blanked: list[_RowTest] = []
        self._counts: dict[_Question, tuple[int, int]] = {}

    def count_all(self, contract: Contract) -> list[int]:
        """Count for all rules in one pass over the table, and return in how many records each column has a value.

        Only rules that compare records with each other need another pass.
        """
        there, modes = self._table.columns, contract.schema_contract
        if not self._table.records:
            return [0] * len(there)
        rules: list[Any] = [rule for rule in contract.rules if not isinstance(rule, (Required, Records, Unique))]
        if modes.data_type != "evolve":
            rules += [HasType(column=name, type=kind) for name, kind in contract.columns.items()]
        questions = [self._question(rule) for rule in rules if rule.column in there]
        if modes.columns != "evolve":
            questions += [self._unknown(name) for name in there if name not in contract.columns]
        return self._count(questions, [has_value(column.sql) for column in there.values()])

    def judge(self, rule: Any) -> None:
        if isinstance(rule, Records):
            self._judge_number(rule)
        elif self._table.records:
            names = [rule.column] if hasattr(rule, "column") else rule.columns
            if missing := [name for name in names if name not in self._table.columns]:
                self._add(rule, ", ".join(missing), f"missing; there are {_quoted(self._table.names)}")
            elif not isinstance(rule, Required):
                self._judge_rows(rule, names)

    def _add(self, rule: Any, column: str | None, message: str, **more: Any) -> None:
        self.breaches.append(Breach(rule.rule, column, rule.on_breach, message, **more))

    def _judge_number(self, rule: Records) -> None:
        count = self._table.records
        if (rule.minimum is not None and count < rule.minimum) or (rule.maximum is not None and count > rule.maximum):
            self._add(rule, None, f"{count:,}, expected {_bounds(rule)}")

    def _judge_rows(self, rule: Any, names: Sequence[str]) -> None:
        test, _ = question = self._question(rule)
        bad, judged = self._counted(question)
        if not bad or bad <= (1 - rule.mostly) * judged + 1e-9:
            return
        message = f"{bad:,} of {judged:,} records break it: {test.reason}"
        self._add(rule, test.column, message, records=bad, examples=self._examples(test, names[0]))
        if rule.on_breach == "quarantine":
            self.quarantined.append(test)

    def _question(self, rule: Any) -> _Question:
        names = rule.columns if isinstance(rule, Unique) else [rule.column]
        columns, name = [self._table.columns[each].sql for each in names], ", ".join(names)
        filled = " AND ".join(map(has_value, columns))
        if isinstance(rule, Filled):
            return _RowTest(f"NOT ({filled})", (), name, "no value"), "true"
        if isinstance(rule, Unique):
            window = f"row_number() OVER (PARTITION BY {', '.join(columns)} ORDER BY r) > 1"
            return _RowTest(f"({filled}) AND {window}", (), name, "a value that another record has"), filled
        sql, parameters, reason = _value_test(rule, columns[0])
        # The value test comes first, because DuckDB evaluates its common subexpressions only once in that position.
        return _RowTest(f"NOT coalesce({sql}, false) AND ({filled})", parameters, name, reason), filled

    def _unknown(self, name: str) -> _Question:
        return _RowTest(
            has_value(self._table.columns[name].sql), (), name, "a value in a column that the contract lacks"
        ), "true"

    def _counted(self, question: _Question) -> tuple[int, int]:
        """Return the number of records that fail a test, and the number that it applies to."""
        if question not in self._counts:
            self._count([question])
        return self._counts[question]

    def _count(self, questions: Sequence[_Question], conditions: Sequence[str] = ()) -> list[int]:
        """Count for several questions, and return how many records satisfy each of the conditions."""
        asked = [*(sql for test, judged in questions for sql in (test.sql, judged)), *conditions]
        if not asked:
            return []
        answers = ", ".join(f"count(*) FILTER (a{place})" for place in range(len(asked)))
        cells = ", ".join(f"{sql} AS a{place}" for place, sql in enumerate(asked))
        parameters = [parameter for test, _ in questions for parameter in test.parameters]
        try:
            [found] = self._table.query(f"SELECT {answers} FROM (SELECT {cells} FROM {{table}})", parameters)
        except Exception as error:
            if type(error).__name__ != "InvalidInputException" or not parameters:
                raise
            if len(questions) == 1:
                raise refused(f"{questions[0][0].column}: {error}") from error
            for question in questions:  # to name the one that is wrong
                self._count([question])
            raise
        for place, question in enumerate(questions):
            self._counts[question] = found[2 * place], found[2 * place + 1]
        return list(found[2 * len(questions) :])

    def _examples(self, test: _RowTest, name: str) -> tuple[str, ...]:
        column = self._table.columns[name].sql
        rows = self._table.query(
            f"SELECT DISTINCT left(v, {MAX_EXAMPLE_LENGTH}) FROM "
            f"(SELECT {column} AS v, {test.sql} AS bad FROM {{table}}) "
            f"WHERE bad AND v IS NOT NULL ORDER BY 1 LIMIT {EXAMPLES}",
            test.parameters,
        )
        return tuple(row[0] for row in rows if row[0].strip())

    def judge_schema(self, contract: Contract) -> None:
        """Check for unknown columns and for values of a wrong type, by dlt's modes."""
        modes = contract.schema_contract
        if modes.columns != "evolve":
            for name in [name for name in self._table.names if name not in contract.columns]:
                self._judge_unknown(name, modes.columns)
        if modes.data_type != "evolve":
            for name, kind in contract.columns.items():
                if name in self._table.columns:
                    self._judge_type(HasType(column=name, type=kind), modes.data_type)

    def _judge_unknown(self, name: str, mode: str) -> None:
        test, _ = question = self._unknown(name)
        bad, _ = self._counted(question)
        self._add_to_schema(test, name, mode, "a column that the contract lacks", bad)
        if mode == "discard_value":
            self.dropped.append(name)

    def _judge_type(self, rule: HasType, mode: str) -> None:
        test, _ = question = self._question(rule)
        bad, cells = self._counted(question)
        if not bad:
            return
        message = f"{bad:,} of {cells:,} records break it: {test.reason}"
        self._add_to_schema(test, rule.column, mode, message, bad)
        if mode == "discard_value":
            self.blanked.append(test)

    def _add_to_schema(self, test: _RowTest, column: str, mode: str, message: str, bad: int) -> None:
        examples = self._examples(test, column)
        self.breaches.append(
            Breach("schema_contract", column, _ON_BREACH_OF_MODE[mode], f"{message}; {mode}", bad, examples)
        )
        if mode == "discard_row" and bad:
            self.quarantined.append(test)


def _value_test(rule: Any, column: str) -> tuple[str, tuple[object, ...], str]:
    """Return SQL that is true for a value that satisfies a rule, its parameters, and the reason if it is false."""
    if isinstance(rule, HasType):
        return _TYPES[rule.type].format(column), (), f"not a valid {rule.type}"
    if isinstance(rule, Pattern):
        return f"regexp_matches({column}, ?)", (rule.pattern,), f"no match of {rule.pattern!r:.200}"
    if isinstance(rule, Allowed):
        marks = ", ".join("?" * len(rule.values))
        return f"{column} IN ({marks})", tuple(rule.values), f"none of {_quoted(rule.values)}"
    outside = f"not within {_bounds(rule)}"
    is_date = isinstance(rule, Range) and any(type(each) is date for each in (rule.minimum, rule.maximum))
    value = f"length({column})" if isinstance(rule, Length) else of(column, NUMBER_OF if is_date else AMOUNT_OF)
    tests = [f"{of(column, KIND_OF)} IN ({', '.join(map(repr, DATE_KINDS))})"] if is_date else []
    parameters = []
    for bound, sign in ((rule.minimum, ">="), (rule.maximum, "<=")):
        if bound is not None:
            tests.append(f"{value} {sign} ?")
            parameters.append((bound - date(1970, 1, 1)).days if isinstance(bound, date) else bound)
    if isinstance(rule, Range) and rule.maximum is not None and isinstance(rule.maximum, date):
        parameters[-1] = parameters[-1] + 1 - 1e-9  # the whole of the last day
    return " AND ".join(tests), tuple(parameters), outside


def _bounds(rule: Any) -> str:
    low, high = rule.minimum, rule.maximum
    if high is None:
        return f"{low} or more"
    return f"{high} or less" if low is None else f"{low} to {high}"


def _quoted(names: Sequence[str]) -> str:
    return comma_list(f"{name!r:.60}" for name in names) or "none"


def removed_rows(table: Table, tests: Sequence[_RowTest]) -> Iterator[tuple[int, list[int]]]:
    """Yield the numbers of the records that fail a test, in order, each with the indexes of such tests.

    There may be as many as there are records, so they are read while the records are written.
    """
    if not tests:
        return
    marks = ", ".join(f"CASE WHEN {test.sql} THEN {place} END" for place, test in enumerate(tests))
    parameters = [parameter for test in tests for parameter in test.parameters]
    yield from table.workspace.stream(
        f"SELECT r, list_filter(broken, lambda x: x IS NOT NULL) AS which FROM "
        f"(SELECT r, [{marks}] AS broken FROM {table.sql}) WHERE len(which) > 0 ORDER BY r",
        parameters,
    )
