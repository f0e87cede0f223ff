"""Descriptions of the runs of a space: in the XCom for downstream tasks, and in the error of the task."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

SUMMARIES_SIZE = 48_000
"""Maximum bytes of the summaries of a space's runs as JSON; Airflow stores them in its database."""

ERROR_SIZE = 3_400
"""Maximum characters of the error of a space. With a sentence on what happened to the runs, it stays below 4 kB."""

MAX_FAILURES = 20
"""Maximum number of agents whose failures an error describes."""

_NEEDED = ("agent_id", "run_id", "status", "succeeded")
_TEXTS = ("message", "note")

log = logging.getLogger(__name__)


def shortened(text: str, size: int) -> str:
    """Return a text of at most ``size`` characters: its start and its end, which states what to do next."""
    if len(text) <= size:
        return text
    end = min(90, size // 3)
    return f"{text[: max(size - end - 7, 0)]} [cut] {text[-end:]}"[:size]


def bounded_summaries(summaries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the summaries with a size of at most :data:`SUMMARIES_SIZE`; those that are cut have ``is_cut``.

    First, texts are cut. If this is not enough, all fields except ids, status and outcome are removed, and finally the
    last agents.
    """
    kept = list(summaries)
    if _size(kept) <= SUMMARIES_SIZE:
        return kept
    log.warning("The summaries of %s runs are cut to %s bytes.", len(kept), SUMMARIES_SIZE)
    for longest in (400, 150, 50):
        cut = [_with_short_texts(summary, longest) for summary in summaries]
        if _size(cut) <= SUMMARIES_SIZE:
            return cut
    cut = [{**{name: summary.get(name) for name in _NEEDED}, "is_cut": True} for summary in summaries]
    while _size(cut) > SUMMARIES_SIZE:
        cut = cut[: len(cut) * 9 // 10]
    return cut


def describe_failures(space_id: int, total: int, failures: Mapping[int, str]) -> str:
    """Return the message for a space in which some runs did not succeed.

    :param total: the number of agents that the task ran.
    :param failures: what happened, by agent.
    """
    described = sorted(failures.items())[:MAX_FAILURES]
    size = ERROR_SIZE // max(len(described), 1) - 20
    lines = [f"{len(failures)} of the {total} agents of space {space_id} did not succeed:"]
    lines += [f"- Agent {agent}: {shortened(message, size)}" for agent, message in described]
    if len(failures) > len(described):
        lines.append(f"- and {len(failures) - len(described)} more: see the XCom 'runs'.")
    return "\n".join(lines)


def _with_short_texts(summary: dict[str, Any], size: int) -> dict[str, Any]:
    long = [name for name in _TEXTS if isinstance(summary.get(name), str) and len(summary[name]) > size]
    short = {name: shortened(summary[name], size) for name in long}
    return {**summary, **short, "is_cut": True} if short else summary


def _size(summaries: Sequence[dict[str, Any]]) -> int:
    return len(json.dumps(summaries, ensure_ascii=False).encode())
