"""Sources: files lose nothing, live ones stay current, and bad input is one clear line."""

from __future__ import annotations

import contextlib
import gc
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
from PIL import Image

from emotion_lab.errors import UserError
from emotion_lab.faces import cameras, sources
from emotion_lab.faces.capture import Source
from emotion_lab.faces.sources import open_source
from tests.conftest import SHARED

MEDIA = SHARED / "media"


def write_clip(path: Path, frames: int = 60, fps: float = 25.0) -> Path:
    """Write a clip that is red above, and below shows the frame's number in six black or white
    squares, the lowest bit on the left."""
    coding = "MJPG" if path.suffix == ".avi" else "mp4v"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*coding), fps, (96, 64))
    assert writer.isOpened()
    for i in range(frames):
        image = np.zeros((64, 96, 3), np.uint8)
        image[:32] = (0, 0, 255)  # red, in OpenCV's order
        image[32:] = np.repeat([255 * (i >> bit & 1) for bit in range(6)], 16)[None, :, None]
        writer.write(image)
    writer.release()
    return path


def number(image: np.ndarray) -> int:
    """Return which frame of :func:`write_clip` this is."""
    bits = image[36:60].mean((0, 2)).reshape(6, 16)[:, 4:12].mean(1) > 128
    return int(bits @ (1 << np.arange(6)))


def capture_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("capture")]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    gc.collect()
    assert capture_threads() == []


# --- clips ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["clip.mp4", "clip.avi", "odd: name #1.mp4"])
def test_a_clip_gives_every_frame_however_slow_one_is(tmp_path: Path, name: str) -> None:
    path = write_clip(tmp_path / name)
    with open_source({"source": str(path)}) as source:
        assert (source.kind, source.live, source.fps, source.count) == ("clip", False, 25.0, 60)
        assert source.size == (96, 64) and not source.stills and source.name == str(path)
        frames = []
        for frame in source:
            time.sleep(0.002)
            frames.append(frame)
    assert [frame.index for frame in frames] == list(range(60))
    assert [number(frame.image) for frame in frames] == list(range(60))
    assert [frame.time_s for frame in frames] == pytest.approx(np.arange(60) / 25, abs=1e-6)
    assert source.dropped == 0
    image = frames[50].image
    assert image.dtype == np.uint8 and image.shape == (64, 96, 3)
    red, green, blue = image[4:28].reshape(-1, 3).mean(0)
    assert red > 220 and green < 40 and blue < 40  # RGB it is
    assert frames[0].name == str(path) and abs(frames[0].wall - time.time()) < 60


