"""From what a user types as ``source=`` to an iterator of frames."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.data.images import read_image
from emotion_lab.synthetic.video import render_video
from emotion_lab.video.sources import camera
from emotion_lab.video.sources.camera import CameraReader, open_address
from emotion_lab.video.sources.threaded import FrameReader, FrameSource
from emotion_lab.video.sources.video_file import ELSEWHERE, VideoFileReader, say
from emotion_lab.video.types import Frame

#: What is taken for an image in a folder; a file given by name may be called as it likes.
IMAGES = frozenset(
    {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
)
_STILL_S = 1.0  # how long a photo is shown when photos are paced
_SYNTHETIC_FPS, _SYNTHETIC_SIZE = 25.0, (640, 360)
_PART_S = (1.5, 2.5)  # how long an emotion of the synthetic clip lasts: shortest, longest


def read_photo(path: str | Path) -> np.ndarray:
    """Read an image file as the pipeline wants it.

    EXIF orientation is applied, transparency is laid on mid-grey, 16 bits are scaled to 8, grey
    and CMYK become RGB (see :func:`emotion_lab.data.images.read_image`).

    Returns:
        uint8 (H, W, 3) RGB.

    Raises:
        UserError: If it is missing, truncated or no image.
    """
    image = read_image(path)
    return image if image.shape[2] == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)


class ImageReader(FrameReader):
    """One image, or the images of a folder and of the folders in it, sorted by path.

    Photos have no time of their own: ``time_s`` is 0 for all of them, or, where they are shown
    one after another at a pace, one second apart.

    Args:
        path: Image file or folder.
        paced: Whether they are shown at a pace.

    Raises:
        UserError: If there is no image.
    """

    def __init__(self, path: Path, paced: bool = False) -> None:
        self.name, self.kind = str(path), "folder" if path.is_dir() else "photo"
        self._root, self._gap = path, _STILL_S if paced else 0.0
        self._skipped: list[str] = []
        self._files = self._list() if path.is_dir() else [path]
        self._told = False
        # The first good one is read now: it gives the size, and broken input is told early.
        self._first: tuple[Path, np.ndarray] | None = None
        for file in self._files:
            image = self._read(file)
            if image is not None:
                self._first = (file, image)
                break
        if self._first is None:
            raise UserError(
                f"None of the {len(self._skipped)} files in {path} is an image that can be read. "
                f"Check the folder, or {ELSEWHERE}."
            )
        self.count = len(self._files)
        self.size = (self._first[1].shape[1], self._first[1].shape[0])

    def close(self) -> None:
        """Let go of the image that was read ahead."""
        self._first = None

    def _list(self) -> list[Path]:
        """Return the image files, sorted; note all others as skipped."""
        files = []
        for folder, subfolders, names in os.walk(self._root):
            subfolders.sort()
            for name in names:
                path = Path(folder) / name
                if path.suffix.lower() in IMAGES:
                    files.append(path)
                else:
                    self._skipped.append(self._label(path))
        if not files:
            raise UserError(
                f"There is no image in the folder {self._root} ({len(self._skipped)} other "
                f"files). Name a clip by its path, or {ELSEWHERE}."
            )
        return sorted(files, key=lambda path: path.relative_to(self._root).parts)

    def _label(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix() if path != self._root else self.name

    def _read(self, path: Path) -> np.ndarray | None:
        """Return the image; None, and a note, where a file of a folder is broken."""
        try:
            return read_photo(path)
        except UserError:
            if self.kind == "photo":
                raise
            label = self._label(path)
            if label not in self._skipped:
                self._skipped.append(label)
            return None

    def frames(self, stop: threading.Event) -> Iterator[Frame]:
        """Yield the images; ``index`` counts those that could be read."""
        index = 0
        for path in self._files:
            if stop.is_set():
                return
            if self._first is not None and self._first[0] == path:
                image, self._first = self._first[1], None
            else:
                image = self._read(path)
            if image is not None:
                yield Frame(image, index, index * self._gap, time.time(), self._label(path))
                index += 1
        if self._skipped and not self._told:
            self._told = True
            some = sorted(self._skipped)
            more = f" and {len(some) - 3} more" if len(some) > 3 else ""
            say(
                f"{self.name}: skipped {len(some)} of {index + len(some)} files, which are no "
                f"images or damaged ({', '.join(some[:3])}{more})."
            )


def timeline(seed: int) -> list[tuple[float, str]]:
    """Return ``(seconds, emotion)`` of the synthetic clip: each emotion once, drawn by ``seed``."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(EMOTIONS))
    return [(round(float(rng.uniform(*_PART_S)), 2), EMOTIONS[i]) for i in order]


