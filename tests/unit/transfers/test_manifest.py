from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from airflow_provider_sequentum.api.files import RunFile
from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.transfers.manifest import (
    LandedFile,
    Manifest,
    landed_before,
    left_over,
    outdated,
    plan,
    planned_file,
)

MADE = datetime(2026, 11, 22, 9, 0, 0, 123456, tzinfo=UTC)
RUN = Run(id=42, config_id=7, status=10, data_count=3, config_name="Prices")
OTHER_RUN = Run(id=43, config_id=7, status=10)


def entry(name: str, number: int = 1, created: datetime = MADE, size: int = 10) -> LandedFile:
    file = RunFile.model_validate(
        {"id": number, "name": name, "fileType": 1, "fileSize": size, "created": created.isoformat()}
    )
    return planned_file(file, name)


def names(files: list[LandedFile]) -> list[str]:
    return [file.name for file in files]


def test_a_first_attempt_trusts_nothing_that_is_there() -> None:
    planned = plan(RUN, [entry("a.csv"), entry("b.csv", 2)], None, {"a.csv", "else.txt"})
    assert planned.replaced == ["a.csv"]
    assert landed_before(planned, {"a.csv"}) == []
    assert (planned.agent_id, planned.run_id, planned.run_status, planned.run_records) == (7, 42, "Success", 3)


def test_a_retry_keeps_what_appeared_since_the_plan() -> None:
    files = [entry("a.csv"), entry("b.csv", 2), entry("c.csv", 3)]
    first = plan(RUN, files, None, {"b.csv"})
    second = plan(RUN, files, first, {"a.csv", "b.csv"})
    assert names(landed_before(second, {"a.csv", "b.csv"})) == ["a.csv"]
    assert second.replaced == ["b.csv"], "b.csv was there before the first attempt: it cannot be told whose it is"


def test_a_plan_survives_its_file() -> None:
    first = plan(RUN, [entry("a.csv")], None, set())
    read = Manifest.parse(first.to_json())
    assert read == first
    assert names(landed_before(plan(RUN, [entry("a.csv")], read, {"a.csv"}), {"a.csv"})) == ["a.csv"]


def test_after_success_what_was_measured_is_carried_on() -> None:
    measured = entry("a.csv").model_copy(update={"size": 10, "sha256": "00", "records": 3})
    complete = plan(RUN, [entry("a.csv")], None, {"a.csv"}).model_copy(
        update={"files": [measured], "is_complete": True}
    )
    assert plan(RUN, [entry("a.csv")], complete, {"a.csv"}).files == [measured]
    assert landed_before(plan(RUN, [entry("a.csv")], complete, set()), set()) == [], "the file was removed"


@pytest.mark.parametrize(
    "changed", [entry("a.csv", 9), entry("a.csv", size=11), entry("a.csv", created=MADE + timedelta(seconds=1))]
)
def test_a_restarted_run_delivers_new_files_under_the_same_id(changed: LandedFile) -> None:
    first = plan(RUN, [entry("a.csv")], None, set()).model_copy(update={"is_complete": True})
    assert plan(RUN, [changed], first, {"a.csv"}).replaced == ["a.csv"]


def test_another_runs_files_are_replaced_and_its_others_named() -> None:
    first = plan(OTHER_RUN, [entry("a.csv"), entry("b.csv", 2)], None, set())
    second = plan(RUN, [entry("a.csv")], first, {"a.csv", "b.csv"})
    assert second.replaced == ["a.csv"]
    assert left_over(first, second, {1}, {"a.csv", "b.csv"}) == ["b.csv"]
    assert left_over(first, second, {1, 2}, {"a.csv", "b.csv"}) == ["b.csv"]
    assert left_over(first, second, {1}, {"a.csv"}) == [], "it was planned, and never landed"
    assert left_over(second, second, {1}, {"a.csv"}) == []


