"""Airflow's Variables, in memory."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_sequentum.hooks import pins

Variables = dict[str, str]


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> Variables:
    values: Variables = {}

    class Variable:
        @staticmethod
        def get(key: str, default: Any, /) -> Any:
            return values.get(key, default)

        @staticmethod
        def set(key: str, value: str, description: str | None = None) -> None:
            values[key] = value

    monkeypatch.setattr(pins, "Variable", Variable)
    return values
