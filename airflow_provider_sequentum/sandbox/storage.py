"""Storage: signed links that expire, and the bytes behind them, on a port of its own."""

from __future__ import annotations

import gzip
import hashlib
import hmac
import shutil
import struct
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, urlencode

from starlette.responses import FileResponse, Response

from airflow_provider_sequentum.sandbox.engine import Engine
from airflow_provider_sequentum.sandbox.problems import Problem, not_found
from airflow_provider_sequentum.sandbox.run_files import RunFile, files_of
from airflow_provider_sequentum.sandbox.runs import Run, observe
from airflow_provider_sequentum.sandbox.settings import STORAGE_PREFIX

# The largest block the format allows.
_ZSTD_BLOCK = 128 * 1024


class _BigChunks(FileResponse):
    chunk_size = 1024 * 1024


class Storage:
    """The files of all runs.

    Bytes are written to a temporary folder when they are first asked for, so that ranges and large files are
    served from disk.

    :param engine: knows the runs.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._folder = tempfile.TemporaryDirectory(prefix="sequentum-sandbox-")
        self.origin = ""
        """Scheme, host and port of storage; set when its server has started."""

    def close(self) -> None:
        """Remove the temporary folder."""
        self._folder.cleanup()

    def files(self, run: Run) -> list[RunFile]:
        """The files of a run as it is now."""
        agent = self._engine.state.agents[run.agent_id]
        return files_of(run, agent, observe(run, self._engine.settle()))

    def file(self, run: Run, file_id: int) -> RunFile:
        """One file of a run.

        :raises Problem: 404.
        """
        for file in self.files(run):
            if file.id == file_id:
                return file
        raise not_found("File", file_id)

    def path(self, run: Run, file: RunFile) -> Path:
        """Where the content of a file lies."""
        if file.path is not None:
            return file.path
        # The name on the wire is never used for the disk: it may be anything.
        path = Path(self._folder.name) / f"{run.id}-{len(run.attempts)}-{file.id}"
        if not path.exists() and file.render is not None:
            path.write_bytes(file.render())
        return path

    def listed_size(self, run: Run, file: RunFile) -> int:
        """The size of a file as the list of files gives it."""
        stored = self._engine.dialect.file_size == "stored"
        return (self._stored_path(run, file) if stored else self.path(run, file)).stat().st_size

    def response(self, run: Run, file: RunFile) -> Response:
        """A file as storage keeps it, as a response that understands ``Range``."""
        name = quote(file.name.encode("utf-8", "replace"), safe="")
        headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{name}"}
        encoding = self._engine.dialect.content_encoding
        if encoding != "identity":
            headers["Content-Encoding"] = encoding
        return _BigChunks(self._stored_path(run, file), media_type="application/octet-stream", headers=headers)

    def _stored_path(self, run: Run, file: RunFile) -> Path:
        """Where the bytes that storage keeps of a file lie: its content, encoded as the dialect says."""
        content, encoding = self.path(run, file), self._engine.dialect.content_encoding
        if encoding == "identity":
            return content
        stored = Path(self._folder.name) / f"{run.id}-{len(run.attempts)}-{file.id}.{encoding}"
        if not stored.exists():
            with content.open("rb") as source, stored.open("wb") as target:
                (_write_zstd if encoding == "zstd" else _write_gzip)(source, target)
        return stored

    def signed_url(self, run: Run, file: RunFile) -> str:
        """A link to a file that works without a key until it expires."""
        expires = self._engine.clock.now() + timedelta(seconds=self._engine.settings.signed_url_seconds)
        path = f"{STORAGE_PREFIX}/{run.agent_id}/{run.id}/{file.id}"
        moment = f"{expires.timestamp():.3f}"
        query = urlencode({"expires": moment, "signature": self._signature(path, moment)})
        return f"{self.origin}{path}?{query}"

    def check(self, path: str, query: Mapping[str, str]) -> None:
        """Check the signature of a link.

        :raises Problem: 403 when it is wrong or has expired.
        """
        expires, signature = query.get("expires", ""), query.get("signature", "")
        if not hmac.compare_digest(self._signature(path, expires).encode(), signature.encode()):
            raise Problem(403, "SignatureDoesNotMatch")
        if datetime.fromtimestamp(float(expires), UTC) <= self._engine.clock.now():
            raise Problem(403, "Request has expired")

    def _signature(self, path: str, expires: str) -> str:
        text = f"{path}\n{expires}".encode()
        return hmac.new(self._engine.state.signing_secret.encode(), text, hashlib.sha256).hexdigest()


def _write_gzip(source: BinaryIO, target: BinaryIO) -> None:
    with gzip.GzipFile(fileobj=target, mode="wb", mtime=0) as compressed:
        shutil.copyfileobj(source, compressed)


def _write_zstd(source: BinaryIO, target: BinaryIO) -> None:
    """Write a Zstandard frame of raw blocks (RFC 8878, 3.1.1): valid, though not smaller, and without a library."""
    magic, no_flags, window_of_1_mib = 0xFD2FB528, 0, 10 << 3
    target.write(struct.pack("<IBB", magic, no_flags, window_of_1_mib))
    block = source.read(_ZSTD_BLOCK)
    while True:
        following = source.read(_ZSTD_BLOCK)
        is_last = not following
        # Three bytes: one bit for the last block, two for its type (0: raw), the rest for its size.
        target.write((len(block) << 3 | is_last).to_bytes(3, "little") + block)
        if is_last:
            return
        block = following
