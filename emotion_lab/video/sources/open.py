"""Open the frame source given by ``source=``."""

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
from emotion_lab.core.file_names import Ignored, walk
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.data.images import is_image_name, read_reduced
from emotion_lab.synthetic.video import render_video
from emotion_lab.video.recording import is_recording
from emotion_lab.video.sources.animation import AnimationReader, num_pictures
from emotion_lab.video.sources.camera import CameraReader, cameras_hint, list_cameras, open_address
from emotion_lab.video.sources.recording import RecordingReader
from emotion_lab.video.sources.threaded import FrameReader, FrameSource
from emotion_lab.video.sources.video_file import SOURCE_HINT, VideoFileReader, print_stderr
from emotion_lab.video.types import Frame

#: ``source=`` of the generated clip.
SYNTHETIC_SOURCE = "synthetic"
_IMAGE_S = 1.0  # duration of an image with ``realtime``
_SYNTHETIC_FPS, _SYNTHETIC_SIZE = 25.0, (640, 360)
_SEGMENT_S = (1.5, 2.5)  # duration of an emotion in the synthetic clip: minimum, maximum


def read_photo(path: str | Path) -> np.ndarray:
    """Read an image file as uint8 (H, W, 3) RGB.

    The EXIF orientation is applied, transparent pixels become mid-grey, 16 bits are scaled to 8,
    grey and CMYK become RGB (see :func:`emotion_lab.data.images.read_image`).
    """
    return read_reduced_photo(path)[0]


def read_reduced_photo(path: str | Path) -> tuple[np.ndarray, int]:
    """Return the image of :func:`read_photo` and by which factor it is reduced."""
    image, reduced = read_reduced(path)
    return image if image.shape[2] == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2RGB), reduced


