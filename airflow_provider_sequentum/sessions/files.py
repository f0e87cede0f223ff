"""Saving the screenshots and the conversation of a session as files, at any ``ObjectStoragePath``."""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from airflow_provider_sequentum.api import agent_builder

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    from airflow_provider_sequentum.api.agent_builder import SessionEvent
    from airflow_provider_sequentum.jobs.port import Sender

LINK_LIFETIME = 7 * 24 * 3600
"""Seconds for which a signed link to a screenshot works, if the storage can sign; the maximum that S3 allows."""

_SUFFIXES = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp", b"GIF8": ".gif"}

log = logging.getLogger(__name__)


def storage_path(parameter: str, path: str) -> ObjectStoragePath:
    """Return the storage path for ``path``.

    :param parameter: the operator's parameter, for the error.
    :raises ValueError: it is not a valid storage path.
    """
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    try:
        place = ObjectStoragePath(path)
        place.fs  # noqa: B018 - some versions of Airflow only look up the file system on first access
    except (ValueError, ImportError) as error:
        raise ValueError(f"{parameter} {path!r} cannot be used: {error}.") from None
    return place


class ScreenshotFolder:
    """Saves each screenshot of a session as a file. Nothing is kept in memory.

    If a screenshot cannot be saved, this is logged and does not fail the task, whose result is the agent.

    :param folder: the target folder. Each session gets its own subfolder.
    :param publish: receives the URL of the latest screenshot.
    :param asking_airflow: marks the time when Airflow may be asked for a connection, in case the task is killed then.
    """

    def __init__(
        self,
        folder: ObjectStoragePath,
        publish: Callable[[str], None],
        asking_airflow: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._folder = folder
        self._publish = publish
        self._asking_airflow = asking_airflow

    def take(self, session_id: str, event: SessionEvent) -> None:
        """Save the screenshot of an event, if it has one."""
        if event.type != "screenshot" or not event.image_base64:
            return
        try:
            with self._asking_airflow():
                path = self._save(session_id, event.event_index or 0, event.image_base64)
                link = _link_to(path)
        except Exception as error:  # noqa: BLE001 - each storage has its own errors, and none may end the build
            log.warning("Could not save screenshot %s to %s: %s", event.event_index, self._folder, error)
        else:
            log.info("Saved a screenshot: %s", path)
            self._publish(link)

    def publish_latest(self, session_id: str) -> None:
        """Publish the latest screenshot that was saved by an earlier attempt or task, if there is one."""
        try:
            with self._asking_airflow():
                folder = self._folder_of(session_id)
                link = _link_to(max(folder.iterdir(), key=lambda path: path.name)) if folder.exists() else None
        except Exception as error:  # noqa: BLE001 - as above
            log.warning("Could not list earlier screenshots in %s: %s", self._folder, error)
        else:
            if link is not None:
                self._publish(link)

    def _save(self, session_id: str, number: int, encoded: str) -> ObjectStoragePath:
        image = base64.b64decode(encoded.rpartition(",")[2], validate=True)
        suffix = next((suffix for start, suffix in _SUFFIXES.items() if image.startswith(start)), ".bin")
        folder = self._folder_of(session_id)
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{number:06d}{suffix}"
        target.write_bytes(image)
        return target

    def _folder_of(self, session_id: str) -> ObjectStoragePath:
        # The id comes from the service, so only harmless characters of it are used in a file name.
        return self._folder / re.sub(r"[^A-Za-z0-9_-]", "_", session_id)


def _link_to(path: ObjectStoragePath) -> str:
    """Return a URL, signed if the storage can sign, so that a browser can open it."""
    try:
        return str(path.fs.sign(path.path, expiration=LINK_LIFETIME))
    except Exception:  # noqa: BLE001 - most storages cannot sign, and raise different errors
        return path.as_uri()


def save_conversation(port: Sender, session_id: str, target: ObjectStoragePath) -> None:
    """Save the stored conversation of a session whose agent was saved, as a JSON file.

    The agent has been built by then, so an error is logged and does not fail the task.

    :param target: the file.
    """
    try:
        conversation = port.send(agent_builder.conversation(session_id))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(conversation.model_dump_json(indent=2) + "\n")
    except Exception as error:  # noqa: BLE001 - each storage has its own errors
        log.warning("Could not save the conversation of session %s to %s: %s", session_id, target, error)
    else:
        log.info("Saved the conversation: %s", target)
