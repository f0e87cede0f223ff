"""What tests of the transfer, the records and the assets stand on: finished runs, a task instance, S3, a full disk."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from airflow_provider_sequentum.api import runs
from airflow_provider_sequentum.hooks.sequentum import SequentumHook
from airflow_provider_sequentum.sandbox import Sandbox


class FakeTaskInstance:
    """A task instance that keeps what is pushed."""

    def __init__(self) -> None:
        self.pushed: dict[str, Any] = {}
        self.map_index = -1
        self.try_number = 1
        self.max_tries = 0

    def xcom_push(self, key: str, value: Any) -> None:
        """Keep a value; what is no JSON would fail in Airflow."""
        self.pushed[key] = json.loads(json.dumps(value))


def finished_run(sandbox: Sandbox, agent_id: int, seconds: float = 60.0) -> int:
    """Start a run, let the time pass in which it ends, and return its id."""
    run_id: int = SequentumHook().send(runs.start(agent_id)).id
    sandbox.advance(seconds)
    return run_id


@contextmanager
def s3_server() -> Iterator[tuple[str, Any]]:
    """An S3 server of its own; yields an Airflow connection to it, as JSON, and a client.

    Airflow keeps the file system of a connection's id for the life of the process: one server for one id.
    """
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        address = "http://{}:{}".format(*server.get_host_and_port())
        client = boto3.client(
            "s3",
            endpoint_url=address,
            region_name="us-east-1",
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )
        connection = {
            "conn_type": "aws",
            "login": "testing",
            "password": "testing",
            "extra": {"endpoint_url": address, "region_name": "us-east-1"},
        }
        yield json.dumps(connection), client
    finally:
        server.stop()


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A real disk that is full soon; making one is for root only."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
