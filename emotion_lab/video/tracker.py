"""Faces followed through time: stable ids, calm boxes, and when to look again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from emotion_lab.video.types import Detections, Track

_FORBIDDEN = 1e6  # cost of a pair that must not be matched
_SCALE = 2.0  # a face does not change its side by more than this factor from look to look


@dataclass
class _Face:
    """State of one track: the centre moves at constant velocity, the size stays.

    ``x``, ``y`` (centre), ``width`` and ``height`` in pixels and ``vx``, ``vy`` in pixels a second
    hold for the moment ``time_s``, that of the last detection; everything later is computed from
    there, so that the number of frames in between makes no difference.
    """

    id: int
    x: float
    y: float
    width: float
    height: float
    time_s: float
    score: float
    landmarks: np.ndarray | None  # (5, 2), 0..1 in the box
    vx: float = 0.0
    vy: float = 0.0
    looks: int = 1
    missed_s: float | None = None  # since when it is missed

    def box(self, time_s: float, coast_s: float) -> tuple[float, float, float, float]:
        """Return x, y, width, height at ``time_s``.

        A face that was looked for and missed stands still after ``coast_s``; no face is carried
        further than a second, for instance over a pause.
        """
        until = self.time_s + 1.0 if self.missed_s is None else self.missed_s + coast_s
        ahead = max(0.0, min(time_s, until) - self.time_s)
        x, y = self.x + self.vx * ahead, self.y + self.vy * ahead
        return x - self.width / 2, y - self.height / 2, self.width, self.height

    def correct(self, box: np.ndarray, time_s: float, smooth_s: float, coast_s: float) -> None:
        """Move the state towards a detection.

        The gains are those of the critically damped g-h filter (fading memory, degree 1) with
        the memory ``exp(-dt / smooth_s)``, and those of the growing-memory filter while there
        are few detections (Morrison 1969, Introduction to Sequential Smoothing and Prediction).
        A face at constant velocity is followed without lag.
        """
        dt = max(0.0, time_s - self.time_s)
        left, top, *_ = self.box(time_s, coast_s)
        memory = math.exp(-dt / smooth_s) if smooth_s > 0 else 0.0
        n = self.looks
        g = max(1 - memory**2, 2 * (2 * n + 1) / ((n + 1) * (n + 2)))
        h = max((1 - memory) ** 2, 6 / ((n + 1) * (n + 2)))
        x, y, width, height = (float(v) for v in box)
        off_x = x + width / 2 - (left + self.width / 2)
        off_y = y + height / 2 - (top + self.height / 2)
        self.x = left + self.width / 2 + g * off_x
        self.y = top + self.height / 2 + g * off_y
        if dt > 0:
            self.vx += h * off_x / dt
            self.vy += h * off_y / dt
        share = max(1 - memory, 1 / (n + 1))
        self.width += share * (width - self.width)
        self.height += share * (height - self.height)
        self.time_s, self.looks = max(time_s, self.time_s), n + 1


def _costs(tracks: np.ndarray, found: np.ndarray, reach: float) -> np.ndarray:
    """Return the cost (T, N) of matching boxes (T, 4) with boxes (N, 4).

    1 - IoU plus the distance of the centres in sides of the face: overlap decides where there is
    some, and a small face that jumped by more than itself is still found.
    """
    a, b = tracks[:, None], found[None]
    overlap = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    overlap = (overlap - np.maximum(a[..., :2], b[..., :2])).clip(0).prod(-1)
    areas = a[..., 2:].prod(-1), b[..., 2:].prod(-1)
    iou = overlap / (areas[0] + areas[1] - overlap)
    distance = a[..., :2] + a[..., 2:] / 2 - b[..., :2] - b[..., 2:] / 2
    sides = np.sqrt(areas[0]), np.sqrt(areas[1])
    distance = np.hypot(distance[..., 0], distance[..., 1]) / np.maximum(*sides)
    scale = np.maximum(sides[0] / sides[1], sides[1] / sides[0])
    return np.where((distance <= reach) & (scale <= _SCALE), 1 - iou + distance, _FORBIDDEN)


class FaceTracker:
    """Follows faces from frame to frame; the same input gives the same tracks.

    Args:
        cfg: All optional. ``detect_every``: frames from one detection to the next (3).
            ``detect_every_s``: and no longer than this (0.2). ``max_missed_s``: a face that was
            not found for longer is gone, and comes back as another (1.0). ``coast_s``: for so
            long after the first miss it is shown and moves on (0.35). ``box_time_constant_s``: time
            constant of the boxes, 0 takes detections as they are (0.25). ``max_match_distance``: how far, in
            sides of the face, a detection may lie from where the face was expected (0.8).
    """

    def __init__(self, cfg: dict[str, Any] | None = None) -> None:
        cfg = cfg or {}
        self.detect_every = int(cfg.get("detect_every", 3))
        self.detect_every_s = float(cfg.get("detect_every_s", 0.2))
        self.max_missed_s = float(cfg.get("max_missed_s", 1.0))
        self.coast_s = float(cfg.get("coast_s", 0.35))
        self.smooth_s = float(cfg.get("box_time_constant_s", 0.25))
        self.reach = float(cfg.get("max_match_distance", 0.8))
        self._faces: list[_Face] = []
        self._next_id = 1
        self._looked_s: float | None = None
        self._frames_since = 0

    @property
    def ids(self) -> set[int]:
        """Ids that are followed, shown or not: drop what is kept for any other."""
        return {face.id for face in self._faces}

    def reset(self) -> None:
        """Forget all faces, for instance between two photos; ids go on rising."""
        self._faces, self._looked_s, self._frames_since = [], None, 0

    def needs_detection(self, time_s: float) -> bool:
        """Say whether the detector should look at the frame of ``time_s``.

        It should on the first frame, on every ``detect_every``-th, after ``detect_every_s``
        seconds (frames may have been dropped), and while a face that is shown was missed.
        """
        if self._looked_s is None or self._frames_since + 1 >= self.detect_every:
            return True
        if time_s < self._looked_s or time_s - self._looked_s >= self.detect_every_s:
            return True
        return any(face.missed_s is not None and self._shown(face, time_s) for face in self._faces)

    def _shown(self, face: _Face, time_s: float) -> bool:
        return face.missed_s is None or time_s - face.missed_s <= self.coast_s

    def update(
        self, detections: Detections | None, time_s: float, image_size: tuple[int, int]
    ) -> list[Track]:
        """Advance to the frame of ``time_s``.

        Args:
            detections: What the detector found in this frame; None where it did not look, and
                the faces move on as they did.
            time_s: Time of the frame in seconds, not before the last one's.
            image_size: (width, height) in pixels; a face whose centre left it is gone.

        Returns:
            The faces to show, by id. One that was missed is among them for ``coast_s``.
        """
        matched: set[int] = set()
        if detections is None:
            self._frames_since += 1
        else:
            self._frames_since, self._looked_s = 0, time_s
            matched = self._match(detections, time_s)
        self._faces = [face for face in self._faces if self._stays(face, time_s, image_size)]
        return [
            self._track(face, time_s, face.id in matched)
            for face in self._faces
            if self._shown(face, time_s)
        ]

    def _match(self, detections: Detections, time_s: float) -> set[int]:
        """Give each detection to a face or make a new one; return the ids that were seen."""
        found = np.asarray(detections.boxes, np.float64).reshape(-1, 4)
        valid = np.isfinite(found).all(1) & (found[:, 2:] > 0).all(1)
        news = [int(i) for i in np.flatnonzero(valid)]
        seen: set[int] = set()
        before = self._faces.copy()
        if self._faces and news:
            boxes = np.array([face.box(time_s, self.coast_s) for face in self._faces])
            costs = _costs(boxes, found[news], self.reach)
            pairs = zip(*linear_sum_assignment(costs), strict=True)
            pairs = [(row, column) for row, column in pairs if costs[row, column] < _FORBIDDEN]
            for row, column in pairs:
                face, index = self._faces[row], news[column]
                face.correct(found[index], time_s, self.smooth_s, self.coast_s)
                face.score = float(detections.scores[index])
                face.landmarks = self._relative(detections, index)
                seen.add(face.id)
            taken = {column for _, column in pairs}
            news = [index for column, index in enumerate(news) if column not in taken]
        for index in news:
            x, y, width, height = (float(v) for v in found[index])
            self._faces.append(
                _Face(
                    id=self._next_id,
                    x=x + width / 2,
                    y=y + height / 2,
                    width=width,
                    height=height,
                    time_s=time_s,
                    score=float(detections.scores[index]),
                    landmarks=self._relative(detections, index),
                )
            )
            seen.add(self._next_id)
            self._next_id += 1
        for face in before:
            if face.id in seen:
                face.missed_s = None
            elif face.missed_s is None:
                face.missed_s = time_s
        return seen

    @staticmethod
    def _relative(detections: Detections, index: int) -> np.ndarray | None:
        """Return the landmarks (5, 2) as shares of their box."""
        if detections.landmarks is None:
            return None
        box = np.asarray(detections.boxes[index], np.float64)
        return (np.asarray(detections.landmarks[index], np.float64) - box[:2]) / box[2:]

    def _stays(self, face: _Face, time_s: float, size: tuple[int, int]) -> bool:
        """Say whether ``face`` is still followed."""
        if time_s - face.time_s > self.max_missed_s:
            return False
        if time_s == face.time_s:
            return True
        x, y, width, height = face.box(time_s, self.coast_s)
        return 0 <= x + width / 2 <= size[0] and 0 <= y + height / 2 <= size[1]

    def _track(self, face: _Face, time_s: float, detected: bool) -> Track:
        box = np.array(face.box(time_s, self.coast_s), np.float32)
        points = face.landmarks
        if points is not None:
            points = (points * box[2:] + box[:2]).astype(np.float32)
        return Track(face.id, box, face.score, points, face.time_s, detected)
