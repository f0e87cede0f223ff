"""The report on a check: lines for the log, a summary for XComs and asset events, a page for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from airflow_provider_sequentum.quality.judge import Breach
from airflow_provider_sequentum.quality.profile import GOOD, Profile

MOST_LINES = 50
"""Breaches that a summary and a profile hold; the page has all."""

_WORST = ("fail", "skip", "quarantine", "warn")
_VERDICTS = {"fail": "failed", "skip": "skipped", "quarantine": "warned", "warn": "warned"}
_COLORS = {"failed": "#c0392b", "skipped": "#8e8e8e", "warned": "#d98e04", "passed": "#2e8b57", "accepted": "#2e6f8b"}


@dataclass
class Report:
    """What a check found.

    :param profile: what the records look like.
    :param breaches: those of the contract, then those learnt.
    :param learnt_from: number of earlier runs that gave the bands.
    :param is_accepted: whether a person has accepted the run.
    :param paths: files that passed.
    :param quarantined: files with the records that are in quarantine.
    :param written: those of both that the check wrote.
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
        """Whose records they are."""
        return self.profile.agent_id

    @property
    def run_id(self) -> int:
        """Which run delivered them."""
        return self.profile.run_id

    @property
    def records(self) -> int:
        """How many there are."""
        return self.profile.records

    @property
    def verdict(self) -> str:
        """What the worst breach says, ``passed``, ``warned``, ``skipped`` or ``failed``, or else ``accepted``."""
        found = {breach.on_breach for breach in self.breaches}
        verdict = next((_VERDICTS[each] for each in _WORST if each in found), "passed")
        return "accepted" if self.is_accepted and verdict in ("passed", "warned") else verdict

    @property
    def is_good(self) -> bool:
        """Whether the records may be loaded."""
        return self.verdict in GOOD

    def lines(self) -> list[str]:
        """Return a line for each breach, the worst first."""
        return [str(breach) for breach in sorted(self.breaches, key=lambda each: _WORST.index(each.on_breach))]

    def summary(self) -> dict[str, Any]:
        """Return the report in JSON's types, of bounded size."""
        lines = [line[:500] for line in self.lines()]
        return {
            "agent_id": self.agent_id,
            "run_id": self.run_id,
            "verdict": self.verdict,
            "records": self.records,
            "breaches": lines[:MOST_LINES],
            "more_breaches": max(0, len(lines) - MOST_LINES),
            "learnt_from": self.learnt_from,
            "quarantined_records": self.quarantined_records,
            "quarantined": self.quarantined[:MOST_LINES],
            "page": self.page,
        }


def page(report: Report, earlier: Sequence[Profile]) -> str:
    """Return the report as an HTML page without scripts or anything from elsewhere.

    All text from the records is escaped: it is whatever a website's author wants it to be.
    """
    lines = "".join(f"<li>{escape(line)}</li>" for line in report.lines()) or "<li>No breach.</li>"
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>Run {report.run_id} of agent {report.agent_id}: {report.verdict}</title>"
        "<style>body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}"
        "td,th{padding:.15em .8em .15em 0;text-align:left;overflow-wrap:anywhere}svg{display:block}</style>"
        f"<h1>Run {report.run_id} of agent {report.agent_id}: "
        f"<span style='color:{_COLORS[report.verdict]}'>{report.verdict}</span></h1>"
        f"<p>{report.records:,} records, compared with {report.learnt_from} earlier runs. "
        f"{report.quarantined_records:,} records are in quarantine.</p>"
        f"<h2>Breaches</h2><ul>{lines}</ul>"
        f"<h2>The last {min(30, len(earlier) + 1)} runs</h2>{_runs([*earlier[-29:], report.profile], report)}"
        f"<h2>Columns</h2>{_columns(report)}</html>\n"
    )


def _runs(profiles: Sequence[Profile], report: Report) -> str:
    most = max(1, *(each.records for each in profiles))
    bars = []
    for place, each in enumerate(profiles):
        height = max(2, round(100 * each.records / most))
        verdict = report.verdict if each.run_id == report.run_id else each.verdict
        bars.append(
            f"<rect x='{place * 20}' y='{100 - height}' width='16' height='{height}' fill='{_COLORS[verdict]}'>"
            f"<title>Run {each.run_id}: {each.records:,} records, {verdict}</title></rect>"
        )
    width = 20 * len(profiles)
    size = f"width='{width}' height='100' viewBox='0 0 {width} 100'"
    return f"<svg role=img aria-label='Records of each run' {size}>{''.join(bars)}</svg>"


def _columns(report: Report) -> str:
    broken = {breach.column for breach in report.breaches}
    rows = []
    for name, column in list(report.profile.columns.items())[:500]:
        color = _COLORS["failed" if name in broken else "passed"]
        values = ", ".join(list(column.values)[:3])
        rows.append(
            f"<tr><td>{escape(name[:200])}</td><td><svg width='120' height='12' role=img aria-label='Filled cells'>"
            "<rect width='120' height='12' fill='#e6e6e6'/>"
            f"<rect width='{column.filled * 120:.0f}' height='12' fill='{color}'/>"
            f"</svg></td><td>{column.filled:.1%}</td><td>{escape(', '.join(column.kinds))}</td>"
            f"<td>{escape(values)}</td></tr>"
        )
    head = "<tr><th>Column<th colspan=2>Filled<th>Kinds<th>Frequent values</tr>"
    return f"<table>{head}{''.join(rows)}</table>"
