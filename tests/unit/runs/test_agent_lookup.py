from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_sequentum.exceptions import SequentumRequestRefused
from airflow_provider_sequentum.runs.agent_lookup import find_agent
from tests.support.service import Clock, FakeService
from tests.support.worker import Worker


@pytest.fixture
def worker() -> Worker:
    return Worker(FakeService(Clock(), agents={7: "Prices", 8: "Prices DE", 9: "prices", 10: "Stock", 11: "Stock"}))


def test_an_agent_is_found_by_its_name_letter_for_letter(worker: Worker) -> None:
    assert find_agent(worker, "Prices", "Nothing was started.").id == 7


@pytest.mark.parametrize("name", ["Price", "PRICES", "Prices ", "", "no such"])
def test_no_agent_is_called_that(worker: Worker, name: str) -> None:
    with pytest.raises(SequentumRequestRefused, match="There is no agent with the name"):
        find_agent(worker, name, "Nothing was started.")


def test_an_ambiguous_name_is_refused_with_the_ids(worker: Worker) -> None:
    with pytest.raises(SequentumRequestRefused, match=r"2 agents have the name 'Stock': 10, 11\. Nothing was started"):
        find_agent(worker, "Stock", "Nothing was started.")


@pytest.mark.parametrize("spoilt", [8, None], ids=["one unreadable", "a page of many"])
def test_an_agent_that_cannot_be_read_may_have_the_same_name(worker: Worker, spoilt: int | None) -> None:
    act = worker.service._act

    def answer(*arguments: Any) -> Any:
        listed = [{**agent, "id": None} if agent["id"] == spoilt else agent for agent in act(*arguments)]
        return listed if spoilt else {"agents": listed, "totalRecordCount": 500}

    worker.service._act = answer
    with pytest.raises(SequentumRequestRefused, match=r"cannot be read .* Nothing was started\. Set agent_id"):
        find_agent(worker, "Prices", "Nothing was started.")


def test_the_service_is_asked_for_agents_of_that_name_only(worker: Worker) -> None:
    find_agent(worker, "Prices", "Nothing was started.")
    [(_, call, _)] = worker.sent
    assert call.query["name"] == "Prices"
