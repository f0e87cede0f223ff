"""The download of a file of a run, as a state machine that the client feeds with responses. No I/O of its own.

The API responds with a redirect to a signed storage address that expires soon, or with the file itself. Each attempt
requests the file from the API again, so an expired address is replaced. If the storage supports ``Range``, bytes that
have arrived are not downloaded again; otherwise they are skipped. So the destination only needs ``write``. The API key
is only sent to the API, and the signed address appears in no log and no error.

The storage may keep an object compressed (``Content-Encoding``). The bytes that are written are those of the file:
decompressed, unless the file name is that of a compressed file.
"""

from __future__ import annotations

import codecs
import logging
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Protocol

import httpx

from airflow_provider_sequentum.api.addresses import redirect_target
from airflow_provider_sequentum.api.call import Call, Id, as_id
from airflow_provider_sequentum.api.errors import DownloadError, ResponseLost, SequentumError
from airflow_provider_sequentum.api.files import FileType, RunFile
from airflow_provider_sequentum.api.pipeline import USER_AGENT, Pipeline, error_of_status
from airflow_provider_sequentum.api.text import one_line
from airflow_provider_sequentum.api.transport import GZIP, ZSTD, codings_of, decompressed

MAX_REDIRECTS = 5

LARGEST_EXPANSION = 200
"""How many times larger than its compressed size a file of unknown size may be."""
_FREE_EXPANSION = 16 * 1024 * 1024
"""Bytes to which any file may expand."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_COMPRESSED_SUFFIXES = {
    **dict.fromkeys(GZIP, (".gz", ".gzip", ".tgz")),
    "deflate": (),
    ZSTD: (".zst", ".zstd", ".tzst"),
}
_HTML_SUFFIXES = frozenset({".html", ".htm", ".xhtml", ".mht", ".mhtml"})
_PAGES_OF_A_RUN = frozenset({FileType.LOG_HTML, FileType.EXTRACTED_FILES, FileType.INTERNAL_CONTENT_CACHE})
_HTML_START = re.compile(
    r"(?:(?:<\?xml[^>]*>|<!--.*?-->)\s*)*<(?:!doctype\s+html|html|head|body)(?:[\s/>]|$)", re.IGNORECASE | re.DOTALL
)
_HEAD = 1024
"""Bytes of a file that are held back, in pieces of any size, until it is known whether they start an HTML page."""
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)")

log = logging.getLogger(__name__)


class Destination(Protocol):
    """Where the bytes are written: an object with ``write``, such as a file opened in binary mode."""

    def write(self, data: bytes, /) -> object:
        """Write all of the data."""


class Download:
    """The download of one file.

    :param pipeline: the pipeline of the client.
    :param file: the file, as listed.
    :param destination: where its bytes are written.
    """

    def __init__(self, pipeline: Pipeline, agent_id: Id, run_id: Id, file: RunFile, destination: Destination) -> None:
        agent, run = as_id(agent_id, "agent_id"), as_id(run_id, "run_id")
        self.call = Call.get(
            f"download file {file.id} of run {run} of agent {agent}",
            f"/agent/{agent}/run/{run}/file/{file.id}/download",
            lambda _answer: None,
        )
        self.received = 0
        self.attempts_without_progress = 0
        self._pipeline = pipeline
        self._file = file
        self._listed_size = file.file_size
        self._destination = destination
        self._redirects = 0
        self._to_skip = 0
        self._head: bytes | None = b""
        self._total: int | None = None
        self._etag: str | None = None
        # Of the current attempt: the coding to undo, the bytes that the storage has sent, and those it states to send.
        self._coding: str | None = None
        self._is_decoded = False
        self._stored = 0
        self._stated_length: int | None = None

    def start_attempt(self) -> dict[str, str]:
        """Start an attempt, and return the headers for the request to the API."""
        self.attempts_without_progress += 1
        self._redirects = 0
        self._head = None if self.received else b""
        return self._headers()

    @property
    def is_redirected(self) -> bool:
        """Whether the current attempt has followed a redirect."""
        return self._redirects > 0

    def _headers(self) -> dict[str, str]:
        """Return the headers to request the missing part of the file, as it is stored."""
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
        if self.received and not self._is_decoded:
            headers["Range"] = f"bytes={self.received}-"
        return headers

    def follow(self, response: httpx.Response, location: str | None, error_body: bytes) -> httpx.Request | None:
        """Return the next request, or ``None`` if the response contains the file.

        :param response: the response to the last request; its body is not read.
        :param location: where it redirects to.
        :param error_body: first part of the body of an error status.
        :raises SequentumError: if the response is an error, or cannot be that of the file.
        """
        if response.status_code in _REDIRECTS and location is not None:
            return self._storage_request(response, location)
        if response.status_code in (200, 206):
            self._check_body(response)
            return None
        if self._redirects == 0:
            raise error_of_status(self.call, self._pipeline.response_of(response, error_body))
        refusal = self._error(f"the storage responded with {response.status_code}. Its address may have expired")
        refusal.transient = True
        raise refusal

    def write_all(self, pieces: Iterator[bytes]) -> None:
        """Write a body.

        :param pieces: the body as received from the network.
        :raises SequentumError: if it cannot be that of the file.
        """
        counted = self._counted(pieces)
        try:
            for data in decompressed(counted, self._coding) if self._coding else counted:
                self._take(data)
            self._take_head()
        except ImportError:
            reason = f"the storage compressed it with {self._coding}, which requires the extra 'arrow'"
        else:
            return
        raise self._error(reason)

    def _counted(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for data in pieces:
            self._stored += len(data)
            yield data

    def _take(self, data: bytes) -> None:
        if self._head is None:
            self._write(data)
            return
        self._head += data
        if len(self._head) >= _HEAD or (len(self._head) > len(codecs.BOM_UTF8) and not _may_start_page(self._head)):
            self._take_head()

    def _take_head(self) -> None:
        head, self._head = self._head, None
        if head:
            if _HTML_START.match(_text_of_start(head)):
                self._refuse_page()
            self._write(head)

    def _write(self, data: bytes) -> None:
        skipped = min(self._to_skip, len(data))
        self._to_skip -= skipped
        data = data[skipped:]
        if not data:
            return
        self._destination.write(data)
        self.received += len(data)
        self.attempts_without_progress = 0
        if self._expected and self.received > self._expected:
            raise self._error(f"more than the expected {self._expected} bytes arrived")
        bound = max(_FREE_EXPANSION, LARGEST_EXPANSION * self._stored)
        if self._is_decoded and not self._expected and self.received > bound:
            raise self._error(f"it expands to more than {LARGEST_EXPANSION} times its compressed size")

    @property
    def _expected(self) -> int | None:
        if self._total is not None:
            return self._total
        if self._is_decoded and (self._stated_length is None or self._stated_length == self._listed_size):
            # The size in the list may be that of the compressed object.
            return None
        return self._listed_size

    def finish(self) -> int:
        """Check the length after the end of the body, and return it.

        :raises ResponseLost: if a part is missing; the next attempt downloads it.
        """
        if self._to_skip or (self._expected and not self._is_decoded and self.received < self._expected):
            raise self._error(f"only {self.received} of {self._expected} bytes arrived", ResponseLost)
        sizes = {self.received, self._stored} if self._is_decoded else {self.received}
        if self._listed_size and self._listed_size not in sizes:
            log.warning(
                "Downloaded %d bytes, as stated by the storage; the file list states %d (%s).",
                self.received,
                self._listed_size,
                one_line(self.call.purpose),
            )
        return self.received

    def _storage_request(self, response: httpx.Response, location: str) -> httpx.Request:
        self._redirects += 1
        if self._redirects > MAX_REDIRECTS:
            raise self._error(f"more than {MAX_REDIRECTS} redirects")
        settings = self._pipeline.settings
        try:
            url = redirect_target(settings.host, response.request.url, location, allow_http=settings.allow_http)
        except ValueError as error:
            reason = str(error)
        else:
            headers = {"User-Agent": USER_AGENT, **self._headers()}
            return httpx.Request(
                "GET", url, headers=headers, extensions={"timeout": self._pipeline.timeouts(self.call)}
            )
        raise self._error(reason)

    def _check_body(self, response: httpx.Response) -> None:
        length = response.headers.get("content-length", "")
        self._stored = 0
        self._stated_length = int(length) if length.isascii() and length.isdecimal() and len(length) < 19 else None
        self._coding = self._coding_to_undo(codings_of(response))
        # A transport that has already read the body has also decompressed it.
        by_transport = response.is_stream_consumed and "content-encoding" in response.headers
        self._is_decoded = self._coding is not None or by_transport
        start, total = self._range_of(response)
        if start > self.received:
            raise self._error("the storage omitted a part of the file")
        if start and self._is_decoded:
            raise self._error("the storage sent a part of the file compressed. Start the download again")
        self._to_skip = self.received - start
        etag = response.headers.get("etag")
        if self.received and (_differ(self._total, total) or _differ(self._etag, etag)):
            raise self._error("the file changed during the download. Start it again")
        if self._is_decoded:
            self._total = None
        self._total = self._total if total is None else total
        self._etag = self._etag if etag is None else etag
        if "html" in response.headers.get("content-type", "").lower():
            self._refuse_page()

    def _coding_to_undo(self, codings: list[str]) -> str | None:
        """Return the coding to undo, ``None`` if the file is to be written as it is stored."""
        if not codings:
            return None
        coding, name = codings[0], (self._file.name or "").lower()
        if len(codings) > 1 or coding not in _COMPRESSED_SUFFIXES:
            # The header is not quoted, because it may contain anything, even the key.
            raise self._error("the storage compressed it in a way that is not supported (see its Content-Encoding)")
        if name.endswith(_COMPRESSED_SUFFIXES[coding]):
            return None
        # Without a suffix, the size in the list decides: it may be that of the bytes as they are stored.
        is_listed_as_stored = self._listed_size and self._listed_size == self._stated_length
        return coding if PurePosixPath(name).suffix or not is_listed_as_stored else None

    def _refuse_page(self) -> None:
        """Refuse an HTML page, such as that of a gateway or a login, unless the file may be one.

        :raises DownloadError: if the file is not an HTML page.
        """
        suffix = PurePosixPath((self._file.name or "").lower()).suffix
        if suffix not in _HTML_SUFFIXES and (suffix or self._file.file_type not in _PAGES_OF_A_RUN):
            raise self._error("an HTML page arrived instead of the file, perhaps that of a gateway or a login")

    def _range_of(self, response: httpx.Response) -> tuple[int, int | None]:
        """Return the position in the file where the body starts, and the length of the file if it is stated."""
        if response.status_code == 206:
            stated = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
            if stated is None:
                raise self._error("the storage does not state which part of the file it sends")
            return int(stated[1]), None if stated[2] == "*" else int(stated[2])
        return 0, None if self._is_decoded else self._stated_length

    def _error(self, reason: str, kind: type[SequentumError] = DownloadError) -> SequentumError:
        return self.call.error(kind, reason, advice=f"{self.received} bytes were written.")


def _text_of_start(head: bytes) -> str:
    encoding = "utf-16" if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8"
    # Incremental, because the last character may be cut.
    text: str = codecs.getincrementaldecoder(encoding)(errors="replace").decode(head[:_HEAD])
    return text.lstrip("\ufeff \t\r\n\f")


def _may_start_page(head: bytes) -> bool:
    return _text_of_start(head)[:1] in ("", "<")


def _differ(one: int | str | None, other: int | str | None) -> bool:
    """Return whether two values are known and different."""
    return one is not None and other is not None and one != other