class Synthetic(VideoFileReader):
    """A drawn clip whose truth is known; it is rendered to a temporary file first.

    Args:
        size: (width, height).
        fps: Frames a second.
        seed: Decides the person and the timeline.
        max_frames: Draw no more than this.
    """

    def __init__(
        self, size: tuple[int, int], fps: float, seed: int, max_frames: int | None
    ) -> None:
        parts = []
        left = max_frames / fps if max_frames else float("inf")
        for seconds, emotion in timeline(seed):
            if left > 0:
                parts.append((min(seconds, left), emotion))
                left -= seconds
        frames = round(sum(seconds for seconds, _ in parts) * fps)
        say(f"Drawing a synthetic clip of {frames} frames ({size[0]}x{size[1]}, seed {seed}) ...")
        # Deletes itself, at the latest when the program ends.
        self._folder = tempfile.TemporaryDirectory(
            prefix="emotion_lab_", ignore_cleanup_errors=True
        )
        path = Path(self._folder.name) / "synthetic.mp4"
        drawn = render_video(path, parts, fps=fps, size=size, seed=seed)
        super().__init__(path, "synthetic", "synthetic")
        self.truth = [
            (row["time_s"], row["emotion"])
            for previous, row in zip([None, *drawn], drawn, strict=False)
            if previous is None or previous["emotion"] != row["emotion"]
        ]

    def close(self) -> None:
        """Close and delete the clip."""
        super().close()
        self._folder.cleanup()


def _camera_index(source: str) -> int | None:
    """Return the index of the camera that ``source`` names, None if it names none."""
    if source.isdecimal():
        return int(source)
    if source.startswith("/dev/"):
        # Also the stable names below /dev/v4l, which are links.
        match = re.fullmatch(r"video(\d+)", Path(os.path.realpath(source)).name)
        return int(match[1]) if match else None
    wanted = source.casefold()
    known = camera.cameras()
    exact = [index for index, name in known if name.casefold() == wanted]
    part = [index for index, name in known if wanted in name.casefold()]
    return next(iter(exact + part), None)


def _open_path(path: Path, paced: bool) -> FrameReader:
    """Open a photo, a folder or a clip by what it holds."""
    if path.is_dir():
        return ImageReader(path, paced)
    if not path.is_file():
        raise UserError(f"{path} is no file. Check it, or {ELSEWHERE}.")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path} may not be read by this user. Change its permissions (chmod).")
    if path.suffix.lower() in IMAGES:
        return ImageReader(path, paced)
    try:
        return ImageReader(path, paced)
    except UserError:
        return VideoFileReader(path)


def open_source(cfg: dict[str, Any]) -> FrameSource:
    """Open what the user named.

    Args:
        cfg: ``source``: index, /dev node or (on Linux) part of the name of a camera; an image,
            folder or clip; an rtsp:// or http(s):// address; or ``synthetic``. Optional:
            ``width``, ``height`` and ``fps`` (asked of a camera, obeyed by synthetic), ``seed``
            (of synthetic), ``loop``, ``realtime`` (play a file at its own rate and drop what is
            overtaken, as if it were live), ``max_frames`` (hand out no more), ``reconnect_s``
            (how long to wait for a camera or stream that went away, default 30).

    Returns:
        An iterator of frames; close it, or use it in a ``with``.

    Raises:
        UserError: If there is no such source or it gives no picture.
    """
    source = str("" if cfg.get("source") is None else cfg["source"]).strip()
    paced, limit = bool(cfg.get("realtime", False)), cfg.get("max_frames")
    wait = cfg.get("reconnect_s")
    wait = 30.0 if wait is None else float(wait)
    if not source:
        raise UserError(f"No source is given: {ELSEWHERE}.")
    reader: FrameReader
    if source == "synthetic":
        default = _SYNTHETIC_SIZE
        size = (cfg.get("width") or default[0], cfg.get("height") or default[1])
        fps = float(cfg.get("fps") or _SYNTHETIC_FPS)
        reader = Synthetic(size, fps, int(cfg.get("seed") or 0), limit)
    elif re.match(r"(rtsps?|https?)://", source, re.IGNORECASE):
        reader = open_address(source, wait)
    elif not re.fullmatch(r"\d+|/dev/.*", source) and Path(source).expanduser().exists():
        reader = _open_path(Path(source).expanduser(), paced)
    else:
        index = _camera_index(source)
        if index is None:
            names = " Cameras are found by name on Linux only." if sys.platform != "linux" else ""
            raise UserError(
                f"There is no file, folder or camera '{source}'.{camera.list_cameras()}{names} "
                f"Check the path, or {ELSEWHERE}."
            )
        asked = (cfg.get("width"), cfg.get("height"), cfg.get("fps"))
        reader = CameraReader(index, source, *asked, reconnect_s=wait)
    return FrameSource(reader, bool(cfg.get("loop", False)), paced, limit)
