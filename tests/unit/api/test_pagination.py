from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import pytest

from airflow_provider_sequentum.api import agents, billing
from airflow_provider_sequentum.api.call import Response
from airflow_provider_sequentum.api.errors import UnexpectedResponse
from airflow_provider_sequentum.api.parsing import Page, first_page, next_page
from airflow_provider_sequentum.api.pipeline import read_response
from tests.unit.api.support import Driver


def agents_server(
    count: int, *, envelope: str = "agents", longest: int = 1000, total: Callable[[int], object] = int
) -> Callable[[httpx.Request], httpx.Response]:
    """Return a server of so many agents.

    :param longest: how many it gives on a page at most, whatever it is asked for.
    :param total: how it writes the number of all.
    """

    def reply(request: httpx.Request) -> httpx.Response:
        page, size = (int(request.url.params[name]) for name in ("pageIndex", "recordsPerPage"))
        size = min(size, longest)
        ids = range((page - 1) * size + 1, min(page * size, count) + 1)
        return httpx.Response(
            200, json={envelope: [{"id": number} for number in ids], "totalRecordCount": total(count)}
        )

    return reply


@pytest.mark.parametrize(("count", "requests"), [(0, 1), (1, 1), (100, 1), (101, 2), (250, 3)])
def test_records_of_all_pages_come_in_order(driver: Callable[..., Driver], count: int, requests: int) -> None:
    client = driver(agents_server(count))

    records = client.records(agents.list_agents(name="a"))

    assert [agent.id for agent in records] == list(range(1, count + 1))
    assert len(client.server.requests) == requests
    assert all(request.url.params["name"] == "a" for request in client.server.requests)


def test_the_walk_begins_at_the_call_s_page_and_keeps_its_size(driver: Callable[..., Driver]) -> None:
    client = driver(agents_server(25, envelope="items"))

    records = client.records(agents.list_agents(page=2, records_per_page=10))

    assert [agent.id for agent in records] == list(range(11, 26))


@pytest.mark.parametrize(("count", "requests"), [(0, 1), (1, 1), (40, 1), (41, 2), (120, 3), (130, 4)])
def test_pages_that_are_shorter_than_asked_for_end_no_list(
    driver: Callable[..., Driver], count: int, requests: int
) -> None:
    client = driver(agents_server(count, longest=40))

    records = client.records(agents.list_agents())

    assert [agent.id for agent in records] == list(range(1, count + 1))
    assert len(client.server.requests) == requests


@pytest.mark.parametrize("total", [str, float, lambda count: f" {count}.0 "])
def test_the_total_is_read_as_any_number_is(driver: Callable[..., Driver], total: Callable[[int], object]) -> None:
    client = driver(agents_server(250, total=total))

    assert len(client.records(agents.list_agents())) == 250


@pytest.mark.parametrize("total", [True, -1, 2.5, 2**63, 10**400, "x", [250], {}, None])
def test_a_total_that_counts_nothing_is_not_stated(total: object) -> None:
    content = json.dumps({"items": [{"id": 1}], "totalRecordCount": total}).encode()

    page = read_response(agents.list_agents(), Response(200, {}, content))

    assert (page.total_record_count, page.left_out) == (None, 0)


def test_a_server_that_does_not_page_is_asked_once(driver: Callable[..., Driver]) -> None:
    client = driver(httpx.Response(200, content=json.dumps([{"id": number} for number in range(1, 301)])))

    assert len(client.records(agents.list_agents())) == 300
    assert len(client.server.requests) == 1


def test_pages_are_asked_for_as_they_are_consumed() -> None:
    scripted = Driver("sync", [agents_server(1000)])

    with scripted.client() as client:
        records = client.records(agents.list_agents())
        taken = [next(records).id for _ in range(150)]

    assert taken[-1] == 150
    assert len(scripted.server.requests) == 2


def test_a_server_that_repeats_itself_for_ever_is_found_out(driver: Callable[..., Driver]) -> None:
    client = driver(httpx.Response(200, json={"items": [{"id": 1}], "totalRecordCount": 10**12}))

    with pytest.raises(UnexpectedResponse, match="repeats"):
        client.records(agents.list_agents())


@pytest.mark.parametrize("empty", [1, 2, 3])
def test_an_empty_page_before_the_end_is_no_end(driver: Callable[..., Driver], empty: int) -> None:
    whole = agents_server(250)

    def reply(request: httpx.Request) -> httpx.Response:
        if int(request.url.params["pageIndex"]) == empty:
            return httpx.Response(200, json={"items": [], "totalRecordCount": 250})
        return whole(request)

    client = driver(reply)

    with pytest.raises(UnexpectedResponse, match=f"page {empty} is empty, but the list has 250 records"):
        client.records(agents.list_agents())


def test_the_end_is_known_from_the_total() -> None:
    call = first_page(billing.history(page=2, records_per_page=50))

    assert next_page(call, Page([], 50), None) is None
    following = next_page(call, Page([billing.Transaction(id=1)], 101), None)
    assert following is not None
    assert following.query == {"pageIndex": 3, "recordsPerPage": 50}
    assert next_page(call, Page([billing.Transaction(id=1)], 51), None) is None
