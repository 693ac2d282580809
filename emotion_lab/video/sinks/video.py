"""Writes the drawn frames to a video file that stays playable if the run is interrupted."""

from __future__ import annotations

import math
import shutil
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from emotion_lab.core.errors import UserError, unknown
from emotion_lab.video.sinks.audio import AudioCopier
from emotion_lab.video.sinks.base import Sink, new_file
from emotion_lab.video.types import Frame, FrameResult

_QUALITY = {"flags": "+qscale", "global_quality": str(3 * 118)}  # 3 of 2..31, in lambda units
# Without B-frames: their reordering spoils the duration of a video of variable frame rate.
_H264 = {"preset": "superfast", "crf": "20", "bf": "0"}
_VPX = {"crf": "24", "deadline": "realtime", "cpu-used": "8"}
#: Codecs to try for each file extension, with their options; the most widely supported first.
CODECS: dict[str, dict[str, dict[str, str]]] = {
    **{key: {"libx264": _H264, "mpeg4": _QUALITY} for key in (".mp4", ".mov", ".mkv")},
    ".avi": {"mjpeg": _QUALITY},
    ".webm": {"libvpx-vp9": _VPX, "libvpx": _VPX},
}
#: Writing stops below this many free bytes: an MP4 needs space for its index to be playable.
RESERVE = 32 * 2**20
_DEFAULT_FPS = 30.0  # if the source has no frame rate
_MAX_HOLD_S = 10.0  # a longer break of a live source (pause, lost camera) is shortened to this
_CLOCK = 90_000  # time stamps per second
_BT601 = 6  # the conversion from RGB that OpenCV and FFmpeg use; without it, players guess


class VideoSink(Sink):
    """Writes the drawn frames to a video, each at its ``time_s``.

    Every frame is kept, and lasts until the next one. Only AVI has a constant frame rate: there
    frames are repeated or dropped to keep the times.

    Args:
        path: Output file; its extension selects the container, see :data:`CODECS`.
        fps: Frames per second of the source, or None if unknown.
        size: Width and height; default: those of the first picture. An odd side grows by one
            pixel, because video codecs need even sides; pictures of another size are letterboxed.
        live: Whether the source has a varying frame rate.
        audio_from: File whose audio is copied.

    Attributes:
        frames: Number of frames written.
        seconds: Duration of the video.
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
        self.seconds = 0.0
        self.codec = ""  # name in FFmpeg, once open
        self._constant_rate = self.path.suffix.lower() == ".avi"
        self._container: Any = None
        self._stream: Any = None
        self._audio: AudioCopier | None = None
        self._closed = False
        self._size = (0, 0)
        self._dropped = 0  # frames that a constant rate has no room for
        self._pts = -1  # of the latest frame, in units of 1 / _CLOCK or of frames
        self._position_s = 0.0  # of the latest frame in the video
        self._previous: tuple[float, int, np.ndarray] | None = None  # time_s, loop, picture
        if size is not None:
            self._open(size)

    def _open(self, size: tuple[int, int]) -> None:
        self._size = (max(2, size[0] + size[0] % 2), max(2, size[1] + size[1] % 2))
        self._check_space()
        for codec, options in CODECS[self.path.suffix.lower()].items():
            try:
                self._open_codec(codec, options)
                return
            except (av.error.FFmpegError, ValueError, OSError) as error:
                reason = " ".join(str(error).split())
        width, height = self._size
        raise UserError(
            f"Cannot write {self.path} at {width}x{height} and {self.fps:g} fps ({reason}). "
            "Try save=<name>.avi."
        )

    def _open_codec(self, codec: str, options: dict[str, str]) -> None:
        container = av.open(str(self.path), "w")
        rate = Fraction(self.fps).limit_denominator(1001)
        stream: Any = container.add_stream(codec, rate=rate, options=dict(options))
        stream.width, stream.height = self._size
        # mpeg4 allows at most 65535 time stamps per second.
        clock = Fraction(1000 if codec == "mpeg4" else _CLOCK)
        self._clock = rate if self._constant_rate else clock
        stream.codec_context.time_base = 1 / self._clock
        stream.codec_context.colorspace = _BT601
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.bit_rate = 0  # constant quality
        stream.codec_context.open()
        self._container, self._stream, self.codec = container, stream, codec
        if self.audio_from is not None:
            self._audio = AudioCopier(self.audio_from, container, self.path.name)

    def _check_space(self) -> None:
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
        if self._stream is None:
            self._open((drawn.shape[1], drawn.shape[0]))
        if self.frames % 32 == 31:
            self._check_space()
        picture = self._to_video_size(drawn)
        loop = frame.loop
        if self._previous is not None:
            step = result.time_s - self._previous[0]
            if self.live:
                step = min(max(0.0, step), _MAX_HOLD_S)
            elif step <= 0:  # photos have no time of their own
                step = 1 / self.fps
            self._position_s += step
            if self._audio is not None and loop != self._previous[1]:
                self._audio.restart(self._position_s)
        if self._constant_rate:
            self._write_constant_rate(picture)
        else:
            self._append(picture, max(self._pts + 1, round(self._position_s * self._clock)))
        self._previous = (result.time_s, loop, picture)
        self.seconds = self._position_s + 1 / self.fps
        if self._audio is not None:
            self._audio.write_until(self._position_s)

    def _write_constant_rate(self, picture: np.ndarray) -> None:
        """Repeat the previous picture up to the position of the new one, then write or drop it."""
        position = round(self._position_s * self._clock)
        while self._previous is not None and self.frames < position:
            self._append(self._previous[2], self.frames)
        if self.frames <= position:
            self._append(picture, self.frames)
        else:
            self._dropped += 1

    def _append(self, picture: np.ndarray, pts: int) -> None:
        image = av.VideoFrame.from_ndarray(picture, format="rgb24")
        image.pts, image.time_base, self._pts = pts, 1 / self._clock, pts
        image.duration = round(self._clock / Fraction(self.fps))
        self._encode(image)
        self.frames += 1

    def _encode(self, image: av.VideoFrame | None) -> None:
        """Encode a picture, or with None those that the encoder still holds."""
        try:
            self._container.mux(self._stream.encode(image))
        except OSError as error:
            raise UserError(
                f"Cannot write {self.path}: {error.strerror or error}. Free disk space or save to "
                "another disk."
            ) from error

    def _to_video_size(self, drawn: np.ndarray) -> np.ndarray:
        """Return RGB of the video size: pad an odd side by a pixel, letterbox other sizes."""
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
        return np.ascontiguousarray(drawn)

    def close(self) -> None:
        """Complete the file and print one line about the audio."""
        if self._closed:
            return
        self._closed = True
        if self._stream is None:
            return
        try:
            self._encode(None)
            if self._audio is not None:
                self._audio.finish(self.seconds)
                if self.frames:
                    print(self._audio.message, file=sys.stderr)
            if self._dropped and not self.live:
                frames = "1 frame" if self._dropped == 1 else f"{self._dropped} frames"
                print(
                    f"{self.path.name} has a constant frame rate and lacks {frames} of the source; "
                    "save=<name>.mp4 keeps all",
                    file=sys.stderr,
                )
        finally:
            self._container.close()
