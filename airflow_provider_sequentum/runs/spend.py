"""Limiting the credits that runs use: ``min_credits`` must be left, and ``credit_limit`` must not be exceeded.

The tasks of a DAG run share a limit without a lock. Each task first announces the start that it wants to make, and then
reads the announcements of the others. Among the tasks that start, the one that announced last has read all other
announcements, so their sum is within the limit.

Based on https://docs.sequentum.com/api-reference/billing.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_DOWN, Decimal
from enum import Enum
from typing import TYPE_CHECKING

from airflow_provider_sequentum import api
from airflow_provider_sequentum.exceptions import (
    CreditLimitReached,
    CreditsTooLow,
    SequentumRequestRefused,
    SequentumUnavailable,
)
from airflow_provider_sequentum.jobs.siblings import Announced, Announcement, PlannedStart
from airflow_provider_sequentum.runs.cost import BILLING_PAGE
from airflow_provider_sequentum.runs.describe import comma_list, counted, format_credits
from airflow_provider_sequentum.runs.service_time import confirmed_time

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.billing import RunCost
    from airflow_provider_sequentum.jobs.port import Port, Sender
    from airflow_provider_sequentum.runs.record import RunConfig, RunPolicies

HISTORY = timedelta(days=30)
"""Age of the oldest bill that a forecast is based on."""

MAX_SAMPLES = 20
"""Maximum number of the agent's last runs that a forecast is based on."""

LOOK_INTERVAL = 3.0
"""Seconds between two reads of the announcements while only undecided ones prevent a decision."""

MAX_LOOKS = 20
"""Number of reads after which a task counts undecided announcements as decided."""

MAX_AGENTS = 50
"""Maximum number of agents in a space with a limit: each takes one request, and a key has 100 requests a minute."""

CREDIT = Decimal("0.000001")
"""The unit to which forecasts are rounded, so that their sum is exact."""

log = logging.getLogger(__name__)


# Decisions


class Verdict(Enum):
    """What the announcements mean for a start."""

    START = "start"
    REFUSE = "refuse"
    WAIT = "wait"
    """Keep the announcement, because it makes others withdraw theirs, and read again."""
    YIELD = "yield"
    """Withdraw the announcement for now, because others come first, and read again."""


@dataclass(frozen=True, slots=True)
class Tally:
    """The expected spending including a start, in credits.

    :param forecast: the forecast of the start.
    :param billed: what was billed in the period; 0 for a DAG run.
    :param started: the cost of the decided starts as far as ``billed`` lacks it, including those of earlier attempts of
        this task: what is billed for a run that has ended, or else the forecast.
    :param starts: the number of these starts.
    :param silent: one forecast for each task that ended without an announcement: it may have started a run.
    :param ahead: the forecasts of the undecided starts that come before this one.
    :param undecided: the forecasts of all undecided starts of other tasks.
    :param awaits_announcements: whether a running task has not announced anything yet. It may be a retry, whose
        announcement Airflow has deleted.
    """

    forecast: Decimal
    billed: Decimal = Decimal(0)
    started: Decimal = Decimal(0)
    starts: int = 0
    silent: Decimal = Decimal(0)
    ahead: Decimal = Decimal(0)
    undecided: Decimal = Decimal(0)
    awaits_announcements: bool = False

    @property
    def certain(self) -> Decimal:
        """The sum including this start, without the undecided starts of others."""
        return self.billed + self.started + self.silent + self.forecast

    def decide(self, limit: Decimal, *, is_last_look: bool = False) -> Verdict:
        """Return what to do.

        :param is_last_look: whether there is no time to read again.
        """
        fits = self.certain + self.undecided <= limit
        if self.certain > limit:
            return Verdict.REFUSE
        if is_last_look:
            return Verdict.START if fits else Verdict.REFUSE
        if self.awaits_announcements:
            return Verdict.WAIT
        if fits:
            return Verdict.START
        return Verdict.YIELD if self.certain + self.ahead > limit else Verdict.WAIT


