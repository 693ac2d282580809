"""The web page: who may see it, what it shows, what it saves, and that nobody slows the session."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx")

from starlette.testclient import TestClient

from emotion_lab.errors import UserError
from emotion_lab.faces.base import Frame
from emotion_lab.faces.capture import Reader, Source
from emotion_lab.faces.detectors.full_frame import FullFrame
from emotion_lab.faces.draw import class_colours
from emotion_lab.faces.overlay import Overlay
from emotion_lab.faces.pipeline import Pipeline
from emotion_lab.faces.session import Session
from emotion_lab.faces.sinks.base import Sink
from emotion_lab.faces.web import guests, hub, serve, show
from emotion_lab.faces.web.app import build_app, whole_lines
from emotion_lab.faces.web.hub import Hub, plain_name
from emotion_lab.faces.web.player import Player
from emotion_lab.labels import EMOTIONS

SMOOTHING = {"name": "none", "threshold": 0.3, "margin": 0.1, "hold_s": 0.25}


class Fake:
    """A classifier that is sure of "happy" on bright faces and of nothing on dark ones."""

    classes = list(EMOTIONS)
    crop_margin = 0.0
    runtime_name = "fake"

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        rows = np.full((len(images), len(self.classes)), 1 / len(self.classes), np.float32)
        for row, image in zip(rows, images, strict=True):
            if image.mean() > 100:
                row[:] = 0.05
                row[self.classes.index("happy")] = 0.7
        return rows


class Drawn(Reader):
    """Grey frames at 100 frames a second, ``count`` of them or without end."""

    name, kind, fps, size = "drawn", "clip", 100.0, (64, 48)

    def __init__(self, count: int | None = None, live: bool = False, value: int = 200) -> None:
        self.count, self.live, self.value = count, live, value
        self.error: Exception | None = None

    def frames(self, stop: threading.Event) -> Iterator[Frame]:
        index = 0
        while not stop.is_set() and (self.count is None or index < self.count):
            if self.live:
                stop.wait(0.01)
            image = np.full((48, 64, 3), self.value, np.uint8)
            yield Frame(image, index, index / 100, time.time(), self.name)
            index += 1
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        pass


def make_session(reader: Reader, anonymize: str = "none") -> Session:
    pipeline = Pipeline(FullFrame({}), Fake(), SMOOTHING)  # type: ignore[arg-type]
    overlay = Overlay({}, Fake.classes, "en", anonymize)
    return Session(Source(reader), pipeline, overlay, [], {"detector": "full_frame"})


def wait_for(test: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Return what ``test`` returns as soon as that is true."""
    until = time.monotonic() + seconds
    while not (value := test()):
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.01)
    return value


class Page:
    """A hub with a running session, and a browser that looks at it."""

    def __init__(
        self, session: Session, folder: Path, token: str | None = None, start: bool = True
    ) -> None:
        self.hub = Hub(session, folder)
        self.left = False
        self.app = build_app(self.hub, self.leave, token, token is None, 8080)
        self.client = TestClient(self.app, base_url="http://127.0.0.1:8080")
        if start:
            self.hub.main.start()

    def leave(self) -> None:
        self.left = True

    def next(self, view: str = "live", after: int = -1) -> tuple[dict[str, Any], bytes]:
        answer = self.client.get("/api/next", params={"view": view, "after": after})
        assert answer.status_code == 200, answer.text
        length = struct.unpack(">I", answer.content[:4])[0]
        return json.loads(answer.content[4 : 4 + length]), answer.content[4 + length :]

    def first(self, view: str = "live") -> tuple[dict[str, Any], bytes]:
        """Return the first answer that holds a picture."""
        return wait_for(lambda: got if (got := self.next(view))[1] else None)

    def until(self, state: str, view: str = "live") -> dict[str, Any]:
        return wait_for(lambda: got if (got := self.next(view)[0])["state"] == state else None)


