"""Keeps httpx from logging our requests: its log lines hold whole URLs and headers, signed ones included.

Only records made while one of our own requests is being sent are dropped; other users of httpx in the same
process keep their log.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_LOGGERS = (
    "httpx",
    "httpcore.connection",
    "httpcore.http11",
    "httpcore.http2",
    "httpcore.proxy",
    "httpcore.socks",
)
_is_quiet: ContextVar[bool] = ContextVar("sequentum_http_logs_are_quiet", default=False)


def _drop_while_quiet(_record: logging.LogRecord) -> bool:
    return not _is_quiet.get()


for _name in _LOGGERS:
    logging.getLogger(_name).addFilter(_drop_while_quiet)


@contextmanager
def quiet_http_logs() -> Iterator[None]:
    """Drop what httpx and httpcore log in this thread or task until the block ends."""
    token = _is_quiet.set(True)
    try:
        yield
    finally:
        _is_quiet.reset(token)