def tally(
    own: Announcement, announced: Announced, bills: Sequence[Bill], forecast: Decimal, *, is_last_look: bool = False
) -> Tally:
    """Add up what the tasks of a DAG run have announced.

    :param own: what this task has announced.
    :param announced: what the others have announced.
    :param bills: the bills of the agents to be started. What is billed for a start replaces its forecast.
    :param forecast: the forecast to use for a start that has none.
    :param is_last_look: count running tasks that have not announced anything as if they had ended.
    """
    bill_of_agent = {bill.agent_id: bill for bill in bills}

    def unbilled(start: PlannedStart) -> Decimal:
        """Return what the start adds to the amount billed in the period."""
        price = forecast if start.credits is None else Decimal(str(start.credits))
        bill = bill_of_agent.get(start.agent_id)
        if bill is None:  # a limit for a period applies to the agents of these bills; 0 may have been one of them
            return price if bills[0].since is None or not start.agent_id else Decimal(0)
        billed = bill.costs.get(start.run_id or 0, Decimal(0))
        price = billed if start.run_id in bill.ended else max(billed, price)
        return price if bill.since is None else price - billed

    def total(starts: Sequence[PlannedStart]) -> Decimal:
        return sum(map(unbilled, starts), Decimal(0))

    others = sorted(announced.others, key=_place)
    decided = [start for each in (own, *others) for start in each.starts]
    pending = [(_place(each), total(each.pending)) for each in others]
    silent = announced.silent_ended + (announced.silent_running if is_last_look else 0)
    return Tally(
        forecast=forecast,
        billed=sum((bill.spent for bill in bills), Decimal(0)),
        started=total(decided),
        starts=len([start for start in decided if bills[0].since is None or unbilled(start)]),
        silent=silent * forecast,
        ahead=sum((each for place, each in pending if place < _place(own)), Decimal(0)),
        undecided=sum((each for _, each in pending), Decimal(0)),
        awaits_announcements=announced.silent_running > 0,
    )


def _place(announcement: Announcement) -> tuple[str, int]:
    return announcement.task_id, announcement.map_index


@dataclass(frozen=True, slots=True)
class Bill:
    """The billing data of an agent.

    :param costs: what was billed for each run, oldest first.
    :param ended: the runs that had ended when they were billed. The bill of another run is only a part of its cost.
    :param since: the start of the period; ``None`` if the limit is for a DAG run.
    :param spent: what was spent in the period.
    """

    agent_id: int
    costs: Mapping[int, Decimal]
    ended: Collection[int] = ()
    since: datetime | None = None
    spent: Decimal = Decimal(0)

    @property
    def samples(self) -> list[Decimal]:
        """The costs of the last runs that have ended; of all, if billing does not say which have."""
        ended = self.ended or self.costs.keys()
        return [cost for run_id, cost in self.costs.items() if run_id in ended][-MAX_SAMPLES:]

    @property
    def mean(self) -> Decimal | None:
        """The forecast of what the next run costs; ``None`` without samples."""
        samples = self.samples
        return (sum(samples, Decimal(0)) / len(samples)).quantize(CREDIT) if samples else None


def planned_starts(bills: Sequence[Bill], limit: Decimal) -> tuple[PlannedStart, ...]:
    """Return a start of each agent with its forecast: the mean cost of the agent's last runs.

    Agents without a billed run share what is left of the limit. This way, nothing else is started at the same time, and
    their bills are the basis of the next forecasts.
    """
    means = [bill.mean for bill in bills]
    left = max(limit - sum((mean for mean in means if mean is not None), Decimal(0)), Decimal(0))
    share = (left / max(means.count(None), 1)).quantize(CREDIT, ROUND_DOWN)
    costs = [share if mean is None else mean for mean in means]
    return tuple(
        PlannedStart(agent_id=bill.agent_id, credits=float(cost)) for bill, cost in zip(bills, costs, strict=True)
    )


def basis_of(bills: Sequence[Bill]) -> str:
    """Return what a forecast is based on, for messages."""
    unknown = [bill.agent_id for bill in bills if bill.mean is None]
    if len(bills) == 1 and unknown:
        return "the whole limit, because no run of the agent is billed yet"
    if len(bills) == 1:
        return f"the mean of its last {counted(len(bills[0].samples), 'billed run')}"
    known = [f"agent {bill.agent_id}: {_shown(bill.mean)}" for bill in bills if bill.mean is not None]
    means = f"the means of their last billed runs, {comma_list(known)}" if known else ""
    agents = "agent" if len(unknown) == 1 else "agents"
    rest = f"what the limit leaves, because no run of {agents} {comma_list(unknown)} is billed yet" if unknown else ""
    return f"of {counted(len(bills), 'agent')}: {'; and '.join(filter(None, (means, rest)))}"


