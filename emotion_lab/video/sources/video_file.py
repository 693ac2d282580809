"""Video files through OpenCV, and what cameras share with them: here BGR ends."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

# FFmpeg and Video4Linux read these when first used: messages are ours to word, and a camera that
# gives no picture is told in seconds (OpenCV would wait ten for each frame).
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "3")

import cv2
import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.video.sources.threaded import FrameReader
from emotion_lab.video.types import Frame

#: How the sentence about a bad source ends.
ELSEWHERE = "set source=<camera, photo, folder, clip, address or synthetic>"


def say(text: str) -> None:
    """Print one line on standard error."""
    print(text, file=sys.stderr, flush=True)


def quiet() -> None:
    """Keep OpenCV from adding its own lines to ours."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def to_rgb(image: np.ndarray) -> np.ndarray:
    """Return uint8 (H, W, 3) RGB from what OpenCV decodes: BGR, BGRA or grey."""
    if image.ndim == 2 or image.shape[2] == 1:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    return cv2.cvtColor(image, cv2.COLOR_BGRA2RGB if image.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def overruns(path: Path) -> bool:
    """Tell whether an MP4 or MOV file ends before the last of its boxes does (ISO 14496-12, 4.2).

    Any other file gives False.
    """
    end, start = path.stat().st_size, 0
    with path.open("rb") as file:
        if file.read(8)[4:] not in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            return False
        while start + 8 <= end:
            file.seek(start)
            head = file.read(16)
            length = int.from_bytes(head[:4], "big")
            if length == 1:
                length = int.from_bytes(head[8:], "big")
            if length == 0:  # up to the end of the file
                return False
            start += max(8, length)
    return start > end


class VideoFileReader(FrameReader):
    """A video file, or one that lies at an address; upright as its metadata says.

    Args:
        path: File or address.
        name: What the frames call it.
        kind: clip or synthetic.

    Raises:
        UserError: If it is no video that can be decoded.
    """

    def __init__(
        self,
        path: str | Path,
        name: str = "",
        kind: str = "clip",
    ) -> None:
        self.path, self.name, self.kind = str(path), name or str(path), kind
        self._capture = self._open()
        # Read once here, so that a broken clip is told before anything else is loaded.
        ok, image = self._capture.read()
        if not ok:
            self.close()
            raise self._broken()
        self._first: np.ndarray | None = image
        self.size = (image.shape[1], image.shape[0])
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = float(fps) if 0 < fps < 1000 else None
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.count = int(count) if 0 < count < 2**31 else None
        self._told = False

    def _open(self) -> cv2.VideoCapture:
        quiet()
        # Turned by the file's own metadata: CAP_PROP_ORIENTATION_AUTO is on by default here.
        # From the root on, or FFmpeg takes the start of a name like "a:b.mp4" for a protocol.
        path = self.path if "://" in self.path else os.path.abspath(self.path)
        capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
        if not capture.isOpened():
            raise self._broken()
        return capture

    def _broken(self) -> UserError:
        path = Path(self.path)
        if path.is_file() and path.stat().st_size == 0:
            return UserError(f"{self.name} is empty (0 bytes). Fetch it again, or {ELSEWHERE}.")
        if path.is_file() and overruns(path):
            return UserError(
                f"{self.name} is cut off before its index, so that no frame can be read. Copy or "
                "record it again."
            )
        return UserError(
            f"{self.name} is neither an image nor a video that can be decoded. Check the file, or "
            f"{ELSEWHERE}."
        )

    def frames(self, stop: threading.Event) -> Iterator[Frame]:
        """Yield every frame; ``time_s`` is the presentation time, 0 for the first."""
        if self._first is None:  # a further loop
            self._capture.release()
            self._capture = self._open()
            ok, self._first = self._capture.read()
            if not ok:
                raise self._broken()
        image, self._first = self._first, None
        index, time_s, zero = 0, 0.0, self._capture.get(cv2.CAP_PROP_POS_MSEC)
        step = 1 / (self.fps or 25.0)
        ok = True
        while ok and not stop.is_set():
            yield Frame(to_rgb(image), index, time_s, time.time(), self.name)
            ok, image = self._capture.read()
            index += 1
            now = (self._capture.get(cv2.CAP_PROP_POS_MSEC) - zero) / 1000
            # Some containers hold no times, or repeat them: then the nominal rate goes on.
            time_s = now if now > time_s else time_s + step
        if not stop.is_set():
            self._check_whole(index)

    def _check_whole(self, read: int) -> None:
        """Say once how many frames were read where more were announced."""
        missing = (self.count or 0) - read
        if missing <= 0 or self._told:
            return
        self._told = True
        path = Path(self.path)
        cut = path.is_file() and overruns(path)
        # An edit list hides frames that the file still counts, and some containers only estimate
        # the number: a few less are no news.
        if cut or missing > max(5, self.count // 20):
            why = "the file is cut off" if cut else "the rest is cut off, damaged or edited out"
            say(f"{self.name}: {read} of {self.count} frames could be read; {why}.")

    def close(self) -> None:
        """Close the file."""
        self._capture.release()
