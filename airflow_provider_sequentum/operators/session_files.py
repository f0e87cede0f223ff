"""What a session leaves as files, wherever an ``ObjectStoragePath`` leads: its screenshots and its conversation."""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING

from airflow_provider_sequentum.exceptions import SequentumException

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath
    from airflow.sdk.types import Logger

    from airflow_provider_sequentum.api.agent_builder import SessionEvent
    from airflow_provider_sequentum.hooks.sequentum import SequentumHook

LINK_LIFETIME = 7 * 24 * 3600
"""Seconds a signed link to a screenshot works, where the storage can sign; the longest that S3 allows."""

_SUFFIXES = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp", b"GIF8": ".gif"}


class ScreenshotFolder:
    """
    Takes the events of sessions and saves the screenshots, one file each. Nothing stays in memory.

    A screenshot that can't be saved is said in the log and does not fail the task: the agent is what counts.

    :param path: the folder. Each session gets a folder of its own in it.
    :param log: the task's log.
    """

    def __init__(self, path: str, log: Logger) -> None:
        from airflow.providers.common.compat.sdk import ObjectStoragePath

        self._path = ObjectStoragePath(path)
        self._log = log
        self._latest: ObjectStoragePath | None = None

    def __call__(self, session_id: str, event: SessionEvent) -> None:
        """Save the event's screenshot, if it is one."""
        if event.type != "screenshot" or not event.image_base64:
            return
        # The id comes from the service: only what is harmless in a file name is kept of it.
        folder = self._path / re.sub(r"[^A-Za-z0-9_-]", "_", session_id)
        try:
            image = base64.b64decode(event.image_base64.rpartition(",")[2], validate=True)
            suffix = next((suffix for start, suffix in _SUFFIXES.items() if image.startswith(start)), ".bin")
            target = folder / f"{event.event_index:06d}{suffix}"
            folder.mkdir(parents=True, exist_ok=True)
            target.write_bytes(image)
        except (OSError, binascii.Error) as error:
            self._log.warning("Could not save screenshot %s to %s: %s", event.event_index, folder, error)
            return
        self._latest = target
        self._log.info("Saved a screenshot: %s", target)

    @property
    def link(self) -> str | None:
        """An address of the latest screenshot: signed where the storage can sign, so that a browser can open it."""
        if self._latest is None:
            return None
        try:
            return str(self._latest.fs.sign(self._latest.path, expiration=LINK_LIFETIME))
        except NotImplementedError:
            return self._latest.as_uri()


def save_stored_conversation(hook: SequentumHook, session_id: str, path: str, log: Logger) -> None:
    """
    Save the conversation that the service has stored of a session whose agent was saved, as a JSON file.

    The agent is built by then, so a conversation that can't be had is said in the log and fails nothing.

    :param path: the file.
    """
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    from airflow_provider_sequentum.api import agent_builder

    target = ObjectStoragePath(path)
    try:
        conversation = hook.send(agent_builder.conversation(session_id))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(conversation.model_dump_json(indent=2) + "\n")
    except (SequentumException, OSError) as error:
        log.warning("Could not save the conversation of session %s to %s: %s", session_id, target, error)
    else:
        log.info("Saved the conversation: %s", target)
