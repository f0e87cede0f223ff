"""The client's errors in tests."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_sequentum.api.errors import HttpStatusError


def raises(expected: type[BaseException] | int, match: str | None = None) -> Any:
    """Return ``pytest.raises``; a number stands for the client's error of that HTTP status."""
    if isinstance(expected, int):
        return pytest.raises(HttpStatusError, match=match, check=lambda error: error.status_code == expected)
    return pytest.raises(expected, match=match)


def status_of(error: object) -> int | None:
    """Return the HTTP status that the service answered with, where that is what ``error`` is about."""
    return error.status_code if isinstance(error, HttpStatusError) else None
