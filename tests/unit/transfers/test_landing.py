from __future__ import annotations

import threading
import unicodedata
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import ObjectStoragePath
from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped]
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_sequentum.api.errors import DownloadError
from airflow_provider_sequentum.exceptions import RunFilesUnavailable, SequentumRequestRefused
from airflow_provider_sequentum.transfers import landing as landing_module
from airflow_provider_sequentum.transfers.destination import check_destination
from airflow_provider_sequentum.transfers.landing import (
    MANIFEST_NAME,
    UNFINISHED_SUFFIX,
    LandingFolder,
    Progress,
    copy_all,
    landing,
    landing_names,
    part_size,
    storage_errors,
    unfinished_name,
    unfinished_of,
)


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


def test_a_file_is_whole_although_the_next_attempt_writes_it_too(tmp_path: Path) -> None:
    target, half = ObjectStoragePath((tmp_path / "a.csv").as_uri()), b"x" * 1_000_000
    with ExitStack() as next_attempt:
        with landing(target) as first:
            first.write(half)
            next_attempt.enter_context(landing(target)).write(b"x")
            first.write(half)
        assert (tmp_path / "a.csv").read_bytes() == half + half


def test_the_longest_names_can_be_landed(tmp_path: Path) -> None:
    name = "é" * 125 + ".csv"
    with landing(ObjectStoragePath(tmp_path.as_uri()) / name) as stream:
        stream.write(b"one")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("leads_to", [None, "folder"])
def test_a_folder_in_the_way_is_an_error_and_a_link_to_one_is_replaced(tmp_path: Path, leads_to: str | None) -> None:
    folder = tmp_path / (leads_to or "a.csv")
    folder.mkdir()
    if leads_to:
        (tmp_path / "a.csv").symlink_to(folder)

    def write() -> None:
        with landing(ObjectStoragePath((tmp_path / "a.csv").as_uri())) as stream:
            stream.write(b"new")

    if leads_to:
        write()
        assert (tmp_path / "a.csv").read_bytes() == b"new"
    else:
        with pytest.raises(IsADirectoryError):
            write()
    assert not list(folder.iterdir())
    assert {path.name for path in tmp_path.iterdir()} == {"a.csv", folder.name}


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


# The destination


# Names


@given(st.lists(st.one_of(st.none(), st.text(max_size=20), st.sampled_from([MANIFEST_NAME, "a" + UNFINISHED_SUFFIX]))))
def test_no_file_takes_the_manifests_name_nor_an_unfinished_ones(names: list[str | None]) -> None:
    landed = landing_names(names)
    assert len({name.casefold() for name in landed}) == len(names)
    assert MANIFEST_NAME.casefold() not in {name.casefold() for name in landed}
    assert not any(name.lower().endswith(UNFINISHED_SUFFIX) for name in landed)


@given(st.text(st.sampled_from("a#?%20\\/. ~*[]&;{}\u202e\x1b\x7f\u00e9"), max_size=12))
@example("report #1.csv")
@example("a%20b.csv")
def test_the_path_of_a_landed_file_can_be_given_to_an_operator(name: str) -> None:
    [landed] = landing_names([name])
    for destination in ("file:///data/x", "/data/x", "s3://bucket/x"):
        where = LandingFolder(ObjectStoragePath(destination)).where(landed)
        assert check_destination(where).endswith(f"/x/{landed}")


def test_a_hostile_name_stays_in_the_folder() -> None:
    assert landing_names(["../../etc/passwd", "..", None]) == ["passwd", "file", "file (2)"]


def test_no_file_takes_the_name_of_what_is_written_beside_it() -> None:
    """A file called ``checked`` would leave no place for the folder, and each check of its records would fail."""
    names = [MANIFEST_NAME, "Checked", "_changes"]
    assert landing_names(names) == ["_sequentum_manifest (2).json", "Checked (2)", "_changes (2)"]


def test_what_a_killed_attempt_left_is_told_from_what_others_write() -> None:
    mine, again, others = unfinished_name("a.csv"), unfinished_name("a.csv"), unfinished_name("b.csv")
    assert mine != again
    assert unfinished_of(["a.csv", "c.csv"], [mine, "a.csv", others, again, "x.unfinished"]) == [mine, again]


def test_what_a_killed_attempt_left_goes_when_the_file_is_written_again(tmp_path: Path) -> None:
    """Whoever writes it: records, manifests, profiles, changes and pointers all land in this way."""
    mine, others = tmp_path / unfinished_name("a.csv"), tmp_path / unfinished_name("b.csv")
    for half in (mine, others):
        half.write_bytes(b"ha")
    with LandingFolder(ObjectStoragePath(str(tmp_path))).write("a.csv") as stream:
        stream.write(b"half")
    assert {path.name for path in tmp_path.iterdir()} == {"a.csv", others.name}


# Errors


class BotoError(Exception):
    """As the errors of the libraries for S3, Google and Azure: no ``OSError``."""


