"""The tables and the plot of what was measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tests.benchmarks.bench_waiting.shared_key import MEDIAN, SIGMA, WORKLOAD_A, WORKLOAD_B

SHARE_PER_MINUTE = 80
GOALS = {"A": (6.0, 18.0), "B": (10.0, 30.0)}

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, LINE = 640, 300, 46, 40, 16, 16
X_LABEL = "seconds from a run's end until its wait hears of it"
COLOURS = ("#0b6e4f", "#08519c", "#7a5195", "#d95f0e", "#e6ab02", "#b2182b", "#999999")


def tables(figures: Mapping[str, Any]) -> str:
    """Return all tables as Markdown."""
    parts = [_shared_key(figures), _lower_bounds(), _many(figures), _others(figures), _circumstances(figures)]
    return "\n\n".join(part for part in parts if part)


def _series(figures: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Return name, workload and figures of everything that was measured on a shared key."""
    found = [(f"{name}, this provider", name, figures[name]) for name in ("A", "B") if name in figures]
    if "pair" in figures:
        found.append(("A, two triggerers and 60 starts a minute", "A", figures["pair"]))
    for key, measured in figures.get("pollers", {}).items():
        if isinstance(measured, Mapping):
            workload, interval = key.split(" ")
            found.append((f"{workload}, each by itself every {interval} s", workload, measured))
    return found


def _shared_key(figures: Mapping[str, Any]) -> str:
    rows = []
    for name, _, measured in _series(figures):
        starts = f"{measured['failed_starts']} of {measured['starts']}" if "starts" in measured else ""
        rows.append(
            [name, f"{measured['mean']:.1f}", f"{measured['p95']:.1f}", f"{measured['worst']:.0f}", measured["refused"],
             measured["lost"], measured["most_per_minute"], starts]
        )  # fmt: skip
    head = ["workload", "mean delay s", "p95 s", "worst s", "429s", "waits lost", "most requests in a minute",
            "starts failed"]  # fmt: skip
    return _table(head, rows) if rows else ""


def _lower_bounds() -> str:
    rows = [
        [workload.name, len(workload.durations), workload.agents, f"{60 * workload.agents / SHARE_PER_MINUTE:.1f}",
         f"{30 * workload.agents / SHARE_PER_MINUTE:.1f}", f"{mean:g} / {p95:g}"]
        for workload, (mean, p95) in ((WORKLOAD_A, GOALS["A"]), (WORKLOAD_B, GOALS["B"]))
    ]  # fmt: skip
    head = ["workload", "runs", "agents", "s to ask every agent once", "mean delay if asked in turn", "goal mean / p95"]
    note = f"Durations are lognormal: median {MEDIAN:g} s, sigma {SIGMA:g}. {SHARE_PER_MINUTE} requests a minute."
    return _table(head, rows) + "\n\n" + note


def _many(figures: Mapping[str, Any]) -> str:
    if "many" not in figures:
        return ""
    names = {"floor": "only sleeping", "ours": "of 200 agents", "listed": "of 10,000 agents"}
    rows = [[name, *_cost(figures["many"][kind])] for kind, name in names.items()]
    return _table(["10,000 waits", *_COST_HEAD], rows)


def _others(figures: Mapping[str, Any]) -> str:
    if "others" not in figures:
        return ""
    names = {"floor": "only sleeping", "ours": "this provider", "dbt": "dbt Cloud", "airbyte": "Airbyte"}
    measured = figures["others"]
    rows = [
        [name, *_cost(measured[kind]), measured[kind]["connections"], measured[kind]["requests"]]
        for kind, name in names.items()
    ]
    versions = ", ".join(f"{name} {version}" for name, version in measured["versions"].items())
    return _table(["1,000 waits", *_COST_HEAD, "connections opened", "requests"], rows) + f"\n\n{versions}."


_COST_HEAD = ["kB per wait", "CPU s a minute", "worst lag ms", "of it own work ms", "while they come: lag ms",
              "own work ms", "garbage collection ms"]  # fmt: skip


def _cost(measured: Mapping[str, Any]) -> list[str]:
    lags = [measured[f"{kind}_{when}"] for when in ("waiting", "coming") for kind in ("lag", "own_lag")]
    return [
        f"{measured['bytes_per_wait'] / 1000:.1f}",
        f"{measured['cpu_seconds_per_minute']:.2f}",
        *(f"{1000 * lag:.0f}" for lag in lags),
        f"{1000 * measured['full_collection']:.0f}",
    ]


def _circumstances(figures: Mapping[str, Any]) -> str:
    lines = []
    for part, measured in figures.items():
        busy = f", service busy {measured['service_cpu']:.0%} of the time" if "service_cpu" in measured else ""
        load = f"load {measured['load_before']:.1f} before and {measured['load_after']:.1f} after"
        lines.append(f"- {part}: {measured['machine']}, {load}, scale {measured['scale']:g}{busy}")
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def plot(figures: Mapping[str, Any]) -> str:
    """Return an SVG: the part of the runs heard of within so many seconds of their end."""
    series = _series(figures)
    height = HEIGHT + LINE * len(series) + 8
    body = [
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        *(_grid_line(seconds) for seconds in (0.5, 1, 2, 5, 10, 30, 60, 300, 1800)),
        *(
            f'<text x="{LEFT - 6}" y="{_y(share) + 4:.0f}" text-anchor="end">{share:.0%}</text>'
            for share in (0, 0.5, 0.95, 1)
        ),
        f'<text x="{(WIDTH + LEFT) / 2:.0f}" y="{HEIGHT - 6}" text-anchor="middle">{X_LABEL}</text>',
    ]
    for number, (name, _, measured) in enumerate(series):
        colour, delays = COLOURS[number % len(COLOURS)], measured["delays"]
        points = " ".join(
            f"{_x(delay):.1f},{_y((place + 1) / len(delays)):.1f}"
            for place, delay in enumerate(delays)
            if place % max(1, len(delays) // 100) == 0 or place == len(delays) - 1
        )
        line = f'fill="none" stroke="{colour}" stroke-width="2"'
        y = HEIGHT + LINE * (number + 0.5)
        body.append(f'<polyline points="{points}" {line}/>')
        body.append(f'<path d="M{LEFT},{y:.0f} h24" {line}/><text x="{LEFT + 32}" y="{y + 4:.0f}">{name}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        'font-size="11">\n' + "\n".join(body) + "\n</svg>\n"
    )


def _x(seconds: float) -> float:
    first, last = math.log(0.3), math.log(3000.0)
    share = (math.log(min(max(seconds, 0.3), 3000.0)) - first) / (last - first)
    return LEFT + share * (WIDTH - LEFT - 10)


def _y(share: float) -> float:
    return TOP + (1 - share) * (HEIGHT - BOTTOM - TOP)


def _grid_line(seconds: float) -> str:
    x = _x(seconds)
    label = f"{seconds:g}" if seconds < 60 else f"{seconds / 60:g} min"
    return (
        f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM}" stroke="#ddd"/>'
        f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{label}</text>'
    )
