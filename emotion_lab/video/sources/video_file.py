"""Video files through OpenCV, and the OpenCV helpers shared with cameras."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

# Read by FFmpeg and Video4Linux at first use: no messages of their own, and a camera without a
# picture is reported after seconds (the default timeout is ten seconds per frame).
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "3")

import av
import cv2
import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.core.io import native_path
from emotion_lab.video.sources.display import display_transform
from emotion_lab.video.sources.threaded import FrameReader
from emotion_lab.video.turns import decoding
from emotion_lab.video.types import Frame

#: End of the error messages about a bad source.
SOURCE_HINT = "set source=<camera, photo, folder, clip, address or synthetic>"


def print_stderr(text: str) -> None:
    """Print one line on standard error."""
    print(text, file=sys.stderr, flush=True)


def silence_opencv() -> None:
    """Switch off OpenCV's own log messages."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def to_rgb(image: np.ndarray) -> np.ndarray:
    """Convert an image decoded by OpenCV (BGR, BGRA or grey) to uint8 (H, W, 3) RGB."""
    if image.ndim == 2 or image.shape[2] == 1:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    return cv2.cvtColor(image, cv2.COLOR_BGRA2RGB if image.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def is_truncated(path: Path) -> bool:
    """Return whether an MP4 or MOV file ends within a box (ISO 14496-12, 4.2).

    Return False for all other formats.
    """
    size, offset = path.stat().st_size, 0
    with path.open("rb") as file:
        if file.read(8)[4:] not in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            return False
        while offset + 8 <= size:
            file.seek(offset)
            header = file.read(16)
            length = int.from_bytes(header[:4], "big")
            if length == 1:
                length = int.from_bytes(header[8:], "big")
            if length == 0:  # the box extends to the end of the file
                return False
            offset += max(8, length)
    return offset > size


def ends_early(path: Path) -> bool:
    """Return whether packets are missing at the end of a file that declares no number of frames.

    OpenCV computes their number from the duration and the nominal frame rate, which is too high for
    a variable frame rate (Matroska) and for audio that is longer than the video. True for a file
    that declares the number. All packets are read, none is decoded.
    """
    with av.open(str(path)) as container:
        if container.streams.video[0].frames:
            return True
        begin_s, duration_s = (
            (value or 0) / av.time_base for value in (container.start_time, container.duration)
        )
        end_s = begin_s
        for packet in container.demux():
            if packet.pts is not None and packet.time_base is not None:
                end_s = max(end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    return begin_s + duration_s - end_s > max(0.5, duration_s / 20)


class VideoFileReader(FrameReader):
    """A local or remote video file, shown according to its metadata: upright, square pixels.

    Args:
        name: Source name of the frames; default: the path.
    """

    def __init__(self, path: str | Path, name: str = "", kind: str = "clip") -> None:
        self.path, self.name, self.kind = str(path), name or str(path), kind
        self._capture = self._open()
        # Read now, so that a broken file is reported before models are loaded.
        image = self._read()
        if image is None:
            self.close()
            raise self._decode_error()
        self._first: np.ndarray | None = image
        self.size = (image.shape[1], image.shape[0])
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = float(fps) if 0 < fps < 1000 else None
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.count = int(count) if 0 < count < 2**31 else None
        self._warned = False

    def _open(self) -> cv2.VideoCapture:
        silence_opencv()
        # The path must be absolute: FFmpeg takes the start of a name like "a:b.mp4" for a protocol.
        is_remote = "://" in self.path
        path = self.path if is_remote else str(Path(self.path).absolute())
        with native_path(path) as name:
            capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG)
        if not capture.isOpened():
            raise self._decode_error()
        self._transform = display_transform(capture, None if is_remote else path)
        return capture

    def _read(self) -> np.ndarray | None:
        """Return the next picture, uint8 (H, W, 3) RGB, or None at the end."""
        if "://" in self.path:  # may wait for the network
            ok, image = self._capture.read()
            return self._transform(to_rgb(image)) if ok else None
        with decoding():
            ok, image = self._capture.read()
            return self._transform(to_rgb(image)) if ok else None

    def _decode_error(self) -> UserError:
        path = Path(self.path)
        if path.is_file() and path.stat().st_size == 0:
            return UserError(
                f"{self.name} is empty (0 bytes). Download it again, or {SOURCE_HINT}."
            )
        if path.is_file() and is_truncated(path):
            return UserError(
                f"{self.name} is cut off before its index, so that no frame can be read. Copy or "
                "record it again."
            )
        return UserError(
            f"{self.name} is neither an image nor a video that can be decoded. Check the file, or "
            f"{SOURCE_HINT}."
        )

    def frames(self, stop: threading.Event) -> Iterator[Frame]:
        """Yield every frame; ``time_s`` is the presentation time, 0 for the first frame."""
        if self._first is None:  # a second or later loop
            self._capture.release()
            self._capture = self._open()
            self._first = self._read()
            if self._first is None:
                raise self._decode_error()
        image: np.ndarray | None = self._first
        self._first = None
        index, time_s, start_ms = 0, 0.0, self._capture.get(cv2.CAP_PROP_POS_MSEC)
        frame_s = 1 / (self.fps or 25.0)
        while image is not None and not stop.is_set():
            yield Frame(image, index, time_s, time.time(), self.name)
            image = self._read()
            index += 1
            timestamp = (self._capture.get(cv2.CAP_PROP_POS_MSEC) - start_ms) / 1000
            # Some containers have no timestamps or repeated ones: continue at the nominal rate.
            time_s = timestamp if timestamp > time_s else time_s + frame_s
        if not stop.is_set():
            self._warn_if_incomplete(index)

    def _warn_if_incomplete(self, num_read: int) -> None:
        """Print once how many frames were read if the file declares more."""
        count = self.count or 0
        if num_read >= count or self._warned:
            return
        self._warned = True
        path = Path(self.path)
        truncated = path.is_file() and is_truncated(path)
        # No warning for a few missing frames: an edit list hides frames that are counted.
        many = count - num_read > max(5, count // 20)
        if truncated or (many and (not path.is_file() or ends_early(path))):
            rest = "the rest is cut off, damaged or edited out"
            reason = "the file is cut off" if truncated else rest
            print_stderr(f"{self.name}: {num_read} of {count} frames could be read; {reason}.")

    def close(self) -> None:
        """Close the file."""
        self._capture.release()
