"""Frame sources: complete files, one-line errors, no leaked threads."""

from __future__ import annotations

import gc
import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emotion_lab.core.errors import UserError
from emotion_lab.video.sources import open
from emotion_lab.video.sources.open import open_source
from emotion_lab.video.sources.threaded import FrameSource
from tests.helpers_detectors import MEDIA, shared
from tests.helpers_sinks import write_media
from tests.helpers_sources import capture_threads, number, read_single_image, write_clip

pytestmark = pytest.mark.usefixtures("no_capture_threads")


# --- clips ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["clip.mp4", "clip.avi", "odd: name #1.mp4"])
def test_clip_returns_every_frame_to_a_slow_consumer(tmp_path: Path, name: str) -> None:
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
    assert red > 220 and green < 40 and blue < 40  # RGB, not BGR
    assert frames[0].name == str(path) and abs(frames[0].wall - time.time()) < 60


def test_read_ahead_is_bounded(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4")
    with open_source({"source": path}) as source:
        next(source)
        time.sleep(0.3)
        assert len(source._queue._frames) <= 8


def test_max_frames_and_loop(tmp_path: Path) -> None:
    path = str(write_clip(tmp_path / "clip.mp4", 10))
    with open_source({"source": path, "max_frames": 4}) as source:
        assert source.count == 4 and len(list(source)) == 4
    with open_source({"source": path, "loop": True}) as source:
        assert source.count is None
    with open_source({"source": path, "loop": True, "max_frames": 25}) as source:
        frames = list(source)
    assert [frame.index for frame in frames] == list(range(25))
    assert [frame.loop for frame in frames] == [0] * 10 + [1] * 10 + [2] * 5
    assert [number(frame.image) for frame in frames] == [i % 10 for i in range(25)]
    assert [frame.time_s for frame in frames] == pytest.approx(np.arange(25) / 25, abs=1e-6)


def test_realtime_drops_frames_but_does_not_lag(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 50, fps=50)
    for _ in range(4):  # retries, because a busy machine may be late
        frames, ages, start = [], [], None
        with open_source({"source": path, "realtime": True}) as source:
            assert source.live and source.kind == "clip"
            for frame in source:
                now = time.time()
                start = frame.wall - frame.time_s if start is None else start
                frames.append(frame)
                ages.append(now - frame.wall)
                time.sleep(0.09)  # four to five times too slow
        indices = [frame.index for frame in frames]
        assert [number(frame.image) for frame in frames] == indices == sorted(set(indices))
        assert len(frames) < 20 and source.dropped == 50 - len(frames) and indices[-1] == 49
        late = [abs(frame.wall - start - frame.time_s) for frame in frames]
        assert frames[-1].wall - start > 0.95  # never ahead of its time
        # Each frame is the newest one and arrives at its media time.
        if np.median(ages) < 0.03 and np.median(late) < 0.03:
            return
    raise AssertionError(f"frames are late: {np.round(late, 3)}, or old: {np.round(ages, 3)} s")


def test_realtime_returns_every_frame_to_a_fast_consumer(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 20, fps=20)
    for _ in range(4):
        with open_source({"source": path, "realtime": True}) as source:
            frames = list(source)
        assert len(frames) + source.dropped == 20
        if not source.dropped:
            return
    raise AssertionError(f"{source.dropped} of 20 frames were dropped")


def test_truncated_clip_returns_its_readable_frames(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_clip(tmp_path / "clip.avi").read_bytes()
    path = tmp_path / "cut.avi"
    path.write_bytes(data[: len(data) // 2])
    with open_source({"source": path}) as source:
        numbers = [number(frame.image) for frame in source]
    assert numbers == list(range(len(numbers))) and 15 < len(numbers) < 45
    (line,) = capsys.readouterr().err.splitlines()
    assert f"cut.avi: {len(numbers)} of 60 frames could be read; the rest is cut off" in line


def test_only_a_truncated_mkv_of_variable_rate_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a complete one, "12 of 33 frames could be read; the rest is cut off" was printed."""
    times = np.cumsum([0.04, 0.04, 0.2] * 10)
    path = write_media(tmp_path / "whole.mkv", times, audio_s=4.5)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    with open_source({"source": path}) as source:
        assert len(list(source)) == 30
    assert capsys.readouterr().err == ""
    with open_source({"source": cut}) as source:
        num_read = len(list(source))
    assert 0 < num_read < 30
    assert f"cut.mkv: {num_read} of " in capsys.readouterr().err


def faststart(data: bytes) -> bytes:
    """Return an MP4 with the moov box moved to the front."""
    at = data.index(b"moov") - 4
    moov = bytearray(data[at : at + int.from_bytes(data[at : at + 4], "big")])
    # Chunk offsets count from the start of the file; all data moves back by the moov box.
    table = moov.index(b"stco") + 8
    for i in range(int.from_bytes(moov[table : table + 4], "big")):
        entry = table + 4 + 4 * i
        offset = int.from_bytes(moov[entry : entry + 4], "big") + len(moov)
        moov[entry : entry + 4] = offset.to_bytes(4, "big")
    head = int.from_bytes(data[:4], "big")
    return data[:head] + bytes(moov) + data[head:at] + data[at + len(moov) :]


def test_mp4_truncated_after_or_before_its_index(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_clip(tmp_path / "clip.mp4").read_bytes()
    complete, cut, headless = (tmp_path / f"{name}.mp4" for name in ("all", "cut", "headless"))
    web = faststart(data)
    complete.write_bytes(web)
    with open_source({"source": complete}) as source:
        assert len(list(source)) == 60
    assert capsys.readouterr().err == ""
    cut.write_bytes(web[:-200])
    with open_source({"source": cut}) as source:
        read = len(list(source))
    assert 50 <= read < 60
    assert f"{read} of 60 frames could be read; the file is cut off." in capsys.readouterr().err
    headless.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"headless\.mp4 is cut off before its index"):
        open_source({"source": headless})


def test_clip_is_rotated_by_its_track_matrix(tmp_path: Path) -> None:
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
    # A quarter turn clockwise moves the top to the right.
    assert frame.image[:, 36:60, 0].mean() > 220 and frame.image[:, 4:28, 0].mean() < 60


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("clip.mp4", b"", "clip.mp4 is empty"),
        ("clip.mp4", b"no video at all" * 99, "neither an image nor a video"),
        ("photo.jpg", b"", "photo.jpg is not an image"),
        ("photo.jpg", b"\xff\xd8\xff\xe0 and nothing", "photo.jpg"),
    ],
)
def test_broken_file_is_a_one_line_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, data: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        open_source({"source": path})
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""  # no messages of FFmpeg or OpenCV


def test_missing_source() -> None:
    with pytest.raises(UserError, match=r"no file, folder or camera 'holyday\.mp4'"):
        open_source({"source": "holyday.mp4"})
    with pytest.raises(UserError, match="source is not set"):
        open_source({"source": None})


# --- the thread -----------------------------------------------------------------------------------


def test_leaving_the_loop_stops_the_thread(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4")
    with open_source({"source": path}) as source:
        for frame in source:
            if frame.index == 3:
                break
        assert len(capture_threads()) == 1
    assert capture_threads() == []
    assert list(source) == []
    source.close()

    with (
        pytest.raises(KeyboardInterrupt),
        open_source({"source": path, "realtime": True}) as source,
    ):
        next(source)
        raise KeyboardInterrupt
    assert capture_threads() == []


def test_garbage_collection_stops_the_thread(tmp_path: Path) -> None:
    source = open_source({"source": write_clip(tmp_path / "clip.mp4")})
    next(source)
    assert len(capture_threads()) == 1
    del source
    gc.collect()
    assert capture_threads() == []


def test_reader_exception_is_raised_in_the_consumer() -> None:
    class Faulty(open.FrameReader):
        closed = 0

        def frames(self, stop: threading.Event) -> Iterator[Any]:
            yield open.Frame(np.zeros((2, 2, 3), np.uint8), 0, 0.0, 0.0)
            raise ZeroDivisionError("a bug")

        def close(self) -> None:
            self.closed += 1

    reader = Faulty()
    source = FrameSource(reader)
    assert next(source).index == 0
    with pytest.raises(ZeroDivisionError, match="a bug"):
        next(source)
    assert reader.closed == 1


# --- synthetic ------------------------------------------------------------------------------------


def test_synthetic_clip_has_ground_truth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = {"source": "synthetic", "width": 64, "height": 48, "fps": 4, "seed": 3}
    with open_source(cfg) as source:
        assert (source.kind, source.name, source.fps) == ("synthetic", "synthetic", 4.0)
        assert source.size == (64, 48)
        frames = list(source)
        folder = Path(source._reader._folder.name)
    assert len(frames) == source.count and not folder.exists()
    assert sorted(label for _, label in source.truth) == sorted(open.EMOTIONS)
    starts = [start for start, _ in source.truth]
    assert starts[0] == 0 and all(1.2 < b - a < 2.8 for a, b in itertools.pairwise(starts))
    ends = np.cumsum([seconds for seconds, _ in open.timeline(3)])
    assert starts[1:] == pytest.approx(ends[:-1], abs=0.25)  # the first frame after it
    assert "Rendering a synthetic clip" in capsys.readouterr().err

    with open_source({**cfg, "max_frames": 9}) as again:
        assert again.truth == tuple(part for part in source.truth if part[0] < 9 / 4)
        first = [frame.image for frame in again]
    assert len(first) == 9
    assert all(np.array_equal(a, b.image) for a, b in zip(first[:5], frames, strict=False))
    with open_source({**cfg, "seed": 4, "max_frames": 1}) as other:
        assert not np.array_equal(next(other).image, first[0])


# --- real clips and photos ------------------------------------------------------------------------


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
def test_real_clip_decodes_to_the_last_frame(
    name: str, frames: int, size: tuple[int, int], last_s: float, capfd: Any
) -> None:
    with open_source({"source": shared(MEDIA / name)}) as source:
        assert source.size == size
        rows = [(frame.index, frame.time_s, frame.image.shape) for frame in source]
    assert [index for index, _, _ in rows] == list(range(frames))
    times = [time_s for _, time_s, _ in rows]
    assert times[0] == 0 and times == sorted(set(times))
    assert times[-1] == pytest.approx(last_s, abs=0.002)
    assert {shape for _, _, shape in rows} == {(size[1], size[0], 3)}
    assert capfd.readouterr().err == ""


@pytest.mark.shared
@pytest.mark.parametrize("name", ["six_faces.jpg", "one_face_rgba.png", "no_faces.jpg"])
def test_real_image(name: str) -> None:
    image = read_single_image({"source": shared(MEDIA / name)})
    assert image.std() > 20
