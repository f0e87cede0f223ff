"""A ready-made retry policy for Airflow 3.3.

The provider's exceptions already tell Airflow when a retry cannot help. The policy adds the delay: a request limit
resets within a minute, an outage of the service takes longer, and if the service says how long to wait, that is used.
The policy also handles the client's errors, for ``@task`` code that uses the client directly::

    from airflow_provider_sequentum.retry_rules import sequentum_retry_policy

    StartAgentRunOperator(task_id="extract", agent_id=7, retries=5, retry_policy=sequentum_retry_policy())
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING

from airflow_provider_sequentum.exceptions import SequentumUnavailable

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from airflow.sdk.definitions.retry_policy import RetryPolicy, RetryRule


def sequentum_retry_policy(
    *rules: RetryRule,
    rate_limited_delay: timedelta = timedelta(minutes=1),
    unavailable_delay: timedelta = timedelta(minutes=2),
) -> RetryPolicy:
    """Return the policy. For other exceptions, the task's own settings apply.

    :param rules: your own rules, for exceptions that the policy does not handle.
    :param rate_limited_delay: how long to wait if the key's request limit is used up and the service does not say.
    :param unavailable_delay: how long to wait if the service is unreachable or faulty and does not say.
    :raises RuntimeError: this Airflow is older than 3.3.
    """
    if find_spec("airflow.sdk") is None or find_spec("airflow.sdk.definitions.retry_policy") is None:
        raise RuntimeError("Retry policies need Airflow 3.3 or newer. Leave retry_policy out on older versions.")
    from airflow.sdk.definitions.retry_policy import ExceptionRetryPolicy, RetryAction, RetryDecision

    class SequentumRetryPolicy(ExceptionRetryPolicy):
        """Handles Sequentum's errors first, and then applies the author's rules."""

        def evaluate(
            self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
        ) -> RetryDecision:
            if is_final(exception):
                return RetryDecision.fail("Sequentum refused it, and would refuse a retry as well")
            if not is_passing(exception):
                return super().evaluate(exception, try_number, max_tries, context)
            if (asked := retry_after(exception)) is not None:
                return RetryDecision.retry(asked, f"Sequentum asks to wait {asked.total_seconds():.0f} s")
            if any(getattr(error, "status_code", None) == 429 for error in _causes(exception)):
                return RetryDecision.retry(rate_limited_delay, "The request limit of the Sequentum key is used up")
            return RetryDecision.retry(unavailable_delay, "Sequentum is unreachable or broken")

    return SequentumRetryPolicy(rules=list(rules), default=RetryAction.DEFAULT)


def is_final(exception: BaseException) -> bool:
    """Return whether a retry would be refused as well: a wrong key, bad parameters, an archived agent."""
    # Airflow never asks a policy about an AirflowFailException, so only the client's errors are left.
    from airflow_provider_sequentum.api import errors

    if isinstance(exception, errors.HttpStatusError):
        return not exception.transient
    return isinstance(exception, (errors.SequentumConfigurationError, errors.RefusedByServer))


def is_passing(exception: BaseException) -> bool:
    """Return whether a retry may help and cannot do anything twice.

    After the client's other errors, the request may have taken effect. Only the operators of this provider check that
    before they repeat it.
    """
    from airflow_provider_sequentum.api import errors

    is_rate_limited = isinstance(exception, errors.HttpStatusError) and exception.status_code == 429
    return is_rate_limited or isinstance(exception, (SequentumUnavailable, errors.ConnectionNotMade))


def retry_after(exception: BaseException) -> timedelta | None:
    """Return how long the service asked to wait, from the exception or its causes; ``None`` if it did not say."""
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
