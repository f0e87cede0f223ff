"""The values that parameters with a choice accept."""

from __future__ import annotations

FILE_KINDS = ("delivered", "extracted", "logs", "screenshots")
LOG_LEVELS = ("Fatal", "Error", "Warning", "Info")
LOG_MODES = ("Text", "TextAndHtml")
ON_AMBIGUOUS_RUN = ("fail", "adopt", "start")
ON_AMBIGUOUS_SESSION = ("fail", "start")
ON_CLEAR = ("rerun", "join")
ON_EMPTY = ("succeed", "warn", "skip", "fail")
ON_LOST_SESSION = ("fail", "start")
ON_PARTIAL = ("fail", "warn")
ON_READY = ("finish", "fail", "cancel")
ON_TIMEOUT = ("stop", "leave")
PARALLEL_EXPORTS = ("Combined", "Separated")
REMOVE_METHODS = ("RemoveAllFiles", "RemoveAllFilesAndAgentInput", "RemoveEntireRun")
RETRY_MODES = ("restart_or_new", "restart", "new")
RUN_ENDINGS = ("succeeded", "any")
