from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_sequentum.exceptions import SequentumRequestRefused
from airflow_provider_sequentum.operators.run_changes import RunChangesOperator
from airflow_provider_sequentum.transfers.configurations import ChangesConfig, InputFileConfig, TransferConfig
from airflow_provider_sequentum.transfers.input_files import ObjectStorageToInputFilesOperator
from airflow_provider_sequentum.transfers.run_files import RunFilesToObjectStorageOperator


def transfer(**options: Any) -> TransferConfig:
    given = {"agent_id": 7, "run_id": 42, "destination": "/lake/run-42/", **options}
    return TransferConfig.of(RunFilesToObjectStorageOperator(task_id="land", **given))


@pytest.mark.parametrize("delimiter", ["\t", " "])
def test_white_space_can_be_a_delimiter(delimiter: str) -> None:
    config = transfer(file_format="parquet", delimiter=delimiter, encoding=" ")
    assert config.text_options == {"encoding": None, "delimiter": delimiter}


def test_what_is_unset_has_its_default() -> None:
    unset = ("file_kinds", "file_patterns", "max_parallel_files", "record_schema", "remove_method", "sequentum_conn_id")
    assert transfer(**dict.fromkeys(unset)) == transfer(**dict.fromkeys(unset, " ")) == transfer()
    assert (transfer().file_patterns, transfer().max_parallel_files) == (("*",), 8)
    assert transfer().destination == "/lake/run-42"


@pytest.mark.parametrize("name", ["partition_by", "record_schema", "schema_file", "encoding", "delimiter"])
def test_what_concerns_the_format_requires_one(name: str) -> None:
    value = {"record_schema": {"a": "string"}, "schema_file": "/lake/types.json", "encoding": "utf-8"}.get(name, ";")
    with pytest.raises(SequentumRequestRefused, match=rf"^{name} requires file_format: .*Nothing was copied"):
        transfer(**{name: value})
    assert getattr(transfer(file_format="parquet", **{name: value}), name)


@pytest.mark.parametrize(
    ("parameter", "files"),
    [
        ("file_patterns", {"file_patterns": "stock*"}),
        ("file_patterns", {"file_patterns": ["*", "stock*"]}),
        ("file_kinds", {"file_kinds": "extracted"}),
        ("file_kinds", {"file_kinds": ["delivered", "extracted"]}),
    ],
)
def test_a_task_for_some_of_the_files_says_where_it_keeps_their_types(parameter: str, files: dict[str, Any]) -> None:
    """Two tables of one agent that share the default file would overwrite each other's types."""
    with pytest.raises(SequentumRequestRefused, match=rf"^{parameter}.* requires schema_file.*Nothing was copied"):
        transfer(file_format="parquet", **files)
    assert transfer(file_format="parquet", schema_file="/lake/stock.json", **files).schema_file == "/lake/stock.json"
    assert transfer(**files).schema_file is None, "files that land unchanged have no types"


@pytest.mark.parametrize("files", [{}, {"file_patterns": "*"}, {"file_kinds": ["delivered", "logs"]}])
def test_a_task_for_all_delivered_files_has_a_default_for_their_types(files: dict[str, Any]) -> None:
    assert transfer(file_format="parquet", **files).schema_file is None


def test_an_input_file_has_one_content_and_one_owner() -> None:
    operator = ObjectStorageToInputFilesOperator(task_id="give", source="/a.csv", rows=[{"a": 1}])
    with pytest.raises(SequentumRequestRefused, match=r"source or rows\. Give either space_id or agent_id"):
        InputFileConfig.of(operator)


def test_a_task_without_a_connection_names_none() -> None:
    operator = RunChangesOperator(task_id="changes", files=["lake/a.csv"], key="", pointer="/lake/published.json")
    with pytest.raises(SequentumRequestRefused) as refused:
        ChangesConfig.of(operator)
    assert str(refused.value) == (
        "files: 'lake/a.csv' cannot be used: it is neither an address such as s3://conn_id@bucket/folder nor an "
        "absolute path. key must be set. Nothing was compared."
    )