class ImageReader(FrameReader):
    """One image, or the images of a folder and its subfolders, sorted by path.

    Args:
        realtime: Show the images one second apart; otherwise ``time_s`` is always 0.

    Raises:
        UserError: If there is no readable image.
    """

    def __init__(self, path: Path, realtime: bool = False) -> None:
        self.name, self.kind = str(path), "folder" if path.is_dir() else "photo"
        self._root, self._interval_s = path, _IMAGE_S if realtime else 0.0
        self._skipped: list[str] = []
        self._files = self._list() if path.is_dir() else [path]
        self._warned = False
        # Read the first valid image now, for the size and to report broken input early.
        self._first: tuple[Path, tuple[np.ndarray, int]] | None = None
        for file in self._files:
            photo = self._read(file)
            if photo is not None:
                self._first = (file, photo)
                break
        if self._first is None:
            raise UserError(
                f"None of the {len(self._skipped)} files in {path} is an image that can be read. "
                f"Check the folder, or {SOURCE_HINT}."
            )
        self.count = len(self._files)
        height, width = self._first[1][0].shape[:2]
        self.size = (width, height)
        self._note_further_pictures()

    def close(self) -> None:
        """Release the image that was read ahead."""
        self._first = None

    def _list(self) -> list[Path]:
        """Return the image files, sorted; add all others to the skipped files."""
        files = []
        ignored = Ignored()
        for folder, names in walk(self._root, ignored):
            for name in names:
                path = folder / name
                if is_image_name(path):
                    files.append(path)
                else:
                    self._skipped.append(self._label(path))
        if not files:
            raise UserError(
                f"There is no image in the folder {self._root} ({len(self._skipped)} other "
                f"files). Name a clip by its path, or {SOURCE_HINT}."
            )
        for note in ignored.notes():
            print_stderr(f"{self.name}: {note}.")
        return sorted(files, key=lambda path: path.relative_to(self._root).parts)

    def _note_further_pictures(self) -> None:
        """Print one line if files hold more pictures than the first one, which alone is read."""
        several = [path for path in self._files if num_pictures(path)[0] > 1]
        if several:
            names = ", ".join(self._label(path) for path in several[:3])
            more = f" and {len(several) - 3} more" if len(several) > 3 else ""
            hint = "; name an animation by its path to read all frames"
            print_stderr(
                f"only the first picture is read of {names}{more}"
                f"{hint if self.kind == 'folder' else ''}."
            )

    def _label(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix() if path != self._root else self.name

    def _read(self, path: Path) -> tuple[np.ndarray, int] | None:
        """Return the image and its reduction, or None if it is a broken file in a folder."""
        try:
            return read_reduced_photo(path)
        except UserError:
            if self.kind == "photo":
                raise
            label = self._label(path)
            if label not in self._skipped:
                self._skipped.append(label)
            return None

    def frames(self, stop: threading.Event) -> Iterator[Frame]:
        """Yield the images; ``index`` counts the readable ones."""
        index = 0
        for path in self._files:
            if stop.is_set():
                return
            if self._first is not None and self._first[0] == path:
                photo: tuple[np.ndarray, int] | None = self._first[1]
                self._first = None
            else:
                photo = self._read(path)
            if photo is not None:
                image, reduced = photo
                time_s, name = index * self._interval_s, self._label(path)
                yield Frame(image, index, time_s, time.time(), name, reduced=reduced)
                index += 1
        if self._skipped and not self._warned:
            self._warned = True
            names = sorted(self._skipped)
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            print_stderr(
                f"{self.name}: skipped {len(names)} of {index + len(names)} files, not images or "
                f"damaged ({', '.join(names[:3])}{more})."
            )


def open_image(path: Path, realtime: bool = False) -> FrameReader:
    """Open an image file: a clip if it is an animation, else a photo."""
    return AnimationReader(path) if num_pictures(path)[1] else ImageReader(path, realtime)


def timeline(seed: int) -> list[tuple[float, str]]:
    """Return ``(seconds, emotion)`` of the synthetic clip: each emotion once, in random order."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(EMOTIONS))
    return [(round(float(rng.uniform(*_SEGMENT_S)), 2), EMOTIONS[i]) for i in order]


class SyntheticReader(VideoFileReader):
    """A synthetic clip with ground truth, rendered to a temporary file first."""

    def __init__(
        self, size: tuple[int, int], fps: float, seed: int, max_frames: int | None
    ) -> None:
        segments = []
        remaining = max_frames / fps if max_frames else float("inf")
        for seconds, emotion in timeline(seed):
            if remaining > 0:
                segments.append((min(seconds, remaining), emotion))
                remaining -= seconds
        frames = round(sum(seconds for seconds, _ in segments) * fps)
        print_stderr(
            f"Rendering a synthetic clip of {frames} frames ({size[0]}x{size[1]}, seed {seed}) ..."
        )
        # Deleted at exit at the latest.
        self._folder = tempfile.TemporaryDirectory(
            prefix="emotion_lab_", ignore_cleanup_errors=True
        )
        path = Path(self._folder.name) / "synthetic.mp4"
        rows = render_video(path, segments, fps=fps, size=size, seed=seed)
        super().__init__(path, "synthetic", "synthetic")
        self.truth = tuple(
            (row["time_s"], row["emotion"])
            for previous, row in zip([None, *rows], rows, strict=False)
            if previous is None or previous["emotion"] != row["emotion"]
        )

    def close(self) -> None:
        """Close and delete the clip."""
        super().close()
        self._folder.cleanup()


def camera_index(source: str) -> int | None:
    """Return the index of the camera given by index, device path or name, or None."""
    if source.isdecimal():
        return int(source)
    if source.startswith("/dev/"):
        # realpath resolves the stable links in /dev/v4l.
        match = re.fullmatch(r"video(\d+)", Path(os.path.realpath(source)).name)
        return int(match[1]) if match else None
    query = source.casefold()
    cameras = [(index, name.casefold()) for index, name in list_cameras()]
    exact = [index for index, name in cameras if name == query]
    partial = [index for index, name in cameras if query in name]
    return next(iter(exact + partial), None)


def is_address(source: str) -> bool:
    """Return whether a source is an rtsp:// or http(s):// address."""
    return re.match(r"(rtsps?|https?)://", source, re.IGNORECASE) is not None


def _open_path(path: Path, realtime: bool) -> FrameReader:
    """Open an image, a folder, a recording or a clip according to its content."""
    if is_recording(path):
        if realtime:
            raise UserError(
                f"{path} is a recording: all of its frames are replayed, so set realtime=false."
            )
        return RecordingReader(path)
    if path.is_dir():
        return ImageReader(path, realtime)
    if not path.is_file():
        raise UserError(f"{path} is not a file. Check the path, or {SOURCE_HINT}.")
    if not os.access(path, os.R_OK):
        raise UserError(f"No permission to read {path}. Change its permissions (chmod).")
    if is_image_name(path):
        return open_image(path, realtime)
    try:
        return open_image(path, realtime)
    except UserError:
        return VideoFileReader(path)


def open_file(path: Path, max_frames: int | None = None) -> FrameSource:
    """Open a photo or clip according to its content.

    Args:
        max_frames: Frames after which a clip ends.
    """
    return FrameSource(_open_path(path, realtime=False), max_frames=max_frames)


def open_source(cfg: dict[str, Any]) -> FrameSource:
    """Open ``cfg["source"]`` as an iterator of frames, to be used in a ``with`` block.

    Args:
        cfg: ``source``: index, device path or (on Linux) part of the name of a camera; an image,
            folder or clip; an rtsp:// or http(s):// address; or ``synthetic``. Optional:
            ``width``, ``height`` and ``fps`` (requested from a camera, exact for synthetic),
            ``seed`` (of synthetic), ``loop``, ``realtime`` (play a file at its nominal rate and
            drop late frames), ``max_frames``, ``reconnect_s`` (time limit for reconnecting to a
            camera or stream, default 30).
    """
    source = str("" if cfg.get("source") is None else cfg["source"]).strip()
    realtime, max_frames = bool(cfg.get("realtime", False)), cfg.get("max_frames")
    reconnect_s = 30.0 if cfg.get("reconnect_s") is None else float(cfg["reconnect_s"])
    if not source:
        raise UserError(f"source is not set: {SOURCE_HINT}.")
    reader: FrameReader
    if source == SYNTHETIC_SOURCE:
        width, height = _SYNTHETIC_SIZE
        size = (cfg.get("width") or width, cfg.get("height") or height)
        fps = float(cfg.get("fps") or _SYNTHETIC_FPS)
        reader = SyntheticReader(size, fps, int(cfg.get("seed") or 0), max_frames)
    elif is_address(source):
        reader = open_address(source, reconnect_s)
    elif not re.fullmatch(r"\d+|/dev/.*", source) and Path(source).expanduser().exists():
        reader = _open_path(Path(source).expanduser(), realtime)
    else:
        index = camera_index(source)
        if index is None:
            note = "" if sys.platform == "linux" else " Camera names work on Linux only."
            raise UserError(
                f"There is no file, folder or camera '{source}'.{cameras_hint()}{note} "
                f"Check the path, or {SOURCE_HINT}."
            )
        requested = (cfg.get("width"), cfg.get("height"), cfg.get("fps"))
        reader = CameraReader(index, source, *requested, reconnect_s=reconnect_s)
    return FrameSource(reader, bool(cfg.get("loop", False)), realtime, max_frames)
