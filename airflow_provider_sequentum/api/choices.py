"""The values that the options of a request can have. DAG files import them through the operators, so this module
imports nothing that is slow to import.

Based on https://docs.sequentum.com/api-reference/agents/start-run and
https://docs.sequentum.com/api-reference/agents/delete-run.
"""

from __future__ import annotations

from typing import Literal

ParallelExport = Literal["Combined", "Separated"]
LogLevel = Literal["Fatal", "Error", "Warning", "Info"]
LogMode = Literal["Text", "TextAndHtml"]
RemoveMethod = Literal["RemoveAllFiles", "RemoveAllFilesAndAgentInput", "RemoveEntireRun"]
