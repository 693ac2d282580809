"""Face tracking: stable ids, smoothed boxes, and scheduling of the detector."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import lap
import numpy as np

from emotion_lab.video.boxes import intersections
from emotion_lab.video.types import Detections, Track

_FORBIDDEN = 1e3  # cost of a pair that must not be matched; lapjv is inexact at 1e6
_MAX_SCALE = 2.0  # maximum ratio of the sides of a face between two detections


@dataclass
class _Face:
    """State of one track with constant velocity and size.

    ``x``, ``y`` (centre), ``width``, ``height`` (pixels) and ``vx``, ``vy`` (pixels per second) are
    the state at ``time_s``, the last detection. Later boxes are extrapolated from it, so that the
    result does not depend on the frame rate.
    """

    id: int
    x: float
    y: float
    width: float
    height: float
    time_s: float
    score: float
    landmarks: np.ndarray | None  # (5, 2), relative to the box
    vx: float = 0.0
    vy: float = 0.0
    num_detections: int = 1
    missed_s: float | None = None  # time of the first missed detection

    def box(self, time_s: float, coast_s: float) -> tuple[float, float, float, float]:
        """Return x, y, width, height at ``time_s``.

        A missed face stops after ``coast_s``. Extrapolation is limited to one second, for
        instance after a pause.
        """
        end_s = self.time_s + 1.0 if self.missed_s is None else self.missed_s + coast_s
        dt = max(0.0, min(time_s, end_s) - self.time_s)
        x, y = self.x + self.vx * dt, self.y + self.vy * dt
        return x - self.width / 2, y - self.height / 2, self.width, self.height

    def correct(
        self, box: np.ndarray, time_s: float, time_constant_s: float, coast_s: float
    ) -> None:
        """Update the state with a detection.

        Critically damped g-h filter (fading memory, degree 1) with memory
        ``exp(-dt / time_constant_s)``, and gains of the growing-memory filter for the first
        detections (Morrison 1969, Introduction to Sequential Smoothing and Prediction). There is
        no lag at constant velocity.
        """
        dt = max(0.0, time_s - self.time_s)
        left, top, *_ = self.box(time_s, coast_s)
        memory = math.exp(-dt / time_constant_s) if time_constant_s > 0 else 0.0
        n = self.num_detections
        g = max(1 - memory**2, 2 * (2 * n + 1) / ((n + 1) * (n + 2)))
        h = max((1 - memory) ** 2, 6 / ((n + 1) * (n + 2)))
        x, y, width, height = (float(v) for v in box)
        error_x = x + width / 2 - (left + self.width / 2)
        error_y = y + height / 2 - (top + self.height / 2)
        self.x = left + self.width / 2 + g * error_x
        self.y = top + self.height / 2 + g * error_y
        if dt > 0:
            self.vx += h * error_x / dt
            self.vy += h * error_y / dt
        gain = max(1 - memory, 1 / (n + 1))
        self.width += gain * (width - self.width)
        self.height += gain * (height - self.height)
        self.time_s, self.num_detections = max(time_s, self.time_s), n + 1


def _costs(tracks: np.ndarray, detections: np.ndarray, max_distance: float) -> np.ndarray:
    """Return the costs (T, N) of matching boxes (T, 4) with boxes (N, 4).

    The cost is 1 - IoU plus the distance of the centres in face sides. The distance also matches a
    small face that moved so far that the boxes do not overlap.
    """
    a, b = tracks[:, None], detections[None]
    overlap = intersections(tracks, detections)
    areas = a[..., 2:].prod(-1), b[..., 2:].prod(-1)
    iou = overlap / (areas[0] + areas[1] - overlap)
    distance = a[..., :2] + a[..., 2:] / 2 - b[..., :2] - b[..., 2:] / 2
    sides = np.sqrt(areas[0]), np.sqrt(areas[1])
    distance = np.hypot(distance[..., 0], distance[..., 1]) / np.maximum(*sides)
    scale = np.maximum(sides[0] / sides[1], sides[1] / sides[0])
    return np.where(
        (distance <= max_distance) & (scale <= _MAX_SCALE), 1 - iou + distance, _FORBIDDEN
    )


class FaceTracker:
    """Assigns stable ids to detections and smooths their boxes; deterministic.

    Args:
        cfg: All keys are optional, defaults in brackets. ``detect_every``: frames between two
            detections (3). ``detect_every_s``: maximum seconds between two detections (0.2).
            ``max_missed_s``: seconds after which a missed face is removed (1.0). ``coast_s``:
            seconds for which a missed face is still returned and extrapolated (0.35).
            ``box_time_constant_s``: time constant of the box filter, 0 for none (0.25).
            ``max_match_distance``: maximum distance between a detection and the predicted box, in
            face sides (0.8).
    """

    def __init__(self, cfg: dict[str, Any] | None = None) -> None:
        cfg = cfg or {}
        self.detect_every = int(cfg.get("detect_every", 3))
        self.detect_every_s = float(cfg.get("detect_every_s", 0.2))
        self.max_missed_s = float(cfg.get("max_missed_s", 1.0))
        self.coast_s = float(cfg.get("coast_s", 0.35))
        self.box_time_constant_s = float(cfg.get("box_time_constant_s", 0.25))
        self.max_match_distance = float(cfg.get("max_match_distance", 0.8))
        self._faces: list[_Face] = []
        self._next_id = 1
        self._detected_s: float | None = None  # time of the last detection
        self._frames_since = 0

    @property
    def ids(self) -> set[int]:
        """Ids of all tracks, including missed faces that are not returned."""
        return {face.id for face in self._faces}

    def reset(self, restart_ids: bool = False) -> None:
        """Remove all tracks; ids continue to increase, or start at 1 with ``restart_ids``."""
        self._faces, self._detected_s, self._frames_since = [], None, 0
        if restart_ids:
            self._next_id = 1

    def needs_detection(self, time_s: float) -> bool:
        """Return whether the detector should run on the frame at ``time_s``.

        True for the first frame, every ``detect_every``-th frame, after ``detect_every_s`` seconds
        (frames may have been dropped), and while a returned face is missed.
        """
        if self._detected_s is None or self._frames_since + 1 >= self.detect_every:
            return True
        if time_s < self._detected_s or time_s - self._detected_s >= self.detect_every_s:
            return True
        return any(
            face.missed_s is not None and self._is_returned(face, time_s) for face in self._faces
        )

    def _is_returned(self, face: _Face, time_s: float) -> bool:
        return face.missed_s is None or time_s - face.missed_s <= self.coast_s

    def update(
        self, detections: Detections | None, time_s: float, image_size: tuple[int, int]
    ) -> list[Track]:
        """Advance to ``time_s``; return tracks by id, with faces missed for up to ``coast_s``.

        Args:
            detections: Detections in this frame; None if the detector did not run, then the boxes
                are extrapolated.
            time_s: Time of the frame in seconds, non-decreasing.
            image_size: (width, height) in pixels; a face whose centre is outside is removed.
        """
        matched: set[int] = set()
        if detections is None:
            self._frames_since += 1
        else:
            self._frames_since, self._detected_s = 0, time_s
            matched = self._match(detections, time_s)
        self._faces = [face for face in self._faces if self._is_active(face, time_s, image_size)]
        return [
            self._track(face, time_s, face.id in matched)
            for face in self._faces
            if self._is_returned(face, time_s)
        ]

    def _match(self, detections: Detections, time_s: float) -> set[int]:
        """Assign each detection to a face or to a new one; return the ids of those faces."""
        boxes = np.asarray(detections.boxes, np.float64).reshape(-1, 4)
        valid = np.isfinite(boxes).all(1) & (boxes[:, 2:] > 0).all(1)
        unmatched = np.flatnonzero(valid).tolist()
        matched: set[int] = set()
        known_faces = self._faces.copy()
        if self._faces and unmatched:
            predicted = np.array([face.box(time_s, self.coast_s) for face in self._faces])
            costs = _costs(predicted, boxes[unmatched], self.max_match_distance)
            columns = lap.lapjv(costs, extend_cost=True)[1]  # of each row, -1 for none
            rows = np.flatnonzero(columns >= 0)
            columns = columns[rows]
            allowed = costs[rows, columns] < _FORBIDDEN
            candidates = np.array(unmatched)
            for row, index in zip(
                rows[allowed], candidates[columns[allowed]].tolist(), strict=True
            ):
                face = self._faces[row]
                face.correct(boxes[index], time_s, self.box_time_constant_s, self.coast_s)
                face.score = float(detections.scores[index])
                face.landmarks = self._relative_landmarks(detections, index)
                matched.add(face.id)
                unmatched.remove(index)
        for index in unmatched:
            x, y, width, height = (float(v) for v in boxes[index])
            self._faces.append(
                _Face(
                    id=self._next_id,
                    x=x + width / 2,
                    y=y + height / 2,
                    width=width,
                    height=height,
                    time_s=time_s,
                    score=float(detections.scores[index]),
                    landmarks=self._relative_landmarks(detections, index),
                )
            )
            matched.add(self._next_id)
            self._next_id += 1
        for face in known_faces:
            if face.id in matched:
                face.missed_s = None
            elif face.missed_s is None:
                face.missed_s = time_s
        return matched

    @staticmethod
    def _relative_landmarks(detections: Detections, index: int) -> np.ndarray | None:
        """Return the landmarks (5, 2) relative to their box."""
        if detections.landmarks is None:
            return None
        box = np.asarray(detections.boxes[index], np.float64)
        return (np.asarray(detections.landmarks[index], np.float64) - box[:2]) / box[2:]

    def _is_active(self, face: _Face, time_s: float, size: tuple[int, int]) -> bool:
        """Return whether ``face`` was detected recently and its centre is inside the image."""
        if time_s - face.time_s > self.max_missed_s:
            return False
        if time_s == face.time_s:
            return True
        x, y, width, height = face.box(time_s, self.coast_s)
        return 0 <= x + width / 2 <= size[0] and 0 <= y + height / 2 <= size[1]

    def _track(self, face: _Face, time_s: float, detected: bool) -> Track:
        box = np.array(face.box(time_s, self.coast_s), np.float32)
        landmarks = face.landmarks
        if landmarks is not None:
            landmarks = (landmarks * box[2:] + box[:2]).astype(np.float32)
        return Track(face.id, box, face.score, landmarks, face.time_s, detected)
