from __future__ import annotations

from typing import Any, get_args

import pytest

from airflow_provider_sequentum.api.files import RunFile
from airflow_provider_sequentum.api.run_status import RunStatus
from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.parameters import FileKind
from airflow_provider_sequentum.runs.files import (
    listing,
    select,
    why_all_empty,
    why_incomplete,
    why_records_missing,
    why_removed,
)


def run_file(number: int, name: str | None, file_type: int | None = 1) -> RunFile:
    return RunFile(id=number, name=name, file_type=file_type)


def run(status: int = RunStatus.SUCCESS, **fields: Any) -> Run:
    return Run.model_validate({"id": 42, "configId": 7, "status": int(status), **fields})


FILES = [
    run_file(5, "log.txt", 6),
    run_file(1, "b.csv"),
    run_file(2, "a.pdf"),
    run_file(3, "shot.PNG", 2),
    run_file(4, "cache.png", 8),
    run_file(6, "log.html", 7),
    run_file(7, "new.bin", 99),
    run_file(8, "untyped.csv", None),
    RunFile.model_validate({"id": 9, "name": "string.csv", "fileType": "csv"}),
]


def test_a_file_that_is_listed_twice_counts_once() -> None:
    again = [run_file(1, "log.txt", 6), run_file(1, "b.csv"), run_file(5, "log.txt", 6), run_file(1, "other.csv")]
    twice = select([*again, *FILES], None, ["*"])
    once = select(FILES, None, ["*"])
    assert [file.name for file in twice.chosen] == [file.name for file in once.chosen]
    assert len(twice.left_out) == len(once.left_out)


@pytest.mark.parametrize(
    ("kinds", "patterns", "names"),
    [
        (None, ["*"], ["b.csv", "a.pdf", "new.bin", "untyped.csv", "string.csv"]),
        (["delivered"], ["*"], ["b.csv", "a.pdf", "new.bin", "untyped.csv", "string.csv"]),
        (["delivered"], ["*.csv"], ["b.csv", "untyped.csv", "string.csv"]),
        (["delivered"], ["*.CSV"], []),
        (["delivered"], ["*.pdf", "b.*"], ["b.csv", "a.pdf"]),
        (["logs"], ["*"], ["log.txt", "log.html"]),
        (["screenshots"], ["*"], ["shot.PNG"]),
        (["extracted", "screenshots"], ["*"], ["shot.PNG"]),
        (["delivered", "logs"], ["log.*", "*.csv"], ["b.csv", "log.txt", "log.html", "untyped.csv", "string.csv"]),
    ],
)
def test_files_are_chosen_by_kind_and_pattern_in_the_order_of_their_ids(
    kinds: list[str], patterns: list[str], names: list[str]
) -> None:
    assert [file.name for file in select(FILES, kinds, patterns).chosen] == names


@pytest.mark.parametrize(
    ("name", "pattern", "is_chosen"),
    [
        (None, "*", True),
        (None, "?*", False),
        (None, "*.csv", False),
        ("daily/output.csv", "output.csv", True),
        ("daily/output.csv", "daily/*", True),
        ("daily/output.csv", "daily", False),
    ],
)
def test_patterns_are_compared_with_the_whole_name_and_its_last_part(
    name: str | None, pattern: str, is_chosen: bool
) -> None:
    selection = select([run_file(9, name)], None, [pattern])
    assert [file.id for file in selection.chosen] == ([9] if is_chosen else [])
    assert [each.file.id for each in selection.delivered_left_out] == ([] if is_chosen else [9])


def test_every_file_is_chosen_or_left_out_with_the_parameter_that_does_it() -> None:
    selection = select(FILES, None, ["*.csv", "*.bin"])
    assert sorted(file.id for file in [*selection.chosen, *(each.file for each in selection.left_out)]) == sorted(
        file.id for file in FILES
    )
    assert [str(each) for each in selection.left_out] == [
        "'a.pdf' (kind delivered, excluded by file_patterns)",
        "'shot.PNG' (kind extracted, excluded by file_kinds)",
        "'cache.png' (kind internal, excluded by file_kinds)",
        "'log.txt' (kind logs, excluded by file_kinds)",
        "'log.html' (kind logs, excluded by file_kinds)",
    ]
    assert [each.file.name for each in selection.delivered_left_out] == ["a.pdf"]


def test_every_kind_is_known() -> None:
    assert select(FILES, get_args(FileKind), ["*"]).chosen


LOG, DATA, EXTRACTED, INTERNAL = (
    run_file(1, "log.txt", 6),
    run_file(2, "a.csv"),
    run_file(3, "b.csv", 2),
    run_file(4, "c", 3),
)


