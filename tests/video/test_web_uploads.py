"""Client sessions of the web page: uploaded photos and videos, browser cameras, limits."""

from __future__ import annotations

import json
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from emotion_lab.core.errors import UserError
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.video.web import session_thread, sessions, uploads
from emotion_lab.video.web.uploads import safe_filename
from tests.helpers_web import GreyFrames, Page, decode, encoded_image, wait_for


def send(page: Page, data: bytes, name: str) -> str:
    response = page.client.post("/api/upload", params={"name": name}, content=data)
    assert response.status_code == 200, response.text
    return response.json()["view"]


def test_photo_returns_its_faces_and_is_deleted(
    open_page: Callable[..., Page], tmp_path: Path
) -> None:
    page = open_page()
    view = send(page, encoded_image(), "../my photo.jpg")
    status = page.until("ended", view)
    row = status["row"]
    assert row["source"] == "my photo.jpg" and row["size"] == [60, 40]
    assert list(row["faces"][0]["probabilities"]) == list(EMOTIONS)
    assert row["faces"][0]["label"] == "happy"
    assert page.first(view)[1]
    line = json.loads(page.client.get("/api/rows", params={"view": view}).text)
    assert line["faces"] == row["faces"]
    # The upload is deleted at the end of the session, its rows when the session is closed.
    folder = page.manager.get(view).rows.parent
    wait_for(lambda: [path.name for path in folder.iterdir()] == ["rows.jsonl"])
    assert page.client.post("/api/stop", params={"view": view}).status_code == 200
    assert not folder.exists() and not page.shut_down
    assert page.client.get("/api/next", params={"view": view}).status_code == 400
    assert [path.name for path in tmp_path.iterdir()] == ["live.jsonl"]


def test_clip_plays_in_parallel_to_the_live_view(
    open_page: Callable[..., Page], tmp_path: Path
) -> None:
    clip = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter_fourcc(*"MJPG"), 50, (64, 48))
    for _ in range(30):
        writer.write(np.full((48, 64, 3), 200, np.uint8))
    writer.release()
    page = open_page()
    view = send(page, clip.read_bytes(), "clip.avi")
    page.until("ended", view)
    rows = page.client.get("/api/rows", params={"view": view}).text.splitlines()
    assert len(rows) == 30
    assert {json.loads(row)["faces"][0]["id"] for row in rows} == {1}
    assert page.next()[0]["state"] == "running"


def test_browser_camera_has_its_own_tracks(open_page: Callable[..., Page]) -> None:
    page = open_page(GreyFrames(live=True, value=20))
    page.first()
    view = page.client.post("/api/camera").json()["view"]
    assert page.client.post(f"/api/camera/{view}", content=encoded_image()).status_code == 204
    status, jpeg = page.first(view)
    assert status["row"]["faces"][0]["label"] == "happy" and status["row"]["faces"][0]["id"] == 1
    assert decode(jpeg).shape == (40, 60, 3)
    assert page.next()[0]["row"]["faces"][0]["label"] is None  # the main session continues
    assert page.client.post(f"/api/camera/{view}", content=b"no image").status_code == 400
    assert page.client.post("/api/camera/camera-9", content=encoded_image()).status_code == 400
    page.client.post("/api/stop", params={"view": view})
    assert page.client.post(f"/api/camera/{view}", content=encoded_image()).status_code == 400


def test_camera_without_frames_ends(
    open_page: Callable[..., Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "CAMERA_TIMEOUT_S", 0.2)
    page = open_page()
    view = page.client.post("/api/camera").json()["view"]
    assert page.until("ended", view)["row"] is None


def test_unwatched_client_session_ends(
    open_page: Callable[..., Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_thread, "UNWATCHED_S", 0.2)
    page = open_page()
    view = page.client.post("/api/camera").json()["view"]
    deadline = time.monotonic() + 5
    while not page.manager.get(view).over and time.monotonic() < deadline:
        page.client.post(f"/api/camera/{view}", content=encoded_image())
        time.sleep(0.02)
    assert page.manager.get(view).over and not page.main.over


@pytest.mark.parametrize(
    ("name", "message"), [("a.jpg", "a.jpg"), ("a.mp4", "a.mp4 is"), ("", "upload")]
)
def test_upload_without_pictures_is_refused(
    open_page: Callable[..., Page], name: str, message: str
) -> None:
    page = open_page()
    response = page.client.post("/api/upload", params={"name": name}, content=b"some text")
    assert response.status_code == 400
    error = response.json()["error"]
    assert message in error and "emotion_lab_" not in error and "\n" not in error
    assert not page.manager.clients


def test_upload_size_and_number_of_sessions_are_limited(
    open_page: Callable[..., Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emotion_lab.video.web.routes.UPLOAD_LIMIT", 1000)
    page = open_page()
    response = page.client.post("/api/upload?name=a.png", content=b"x" * 1001)
    assert response.status_code == 413 and "too large" in response.json()["error"]
    for _ in range(sessions.MAX_CLIENTS):
        assert page.client.post("/api/camera").status_code == 200
    assert "already" in page.client.post("/api/camera").json()["error"]


def test_oldest_ended_session_is_removed(open_page: Callable[..., Page]) -> None:
    page = open_page()
    views = []
    for _ in range(sessions.MAX_CLIENTS + 2):
        views.append(send(page, encoded_image(suffix=".png"), "a.png"))
        page.until("ended", views[-1])
    assert list(page.manager.clients) == views[-sessions.MAX_CLIENTS :]


def test_names_of_uploads_are_safe() -> None:
    assert safe_filename("C:\\a\\b.mp4") == "b.mp4"
    assert safe_filename("../../etc/pass\x00wd") == "pass_wd"
    assert safe_filename("..") == safe_filename("") == "upload"
    assert safe_filename("Foto 1 (é).jpg") == "Foto 1 (é).jpg"


def test_camera_frame_with_too_many_pixels_is_refused() -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    data = bytearray(encoded_image(suffix=".png"))
    data[12:33] = header + struct.pack(">I", zlib.crc32(header))
    with pytest.raises(UserError, match="did not send an image"):
        uploads.BrowserCameraReader("camera").put(bytes(data))
