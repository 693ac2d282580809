"""Hides faces in everything that is shown or saved; labels and logged boxes are unchanged.

Hiding differs from labelling: one clear frame is enough to recognize a person. Faces are therefore
detected in every frame, at a lower score and a higher resolution, and hidden for a second before
the first and after the last detection as well.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.video.detectors import build_detector
from emotion_lab.video.detectors.auto import resolve
from emotion_lab.video.scene_cut import SceneCutDetector
from emotion_lab.video.tracker import FaceTracker
from emotion_lab.video.types import Box, Detections, Detector, Frame, FrameResult

#: Cells along the longer side of a hidden region: too few to recognize a person.
CELLS = 5
#: Standard deviation of the noise added to each cell, in grey levels. It prevents that the frames
#: of a video, whose cells cover different pixels, are combined into a sharper picture.
NOISE = 10.0
FILL_COLOUR = (96, 96, 96)
#: Added to a detection on every side, as a fraction of its size: hair, ears and chin.
MARGIN = 0.3
#: A face stays hidden for this time before its first and after its last detection, seconds.
HOLD_S = 1.0
#: Further growth on every side per second without a detection, as a fraction of the size.
GROWTH_PER_S = 0.6
#: Delay of the picture of a live source, which allows to hide a face before its first detection.
LIVE_DELAY_S = 0.2
#: Upper limits of detector keys: more faces, and more false ones.
_MAX_VALUES = {"score_threshold": 0.3, "min_neighbors": 2}
#: Detectors whose input has any size, and the longest side in pixels.
_ANY_SIZE, _SIZE = ("yunet", "haar", "mtcnn"), 1920
#: Difference of a scene cut, at which faces are not held; higher than that for labels, because a
#: missed cut only hides too much.
_CUT_THRESHOLD = 0.4
#: Two boxes of this overlap (of the smaller one) in the same frame are the same face.
_SAME_FACE = 0.5
#: The velocity of a face is measured over this time, seconds, from at least so many detections:
#: isolated detections are often false.
_VELOCITY_S, _MIN_DETECTIONS = 0.25, 3
#: A detected face is also hidden where the detections within this time expect it, seconds.
_NEAR_S = 0.1


def build_sensitive_detectors(cfg: dict[str, Any]) -> list[Detector]:
    """Build detectors like that of ``conf/detector/<name>.yaml``, which find more faces.

    The score threshold is lower. One detects at the configured size, which finds large faces, the
    other at the size of the image up to 1920 pixels, which finds small ones. A network with a fixed
    input size detects at that size only.
    """
    if cfg["name"] == "auto":
        cfg = resolve(cfg)
    low = {key: min(cfg[key], limit) for key, limit in _MAX_VALUES.items() if key in cfg}
    detectors = [build_detector({**cfg, **low})]
    if cfg["name"] in _ANY_SIZE:
        detectors.append(build_detector({**cfg, **low, "size": _SIZE, "enlarge": False}))
    return detectors


def enlarge(box: Box, margin: float) -> Box:
    """Enlarge x, y, width, height on every side by a fraction of its size."""
    x, y, w, h = box
    return x - margin * w, y - margin * h, (1 + 2 * margin) * w, (1 + 2 * margin) * h


def add_margin(box: Box, size: tuple[int, int]) -> Box:
    """Enlarge a detected box by ``MARGIN``, twice as much at the border of the image.

    The box of a face that is partly outside of the image is often too small.

    Args:
        size: Width and height of the image.
    """
    x, y, w, h = enlarge(box, MARGIN)
    inside = x >= 0 and y >= 0 and x + w <= size[0] and y + h <= size[1]
    return (x, y, w, h) if inside else enlarge(box, 2 * MARGIN)


def hide_regions(image: np.ndarray, boxes: Iterable[Box], mode: str = "blur") -> np.ndarray:
    """Return a copy in which every box is hidden irreversibly.

    Args:
        image: uint8 (H, W, 3) RGB.
        boxes: x, y, width, height in pixels; may extend beyond the image.
        mode: ``blur`` (averaged to ``CELLS`` cells with noise, then smoothed) or ``fill`` (grey).
    """
    out = image.copy()
    height, width = image.shape[:2]
    rng = np.random.default_rng()
    for x, y, w, h in boxes:
        left, top = max(0, int(np.floor(x))), max(0, int(np.floor(y)))
        right, bottom = min(width, int(np.ceil(x + w))), min(height, int(np.ceil(y + h)))
        if right <= left or bottom <= top:
            continue
        if mode == "fill":
            out[top:bottom, left:right] = FILL_COLOUR
            continue
        region = out[top:bottom, left:right]
        cell = max(1.0, max(region.shape[:2]) / CELLS)
        grid = (max(1, round((right - left) / cell)), max(1, round((bottom - top) / cell)))
        cells = cv2.resize(region, grid, interpolation=cv2.INTER_AREA)
        noisy = cells + rng.normal(0, NOISE, cells.shape)
        cells = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
        cells = cv2.resize(cells, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
        out[top:bottom, left:right] = cells
    return out


def _merge(boxes: Sequence[Box]) -> np.ndarray:
    """Replace boxes of the same face by the rectangle around them; return float32 (N, 4)."""
    merged: list[np.ndarray] = []  # left, top, right, bottom
    for x, y, w, h in sorted(boxes, key=lambda box: -box[2] * box[3]):
        corners = np.array([x, y, x + w, y + h])
        for other in merged:
            shared = np.minimum(corners[2:], other[2:]) - np.maximum(corners[:2], other[:2])
            if shared.min() > 0 and shared.prod() > _SAME_FACE * w * h:
                other[:2] = np.minimum(corners[:2], other[:2])
                other[2:] = np.maximum(corners[2:], other[2:])
                break
        else:
            merged.append(corners)
    array = np.array(merged, np.float32).reshape(-1, 4)
    array[:, 2:] -= array[:, :2]
    return array


@dataclass
class _Path:
    """Detections of one face: times in seconds and boxes (4,): x, y, width, height."""

    times: deque[float] = field(default_factory=deque)
    boxes: deque[np.ndarray] = field(default_factory=deque)

    def _held(self, time_s: float, ends: Sequence[int]) -> Box:
        """Return the box at ``time_s``, before the first or after the last detection.

        It covers the face that stays at the last detection and the face that continues to move.

        Args:
            ends: Indices of the detections nearest to ``time_s``, the nearest first.
        """
        at_s, box = self.times[ends[0]], self.boxes[ends[0]]
        near = [k for k in ends if abs(self.times[k] - at_s) <= _VELOCITY_S]
        elapsed = self.times[near[-1]] - at_s
        moved = box.copy()
        if len(near) >= _MIN_DETECTIONS:
            centres = [self.boxes[k][:2] + self.boxes[k][2:] / 2 for k in (near[0], near[-1])]
            moved[:2] += (centres[1] - centres[0]) / elapsed * (time_s - at_s)
        corner = np.minimum(box[:2], moved[:2])
        size = np.maximum(box[:2] + box[2:], moved[:2] + moved[2:]) - corner
        grown = GROWTH_PER_S * abs(time_s - at_s)
        x, y = corner - grown * box[2:]
        width, height = size + 2 * grown * box[2:]
        return float(x), float(y), float(width), float(height)

    def boxes_at(self, time_s: float, hold_s: float) -> list[Box]:
        """Return where the face can be at ``time_s``, from the detections at other times."""
        before = [k for k, t in enumerate(self.times) if t < time_s][::-1]
        after = [k for k, t in enumerate(self.times) if t > time_s]
        sides = [s for s in (before, after) if s and abs(self.times[s[0]] - time_s) <= hold_s]
        boxes = [self._held(time_s, side) for side in sides]
        if len(sides) == 2:
            start_s, end_s = self.times[before[0]], self.times[after[0]]
            weight = (time_s - start_s) / (end_s - start_s)
            x, y, w, h = (1 - weight) * self.boxes[before[0]] + weight * self.boxes[after[0]]
            grown = GROWTH_PER_S * min(time_s - start_s, end_s - time_s)
            boxes.append(enlarge((float(x), float(y), float(w), float(h)), grown))
        return boxes


class Anonymizer:
    """Selects the regions to hide in each frame of a source and delays the frames for that.

    Args:
        mode: ``blur`` or ``fill``, see :func:`hide_regions`.
        detectors: From :func:`build_sensitive_detectors`.
        hold_s: A face is also hidden for this time before and after its detections.
    """

    def __init__(self, mode: str, detectors: Sequence[Detector], hold_s: float = HOLD_S) -> None:
        self.mode, self.detectors, self.hold_s = mode, list(detectors), hold_s
        self._lock = threading.Lock()  # detectors are not thread-safe
        self._paths: dict[int, _Path] = {}
        self._scene_cut = SceneCutDetector(_CUT_THRESHOLD)
        settings = {"max_missed_s": hold_s, "coast_s": hold_s, "box_time_constant_s": 0.0}
        self._tracker = FaceTracker({**settings, "max_match_distance": 1.5})

    def clone(self) -> Anonymizer:
        """Return one with the same settings and detectors, for another source and thread."""
        other = Anonymizer(self.mode, self.detectors, self.hold_s)
        other._lock = self._lock
        return other

    def hide(self, image: np.ndarray, result: FrameResult) -> np.ndarray:
        """Return a copy of uint8 (H, W, 3) RGB without the faces; needs :meth:`process` before."""
        if result.hidden is None:
            raise ValueError("the regions to hide are missing: call Anonymizer.process first")
        return hide_regions(image, result.hidden, self.mode)

    def process(
        self, results: Iterable[tuple[Frame, FrameResult]], stills: bool, live: bool
    ) -> Iterator[tuple[Frame, FrameResult]]:
        """Set ``hidden`` and ``held`` of every result; keep the order.

        A frame is returned once the detections of the following ``hold_s`` seconds are known, or
        of ``LIVE_DELAY_S`` if the source is live. If the caller stops early, the frames that are
        not decided yet are discarded.

        Args:
            stills: Frames are unrelated photos: no delay, and no detections of other frames.
        """
        delay_s = LIVE_DELAY_S if live else self.hold_s
        waiting: deque[tuple[Frame, FrameResult, np.ndarray]] = deque()
        error: UserError | None = None
        iterator = iter(results)
        while True:
            try:
                frame, result = next(iterator)
            except StopIteration:
                break
            except UserError as lost:  # the frames before are complete
                error = lost
                break
            boxes = self._detect(frame, result)
            if stills:
                self._decide(result, boxes)
                yield frame, result
                continue
            if self._scene_cut(frame.image, result.time_s):
                while waiting:
                    yield self._next(waiting)
                self._paths.clear()
                self._tracker.reset()
            self._add(boxes, result)
            waiting.append((frame, result, boxes))
            while waiting and result.time_s - waiting[0][1].time_s >= delay_s:
                yield self._next(waiting)
        while waiting:
            yield self._next(waiting)
        if error is not None:
            raise error

    def _next(
        self, waiting: deque[tuple[Frame, FrameResult, np.ndarray]]
    ) -> tuple[Frame, FrameResult]:
        frame, result, boxes = waiting.popleft()
        self._decide(result, boxes)
        return frame, result

    def _detect(self, frame: Frame, result: FrameResult) -> np.ndarray:
        """Return the boxes (N, 4) of all faces that a detector finds or the overlay shows."""
        boxes = [face.box for face in result.faces]
        with self._lock:
            for detector in self.detectors:
                found = np.asarray(detector(frame.image).boxes, np.float64).reshape(-1, 4)
                boxes += [(x, y, w, h) for x, y, w, h in found[np.isfinite(found).all(1)].tolist()]
        return _merge(boxes)

    def _add(self, boxes: np.ndarray, result: FrameResult) -> None:
        """Add the detections of a frame to the paths, which end in or after it."""
        detections = Detections(boxes, np.ones(len(boxes), np.float32))
        for track in self._tracker.update(detections, result.time_s, result.size):
            if track.detected:
                path = self._paths.setdefault(track.id, _Path())
                path.times.append(result.time_s)
                path.boxes.append(np.asarray(track.box, np.float64))

    def _decide(self, result: FrameResult, boxes: np.ndarray) -> None:
        """Set the regions to hide in a frame; remove detections that are too old for the next."""
        hidden = [add_margin((x, y, w, h), result.size) for x, y, w, h in boxes.tolist()]
        num_held = 0
        for key, path in list(self._paths.items()):
            while path.times and result.time_s - path.times[0] > self.hold_s + _VELOCITY_S:
                path.times.popleft()
                path.boxes.popleft()
            if not path.times:
                del self._paths[key]
                continue
            is_detected = result.time_s in path.times
            # Also for a detected face, because a detection can be too small or beside the face.
            others = path.boxes_at(result.time_s, _NEAR_S if is_detected else self.hold_s)
            hidden += [add_margin(box, result.size) for box in others]
            num_held += bool(others) and not is_detected
        result.hidden, result.held = hidden, num_held
