"""Shared by the tests of sinks: frames, faces, results, and readers of written files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from emotion_lab.core.labels import EMOTIONS
from emotion_lab.video.types import Face, Frame, FrameResult

CLASSES = list(EMOTIONS)
HAPPY, SAD = CLASSES.index("happy"), CLASSES.index("sad")
ROOT = Path(__file__).resolve().parents[1]


def face(
    label: int | None = HAPPY,
    key: int = 1,
    box: tuple[float, float, float, float] = (10.25, 20.5, 30.0, 40.0),
) -> Face:
    raw = np.array([0.1, 0.05, 0.05, 0.6, 0.1, 0.05, 0.05], np.float32)
    smoothed = np.array([0.1, 0.1, 0.1, 0.4, 0.1, 0.1, 0.1], np.float32)
    return Face(key, tuple(np.float32(v) for v in box), np.float32(0.91), raw, smoothed, label)


def result(
    index: int = 0, time_s: float = 0.0, faces: list[Face] | None = None, source: str = "clip.mp4"
) -> FrameResult:
    return FrameResult(source, index, time_s, 1.7e9 + time_s, (320, 240), faces or [], 4.5)


def picture(width: int = 320, height: int = 240, value: int = 0) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def frame(image: np.ndarray | None = None, index: int = 0, time_s: float = 0.0) -> Frame:
    return Frame(picture() if image is None else image, index, time_s, 1.7e9 + time_s, "clip.mp4")


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def frames_of(path: Path) -> Iterator[np.ndarray]:
    capture = cv2.VideoCapture(str(path))
    assert capture.isOpened(), path
    while (image := capture.read()[1]) is not None:
        yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    capture.release()


def write_media(
    path: Path,
    times: Sequence[float],
    audio_s: float = 0.0,
    audio_start_s: float = 0.0,
    codec: str = "libx264",
    size: tuple[int, int] = (96, 64),
    sar: Fraction | None = None,
) -> Path:
    """Write a clip with a picture at each time, and a tone of 440 Hz that lasts ``audio_s``.

    The grey value of picture ``i`` is 20 + 200 * i / len(times).
    """
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=30, options={"bf": "0"})
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        if sar is not None:
            video.codec_context.sample_aspect_ratio = sar
        if audio_s:
            name, rate = ("libopus", 48000) if path.suffix == ".webm" else ("aac", 44100)
            audio = container.add_stream(name, rate=rate, layout="mono")
            samples = np.arange(round(audio_s * rate))
            tone = (8000 * np.sin(2 * np.pi * 440 / rate * samples)).astype(np.int16)
            for begin in range(0, len(tone), 1000):
                sound = av.AudioFrame.from_ndarray(tone[None, begin : begin + 1000], "s16", "mono")
                sound.sample_rate, sound.time_base = rate, Fraction(1, rate)
                sound.pts = begin + round(audio_start_s * rate)
                container.mux(audio.encode(sound))
            container.mux(audio.encode(None))
        for index, time_s in enumerate(times):
            value = 20 + 200 * index // len(times)
            image = av.VideoFrame.from_ndarray(picture(*size, value=value), "rgb24")
            image.pts, image.time_base = round(time_s * 1000), Fraction(1, 1000)
            container.mux(video.encode(image))
        container.mux(video.encode(None))
    return path


def frame_times(path: Path) -> list[float]:
    """Return the presentation time of each frame, in seconds."""
    with av.open(str(path)) as container:
        return [image.time for image in container.decode(video=0)]


def audio_span(path: Path) -> tuple[float, float, float]:
    """Return begin, end and share of audible samples of the audio; the times in seconds."""
    with av.open(str(path)) as container:
        sounds = [(sound.time, sound) for sound in container.decode(audio=0)]
    time_s, last = sounds[-1]
    loud = [np.abs(s.to_ndarray().astype(np.float64)).max() > 0.01 for _, s in sounds]
    return sounds[0][0], time_s + last.samples / last.sample_rate, float(np.mean(loud))
