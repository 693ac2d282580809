"""Web page: access control, displayed frames, controls and saved files."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from emotion_lab.core.labels import EMOTIONS
from emotion_lab.inference.neutral import NeutralReference
from emotion_lab.video.enrolment import Enrolment
from emotion_lab.video.overlay.primitives import class_colours
from emotion_lab.video.sinks.base import Sink
from emotion_lab.video.web.routes import complete_lines
from emotion_lab.video.web.session_thread import STREAM_WIDTH, encode_jpeg
from tests.helpers_sinks import frames_of
from tests.helpers_web import GreyFrames, Page, decode, wait_for

# --- displayed data -------------------------------------------------------------------------------


def test_page_loads_nothing_from_other_sites(open_page: Callable[..., Page]) -> None:
    client = open_page().client
    for path, kind in (
        ("/", "text/html"),
        ("/page.css", "text/css"),
        ("/page.js", "text/javascript"),
        ("/timeline.js", "text/javascript"),
        ("/uploads.js", "text/javascript"),
    ):
        response = client.get(path)
        assert response.status_code == 200 and response.headers["content-type"].startswith(kind)
        assert "://" not in response.text
        assert "default-src 'self'" in response.headers["content-security-policy"]
        assert "access-control-allow-origin" not in response.headers
    assert client.get("/../server.py").status_code == 404
    assert client.get("/server.py").status_code == 404


def test_about_uses_the_overlay_colours_and_labels(open_page: Callable[..., Page]) -> None:
    about = open_page().client.get("/api/about").json()
    assert about["classes"] == list(EMOTIONS)
    expected = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in class_colours(EMOTIONS)]
    assert about["colours"] == expected
    assert about["uncertain"] == "uncertain" and about["detector"] == "full_frame"


def test_next_returns_the_result_and_the_drawn_frame(open_page: Callable[..., Page]) -> None:
    status, jpeg = open_page().first()
    assert status["state"] == "running" and status["view"] == "live"
    face = status["row"]["faces"][0]
    assert face["label"] == "happy" and face["box"] == [0, 0, 64, 48]
    assert list(face["smoothed"]) == list(EMOTIONS)
    assert face["smoothed"]["happy"] == pytest.approx(0.7)
    assert decode(jpeg).shape == (48, 64, 3)


def test_uncertain_face_has_no_label(open_page: Callable[..., Page]) -> None:
    status, _ = open_page(GreyFrames(live=True, value=20)).first()
    assert status["row"]["faces"][0]["label"] is None


def test_wide_frames_are_resized_for_browsers() -> None:
    image = decode(encode_jpeg(np.zeros((1080, 1920, 3), np.uint8)))
    assert image.shape == (720, STREAM_WIDTH, 3)


def test_slow_browser_gets_the_latest_frame(open_page: Callable[..., Page]) -> None:
    page = open_page()
    status, _ = page.first()
    time.sleep(0.3)  # a slow browser
    later, _ = page.next(after=status["version"])
    newest = page.main.latest()[0]
    # Not the frame after the first one, but the latest at the time of the request.
    assert later["row"]["frame"] - status["row"]["frame"] > 10
    assert newest is not None and newest["frame"] - later["row"]["frame"] < 15


def test_next_without_a_new_frame_is_empty(
    open_page: Callable[..., Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emotion_lab.video.web.routes.WAIT_S", 0.05)
    page = open_page(GreyFrames(3))
    page.until("ended")
    version = wait_for(lambda: page.next()[0])["version"]
    response = page.client.get("/api/next", params={"after": version})
    assert response.status_code == 204 and not response.content
    assert not page.main._waiting


# --- access control -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/page.js", "/api/about", "/api/next", "/api/rows", "/no"])
def test_every_route_requires_the_token(open_page: Callable[..., Page], path: str) -> None:
    client = open_page(token="pässword").client
    for query in ("", "?token=", "?token=password", "?token=%ff"):
        assert client.get(path + query).status_code == 403
    client.cookies.set("emotion_lab_8080", "wrong")
    assert client.get(path).status_code == 403
    assert client.post("/api/stop").status_code == 403


def test_first_visit_stores_the_token_in_a_cookie(open_page: Callable[..., Page]) -> None:
    client = open_page(token="a;b c=").client
    response = client.get("/", params={"token": "a;b c="})
    assert response.status_code == 200
    cookie = response.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie
    assert client.get("/api/about").status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[", "192.168.1.2"])
def test_other_host_names_are_refused(open_page: Callable[..., Page], host: str) -> None:
    client = open_page().client
    assert client.get("/", headers={"host": host}).status_code == 403
    for host in ("localhost:9000", "127.0.0.1", "[::1]:8080"):
        assert client.get("/", headers={"host": host}).status_code == 200


def test_requests_from_other_sites_are_refused(open_page: Callable[..., Page]) -> None:
    page = open_page()
    for origin in ("http://evil.example", "null", "http://127.0.0.1:9999"):
        assert page.client.post("/api/stop", headers={"origin": origin}).status_code == 403
    image = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
    assert page.client.get("/api/next", headers=image).status_code == 403
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert page.client.get("/", headers=link).status_code == 200
    assert not page.shut_down
    same = {"origin": "http://127.0.0.1:8080"}
    assert page.client.post("/api/stop", headers=same).status_code == 200
    assert page.shut_down


# --- controls -------------------------------------------------------------------------------------


def test_pause_loses_no_frame_of_a_file(open_page: Callable[..., Page]) -> None:
    page = open_page(GreyFrames(60))
    page.first()
    assert page.client.post("/api/pause?on=1").json() == {"state": "paused"}
    time.sleep(0.1)  # the current frame
    paused_at = page.next()[0]["row"]["frame"]
    time.sleep(0.2)
    assert page.next()[0]["row"]["frame"] == paused_at < 59
    assert page.client.post("/api/pause?on=0").json() == {"state": "running"}
    page.until("ended")
    lines = page.client.get("/api/rows").text.splitlines()
    assert [json.loads(line)["frame"] for line in lines] == list(range(60))
    assert page.client.post("/api/pause?on=2").status_code == 400


def test_neutral_face_is_enrolled_from_the_page(open_page: Callable[..., Page]) -> None:
    page = open_page(GreyFrames(40), start=False)
    response = page.client.post("/api/enrol")
    assert response.status_code == 400 and "enrol_reference=" in response.json()["error"]
    assert page.client.get("/api/about").json()["can_enrol"] is False
    classes = page.manager.pipeline.classes
    reference = NeutralReference(classes, "abc", np.zeros(len(classes)), 1.0)
    page.manager.pipeline.enrolment = Enrolment(reference)
    assert page.client.get("/api/about").json()["can_enrol"] is True
    assert page.client.post("/api/enrol").json() == {"seconds": 3.0}
    assert page.manager.pipeline.enrolment._requested


def test_file_plays_at_its_own_frame_rate(open_page: Callable[..., Page]) -> None:
    page = open_page(GreyFrames(50), start=False)
    begin = time.monotonic()
    page.main.start()
    page.until("ended")
    assert 0.45 < time.monotonic() - begin < 2.0
    rows = page.client.get("/api/rows").text.splitlines()
    walls = [json.loads(row)["wall"] for row in rows]
    assert walls == sorted(walls) and walls[-1] - walls[0] > 0.45


def test_snapshot_is_saved_and_can_be_downloaded(
    open_page: Callable[..., Page], tmp_path: Path
) -> None:
    page = open_page()
    page.first()
    name = page.client.post("/api/snapshot").json()["file"]
    image = cv2.imread(str(tmp_path / name))
    assert image.shape == (48, 64, 3)
    fetched = page.client.get(f"/api/file/{name}")
    assert fetched.content == (tmp_path / name).read_bytes()
    assert name in page.next()[0]["saved"]
    (tmp_path / "secret.txt").write_text("x")
    for other in ("secret.txt", "../secret.txt", "..%2fsecret.txt"):
        assert page.client.get(f"/api/file/{other}").status_code == 404


def test_recording_plays(open_page: Callable[..., Page], tmp_path: Path) -> None:
    page = open_page()
    page.first()
    name = page.client.post("/api/record?on=1").json()["file"]
    wait_for(lambda: (page.next()[0]["recording"] or {"seconds": 0})["seconds"] > 0.2)
    assert page.client.post("/api/record?on=0").json()["file"] == name
    assert page.next()[0]["recording"] is None
    assert 10 < len(list(frames_of(tmp_path / name))) < 300
    assert page.client.get(f"/api/file/{name}").status_code == 200


def test_close_completes_a_recording(open_page: Callable[..., Page], tmp_path: Path) -> None:
    page = open_page()
    page.first()
    name = page.client.post("/api/record?on=1").json()["file"]
    wait_for(lambda: (page.next()[0]["recording"] or {"seconds": 0})["seconds"] > 0.1)
    page.manager.close()
    assert len(list(frames_of(tmp_path / name))) > 5


def test_close_waits_for_slow_sinks(open_page: Callable[..., Page]) -> None:
    class SlowSink(Sink):
        closed = False

        def write(self, *_: Any) -> None:
            pass

        def close(self) -> None:  # for instance the timeline of a long run
            time.sleep(1.2)
            self.closed = True

    page, slow = open_page(start=False), SlowSink()
    page.main.runner.sinks.append(slow)
    page.main.start()
    page.first()
    page.manager.close()
    assert slow.closed and page.main.state == "ended"


def test_full_disk_ends_only_the_recording(
    open_page: Callable[..., Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emotion_lab.video.sinks.video.RESERVE", 2**62)
    page = open_page()
    page.first()
    page.client.post("/api/record?on=1")
    status = wait_for(lambda: s if (s := page.next()[0])["message"] else None)
    assert "left on the disk" in status["message"] and status["recording"] is None
    assert status["state"] == "running"


def test_faces_are_hidden_on_the_page_and_in_snapshots(
    open_page: Callable[..., Page], tmp_path: Path
) -> None:
    stripes = GreyFrames(live=True)
    stripes.image = np.zeros((240, 320, 3), np.uint8)
    stripes.image[:, np.arange(320) % 8 < 4] = 200
    sharpness = {}
    for mode in ("none", "blur"):
        page = open_page(stripes, anonymize=mode)
        shown = decode(page.first()[1])
        saved = cv2.imread(str(tmp_path / page.client.post("/api/snapshot").json()["file"]))
        page.manager.close()
        (tmp_path / "live.jsonl").unlink()
        # Mean difference of neighbouring pixels: 50 for the stripes, small for the overlay.
        images = (shown, saved)
        sharpness[mode] = [np.abs(np.diff(i.astype(int), axis=1)).mean() for i in images]
    assert min(sharpness["none"]) > 3 * max(sharpness["blur"]), sharpness


def test_rows_end_with_a_complete_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    long = b'{"a": "' + b"x" * 200_000 + b'"}\n'
    path.write_bytes(long + b'{"b": 1}\n{"c":')
    assert b"".join(complete_lines(path)) == long + b'{"b": 1}\n'
    path.write_bytes(b"")
    assert b"".join(complete_lines(path)) == b""
