"""What a session leaves as files, wherever an ``ObjectStoragePath`` leads: its screenshots and its conversation."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath
    from airflow.sdk.types import Logger

    from airflow_provider_sequentum.api.agent_builder import SessionEvent
    from airflow_provider_sequentum.hooks.sequentum import SequentumHook

LINK_LIFETIME = 7 * 24 * 3600
"""Seconds a signed link to a screenshot works, where the storage can sign; the longest that S3 allows."""

_SUFFIXES = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp", b"GIF8": ".gif"}


def storage_path(parameter: str, path: str) -> ObjectStoragePath:
    """
    Return where ``path`` leads.

    :param parameter: the operator's parameter, for the error.
    :raises ValueError: it leads nowhere.
    """
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    try:
        place = ObjectStoragePath(path)
        place.fs  # noqa: B018 - some versions of Airflow look for the file system only when it is first asked for
    except (ValueError, ImportError) as error:
        raise ValueError(f"{parameter} {path!r} can't be used: {error}.") from None
    return place


class ScreenshotFolder:
    """
    Takes the events of sessions and saves the screenshots, one file each. Nothing stays in memory.

    A screenshot that can't be saved is said in the log and does not fail the task: the agent is what counts.

    :param folder: where to. Each session gets a folder of its own in it.
    :param announce: gets the address of the latest screenshot.
    :param log: the task's log.
    """

    def __init__(self, folder: ObjectStoragePath, announce: Callable[[str], None], log: Logger) -> None:
        self._folder = folder
        self._announce = announce
        self._log = log
        self.is_saving = False
        """Whether it is at work right now, which may mean that Airflow is being asked for a connection."""

    def __call__(self, session_id: str, event: SessionEvent) -> None:
        """Save the event's screenshot, if it is one."""
        if event.type != "screenshot" or not event.image_base64:
            return
        self.is_saving = True
        try:
            path = self._save(session_id, event.event_index or 0, event.image_base64)
            self._announce(_link_to(path))
        except Exception as error:  # noqa: BLE001 - each storage has errors of its own, and none may end the build
            self._log.warning("Could not save screenshot %s to %s: %s", event.event_index, self._folder, error)
        else:
            self._log.info("Saved a screenshot: %s", path)
        finally:
            self.is_saving = False

    def recall(self, session_id: str) -> None:
        """Announce the latest screenshot that was saved of the session, by an earlier try or task, if there is one."""
        try:
            folder = self._folder_of(session_id)
            if folder.exists():
                self._announce(_link_to(max(folder.iterdir(), key=lambda path: path.name)))
        except Exception as error:  # noqa: BLE001 - as above
            self._log.warning("Could not look for earlier screenshots in %s: %s", self._folder, error)

    def _save(self, session_id: str, number: int, encoded: str) -> ObjectStoragePath:
        image = base64.b64decode(encoded.rpartition(",")[2], validate=True)
        suffix = next((suffix for start, suffix in _SUFFIXES.items() if image.startswith(start)), ".bin")
        folder = self._folder_of(session_id)
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{number:06d}{suffix}"
        target.write_bytes(image)
        return target

    def _folder_of(self, session_id: str) -> ObjectStoragePath:
        # The id comes from the service: only what is harmless in a file name is kept of it.
        return self._folder / re.sub(r"[^A-Za-z0-9_-]", "_", session_id)


def _link_to(path: ObjectStoragePath) -> str:
    """Return an address: signed where the storage can sign, so that a browser can open it."""
    try:
        return str(path.fs.sign(path.path, expiration=LINK_LIFETIME))
    except Exception:  # noqa: BLE001 - most storages can't sign, and say so in ways of their own
        return path.as_uri()


def save_stored_conversation(hook: SequentumHook, session_id: str, target: ObjectStoragePath, log: Logger) -> None:
    """
    Save the conversation that the service has stored of a session whose agent was saved, as a JSON file.

    The agent is built by then, so a conversation that can't be had is said in the log and fails nothing.

    :param target: the file.
    """
    from airflow_provider_sequentum.api import agent_builder

    try:
        conversation = hook.send(agent_builder.conversation(session_id))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(conversation.model_dump_json(indent=2) + "\n")
    except Exception as error:  # noqa: BLE001 - each storage has errors of its own
        log.warning("Could not save the conversation of session %s to %s: %s", session_id, target, error)
    else:
        log.info("Saved the conversation: %s", target)
