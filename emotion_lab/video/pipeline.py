"""The live pipeline: detection, tracking, classification and smoothing of one frame."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.inference.classifier import Classifier
from emotion_lab.inference.face_crop import crop_faces
from emotion_lab.video.detectors.photo import PhotoDetector
from emotion_lab.video.enrolment import Enrolment
from emotion_lab.video.head_pose import head_pose
from emotion_lab.video.recording import FACE_MARGIN
from emotion_lab.video.scene_cut import SceneCutDetector
from emotion_lab.video.smoothing import TrackSmoother
from emotion_lab.video.tracker import FaceTracker
from emotion_lab.video.types import Detector, Face, Frame, FrameResult, Track


@dataclass
class FoundFaces:
    """The faces of one frame, not yet classified.

    Attributes:
        result: Result of the frame without faces.
        tracks: One for each face, sorted by id.
        crops: One for each track, uint8 (h, w, C); they may be views into the image of the frame.
    """

    result: FrameResult
    tracks: list[Track]
    crops: list[np.ndarray]


class Pipeline:
    """Detects faces every few frames, tracks them in between, classifies all faces in one batch.

    Args:
        classifier: Provides the class names and the crop margin.
        smoothing: ``conf/smoothing/<name>.yaml`` as a dict.
        tracking: See :class:`FaceTracker`; ``scene_cut_threshold``: see
            :class:`SceneCutDetector` (default 0.25).
        align: Rotate every face so that the eyes are level, if the detector returns landmarks.
        stills: Frames are unrelated photos: nothing is smoothed.
        max_turn_deg: Largest angle between face and camera, degrees; a face that is turned further
            away is uncertain. None: no limit.
    """

    def __init__(
        self,
        detector: Detector,
        classifier: Classifier,
        smoothing: dict[str, Any],
        tracking: dict[str, Any] | None = None,
        align: bool = False,
        stills: bool = False,
        max_turn_deg: float | None = None,
    ) -> None:
        self.detector, self.classifier = detector, classifier
        self.photo_detector = PhotoDetector(detector)
        self.smoothing, self.tracking = smoothing, dict(tracking or {})
        self.tracker = FaceTracker(tracking)
        self.scene_cut = SceneCutDetector(self.tracking.get("scene_cut_threshold", 0.25))
        self.align, self.stills, self.max_turn_deg = align, stills, max_turn_deg
        # Validates the smoothing config now instead of at the first face.
        TrackSmoother(smoothing, len(classifier.classes))
        self._smoothers: dict[int, TrackSmoother] = {}  # by id of the active tracks
        #: Corrects the probabilities of a person by its neutral face, if set.
        self.enrolment: Enrolment | None = None
        self._loop = 0  # repetition of the clip
        self._lock = threading.Lock()

    def clone(self, stills: bool) -> Pipeline:
        """Return a pipeline with the same settings and no tracks, for another thread.

        Both share detector and classifier. Neither is thread-safe, so a common lock serializes
        their calls.
        """
        other = Pipeline(
            self.detector,
            self.classifier,
            self.smoothing,
            self.tracking,
            self.align,
            stills,
            self.max_turn_deg,
        )
        other._lock, other.photo_detector = self._lock, self.photo_detector
        other.enrolment = None if self.enrolment is None else self.enrolment.clone()
        return other

    def enrol(self) -> None:
        """Measure the neutral faces of all visible persons during the next seconds.

        Raises:
            UserError: If the average neutral face of the model is not known.
        """
        if self.enrolment is None:
            raise UserError(
                "the average neutral face of this model is not known: start with "
                "enrol_reference=<run of python -m emotion_lab.neutral>."
            )
        self.enrolment.request()

    @property
    def classes(self) -> list[str]:
        """Class names, in the order of the probabilities."""
        return self.classifier.classes

    def _track(self, frame: Frame, stages: dict[str, float]) -> list[Track]:
        if frame.tracks is not None:
            self._check_recorded_faces()
            return frame.tracks  # a track that ended does not come back: its smoother may stay
        begin = time.perf_counter()
        # Each photo, and each repetition of a clip, starts with face 1; a new scene has new faces.
        is_cut = not self.stills and self.scene_cut(frame.image, frame.time_s)
        if self.stills or frame.loop != self._loop:
            self.tracker.reset(restart_ids=True)
            self._smoothers.clear()
            if self.enrolment is not None:
                self.enrolment.reset()
            self._loop = frame.loop
        elif is_cut:
            self.tracker.reset()
        stages["cut"] = (time.perf_counter() - begin) * 1000
        detections = None
        begin = time.perf_counter()
        if self.tracker.needs_detection(frame.time_s):
            detector = self.photo_detector if self.stills else self.detector
            with self._lock:
                detections = detector(frame.image)
            stages["detect"] = (time.perf_counter() - begin) * 1000
        begin = time.perf_counter()
        size = (frame.image.shape[1], frame.image.shape[0])
        tracks = self.tracker.update(detections, frame.time_s, size)
        for lost_id in self._smoothers.keys() - self.tracker.ids:
            del self._smoothers[lost_id]
        stages["track"] = (time.perf_counter() - begin) * 1000
        return tracks

    def _check_recorded_faces(self) -> None:
        """Refuse a model that needs more of the frame than a recording of faces keeps."""
        side = 1 + 2 * self.classifier.crop_margin
        if self.align:
            side *= math.sqrt(2)  # the square is rotated
        if side > 1 + 2 * FACE_MARGIN:
            raise UserError(
                f"this model needs {side:.2f} times the size of a face, more than the "
                f"{1 + 2 * FACE_MARGIN:g} of a recording of faces: use record_what=frames"
                f"{' or align=false' if self.align else ''}."
            )

    def _smooth(self, track: Track, probabilities: np.ndarray, time_s: float) -> Face:
        if self.enrolment is not None:
            probabilities = self.enrolment.correct(track.id, probabilities)
        x, y, width, height = (float(value) for value in track.box)
        smoothed: np.ndarray
        label: int | None
        if self.stills:
            # One image has no history: its label is the most probable class, never uncertain.
            smoothed, label = probabilities, int(probabilities.argmax())
        else:
            if track.id not in self._smoothers:
                self._smoothers[track.id] = TrackSmoother(self.smoothing, len(self.classes))
            smoothed, label = self._smoothers[track.id].update(probabilities, time_s)
        pose = head_pose(track.landmarks)
        limit = self.max_turn_deg
        turned_away = limit is not None and pose is not None and pose.turn > limit
        label = None if turned_away else label
        return Face(
            id=track.id,
            box=(x, y, width, height),
            score=track.score,
            probabilities=probabilities,
            smoothed=smoothed,
            label=label,
            derived=self.classifier.derived(smoothed, label),
            pose=pose,
            turned_away=turned_away,
            landmarks=track.landmarks,
        )

    def find(self, frame: Frame) -> FoundFaces:
        """Detect and track the faces of a frame; frames must come in order of time."""
        stages: dict[str, float] = {}
        tracks = self._track(frame, stages)
        crops: list[np.ndarray] = []
        if tracks:
            begin = time.perf_counter()
            boxes = np.stack([track.box for track in tracks])
            landmarks = [track.landmarks for track in tracks]
            margin = self.classifier.crop_margin
            crops = crop_faces(frame.image, boxes, margin, landmarks, self.align)
            stages["classify"] = (time.perf_counter() - begin) * 1000
        size = (frame.image.shape[1], frame.image.shape[0])
        result = FrameResult(
            source=frame.name,
            frame=frame.index,
            time_s=frame.time_s,
            wall=frame.wall,
            size=size,
            stages_ms=stages,
            reduced=frame.reduced,
        )
        return FoundFaces(result, tracks, crops)

    def classify(self, found: Sequence[FoundFaces]) -> list[FrameResult]:
        """Classify the faces of several frames in one batch, then smooth them frame by frame.

        Args:
            found: Of :meth:`find`, in order of time.
        """
        crops = [crop for one in found for crop in one.crops]
        begin = time.perf_counter()
        with self._lock:
            probabilities = self.classifier(crops) if crops else ()
        classify_ms = (time.perf_counter() - begin) * 1000
        rows = iter(probabilities)
        results = []
        for one in found:
            result = one.result
            if self.enrolment is not None:
                self.enrolment.step(result.time_s)
            if one.tracks:
                begin = time.perf_counter()
                result.faces = [
                    self._smooth(track, next(rows), result.time_s) for track in one.tracks
                ]
                result.stages_ms["classify"] += classify_ms * len(one.crops) / len(crops)
                result.stages_ms["smooth"] = (time.perf_counter() - begin) * 1000
            result.latency_ms = (time.time() - result.wall) * 1000
            results.append(result)
        return results

    def __call__(self, frame: Frame) -> FrameResult:
        """Process one frame; frames must come in order of time."""
        return self.classify([self.find(frame)])[0]
