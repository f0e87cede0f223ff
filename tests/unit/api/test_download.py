from __future__ import annotations

import asyncio
import gzip
import io
import logging
import re
import sys
import threading
import traceback
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pyarrow as pa
import pytest

from airflow_provider_sequentum.api.client import MAX_ERROR_BODY_SIZE
from airflow_provider_sequentum.api.errors import (
    ConnectionNotMade,
    DownloadError,
    ResponseLost,
    SequentumError,
    UnexpectedResponse,
)
from airflow_provider_sequentum.api.files import FileType, RunFile
from tests.support.errors import raises
from tests.unit.api.support import Driver, fresh_settings

MakeDriver = Callable[..., Driver]
CONTENT = bytes(range(256)) * 40
SIGNED = "https://storage.example/bucket/3?signature=TOP-SECRET"


class Storage:
    """An API that redirects to a storage, which can break, expire and misbehave."""

    def __init__(self, content: bytes = CONTENT, *, redirect: int = 302, location: str = SIGNED) -> None:
        self.content = content
        self.redirect = redirect
        self.location = location
        self.break_after: list[int] = []
        self.expired = 0
        self.honours_range = True
        self.states_length = True
        self.headers: dict[str, str] = {}
        self.fetches: list[httpx.Request] = []
        self.asked = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.host != "storage.example":
            self.asked += 1
            return httpx.Response(self.redirect, headers={"Location": self.location})
        self.fetches.append(request)
        if self.expired:
            self.expired -= 1
            return httpx.Response(403, text=f"<Error>Expired {request.url}</Error>")
        start = 0
        stated = re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", ""))
        if stated and self.honours_range:
            start = int(stated[1])
        rest = self.content[start:]
        headers = {**({"Content-Length": str(len(rest))} if self.states_length else {}), **self.headers}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(self.content) - 1}/{len(self.content)}"
        breaks = self.break_after.pop(0) if self.break_after else None
        return httpx.Response(206 if start else 200, headers=headers, stream=_Breaking(rest, breaks))


class Pieces(httpx.SyncByteStream):
    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        yield from self._pieces


class _Breaking(httpx.SyncByteStream):
    def __init__(self, content: bytes, break_after: int | None) -> None:
        self._content = content
        self._break_after = break_after

    def __iter__(self) -> Iterator[bytes]:
        whole = self._content if self._break_after is None else self._content[: self._break_after]
        for begin in range(0, len(whole), 1000):
            yield whole[begin : begin + 1000]
        if self._break_after is not None:
            raise httpx.ReadError(f"broke: {SIGNED}")


@pytest.mark.parametrize("redirect", [301, 302, 303, 307, 308])
def test_every_redirect_is_followed_without_the_key(driver: MakeDriver, redirect: int) -> None:
    storage = Storage(redirect=redirect)
    client = driver(storage)

    assert client.download() == CONTENT
    assert storage.asked == 1
    assert client.server.requests[0].headers["authorization"].startswith("ApiKey ")
    assert client.server.requests[0].url.path == "/api/v1/agent/7/run/42/file/3/download"
    (fetch,) = storage.fetches
    assert client.settings.api_key not in f"{fetch.headers} {fetch.url}"
    assert "authorization" not in fetch.headers


def test_an_answer_with_the_file_itself_is_the_file(driver: MakeDriver) -> None:
    assert driver(httpx.Response(200, content=CONTENT)).download() == CONTENT


def test_an_empty_file_is_a_file(driver: MakeDriver) -> None:
    assert driver(Storage(b"")).download(RunFile(id=3, file_size=0)) == b""


@pytest.mark.parametrize("honours_range", [True, False])
def test_a_broken_connection_is_resumed_where_it_broke(driver: MakeDriver, honours_range: bool) -> None:
    storage = Storage()
    storage.honours_range = honours_range
    storage.break_after = [2500, 10, 3000]
    client = driver(storage)

    assert client.download() == CONTENT
    assert storage.asked == len(storage.fetches) == 4
    assert storage.fetches[1].headers["range"] == "bytes=2500-"


def test_progress_restarts_the_count_of_attempts(driver: MakeDriver) -> None:
    storage = Storage()
    storage.break_after = [700] * 14

    assert driver(storage).download() == CONTENT


