"""
Ready-made rules for the retry policies of Airflow 3.3.

The provider's exceptions tell Airflow by themselves what no retry can mend. What a rule adds is the delay: being rate
limited passes within a minute, a fault of the service takes longer, and where the service says how long, that counts.
The rules also know the client's own errors, for tasks that use the hook's client or the client library directly::

    from airflow_provider_sequentum.retry_rules import sequentum_retry_policy

    StartAgentRunOperator(task_id="extract", agent_id=7, retries=5, retry_policy=sequentum_retry_policy())

To go on with rules of your own, put them behind these: ``ExceptionRetryPolicy([*sequentum_retry_rules(), ...])``.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from airflow.sdk.definitions.retry_policy import RetryPolicy, RetryRule

_OWN = "airflow_provider_sequentum.exceptions."
_CLIENTS = "airflow_provider_sequentum.api.errors."

CONNECTION_IS_WRONG = [
    f"{_OWN}SequentumConnectionException",
    f"{_CLIENTS}SequentumConfigurationError",
    f"{_CLIENTS}Unauthorized",
    f"{_CLIENTS}Forbidden",
]
"""A retry sends the same key to the same host."""

REQUEST_IS_REFUSED = [
    f"{_OWN}SequentumRequestRefused",
    f"{_OWN}CreditsTooLow",
    f"{_CLIENTS}BadRequest",
    f"{_CLIENTS}NotFound",
    f"{_CLIENTS}MethodNotAllowed",
    f"{_CLIENTS}Conflict",
    f"{_CLIENTS}UnprocessableRequest",
    f"{_CLIENTS}RefusedByServer",
]
"""Bad parameters, no credits, an archived agent: a retry is refused as well."""

RATE_LIMITED = [f"{_CLIENTS}RateLimited"]
"""The key's window of requests is used up. Nothing was done."""

UNAVAILABLE = [f"{_OWN}SequentumUnavailable", f"{_CLIENTS}ConnectionNotMade"]
"""
The service is out of reach or broken. The client's other errors of this kind are left to the task's own settings: the
service may have acted, and only an operator of this provider looks before it repeats anything.
"""


def sequentum_retry_rules(
    *, rate_limited_delay: timedelta = timedelta(minutes=1), unavailable_delay: timedelta = timedelta(minutes=2)
) -> list[RetryRule]:
    """
    Return rules for an ``ExceptionRetryPolicy``.

    :param rate_limited_delay: how long to wait when the key's request limit is used up.
    :param unavailable_delay: how long to wait when the service is out of reach or broken.
    :raises RuntimeError: this Airflow is older than 3.3.
    """
    _check_version()
    from airflow.sdk.definitions.retry_policy import RetryAction, RetryRule

    def rule(exceptions: list[str], reason: str, delay: timedelta | None = None) -> RetryRule:
        action = RetryAction.FAIL if delay is None else RetryAction.RETRY
        return RetryRule(exception=[*exceptions], action=action, retry_delay=delay, reason=reason)

    return [
        rule(CONNECTION_IS_WRONG, "The Sequentum connection is wrong: a retry can't mend it"),
        rule(REQUEST_IS_REFUSED, "Sequentum refused the request as it stands: a retry can't mend it"),
        rule(RATE_LIMITED, "The request limit of the Sequentum key is used up", rate_limited_delay),
        rule(UNAVAILABLE, "Sequentum is out of reach or broken", unavailable_delay),
    ]


def sequentum_retry_policy(
    *, rate_limited_delay: timedelta = timedelta(minutes=1), unavailable_delay: timedelta = timedelta(minutes=2)
) -> RetryPolicy:
    """
    Return a policy of these rules that waits as long as the service asks to (``Retry-After``) where it does.

    :param rate_limited_delay: how long to wait when the key's request limit is used up and the service doesn't say.
    :param unavailable_delay: how long to wait when the service is out of reach or broken and doesn't say.
    :raises RuntimeError: this Airflow is older than 3.3.
    """
    _check_version()
    from airflow.sdk.definitions.retry_policy import ExceptionRetryPolicy, RetryAction, RetryDecision

    class SequentumRetryPolicy(ExceptionRetryPolicy):
        """The rules, with the service's own delay."""

        def evaluate(
            self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
        ) -> RetryDecision:
            decision = super().evaluate(exception, try_number, max_tries, context)
            hint = retry_after(exception)
            if decision.action is not RetryAction.RETRY or hint is None:
                return decision
            return RetryDecision.retry(hint, f"{decision.reason}; it asks to wait {hint.total_seconds():.0f} s")

    return SequentumRetryPolicy(
        sequentum_retry_rules(rate_limited_delay=rate_limited_delay, unavailable_delay=unavailable_delay)
    )


def retry_after(exception: BaseException) -> timedelta | None:
    """Return how long the service asked to wait, told by the exception or by what caused it."""
    for error in _causes(exception):
        seconds = getattr(error, "retry_after", None)
        if seconds is not None:
            return timedelta(seconds=float(seconds))
    return None


def _causes(exception: BaseException) -> Iterator[BaseException]:
    error: BaseException | None = exception
    while error is not None:
        yield error
        error = error.__cause__


def _check_version() -> None:
    if find_spec("airflow.sdk") is None or find_spec("airflow.sdk.definitions.retry_policy") is None:
        raise RuntimeError("Retry policies need Airflow 3.3 or newer. Leave retry_policy out on older versions.")
