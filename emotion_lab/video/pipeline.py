"""The live pipeline: detection, tracking, classification and smoothing of one frame."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np

from emotion_lab.inference.classifier import Classifier
from emotion_lab.inference.face_crop import crop_faces
from emotion_lab.video.detectors.photo import PhotoDetector
from emotion_lab.video.scene_cut import SceneCutDetector
from emotion_lab.video.smoothing import TrackSmoother
from emotion_lab.video.tracker import FaceTracker
from emotion_lab.video.types import Detector, Face, Frame, FrameResult, Track


class Pipeline:
    """Detects faces every few frames, tracks them in between, classifies all faces in one batch.

    Args:
        classifier: Provides the class names and the crop margin.
        smoothing: ``conf/smoothing/<name>.yaml`` as a dict.
        tracking: See :class:`FaceTracker`; ``scene_cut_threshold``: see
            :class:`SceneCutDetector` (default 0.25).
        align: Rotate every face so that the eyes are level, if the detector returns landmarks.
        stills: Frames are unrelated photos: nothing is smoothed.
    """

    def __init__(
        self,
        detector: Detector,
        classifier: Classifier,
        smoothing: dict[str, Any],
        tracking: dict[str, Any] | None = None,
        align: bool = False,
        stills: bool = False,
    ) -> None:
        self.detector, self.classifier = detector, classifier
        self.photo_detector = PhotoDetector(detector)
        self.smoothing, self.tracking = smoothing, dict(tracking or {})
        self.tracker = FaceTracker(tracking)
        self.scene_cut = SceneCutDetector(self.tracking.get("scene_cut_threshold", 0.25))
        self.align, self.stills = align, stills
        # Validates the smoothing config now instead of at the first face.
        TrackSmoother(smoothing, len(classifier.classes))
        self._smoothers: dict[int, TrackSmoother] = {}  # by id of the active tracks
        self._loop = 0  # repetition of the clip
        self._lock = threading.Lock()

    def clone(self, stills: bool) -> Pipeline:
        """Return a pipeline with the same settings and no tracks, for another thread.

        Both share detector and classifier. Neither is thread-safe, so a common lock serializes
        their calls.
        """
        other = Pipeline(
            self.detector, self.classifier, self.smoothing, self.tracking, self.align, stills
        )
        other._lock, other.photo_detector = self._lock, self.photo_detector
        return other

    @property
    def classes(self) -> list[str]:
        """Class names, in the order of the probabilities."""
        return self.classifier.classes

    def _track(self, frame: Frame, stages: dict[str, float]) -> list[Track]:
        begin = time.perf_counter()
        # Each photo, and each repetition of a clip, starts with face 1; a new scene has new faces.
        is_cut = not self.stills and self.scene_cut(frame.image, frame.time_s)
        if self.stills or frame.loop != self._loop:
            self.tracker.reset(restart_ids=True)
            self._smoothers.clear()
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

    def _classify(self, image: np.ndarray, tracks: list[Track]) -> np.ndarray:
        boxes = np.stack([track.box for track in tracks])
        landmarks = [track.landmarks for track in tracks]
        crops = crop_faces(image, boxes, self.classifier.crop_margin, landmarks, self.align)
        with self._lock:
            return self.classifier(crops)

    def _smooth(self, track: Track, probabilities: np.ndarray, time_s: float) -> Face:
        x, y, width, height = (float(value) for value in track.box)
        if self.stills:
            # One image has no history: its label is the most probable class, never uncertain.
            best = int(probabilities.argmax())
            box = (x, y, width, height)
            return Face(track.id, box, track.score, probabilities, probabilities, best)
        if track.id not in self._smoothers:
            self._smoothers[track.id] = TrackSmoother(self.smoothing, len(self.classes))
        smoothed, label = self._smoothers[track.id].update(probabilities, time_s)
        return Face(
            id=track.id,
            box=(x, y, width, height),
            score=track.score,
            probabilities=probabilities,
            smoothed=smoothed,
            label=label,
        )

    def __call__(self, frame: Frame) -> FrameResult:
        """Process one frame; frames must come in order of time."""
        stages: dict[str, float] = {}
        tracks = self._track(frame, stages)
        faces: list[Face] = []
        if tracks:
            begin = time.perf_counter()
            probabilities = self._classify(frame.image, tracks)
            classified = time.perf_counter()
            faces = [
                self._smooth(track, row, frame.time_s)
                for track, row in zip(tracks, probabilities, strict=True)
            ]
            stages["classify"] = (classified - begin) * 1000
            stages["smooth"] = (time.perf_counter() - classified) * 1000
        return FrameResult(
            source=frame.name,
            frame=frame.index,
            time_s=frame.time_s,
            wall=frame.wall,
            size=(frame.image.shape[1], frame.image.shape[0]),
            faces=faces,
            latency_ms=(time.time() - frame.wall) * 1000,
            stages_ms=stages,
            reduced=frame.reduced,
        )
