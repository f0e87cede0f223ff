"""Data contracts for the records of a run, given as Python or as a file of the Open Data Contract Standard.

A contract is rejected as a whole if any part of it cannot be checked, and the message names each such part: a rule that
is silently ignored would be mistaken for one that the records satisfy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from airflow_provider_sequentum.exceptions import SequentumRequestRefused

OnBreach = Literal["fail", "warn", "skip", "quarantine"]
OnTableBreach = Literal["fail", "warn", "skip"]
SchemaMode = Literal["evolve", "freeze", "discard_row", "discard_value"]
Type = Literal["string", "integer", "number", "boolean", "date", "timestamp"]
Name = Annotated[str, Field(min_length=1)]
Share = Annotated[float, Field(ge=0, le=1)]

ODCS_VERSION = "v3.1.0"
"""The version of the Open Data Contract Standard whose files are understood."""


def refused(reason: str) -> SequentumRequestRefused:
    """Return the exception for a contract that cannot be checked."""
    return SequentumRequestRefused(f"The contract is refused: {reason}. Nothing was published.")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TableRule(_Part):
    """A rule about all records together."""

    on_breach: OnTableBreach = "fail"


class RowRule(_Part):
    """A rule that applies to each record on its own.

    :param mostly: the share of cells that have to satisfy the rule.
    """

    on_breach: OnBreach = "fail"
    mostly: Share = 1.0


class Required(TableRule):
    """The columns exist."""

    rule: Literal["required"] = "required"
    columns: Annotated[list[Name], Field(min_length=1)]


class _Count(_Part):
    """A minimum and a maximum number."""

    minimum: Annotated[int, Field(ge=0)] | None = None
    maximum: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _has_bounds(self) -> Self:
        _check_bounds(self.minimum, self.maximum)
        return self


class Records(_Count, TableRule):
    """The number of records is within bounds."""

    rule: Literal["records"] = "records"


class Filled(RowRule):
    """The column has a value that is not just white space or invisible characters. ``NaN`` is no value."""

    rule: Literal["filled"] = "filled"
    column: Name


class Unique(RowRule):
    """No two records have the same values in these columns. Records where one of them is empty are not compared."""

    rule: Literal["unique"] = "unique"
    columns: Annotated[list[Name], Field(min_length=1)]


class HasType(RowRule):
    """The values, if any, are valid representations of this type."""

    rule: Literal["type"] = "type"
    column: Name
    type: Type


class Range(RowRule):
    """The numbers or dates, if any, are within bounds, which are inclusive.

    In text such as ``19.99 EUR``, the number counts. Text without a number breaks the rule.
    """

    rule: Literal["range"] = "range"
    column: Name
    minimum: float | date | None = None
    maximum: float | date | None = None

    @model_validator(mode="after")
    def _has_bounds(self) -> Self:
        if self.minimum is not None and self.maximum is not None and type(self.minimum) is not type(self.maximum):
            raise ValueError("minimum and maximum must be both numbers or both dates")
        _check_bounds(self.minimum, self.maximum)
        return self


class Length(_Count, RowRule):
    """The number of characters of the values, if any, is within bounds."""

    rule: Literal["length"] = "length"
    column: Name


class Pattern(RowRule):
    """The regular expression (RE2) matches a part of the values, if any."""

    rule: Literal["pattern"] = "pattern"
    column: Name
    pattern: Name


class Allowed(RowRule):
    """The values, if any, are among the given ones."""

    rule: Literal["allowed"] = "allowed"
    column: Name
    values: Annotated[list[str], Field(min_length=1)]


Rule = Annotated[
    Required | Records | Filled | Unique | HasType | Range | Length | Pattern | Allowed, Field(discriminator="rule")
]


class SchemaContract(_Part):
    """What to do with records that do not match the contract's columns, in dlt's terms.

    :param columns: for columns that the contract does not name.
    :param data_type: for values that are not valid for the type of their column.
    """

    columns: SchemaMode = "evolve"
    data_type: SchemaMode = "evolve"


class Contract(_Part):
    """What the records have to look like.

    :param columns: the types of the known columns.
    :param key: the columns that identify a record.
    :param schema_contract: one mode for both, or a mapping with ``columns`` and ``data_type``.
    """

    columns: dict[Name, Type] = {}
    key: list[Name] = []
    rules: list[Rule] = []
    schema_contract: SchemaContract = SchemaContract()

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            value = dict(value)
            if isinstance(value.get("key"), str):
                value["key"] = [value["key"]]
            if isinstance(mode := value.get("schema_contract"), str):
                value["schema_contract"] = {"columns": mode, "data_type": mode}
        return value

    @model_validator(mode="after")
    def _schema_has_columns(self) -> Self:
        if self.schema_contract != SchemaContract() and not self.columns:
            raise ValueError("schema_contract requires columns, which define the known columns")
        return self


def parse_contract(value: object) -> Contract:
    """Return a contract given as an object, as a mapping or as JSON text.

    :raises SequentumRequestRefused: it is not a contract. The message names each part that is wrong.
    """
    if isinstance(value, Contract):
        return value
    try:
        if isinstance(value, str):
            value = json.loads(value)
        return Contract.model_validate(value)
    except ValidationError as error:
        raise refused("; ".join(_shown_errors(error))) from None
    except ValueError as error:
        raise refused(f"it is not valid JSON: {error}") from None


def _shown_errors(error: ValidationError) -> Iterator[str]:
    for each in error.errors(include_url=False, include_context=False)[:10]:
        place = ".".join(str(part) for part in each["loc"]) or "contract"
        yield f"{place}: {each['msg']}"


def _check_bounds(minimum: Any, maximum: Any) -> None:
    if minimum is None and maximum is None:
        raise ValueError("minimum or maximum is required")
    if minimum is not None and maximum is not None and minimum > maximum:
        raise ValueError("minimum is above maximum")


# The Open Data Contract Standard


def parse_odcs(text: str, schema_name: str | None = None) -> Contract:
    """Return the contract in a file of the Open Data Contract Standard, version :data:`ODCS_VERSION`.

    It reads the columns of one schema object with their types, options and quality rules of the type ``library``.
    Descriptions, owners, servers and prices do not concern the records and are ignored.

    :param schema_name: the name of the schema object, if the file has several.
    :raises SequentumRequestRefused: it is not such a file, or it has rules that cannot be checked. The message names
        each of them.
    """
    import yaml

    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise refused(f"it is not valid YAML: {error}") from None
    if not isinstance(document, dict) or document.get("kind") != "DataContract":
        raise refused("it is not a data contract: kind must be DataContract")
    if document.get("apiVersion") != ODCS_VERSION:
        raise refused(f"apiVersion must be {ODCS_VERSION}, not {document.get('apiVersion')!r:.40}")
    reading = _Odcs(_schema_object(document.get("schema"), schema_name))
    contract = reading.contract()
    if reading.refused:
        raise refused(f"these parts cannot be checked: {'; '.join(reading.refused)}")
    return parse_contract(contract)


def _schema_object(schema: object, name: str | None) -> dict[str, Any]:
    objects = [each for each in schema if isinstance(each, dict)] if isinstance(schema, list) else []
    found = [each for each in objects if name is None or each.get("name") == name]
    if len(found) != 1:
        names = ", ".join(repr(each.get("name")) for each in objects)
        raise refused(f"schema must have one object{f' named {name!r}' if name else ''}, but has {names or 'none'}")
    return found[0]


_SILENT = frozenset({
    "name", "id", "physicalName", "physicalType", "description", "businessName", "authoritativeDefinitions", "tags",
    "customProperties", "classification", "encryptedName", "transformSourceObjects", "transformLogic",
    "transformDescription", "examples", "criticalDataElement", "primaryKeyPosition", "partitioned",
    "partitionKeyPosition", "dataGranularityDescription",
})  # fmt: skip
"""Fields that do not concern the records."""
_SILENT_IN_QUALITY = frozenset({
    "id", "name", "description", "dimension", "businessImpact", "method", "tags", "authoritativeDefinitions",
    "customProperties",
})  # fmt: skip
_OBJECT = frozenset({"logicalType", "properties", "quality"})
_PROPERTY = frozenset({"logicalType", "logicalTypeOptions", "required", "unique", "primaryKey", "quality"})
_BOUNDS = {"mustBeGreaterOrEqualTo": "minimum", "mustBeLessOrEqualTo": "maximum"}
_OPERATORS = re.compile(r"must[A-Z]\w*")


class _Odcs:
    """Reads one schema object and collects what cannot be checked."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._schema = schema
        self._rules: list[dict[str, Any]] = []
        self.refused: list[str] = []

    def contract(self) -> dict[str, Any]:
        """Return the contract in the form that :class:`Contract` takes."""
        self._refuse_unknown("schema", self._schema, _OBJECT | _SILENT)
        columns: dict[str, str] = {}
        key: list[tuple[int, str]] = []
        names: list[str] = []
        for place, each in enumerate(self._schema.get("properties") or []):
            name = each.get("name") if isinstance(each, dict) else None
            if not isinstance(name, str):
                self.refused.append(f"property {place + 1} has no name")
                continue
            names.append(name)
            if each.get("logicalType") in get_args(Type):
                columns[name] = each["logicalType"]
                self._add("type", name, type=each["logicalType"])
            elif each.get("logicalType") is not None:
                self.refused.append(f"{name}: logicalType {each['logicalType']!r:.40}")
            if each.get("primaryKey"):
                key.append((int(each.get("primaryKeyPosition") or place), name))
            self._property(name, each)
        if names:
            self._rules.append({"rule": "required", "columns": names})
        if key:
            self._rules.append({"rule": "unique", "columns": [name for _, name in sorted(key)]})
        for quality in self._schema.get("quality") or []:
            self._quality(None, quality)
        return {"columns": columns, "key": [name for _, name in sorted(key)], "rules": self._rules}

    def _add(self, rule: str, column: str, **more: Any) -> None:
        self._rules.append({"rule": rule, "column": column, **more})

    def _refuse_unknown(self, where: str, given: Mapping[str, Any], known: Collection[str]) -> None:
        self.refused += [f"{where}: {field}" for field in given if field not in known]

    def _property(self, name: str, given: dict[str, Any]) -> None:
        self._refuse_unknown(name, given, _PROPERTY | _SILENT)
        if given.get("required") or given.get("primaryKey"):
            self._add("filled", name)
        if given.get("unique"):
            self._rules.append({"rule": "unique", "columns": [name]})
        options = given.get("logicalTypeOptions") or {}
        if given.get("logicalType") == "string":
            rule, bounds, others = "length", {"minLength": "minimum", "maxLength": "maximum"}, {"pattern"}
        else:
            rule, bounds, others = "range", {"minimum": "minimum", "maximum": "maximum"}, set()
        self._refuse_unknown(f"{name}: logicalTypeOptions", options, bounds.keys() | others)
        if given_bounds := {bound: options[field] for field, bound in bounds.items() if field in options}:
            self._add(rule, name, **given_bounds)
        if "pattern" in options:
            self._add("pattern", name, pattern=options["pattern"])
        for quality in given.get("quality") or []:
            self._quality(name, quality)

    def _quality(self, column: str | None, given: Any) -> None:
        where = f"{column or 'schema'}: quality"
        if not isinstance(given, dict) or given.get("type", "library") not in ("library", "text"):
            self.refused.append(f"{where} of type {given.get('type') if isinstance(given, dict) else given!r:.40}")
            return
        if given.get("type") == "text":  # according to the standard, for human readers
            return
        metric = given.get("metric")
        operators = {field: value for field, value in given.items() if _OPERATORS.fullmatch(field)}
        known = {"type", "metric", "unit", "arguments", "severity", *operators}
        self._refuse_unknown(where, given, _SILENT_IN_QUALITY | known)
        on_breach = "warn" if given.get("severity") in ("warning", "info") else "fail"
        rules = self._library_rules(column, metric, given.get("arguments") or {}, given.get("unit", "rows"), operators)
        if rules is None:
            self.refused.append(f"{where}: {metric} {json.dumps(operators, default=str)}")
        else:
            self._rules += [{**rule, "on_breach": on_breach} for rule in rules]

    def _library_rules(
        self, column: str | None, metric: object, arguments: dict[str, Any], unit: str, operators: dict[str, Any]
    ) -> list[dict[str, Any]] | None:
        """Return the rules that a metric stands for; ``None`` if it cannot be checked."""
        if metric == "rowCount" and column is None and not arguments and unit == "rows":
            return _row_count(operators)
        share = _tolerated(unit, operators)
        if metric == "duplicateValues":
            columns = arguments.get("properties") if column is None else [column]
            rules = [{"rule": "unique", "columns": columns}] if columns else None
        elif metric == "nullValues" and column and not arguments:
            rules = [{"rule": "filled", "column": column}]
        elif metric == "invalidValues" and column and arguments and arguments.keys() <= {"validValues", "pattern"}:
            rules = _invalid_values(column, arguments)
        else:
            rules = None
        return None if rules is None or share is None else [{**rule, "mostly": 1 - share} for rule in rules]


