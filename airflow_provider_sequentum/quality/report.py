"""The report of a check: lines for the log, a summary for XComs and asset events, and an HTML page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from airflow_provider_sequentum.api.text import one_line
from airflow_provider_sequentum.quality.judge import Breach
from airflow_provider_sequentum.quality.profile import GOOD, Profile
from airflow_provider_sequentum.runs.describe import counted

MAX_LINES = 50
"""The maximum number of breaches in a summary and in a profile. The page has all."""

_WORST = ("fail", "skip", "quarantine", "warn")
_VERDICTS = {"fail": "failed", "skip": "skipped", "quarantine": "warned", "warn": "warned"}
_MAX_LINE_LENGTH = 500
_RUNS = 30
_COLUMNS = 500
_LINES = 4
_STYLE = """
:root { color-scheme: light dark; --text: #1d2433; --soft: #5a6374; --line: #d8dde6; --back: #fff; --card: #f5f7fa;
  --passed: #1f7a4d; --accepted: #1f5fae; --warned: #8a5a00; --failed: #b3261e; --skipped: #626b7a; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e9ef; --soft: #a7b0c0; --line: #364159; --back: #161d2d;
  --card: #1e273a; --passed: #5cc38d; --accepted: #82b4ff; --warned: #e0ad4f; --failed: #ff8a80; --skipped: #a7b0c0; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 0 auto; padding: 1rem; color: var(--text);
  background: var(--back); overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin: 1.5rem 0 .4rem; } p { margin: .3rem 0; }
