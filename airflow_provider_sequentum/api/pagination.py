"""Walking through the pages of a list: which call comes after a page. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from airflow_provider_sequentum.api.agents import DEFAULT_RECORDS_PER_PAGE
from airflow_provider_sequentum.api.call import Call
from airflow_provider_sequentum.api.errors import UnexpectedAnswer
from airflow_provider_sequentum.api.parsing import Page

T = TypeVar("T")


def first_page(call: Call[Page[T]]) -> Call[Page[T]]:
    """Return the call with paging switched on; it is off unless both parameters are sent."""
    return replace(call, query={"pageIndex": 1, "recordsPerPage": DEFAULT_RECORDS_PER_PAGE, **call.query})


def next_page(call: Call[Page[T]], page: Page[T], previous: Page[T] | None) -> Call[Page[T]] | None:
    """Return the call for the page after this one, or ``None`` after the last.

    :param call: the call that gave the page, with both paging parameters.
    :param page: the page.
    :param previous: the page before it.
    :raises UnexpectedAnswer: when the server gives the same page again and again.
    """
    page_index, records_per_page = int(call.query["pageIndex"]), int(call.query["recordsPerPage"])
    if not page or page.total_record_count is None:
        # A plain array is the whole list: the server did not page.
        return None
    if previous is not None and page == previous:
        raise UnexpectedAnswer(
            f"Could not {call.purpose} ({call.request}): page {page_index} repeats the page before it.",
            purpose=call.purpose,
            request=call.request,
        )
    if page_index * records_per_page >= page.total_record_count:
        return None
    return replace(call, query={**call.query, "pageIndex": page_index + 1})
