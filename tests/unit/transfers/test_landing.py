from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import ObjectStoragePath

from airflow_provider_sequentum.transfers import landing as landing_module
from airflow_provider_sequentum.transfers.landing import landing, part_size


def test_a_local_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = ObjectStoragePath((tmp_path / "a.csv").as_uri())
    with landing(target) as stream:
        stream.write(b"one")
        assert not (tmp_path / "a.csv").exists()
    assert (tmp_path / "a.csv").read_bytes() == b"one"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_failure_leaves_nothing_and_keeps_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"old")

    def copy() -> None:
        with landing(ObjectStoragePath((tmp_path / "a.csv").as_uri())) as stream:
            stream.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy()
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.csv", b"old")]


def test_a_file_is_whole_although_the_next_try_has_begun_it_anew(tmp_path: Path) -> None:
    target, half = ObjectStoragePath((tmp_path / "a.csv").as_uri()), b"x" * 1_000_000
    with ExitStack() as next_try:
        with landing(target) as first:
            first.write(half)
            next_try.enter_context(landing(target)).write(b"x")
            first.write(half)
        assert (tmp_path / "a.csv").read_bytes() == half + half


def test_the_longest_names_can_be_landed(tmp_path: Path) -> None:
    name = "é" * 125 + ".csv"
    with landing(ObjectStoragePath(tmp_path.as_uri()) / name) as stream:
        stream.write(b"one")
    assert [path.name for path in tmp_path.iterdir()] == [name]


class FakeStream:
    """As fsspec's streams behave: an upload that is closed but not committed or discarded may complete."""

    def __init__(self) -> None:
        self.content = b""
        self.calls: list[str] = []
        self.closed = False

    def write(self, data: bytes) -> int:
        self.content += data
        return len(data)

    def close(self) -> None:
        self.calls.append("close")
        self.closed = True

    def commit(self) -> None:
        self.calls.append("commit")

    def discard(self) -> None:
        self.calls.append("discard")


class FakeStore:
    def __init__(self) -> None:
        self.piped: dict[str, bytes] = {}
        self.stream = FakeStream()

    def open(self, path: str, mode: str, *, block_size: int, autocommit: bool) -> FakeStream:
        assert not autocommit
        return self.stream

    def pipe_file(self, path: str, content: bytes) -> None:
        self.piped[path] = content


class FakeTarget:
    protocol = "s3"
    path = "bucket/a.csv"

    def __init__(self) -> None:
        self.fs = FakeStore()


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(landing_module, "SMALL", 8)
    return FakeTarget()


def test_a_small_upload_is_one_request(target: Any) -> None:
    with landing(target) as stream:
        stream.write(b"1234")
        stream.write(b"5678")
    assert target.fs.piped == {"bucket/a.csv": b"12345678"}
    assert target.fs.stream.calls == []


def test_a_larger_upload_shows_when_it_is_committed(target: Any) -> None:
    with landing(target) as stream:
        for piece in (b"1234", b"5678", b"9", b"0"):
            stream.write(piece)
    assert target.fs.stream.content == b"1234567890"
    assert target.fs.stream.calls == ["close", "commit"]
    assert not target.fs.piped


@pytest.mark.parametrize("pieces", [1, 3])
def test_a_broken_upload_is_discarded_and_never_closed_later(target: Any, pieces: int) -> None:
    def copy() -> None:
        with landing(target) as stream:
            for _ in range(pieces):
                stream.write(b"1234")
            raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        copy()
    assert not target.fs.piped
    assert target.fs.stream.calls == (["discard"] if pieces == 3 else [])
    assert target.fs.stream.closed == (pieces == 3), "garbage collection would complete an open one"


@pytest.mark.parametrize("size", [None, 0, 2**20, 2**36, 5 * 2**40])
def test_parts_are_small_and_not_too_many(size: int | None) -> None:
    assert part_size(size) >= 5 * 2**20, "S3 takes no smaller ones"
    assert (size or 0) / part_size(size) <= 10_000
    assert part_size(2**30) == 8 * 2**20