def test_a_clip_is_read_ahead_only_a_little(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4")
    with open_source({"source": path}) as source:
        next(source)
        time.sleep(0.3)
        assert len(source._box._frames) <= 8


def test_max_frames_and_loop(tmp_path: Path) -> None:
    path = str(write_clip(tmp_path / "clip.mp4", 10))
    with open_source({"source": path, "max_frames": 4}) as source:
        assert source.count == 4 and len(list(source)) == 4
    with open_source({"source": path, "loop": True}) as source:
        assert source.count is None
    with open_source({"source": path, "loop": True, "max_frames": 25}) as source:
        frames = list(source)
    assert [frame.index for frame in frames] == list(range(25))
    assert [number(frame.image) for frame in frames] == [i % 10 for i in range(25)]
    assert [frame.time_s for frame in frames] == pytest.approx(np.arange(25) / 25, abs=1e-6)


def test_paced_drops_but_does_not_lag(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 50, fps=50)
    for _ in range(4):  # a machine that is busy with something else may be late, though not always
        frames, ages, began = [], [], None
        with open_source({"source": path, "paced": True}) as source:
            assert source.live and source.kind == "clip"
            for frame in source:
                now = time.time()
                began = frame.wall - frame.time_s if began is None else began
                frames.append(frame)
                ages.append(now - frame.wall)
                time.sleep(0.09)  # four to five times too slow
        indices = [frame.index for frame in frames]
        assert [number(frame.image) for frame in frames] == indices == sorted(set(indices))
        assert len(frames) < 20 and source.dropped == 50 - len(frames) and indices[-1] == 49
        late = [abs(frame.wall - began - frame.time_s) for frame in frames]
        assert frames[-1].wall - began > 0.95  # never ahead of its time
        # What is taken is the newest frame, and the clip takes its own time.
        if np.median(ages) < 0.03 and np.median(late) < 0.03:
            return
    raise AssertionError(f"frames are late: {np.round(late, 3)}, or old: {np.round(ages, 3)} s")


def test_paced_gives_everything_to_one_who_keeps_up(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 20, fps=20)
    for _ in range(4):
        with open_source({"source": path, "paced": True}) as source:
            frames = list(source)
        assert len(frames) + source.dropped == 20
        if not source.dropped:
            return
    raise AssertionError(f"{source.dropped} of 20 frames were dropped")


def test_a_truncated_clip_gives_what_it_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_clip(tmp_path / "clip.avi").read_bytes()
    path = tmp_path / "cut.avi"
    path.write_bytes(data[: len(data) // 2])
    with open_source({"source": path}) as source:
        got = [number(frame.image) for frame in source]
    assert got == list(range(len(got))) and 15 < len(got) < 45
    (line,) = capsys.readouterr().err.splitlines()
    assert f"cut.avi: {len(got)} of 60 frames could be read; the rest is cut off" in line


def faststart(data: bytes) -> bytes:
    """Return an MP4 with its index in front, as it is sent over the web."""
    at = data.index(b"moov") - 4
    moov = bytearray(data[at : at + int.from_bytes(data[at : at + 4], "big")])
    # Chunk offsets count from the start of the file, and everything moves back by the index.
    table = moov.index(b"stco") + 8
    for i in range(int.from_bytes(moov[table : table + 4], "big")):
        entry = table + 4 + 4 * i
        offset = int.from_bytes(moov[entry : entry + 4], "big") + len(moov)
        moov[entry : entry + 4] = offset.to_bytes(4, "big")
    head = int.from_bytes(data[:4], "big")
    return data[:head] + bytes(moov) + data[head:at] + data[at + len(moov) :]


def test_an_mp4_cut_by_a_few_frames_or_before_its_index(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_clip(tmp_path / "clip.mp4").read_bytes()
    whole, cut, headless = (tmp_path / name for name in ("whole.mp4", "cut.mp4", "headless.mp4"))
    web = faststart(data)
    whole.write_bytes(web)
    with open_source({"source": whole}) as source:
        assert len(list(source)) == 60
    assert capsys.readouterr().err == ""
    cut.write_bytes(web[:-200])
    with open_source({"source": cut}) as source:
        read = len(list(source))
    assert 50 <= read < 60
    assert f"{read} of 60 frames could be read; the file is cut off." in capsys.readouterr().err
    headless.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="headless.mp4 is cut off before its index"):
        open_source({"source": headless})


def test_a_clip_filmed_upright_stands_upright(tmp_path: Path) -> None:
    data = bytearray(write_clip(tmp_path / "clip.mp4", 5).read_bytes())
    at = data.index(b"tkhd") + 44  # the matrix of the track (ISO 14496-12, 8.3.2)
    assert int.from_bytes(data[at : at + 4], "big") == 0x10000
    quarter = (0, 0x10000, 0, 0xFFFF0000, 0, 0, 64 << 16, 0, 0x40000000)
    data[at : at + 36] = b"".join(value.to_bytes(4, "big") for value in quarter)
    path = tmp_path / "phone.mp4"
    path.write_bytes(data)
    with open_source({"source": path}) as source:
        assert source.size == (64, 96)
        frame = next(source)
    assert frame.image.shape == (96, 64, 3)
    # What was on top is on the right after a quarter turn clockwise.
    assert frame.image[:, 36:60, 0].mean() > 220 and frame.image[:, 4:28, 0].mean() < 60


@pytest.mark.parametrize(
    ("name", "data", "line"),
    [
        ("clip.mp4", b"", "clip.mp4 is empty"),
        ("clip.mp4", b"no video at all" * 99, "neither an image nor a video"),
        ("photo.jpg", b"", "photo.jpg is not an image"),
        ("photo.jpg", b"\xff\xd8\xff\xe0 and nothing", "photo.jpg"),
    ],
)
def test_broken_files_are_one_line(
    tmp_path: Path, capfd: Any, name: str, data: bytes, line
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UserError, match=line) as caught:
        open_source({"source": path})
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""  # neither FFmpeg nor OpenCV adds a word


def test_no_such_thing() -> None:
    with pytest.raises(UserError, match="no file, folder or camera 'holyday.mp4'"):
        open_source({"source": "holyday.mp4"})
    with pytest.raises(UserError, match="No source is given"):
        open_source({"source": None})


# --- the thread -----------------------------------------------------------------------------


def test_leaving_early_stops_the_thread(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4")
    with open_source({"source": path}) as source:
        for frame in source:
            if frame.index == 3:
                break
        assert len(capture_threads()) == 1
    assert capture_threads() == []
    assert list(source) == []  # closed is closed
    source.close()

    with pytest.raises(KeyboardInterrupt), open_source({"source": path, "paced": True}) as source:
        next(source)
        raise KeyboardInterrupt
    assert capture_threads() == []


def test_a_forgotten_source_ends_its_thread(tmp_path: Path) -> None:
    source = open_source({"source": write_clip(tmp_path / "clip.mp4")})
    next(source)
    assert len(capture_threads()) == 1
    del source
    gc.collect()
    assert capture_threads() == []


def test_a_fault_of_the_reader_reaches_the_consumer() -> None:
    class Faulty(sources.Reader):
        closed = 0

        def frames(self, stop: threading.Event) -> Iterator[Any]:
            yield sources.Frame(np.zeros((2, 2, 3), np.uint8), 0, 0.0, 0.0)
            raise ZeroDivisionError("a bug")

        def close(self) -> None:
            self.closed += 1

    reader = Faulty()
    source = Source(reader)
    assert next(source).index == 0
    with pytest.raises(ZeroDivisionError, match="a bug"):
        next(source)
    assert reader.closed == 1


# --- photos ---------------------------------------------------------------------------------


def quadrants() -> np.ndarray:
    """Return (40, 60, 3): white top left, red top right, green and blue below."""
    image = np.zeros((40, 60, 3), np.uint8)
    image[:20, :30], image[:20, 30:], image[20:, :30], image[20:, 30:] = (
        (255, 255, 255),
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
    )
    return image


def only(cfg: dict[str, Any]) -> np.ndarray:
    """Return the one image of a source."""
    with open_source(cfg) as source:
        (frame,) = source
        assert source.stills and source.count == 1 and not source.live
        assert source.size == frame.image.shape[1::-1]
    assert frame.image.dtype == np.uint8 and frame.image.ndim == 3 and frame.image.shape[2] == 3
    return frame.image


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_phone_photo_is_upright(tmp_path: Path, orientation: int) -> None:
    """Each EXIF orientation undoes what the camera did (inverse of EXIF 2.3, table 6)."""
    upright = quadrants()
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "phone.png"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    assert np.array_equal(only({"source": path}), upright)


def test_grey_deep_transparent_and_print_colours(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 60).astype(np.uint16)[None].repeat(40, 0)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    image = only({"source": tmp_path / "deep.png"})
    assert np.abs(image[..., 1].astype(float) - ramp / 257).max() <= 0.51
    cv2.imwrite(str(tmp_path / "deep_rgb.png"), (quadrants()[..., ::-1].astype(np.uint16) * 257))
    assert np.array_equal(only({"source": tmp_path / "deep_rgb.png"}), quadrants())

    grey = np.arange(240, dtype=np.uint8).reshape(12, 20)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert np.array_equal(only({"source": tmp_path / "grey.png"}), np.dstack([grey] * 3))

    rgba = np.dstack([quadrants(), np.full((40, 60), 255, np.uint8)])
    rgba[:, 30:, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    image = only({"source": tmp_path / "rgba.png"})
    assert np.array_equal(image[:, :30], quadrants()[:, :30])
    assert (image[:, 30:] == 128).all()  # mid-grey where it is transparent

    cmyk = Image.new("CMYK", (20, 10), (0, 255, 255, 0))
    cmyk.save(tmp_path / "print.jpg", quality=95)
    red, green, blue = only({"source": tmp_path / "print.jpg"}).reshape(-1, 3).mean(0)
    assert red > 240 and green < 15 and blue < 15


def test_a_photo_may_be_called_as_it_likes_and_be_8k(tmp_path: Path) -> None:
    big = np.full((4320, 7680, 3), 77, np.uint8)
    Image.fromarray(big).save(tmp_path / "no_suffix", format="BMP")
    image = only({"source": tmp_path / "no_suffix"})
    assert image.shape == big.shape and (image[::500, ::500] == 77).all()


def test_a_folder_gives_its_images_in_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "a.sub").mkdir()
    for i, name in enumerate(("b/2.png", "b/10.PNG", "a.sub/x.jpg", "z.bmp", "a.png")):
        Image.new("RGB", (10 + i, 8), (i, i, i)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "b" / "empty.jpg").write_bytes(b"")
    (tmp_path / "broken.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    with open_source({"source": tmp_path}) as source:
        assert source.kind == "folder" and source.stills and source.count == 7
        frames = list(source)
    names = ["a.png", "a.sub/x.jpg", "b/10.PNG", "b/2.png", "z.bmp"]
    assert [frame.name for frame in frames] == names
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4]
    assert [frame.image.shape[1] for frame in frames] == [14, 12, 11, 10, 13]
    assert {frame.time_s for frame in frames} == {0.0}
    (line,) = capsys.readouterr().err.splitlines()
    assert "skipped 3 of 8 files" in line and "b/empty.jpg, broken.png, notes.txt" in line


def test_folders_without_an_image(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"no image in the folder .* \(1 other files\)"):
        open_source({"source": tmp_path})
    (tmp_path / "empty.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="None of the 2 files in"):
        open_source({"source": tmp_path})


# --- synthetic ------------------------------------------------------------------------------


def test_synthetic_knows_its_truth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = {"source": "synthetic", "width": 64, "height": 48, "fps": 4, "seed": 3}
    with open_source(cfg) as source:
        assert (source.kind, source.name, source.fps) == ("synthetic", "synthetic", 4.0)
        assert source.size == (64, 48)
        frames = list(source)
        folder = Path(source._reader._folder.name)
    assert len(frames) == source.count and not folder.exists()
    assert sorted(label for _, label in source.truth) == sorted(sources.EMOTIONS)
    starts = [start for start, _ in source.truth]
    assert starts[0] == 0 and all(
        1.2 < b - a < 2.8 for a, b in zip(starts, starts[1:], strict=False)
    )
    ends = np.cumsum([seconds for seconds, _ in sources.timeline(3)])
    assert starts[1:] == pytest.approx(ends[:-1], abs=0.25)  # the first frame after it
    assert "Drawing a synthetic clip" in capsys.readouterr().err

    with open_source({**cfg, "max_frames": 9}) as again:
        assert again.truth == [part for part in source.truth if part[0] < 9 / 4]
        first = [frame.image for frame in again]
    assert len(first) == 9
    assert all(np.array_equal(a, b.image) for a, b in zip(first[:5], frames, strict=False))
    with open_source({**cfg, "seed": 4, "max_frames": 1}) as other:
        assert not np.array_equal(next(other).image, first[0])


# --- cameras and streams --------------------------------------------------------------------


class FakeCapture:
    """Stands in for cv2.VideoCapture: a camera that gives a few frames at a time."""

    opened: list[Any] = []
    plugged: list[int] = []  # frames the next captures give before they fail; 0 does not open

    def __init__(self, target: Any, *rest: Any) -> None:
        self.left = self.plugged.pop(0) if self.plugged else 0
        self.open, self.set_to, self.released = self.left > 0, {}, False
        FakeCapture.opened.append(self)

    def isOpened(self) -> bool:
        return self.open

    def grab(self) -> bool:
        time.sleep(0.002)
        self.left -= 1
        return self.left >= 0

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, np.full((6, 8, 3), (1, 2, 3), np.uint8)

    def read(self) -> tuple[bool, np.ndarray | None]:
        return self.retrieve() if self.grab() else (False, None)

    def get(self, key: int) -> float:
        return {cv2.CAP_PROP_FPS: 30.0}.get(key, -1.0)

    def set(self, key: int, value: float) -> bool:
        self.set_to[key] = value
        return True

    def release(self) -> None:
        self.released = True


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    monkeypatch.setattr(cameras.cv2, "VideoCapture", FakeCapture)
    monkeypatch.setattr(cameras, "BACKOFF_S", (0.01, 0.04))
    monkeypatch.setattr(FakeCapture, "opened", [])
    monkeypatch.setattr(FakeCapture, "plugged", [])
    return FakeCapture.plugged


def test_a_camera_is_asked_and_stays_current(plugged: list[int]) -> None:
    plugged[:] = [200]
    cfg = {"source": 3, "width": 1280, "height": 720, "fps": 30, "reconnect_s": 0}
    with open_source(cfg) as source:
        assert source.live and source.kind == "camera" and source.count is None
        assert source.size == (8, 6) and source.fps == 30
        asked = FakeCapture.opened[0].set_to
        assert asked[cv2.CAP_PROP_FRAME_WIDTH] == 1280
        assert asked[cv2.CAP_PROP_FRAME_HEIGHT] == 720
        assert asked[cv2.CAP_PROP_FOURCC] == cv2.VideoWriter_fourcc(*"MJPG")
        first = next(source)
        until = time.monotonic() + 20
        while source.dropped < 5 and time.monotonic() < until:
            time.sleep(0.01)
        second = next(source)
    assert first.image[0, 0].tolist() == [3, 2, 1]
    assert second.index > 5 and source.dropped >= second.index - first.index - 1
    assert FakeCapture.opened[0].released


def test_a_camera_comes_back(plugged: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    plugged[:] = [6, 0, 0, 500]
    with open_source({"source": 0, "reconnect_s": 20, "max_frames": 12}) as source:
        frames = list(source)
    indices = [frame.index for frame in frames]
    times = [frame.time_s for frame in frames]
    assert indices == sorted(set(indices)) and times == sorted(times) and times[0] >= 0
    away, back = capsys.readouterr().err.splitlines()
    assert away == "Camera 0 went away; trying for 20 s to get it back."
    assert back.startswith("Camera 0 is back after")
    assert all(capture.released for capture in FakeCapture.opened)


def test_a_camera_that_stays_away(plugged: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    plugged[:] = [5]
    frames = []
    with open_source({"source": 0, "reconnect_s": 0.1}) as source:
        with pytest.raises(UserError, match="did not come back within 0.1 s") as caught:
            frames.extend(source)
    assert "\n" not in str(caught.value) and frames
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_no_camera_says_so_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cameras, "DEVICES", tmp_path)
    monkeypatch.setattr(cameras, "SYSFS", tmp_path)
    began = time.monotonic()
    with pytest.raises(UserError) as caught:
        open_source({"source": "97"})
    assert time.monotonic() - began < 5
    assert "amera 97" in str(caught.value) and "set source=" in str(caught.value)
    if sys.platform == "linux":
        assert "does not exist" in str(caught.value) and "Cameras here: none." in str(caught.value)
    assert capfd.readouterr().err == ""  # OpenCV keeps quiet


@pytest.mark.skipif(sys.platform != "linux", reason="camera names are read from sysfs")
def test_cameras_by_name_and_taken_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plugged: list[int]
) -> None:
    names = {"video0": ("Integrated Camera", 0), "video1": ("Integrated Camera", 1)}
    for node, (name, index) in {**names, "video12": ("USB Cam HD", 0)}.items():
        (tmp_path / node).mkdir()
        (tmp_path / node / "name").write_text(f"{name}\n")
        (tmp_path / node / "index").write_text(f"{index}\n")
    monkeypatch.setattr(cameras, "SYSFS", tmp_path)
    monkeypatch.setattr(cameras, "DEVICES", tmp_path)
    assert cameras.cameras() == [(0, "Integrated Camera"), (12, "USB Cam HD")]
    plugged[:] = [5]
    with open_source({"source": "usb cam"}) as source:
        assert source._reader.target == 12 and source.name == "usb cam"
    plugged[:] = [5]
    with open_source({"source": "/dev/video7"}) as source:
        assert source._reader.target == 7
    # The node is there, but nothing comes out of it.
    with pytest.raises(UserError, match="another program has taken it") as caught:
        open_source({"source": 12})
    assert "0 (Integrated Camera), 12 (USB Cam HD)" in str(caught.value)
    with pytest.raises(UserError, match="no file, folder or camera 'webcam'"):
        open_source({"source": "webcam"})


def test_a_driver_that_hangs_is_given_up(
    plugged: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    plugged[:] = [5]
    monkeypatch.setattr(cameras, "DEADLINE_S", 0.1)
    let_go = threading.Event()
    monkeypatch.setattr(FakeCapture, "isOpened", lambda self: let_go.wait(10))
    with pytest.raises(UserError, match="amera 0"):
        open_source({"source": 0})
    let_go.set()
    for _ in range(100):  # what opens too late is closed
        if FakeCapture.opened[0].released:
            break
        time.sleep(0.01)
    assert FakeCapture.opened[0].released


@contextlib.contextmanager
def mjpeg_server(parts: list[int], fps: float = 60.0) -> Iterator[str]:
    """Serve a motion-JPEG stream on this machine that breaks off after each number of frames."""
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
        yield f"http://user:secret@127.0.0.1:{server.server_port}/cam.mjpg"
    finally:
        server.shutdown()
        server.server_close()


def test_a_stream_drops_comes_back_and_gives_up(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cameras, "BACKOFF_S", (0.05, 0.2))
    with mjpeg_server([30, 40]) as url, open_source({"source": url, "reconnect_s": 1}) as source:
        assert source.live and source.kind == "stream" and source.size == (96, 64)
        assert "secret" not in source.name
        frames = [next(source)]
        until = time.monotonic() + 20
        while source.dropped < 5 and time.monotonic() < until:
            time.sleep(0.01)
        with pytest.raises(UserError, match="did not come back within 1 s") as caught:
            frames.extend(source)
    indices = [frame.index for frame in frames]
    assert indices == sorted(set(indices)) and indices[1] > 3  # the newest after the pause
    assert source.dropped == indices[-1] + 1 - len(frames) > 0
    assert indices[-1] > 45  # both parts
    err = capfd.readouterr().err
    assert "secret" not in err + str(caught.value) + frames[0].name
    assert [line.split()[1] for line in err.splitlines()] == ["went", "is", "went"]


def test_an_address_where_nobody_answers(capfd: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    for url in ("http://127.0.0.1:9/x.mjpg", "rtsp://me:secret@127.0.0.1:9/x"):
        with pytest.raises(UserError, match=r"No picture from (http|rtsp)://127\.0\.0\.1:9/x"):
            open_source({"source": url})
    assert time.monotonic() - began < 12
    assert capfd.readouterr().err == ""


# --- real clips and photos ------------------------------------------------------------------


def media(name: str) -> Path:
    path = MEDIA / name
    if not path.is_file():
        pytest.skip(f"the shared {name} is not here")
    return path


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "frames", "size", "last_s"),
    [
        ("stage_faces.mp4", 275, (640, 360), 274 / 29.97),
        ("one_face.mp4", 72, (640, 360), 71 / 30),
        ("face_leaves.mov", 169, (960, 540), 6.360),
        # 98 samples, of which the edit list skips those before 0.195 s.
        ("no_face.mp4", 95, (960, 540), 94 / 24),
    ],
)
def test_real_clips_decode_to_the_last_frame(
    name: str, frames: int, size: tuple[int, int], last_s: float, capfd: Any
) -> None:
    with open_source({"source": media(name)}) as source:
        assert source.size == size
        got = [(frame.index, frame.time_s, frame.image.shape) for frame in source]
    assert [index for index, _, _ in got] == list(range(frames))
    times = [time_s for _, time_s, _ in got]
    assert times[0] == 0 and times == sorted(set(times))
    assert times[-1] == pytest.approx(last_s, abs=0.002)
    assert {shape for _, _, shape in got} == {(size[1], size[0], 3)}
    assert capfd.readouterr().err == ""


@pytest.mark.shared
@pytest.mark.parametrize("name", ["six_faces.jpg", "one_face_rgba.png", "no_faces.jpg"])
def test_real_photos(name: str) -> None:
    image = only({"source": media(name)})
    assert image.std() > 20