@pytest.mark.parametrize(
    ("error", "says"),
    [(OSError(28, "No space left"), "No space left"), (BotoError("down"), "down"), (BotoError(), "Boto")],
)
def test_a_stores_error_says_that_nothing_was_removed_from_the_service(error: Exception, says: str) -> None:
    message = f"Could not write x: .*{says}.*removed nothing from the service"
    with pytest.raises(RunFilesUnavailable, match=message) as raised, storage_errors("Could not write x"):
        raise error
    assert raised.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [
        SequentumRequestRefused("gone"),
        DownloadError("cut", purpose="download", request="GET /x"),
        CancelledError(),
        KeyboardInterrupt(),
    ],
)
def test_what_is_not_the_stores_passes(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised, storage_errors("Could not write x"):
        raise error
    assert raised.value is error


# Many files at once


def expecting(files: int, size: int) -> Progress:
    progress = Progress()
    progress.expect(files, size)
    return progress


def test_results_come_in_order_and_no_more_than_the_workers_work_at_once() -> None:
    progress, lock = expecting(20, 0), threading.Lock()
    working, most = 0, 0

    def copy(item: int) -> int:
        nonlocal working, most
        with lock:
            working += 1
            most = max(most, working)
        progress.sleep(0.005)
        with lock:
            working -= 1
        return item * 2

    assert copy_all(range(20), copy, 3, progress, lambda _: None) == [item * 2 for item in range(20)]
    assert most <= 3


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failure_abandons_the_others_and_is_the_one_raised(error: BaseException) -> None:
    progress = expecting(50, 0)
    others_are_going = threading.Event()
    started: list[int] = []

    def copy(item: int) -> None:
        started.append(item)
        if item == 0:
            others_are_going.wait(5)
            raise error
        others_are_going.set()
        progress.sleep(60)

    with pytest.raises(type(error)) as raised:
        copy_all(range(50), copy, 2, progress, lambda _: None)
    assert raised.value is error
    assert len(started) <= 4
    with pytest.raises(CancelledError):
        progress.moved(1)


def test_what_interrupts_the_caller_ends_the_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landing_module, "PROGRESS_INTERVAL", 0.01)
    progress = expecting(2, 0)

    def interrupt(_: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_all([1, 2], lambda _: progress.sleep(60), 2, progress, interrupt)


@pytest.mark.parametrize(
    ("files", "size", "moved", "words"),
    [
        (3, 5 * 2**20, 2**20, "1 of 3 files, 1.0 MiB of 5.0 MiB, "),
        (1, 869, 869, "1 of 1 file, 869 bytes of 869 bytes, "),
        (2, 3 * 2**10, 1, "1 of 2 files, 1 byte of 3.0 KiB, "),
    ],
)
def test_progress_says_files_size_and_speed(files: int, size: int, moved: int, words: str) -> None:
    progress = expecting(files, size)
    progress.moved(moved)
    progress.finished()
    assert str(progress).startswith(words)
    assert str(progress).endswith("/s")


def test_a_stop_before_the_copies_is_not_lost() -> None:
    progress = Progress()
    progress.stop()
    progress.expect(1, 1)
    with pytest.raises(CancelledError):
        progress.moved(1)


@pytest.mark.parametrize(
    "name", ["x.unfinished.", "x.unfinished/", "x.unfinished ", "X.UNFINISHED.. ", "a/x.unfinished\\", "x.unfinished"]
)
def test_no_name_becomes_that_of_an_unfinished_file_when_it_is_made_safe(name: str) -> None:
    for crafted in (name, f"{unfinished_name('b.csv')}."):  # the second would be removed as half of b.csv
        [landed] = landing_names([crafted])
        assert not landed.lower().endswith(".unfinished")
        assert unfinished_of(["b.csv"], [landed]) == []


@given(
    st.lists(st.text(max_size=300), max_size=6),
    st.sampled_from([".unfinished", ".UNFINISHED. ", "/..", "\0", "\u202e"]),
)
def test_whatever_names_the_service_gives_each_file_has_a_place_of_its_own(names: list[str], ending: str) -> None:
    landed = landing_names([f"{name}{ending}" for name in names])
    folded = [unicodedata.normalize("NFC", name).casefold() for name in landed]
    assert len(set(folded)) == len(names)
    for name in landed:
        assert not set("/\\\0\u202e") & set(name)
        assert name not in ("", ".", "..", "_sequentum_manifest.json")
        assert not name.endswith((".unfinished", ".", " "))
        assert len(name.encode()) <= 255


@pytest.fixture
def memory() -> Iterator[LandingFolder]:
    """A folder of an object store: names are only parts of keys there."""
    io = import_module("airflow.sdk.io" if find_spec("airflow.sdk") else "airflow.io.store")
    io.attach(protocol="memory", fs=MemoryFileSystem())
    MemoryFileSystem.store.clear()
    yield LandingFolder(ObjectStoragePath("memory://bucket/run[1]"))
    MemoryFileSystem.store.clear()


def test_what_is_removed_is_the_file_and_not_what_its_name_fits_as_a_pattern(memory: LandingFolder) -> None:
    names = ["a1.csv", "a2.csv", "a[12].csv", "[!x].csv", "{a,b}.csv", "%41.csv", "a#1.csv", "~", "-rf", "a\u0301.csv"]
    for name in names:
        with memory.write(name) as stream:
            stream.write(b"x")
    for number, name in enumerate(names, 1):
        memory.remove(name)
        memory.remove(name)  # it is gone: nothing is there to be removed
        assert sorted(memory.contents().sizes) == sorted(names[number:])


@pytest.mark.parametrize("listed", [2**63 - 1, 10**15, 5 * 1024**4, None, 0, -1])
def test_a_part_is_gathered_in_bounded_memory_whatever_size_is_listed(listed: int | None) -> None:
    part = part_size(listed)
    assert 8 * 1024**2 <= part <= 640 * 1024**2
    assert part * 10_000 >= min(listed or 0, 5 * 1024**4)
