"""A history: what was asked of the service and answered, and what became of the task, in the order of time.

Requests are written down where they reach the service, so that a history holds the true answer also where the client
never got it (``lost``). One entry is one JSON object:

========== ========================================================================================================
``what``   fields besides ``at``, the seconds since the history began
========== ========================================================================================================
task       the parameters of the task that decide what is promised, once, as the first entry
request    ``path``, ``body``, ``by`` (``task``, ``person`` or ``census``), ``status``, ``answer``, ``clock``, ``lost``;
           ``sent`` if that was earlier than ``at``
fault      a request that never reached the service, or that it refused without a look: ``path``, ``by``
attempt    a try starts or is resumed: ``number``, ``resumed``
ended      what a piece of an attempt ended in: ``how`` (``returned``, ``deferred``, ``died``, ``stuck`` or
           ``raised``),
           ``result``, ``error``, ``said`` (the exception's text and the warnings)
state      the state in which Airflow has the task after that
person     ``does``: ``clear`` (which ``wipes`` the store or not), ``wipe``, ``mark``, ``kill``, ``archive``, ``end``
========== ========================================================================================================

``clock`` is the service's time minus the worker's in seconds: times in an answer are the service's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

Entry = dict[str, Any]


def written(entries: Iterable[Entry]) -> Iterator[str]:
    """Return the lines of a history."""
    for entry in entries:
        yield json.dumps(entry, sort_keys=True, default=str)


def read(lines: Iterable[str]) -> list[Entry]:
    """Return the entries of a history's lines."""
    return [json.loads(line) for line in lines if line.strip()]
