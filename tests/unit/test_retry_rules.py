from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_sequentum import exceptions, retry_rules
from airflow_provider_sequentum.api import errors
from airflow_provider_sequentum.retry_rules import retry_after, sequentum_retry_policy, sequentum_retry_rules

retry_policy = pytest.importorskip("airflow.sdk.definitions.retry_policy", reason="retry policies need Airflow 3.3")
FAIL, RETRY, DEFAULT = retry_policy.RetryAction.FAIL, retry_policy.RetryAction.RETRY, retry_policy.RetryAction.DEFAULT
MINUTE = timedelta(minutes=1)

EXPECTED: list[tuple[BaseException, Any, timedelta | None]] = [
    (exceptions.SequentumConnectionException("no"), FAIL, None),
    (exceptions.SequentumRequestRefused("no"), FAIL, None),
    (exceptions.CreditsTooLow("no"), FAIL, None),
    (exceptions.SequentumUnavailable("no"), RETRY, 2 * MINUTE),
    (errors.SequentumConfigurationError("no"), FAIL, None),
    (errors.Unauthorized("no"), FAIL, None),
    (errors.Forbidden("no"), FAIL, None),
    (errors.BadRequest("no"), FAIL, None),
    (errors.NotFound("no"), FAIL, None),
    (errors.Conflict("no"), FAIL, None),
    (errors.UnprocessableRequest("no"), FAIL, None),
    (errors.RefusedByServer("no"), FAIL, None),
    (errors.RateLimited("no"), RETRY, MINUTE),
    (errors.RateLimited("no", retry_after=7), RETRY, timedelta(seconds=7)),
    (errors.ConnectionNotMade("no"), RETRY, 2 * MINUTE),
    # The service may have acted: only an operator looks before it repeats anything.
    (errors.AnswerLost("no"), DEFAULT, None),
    (errors.ServerError("no", retry_after=7), DEFAULT, None),
    (exceptions.AgentRunFailure("no"), DEFAULT, None),
    (exceptions.AgentRunTimeout("no"), DEFAULT, None),
    (ValueError("no"), DEFAULT, None),
]


@pytest.mark.parametrize(("exception", "action", "delay"), EXPECTED, ids=lambda value: type(value).__name__)
def test_what_the_policy_decides(exception: BaseException, action: Any, delay: timedelta | None) -> None:
    decision = sequentum_retry_policy().evaluate(exception, 1, 3)
    assert (decision.action, decision.retry_delay) == (action, delay)


def test_the_rules_agree_with_the_exceptions() -> None:
    # What Airflow fails at once must not be retried by a rule either.
    for rule in sequentum_retry_rules():
        assert rule.action is FAIL or not any(
            issubclass(k, AirflowFailException) for k in rule._resolve_exception_classes()
        )


def test_every_rule_names_exceptions_that_exist() -> None:
    rules = sequentum_retry_rules()
    assert all(len(rule._resolve_exception_classes()) == len(rule._specs) for rule in rules)
    assert [type(rule).deserialize(rule.serialize()).serialize() for rule in rules] == [r.serialize() for r in rules]


def test_the_services_own_delay_is_found_behind_what_it_caused() -> None:
    with pytest.raises(exceptions.SequentumUnavailable) as caught, exceptions.client_errors_as_exceptions("c"):
        raise errors.ServerError("broken", retry_after=90.0)
    lost_sight = exceptions.SequentumUnavailable("The run goes on.")
    lost_sight.__cause__ = caught.value
    assert retry_after(lost_sight) == timedelta(seconds=90)
    decision = sequentum_retry_policy().evaluate(lost_sight, 1, 3)
    assert (decision.action, decision.retry_delay) == (RETRY, timedelta(seconds=90))
    assert "asks to wait 90 s" in str(decision.reason)


def test_delays_can_be_chosen() -> None:
    policy = sequentum_retry_policy(rate_limited_delay=5 * MINUTE, unavailable_delay=7 * MINUTE)
    assert policy.evaluate(errors.RateLimited("no"), 1, 3).retry_delay == 5 * MINUTE
    assert policy.evaluate(errors.ConnectionNotMade("no"), 1, 3).retry_delay == 7 * MINUTE


def test_an_operator_takes_the_policy() -> None:
    from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator

    operator = StartAgentRunOperator(task_id="t", agent_id=7, retry_policy=sequentum_retry_policy())
    assert operator.has_retry_policy


def test_older_airflow_is_told_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry_rules, "find_spec", lambda name: None)
    for make in (retry_rules.sequentum_retry_rules, retry_rules.sequentum_retry_policy):
        with pytest.raises(RuntimeError, match=r"need Airflow 3\.3"):
            make()
