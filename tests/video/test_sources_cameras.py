"""Cameras and streams: newest frame, reconnection, timeouts, one-line errors."""

from __future__ import annotations

import contextlib
import http.server
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from emotion_lab.core.errors import UserError
from emotion_lab.video.sources import camera
from emotion_lab.video.sources.open import open_source
from tests.helpers_sources import FakeCapture

pytestmark = pytest.mark.usefixtures("no_capture_threads")


def test_camera_properties_and_newest_frame(frame_counts: list[int]) -> None:
    frame_counts[:] = [200]
    cfg = {"source": 3, "width": 1280, "height": 720, "fps": 30, "reconnect_s": 0}
    with open_source(cfg) as source:
        assert source.live and source.kind == "camera" and source.count is None
        assert source.size == (8, 6) and source.fps == 30
        properties = FakeCapture.opened[0].properties
        assert properties[cv2.CAP_PROP_FRAME_WIDTH] == 1280
        assert properties[cv2.CAP_PROP_FRAME_HEIGHT] == 720
        assert properties[cv2.CAP_PROP_FOURCC] == cv2.VideoWriter.fourcc(*"MJPG")
        first = next(source)
        until = time.monotonic() + 20
        while source.dropped < 5 and time.monotonic() < until:
            time.sleep(0.01)
        second = next(source)
    assert first.image[0, 0].tolist() == [3, 2, 1]
    assert second.index > 5 and source.dropped >= second.index - first.index - 1
    assert FakeCapture.opened[0].released


def test_camera_reconnects(frame_counts: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    frame_counts[:] = [6, 0, 0, 500]
    with open_source({"source": 0, "reconnect_s": 20, "max_frames": 12}) as source:
        frames = list(source)
    indices = [frame.index for frame in frames]
    times = [frame.time_s for frame in frames]
    assert indices == sorted(set(indices)) and times == sorted(times) and times[0] >= 0
    lost, restored = capsys.readouterr().err.splitlines()
    assert lost == "Camera 0: connection lost, reconnecting for up to 20 s."
    assert restored.startswith("Camera 0: reconnected after")
    assert all(capture.released for capture in FakeCapture.opened)


def test_camera_reconnection_times_out(
    frame_counts: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    frame_counts[:] = [5]
    frames = []
    with (
        open_source({"source": 0, "reconnect_s": 0.1}) as source,
        pytest.raises(UserError, match=r"not restored within 0\.1 s") as caught,
    ):
        frames.extend(source)
    assert "\n" not in str(caught.value) and frames
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_missing_camera_fails_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(camera, "DEVICES", tmp_path)
    monkeypatch.setattr(camera, "SYSFS", tmp_path)
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        open_source({"source": "97"})
    assert time.monotonic() - start < 5
    assert "amera 97" in str(caught.value) and "set source=" in str(caught.value)
    if sys.platform == "linux":
        assert "does not exist" in str(caught.value) and "Available cameras: none." in str(
            caught.value
        )
    assert capfd.readouterr().err == ""  # no messages of OpenCV


@pytest.mark.skipif(sys.platform != "linux", reason="camera names are read from sysfs")
def test_camera_by_name_and_camera_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frame_counts: list[int]
) -> None:
    names = {"video0": ("Integrated Camera", 0), "video1": ("Integrated Camera", 1)}
    for node, (name, index) in {**names, "video12": ("USB Cam HD", 0)}.items():
        (tmp_path / node).mkdir()
        (tmp_path / node / "name").write_text(f"{name}\n")
        (tmp_path / node / "index").write_text(f"{index}\n")
    monkeypatch.setattr(camera, "SYSFS", tmp_path)
    monkeypatch.setattr(camera, "DEVICES", tmp_path)
    assert camera.list_cameras() == [(0, "Integrated Camera"), (12, "USB Cam HD")]
    frame_counts[:] = [5]
    with open_source({"source": "usb cam"}) as source:
        assert source._reader.target == 12 and source.name == "usb cam"
    frame_counts[:] = [5]
    with open_source({"source": "/dev/video7"}) as source:
        assert source._reader.target == 7
    # The device exists but returns no picture.
    with pytest.raises(UserError, match="another program uses it") as caught:
        open_source({"source": 12})
    assert "0 (Integrated Camera), 12 (USB Cam HD)" in str(caught.value)
    with pytest.raises(UserError, match="no file, folder or camera 'webcam'"):
        open_source({"source": "webcam"})


def test_blocked_driver_times_out(frame_counts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    frame_counts[:] = [5]
    monkeypatch.setattr(camera, "DEADLINE_S", 0.1)
    unblock = threading.Event()
    monkeypatch.setattr(FakeCapture, "isOpened", lambda self: unblock.wait(10))
    with pytest.raises(UserError, match="amera 0"):
        open_source({"source": 0})
    unblock.set()
    for _ in range(100):  # a capture opened after the timeout is released
        if FakeCapture.opened[0].released:
            break
        time.sleep(0.01)
    assert FakeCapture.opened[0].released


@contextlib.contextmanager
def mjpeg_server(parts: list[int], fps: float = 60.0) -> Iterator[str]:
    """Serve a motion-JPEG stream whose connections end after the given numbers of frames."""
    sent = [0]

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            if not parts:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            for _ in range(parts.pop(0)):
                image = np.full((64, 96, 3), 20 + 3 * (sent[0] % 70), np.uint8)
                data = cv2.imencode(".jpg", image)[1].tobytes()
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                try:
                    self.wfile.write(head.encode() + data + b"\r\n")
                except OSError:
                    return
                sent[0] += 1
                time.sleep(1 / fps)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://user:p@secret@127.0.0.1:{server.server_port}/cam.mjpg"
    finally:
        server.shutdown()
        server.server_close()


def test_stream_drops_frames_reconnects_and_times_out(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(camera, "BACKOFF_S", (0.05, 0.2))
    with mjpeg_server([30, 40]) as url, open_source({"source": url, "reconnect_s": 1}) as source:
        assert source.live and source.kind == "stream" and source.size == (96, 64)
        assert "secret" not in source.name
        frames = [next(source)]
        until = time.monotonic() + 20
        while source.dropped < 5 and time.monotonic() < until:
            time.sleep(0.01)
        with pytest.raises(UserError, match="not restored within 1 s") as caught:
            frames.extend(source)
    indices = [frame.index for frame in frames]
    assert indices == sorted(set(indices)) and indices[1] > 3  # the newest after the pause
    assert source.dropped == indices[-1] + 1 - len(frames) > 0
    assert indices[-1] > 45  # both parts
    err = capfd.readouterr().err
    assert "secret" not in err + str(caught.value) + frames[0].name
    words = [line.partition(": ")[2].split()[0] for line in err.splitlines()]
    assert words == ["connection", "reconnected", "connection"]


def test_unreachable_address(capfd: pytest.CaptureFixture[str]) -> None:
    start = time.monotonic()
    for url in ("http://127.0.0.1:9/x.mjpg", "rtsp://me:secret@127.0.0.1:9/x"):
        with pytest.raises(UserError, match=r"No picture from (http|rtsp)://127\.0\.0\.1:9/x"):
            open_source({"source": url})
    assert time.monotonic() - start < 12
    assert capfd.readouterr().err == ""
