"""Hides faces in everything that is shown or saved; labels and logged boxes are unchanged.

Hiding differs from labelling: one clear frame is enough to recognize a person. Faces are therefore
detected in every frame, at a lower score and a higher resolution, and hidden for a second before
the first and after the last detection as well.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.video.boxes import intersections
from emotion_lab.video.detectors import build_detector
from emotion_lab.video.detectors.auto import resolve
from emotion_lab.video.face_paths import FacePath, enlarge
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
#: Further delay of a file, in which a face that appears is told from a false detection, seconds.
_EVIDENCE_S = 0.25
#: Delay of the picture of a live source, which allows to hide a face before its first detection.
LIVE_DELAY_S = 0.2
#: Upper limits of detector keys: more faces, and more false ones.
_MAX_VALUES = {"score_threshold": 0.2, "min_neighbors": 2}
#: Detectors whose input has any size, and the score threshold of the search for small faces.
_ANY_SIZE, _FINE_SCORE = ("yunet", "haar", "mtcnn"), 0.15
#: Longest side for that search, in pixels: small pictures are enlarged up to twice, to the first.
_ENLARGED, _LARGEST = 1280, 1920
#: Larger faces in that search, in pixels of its input, need the score; the other search finds them.
_LARGE_FACE, _LARGE_SCORE = 160, 0.5
#: Difference of a scene cut, at which faces are not held; higher than that for labels, because a
#: missed cut only hides too much.
_CUT_THRESHOLD = 0.4
#: Two boxes of this overlap (of the smaller one) in the same frame are the same face.
_SAME_FACE = 0.5


class SmallFaceDetector:
    """Searches for small faces: in the picture at up to twice its size, at a low score.

    Args:
        cfg: Of a detector that is in ``_ANY_SIZE``.
    """

    def __init__(self, cfg: dict[str, Any]) -> None:
        self.name = cfg["name"]
        self.cfg = {**cfg, "score_threshold": min(cfg["score_threshold"], _FINE_SCORE)}
        self._detectors: dict[int, Detector] = {}  # by longest side

    def __call__(self, image: np.ndarray) -> Detections:
        """Detect faces in uint8 (H, W, 3) RGB."""
        longest = max(image.shape[:2])
        size = min(max(longest, min(2 * longest, _ENLARGED)), _LARGEST)
        if size not in self._detectors:
            cfg = {**self.cfg, "size": size, "enlarge": True}
            self._detectors = {size: build_detector(cfg)}
        found = self._detectors[size](image)
        large = found.boxes[:, 2:].max(1, initial=0) * size / longest > _LARGE_FACE
        keep = ~large | (found.scores >= _LARGE_SCORE)
        return Detections(found.boxes[keep], found.scores[keep])


def build_sensitive_detectors(cfg: dict[str, Any]) -> list[Detector]:
    """Build detectors like that of ``conf/detector/<name>.yaml``, which find more faces.

    One has a lower score threshold and the configured size, which finds large faces; the other one
    finds small faces. A network with a fixed input size has the first one only.
    """
    if cfg["name"] == "auto":
        cfg = resolve(cfg)
    low = {**cfg, **{key: min(cfg[key], limit) for key, limit in _MAX_VALUES.items() if key in cfg}}
    detectors: list[Detector] = [build_detector(low)]
    if cfg["name"] in _ANY_SIZE:
        detectors.append(SmallFaceDetector(low))
    return detectors


def add_margin(box: np.ndarray, size: tuple[int, int]) -> Box:
    """Enlarge a detected box by ``MARGIN``, twice as much at the border of the image.

    The box of a face that is partly outside of the image is often too small.

    Args:
        size: Width and height of the image.
    """
    x, y, w, h = box
    inside = x >= 0 and y >= 0 and x + w <= size[0] and y + h <= size[1]
    x, y, w, h = enlarge(box, MARGIN if inside else 2 * MARGIN)
    return float(x), float(y), float(w), float(h)


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


def _merge(boxes: Sequence[Box], scores: Sequence[float]) -> Detections:
    """Replace boxes of the same face by the rectangle around them, with the highest score."""
    merged: list[np.ndarray] = []
    best: list[float] = []
    order = sorted(range(len(boxes)), key=lambda k: -boxes[k][2] * boxes[k][3])
    for k in order:
        x, y, w, h = boxes[k]
        corners = np.array([x, y, x + w, y + h])
        for i, other in enumerate(merged):
            shared = np.minimum(corners[2:], other[2:]) - np.maximum(corners[:2], other[:2])
            if shared.min() > 0 and shared.prod() > _SAME_FACE * w * h:
                other[:2] = np.minimum(corners[:2], other[:2])
                other[2:] = np.maximum(corners[2:], other[2:])
                best[i] = max(best[i], scores[k])
                break
        else:
            merged.append(corners)
            best.append(scores[k])
    array = np.array(merged, np.float32).reshape(-1, 4)
    array[:, 2:] -= array[:, :2]
    return Detections(array, np.array(best, np.float32))


def _is_found(box: np.ndarray, detected: np.ndarray) -> bool:
    """Return whether one of the detected boxes (N, 4) is about the same as ``box``."""
    shared = intersections(detected, box[None])[:, 0]
    areas = detected[:, 2:].prod(1)
    return bool((shared > _SAME_FACE * np.maximum(areas, box[2:].prod())).any())


@dataclass
class _Waiting:
    """A frame that is not decided yet, with its detections and its picture, uint8 (H, W)."""

    frame: Frame
    result: FrameResult
    found: Detections
    grey: np.ndarray


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
        self._paths: dict[int, FacePath] = {}
        self._previous: tuple[float, np.ndarray] | None = None  # time and picture of a frame
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

        A frame is returned once the detections of the following ``hold_s`` + 0.25 s are known, or
        of ``LIVE_DELAY_S`` if the source is live. If the caller stops early, the frames that are
        not decided yet are discarded.

        Args:
            stills: Frames are unrelated photos: no delay, and no detections of other frames.
        """
        delay_s = LIVE_DELAY_S if live else self.hold_s + _EVIDENCE_S
        waiting: deque[_Waiting] = deque()
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
            found = self._detect(frame, result)
            if stills:
                result.hidden = [add_margin(box, result.size) for box in found.boxes]
                yield frame, result
                continue
            if self._is_new_scene(frame, waiting):
                while waiting:
                    yield self._next(waiting)
                self._paths.clear()
                self._previous = None
                self._tracker.reset()
            self._add(found, result)
            grey = cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY)
            waiting.append(_Waiting(frame, result, found, grey))
            while waiting and result.time_s - waiting[0].result.time_s >= delay_s:
                yield self._next(waiting)
        while waiting:
            yield self._next(waiting)
        if error is not None:
            raise error

    def _is_new_scene(self, frame: Frame, waiting: deque[_Waiting]) -> bool:
        """Return whether earlier detections say nothing about a frame: a cut, or another size."""
        is_cut = self._scene_cut(frame.image, frame.time_s)
        last = self._previous and self._previous[1]
        last = waiting[-1].grey if waiting else last
        return is_cut or (last is not None and last.shape != frame.image.shape[:2])

    def _next(self, waiting: deque[_Waiting]) -> tuple[Frame, FrameResult]:
        self._decide(waiting)
        now = waiting.popleft()
        return now.frame, now.result

    def _detect(self, frame: Frame, result: FrameResult) -> Detections:
        """Return all faces that a detector finds or the overlay shows."""
        boxes, scores = [face.box for face in result.faces], [1.0] * len(result.faces)
        with self._lock:
            for detector in self.detectors:
                found = detector(frame.image)
                array = np.asarray(found.boxes, np.float64).reshape(-1, 4)
                valid = np.isfinite(array).all(1)
                boxes += [(x, y, w, h) for x, y, w, h in array[valid].tolist()]
                scores += np.asarray(found.scores)[valid].tolist()
        return _merge(boxes, scores)

    def _add(self, detections: Detections, result: FrameResult) -> None:
        """Add the detections of a frame to the paths, which end in or after it."""
        for track in self._tracker.update(detections, result.time_s, result.size):
            if track.detected:
                path = self._paths.setdefault(track.id, FacePath())
                path.add(result.time_s, track.box, track.score)

    def _decide(self, waiting: deque[_Waiting]) -> None:
        """Set the regions to hide in the first frame; remove detections of no further use."""
        now, held = waiting[0], 0
        times = [w.result.time_s for w in waiting]
        grey = [w.grey for w in waiting]
        boxes = list(np.asarray(now.found.boxes, np.float64))
        for key, path in list(self._paths.items()):
            path.forget(times[0] - self.hold_s)
            if not path.times:
                del self._paths[key]
                continue
            others = path.boxes_at(times, grey, self._previous, self.hold_s)
            if times[0] not in path.times:
                # The same face can have another path by now.
                others = [box for box in others if not _is_found(box, now.found.boxes)]
                held += bool(others)
            boxes += others
        now.result.hidden = [add_margin(box, now.result.size) for box in boxes]
        now.result.held = held
        self._previous = times[0], now.grey