@pytest.mark.parametrize(
    ("listed", "kinds", "patterns", "is_lost"),
    [
        ([DATA], None, ["*"], False),
        ([LOG, EXTRACTED], None, ["*"], True),
        ([LOG, INTERNAL], None, ["*"], True),
        ([LOG, INTERNAL], ["delivered"], ["*"], True),
        ([LOG, INTERNAL], None, ["*.csv"], True),
        ([LOG, EXTRACTED], ["delivered"], ["*"], True),
        ([LOG, EXTRACTED], ["extracted"], ["*"], False),
        ([LOG, DATA], ["extracted", "logs"], ["*"], True),
        ([DATA], None, ["*.parquet"], True),
        ([LOG, DATA], ["delivered", "logs"], ["log*"], True),
        ([DATA, EXTRACTED], None, ["a*"], False),
        ([LOG, DATA], ["logs"], ["*"], False),
        ([LOG], ["logs"], ["*"], False),
        ([LOG], ["screenshots"], ["*"], False),
    ],
)
def test_records_are_missing_unless_they_are_chosen_or_only_other_kinds_are_asked_for(
    listed: list[RunFile], kinds: list[str] | None, patterns: list[str], is_lost: bool
) -> None:
    selection = select(listed, kinds, patterns)
    reason = why_records_missing(run(dataCount=120), selection)
    assert (reason is not None) == is_lost
    if reason is not None:
        assert "120 records" in reason
        assert all(repr(file.name) in reason for file in listed)
    assert why_records_missing(run(), selection) is None
    assert why_records_missing(run(dataCount=0, exportCount=0), selection) is None
    assert (why_records_missing(run(exportCount=3), selection) is not None) == is_lost


@pytest.mark.parametrize(
    ("sizes", "records", "patterns", "is_suspicious"),
    [
        ([0, 0], 120, ["*"], True),
        ([0, None], 120, ["*"], True),
        ([0, 1], 120, ["*"], False),
        ([0, 0], 0, ["*"], False),
        ([0], 120, ["a.csv"], False),
        ([], 120, ["nothing"], False),
    ],
)
def test_empty_files_are_not_the_records_of_a_run_that_has_some(
    sizes: list[int | None], records: int, patterns: list[str], is_suspicious: bool
) -> None:
    selection = select([DATA, run_file(9, "z.csv")], None, patterns)
    reason = why_all_empty(run(dataCount=records), selection, sizes)
    assert (reason is not None) == is_suspicious


def test_many_files_and_long_names_are_cut_in_a_message() -> None:
    said = listing([run_file(number, "x" * 10_000) for number in range(1, 500)])
    assert said.endswith(" and 489 more")
    assert len(said) < 1_500
    assert "\n" not in listing([run_file(1, "a\nb")])


# Whether they are all there


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (RunStatus.QUEUING, "Queuing"),
        (RunStatus.RUNNING, "Running"),
        (RunStatus.EXPORTING, "Exporting"),
        (RunStatus.STOPPING, "Stopping"),
        (RunStatus.UPDATING_DATA_SET, "UpdatingDataSet"),
        (RunStatus.INVALID, "Invalid"),
        (99, "99"),
    ],
)
def test_the_files_of_a_run_that_is_not_known_to_have_ended_may_be_incomplete(status: int, state: str) -> None:
    reason = why_incomplete(run(status, dataCount=12))
    assert reason is not None
    assert f"{state}, " in reason
    assert "12 records" in reason


@pytest.mark.parametrize(
    "status",
    [RunStatus.SUCCESS, RunStatus.COMPLETED, RunStatus.FAILURE, RunStatus.FAILED, RunStatus.STOPPED, RunStatus.SKIPPED],
)
def test_the_files_of_a_run_that_is_over_are_complete(status: RunStatus) -> None:
    assert why_incomplete(run(status)) is None


@pytest.mark.parametrize(
    "counts",
    [{"dataCount": 12}, {"exportCount": 12}, {"dataCount": 0, "exportCount": 12}, {"dataCount": 12, "exportCount": 3}],
)
def test_a_run_with_records_and_without_files_has_lost_them(counts: dict[str, Any]) -> None:
    reason = why_removed(run(**counts), [])
    assert reason is not None
    assert "12 records" in reason
    assert why_removed(run(**counts), FILES[:1]) is None


@pytest.mark.parametrize("counts", [{}, {"dataCount": 0}, {"dataCount": 0, "exportCount": 0}])
def test_a_run_without_records_never_had_files(counts: dict[str, Any]) -> None:
    assert why_removed(run(**counts), []) is None
    assert why_removed(run(**counts), FILES) is None