def test_attempts_without_progress_end(driver: MakeDriver) -> None:
    storage = Storage()
    storage.break_after = [700, *[0] * 50]
    client = driver(storage)

    with pytest.raises(ResponseLost):
        client.download()

    assert len(storage.fetches) == 6


def test_an_expired_address_is_asked_for_again(driver: MakeDriver) -> None:
    storage = Storage()
    storage.expired = 2
    client = driver(storage)

    assert client.download() == CONTENT
    assert storage.asked == 3


def test_a_storage_that_keeps_refusing_is_an_error_without_the_address(driver: MakeDriver) -> None:
    storage = Storage()
    storage.expired = 99
    client = driver(storage)

    with pytest.raises(DownloadError, match="403") as error:
        client.download()

    assert len(storage.fetches) == 5
    assert "TOP-SECRET" not in "".join(traceback.format_exception(error.value))


@pytest.mark.parametrize(
    ("refusing", "named"),
    [
        ("storage.example", "there is no connection to the server that the service redirected to (refused)"),
        ("dashboard.sequentum.com", "there is no connection to https://dashboard.sequentum.com (refused)"),
    ],
)
def test_a_server_that_cannot_be_reached_is_named_unless_the_service_redirected_to_it(
    driver: MakeDriver, refusing: str, named: str
) -> None:
    storage = Storage()

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == refusing:
            raise httpx.ConnectError("refused")
        return storage(request)

    client = driver(answer)
    with pytest.raises(ConnectionNotMade) as error:
        client.download()

    assert named in str(error.value)
    assert "storage.example" not in "".join(traceback.format_exception(error.value))


def test_the_address_gets_into_no_log(driver: MakeDriver, caplog: pytest.LogCaptureFixture) -> None:
    storage = Storage()
    storage.break_after = [10]
    storage.expired = 1

    with caplog.at_level(logging.DEBUG):
        driver(storage).download()

    assert "Try 1 of a request failed" in caplog.text
    assert "TOP-SECRET" not in caplog.text
    assert "storage.example" not in caplog.text


@pytest.mark.parametrize(
    "location",
    [
        "http://storage.example/x?signature=TOP-SECRET",
        "http://127.0.0.1/x",
        "http://[::1]/x",
        "ftp://storage.example/TOP-SECRET",
        "file:///etc/passwd",
        "https://",
        "https://[TOP-SECRET",
        "https://storage.example:port/TOP-SECRET",
    ],
)
def test_a_redirect_to_an_unsafe_or_unusable_address_is_not_followed(driver: MakeDriver, location: str) -> None:
    storage = Storage(location=location)
    client = driver(storage)

    with pytest.raises(SequentumError) as error:
        client.download()

    assert storage.fetches == []
    assert storage.asked <= 6
    assert "TOP-SECRET" not in "".join(traceback.format_exception(error.value))


