"""Saved video: the time of each frame, and the audio."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from emotion_lab.video.sinks.video import VideoSink
from emotion_lab.video.sources.open import open_source
from tests.helpers_sinks import audio_span, frame_times, frames_of, result, write_media


def save(clip: Path, out: Path, **cfg: object) -> VideoSink:
    """Save all frames of a clip as they are."""
    source = open_source({"source": str(clip), **cfg})
    with source, VideoSink(out, source.fps, audio_from=clip) as sink:
        for frame in source:
            sink.write(frame, result(frame.index, frame.time_s), frame.image)
    return sink


@pytest.mark.parametrize("name", ["out.mp4", "out.mov", "out.mkv", "out.webm", "out.avi"])
@pytest.mark.parametrize("audio_s", [1.0, 3.0])
def test_every_frame_is_kept_whatever_the_duration_of_the_audio(
    tmp_path: Path, name: str, audio_s: float, capfd: pytest.CaptureFixture
) -> None:
    """The saved video ended with the audio: 31 of 60 frames were left."""
    clip = write_media(tmp_path / "clip.mp4", np.arange(60) / 30, audio_s)
    save(clip, tmp_path / name)
    assert len(list(frames_of(tmp_path / name))) == 60
    begin, end, loud = audio_span(tmp_path / name)
    assert begin == pytest.approx(0, abs=0.06) and loud > 0.9
    assert end == pytest.approx(min(audio_s, 2.0), abs=0.08)
    assert capfd.readouterr().err == f"{name} has the audio of clip.mp4\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", name]


def test_audio_starts_again_with_each_repetition(tmp_path: Path) -> None:
    clip = write_media(tmp_path / "clip.mp4", np.arange(60) / 30, audio_s=1.0)
    save(clip, tmp_path / "out.mp4", loop=True, max_frames=150)
    assert len(list(frames_of(tmp_path / "out.mp4"))) == 150
    begin, end, _ = audio_span(tmp_path / "out.mp4")
    assert (begin, end) == pytest.approx((0, 5.0), abs=0.08)  # 0 to 1, 2 to 3, 4 to 5 s


def test_audio_is_cut_where_the_video_ends(tmp_path: Path) -> None:
    clip = write_media(tmp_path / "clip.webm", np.arange(60) / 30, 2.0, codec="libvpx")
    save(clip, tmp_path / "out.mp4", max_frames=15)
    assert audio_span(tmp_path / "out.mp4")[1] == pytest.approx(0.5, abs=0.05)


def test_audio_keeps_its_delay(tmp_path: Path) -> None:
    clip = write_media(tmp_path / "clip.mp4", np.arange(60) / 30, 1.0, audio_start_s=0.5)
    for name in ("copied.mp4", "encoded.webm"):
        save(clip, tmp_path / name)
        assert audio_span(tmp_path / name)[:2] == pytest.approx((0.5, 1.5), abs=0.08)


@pytest.mark.parametrize("name", ["out.mp4", "out.webm"])
def test_audio_that_starts_after_the_end_is_reported(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture
) -> None:
    """It was "out.mp4 has the audio of clip.mp4"."""
    clip = write_media(tmp_path / "clip.mp4", np.arange(60) / 30, 1.0, audio_start_s=1.0)
    save(clip, tmp_path / name, max_frames=10)
    line = f"{name} is silent: the audio of the source starts later\n"
    assert capsys.readouterr().err == line
    assert len(list(frames_of(tmp_path / name))) == 10


@pytest.mark.parametrize("audio_s", [0.0, 3.0])
@pytest.mark.parametrize("name", ["out.mp4", "out.mkv", "out.webm", "out.avi"])
def test_frames_of_a_variable_rate_keep_their_times(
    tmp_path: Path, name: str, audio_s: float, capsys: pytest.CaptureFixture
) -> None:
    """Saved at the mean rate, the frame of 1.0 s was shown at 0.378 s."""
    times = [*(i / 30 for i in range(15)), *(0.5 + i / 5 for i in range(5)), 1.5, 1.51]
    clip = write_media(tmp_path / "clip.mp4", times, audio_s)
    sink = save(clip, tmp_path / name)
    saved, pictures = frame_times(tmp_path / name), list(frames_of(tmp_path / name))
    if name == "out.avi":  # a constant rate: the picture of each time is the right one
        shown = [float(picture.mean()) for picture in pictures]
        assert len(shown) / sink.fps == pytest.approx(1.51, abs=0.12)
        for slot in range(1, len(shown)):
            index = round((shown[slot] - 20) * len(times) / 200)
            end_s = times[min(index + 1, len(times) - 1)] + 1 / sink.fps
            assert times[index] - 1 / sink.fps <= slot / sink.fps <= end_s
        assert " frames of the source; save=<name>.mp4 keeps all" in capsys.readouterr().err
        return
    assert saved == pytest.approx(times, abs=0.002)
    assert len(pictures) == len(times)
    assert sink.seconds == pytest.approx(1.51, abs=0.12)


def test_clip_without_audio_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    clip = write_media(tmp_path / "mute.mp4", [0, 0.1])
    save(clip, tmp_path / "a.mp4")
    assert capsys.readouterr().err == "a.mp4 has no audio: the source has none\n"
