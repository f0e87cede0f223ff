"""The statuses of a run, and reading them from a response.

Based on https://docs.sequentum.com/concepts/runs. The documentation says that the value is an integer; names and
numeric strings have been observed, too. Standard library only.
"""

from __future__ import annotations

from enum import IntEnum

_MAX_KEPT_TEXT_LENGTH = 64


class RunStatus(IntEnum):
    """Status codes of a run. What they mean for a waiting task is decided by the layers above the client."""

    INVALID = 0
    """Reserved for broken records; also used for a response without a status."""
    RUNNING = 1
    EXPORTING = 2
    STARTING = 3
    QUEUING = 4
    STOPPING = 5
    FAILURE = 6
    """The run ended with an error or did not meet its success criteria; it can be restarted in place."""
    FAILED = 7
    """Replaces ``FAILURE`` once the run is archived; it can no longer be restarted."""
    STOPPED = 8
    COMPLETED = 9
    """All commands were executed; no success criteria are defined."""
    SUCCESS = 10
    """All commands were executed, and the success criteria are met."""
    SKIPPED = 11
    WAITING = 12
    UPDATING_DATA_SET = 13


_STATUS_BY_CODE = {int(status): status for status in RunStatus}
_STATUS_BY_NAME = {status.name.replace("_", "").lower(): status for status in RunStatus}
_NAMES = {status: status.name.title().replace("_", "") for status in RunStatus}


def parse_run_status(value: object) -> RunStatus | int | str:
    """Read a status from an integer, a numeric string or a name.

    :param value: the value from the server. ``None`` means that the response has no status.
    :return: the status; an unknown one as an integer or as text of at most 64 characters.
    """
    if value is None:
        return RunStatus.INVALID
    if isinstance(value, int) and not isinstance(value, bool):
        return _known(value)
    text = str(value).strip()[:_MAX_KEPT_TEXT_LENGTH]
    number = text.removesuffix(".0") if isinstance(value, float) else text
    if number.isascii() and number.isdecimal():
        return _known(int(number))
    return _STATUS_BY_NAME.get(text.replace("_", "").replace(" ", "").lower(), text)


def status_name(status: RunStatus | int | str) -> str:
    """Return the API's spelling of a status (``"Failure"``), or the raw value of an unknown one."""
    known = _known(status) if isinstance(status, int) else status
    return _NAMES[known] if isinstance(known, RunStatus) else str(known)


def _known(code: int) -> RunStatus | int:
    return _STATUS_BY_CODE.get(code, code)
