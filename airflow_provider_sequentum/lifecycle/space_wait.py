"""Waiting on a worker for many runs at once."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.lifecycle.procedure import Procedure, now, sleep
from airflow_provider_sequentum.runs.wait import PollOutcome, RunPoller, WaitSpec, look

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.runs import Run

WaitResult = tuple[PollOutcome, "Run | None"] | SequentumError
"""Why one wait is over and the run's last record, or why it could not go on."""


def wait_for_ends(all_terms: Sequence[WaitSpec]) -> Procedure[list[WaitResult]]:
    """
    Wait until every run has ended or its deadline has passed; a wait that can't go on ends with its error.

    :return: the results in the order of the terms.
    """
    waits = [RunPoller(terms) for terms in all_terms]
    results: dict[int, WaitResult] = {}
    next_looks: dict[int, datetime] = dict.fromkeys(range(len(waits)), (yield from now()))
    while next_looks:
        number, moment = min(next_looks.items(), key=lambda item: (item[1], item[0]))
        yield from sleep(max((moment - (yield from now())).total_seconds(), 0.0))
        try:
            verdict = yield from look(waits[number])
        except SequentumError as error:
            results[number] = error
        else:
            if verdict.outcome is not None:
                results[number] = (verdict.outcome, waits[number].run)
        if number in results:
            del next_looks[number]
        else:
            present = yield from now()
            next_looks[number] = present + timedelta(seconds=waits[number].pause(present))
    return [results[number] for number in range(len(waits))]