def bill_of(agent_id: int, rows: Iterable[RunCost], since: datetime | None) -> Bill:
    """Add up the bills of an agent. A run may be billed in parts: time, proxies, export."""
    known = [(row.date or row.start_time, row) for row in rows if row.cost is not None]
    known.sort(key=lambda pair: (pair[0] is not None, pair[0] or datetime.min.replace(tzinfo=UTC), pair[1].run_id))
    costs: dict[int, Decimal] = {}
    spent = Decimal(0)
    for moment, row in known:
        cost = row.cost or Decimal(0)
        costs[row.run_id] = costs.get(row.run_id, Decimal(0)) + cost
        if since is not None and (moment is None or moment >= since):
            spent += cost
    ended = {row.run_id for _, row in known if row.end_time is not None}
    return Bill(agent_id, costs, ended, since, spent)


def start_of(period: str, now: datetime) -> datetime | None:
    """Return the start of the ``day`` or ``month``, in UTC; ``None`` for ``dag_run``."""
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return {"dag_run": None, "day": midnight, "month": midnight.replace(day=1)}[period]


# The procedures


def check_credits(port: Sender, min_credits: float, what: str) -> None:
    """Check that enough credits are left.

    :param min_credits: the minimum.
    :param what: what is to be started.
    :raises CreditsTooLow: fewer are left.
    :raises SequentumError: the balance cannot be read. A task with this check must not start anything without it.
    """
    available = port.send(api.billing.credits()).available_credits
    if available < Decimal(str(min_credits)):
        raise CreditsTooLow(
            f"{what} was not started: the account has {format_credits(available)} left, fewer than "
            f"min_credits={min_credits:g}. Buy credits, then clear the task."
        )
    log.info("The account has %s left.", format_credits(available))


def reserve_credits(
    port: Port, config: RunPolicies, agents: Sequence[int], name: str, before: tuple[PlannedStart, ...]
) -> tuple[PlannedStart, ...]:
    """Announce the starts of agents, and return only if all of them are within the limit.

    :param agents: the agent, or all agents of a space, which one request starts.
    :param name: their name in messages.
    :param before: the starts that this task has already made.
    :return: these and the new ones.
    :raises CreditLimitReached: the sum would exceed the limit. The announcement has been withdrawn.
    :raises SequentumRequestRefused: there are more bills than can be read.
    :raises SequentumError: billing cannot be read. A task with a limit must not start anything without it.
    """
    if config.credit_limit is None:
        return before
    limit = Decimal(str(config.credit_limit))
    bills = read_bills(port, config, agents, name)
    starts = planned_starts(bills, limit)
    own = Announcement(starts=before)
    try:
        _wait_for_room(port, config, limit, bills, starts, own, name)
    except CreditLimitReached:
        raise
    except Exception:
        # An announcement that stays undecided would block the other tasks.
        with suppress(Exception):
            port.announce(own)
        raise
    return (*before, *starts)


def _wait_for_room(
    port: Port,
    config: RunPolicies,
    limit: Decimal,
    bills: Sequence[Bill],
    starts: tuple[PlannedStart, ...],
    own: Announcement,
    name: str,
) -> None:
    """Announce starts, and return once they are within the limit; see :func:`reserve_credits`.

    :param own: the announcement without these starts.
    """
    asking = own.updated(pending=starts)
    forecast = sum((Decimal(str(start.credits)) for start in starts), Decimal(0))
    place: Announcement | None = None
    for look in range(1, MAX_LOOKS + 1):
        is_last = look == MAX_LOOKS
        # After a withdrawal, check before announcing again, so that tasks that come first are not blocked.
        if place is not None and not place.pending and not is_last:
            found = tally(place, port.announcements(), bills, forecast)
            if found.decide(limit) is Verdict.YIELD:
                port.sleep(LOOK_INTERVAL)
                continue
        place = port.announce(asking)
        found = tally(place, port.announcements(), bills, forecast, is_last_look=is_last)
        verdict = found.decide(limit, is_last_look=is_last)
        if verdict is Verdict.START:
            port.announce(Announcement(starts=(*own.starts, *starts)))
            log.info("Within the credit limit: %s.", _arithmetic(found, bills, config))
            return
        if verdict is Verdict.REFUSE:
            port.announce(own)
            raise _limit_reached(found, bills, config, name)
        if verdict is Verdict.YIELD:
            place = port.announce(own)
        log.info("Waiting for other tasks of the DAG run to decide whether they start a run.")
        port.sleep(LOOK_INTERVAL)
    raise AssertionError("The last look decides.")


