"""Who may see and do what."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.integration.ui.conftest import Stage

VERBS = ("stop", "kill", "restart")


def test_nobody_sees_or_does_anything(stage: Stage) -> None:
    agent = stage.sandbox.add_agent("Prices")
    stage.start(agent.id)
    assert stage.as_(None).get("/agents").status_code == 401
    assert stage.tab(None).status_code == 401
    assert stage.as_(None).get("/dags/sales/preview?run_id=x&task_id=extract").status_code == 401
    assert {stage.act(verb, None).status_code for verb in VERBS} == {401}
    assert len(stage.sandbox.ledger.effects) == 1, "the start"
    assert stage.logs() == []


def test_a_viewer_sees_and_does_nothing(stage: Stage) -> None:
    run = stage.start(stage.sandbox.add_agent("Prices").id)
    shown = stage.tab("viewer")
    assert shown.status_code == 200
    assert f"Run {run.id}" in shown.text
    assert "data-verb" not in shown.text, "no button"
    assert {stage.act(verb, "viewer").status_code for verb in VERBS} == {403}
    assert len(stage.sandbox.ledger.effects) == 1
    assert stage.logs() == []
