"""An annotated video that plays, whatever ended the run."""

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
from emotion_lab.video.sinks.audio import copy_sound
from emotion_lab.video.sinks.base import Sink, new_file
from emotion_lab.video.types import Frame, FrameResult

#: Codecs to try for each kind of file, the most widely playable first.
CODECS: dict[str, tuple[str, ...]] = {
    ".mp4": ("avc1", "mp4v"),
    ".mov": ("avc1", "mp4v"),
    ".mkv": ("avc1", "mp4v"),
    ".avi": ("MJPG",),
    ".webm": ("VP90", "VP80"),
}
#: Bytes left on the disk below which we stop: an MP4 needs room for its index to be playable.
RESERVE = 32 * 2**20
_LIVE_FPS = 30.0  # of the file, where a camera does not tell its own
_MAX_HOLD_S = 10.0  # a longer break (pause, camera unplugged) is shortened to this


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide what OpenCV and FFmpeg print while codecs are tried; they write to the descriptor."""
    sys.stderr.flush()
    with contextlib.ExitStack() as stack:
        kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        stack.callback(os.close, kept)
        stack.callback(os.dup2, kept, 2)
        stack.callback(os.close, null)
        os.dup2(null, 2)
        yield


class VideoSink(Sink):
    """Writes the drawn frames.

    A clip gives one frame for each of its own. A live source (camera, stream, paced clip) comes at
    a varying rate: frames are held or left out by their ``time_s``, so that the video lasts as
    long as what it shows.

    Args:
        path: File to make; its ending chooses the container, see :data:`CODECS`.
        fps: Frames a second; None for a source that does not know.
        size: Width and height; taken from the first picture where None. An odd side grows by one
            pixel, as video codecs work on pairs; pictures of another size are fitted in.
        live: Whether frames come at a varying rate.
        sound_from: Clip whose sound is copied over when the video is closed, if ffmpeg is there.
        overwrite: Whether a file that is there may go.

    Attributes:
        path: The file.
        frames: Pictures in it.
        codec: Four letters, once open.

    Raises:
        UserError: If the file cannot be made.
    """

    wants_picture = True

    def __init__(
        self,
        path: str | Path,
        fps: float | None,
        size: tuple[int, int] | None = None,
        *,
        live: bool = False,
        sound_from: str | Path | None = None,
        overwrite: bool = False,
    ) -> None:
        self.path = new_file(path, overwrite)
        if self.path.suffix.lower() not in CODECS:
            raise unknown("video format", self.path.suffix, CODECS, "Set save=<name>.mp4.")
        known = fps is not None and math.isfinite(fps) and fps > 0
        self.fps = float(fps) if known and fps is not None else _LIVE_FPS
        self.live = live
        self.sound_from = sound_from
        self.frames = 0
        self.codec = ""
        self._writer: cv2.VideoWriter | None = None
        self._closed = False
        self._size = (0, 0)
        self._slot = 0.0  # where the latest frame of a live source lies, in frames
        self._before: tuple[float, np.ndarray] | None = None
        if size is not None:
            self._open(size)

    def _open(self, size: tuple[int, int]) -> None:
        self._size = (max(2, size[0] + size[0] % 2), max(2, size[1] + size[1] % 2))
        self._check_space()
        for codec in CODECS[self.path.suffix.lower()]:
            with _quiet():
                fourcc = cv2.VideoWriter_fourcc(*codec)
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
        # OpenCV does not tell when a write fails, so the room is looked at beforehand.
        free = shutil.disk_usage(self.path.parent).free
        if free < RESERVE:
            kept = f"it holds {self.frames} frames and plays." if self.frames else "not begun."
            self.close()
            raise UserError(
                f"Cannot write {self.path}: only {free // 2**20} MiB left on the disk; {kept} "
                "Free some space or save to another disk."
            )

    def write(self, frame: Frame, result: FrameResult, drawn: np.ndarray | None) -> None:
        """Append a picture.

        Raises:
            UserError: If the disk is nearly full; the video is closed and plays.
        """
        if self._closed or drawn is None:
            raise ValueError("the video is closed, or no picture was drawn")
        if self._writer is None:
            self._open((drawn.shape[1], drawn.shape[0]))
        if self.frames % 32 == 31:
            self._check_space()
        picture = self._fit(drawn)
        if not self.live:
            self._put(picture)
            return
        if self._before is not None:
            time_s, held = self._before
            step = (result.time_s - time_s) * self.fps
            self._slot += min(max(0.0, step), _MAX_HOLD_S * self.fps)
            while self.frames < round(self._slot):
                self._put(held)
        if self.frames <= round(self._slot):
            self._put(picture)
        self._before = (result.time_s, picture)

    def _put(self, picture: np.ndarray) -> None:
        assert self._writer is not None
        self._writer.write(picture)
        self.frames += 1

    def _fit(self, drawn: np.ndarray) -> np.ndarray:
        """Return BGR of the video's size: a pixel added to an odd side, other sizes fitted in."""
        width, height = self._size
        if not (0 <= width - drawn.shape[1] <= 1 and 0 <= height - drawn.shape[0] <= 1):
            scale = min(width / drawn.shape[1], height / drawn.shape[0])
            inner = (
                max(1, min(width, round(drawn.shape[1] * scale))),
                max(1, min(height, round(drawn.shape[0] * scale))),
            )
            drawn = cv2.resize(drawn, inner, interpolation=cv2.INTER_AREA)
            right, below = width - inner[0], height - inner[1]
            border = (below // 2, below - below // 2, right // 2, right - right // 2)
            drawn = cv2.copyMakeBorder(drawn, *border, cv2.BORDER_CONSTANT)
        elif drawn.shape[:2] != (height, width):
            more = (height - drawn.shape[0], width - drawn.shape[1])
            drawn = cv2.copyMakeBorder(drawn, 0, more[0], 0, more[1], cv2.BORDER_REPLICATE)
        return cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR)

    def close(self) -> None:
        """Finish the file, then copy the sound; says in one line what became of it."""
        if self._closed:
            return
        self._closed = True
        if self._writer is not None:
            self._writer.release()
            if self.sound_from is not None and self.frames:
                print(copy_sound(self.path, self.sound_from), file=sys.stderr)
