"""Where a face is in a frame in which it is not detected: from other frames and its movement."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

#: Growth on every side per second without a detection, as a fraction of the size.
GROWTH_PER_S = 0.6
#: A path is a face if a detection in it has this score, or if the sum of its scores is the other
#: value; a weaker one is hidden in its own frames only, because it is often false.
SURE_SCORE, SURE_SUM = 0.5, 1.2
#: A face is held for the full time if the sum of its scores is this, else for a part of it.
FULL_SUM = 3.0
#: Detections within this time correct a detection that is too small or beside the face, seconds.
NEAR_S = 0.1
#: A face also moves on with its velocity for this time, measured over it from so many detections.
VELOCITY_S, MIN_DETECTIONS = 0.25, 3
#: Points along a side of a face whose movement is measured, and the part of them that must agree.
_POINTS, _AGREEING = 6, 0.3
#: Error of a point that moves to the next frame and back, in pixels.
_MAX_ERROR = 1.5


def enlarge(box: np.ndarray, margin: float) -> np.ndarray:
    """Enlarge x, y, width, height on every side by a fraction of its size."""
    x, y, w, h = box
    return np.array([x - margin * w, y - margin * h, (1 + 2 * margin) * w, (1 + 2 * margin) * h])


def blurred(box: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Enlarge a box by the movement (2,) to the next frame: a fast face is blurred along it."""
    return np.concatenate([box[:2] - np.abs(step) / 2, box[2:] + np.abs(step)])


def movement(
    before: np.ndarray, after: np.ndarray, box: np.ndarray, guess: np.ndarray
) -> np.ndarray | None:
    """Return the movement of the pixels in ``box`` between two pictures, by optical flow.

    Pyramidal Lucas-Kanade (Bouguet 2001); the median of the points that return to their place.

    Args:
        before, after: uint8 (H, W), grey.
        box: x, y, width, height in ``before``.
        guess: Expected movement (2,) in pixels.

    Returns:
        float (2,) in pixels, or None if too few points agree.
    """
    height, width = before.shape
    reach = 1.5 * box[2:] + np.abs(guess) + 32
    left, top = np.maximum(0, np.floor(box[:2] - reach)).astype(int)
    right, bottom = np.minimum((width, height), np.ceil(box[:2] + box[2:] + reach)).astype(int)
    if right - left < 16 or bottom - top < 16:
        return None
    first, second = (np.ascontiguousarray(i[top:bottom, left:right]) for i in (before, after))
    steps = (np.arange(_POINTS) + 0.5) / _POINTS
    grid = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
    points = (box[:2] - (left, top) + (0.1 + 0.8 * grid) * box[2:]).astype(np.float32)
    inside = ((points >= 0) & (points < (right - left, bottom - top))).all(1)
    points = points[inside]
    if len(points) < _POINTS:
        return None
    options: dict[str, Any] = {"winSize": (15, 15), "flags": cv2.OPTFLOW_USE_INITIAL_FLOW}
    start = points + guess.astype(np.float32)
    moved, ok, _ = cv2.calcOpticalFlowPyrLK(first, second, points, start.copy(), **options)
    back, also, _ = cv2.calcOpticalFlowPyrLK(second, first, moved, points.copy(), **options)
    good = (ok[:, 0] == 1) & (also[:, 0] == 1) & (np.abs(back - points).max(1) < _MAX_ERROR)
    if good.sum() < _AGREEING * len(points):
        return None
    return np.asarray(np.median((moved - points)[good], axis=0), np.float64)


