"""Storage: signed links that expire, and the bytes behind them, on a port of its own."""

from __future__ import annotations

import hashlib
import hmac
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from urllib.parse import quote, urlencode

from fastapi import FastAPI, Request
from starlette.responses import FileResponse, Response

from airflow_provider_sequentum.sandbox.engine import Engine
from airflow_provider_sequentum.sandbox.gate import STORAGE_PREFIX
from airflow_provider_sequentum.sandbox.problems import Problem, not_found
from airflow_provider_sequentum.sandbox.run_files import RunFile, files_of
from airflow_provider_sequentum.sandbox.runs import Run, observe
from airflow_provider_sequentum.sandbox.services import services_of


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
        """Where the bytes of a file lie."""
        if file.path is not None:
            return file.path
        # The name on the wire is never used for the disk: it may be anything.
        path = Path(self._folder.name) / f"{run.id}-{len(run.attempts)}-{file.id}"
        if not path.exists() and file.render is not None:
            path.write_bytes(file.render())
        return path

    def response(self, run: Run, file: RunFile) -> Response:
        """The bytes of a file as an answer that understands ``Range``."""
        name = quote(file.name.encode("utf-8", "replace"), safe="")
        headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{name}"}
        return _BigChunks(self.path(run, file), media_type="application/octet-stream", headers=headers)

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


@cache
def storage_app() -> FastAPI:
    """The application of storage's port. Its errors are XML, as those of object stores are."""
    app = FastAPI(title="Sequentum sandbox storage", openapi_url=None, docs_url=None, redoc_url=None)

    @app.get(STORAGE_PREFIX + "/{agent_id}/{run_id}/{file_id}")
    async def download(request: Request, agent_id: int, run_id: int, file_id: int) -> Response:
        """Hand out a file; an ``Authorization`` header next to the signature is refused."""
        if "authorization" in request.headers:
            raise Problem(400, "Only one auth mechanism allowed")
        services = services_of(request)
        services.storage.check(request.url.path, request.query_params)
        run = services.engine.run(agent_id, run_id)
        return services.storage.response(run, services.storage.file(run, file_id))

    @app.exception_handler(Problem)
    async def refuse(_: Request, problem: Problem) -> Response:
        body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{problem.detail}</Code></Error>'
        return Response(body, problem.status, media_type="application/xml")

    return app
