"""What the ledger says becomes the facts that are judged."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_sequentum.sandbox.ledger import ActualRun, Effect, RequestEntry
from tests.cluster.evidence import landed_rows, runs_by_agent

NOW = datetime(2026, 11, 25, tzinfo=UTC)


def truth(run_id: int, agent_id: int, **fields: Any) -> ActualRun:
    common = {"created": NOW, "started": NOW, "attempts": 1, "data_count": 0, "export_count": None}
    return ActualRun(run_id=run_id, agent_id=agent_id, **{"status": "Success", "finished": NOW, **common, **fields})


def asked(path: str, status: int | None) -> RequestEntry:
    return RequestEntry(number=1, at=NOW, method="POST", path=path, query="", key_name="first", status=status)


def test_runs_are_sorted_by_agent_and_those_of_schedules_left_out() -> None:
    effects = [
        Effect(kind="start", at=NOW, agent_id=7, run_id=1),
        Effect(kind="stop", at=NOW, agent_id=7, run_id=1),
        Effect(kind="schedule_fired", at=NOW, agent_id=7, run_id=2),
        Effect(kind="start", at=NOW, agent_id=8, run_id=3),
    ]
    truths = [truth(1, 7, status="Stopped"), truth(2, 7), truth(3, 8, status="Running", finished=None)]
    answers: dict[str, list[int | None]] = {
        "/api/v1/agent/7/run/1/stop": [429, None, 204],
        "/api/v1/agent/7/run/1/kill": [503],
        "/run/2/stop": [204],
    }
    requests = [asked(path, status) for path, statuses in answers.items() for status in statuses]
    found = runs_by_agent(effects, truths, [*requests, asked("/api/v1/agent/7/run/1/status", 200)])
    assert [(run.run_id, run.status) for run in found[7]] == [(1, "Stopped")]
    assert [(run.stops_refused, run.stops_taken) for run in found[7]] == [(3, 1)]
    assert [(run.run_id, run.ended, run.stops_refused) for run in found[8]] == [(3, None, 0)]


@pytest.mark.parametrize(
    ("start", "faults", "expected"),
    [
        ("reset", ["delay", "garbage"], (2, 0)),
        ("reset", ["delay", None], (1, 1)),
        ("reset", [], (0, 0)),
        (None, ["delay"], (0, 0)),
    ],
)
def test_a_run_with_a_lost_start_has_to_be_found_before_it_is_stopped(
    start: str | None, faults: list[str | None], expected: tuple[int, int]
) -> None:
    effects = [Effect(kind="start", at=NOW, agent_id=7, run_id=1, request=1)]
    began = asked("/api/v1/agent/7/start", 202).model_copy(update={"fault": start})
    look = asked("/api/v1/agent/7/runs", 200)
    looks = [look.model_copy(update={"number": 2 + place, "fault": fault}) for place, fault in enumerate(faults)]
    before = look.model_copy(update={"number": 9, "at": NOW - timedelta(seconds=1)})
    found = runs_by_agent(effects, [truth(1, 7, status="Running", finished=None)], [before, began, *looks])
    assert [(run.stops_refused, run.stops_taken) for run in found[7]] == [expected]


def test_rows_are_counted_over_all_files_without_their_headers(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('number,job\n1,"two\nlines"\n2,x\n')
    (tmp_path / "b.csv").write_text("number,job\n")
    (tmp_path / "manifest.json").write_text("{}\n{}\n")
    assert landed_rows(tmp_path) == 2
    assert landed_rows(tmp_path / "missing") == 0
