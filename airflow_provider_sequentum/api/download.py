"""How a file of a run is fetched, as a state machine that both drivers feed with responses. No I/O of its own.

The API answers with a redirect to a signed storage address that expires soon, or with the file itself. Every
attempt asks the API anew, so an address that expired meanwhile is replaced; what has arrived already is not
fetched again when the storage honours ``Range``, and is skipped when it does not, so the destination needs
nothing but ``write``. The API key goes to the API only, and the signed address into no log and no error.
"""

from __future__ import annotations

import logging
import re
from typing import Protocol

import httpx

from airflow_provider_sequentum.api.arguments import as_id
from airflow_provider_sequentum.api.call import Call
from airflow_provider_sequentum.api.errors import AnswerLost, DownloadError, SequentumError, StorageRefused
from airflow_provider_sequentum.api.files import RunFile
from airflow_provider_sequentum.api.pipeline import USER_AGENT, Pipeline, error_of_status
from airflow_provider_sequentum.api.settings import ClientSettings, is_loopback

MAX_REDIRECTS = 5

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)")

log = logging.getLogger(__name__)


class Destination(Protocol):
    """Where the bytes go: anything with ``write``, such as a file opened in binary mode."""

    def write(self, data: bytes, /) -> object:
        """Take all of the data."""


class Download:
    """One file on its way.

    :param settings: the client's settings.
    :param pipeline: the client's pipeline.
    :param agent_id: the agent.
    :param run_id: the run.
    :param file: the file, as listed.
    :param destination: where its bytes go.
    """

    def __init__(
        self,
        settings: ClientSettings,
        pipeline: Pipeline,
        *,
        agent_id: int | str,
        run_id: int | str,
        file: RunFile,
        destination: Destination,
    ) -> None:
        agent, run = as_id(agent_id, "agent_id"), as_id(run_id, "run_id")
        self.call: Call[None] = Call(
            purpose=f"download file {file.id} of run {run} of agent {agent}",
            method="GET",
            path=f"/agent/{agent}/run/{run}/file/{file.id}/download",
            parse=lambda _answer: None,
            safe_to_repeat=True,
        )
        self.received = 0
        self.attempts_without_progress = 0
        self._settings = settings
        self._timeout = pipeline.timeout_extension(None)
        self._pipeline = pipeline
        self._listed_size = file.file_size
        self._destination = destination
        self._redirects = 0
        self._to_skip = 0
        self._total: int | None = None
        self._etag: str | None = None
        self._is_encoded = False

    def begin_attempt(self) -> None:
        """Note that the API is about to be asked for the file."""
        self.attempts_without_progress += 1
        self._redirects = 0

    def headers(self) -> dict[str, str]:
        """Return the headers which ask for the part of the file that is missing, as it is stored."""
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
        if self.received and not self._is_encoded:
            headers["Range"] = f"bytes={self.received}-"
        return headers

    def follow(self, response: httpx.Response, error_body: bytes) -> httpx.Request | None:
        """Return the request which comes next, or ``None`` when the response carries the file.

        :param response: the response to the last request; its body is unread.
        :param error_body: beginning of the body of an error status.
        :raises SequentumError: when the file cannot be had this way.
        """
        if response.status_code in _REDIRECTS and "location" in response.headers:
            return self._storage_request(response)
        if response.status_code in (200, 206):
            self._begin_body(response)
            return None
        if self._redirects == 0:
            raise error_of_status(self.call, self._pipeline.answer_of(response, error_body))
        raise self._error(f"the storage answered {response.status_code}. Its address may have expired", StorageRefused)

    def write(self, data: bytes) -> None:
        """Take a piece of the body."""
        if self._to_skip:
            skipped = min(self._to_skip, len(data))
            self._to_skip -= skipped
            data = data[skipped:]
        if not data:
            return
        self._destination.write(data)
        self.received += len(data)
        self.attempts_without_progress = 0
        if self._expected and self.received > self._expected:
            raise self._error(f"more than the expected {self._expected} bytes came")

    @property
    def _expected(self) -> int | None:
        return self._total if self._total is not None else self._listed_size

    def finish(self) -> int:
        """Check the length after the body has ended, and return it.

        :raises AnswerLost: when a part is missing; the next attempt fetches it.
        """
        if self._to_skip or (self._expected and self.received < self._expected):
            raise self._error(f"only {self.received} of {self._expected} bytes came", AnswerLost)
        if self._listed_size and self.received != self._listed_size:
            log.warning(
                "Could %s in full: %d bytes by the storage's word. The list of files says %d.",
                self.call.purpose,
                self.received,
                self._listed_size,
            )
        return self.received

    def _storage_request(self, response: httpx.Response) -> httpx.Request:
        self._redirects += 1
        if self._redirects > MAX_REDIRECTS:
            raise self._error(f"more than {MAX_REDIRECTS} redirects")
        url = response.request.url.join(response.headers["location"])  # httpx has refused what is no URL at all
        if not url.host or url.scheme not in ("https", "http"):
            raise self._error("the redirect leads to no usable address")
        if url.scheme == "http" and not self._may_use_http(url.host):
            raise self._error("the redirect leads to plain http, which would expose the file")
        headers = {"User-Agent": USER_AGENT, **self.headers()}
        return httpx.Request("GET", url, headers=headers, extensions={"timeout": self._timeout})

    def _may_use_http(self, host: str) -> bool:
        # A remote server has no business to send us to a service of this machine.
        return self._settings.allow_http or (self._settings.is_local and is_loopback(host))

    def _begin_body(self, response: httpx.Response) -> None:
        self._is_encoded = response.headers.get("content-encoding", "identity") != "identity"
        start, total = self._range_of(response)
        if start > self.received:
            raise self._error("the storage left out a part of the file")
        self._to_skip = self.received - start
        etag = response.headers.get("etag")
        if self.received and (_differ(self._total, total) or _differ(self._etag, etag)):
            raise self._error("the file changed during the download. Start it again")
        self._total = self._total if total is None else total
        self._etag = self._etag if etag is None else etag

    def _range_of(self, response: httpx.Response) -> tuple[int, int | None]:
        """Return where the body begins in the file, and the file's length where it is stated."""
        if response.status_code == 206:
            stated = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
            if stated is None:
                raise self._error("the storage does not say which part of the file it sends")
            return int(stated[1]), None if stated[2] == "*" else int(stated[2])
        length = response.headers.get("content-length", "")
        return 0, int(length) if length.isdecimal() and not self._is_encoded else None

    def _error(self, reason: str, kind: type[SequentumError] = DownloadError) -> SequentumError:
        text = f"Could not {self.call.purpose}: {reason}. {self.received} bytes were written."
        return kind(text, purpose=self.call.purpose, request=self.call.request)


def _differ(one: int | str | None, other: int | str | None) -> bool:
    """Return whether two statements about a file contradict each other; one that is missing does not."""
    return one is not None and other is not None and one != other