@pytest.mark.parametrize(("listed", "left"), [({2}, ["at-9.csv"]), ({1, 2}, [])], ids=["restarted", "of another task"])
def test_what_a_run_delivered_before_it_was_restarted_is_named(listed: set[int], left: list[str]) -> None:
    before = plan(RUN, [entry("at-9.csv")], None, set()).model_copy(update={"is_complete": True})
    after = plan(RUN, [entry("at-10.csv", 2)], before, {"at-9.csv"})
    assert left_over(before, after, listed, {"at-9.csv"}) == left


def converted(name: str, number: int = 1) -> LandedFile:
    return entry(name, number).model_copy(update={"source_sha256": "00", "size": 5, "sha256": "11"})


@pytest.mark.parametrize(
    ("files", "listed", "old"),
    [
        pytest.param([converted("x=1/a.parquet")], {1}, ["a.parquet"], id="another form of the same file"),
        pytest.param([entry("a.csv")], {1}, ["a.parquet"], id="as it is, of the same file"),
        pytest.param([converted("b.parquet", 2)], {1, 2}, [], id="another file, by another task"),
        pytest.param([converted("b.parquet", 2)], {2}, ["a.parquet"], id="restarted"),
        pytest.param([converted("a.parquet", 2)], {2}, [], id="restarted, and replaced"),
        pytest.param([], set(), ["a.parquet"], id="restarted, without files"),
    ],
)
def test_what_is_removed_is_what_new_files_stand_for(files: list[LandedFile], listed: set[int], old: list[str]) -> None:
    before = plan(RUN, [converted("a.parquet")], None, set()).model_copy(update={"is_complete": True})
    after = plan(RUN, files, before, {"a.parquet"})
    assert names(outdated(before, after, listed)) == old
    assert outdated(before, after.model_copy(update={"run_id": 43}), listed) == []
    assert left_over(before, after, listed, {"a.parquet"}) == []


A, B, OWN = [
    RunFile.model_validate({"id": number, "name": name, "fileType": kind, "created": MADE.isoformat()})
    for number, name, kind in ((1, "a.csv", 1), (2, "b.csv", 1), (3, "tracking.db", 5))
]
NEW_A = A.model_copy(update={"created": MADE + timedelta(hours=1)})
NEW_C = NEW_A.model_copy(update={"id": 4})


@pytest.mark.parametrize(
    ("listed", "wanted", "is_removed"),
    [
        pytest.param([A, B], [A, B], False, id="nothing is gone"),
        pytest.param([], [], True, id="all is gone"),
        pytest.param([OWN], [], True, id="the service's own file is left"),
        pytest.param([B], [B], True, id="half of it is left"),
        pytest.param([B, OWN], [B], True, id="half of it and the service's own file"),
        pytest.param([NEW_A], [NEW_A], False, id="restarted in place, with the same id"),
        pytest.param([NEW_C], [NEW_C], False, id="restarted in place"),
        pytest.param([B, NEW_C], [B, NEW_C], False, id="restarted in place, with an older file"),
    ],
)
def test_whether_the_removal_of_landed_files_has_begun(
    listed: list[RunFile], wanted: list[RunFile], is_removed: bool
) -> None:
    files = [planned_file(file, file.name or "") for file in (A, B)]
    removing = Manifest(agent_id=7, run_id=42, files=files, is_complete=True, remove_method="RemoveAllFiles")
    assert removing.is_removed(listed, wanted) is is_removed
    assert not removing.model_copy(update={"is_complete": False}).is_removed(listed, wanted)
    assert not removing.model_copy(update={"remove_method": None}).is_removed(listed, wanted)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"format": 2, "agent_id": 7, "run_id": 42}'])
def test_what_is_no_manifest_is_not_trusted(content: bytes) -> None:
    assert Manifest.parse(content) is None


def test_totals() -> None:
    a = entry("a.csv").model_copy(update={"size": 10, "sha256": "00", "records": 3})
    b = entry("b.json", 2).model_copy(update={"size": 5, "sha256": "00"})
    manifest = Manifest(agent_id=7, run_id=42, files=[a])
    assert (manifest.size, manifest.records) == (10, 3)
    assert manifest.model_copy(update={"files": [a, b]}).records is None
    assert manifest.model_copy(update={"files": [a, b]}).size == 15
