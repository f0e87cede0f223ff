"""Whatever a server answers, a caller gets a value or one of our errors, and never the key.

The default run is quick; ``make fuzz`` tries many more answers.
"""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_sequentum.api.call import Call
from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.api.pipeline import Pipeline, read_response
from airflow_provider_sequentum.api.settings import ClientSettings
from tests.support.hostile import KEY, responses
from tests.unit.api.samples import SAMPLES

if TYPE_CHECKING:
    import httpx

PIPELINE = Pipeline(ClientSettings(api_key=KEY))


@st.composite
def answers(draw: st.DrawFn) -> tuple[Call[Any], httpx.Response]:
    """A call, and what a server might answer to it."""
    _, _, call, sample = draw(st.sampled_from(SAMPLES))
    return call, draw(responses(sample))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(answered=answers())
def test_any_answer_gives_a_value_or_one_of_our_errors_and_never_the_key(
    answered: tuple[Call[Any], httpx.Response],
) -> None:
    call, response = answered
    try:
        value = read_response(call, PIPELINE.response_of(response, response.content))
    except SequentumError as raised:
        error: SequentumError | None = raised
        told = "".join(traceback.format_exception(raised)) + repr(vars(raised))
    else:
        error = None
        told = repr(value)

    assert KEY not in told
    assert error is not None or 200 <= response.status_code < 300
    assert error is None or (error.__context__ is None and len(str(error)) < 2000)
