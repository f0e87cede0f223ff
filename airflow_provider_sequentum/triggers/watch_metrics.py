"""What a watcher tells the operators of Airflow: metrics, and a line a minute in the triggerer's debug log."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import Stats

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.runs import Run

LINE_INTERVAL = 60.0
"""Seconds between two lines, and between two values of the gauges."""

log = logging.getLogger(__name__)


class WatchMetrics:
    """
    Counts what a watcher does.

    Gauges: ``sequentum.watcher.waits``, ``sequentum.watcher.agents``. Counters: ``sequentum.watcher.requests``,
    ``sequentum.watcher.rate_limited``, ``sequentum.watcher.ended``. Timer: ``sequentum.watcher.lag``, from the end of a
    run by the service's clock to its detection by this machine's.

    :param sequentum_conn_id: the connection, which tags them.
    """

    def __init__(self, sequentum_conn_id: str) -> None:
        self._conn_id = sequentum_conn_id
        self._tags = {"conn_id": sequentum_conn_id}
        self.requests = 0
        self.next_line = float("-inf")
        self._refusals = 0
        self._lags: list[float] = []

    def begin(self, refusals: int) -> None:
        """
        Take in that requests are sent with a key from now on.

        :param refusals: how many requests with it this process had refused before.
        """
        self._refusals = refusals

    def ended(self, run: Run, now: datetime) -> None:
        """Count a run that was found to have ended."""
        Stats.incr("sequentum.watcher.ended", tags=self._tags)
        if run.end_time is not None:
            lag = max((now - run.end_time).total_seconds(), 0.0)
            self._lags.append(lag)
            Stats.timing("sequentum.watcher.lag", lag * 1000, tags=self._tags)

    def tell(self, now: float, waits: int, agents: int, refusals: int) -> None:
        """
        Publish what happened since the last time, if that was long enough ago.

        :param now: seconds by the steady clock.
        :param waits: how many waits there are.
        :param agents: how many agents they wait for.
        :param refusals: how many requests with the key this process had refused so far.
        """
        if now >= self.next_line:
            self.next_line = now + LINE_INTERVAL
            self._publish(waits, agents, refusals)

    def end(self, refusals: int) -> None:
        """Publish what is left to publish: nobody waits any more."""
        self._publish(0, 0, refusals)

    def _publish(self, waits: int, agents: int, refusals: int) -> None:
        refused = refusals - self._refusals
        Stats.gauge("sequentum.watcher.waits", waits, tags=self._tags)
        Stats.gauge("sequentum.watcher.agents", agents, tags=self._tags)
        Stats.incr("sequentum.watcher.requests", self.requests, tags=self._tags)
        Stats.incr("sequentum.watcher.rate_limited", refused, tags=self._tags)
        mean_lag = f", {sum(self._lags) / len(self._lags):.1f} s after the end on average" if self._lags else ""
        log.debug(
            "Connection %s: %d waits for %d agents. Since the last line: %d requests, %d refused for their rate, "
            "%d ends heard of%s.",
            self._conn_id, waits, agents, self.requests, refused, len(self._lags), mean_lag,
        )  # fmt: skip
        self.requests, self._refusals, self._lags = 0, refusals, []
