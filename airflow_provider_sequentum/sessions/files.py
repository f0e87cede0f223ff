"""What a session leaves as files, wherever an ``ObjectStoragePath`` leads: its screenshots and its conversation."""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    from airflow_provider_sequentum.api.agent_builder import SessionEvent
    from airflow_provider_sequentum.jobs.port import Port

LINK_LIFETIME = 7 * 24 * 3600
"""Seconds a signed link to a screenshot works, where the storage can sign; the longest that S3 allows."""

_SUFFIXES = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp", b"GIF8": ".gif"}

log = logging.getLogger(__name__)


def storage_path(parameter: str, path: str) -> ObjectStoragePath:
    """Return where ``path`` leads.

    :param parameter: the operator's parameter, for the error.
    :raises ValueError: it leads nowhere.
    """
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    try:
        place = ObjectStoragePath(path)
        place.fs  # noqa: B018 - some versions of Airflow look for the file system only when it is first asked for
    except (ValueError, ImportError) as error:
        raise ValueError(f"{parameter} {path!r} cannot be used: {error}.") from None
    return place


class ScreenshotFolder:
    """Saves the screenshots of sessions, one file each. Nothing stays in memory.

    A screenshot that cannot be saved is logged and does not fail the task: the agent is what counts.

    :param folder: where to. Each session gets a folder of its own in it.
    :param publish: gets the address of the latest screenshot.
    :param asking_airflow: marks that Airflow may be asked for a connection, so that a kill in the middle of it knows.
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
        """Save the event's screenshot, if it is one."""
        if event.type != "screenshot" or not event.image_base64:
            return
        try:
            with self._asking_airflow():
                path = self._save(session_id, event.event_index or 0, event.image_base64)
                link = _link_to(path)
        except Exception as error:  # noqa: BLE001 - each storage has errors of its own, and none may end the build
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
            log.warning("Could not look for earlier screenshots in %s: %s", self._folder, error)
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
        # The id comes from the service: only what is harmless in a file name is kept of it.
        return self._folder / re.sub(r"[^A-Za-z0-9_-]", "_", session_id)


def _link_to(path: ObjectStoragePath) -> str:
    """Return an address: signed where the storage can sign, so that a browser can open it."""
    try:
        return str(path.fs.sign(path.path, expiration=LINK_LIFETIME))
    except Exception:  # noqa: BLE001 - most storages cannot sign, and say so in ways of their own
        return path.as_uri()


def save_conversation(port: Port, session_id: str, target: ObjectStoragePath) -> None:
    """Save the conversation that the service has stored of a session whose agent was saved, as a JSON file.

    The agent is built by then, so a conversation that cannot be had is logged and fails nothing.

    :param target: the file.
    """
    from airflow_provider_sequentum.api import agent_builder

    try:
        conversation = port.send(agent_builder.conversation(session_id))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(conversation.model_dump_json(indent=2) + "\n")
    except Exception as error:  # noqa: BLE001 - each storage has errors of its own
        log.warning("Could not save the conversation of session %s to %s: %s", session_id, target, error)
    else:
        log.info("Saved the conversation: %s", target)