@pytest.mark.parametrize(
    ("settings", "location"),
    [
        ({"base_url": "http://127.0.0.1:1"}, "http://localhost/x"),
        ({"base_url": "http://host.example", "allow_http": True}, "http://storage.example/x"),
    ],
)
def test_plain_http_is_followed_where_it_was_agreed_to(
    driver: MakeDriver, settings: dict[str, Any], location: str
) -> None:
    def serve(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/x":
            return httpx.Response(200, content=CONTENT)
        return httpx.Response(302, headers={"Location": location})

    assert driver(serve, settings=fresh_settings(**settings)).download() == CONTENT


def test_a_relative_redirect_goes_to_the_same_host_without_the_key(driver: MakeDriver) -> None:
    def serve(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/content/3":
            assert "authorization" not in request.headers
            return httpx.Response(200, content=CONTENT)
        return httpx.Response(302, headers={"Location": "/content/3"})

    assert driver(serve).download() == CONTENT


def test_endless_redirects_end(driver: MakeDriver) -> None:
    client = driver(httpx.Response(302, headers={"Location": SIGNED}))

    with pytest.raises(DownloadError, match="redirects"):
        client.download()

    assert len(client.server.requests) == 6


def test_a_redirect_without_an_address_is_unexpected(driver: MakeDriver) -> None:
    with pytest.raises(UnexpectedResponse):
        driver(httpx.Response(302)).download()


def test_an_error_of_the_api_is_that_error(driver: MakeDriver) -> None:
    client = driver(httpx.Response(404, json={"title": "Not Found", "detail": "No such file"}))

    with raises(404, match="No such file"):
        client.download()


def test_of_an_endless_error_page_only_the_first_part_is_read(driver: MakeDriver) -> None:
    read = 0

    class Endless(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            nonlocal read
            while True:
                read += 1000
                yield b"x" * 1000

    with raises(404):
        driver(lambda _request: httpx.Response(404, stream=Endless())).download()

    assert read <= MAX_ERROR_BODY_SIZE + 1000


def test_a_body_that_ends_early_is_fetched_on(driver: MakeDriver) -> None:
    def serve(request: httpx.Request) -> httpx.Response:
        if "range" in request.headers:
            stated = {"Content-Range": f"bytes 4000-{len(CONTENT) - 1}/{len(CONTENT)}"}
            return httpx.Response(206, headers=stated, content=CONTENT[4000:])
        stated = {"Content-Length": str(len(CONTENT))}
        return httpx.Response(200, headers=stated, stream=_Breaking(CONTENT[:4000], None))

    client = driver(serve)

    assert client.download() == CONTENT
    assert len(client.server.requests) == 2


def test_a_length_only_the_list_states_is_checked(driver: MakeDriver) -> None:
    def chunked(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=_Breaking(CONTENT, None))

    assert driver(chunked).download(RunFile(id=3, file_size=len(CONTENT))) == CONTENT
    with pytest.raises(DownloadError, match="more than"):
        driver(chunked).download(RunFile(id=3, file_size=len(CONTENT) - 1))
    with pytest.raises(ResponseLost, match="only"):
        driver(chunked).download(RunFile(id=3, file_size=len(CONTENT) + 1))


def test_a_list_that_disagrees_with_the_storage_is_warned_of(
    driver: MakeDriver, caplog: pytest.LogCaptureFixture
) -> None:
    assert driver(Storage()).download(RunFile(id=3, file_size=5)) == CONTENT
    assert "the file list states 5" in caplog.text


def test_a_file_that_changed_meanwhile_is_not_patched_together(driver: MakeDriver) -> None:
    storage = Storage()
    storage.break_after = [2000]
    etags = iter(['"one"', '"two"'])

    def serve(request: httpx.Request) -> httpx.Response:
        if request.url.host == "storage.example":
            storage.headers["ETag"] = next(etags)
        return storage(request)

    with pytest.raises(DownloadError, match="changed"):
        driver(serve).download()


def test_what_a_storage_leaves_unsaid_is_no_change(driver: MakeDriver) -> None:
    def serve(request: httpx.Request) -> httpx.Response:
        if "range" not in request.headers:
            stated = {"Content-Length": str(len(CONTENT)), "ETag": '"one"'}
            return httpx.Response(200, headers=stated, stream=_Breaking(CONTENT, 4000))
        stated = {"Content-Range": f"bytes 4000-{len(CONTENT) - 1}/*"}
        return httpx.Response(206, headers=stated, content=CONTENT[4000:])

    assert driver(serve).download() == CONTENT


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_that_is_neither_file_nor_redirect_is_unexpected(driver: MakeDriver, status: int) -> None:
    with pytest.raises(UnexpectedResponse, match=str(status)):
        driver(httpx.Response(status)).download()


@pytest.mark.parametrize("content_range", ["bytes 5000-10239/10240", "bytes */10240", "lines 1-2/3", ""])
def test_a_part_that_was_not_asked_for_is_refused(driver: MakeDriver, content_range: str) -> None:
    def serve(request: httpx.Request) -> httpx.Response:
        if request.url.host != "storage.example":
            return httpx.Response(302, headers={"Location": SIGNED})
        return httpx.Response(206, headers={"Content-Range": content_range}, content=b"part")

    with pytest.raises(DownloadError):
        driver(serve).download()


CSV = b"sku,price\n" + b"".join(b"A%d,%d\n" % (number, number % 97) for number in range(5_000))


def zstd(content: bytes) -> bytes:
    return pa.compress(content, codec="zstd", asbytes=True)  # type: ignore[no-any-return]


PACKED = {"gzip": gzip.compress(CSV), "x-gzip": gzip.compress(CSV), "deflate": zlib.compress(CSV), "zstd": zstd(CSV)}


def listed(name: str | None, size: int | None = None, file_type: FileType | None = FileType.DELIVERED_FILE) -> RunFile:
    return RunFile(id=3, name=name, file_size=size, file_type=file_type)


@pytest.mark.parametrize("coding", PACKED)
@pytest.mark.parametrize("size", [None, "file", "stored"])
@pytest.mark.parametrize("states_length", [True, False])
def test_a_file_that_storage_keeps_compressed_lands_as_the_file(
    driver: MakeDriver, caplog: pytest.LogCaptureFixture, coding: str, size: str | None, states_length: bool
) -> None:
    storage = Storage(PACKED[coding])
    storage.headers = {"Content-Encoding": coding}
    storage.states_length = states_length
    sizes = {None: None, "file": len(CSV), "stored": len(PACKED[coding])}

    assert driver(storage).download(listed("out.csv", sizes[size])) == CSV
    assert caplog.messages == []


@pytest.mark.parametrize(("coding", "name"), [("gzip", "out.csv.gz"), ("x-gzip", "OUT.GZ"), ("zstd", "out.csv.zst")])
def test_a_compressed_file_stays_as_it_is_stored_and_is_resumed(driver: MakeDriver, coding: str, name: str) -> None:
    packed = PACKED[coding]
    storage = Storage(packed)
    storage.headers = {"Content-Encoding": coding}
    storage.break_after = [3000]

    assert driver(storage).download(listed(name, len(packed))) == packed
    assert storage.fetches[1].headers["range"] == "bytes=3000-"


@pytest.mark.parametrize(
    ("name", "size", "lands_as_stored"),
    [
        (None, len(PACKED["gzip"]), True),
        ("out", len(PACKED["gzip"]), True),
        (None, len(CSV), False),
        ("out", None, False),
    ],
)
def test_without_a_suffix_the_listed_size_decides(
    driver: MakeDriver, name: str | None, size: int | None, lands_as_stored: bool
) -> None:
    storage = Storage(PACKED["gzip"])
    storage.headers = {"Content-Encoding": "gzip"}

    assert driver(storage).download(listed(name, size)) == (PACKED["gzip"] if lands_as_stored else CSV)


@pytest.mark.parametrize("coding", PACKED)
def test_a_compressed_file_is_fetched_from_its_start_again_when_the_connection_breaks(
    driver: MakeDriver, coding: str
) -> None:
    storage = Storage(PACKED[coding])
    storage.headers = {"Content-Encoding": coding, "ETag": '"one"'}
    storage.break_after = [6000, 9000]

    assert driver(storage).download(listed("out.csv", len(CSV))) == CSV
    assert [("range" in fetch.headers) for fetch in storage.fetches] == [False] * 3


def test_a_compressed_file_that_changed_meanwhile_is_not_patched_together(driver: MakeDriver) -> None:
    storage = Storage(PACKED["gzip"])
    etags = iter(['"one"', '"two"'])
    storage.break_after = [9000]

    def serve(request: httpx.Request) -> httpx.Response:
        if request.url.host == "storage.example":
            storage.headers = {"Content-Encoding": "gzip", "ETag": next(etags)}
        return storage(request)

    with pytest.raises(DownloadError, match="changed"):
        driver(serve).download(listed("out.csv"))


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_compressed_data_that_ends_early_is_not_the_file(driver: MakeDriver, coding: str) -> None:
    storage = Storage(PACKED[coding][:-200])
    storage.headers = {"Content-Encoding": coding}

    with pytest.raises(ResponseLost):
        driver(storage).download(listed("out.csv"))


@pytest.mark.parametrize("coding", ["br", "gzip, gzip", "compress", "x\x1by", "sk-0123456789abcdef"])
def test_a_coding_that_cannot_be_undone_is_an_error(driver: MakeDriver, coding: str) -> None:
    storage = Storage(CSV)
    storage.headers = {"Content-Encoding": coding}

    with pytest.raises(DownloadError, match="not supported") as error:
        driver(storage).download(listed("out.csv"))

    assert str(error.value).isprintable()
    assert "sk-0123456789abcdef" not in str(error.value)


def test_a_missing_library_for_a_coding_is_named(driver: MakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    storage = Storage(PACKED["zstd"])
    storage.headers = {"Content-Encoding": "zstd"}

    with pytest.raises(DownloadError, match="extra 'arrow'"):
        driver(storage).download(listed("out.csv"))


@pytest.mark.parametrize("coding", ["identity", "aws-chunked", ""])
def test_a_coding_that_changes_nothing_is_none(driver: MakeDriver, coding: str) -> None:
    storage = Storage(CSV)
    storage.headers = {"Content-Encoding": coding}
    storage.break_after = [3000]

    assert driver(storage).download(listed("out.csv", len(CSV))) == CSV
    assert storage.fetches[1].headers["range"] == "bytes=3000-"


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_a_file_of_unknown_size_does_not_expand_without_end(driver: MakeDriver, coding: str) -> None:
    blank = b" " * 32 * 1024 * 1024
    storage = Storage(gzip.compress(blank, 1) if coding == "gzip" else zstd(blank))
    storage.headers = {"Content-Encoding": coding}

    with pytest.raises(DownloadError, match="expands to more than 200 times"):
        driver(storage).download(listed("out.csv"))
    with pytest.raises(DownloadError, match="more than the expected 1000 bytes"):
        driver(storage).download(listed("out.csv", 1000))


def test_a_file_of_known_size_may_expand_as_far_as_that(driver: MakeDriver) -> None:
    blank = b" " * 32 * 1024 * 1024
    storage = Storage(gzip.compress(blank, 1))
    storage.headers = {"Content-Encoding": "gzip"}

    assert len(driver(storage).download(listed("out.csv", len(blank)))) == len(blank)


PAGE = b"\n <!DOCTYPE html><html><body>Sign in</body></html>"


@pytest.mark.parametrize("content_type", ["text/html", "text/html; charset=utf-8", "TEXT/HTML", "text/csv", None])
@pytest.mark.parametrize(("name", "file_type"), [("out.csv", 1), (None, None), ("out", 1), ("log.txt", 6), ("a.gz", 2)])
@pytest.mark.parametrize("from_api", [True, False])
def test_a_page_in_place_of_a_file_is_refused(
    driver: MakeDriver, content_type: str | None, name: str | None, file_type: int | None, from_api: bool
) -> None:
    storage = Storage(PAGE)
    storage.headers = {"Content-Type": content_type} if content_type else {}

    def serve(request: httpx.Request) -> httpx.Response:
        if from_api:
            return httpx.Response(200, headers=storage.headers, content=PAGE)
        return storage(request)

    with pytest.raises(DownloadError, match="HTML page"):
        driver(serve).download(RunFile(id=3, name=name, file_type=file_type))


@pytest.mark.parametrize(
    "start",
    [
        "<!DOCTYPE html><html>",
        "\ufeff<html>",
        "<?xml version='1.0'?>\n<!DOCTYPE html PUBLIC '-//W3C//DTD XHTML 1.0 Strict//EN'>",
        "<!-- a proxy -->\n<!-- of ours --><HTML>",
        "\n" * 100 + "<head>",
        "<body onload='x'>",
        "<html",
    ],
)
@pytest.mark.parametrize("piece", [1, 5, 1_000])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_page_is_recognized_in_whatever_pieces_it_comes(
    driver: MakeDriver, start: str, piece: int, encoding: str
) -> None:
    page = start.encode(encoding)
    pieces = [page[place : place + piece] for place in range(0, len(page), piece)]

    with pytest.raises(DownloadError, match=r"HTML page.* 0 bytes were written"):
        driver(lambda _request: httpx.Response(200, stream=Pieces(pieces))).download(RunFile(id=3, name="out.csv"))


@pytest.mark.parametrize(
    "text", ["", "<", "<header>,x\n", "<htmlx,1\n", "<!-- a,b\n", "a<html>\n", "<!doctype xml>", "\n"]
)
def test_what_only_looks_like_a_page_is_none(driver: MakeDriver, text: str) -> None:
    for content in (text.encode(), text.encode() + b"1,2\n" * 1_000):
        pieces = [content[:3], content[3:700], content[700:]]
        storage = driver(lambda _request, pieces=pieces: httpx.Response(200, stream=Pieces(pieces)))
        assert storage.download(RunFile(id=3, name="out.csv")) == content


@pytest.mark.parametrize(
    ("name", "file_type"), [("page.html", 1), ("PAGE.HTM", 2), ("log.html", 7), (None, 7), ("12345", 2), (None, 8)]
)
def test_a_file_that_may_be_a_page_is_one(driver: MakeDriver, name: str | None, file_type: int) -> None:
    storage = Storage(PAGE)
    storage.headers = {"Content-Type": "text/html"}

    assert driver(storage).download(RunFile(id=3, name=name, file_type=file_type)) == PAGE


@pytest.mark.parametrize(
    "location",
    [
        *("javascript:alert(1)", "data:text/csv,a", "\x7f", "https:///TOP-SECRET", "https://xn--a.example/TOP-SECRET"),
        *(
            "https://169.254.169.254/TOP-SECRET",
            "https://2130706433/",
            "https://[::ffff:127.0.0.1]/",
            "https://localhost./",
            "https://name:TOP-SECRET@storage.example/",
            "https://127.0.0.1\\@storage.example/",
        ),
    ],
)
def test_a_redirect_into_the_network_or_nowhere_is_not_followed(driver: MakeDriver, location: str) -> None:
    client = driver(httpx.Response(302, headers={"Location": location}))

    with pytest.raises(DownloadError, match="the redirect") as error:
        client.download()

    assert len(client.server.requests) == 1
    assert error.value.__context__ is None
    assert "TOP-SECRET" not in "".join(traceback.format_exception(error.value))


def test_a_redirect_of_the_storage_is_held_to_the_same_rules(driver: MakeDriver) -> None:
    def serve(request: httpx.Request) -> httpx.Response:
        is_storage = request.url.host == "storage.example"
        return httpx.Response(302, headers={"Location": "https://10.0.0.1/" if is_storage else SIGNED})

    with pytest.raises(DownloadError, match="private address"):
        driver(serve).download()


def test_a_full_disk_is_not_taken_for_a_broken_connection() -> None:
    class FullDisk:
        def write(self, data: bytes, /) -> None:
            raise OSError(28, "No space left on device")

    scripted = Driver("sync", [Storage()])
    with scripted.client() as client, pytest.raises(OSError, match="No space left"):
        client.download(agent_id=7, run_id=42, file=RunFile(id=3), destination=FullDisk())

    assert scripted.slept == []


async def test_a_cancelled_download_ends_its_thread() -> None:
    written = threading.Event()
    ended = threading.Event()

    class Endless(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            while True:
                yield b"x"

        def close(self) -> None:
            ended.set()

    class Slow:
        def write(self, data: bytes, /) -> None:
            written.set()

    scripted = Driver("async", [lambda _request: httpx.Response(200, stream=Endless())])
    async with scripted.async_client() as client:
        task = asyncio.create_task(client.download(agent_id=7, run_id=42, file=RunFile(id=3), destination=Slow()))
        await asyncio.to_thread(written.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(ended.wait, 10)


async def test_a_cancelled_download_does_not_sleep_on() -> None:
    asked = threading.Event()

    def busy(_request: httpx.Request) -> httpx.Response:
        asked.set()
        return httpx.Response(503, headers={"Retry-After": "100"})

    scripted = Driver("async", [busy])
    async with scripted.async_client() as client:
        task = asyncio.create_task(client.download(agent_id=7, run_id=42, file=RunFile(id=3), destination=io.BytesIO()))
        await asyncio.to_thread(asked.wait, 10)
        threads = threading.active_count()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    # The default executor joins its threads: a sleeping one would hold this up for 100 seconds.
    await asyncio.wait_for(asyncio.get_running_loop().shutdown_default_executor(), timeout=30)

    assert threading.active_count() < threads
