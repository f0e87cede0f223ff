"""The addresses of folders and files in storages: which are refused, and opening them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

from airflow_provider_sequentum.parameters import is_unset, parse_texts, shown

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

LOCAL = frozenset({"", "file", "local"})
OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl"})
"""Storages in which folders are only names. Creating one could create a bucket if its name is misspelled."""

NOT_IN_A_DESTINATION = re.compile(r"[\\?#\x00-\x1f\x7f]")
PERCENT_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_PASSWORD = re.compile(r"://[^/]*:[^/]*@")


def check_destination(destination: object) -> str:
    """Return a destination without its trailing slash.

    File systems and object stores interpret unusual addresses differently. For example, some drop an empty segment that
    others keep, so that files are written to one place and looked up in another. Such an address is refused before
    anything is written.

    :param destination: an address such as ``s3://conn_id@bucket/folder``, or an absolute path.
    :raises ValueError: the address is not reliable. The message says why, and what to use instead.
    """
    if not isinstance(destination, str) or not destination.strip():
        raise ValueError("it is empty" if isinstance(destination, str) else "it is not a string")
    scheme, is_address, rest = destination.partition("://")
    host, _, path = rest.partition("/") if is_address else ("", "", destination.removeprefix("/"))
    conn_id, _, bucket = host.rpartition("@")
    if ":" in conn_id:
        raise ValueError("it contains a password. Store it in an Airflow connection instead: s3://conn_id@bucket")
    if destination != destination.strip():
        raise ValueError("it starts or ends with white space")
    if unusual := NOT_IN_A_DESTINATION.search(destination):
        raise ValueError(f"it contains {unusual[0]!r}")
    _check_place(scheme.lower() if is_address else None, destination, bucket)
    segments = path.removesuffix("/").split("/") if path else []
    if "" in segments:
        raise ValueError("it has two slashes in a row. If it is joined from parts, omit one of them")
    if not {".", ".."}.isdisjoint(segments):
        raise ValueError("it has a segment '.' or '..'. Write the path of the folder without them")
    return destination.removesuffix("/") if segments else destination


def parse_place(value: object) -> str:
    """Return the address of a file or folder, as :func:`check_destination` does.

    :raises ValueError: the address is not reliable. The message shows no password.
    """
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    try:
        return check_destination(str(value) if isinstance(value, ObjectStoragePath) else value)
    except ValueError as error:
        raise ValueError(f"{without_password(value)!r:.500} cannot be used: {error}") from None


def parse_places(value: object) -> list[str]:
    """Return the addresses of one or several files or folders."""
    return [parse_place(place) for place in parse_texts(value)]


def _check_place(scheme: str | None, destination: str, bucket: str) -> None:
    if scheme is None:
        if not destination.startswith("/"):
            raise ValueError("it is neither an address such as s3://conn_id@bucket/folder nor an absolute path")
    elif scheme in LOCAL:
        if bucket:
            raise ValueError(f"{bucket!r} is in the place of a host. A local folder has three slashes: file:///folder")
        if PERCENT_ESCAPE.search(destination):
            raise ValueError("a percent escape would be taken literally. Write the plain path, without file://")
    elif scheme in OBJECT_STORES and (not bucket or bucket != bucket.strip()):
        raise ValueError(f"{bucket!r} is not the name of a bucket. Write {scheme}://bucket/folder")


def open_destination(destination: object, conn_id: str | None) -> ObjectStoragePath:
    """Return the file or folder at an address.

    :param conn_id: the parameter ``storage_conn_id``. It is unset if the address contains the connection.
    :raises ValueError: the address is refused, or Airflow has no file system for it.
    """
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    address = parse_place(destination)
    # Before Airflow 3.2, conn_id=None overrides the connection id in the address.
    options = {} if is_unset(conn_id) else {"conn_id": conn_id}
    try:
        path = ObjectStoragePath(address, **options)
        path.fs  # noqa: B018 - the file system is looked up on first access
    except (ValueError, ImportError) as error:
        raise ValueError(
            f"{address!r:.500} cannot be used: {error}. The Airflow provider of this storage may not be installed on "
            "the worker"
        ) from error
    return path


def common_folder(paths: Sequence[str]) -> str:
    """Return the folder that files have in common. For files of several partitions, it is the folder above them.

    If they have none in common, return the folder of the first file. A bucket or the root of a disk does not count.
    """
    folders = [path.split("/")[:-1] for path in paths]
    common = [parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False))]
    root = 3 if "://" in paths[0] else 2
    return "/".join(folders[0] if len(common) < root else common)


def without_password(destination: object) -> str:
    """Return a destination without its password, so that a message can show it."""
    # A value that is neither a string nor a path only appears in the error that refuses it.
    text = shown(destination) if isinstance(destination, int) else str(destination)
    return _PASSWORD.sub("://***@", text)
