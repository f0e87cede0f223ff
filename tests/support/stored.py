"""What a person or another program may make of a JSON file that a run left for later ones."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

VALUES: tuple[Any, ...] = (
    None,
    "",
    "x",
    "..",
    "ftp:/x",
    "ftp://host/x",
    "s3://",
    "file:///a%20b",
    "\0",
    -1,
    1.5,
    10**30,
    [],
    [1],
    {},
)


def changed(content: bytes) -> Iterator[bytes]:
    """Yield copies of a JSON file in each of which one value is another one, or missing."""
    valid = json.loads(content)
    for path in _paths(valid):
        for value in VALUES:
            made = copy.deepcopy(valid)
            _parent(made, path)[path[-1]] = value
            yield json.dumps(made).encode()
        made = copy.deepcopy(valid)
        del _parent(made, path)[path[-1]]
        yield json.dumps(made).encode()


def _parent(value: Any, path: tuple[Any, ...]) -> Any:
    for step in path[:-1]:
        value = value[step]
    return value


def _paths(value: object, to: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in items:
        yield (*to, step)
        yield from _paths(inner, (*to, step))