def _invalid_values(column: str, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = []
    if "validValues" in arguments:
        rules.append({"rule": "allowed", "column": column, "values": [str(each) for each in arguments["validValues"]]})
    if "pattern" in arguments:
        rules.append({"rule": "pattern", "column": column, "pattern": arguments["pattern"]})
    return rules


def _row_count(operators: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    bounds: dict[str, Any] = {}
    for name, value in operators.items():
        if name in _BOUNDS:
            bounds[_BOUNDS[name]] = value
        elif name == "mustBe":
            bounds |= {"minimum": value, "maximum": value}
        elif name == "mustBeGreaterThan" and isinstance(value, int):
            bounds["minimum"] = value + 1
        elif name == "mustBeLessThan" and isinstance(value, int):
            bounds["maximum"] = value - 1
        elif name == "mustBeBetween" and isinstance(value, Sequence) and len(value) == 2:
            bounds |= {"minimum": value[0], "maximum": value[1]}
        else:
            return None
    return [{"rule": "records", **bounds}] if bounds else None


def _tolerated(unit: str, operators: Mapping[str, Any]) -> float | None:
    """Return the share of cells that may break a rule; ``None`` if the operators do not express one."""
    if dict(operators) == {"mustBe": 0}:
        return 0.0
    limit = operators.get("mustBeLessOrEqualTo")
    if unit == "percent" and len(operators) == 1 and isinstance(limit, int | float) and 0 <= limit <= 100:
        return float(limit) / 100
    return 0.0 if dict(operators) == {"mustBeLessOrEqualTo": 0} else None