@dataclass
class FacePath:
    """Detections of one face: times in seconds, boxes (4,) x, y, width, height, and scores.

    Attributes:
        best: Highest score.
        strength: Highest sum of the scores that are kept at a time.
    """

    times: deque[float] = field(default_factory=deque)
    boxes: deque[np.ndarray] = field(default_factory=deque)
    scores: deque[float] = field(default_factory=deque)
    best: float = 0.0
    strength: float = 0.0
    _followed: np.ndarray | None = None  # box in the frame decided last
    _step: np.ndarray = field(default_factory=lambda: np.zeros(2))  # its last movement
    _back: dict[float, np.ndarray] = field(default_factory=dict)  # boxes before a detection

    def add(self, time_s: float, box: np.ndarray, score: float) -> None:
        """Append a detection."""
        self.times.append(time_s)
        self.boxes.append(np.asarray(box, np.float64))
        self.scores.append(score)
        self.best = max(self.best, score)
        self.strength = max(self.strength, sum(self.scores))

    def forget(self, before_s: float) -> None:
        """Remove the detections before a time."""
        while self.times and self.times[0] < before_s:
            self.times.popleft()
            self.boxes.popleft()
            self.scores.popleft()

    @property
    def is_sure(self) -> bool:
        """Whether this is a face rather than a single false detection."""
        return self.best >= SURE_SCORE or self.strength >= SURE_SUM

    def _velocity(self, index: int, other: int) -> np.ndarray:
        """Return the movement per second (2,) between two detections."""
        centres = [self.boxes[k][:2] + self.boxes[k][2:] / 2 for k in (index, other)]
        return (centres[1] - centres[0]) / (self.times[other] - self.times[index])

    def _moved(self, time_s: float, ends: Sequence[int]) -> list[np.ndarray]:
        """Return the box nearest to ``time_s``, moved there with its velocity, or nothing.

        Args:
            ends: Indices of the detections on one side of ``time_s``, the nearest first.
        """
        at_s = self.times[ends[0]]
        near = [k for k in ends if abs(self.times[k] - at_s) <= VELOCITY_S]
        if len(near) < MIN_DETECTIONS or abs(time_s - at_s) > VELOCITY_S:
            return []
        box = self.boxes[ends[0]].copy()
        box[:2] += self._velocity(near[0], near[-1]) * (time_s - at_s)
        return [box]

    def _follow(self, box: np.ndarray, pictures: Sequence[np.ndarray], step: np.ndarray) -> None:
        """Move ``box`` from the first of two pictures to the second; keep the last movement."""
        found = movement(pictures[0], pictures[1], box, step)
        self._step = step if found is None else found
        self._followed = np.concatenate([box[:2] + self._step, box[2:]])

    def _follow_back(self, index: int, times: Sequence[float], grey: Sequence[np.ndarray]) -> None:
        """Find the boxes in the frames before a detection, the last of which is its own."""
        box, step = self.boxes[index], np.zeros(2)
        if index + 1 < len(self.times) and self.times[index + 1] - self.times[index] <= NEAR_S:
            frame_s = times[-1] - times[-2]
            step = -self._velocity(index, index + 1) * frame_s
        for k in range(len(times) - 1, 0, -1):
            found = movement(grey[k], grey[k - 1], box, step)
            step = step if found is None else found
            box = np.concatenate([box[:2] + step, box[2:]])
            self._back[times[k - 1]] = box

    def boxes_at(
        self,
        times: Sequence[float],
        grey: Sequence[np.ndarray],
        previous: tuple[float, np.ndarray] | None,
        hold_s: float,
    ) -> list[np.ndarray]:
        """Return where the face is in the first of several frames; call it for every frame.

        Args:
            times: Time of this frame and of those after it that are known, seconds.
            grey: Their pictures, uint8 (H, W).
            previous: Time and picture of the frame before.
            hold_s: Maximum time to a detection.
        """
        time_s, hold_s = times[0], hold_s * min(1.0, self.strength / FULL_SUM)
        before = [k for k, t in enumerate(self.times) if t < time_s]
        after = [k for k, t in enumerate(self.times) if t > time_s]
        is_detected = len(before) + len(after) < len(self.times)
        gaps = [
            time_s - self.times[before[-1]] if before else np.inf,
            self.times[after[0]] - time_s if after else np.inf,
        ]
        straight = []
        if max(gaps) <= (NEAR_S if is_detected else hold_s):
            weight = gaps[0] / sum(gaps)
            first, second = self.boxes[before[-1]], self.boxes[after[0]]
            straight = [(1 - weight) * first + weight * second]
        if is_detected:
            self._followed, self._step = self.boxes[len(before)], np.zeros(2)
            if before and gaps[0] <= NEAR_S and previous is not None:
                velocity = self._velocity(before[-1], len(before))
                self._step = velocity * (time_s - previous[0])
            return [*straight, blurred(self._followed, self._step)] if self.is_sure else []
        if self._followed is not None and previous is not None:
            self._follow(self._followed, (previous[1], grey[0]), self._step)
        if not self.is_sure or min(gaps) > hold_s:
            return []
        if gaps[0] <= gaps[1] and self._followed is not None:
            nearest, side = self._followed, before[::-1]
        else:
            side = after
            if time_s not in self._back:
                end = next(k for k, t in enumerate(times) if t == self.times[after[0]])
                self._back.clear()
                self._follow_back(after[0], times[: end + 1], grey[: end + 1])
            nearest = self._back[time_s]
        boxes = [*straight, *self._moved(time_s, side), blurred(nearest, self._step)]
        return [enlarge(box, GROWTH_PER_S * min(gaps)) for box in boxes]
