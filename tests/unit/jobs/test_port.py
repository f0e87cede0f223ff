from __future__ import annotations

import pytest

from airflow_provider_sequentum.api.errors import RefusedByServer, UnexpectedResponse
from airflow_provider_sequentum.api.runs import status
from airflow_provider_sequentum.jobs.port import FAULT_TOLERANCE, NOT_FOUND_TOLERANCE, fault_tolerance
from tests.support import service as fakes
from tests.support.service import ErrorOf

CALL = status(7, 1)


@pytest.mark.parametrize("error", [fakes.server_error, fakes.response_lost, fakes.not_reached, fakes.rate_limited])
def test_what_can_pass_is_tolerated(error: ErrorOf) -> None:
    assert fault_tolerance(error(CALL)) == FAULT_TOLERANCE


@pytest.mark.parametrize("error", [fakes.unauthorized, fakes.bad_request, fakes.conflict, fakes.method_not_allowed])
def test_what_cannot_pass_is_not(error: ErrorOf) -> None:
    assert not fault_tolerance(error(CALL))


def test_a_run_just_started_may_not_be_known_yet() -> None:
    assert fault_tolerance(fakes.not_found(CALL)) == NOT_FOUND_TOLERANCE


def test_a_gateways_page_passes_and_a_refusal_does_not() -> None:
    assert fault_tolerance(UnexpectedResponse("a page")) == FAULT_TOLERANCE
    assert not fault_tolerance(RefusedByServer("no"))
