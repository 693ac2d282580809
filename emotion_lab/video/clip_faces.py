"""Faces of a video file, found, tracked and cut once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.core.io import cache_root, file_hash, replaced_file
from emotion_lab.data.transforms import Resize
from emotion_lab.inference.face_crop import crop_faces
from emotion_lab.video.scene_cut import SceneCutDetector
from emotion_lab.video.sources.video_file import VideoFileReader
from emotion_lab.video.tracker import FaceTracker
from emotion_lab.video.types import Detector

#: That of ``live`` and ``predict``.
SCENE_CUT_THRESHOLD = 0.25
#: Increase it when other faces are cut from the same file.
_VERSION = 1


@dataclass(frozen=True)
class ClipFaces:
    """The faces of one clip, sorted by track, then by time.

    Attributes:
        images: uint8 (N, S, S, 3) RGB.
        tracks: int64 (N,).
        times: Seconds in the clip, float64 (N,).
        seconds: Length of the clip.
    """

    images: np.ndarray
    tracks: np.ndarray
    times: np.ndarray
    seconds: float


def _cut(path: Path, detector: Detector, margin: float, size: int) -> ClipFaces:
    """Find, track and cut the faces of every frame, as ``predict`` does."""
    reader, tracker = VideoFileReader(path), FaceTracker({"detect_every": 1})
    scene_cut, resize = SceneCutDetector(SCENE_CUT_THRESHOLD), Resize(size, 3)
    looks: list[tuple[int, float, np.ndarray]] = []
    time_s = 0.0
    with contextlib.closing(reader):
        for frame in reader.frames(threading.Event()):
            time_s = frame.time_s
            if scene_cut(frame.image, time_s):
                tracker.reset()
            sides = (frame.image.shape[1], frame.image.shape[0])
            tracks = tracker.update(detector(frame.image), time_s, sides)
            boxes = np.array([track.box for track in tracks]).reshape(-1, 4)
            crops = crop_faces(frame.image, boxes, margin)
            pairs = zip(tracks, crops, strict=True)
            looks += [(track.id, time_s, resize(crop)) for track, crop in pairs]
    looks.sort(key=lambda look: look[:2])
    images = np.array([look[2] for look in looks], np.uint8).reshape(-1, size, size, 3)
    tracks_, times = (np.array([look[i] for look in looks]) for i in (0, 1))
    seconds = time_s + 1 / (reader.fps or 25.0)
    return ClipFaces(images, tracks_.astype(np.int64), times.astype(np.float64), seconds)


def cut_faces(
    path: Path, detector: Detector, settings: dict[str, Any], margin: float, size: int
) -> ClipFaces:
    """Return the faces of a clip, from the cache if it holds them.

    Args:
        path: Video file.
        detector: Finds the faces.
        settings: Config of the detector; with the hash of the file it identifies the entry of the
            cache.
        margin: Fraction of the box added on every side.
        size: Height and width of a face in pixels.
    """
    key = [_VERSION, file_hash(path), settings, margin, size]
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    file = cache_root() / "clip_faces" / f"{digest}.npz"
    with (
        contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile),
        np.load(file, allow_pickle=False) as saved,
    ):
        arrays = saved["images"], saved["tracks"], saved["times"]
        return ClipFaces(*arrays, float(saved["seconds"]))
    faces = _cut(path, detector, margin, size)
    with contextlib.suppress(OSError):  # a cache folder that cannot be written
        file.parent.mkdir(parents=True, exist_ok=True)
        with replaced_file(file) as temporary, temporary.open("wb") as archive:
            np.savez(archive, **vars(faces))
    return faces
