"""Writes the drawn frames to a video file that stays playable if the run is interrupted."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from emotion_lab.core.errors import UserError, unknown
from emotion_lab.video.sinks.audio import copy_audio
from emotion_lab.video.sinks.base import Sink, new_file
from emotion_lab.video.types import Frame, FrameResult

#: Codecs to try for each file extension, the most widely supported first.
CODECS: dict[str, tuple[str, ...]] = {
    ".mp4": ("avc1", "mp4v"),
    ".mov": ("avc1", "mp4v"),
    ".mkv": ("avc1", "mp4v"),
    ".avi": ("MJPG",),
    ".webm": ("VP90", "VP80"),
}
#: Writing stops below this many free bytes: an MP4 needs space for its index to be playable.
RESERVE = 32 * 2**20
_DEFAULT_FPS = 30.0  # if the source has no frame rate
_MAX_HOLD_S = 10.0  # a longer break (pause, disconnected camera) is shortened to this


@contextlib.contextmanager
def _silence_stderr() -> Iterator[None]:
    """Hide messages of OpenCV and FFmpeg, which write to the file descriptor."""
    sys.stderr.flush()
    with contextlib.ExitStack() as stack:
        stderr_copy, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        stack.callback(os.close, stderr_copy)
        stack.callback(os.dup2, stderr_copy, 2)
        stack.callback(os.close, null)
        os.dup2(null, 2)
        yield


class VideoSink(Sink):
    """Writes the drawn frames to a video.

    A file gives one video frame per source frame. A live source (camera, stream, ``realtime=true``)
    has a varying rate: frames are repeated or dropped by their ``time_s``, so that the video has
    the duration of the recording.

    Args:
        path: Output file; its extension selects the container, see :data:`CODECS`.
        fps: Frames per second of the source, or None if unknown.
        size: Width and height; default: those of the first picture. An odd side grows by one
            pixel, because video codecs need even sides; pictures of another size are letterboxed.
        live: Whether the source has a varying frame rate.
        audio_from: File whose audio is copied on closing, if ffmpeg is installed.
    """

    wants_picture = True

    def __init__(
        self,
        path: str | Path,
        fps: float | None,
        size: tuple[int, int] | None = None,
        *,
        live: bool = False,
        audio_from: str | Path | None = None,
        overwrite: bool = False,
    ) -> None:
        self.path = new_file(path, overwrite)
        if self.path.suffix.lower() not in CODECS:
            raise unknown("video format", self.path.suffix, CODECS, "Set save=<name>.mp4.")
        self.fps = fps if fps is not None and math.isfinite(fps) and fps > 0 else _DEFAULT_FPS
        self.live = live
        self.audio_from = audio_from
        self.frames = 0
        self.codec = ""  # FourCC, once open
        self._writer: cv2.VideoWriter | None = None
        self._closed = False
        self._size = (0, 0)
        self._position = 0.0  # of the latest frame of a live source, in video frames
        self._previous: tuple[float, np.ndarray] | None = None
        if size is not None:
            self._open(size)

    def _open(self, size: tuple[int, int]) -> None:
        self._size = (max(2, size[0] + size[0] % 2), max(2, size[1] + size[1] % 2))
        self._check_space()
        for codec in CODECS[self.path.suffix.lower()]:
            with _silence_stderr():
                fourcc = cv2.VideoWriter.fourcc(*codec)
                writer = cv2.VideoWriter(str(self.path), fourcc, self.fps, self._size)
                opened = writer.isOpened()
            if opened:
                self._writer, self.codec = writer, codec
                return
        width, height = self._size
        raise UserError(
            f"OpenCV cannot write {self.path} at {width}x{height} and {self.fps:g} fps. "
            "Try save=<name>.avi."
        )

    def _check_space(self) -> None:
        # OpenCV does not report a failed write, so the free space is checked beforehand.
        free = shutil.disk_usage(self.path.parent).free
        if free < RESERVE:
            state = f"it has {self.frames} frames and plays." if self.frames else "not started."
            self.close()
            raise UserError(
                f"Cannot write {self.path}: only {free // 2**20} MiB left on the disk; {state} "
                "Free disk space or save to another disk."
            )

    def write(self, frame: Frame, result: FrameResult, drawn: np.ndarray | None) -> None:
        """Append a picture; if the disk is nearly full, close the video and raise."""
        if self._closed or drawn is None:
            raise ValueError("the video is closed, or drawn is missing")
        if self._writer is None:
            self._open((drawn.shape[1], drawn.shape[0]))
        if self.frames % 32 == 31:
            self._check_space()
        picture = self._to_video_size(drawn)
        if not self.live:
            self._append(picture)
            return
        if self._previous is not None:
            previous_s, previous_picture = self._previous
            step = (result.time_s - previous_s) * self.fps
            self._position += min(max(0.0, step), _MAX_HOLD_S * self.fps)
            while self.frames < round(self._position):
                self._append(previous_picture)
        if self.frames <= round(self._position):
            self._append(picture)
        self._previous = (result.time_s, picture)

    def _append(self, picture: np.ndarray) -> None:
        assert self._writer is not None
        self._writer.write(picture)
        self.frames += 1

    def _to_video_size(self, drawn: np.ndarray) -> np.ndarray:
        """Return BGR of the video size: pad an odd side by a pixel, letterbox other sizes."""
        width, height = self._size
        if not (0 <= width - drawn.shape[1] <= 1 and 0 <= height - drawn.shape[0] <= 1):
            scale = min(width / drawn.shape[1], height / drawn.shape[0])
            inner = (
                max(1, min(width, round(drawn.shape[1] * scale))),
                max(1, min(height, round(drawn.shape[0] * scale))),
            )
            drawn = cv2.resize(drawn, inner, interpolation=cv2.INTER_AREA)
            right, bottom = width - inner[0], height - inner[1]
            border = (bottom // 2, bottom - bottom // 2, right // 2, right - right // 2)
            drawn = cv2.copyMakeBorder(drawn, *border, cv2.BORDER_CONSTANT)
        elif drawn.shape[:2] != (height, width):
            bottom, right = height - drawn.shape[0], width - drawn.shape[1]
            drawn = cv2.copyMakeBorder(drawn, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        return cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR)

    def close(self) -> None:
        """Complete the file, then copy the audio and print one line about it."""
        if self._closed:
            return
        self._closed = True
        if self._writer is not None:
            self._writer.release()
            if self.audio_from is not None and self.frames:
                print(copy_audio(self.path, self.audio_from), file=sys.stderr)