.passed { color: var(--passed); } .accepted { color: var(--accepted); } .warned { color: var(--warned); }
.failed { color: var(--failed); } .skipped { color: var(--skipped); }
.soft, summary { color: var(--soft); }
ul { list-style: none; padding: 0; margin: 0; }
li { border-left: 3px solid currentColor; background: var(--card); padding: .3rem .7rem; margin: .3rem 0; }
li span { color: var(--text); }
svg { display: block; fill: currentColor; } .runs { width: 100%; height: 7rem; max-width: calc(var(--runs) * 2.2rem); }
.this { stroke: var(--text); stroke-width: 2; vector-effect: non-scaling-stroke; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-size: .85rem; }
td:first-child { min-width: 5.5rem; } td:last-child { min-width: 6rem; } td:nth-child(2), td:nth-child(3) { width: 1%; }
td:nth-child(3) { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
td svg { width: 6rem; height: .8rem; margin-top: .35rem; } .rest { color: var(--line); }
@media (max-width: 40rem) { th:nth-child(3), td:nth-child(4) { display: none; } td svg { width: 3rem; } }
"""


@dataclass
class Report:
    """The result of a check.

    :param profile: the profile of the records.
    :param breaches: breaches of the contract, followed by drift.
    :param learnt_from: the number of earlier runs that the records were compared with.
    :param is_accepted: whether a person has accepted the run.
    :param paths: files that passed.
    :param quarantined: files with the quarantined records.
    :param written: the files in both lists that the check wrote.
    """

    profile: Profile
    breaches: list[Breach]
    learnt_from: int
    is_accepted: bool
    paths: list[str] = field(default_factory=list)
    quarantined: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    quarantined_records: int = 0
    page: str | None = None

    @property
    def agent_id(self) -> int:
        """The id of the agent."""
        return self.profile.agent_id

    @property
    def run_id(self) -> int:
        """The id of the run that delivered the records."""
        return self.profile.run_id

    @property
    def records(self) -> int:
        """The number of records."""
        return self.profile.records

    @property
    def verdict(self) -> str:
        """``passed``, ``warned``, ``skipped`` or ``failed``, by the worst breach, or ``accepted``."""
        found = {breach.on_breach for breach in self.breaches}
        verdict = next((_VERDICTS[each] for each in _WORST if each in found), "passed")
        return "accepted" if self.is_accepted and verdict in ("passed", "warned") else verdict

    def sentence(self, *, was_compared: bool) -> str:
        """Return the result in words, for the log."""
        checked = f"Checked {counted(self.records, 'record')} of run {self.run_id} of agent {self.agent_id}"
        quarantine = f", {self.quarantined_records} in quarantine" if self.quarantined_records else ""
        compared = f" Compared with {counted(self.learnt_from, 'earlier good run')}." if was_compared else ""
        return f"{checked}: {self.verdict}{quarantine}.{compared} Report: {self.page}"

    @property
    def is_good(self) -> bool:
        """Whether the records may be loaded."""
        return self.verdict in GOOD

    def worst_first(self) -> list[Breach]:
        """Return the breaches, the worst first."""
        return sorted(self.breaches, key=lambda each: _WORST.index(each.on_breach))

    def lines(self) -> list[str]:
        """Return a line of bounded length for each breach, the worst first."""
        return [str(breach)[:_MAX_LINE_LENGTH] for breach in self.worst_first()]

    def summary(self) -> dict[str, Any]:
        """Return the report as plain JSON values of bounded size."""
        lines = self.lines()
        return {
            "agent_id": self.agent_id,
            "run_id": self.run_id,
            "verdict": self.verdict,
            "records": self.records,
            "breaches": lines[:MAX_LINES],
            "more_breaches": max(0, len(lines) - MAX_LINES),
            "learnt_from": self.learnt_from,
            "quarantined_records": self.quarantined_records,
            "quarantined": self.quarantined[:MAX_LINES],
            "page": self.page,
        }


def page(report: Report, earlier: Sequence[Profile]) -> str:
    """Return the report as an HTML page without scripts or external resources.

    All text from the records is escaped, because it comes from arbitrary websites.
    """
    runs = [*earlier[1 - _RUNS :], report.profile]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>Run {report.run_id} of agent {report.agent_id}: {report.verdict}</title><style>{_STYLE}</style>"
        f"<h1>Run {report.run_id} of agent {report.agent_id}: "
        f"<span class={report.verdict}>{report.verdict}</span></h1><p>{_facts(report)}</p>"
        f"<h2>Breaches</h2>{_breaches(report)}"
        f"<h2>Records of {f'the last {len(runs)} runs' if earlier else 'this run'}</h2>{_runs(runs, report)}"
        f"<h2>Columns</h2>{_columns(report)}</html>\n"
    )


def _facts(report: Report) -> str:
    facts = [
        f"{report.records:,} records",
        f"compared with {report.learnt_from} earlier runs" if report.learnt_from else "nothing to compare them with",
    ]
    if report.quarantined_records:
        facts.append(f"{report.quarantined_records:,} records in quarantine")
    return f"{', '.join(facts)}."


def _breaches(report: Report) -> str:
    """Return the breaches by column: a column that the agent no longer finds can cause a dozen of them."""
    if not report.breaches:
        return "<p>None.</p>"
    by_column: dict[str | None, list[Breach]] = {}
    for breach in report.worst_first():
        by_column.setdefault(breach.column, []).append(breach)
    return f"<ul>{''.join(_column_breaches(name, found) for name, found in by_column.items())}</ul>"


def _column_breaches(name: str | None, breaches: Sequence[Breach]) -> str:
    what = breaches[0].on_breach
    lines = [f"<div>{breach.rule}: {_unbroken(breach.finding)}</div>" for breach in breaches]
    shown, more = "".join(lines[:_LINES]), "".join(lines[_LINES:])
    rest = f"<details><summary>{len(lines) - _LINES} more</summary>{more}</details>" if more else ""
    about = "the records" if name is None else _shown(name)
    return f"<li class={_VERDICTS[what]}><b>{what}</b> <span><b>{about}</b>{shown}{rest}</span></li>"


def _shown(text: str) -> str:
    return escape(one_line(text, 200))


def _unbroken(text: str) -> str:
    return escape(text).replace(" %", "&nbsp;%")


def _runs(profiles: Sequence[Profile], report: Report) -> str:
    most = max(1, *(each.records for each in profiles))
    bars = []
    for place, each in enumerate(profiles):
        height = max(2, round(100 * each.records / most))
        is_this = each.run_id == report.run_id
        verdict = report.verdict if is_this else each.verdict
        bars.append(
            f"<rect class='{verdict}{' this' if is_this else ''}' x='{place * 20 + 2}' y='{102 - height}' width='16' "
            f"height='{height}'><title>Run {each.run_id}: {each.records:,} records, {verdict}</title></rect>"
        )
    # Also in words, for users who cannot see colors or have no mouse.
    fewest = min(each.records for each in profiles)
    verdicts = Counter([*(each.verdict for each in profiles[:-1]), report.verdict])
    words = ", ".join(f"<span class={verdict}>{count} {verdict}</span>" for verdict, count in verdicts.items())
    return (
        f"<svg role=img aria-label='Records of each run' class=runs style='--runs:{len(profiles)}' "
        f"viewBox='0 0 {20 * len(profiles)} 104' preserveAspectRatio=none fill=currentColor>{''.join(bars)}</svg>"
        f"<p class=soft>{fewest:,} to {most:,} records; {words}. The last bar is this run.</p>"
    )


def _columns(report: Report) -> str:
    verdicts: dict[str | None, str] = {}
    for breach in report.worst_first():
        verdicts.setdefault(breach.column, _VERDICTS[breach.on_breach])
    rows = []
    for name, column in list(report.profile.columns.items())[:_COLUMNS]:
        verdict = verdicts.get(name, "passed")
        values = ", ".join(list(column.values)[:3])
        rows.append(
            f"<tr><td>{_shown(name)}</td><td><svg role=img aria-label='Filled cells, {verdict}' "
            "viewBox='0 0 100 10' preserveAspectRatio=none><rect class=rest width='100' height='10'/>"
            f"<rect class={verdict} width='{column.filled * 100:.0f}' height='10'/>"
            f"</svg></td><td>{column.filled * 100:.1f} %</td><td>{escape(', '.join(column.kinds))}</td>"
            f"<td>{_shown(values)}</td></tr>"
        )
    more = len(report.profile.columns) - _COLUMNS
    rest = f"<p class=soft>{more:,} more columns are not shown.</p>" if more > 0 else ""
    head = "<tr><th>Column<th colspan=2>Filled<th>Kinds<th>Frequent values</tr>"
    return f"<table>{head}{''.join(rows)}</table>{rest}"
