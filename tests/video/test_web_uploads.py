"""Visitors of the web page: their photos, clips and cameras, and what is refused."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx")

from emotion_lab.core.labels import EMOTIONS
from emotion_lab.video.web import session_thread, sessions, uploads
from emotion_lab.video.web.sessions import plain_name
from tests.helpers_web import Drawn, Page, decoded, pages, picture, wait_for


@pytest.fixture
def open_page(tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Return a function that opens a page on a reader."""
    with pages(tmp_path) as make:
        yield make


def send(page: Page, data: bytes, name: str) -> str:
    answer = page.client.post("/api/upload", params={"name": name}, content=data)
    assert answer.status_code == 200, answer.text
    return answer.json()["view"]


def test_a_photo_gives_its_faces(open_page: Callable[..., Page], tmp_path: Path) -> None:
    page = open_page()
    view = send(page, picture(), "../my photo.jpg")
    status = page.until("ended", view)
    row = status["row"]
    assert row["source"] == "my photo.jpg" and row["size"] == [60, 40]
    assert list(row["faces"][0]["probabilities"]) == list(EMOTIONS)
    assert row["faces"][0]["label"] == "happy"
    assert page.first(view)[1]
    line = json.loads(page.client.get("/api/rows", params={"view": view}).text)
    assert line["faces"] == row["faces"]
    # Nothing of it is kept: not beside the rows, and after leaving no rows either.
    folder = page.hub.show(view).rows.parent
    wait_for(lambda: [path.name for path in folder.iterdir()] == ["rows.jsonl"])
    assert page.client.post("/api/stop", params={"view": view}).status_code == 200
    assert not folder.exists() and not page.left
    assert page.client.get("/api/next", params={"view": view}).status_code == 400
    assert [path.name for path in tmp_path.iterdir()] == ["live.jsonl"]


def test_a_clip_plays_beside_the_live_view(open_page: Callable[..., Page], tmp_path: Path) -> None:
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


def test_the_browser_s_camera_has_its_own_faces(open_page: Callable[..., Page]) -> None:
    page = open_page(Drawn(live=True, value=20))
    page.first()
    view = page.client.post("/api/camera").json()["view"]
    assert page.client.post(f"/api/camera/{view}", content=picture()).status_code == 204
    status, jpeg = page.first(view)
    assert status["row"]["faces"][0]["label"] == "happy" and status["row"]["faces"][0]["id"] == 1
    assert decoded(jpeg).shape == (40, 60, 3)
    assert page.next()[0]["row"]["faces"][0]["label"] is None  # the program's own goes on
    assert page.client.post(f"/api/camera/{view}", content=b"no image").status_code == 400
    assert page.client.post("/api/camera/camera-9", content=picture()).status_code == 400
    page.client.post("/api/stop", params={"view": view})
    assert page.client.post(f"/api/camera/{view}", content=picture()).status_code == 400


def test_a_camera_that_fell_silent_ends(
    open_page: Callable[..., Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "SILENT_S", 0.2)
    page = open_page()
    view = page.client.post("/api/camera").json()["view"]
    assert page.until("ended", view)["row"] is None


def test_a_visitor_nobody_looks_at_ends(
    open_page: Callable[..., Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_thread, "UNWATCHED_S", 0.2)
    page = open_page()
    view = page.client.post("/api/camera").json()["view"]
    until = time.monotonic() + 5
    while not page.hub.show(view).over and time.monotonic() < until:
        page.client.post(f"/api/camera/{view}", content=picture())
        time.sleep(0.02)
    assert page.hub.show(view).over and not page.hub.main.over


@pytest.mark.parametrize(
    ("name", "words"), [("a.jpg", "a.jpg"), ("a.mp4", "a.mp4 is"), ("", "upload")]
)
def test_what_is_no_picture_is_refused(
    open_page: Callable[..., Page], name: str, words: str
) -> None:
    page = open_page()
    answer = page.client.post("/api/upload", params={"name": name}, content=b"some text")
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert words in error and "emotion_lab_" not in error and "\n" not in error
    assert set(page.hub.shows) == {"live"}


def test_too_much_is_refused(
    open_page: Callable[..., Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emotion_lab.video.web.routes.UPLOAD_LIMIT", 1000)
    page = open_page()
    answer = page.client.post("/api/upload?name=a.png", content=b"x" * 1001)
    assert answer.status_code == 413 and "too large" in answer.json()["error"]
    for _ in range(sessions.MAX_GUESTS):
        assert page.client.post("/api/camera").status_code == 200
    assert "already" in page.client.post("/api/camera").json()["error"]


def test_the_oldest_that_is_over_makes_room(open_page: Callable[..., Page]) -> None:
    page = open_page()
    views = []
    for _ in range(sessions.MAX_GUESTS + 2):
        views.append(send(page, picture(ending=".png"), "a.png"))
        page.until("ended", views[-1])
    assert set(page.hub.shows) == {"live", *views[-sessions.MAX_GUESTS :]}


def test_names_of_uploads_are_plain() -> None:
    assert plain_name("C:\\a\\b.mp4") == "b.mp4"
    assert plain_name("../../etc/pass\x00wd") == "pass_wd"
    assert plain_name("..") == plain_name("") == "upload"
    assert plain_name("Foto 1 (é).jpg") == "Foto 1 (é).jpg"
