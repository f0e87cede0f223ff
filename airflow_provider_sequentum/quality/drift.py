"""Drift: what is unusual about a run, compared with the profiles of the agent's last good runs.

Every number of a profile has a *band*: the range that it had in those runs, widened by a fraction of the range and by
the sampling noise of that number of rows. Shares are compared on an arcsine scale, on which the noise does not depend
on the share, and the number of records on a logarithmic scale. A distribution is compared with the most similar of
those runs, and has to be about as similar to it as they are to each other. So seasons, weekdays and new products stay
within the band, but a run that is unlike any earlier run does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from statistics import median

from airflow_provider_sequentum.quality.profile import (
    FREQUENT,
    QUANTILES,
    Change,
    ColumnProfile,
    Distribution,
    Pair,
    Profile,
)

MIN_RUNS = 5
"""With fewer earlier runs, drift does not fail a task."""


@dataclass(frozen=True)
class Drift:
    """One number of a run outside of its band.

    :param column: the column; ``None`` if the number is about whole records.
    :param what: what is unusual.
    :param observed: the number, as text.
    :param expected: the band, as text.
    :param score: the distance of the number from the band, in units of the allowed distance; always above 1.
    """

    column: str | None
    what: str
    observed: str
    expected: str
    score: float

    def __str__(self) -> str:
        return f"{self.what}: {self.observed}, expected {self.expected}"


@dataclass(frozen=True)
class Allowance:
    """How far a number may be outside of the range that it had before.

    :param widening: a fraction of that range.
    :param noise: a number of standard errors.
    :param least: a constant, on the scale of the number.
    """

    widening: float
    noise: float
    least: float


SHARE = Allowance(widening=0.8, noise=2.0, least=0.06)

VOLUME = Allowance(widening=0.5, noise=1.0, least=0.04)
QUANTILE = Allowance(widening=0.8, noise=2.0, least=0.03)
DISTANCE = Allowance(widening=0.6, noise=1.2, least=0.03)
CHANGE = Allowance(widening=0.8, noise=2.5, least=0.06)


def find_drift(profile: Profile, history: Sequence[Profile]) -> list[Drift]:
    """Return what is unusual about a run, the most unusual first.

    :param history: profiles of earlier good runs, the oldest first.
    """
    if not history:
        return []
    found = [*_table_drift(profile, history)]
    for name in dict.fromkeys([*profile.columns, *(name for each in history for name in each.columns)]):
        found += _column_drift(name, profile, history)
    found += _pair_drift(profile, history)
    if profile.change is not None:
        changes = [each.change for each in history if each.change is not None]
        found += _change_drift(profile.change, changes)
    return sorted(found, key=lambda drift: -drift.score)


def _angle(share: float) -> float:
    return math.asin(math.sqrt(min(max(share, 0.0), 1.0)))


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"


def _figure(number: float) -> str:
    return f"{number:,.6g}"


def _band(
    column: str | None, what: str, now: float, before: Sequence[float], rows: int, allowance: Allowance
) -> Iterator[Drift]:
    """Compare a share with its band."""
    if min(before) <= now <= max(before):
        return
    score = _score(_angle(now), [_angle(each) for each in before], allowance, 0.5 / math.sqrt(max(rows, 1)))
    if score > 1:
        yield Drift(column, what, _percent(now), _range(before, _percent), score)


def _score(here: float, there: Sequence[float], allowance: Allowance, error: float) -> float:
    low, high = min(there), max(there)
    allowed = allowance.widening * (high - low) + allowance.noise * error + allowance.least
    return max(low - here, here - high, 0.0) / allowed


def _range(before: Sequence[float], show: Callable[[float], str]) -> str:
    low, high = show(min(before)), show(max(before))
    return low if low == high else f"{low} to {high}"


def _table_drift(profile: Profile, history: Sequence[Profile]) -> Iterator[Drift]:
    counts = [each.records for each in history]
    error = 1 / math.sqrt(max(min(counts), 1))
    score = _score(math.log1p(profile.records), [math.log1p(count) for count in counts], VOLUME, error)
    if score > 1:
        yield Drift(None, "records", _figure(profile.records), _range(counts, _figure), score)
    yield from _band(
        None, "duplicate records", profile.duplicates, [each.duplicates for each in history], profile.rows, SHARE
    )
    same = [each.run_id for each in history if each.fingerprint and each.fingerprint == profile.fingerprint]
    repeats = sum(a.fingerprint == b.fingerprint for a, b in pairwise(history))
    if same and not repeats and len(history) > 1:
        yield Drift(None, "stale", f"the same records as run {same[-1]}", "different records", 10.0)


def _column_drift(name: str, profile: Profile, history: Sequence[Profile]) -> Iterator[Drift]:
    known = [each.columns[name] for each in history if name in each.columns]
    if name not in profile.columns:
        if len(known) == len(history) or len(known) >= MIN_RUNS:
            yield Drift(name, "column", "missing", f"present in {len(known)} of {len(history)} runs", 10.0)
        return
    if not known:
        return
    yield from _known_column_drift(name, profile.columns[name], known, profile.rows)


def _known_column_drift(name: str, now: ColumnProfile, known: Sequence[ColumnProfile], rows: int) -> Iterator[Drift]:
    yield from _band(name, "filled", now.filled, [each.filled for each in known], rows, SHARE)
    # In a large table, the few filled cells of a column may be outside of the sample.
    past = [each for each in known if each.lengths]
    if not past or not now.lengths:
        return
    cells = max(1, round(now.filled * rows))
    judged = ["distinct", "numeric", "repeated"]
    if min(each.lengths[3] for each in past) > _SHORT:
        judged.append("longest")
    for what in judged:
        yield from _band(name, _NAMES[what], getattr(now, what), [getattr(each, what) for each in past], cells, SHARE)
    for feature in sorted({*now.shares, *(feature for each in past for feature in each.shares)}):
        shares = [each.shares.get(feature, 0.0) for each in past]
        yield from _band(name, f"cells with {feature}", now.shares.get(feature, 0.0), shares, cells, SHARE)
    yield from _ends(name, "length", now.lengths, [each.lengths for each in past])
    numeric = [each.numbers for each in past if each.numeric > 0.5 and each.numbers]
    # In a date, the day or the month may come first, which is ambiguous for the first twelve days of a month.
    is_ambiguous = any(each.kinds.get("written date", 0.0) > 0.2 for each in (now, *past))
    if now.numeric > 0.5 and numeric and not is_ambiguous:
        yield from _ends(name, "number", now.numbers, numeric)
        # With few different numbers, a quantile jumps from one to the next, so only their distribution is compared.
        if min(each.distinct * each.filled * min(rows, 1000) for each in past) > _FEW_VALUES:
            yield from _quantiles(name, now.numbers, numeric, cells)
    for what in ("kinds", "values", "shapes", "words", "endings", "sizes", "bins"):
        yield from _distance(name, what, now, past, cells)


_NAMES = {
    "distinct": "different values",
    "numeric": "cells with a number",
    "longest": "cells as long as the longest",
    "repeated": "cells equal to the one before",
}
_QUANTILES = {1: "5 %", 2: "25 %", 3: "median", 4: "75 %", 5: "95 %"}
_FEW_VALUES = 40
_SHORT = 12
_CERTAIN = 8
"""With this many expected events, it is practically impossible (0.03 %) that none occurs by chance."""


def _ends(column: str, what: str, now: Sequence[float], before: Sequence[Sequence[float]]) -> Iterator[Drift]:
    """Compare the smallest and the largest value. As single cells, they may exceed the range by its width."""
    spread = max(max(each[5] for each in before) - min(each[1] for each in before), 1.0)
    for place, sign in ((0, -1), (-1, 1)):
        there = [each[place] for each in before]
        excess = min(there) - now[place] if sign < 0 else now[place] - max(there)
        score = min(excess / (max(there) - min(there) + spread), _magnitudes_off(place, now, before))
        if score > 1:
            name = f"{what}, {'smallest' if sign < 0 else 'largest'}"
            yield Drift(column, name, _figure(now[place]), _range(there, _figure), score)


def _magnitudes_off(place: int, now: Sequence[float], before: Sequence[Sequence[float]]) -> float:
    """Score the largest number on a logarithmic scale.

    Prices of cars or flights span orders of magnitude: the largest of a few hundred is occasionally many times as large
    as in any earlier run, which the width of all values does not account for.
    """
    if place == 0 or min(min(each) for each in (now, *before)) <= 0:
        return math.inf
    there = [each[place] for each in before]
    spread = math.log(max(each[5] for each in before) / min(each[1] for each in before))
    return math.log(now[place] / max(there)) / (math.log(max(there) / min(there)) + max(spread, 1e-9))


def _quantiles(column: str, now: Sequence[float], before: Sequence[Sequence[float]], cells: int) -> Iterator[Drift]:
    spread = max(max(each[5] for each in before) - min(each[1] for each in before), 1e-9)
    for place, name in _QUANTILES.items():
        there = [each[place] for each in before]
        step = max((abs(a - b) for a, b in pairwise(there)), default=0.0)
        error = max(0.5 * spread, median(_slope(place, each) for each in before)) / math.sqrt(cells)
        allowed = (
            QUANTILE.widening * (max(there) - min(there)) + step + QUANTILE.noise * error + QUANTILE.least * spread
        )
        score = max(min(there) - now[place], now[place] - max(there), 0.0) / allowed
        if score > 1:
            yield Drift(column, f"number, {name}", _figure(now[place]), _range(there, _figure), score)


def _slope(place: int, numbers: Sequence[float]) -> float:
    """Return a quantile's standard error for one cell.

    The fewer cells there are around the quantile, as in a long tail, the larger the error is. It is estimated from the
    distances to both adjacent quantiles, one of which is too small there and the other one too large.
    """
    share = QUANTILES[place]
    below = (numbers[place] - numbers[place - 1]) / (share - QUANTILES[place - 1])
    above = (numbers[place + 1] - numbers[place]) / (QUANTILES[place + 1] - share)
    return math.sqrt(share * (1 - share) * below * above)


def _distance(column: str, what: str, now: ColumnProfile, past: Sequence[ColumnProfile], cells: int) -> Iterator[Drift]:
    here: Distribution = getattr(now, what)
    there: list[Distribution] = [getattr(each, what) for each in past]
    apart = min(_apart(here, each) for each in there)
    if apart <= DISTANCE.least:
        return
    among = [
        min((_apart(one, other) for j, other in enumerate(there) if j != i), default=0.0) for i, one in enumerate(there)
    ]
    width = max(among, default=0.0)
    most = math.sqrt(max(len(here), 2) / cells)
    allowed = width * (1 + DISTANCE.widening) + DISTANCE.noise * 0.4 * most + DISTANCE.least
    if apart > allowed:
        yield Drift(column, what, _most(here), f"as {_most(there[-1])}", apart / allowed)


def _apart(one: Distribution, other: Distribution) -> float:
    """Return the share of cells in which two distributions differ. Entries that neither of them lists are ignored."""
    # An entry that is not listed may be as frequent as the least frequent one that is.
    last, other_last = (min(each.values()) if len(each) >= FREQUENT else 0.0 for each in (one, other))
    apart = sum(max(share - other_last, 0.0) for entry, share in one.items() if entry not in other)
    apart += sum(max(share - last, 0.0) for entry, share in other.items() if entry not in one)
    return (apart + sum(abs(share - other[entry]) for entry, share in one.items() if entry in other)) / 2


def _most(distribution: Distribution) -> str:
    shown = [f"{value!r} {_percent(share)}" for value, share in list(distribution.items())[:3]]
    return ", ".join(shown) or "nothing frequent"


def _pair_drift(profile: Profile, history: Sequence[Profile]) -> Iterator[Drift]:
    nothing = Pair(equal=0.0)
    for a, b in combinations(profile.columns, 2):
        name = f"{a} | {b}"
        if not all(a in each.columns and b in each.columns for each in history):
            continue
        now = profile.pairs.get(name, nothing)
        past = [each.pairs.get(name, nothing) for each in history]
        yield from _band(a, f"cells equal to {b}", now.equal, [each.equal for each in past], profile.rows, SHARE)
        known = [each.less for each in past if each.less is not None]
        if now.less is not None and known:
            yield from _band(a, f"numbers below {b}", now.less, known, profile.rows, SHARE)


def _change_drift(now: Change, history: Sequence[Change]) -> Iterator[Drift]:
    if len(history) < 3:
        return
    yield from _band(None, "keys kept", now.kept, [each.kept for each in history], now.matched, CHANGE)
    yield from _band(None, "new keys", now.added, [each.added for each in history], now.matched, CHANGE)
    for name, change in now.columns.items():
        past = [each.columns[name] for each in history if name in each.columns]
        if len(past) < 3:
            continue
        if not change.changed and min(each.changed for each in past) * now.matched > _CERTAIN:
            usual = _range([each.changed for each in past], _percent)
            yield Drift(name, "changed values", "none", usual, 2.0)
        yield from _band(name, "changed values", change.changed, [each.changed for each in past], now.matched, CHANGE)
        yield from _band(
            name, "values that changed alike", change.alike, [each.alike for each in past], now.matched, CHANGE
        )
        changed = round(change.changed * now.matched)
        if change.rose is not None and changed >= 20:
            known = [each.rose for each in past if each.rose is not None]
            if known:
                yield from _band(name, "changes upwards", change.rose, known, changed, CHANGE)
