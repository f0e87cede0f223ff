from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import ObjectStoragePath

from airflow_provider_sequentum.api.agent_builder import SessionEvent
from airflow_provider_sequentum.sessions.files import ScreenshotFolder, storage_path

SCREENSHOT = SessionEvent(type="screenshot", event_index=7, image_base64="QUJD")


@pytest.fixture
def announced() -> list[str]:
    """The addresses of the latest screenshot, in order."""
    return []


@pytest.fixture
def folder(tmp_path: Path, announced: list[str], caplog: pytest.LogCaptureFixture) -> ScreenshotFolder:
    return ScreenshotFolder(storage_path("screenshots_path", tmp_path.as_uri()), announced.append, nullcontext)


def sign(storage: object, path: str, expiration: int = 100, **options: Any) -> str:
    return f"https://storage.example/{Path(path).name}?works_for={expiration}"


def test_where_the_storage_can_sign_the_link_opens_in_a_browser_for_a_week(
    folder: ScreenshotFolder, announced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.sign", sign)
    folder.take("s1", SCREENSHOT)
    folder.publish_latest("s1")
    assert announced == [f"https://storage.example/000007.bin?works_for={7 * 24 * 3600}"] * 2


def test_elsewhere_the_link_says_where_the_screenshot_is(
    folder: ScreenshotFolder, announced: list[str], tmp_path: Path
) -> None:
    folder.take("s1", SCREENSHOT)
    assert announced == [(tmp_path / "s1" / "000007.bin").as_uri()]


def test_the_latest_screenshot_is_the_one_that_is_recalled(
    folder: ScreenshotFolder, announced: list[str], tmp_path: Path
) -> None:
    for index in (99, 100, 7):
        folder.take("s1", SCREENSHOT.model_copy(update={"event_index": index}))
    folder.take("s2", SCREENSHOT.model_copy(update={"event_index": 500}))
    announced.clear()
    folder.publish_latest("s1")
    folder.publish_latest("unknown")
    assert announced == [(tmp_path / "s1" / "000100.bin").as_uri()]


def test_earlier_screenshots_that_can_not_be_looked_for_are_only_said_in_the_log(
    folder: ScreenshotFolder, announced: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(path: ObjectStoragePath) -> bool:
        raise PermissionError("no credentials")

    monkeypatch.setattr(ObjectStoragePath, "exists", failing)
    folder.publish_latest("s1")
    assert "no credentials" in caplog.text
    assert announced == []


def test_a_session_id_can_not_lead_out_of_the_screenshots_folder(tmp_path: Path, announced: list[str]) -> None:
    place = storage_path("screenshots_path", f"file://{tmp_path}/shots")
    ScreenshotFolder(place, announced.append, nullcontext).take("../../x\x00/y", SCREENSHOT)
    [saved] = tmp_path.rglob("*.bin")
    assert saved.parent.parent == tmp_path / "shots"
    assert announced == [saved.as_uri()]
