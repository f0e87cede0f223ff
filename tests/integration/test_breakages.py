from __future__ import annotations

import httpx
import pytest

from airflow_provider_sequentum.hooks.sequentum import SequentumHook
from airflow_provider_sequentum.sandbox import Sandbox
from tests.support.landing import finished_run

RECORDS = [{"sku": f"A{number}", "price": str(number)} for number in range(10)]


def records_of_next_run(sandbox: Sandbox, agent_id: int) -> list[dict[str, object]]:
    run_id = finished_run(sandbox, agent_id)
    return list(SequentumHook().iter_records(agent_id, run_id))


def test_runs_deliver_wrong_records_from_a_run_on(sandbox: Sandbox) -> None:
    agent = sandbox.add_agent("Prices", records=RECORDS)
    sandbox.break_runs(agent.id, "half_missing", from_run=2)
    assert records_of_next_run(sandbox, agent.id) == RECORDS
    assert records_of_next_run(sandbox, agent.id) == RECORDS[:5]
    sandbox.break_runs(agent.id, "price_as_text", column="price")
    assert records_of_next_run(sandbox, agent.id)[4] == {"sku": "A4", "price": "4 EUR"}
    sandbox.repair_runs(agent.id)
    assert records_of_next_run(sandbox, agent.id) == RECORDS
    assert [run.data_count for run in sandbox.ledger.runs(agent.id)] == [10, 5, 5, 10]
    with pytest.raises(ValueError, match="changes nothing"):
        sandbox.break_runs(agent.id, "mojibake")


def test_another_process_breaks_and_repairs_runs(sandbox: Sandbox) -> None:
    agent = sandbox.add_agent("Prices", records=RECORDS)
    url = f"{sandbox.base_url}/sandbox/agents/{agent.id}/breakages"
    with httpx.Client() as http:
        made = http.post(url, json={"kind": "page_missing"})
        assert (made.status_code, made.json()["from_run"]) == (201, 1)
        assert len(records_of_next_run(sandbox, agent.id)) == 8
        assert http.post(url, json={"kind": "mojibake"}).status_code == 400
        assert http.post(url, json={"kind": "none"}).status_code in (400, 422)
        assert http.delete(url).status_code == 204
        assert len(records_of_next_run(sandbox, agent.id)) == 10
