from __future__ import annotations

import pytest

from airflow_provider_sequentum.transfers.destination import check_destination, common_folder


@pytest.mark.parametrize(
    ("destination", "reason"),
    [
        (None, "not a string"),
        (5, "not a string"),
        ("", "empty"),
        (" \t", "empty"),
        ("s3://conn@lake//run-1", "two slashes"),
        ("s3://lake/a//b", "two slashes"),
        ("s3://lake/a//", "two slashes"),
        ("/data//run-1", "two slashes"),
        ("//data", "two slashes"),
        ("file:////data", "two slashes"),
        ("s3://lake/../other", "segment"),
        ("s3://lake/a/..", "segment"),
        ("/data/./x", "segment"),
        ("s3://", "name of a bucket"),
        ("s3:///x", "name of a bucket"),
        ("gs://conn@/x", "name of a bucket"),
        ("s3:// lake/x", "name of a bucket"),
        ("s3://lake/x ", "white space"),
        ("\ns3://lake/x", "white space"),
        ("s3://lake/x?versionId=1", r"contains '\?'"),
        ("s3://lake/x#y", "contains '#'"),
        ("s3://lake\\x", "contains"),
        ("C:\\data", "contains"),
        ("s3://lake/a\x00b", "contains"),
        ("lake/run-1", "neither an address"),
        ("file://data/run-1", "three slashes"),
        ("file:///a%20b", "percent escape"),
        ("local:///a/%2e%2e/b", "percent escape"),
        ("s3://AKIA:secret@lake/x", "password"),
    ],
)
def test_a_destination_that_is_read_differently_by_different_libraries_is_refused(
    destination: object, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason) as raised:
        check_destination(destination)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("destination", "address"),
    [
        ("s3://lake", "s3://lake"),
        ("s3://conn@lake/", "s3://conn@lake/"),
        ("s3://conn@lake/run-1/", "s3://conn@lake/run-1"),
        ("s3://lake/a%20b/c d", "s3://lake/a%20b/c d"),
        ("abfs://container@account.dfs.core.windows.net/x", "abfs://container@account.dfs.core.windows.net/x"),
        ("sftp://conn@/data/x", "sftp://conn@/data/x"),
        ("/data/x/", "/data/x"),
        ("/data/100%25", "/data/100%25"),
        ("file:///data/x", "file:///data/x"),
        ("file://conn@/data/x", "file://conn@/data/x"),
        ("/", "/"),
    ],
)
def test_an_ordinary_destination_stays_as_it_is(destination: str, address: str) -> None:
    assert check_destination(destination) == address


@pytest.mark.parametrize(
    ("paths", "folder"),
    [
        (["s3://a@b/run/x.csv"], "s3://a@b/run"),
        (["s3://b/run/r=1/x.parquet", "s3://b/run/r=2/x.parquet"], "s3://b/run"),
        (["s3://b/x.csv", "s3://b/y.csv"], "s3://b"),
        (["s3://b/run/x.csv", "s3://c/run/x.csv"], "s3://b/run"),
        (["/lake/r=1/x.parquet", "file:///lake/r=2/x.parquet"], "/lake/r=1"),
        (["/lake/x.csv", "/other/x.csv"], "/lake"),
    ],
)
def test_the_folder_of_several_files_is_never_above_their_bucket_or_disk(paths: list[str], folder: str) -> None:
    assert common_folder(paths) == folder