def check_credit_limit(port: Sender, config: RunConfig) -> None:
    """Refuse a start that would exceed the limit of a day or a month, based on billing alone. Nothing is announced.

    For code that does not have its own task. Raises the same as :func:`reserve_credits`.
    """
    limit = Decimal(str(config.credit_limit))
    bill = read_bill(port, config, config.agent_id)
    forecast = limit if bill.mean is None else bill.mean
    found = Tally(forecast, billed=bill.spent)
    if found.decide(limit) is Verdict.REFUSE:
        raise _limit_reached(found, [bill], config, f"Agent {config.agent_id}")


def read_bills(port: Sender, config: RunPolicies, agents: Sequence[int], name: str) -> list[Bill]:
    """Read the bills of agents, with one request for each, because the service only lists bills by agent.

    Raises the same as :func:`reserve_credits`.
    """
    if len(agents) > MAX_AGENTS:
        raise SequentumRequestRefused(
            f"{name} has {len(agents)} agents. credit_limit can be checked for at most {MAX_AGENTS} agents, because "
            "each takes a request. Nothing was started. Set min_credits instead."
        )
    return [read_bill(port, config, agent_id) for agent_id in agents]


def read_bill(port: Sender, config: RunPolicies, agent_id: int) -> Bill:
    """Read the bills of an agent with one request."""
    now = port.now()
    # Billing uses days of an undocumented time zone, and its clock may be a day off as well.
    first = min(now - HISTORY, start_of(config.credit_limit_period, now - timedelta(days=1)) or now) - timedelta(days=1)
    reply = port.exchange(
        api.billing.list_agent_runs(
            agent_id,
            start_date=first.date(),
            end_date=(now + timedelta(days=2)).date(),
            records_per_page=BILLING_PAGE,
        )
    )
    # If the date were in the future, nothing would seem to have been spent in the period.
    moment = now if start_of(config.credit_limit_period, now) is None else confirmed_time(port, reply.served_at or now)
    page, since = reply.value, start_of(config.credit_limit_period, moment)
    if since is not None and page.unreadable:
        raise SequentumUnavailable(
            f"{counted(page.unreadable, 'bill')} of agent {agent_id} cannot be read, so credit_limit_period="
            f"{config.credit_limit_period!r} cannot be checked. Nothing was started."
        )
    if since is not None and page.left_out:
        raise SequentumRequestRefused(
            f"Billing has {page.total_record_count} entries for agent {agent_id} since {first.date()}, but one request "
            f"returns only {len(page)}, so credit_limit_period={config.credit_limit_period!r} cannot be checked. "
            "Nothing was started. Set credit_limit_period='dag_run'."
        )
    return bill_of(agent_id, page, since)


def _limit_reached(found: Tally, bills: Sequence[Bill], config: RunPolicies, name: str) -> CreditLimitReached:
    return CreditLimitReached(
        f"{name} was not started: {_arithmetic(found, bills, config)}. Raise the limit, then clear the task.",
        agent_id=bills[0].agent_id if len(bills) == 1 else None,
    )


def _arithmetic(found: Tally, bills: Sequence[Bill], config: RunPolicies) -> str:
    period, since = config.credit_limit_period, bills[0].since
    parts = [f"a forecast of {format_credits(found.forecast)} ({basis_of(bills)})"]
    if since is not None:
        parts.append(f"{_shown(found.billed)} billed since {since:%Y-%m-%d}")
    if found.starts:
        unbilled = "" if since is None else ", not billed yet"
        parts.append(f"{_shown(found.started)} for {counted(found.starts, 'start')} of this DAG run{unbilled}")
    if found.silent:
        parts.append(f"{_shown(found.silent)} for tasks that have ended or are running without an announcement")
    total = found.certain
    if found.undecided:
        parts.append(f"{_shown(found.undecided)} for undecided starts that other tasks have announced")
        total += found.undecided
    relation = "within" if total <= Decimal(str(config.credit_limit)) else "more than"
    limit = f"credit_limit={config.credit_limit:g} (credit_limit_period={period!r})"
    return f"{' + '.join(parts)} = {_shown(total)}, {relation} {limit}"


def _shown(credits_: Decimal) -> str:
    return f"{float(credits_):.10g}"
