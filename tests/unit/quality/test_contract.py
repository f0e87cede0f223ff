from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_sequentum.exceptions import SequentumRequestRefused
from airflow_provider_sequentum.quality.contract import (
    ODCS_VERSION,
    Contract,
    Required,
    parse_contract,
    parse_odcs,
)


def test_short_forms() -> None:
    contract = parse_contract({"columns": {"sku": "string"}, "key": "sku", "schema_contract": "freeze"})
    assert contract.key == ["sku"]
    assert (contract.schema_contract.columns, contract.schema_contract.data_type) == ("freeze", "freeze")
    assert parse_contract(contract) is contract
    assert parse_contract('{"key": "sku"}') == Contract(key=["sku"])


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"rules": [{"rule": "sql", "query": "SELECT 1"}]}, "rules.0"),
        ({"rules": [{"rule": "filled", "column": "a", "mostly": 2}]}, "mostly"),
        ({"rules": [{"rule": "filled", "columns": ["a"]}]}, "column"),
        ({"rules": [{"rule": "records"}]}, "minimum or maximum"),
        ({"rules": [{"rule": "range", "column": "a", "minimum": 2, "maximum": 1}]}, "above"),
        ({"rules": [{"rule": "records", "minimum": 1, "on_breach": "quarantine"}]}, "on_breach"),
        ({"rules": [{"rule": "required", "columns": ["a"], "on_breach": "quarantine"}]}, "on_breach"),
        ({"schema_contract": "freeze"}, "requires columns"),
        ({"columns": {"a": "money"}}, "columns.a"),
        ({"sla": 1}, "sla"),
        ("[1", "JSON"),
        (7, "contract"),
    ],
)
def test_what_cannot_be_judged_is_refused_and_named(given: object, named: str) -> None:
    with pytest.raises(SequentumRequestRefused, match=named):
        parse_contract(given)


def odcs(properties: str, quality: str = "", version: str = ODCS_VERSION) -> str:
    return f"""
apiVersion: {version}
kind: DataContract
id: products
version: 1.0.0
status: active
schema:
  - name: products
    logicalType: object
    quality: {quality or "[]"}
    properties: {properties}
"""


def test_a_file_of_the_standard() -> None:
    contract = parse_odcs(
        odcs(
            "[{name: sku, logicalType: string, primaryKey: true, logicalTypeOptions: {pattern: '^S', maxLength: 9}},"
            " {name: price, logicalType: number, required: true, logicalTypeOptions: {minimum: 0},"
            "  quality: [{metric: nullValues, mustBeLessOrEqualTo: 5, unit: percent, severity: warning}]},"
            " {name: currency, quality: [{type: library, metric: invalidValues, mustBe: 0,"
            "  arguments: {validValues: [EUR]}}]}]",
            "[{metric: rowCount, mustBeBetween: [10, 20]}, {type: text, description: for people}]",
        )
    )
    assert contract.key == ["sku"]
    assert contract.columns == {"sku": "string", "price": "number"}
    found: list[dict[str, Any]] = [
        rule.model_dump(exclude_defaults=True) | {"rule": rule.rule} for rule in contract.rules
    ]
    for expected in (
        {"rule": "pattern", "column": "sku", "pattern": "^S"},
        {"rule": "length", "column": "sku", "maximum": 9},
        {"rule": "filled", "column": "sku"},
        {"rule": "range", "column": "price", "minimum": 0.0},
        {"rule": "filled", "column": "price", "mostly": 0.95, "on_breach": "warn"},
        {"rule": "allowed", "column": "currency", "values": ["EUR"]},
        {"rule": "required", "columns": ["sku", "price", "currency"]},
        {"rule": "unique", "columns": ["sku"]},
        {"rule": "records", "minimum": 10, "maximum": 20},
    ):
        assert expected in found


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (odcs("[]", version="v2.2.2"), "apiVersion"),
        (odcs("[{name: a, logicalType: array}]"), "a: logicalType 'array'"),
        (odcs("[{name: a, logicalType: number, logicalTypeOptions: {multipleOf: 2}}]"), "multipleOf"),
        (odcs("[{name: a, quality: [{type: sql, query: SELECT 1, mustBe: 0}]}]"), "type 'sql'"),
        (odcs("[{name: a, quality: [{metric: missingValues, mustBe: 0}]}]"), "missingValues"),
        (odcs("[{name: a, quality: [{metric: nullValues, mustBeLessThan: 5}]}]"), "mustBeLessThan"),
        (odcs("[]", "[{metric: rowCount, mustNotBe: 5}]"), "mustNotBe"),
        (odcs("[{name: a, unheardOf: 1}]"), "unheardOf"),
        ("kind: [", "YAML"),
        ("a: 1", "kind"),
    ],
)
def test_what_the_standard_knows_and_the_check_does_not_is_refused_and_named(text: str, named: str) -> None:
    with pytest.raises(SequentumRequestRefused, match=named):
        parse_odcs(text)


def test_of_several_schema_objects_one_is_chosen() -> None:
    text = odcs("[{name: a}]") + "  - name: others\n    properties: [{name: b}]\n"
    assert parse_odcs(text, "others").rules == [Required(columns=["b"])]
    with pytest.raises(SequentumRequestRefused, match="'products', 'others'"):
        parse_odcs(text)
