from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from airflow_provider_sequentum import exceptions, retry_rules
from airflow_provider_sequentum.api import errors
from airflow_provider_sequentum.retry_rules import retry_after, sequentum_retry_policy

retry_policy = pytest.importorskip("airflow.sdk.definitions.retry_policy", reason="retry policies need Airflow 3.3")
FAIL, RETRY, DEFAULT = retry_policy.RetryAction.FAIL, retry_policy.RetryAction.RETRY, retry_policy.RetryAction.DEFAULT
MINUTE = timedelta(minutes=1)


def status_error(status_code: int, retry_after: float | None = None) -> errors.HttpStatusError:
    return errors.HttpStatusError("no", status_code=status_code, retry_after=retry_after)


def unavailable(cause: BaseException) -> exceptions.SequentumUnavailable:
    with pytest.raises(exceptions.SequentumUnavailable) as caught, exceptions.client_errors_as_exceptions("c"):
        raise cause
    return caught.value


EXPECTED: list[tuple[BaseException, Any, timedelta | None]] = [
    (exceptions.SequentumUnavailable("no"), RETRY, 2 * MINUTE),
    (unavailable(status_error(429)), RETRY, MINUTE),
    (unavailable(status_error(503, retry_after=90)), RETRY, timedelta(seconds=90)),
    (errors.SequentumConfigurationError("no"), FAIL, None),
    *((status_error(status), FAIL, None) for status in (400, 401, 402, 403, 404, 405, 409, 418, 422)),
    (errors.RefusedByServer("no"), FAIL, None),
    (status_error(429), RETRY, MINUTE),
    (status_error(429, retry_after=7), RETRY, timedelta(seconds=7)),
    (errors.ConnectionNotMade("no"), RETRY, 2 * MINUTE),
    # The service may have acted: only an operator looks before it repeats anything.
    (errors.ResponseLost("no"), DEFAULT, None),
    (status_error(503, retry_after=7), DEFAULT, None),
    (exceptions.AgentRunFailure("no"), DEFAULT, None),
    (exceptions.AgentRunTimeout("no"), DEFAULT, None),
    (ValueError("no"), DEFAULT, None),
]


@pytest.mark.parametrize(("exception", "action", "delay"), EXPECTED, ids=lambda value: type(value).__name__)
def test_what_the_policy_decides(exception: BaseException, action: Any, delay: timedelta | None) -> None:
    decision = sequentum_retry_policy().evaluate(exception, 1, 3)
    assert (decision.action, decision.retry_delay) == (action, delay)


def test_rules_of_the_author_decide_where_the_policy_does_not() -> None:
    rule = retry_policy.RetryRule(exception=[ValueError, exceptions.SequentumUnavailable], action=FAIL)
    policy = sequentum_retry_policy(rule)
    assert policy.evaluate(ValueError("no"), 1, 3).action is FAIL
    assert policy.evaluate(exceptions.SequentumUnavailable("no"), 1, 3).action is RETRY
    assert policy.serialize()["rules"] == [rule.serialize()]


def test_the_services_own_delay_is_found_behind_what_it_caused() -> None:
    lost_sight = exceptions.SequentumUnavailable("The run is still running.")
    lost_sight.__cause__ = unavailable(status_error(503, retry_after=90.0))
    assert retry_after(lost_sight) == timedelta(seconds=90)
    assert "asks to wait 90 s" in str(sequentum_retry_policy().evaluate(lost_sight, 1, 3).reason)


def test_delays_can_be_chosen() -> None:
    policy = sequentum_retry_policy(rate_limited_delay=5 * MINUTE, unavailable_delay=7 * MINUTE)
    assert policy.evaluate(status_error(429), 1, 3).retry_delay == 5 * MINUTE
    assert policy.evaluate(errors.ConnectionNotMade("no"), 1, 3).retry_delay == 7 * MINUTE


def test_an_operator_takes_the_policy() -> None:
    from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator

    operator = StartAgentRunOperator(task_id="t", agent_id=7, retry_policy=sequentum_retry_policy())
    assert operator.has_retry_policy


def test_older_airflow_is_told_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry_rules, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=r"need Airflow 3\.3"):
        sequentum_retry_policy()