@pytest.fixture
def open_page(tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Return a function that opens a page on a reader."""
    pages: list[Page] = []

    def make(
        reader: Reader | None = None, token: str | None = None, start: bool = True, **more: Any
    ) -> Page:
        page = Page(make_session(reader or Drawn(live=True), **more), tmp_path, token, start)
        pages.append(page)
        return page

    yield make
    for page in pages:
        page.hub.close()


def decoded(jpeg: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def picture(value: int = 200, ending: str = ".jpg") -> bytes:
    return cv2.imencode(ending, np.full((40, 60, 3), value, np.uint8))[1].tobytes()


def frames_of(path: Path) -> int:
    video, count = cv2.VideoCapture(str(path)), 0
    while video.read()[0]:
        count += 1
    return count


# --- what it shows ------------------------------------------------------------------------------


def test_the_page_needs_nothing_from_elsewhere(open_page: Callable[..., Page]) -> None:
    client = open_page().client
    for path, kind in (
        ("/", "text/html"),
        ("/page.css", "text/css"),
        ("/page.js", "text/javascript"),
        ("/timeline.js", "text/javascript"),
        ("/bring.js", "text/javascript"),
    ):
        answer = client.get(path)
        assert answer.status_code == 200 and answer.headers["content-type"].startswith(kind)
        assert "://" not in answer.text
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert "access-control-allow-origin" not in answer.headers
    assert client.get("/../serve.py").status_code == 404
    assert client.get("/serve.py").status_code == 404


def test_colours_and_names_are_the_overlay_s(open_page: Callable[..., Page]) -> None:
    about = open_page().client.get("/api/about").json()
    assert about["classes"] == list(EMOTIONS)
    wanted = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in class_colours(EMOTIONS)]
    assert about["colours"] == wanted
    assert about["uncertain"] == "uncertain" and about["detector"] == "full_frame"


def test_a_frame_is_the_row_and_the_drawn_picture(open_page: Callable[..., Page]) -> None:
    status, jpeg = open_page().first()
    assert status["state"] == "running" and status["view"] == "live"
    face = status["row"]["faces"][0]
    assert face["label"] == "happy" and face["box"] == [0, 0, 64, 48]
    assert list(face["smoothed"]) == list(EMOTIONS)
    assert face["smoothed"]["happy"] == pytest.approx(0.7)
    assert decoded(jpeg).shape == (48, 64, 3)


def test_uncertain_is_no_label(open_page: Callable[..., Page]) -> None:
    status, _ = open_page(Drawn(live=True, value=20)).first()
    assert status["row"]["faces"][0]["label"] is None


def test_a_wide_picture_is_made_smaller_for_browsers_only(open_page: Callable[..., Page]) -> None:
    from emotion_lab.faces.web.view import encode

    assert decoded(encode(np.zeros((1080, 1920, 3), np.uint8))).shape == (720, 1280, 3)


def test_frames_come_when_asked_and_only_newer_ones(open_page: Callable[..., Page]) -> None:
    page = open_page()
    status, _ = page.first()
    time.sleep(0.3)  # a slow browser
    later, _ = page.next(after=status["version"])
    newest = page.hub.main.view.newest()[0]
    # It did not get the next frame, but the one that was newest when it asked.
    assert later["row"]["frame"] - status["row"]["frame"] > 10
    assert newest is not None and newest["frame"] - later["row"]["frame"] < 15


def test_without_news_the_answer_is_empty(
    open_page: Callable[..., Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emotion_lab.faces.web.app.WAIT_S", 0.05)
    page = open_page(Drawn(3))
    page.until("ended")
    version = wait_for(lambda: page.next()[0])["version"]
    answer = page.client.get("/api/next", params={"after": version})
    assert answer.status_code == 204 and not answer.content
    assert not page.hub.main.view.bell._waiting


# --- who may see it -----------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/page.js", "/api/about", "/api/next", "/api/rows", "/no"])
def test_every_address_asks_for_the_token(open_page: Callable[..., Page], path: str) -> None:
    client = open_page(token="pässword").client
    for query in ("", "?token=", "?token=password", "?token=%ff"):
        assert client.get(path + query).status_code == 403
    client.cookies.set("emotion_lab_8080", "wrong")
    assert client.get(path).status_code == 403
    assert client.post("/api/stop").status_code == 403


def test_the_first_visit_leaves_the_token_in_a_cookie(open_page: Callable[..., Page]) -> None:
    client = open_page(token="a;b c=").client
    answer = client.get("/", params={"token": "a;b c="})
    assert answer.status_code == 200
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie
    assert client.get("/api/about").status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[", "192.168.1.2"])
def test_another_name_for_this_machine_is_refused(
    open_page: Callable[..., Page], host: str
) -> None:
    client = open_page().client
    assert client.get("/", headers={"host": host}).status_code == 403
    for own in ("localhost:9000", "127.0.0.1", "[::1]:8080"):
        assert client.get("/", headers={"host": own}).status_code == 200


def test_other_sites_cannot_use_the_page(open_page: Callable[..., Page]) -> None:
    page = open_page()
    for origin in ("http://evil.example", "null", "http://127.0.0.1:9999"):
        assert page.client.post("/api/stop", headers={"origin": origin}).status_code == 403
    image = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
    assert page.client.get("/api/next", headers=image).status_code == 403
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert page.client.get("/", headers=link).status_code == 200
    assert not page.left
    own = {"origin": "http://127.0.0.1:8080"}
    assert page.client.post("/api/stop", headers=own).status_code == 200
    assert page.left


# --- buttons ------------------------------------------------------------------------------------


def test_pause_holds_a_clip_and_loses_nothing(open_page: Callable[..., Page]) -> None:
    page = open_page(Drawn(60))
    page.first()
    assert page.client.post("/api/pause?on=1").json() == {"state": "paused"}
    time.sleep(0.1)  # the frame at hand
    before = page.next()[0]["row"]["frame"]
    time.sleep(0.2)
    assert page.next()[0]["row"]["frame"] == before < 59
    assert page.client.post("/api/pause?on=0").json() == {"state": "running"}
    page.until("ended")
    lines = page.client.get("/api/rows").text.splitlines()
    assert [json.loads(line)["frame"] for line in lines] == list(range(60))
    assert page.client.post("/api/pause?on=2").status_code == 400


def test_a_file_plays_at_its_own_rate() -> None:
    begin = time.monotonic()
    player = Player(Source(Drawn(50)))
    with player:
        walls = [frame.wall for frame in player]
    assert 0.45 < time.monotonic() - begin < 2.0
    assert walls == sorted(walls) and walls[-1] - walls[0] > 0.45


def test_a_snapshot_is_saved_and_can_be_fetched(
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


def test_a_recording_plays(open_page: Callable[..., Page], tmp_path: Path) -> None:
    page = open_page()
    page.first()
    name = page.client.post("/api/record?on=1").json()["file"]
    wait_for(lambda: (page.next()[0]["recording"] or {"seconds": 0})["seconds"] > 0.2)
    assert page.client.post("/api/record?on=0").json()["file"] == name
    assert page.next()[0]["recording"] is None
    assert 10 < frames_of(tmp_path / name) < 300
    assert page.client.get(f"/api/file/{name}").status_code == 200


def test_the_end_finishes_a_recording(open_page: Callable[..., Page], tmp_path: Path) -> None:
    page = open_page()
    page.first()
    name = page.client.post("/api/record?on=1").json()["file"]
    wait_for(lambda: (page.next()[0]["recording"] or {"seconds": 0})["seconds"] > 0.1)
    page.hub.close()
    assert frames_of(tmp_path / name) > 5


def test_the_end_waits_for_files_to_be_closed(open_page: Callable[..., Page]) -> None:
    class Slow(Sink):
        closed = False

        def write(self, *_: Any) -> None:
            pass

        def close(self) -> None:  # such as the timeline of a long run
            time.sleep(1.2)
            self.closed = True

    page, slow = open_page(start=False), Slow()
    page.hub.main.session.sinks.append(slow)
    page.hub.main.start()
    page.first()
    page.hub.close()
    assert slow.closed and page.hub.main.state == "ended"


def test_a_full_disk_ends_the_recording_only(
    open_page: Callable[..., Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emotion_lab.faces.sinks.video.RESERVE", 2**62)
    page = open_page()
    page.first()
    page.client.post("/api/record?on=1")
    status = wait_for(lambda: got if (got := page.next()[0])["message"] else None)
    assert "left on the disk" in status["message"] and status["recording"] is None
    assert status["state"] == "running"


def test_hidden_faces_are_hidden_everywhere(open_page: Callable[..., Page], tmp_path: Path) -> None:
    class Stripes(Drawn):
        def frames(self, stop: threading.Event) -> Iterator[Frame]:
            for frame in super().frames(stop):
                frame.image = np.zeros((240, 320, 3), np.uint8)
                frame.image[:, np.arange(320) % 8 < 4] = 200
                yield frame

    sharp = {}
    for mode in ("none", "blur"):
        page = open_page(Stripes(live=True), anonymize=mode)
        shown = decoded(page.first()[1])
        saved = cv2.imread(str(tmp_path / page.client.post("/api/snapshot").json()["file"]))
        page.hub.close()
        (tmp_path / "live.jsonl").unlink()
        # How much neighbouring pixels differ: 50 for the stripes, a little for what is drawn.
        edges = [np.abs(np.diff(image.astype(int), axis=1)).mean() for image in (shown, saved)]
        sharp[mode] = edges
    assert min(sharp["none"]) > 3 * max(sharp["blur"]), sharp


def test_rows_end_with_a_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    long = b'{"a": "' + b"x" * 200_000 + b'"}\n'
    path.write_bytes(long + b'{"b": 1}\n{"c":')
    assert b"".join(whole_lines(path)) == long + b'{"b": 1}\n'
    path.write_bytes(b"")
    assert b"".join(whole_lines(path)) == b""


# --- visitors -----------------------------------------------------------------------------------


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
    monkeypatch.setattr(guests, "SILENT_S", 0.2)
    page = open_page()
    view = page.client.post("/api/camera").json()["view"]
    assert page.until("ended", view)["row"] is None


def test_a_visitor_nobody_looks_at_ends(
    open_page: Callable[..., Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(show, "UNWATCHED_S", 0.2)
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
    monkeypatch.setattr("emotion_lab.faces.web.app.UPLOAD_LIMIT", 1000)
    page = open_page()
    answer = page.client.post("/api/upload?name=a.png", content=b"x" * 1001)
    assert answer.status_code == 413 and "too large" in answer.json()["error"]
    for _ in range(hub.MAX_GUESTS):
        assert page.client.post("/api/camera").status_code == 200
    assert "already" in page.client.post("/api/camera").json()["error"]


def test_the_oldest_that_is_over_makes_room(open_page: Callable[..., Page]) -> None:
    page = open_page()
    views = []
    for _ in range(hub.MAX_GUESTS + 2):
        views.append(send(page, picture(ending=".png"), "a.png"))
        page.until("ended", views[-1])
    assert set(page.hub.shows) == {"live", *views[-hub.MAX_GUESTS :]}


def test_names_of_uploads_are_plain() -> None:
    assert plain_name("C:\\a\\b.mp4") == "b.mp4"
    assert plain_name("../../etc/pass\x00wd") == "pass_wd"
    assert plain_name("..") == plain_name("") == "upload"
    assert plain_name("Foto 1 (é).jpg") == "Foto 1 (é).jpg"


# --- the session is not slowed, and the program ends -------------------------------------------


def test_browsers_that_hang_slow_nobody(tmp_path: Path) -> None:
    """Browsers that ask and never read: their connections fill up, and the clip goes on."""

    class Noise(Drawn):
        picture = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)

        def frames(self, stop: threading.Event) -> Iterator[Frame]:
            for frame in super().frames(stop):
                frame.image = self.picture
                yield frame

    session = make_session(Noise(100))
    with served(session, tmp_path) as port:
        hanging = []
        for _ in range(3):
            browser = socket.create_connection(("127.0.0.1", port))
            # About 80 kB for each answer, far more in all than any buffer holds.
            browser.sendall(b"GET /api/next?after=-1 HTTP/1.1\r\nHost: localhost\r\n\r\n" * 200)
            hanging.append(browser)
        # Were it to wait for one of them, it would wait for ever.
        wait_for(lambda: session.report.frames == 100, 20)
        for browser in hanging:
            browser.close()
    assert session.report.dropped == 0


@contextlib.contextmanager
def served(session: Session, folder: Path, **cfg: Any) -> Iterator[int]:
    """Serve on a free port and end it from the page."""
    port = free_port()
    settings = {"host": "127.0.0.1", "port": port, "token": None, **cfg}
    thread = threading.Thread(target=serve.serve, args=(session, settings, folder), daemon=True)
    thread.start()
    wait_for(lambda: reachable(port))
    try:
        yield port
    finally:
        request = f"POST /api/stop HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Length: 0\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port)) as browser:
            browser.sendall(request.encode())
            assert b"200" in browser.recv(100)
        thread.join(5)
        assert not thread.is_alive()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def reachable(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def test_the_page_outlives_its_clip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session = make_session(Drawn(5))
    with served(session, tmp_path) as port:
        wait_for(lambda: session.report.frames == 5)
        time.sleep(0.2)
        assert reachable(port)
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith(f"page: http://127.0.0.1:{port}/ ")
    assert lines[0].startswith("5 frames, 5 of them with a face")
    assert lines[-1] == str(tmp_path)
    assert len((tmp_path / "live.jsonl").read_text().splitlines()) == 5


def test_a_source_that_goes_away_is_told(tmp_path: Path) -> None:
    reader = Drawn(3)
    reader.error = UserError("The camera went away.")
    settings = {"host": "localhost", "port": 0, "token": None}
    with pytest.raises(UserError, match=r"^The camera went away\.$"):
        serve.serve(make_session(reader), settings, tmp_path)
    assert len((tmp_path / "live.jsonl").read_text().splitlines()) == 3


PROGRAM = """
import sys
import time
from pathlib import Path
from tests.test_web import Drawn, make_session
from emotion_lab.faces.web.serve import serve
session = make_session(Drawn(live=True))
serve(session, {"host": "127.0.0.1", "port": 0, "token": None}, Path(sys.argv[1]))
print("done", time.monotonic())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to one process")
def test_ctrl_c_ends_at_once_and_files_are_whole(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[1]
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert program.stdout is not None
        address = program.stdout.readline().split()[1]
        import httpx

        with httpx.Client(base_url=address) as client:
            wait_for(lambda: client.get("/api/next").content, 20)
            name = client.post("api/record?on=1").json()["file"]
            # A browser that waits for news while the clip stands still.
            time.sleep(0.5)
            client.post("api/pause?on=1")
            time.sleep(0.2)
            status = client.get("/api/next").content
            length = struct.unpack(">I", status[:4])[0]
            version = json.loads(status[4 : 4 + length])["version"]
            waiting = socket.create_connection(("127.0.0.1", httpx.URL(address).port))
            request = f"GET /api/next?after={version} HTTP/1.1\r\nHost: localhost\r\n\r\n"
            waiting.sendall(request.encode())
            begin = time.monotonic()
            program.send_signal(signal.SIGINT)
            out, errors = program.communicate(timeout=30)
        waiting.close()
    finally:
        program.kill()
    assert program.returncode == 0 and "Traceback" not in errors, errors
    word, ended = out.splitlines()[-1].split()  # on the same clock as ours
    assert word == "done" and float(ended) - begin < 2.5
    assert frames_of(tmp_path / name) > 5
    text = (tmp_path / "live.jsonl").read_text()
    assert text.endswith("\n") and all(json.loads(line) for line in text.splitlines())


# --- what the user may get wrong ----------------------------------------------------------------


def test_a_port_in_use_names_a_free_one(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        settings = {"host": "127.0.0.1", "port": port, "token": None}
        with pytest.raises(UserError, match=rf"^Port {port} is taken .*web\.port=(\d+)\.$") as info:
            serve.serve(make_session(Drawn(3)), settings, tmp_path)
    serve.open_socket("127.0.0.1", int(str(info.value).split("=")[-1][:-1])).close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7"])
@pytest.mark.parametrize("token", [None, ""])
def test_others_need_a_token(tmp_path: Path, host: str, token: str | None) -> None:
    settings = {"host": host, "port": 0, "token": token}
    with pytest.raises(UserError, match=r"web\.token=<word>"):
        serve.serve(make_session(Drawn(3)), settings, tmp_path)


@pytest.mark.parametrize("host", ["203.0.113.7", "no such name."])
def test_an_address_of_another_machine(tmp_path: Path, host: str) -> None:
    settings = {"host": host, "port": 0, "token": "secret"}
    with pytest.raises(UserError, match=r"web\.host=") as info:
        serve.serve(make_session(Drawn(3)), settings, tmp_path)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("name", ["starlette", "uvicorn"])
def test_a_missing_library_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    settings = {"host": "127.0.0.1", "port": 0, "token": None}
    with pytest.raises(UserError, match=rf"needs {name}.*pip install starlette uvicorn"):
        serve.serve(make_session(Drawn(3)), settings, tmp_path)


def test_the_address_can_be_opened() -> None:
    assert serve.address("127.0.0.1", 80, None) == "http://127.0.0.1:80/"
    assert serve.address("::1", 80, None) == "http://[::1]:80/"
    name = socket.gethostname()
    assert serve.address("0.0.0.0", 80, "a&b") == f"http://{name}:80/?token=a%26b"
