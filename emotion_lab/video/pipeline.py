"""Frame by frame from pixels to faces with emotions."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from emotion_lab.inference.classifier import Classifier
from emotion_lab.inference.face_crop import crop_faces
from emotion_lab.video.scene_cut import SceneCutDetector
from emotion_lab.video.smoothing.base import TrackSmoother
from emotion_lab.video.tracker import FaceTracker
from emotion_lab.video.types import Detector, Face, Frame, FrameResult, Track


class Pipeline:
    """Detects now and then, follows in between, classifies all faces of a frame in one batch.

    Args:
        detector: Finds faces.
        classifier: A checkpoint, ready to run; it brings classes and crop margin.
        smoothing: ``conf/smoothing/<name>.yaml`` as a plain dict.
        tracking: See :class:`FaceTracker`; ``cut``: see :class:`SceneCutDetector` (0.25).
        align: Turn every face so that the eyes are level, where the detector gives landmarks.
        stills: Frames are photos that have nothing to do with each other.
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
        #: What it was made with.
        self.tracking = dict(tracking or {})
        self.tracker = FaceTracker(tracking)
        self.cuts = SceneCutDetector(self.tracking.get("scene_cut_threshold", 0.25))
        self.align, self.stills = align, stills
        self._smoothing = smoothing
        # Told now and not when the first face appears.
        TrackSmoother(smoothing, len(classifier.classes))
        #: Track id -> its smoothing and what it shows; gone when the track is.
        self._memory: dict[int, TrackSmoother] = {}

    @property
    def classes(self) -> list[str]:
        """Class names, in the order of the probabilities."""
        return self.classifier.classes

    def _follow(self, frame: Frame, stages: dict[str, float]) -> list[Track]:
        begin = time.perf_counter()
        # Photos, or another scene: whoever is there now is somebody else.
        if self.stills or self.cuts(frame.image, frame.time_s):
            self.tracker.reset()
        stages["cut"] = (time.perf_counter() - begin) * 1000
        detections = None
        begin = time.perf_counter()
        if self.tracker.needs_detection(frame.time_s):
            detections = self.detector(frame.image)
            stages["detect"] = (time.perf_counter() - begin) * 1000
        begin = time.perf_counter()
        size = (frame.image.shape[1], frame.image.shape[0])
        tracks = self.tracker.update(detections, frame.time_s, size)
        for lost in self._memory.keys() - self.tracker.ids:
            del self._memory[lost]
        stages["track"] = (time.perf_counter() - begin) * 1000
        return tracks

    def _classify(self, image: np.ndarray, tracks: list[Track]) -> np.ndarray:
        boxes = np.stack([track.box for track in tracks])
        landmarks = [track.landmarks for track in tracks]
        crops = crop_faces(image, boxes, self.classifier.crop_margin, landmarks, self.align)
        return self.classifier(crops)

    def _face(self, track: Track, probabilities: np.ndarray, time_s: float) -> Face:
        if track.id not in self._memory:
            self._memory[track.id] = TrackSmoother(self._smoothing, len(self.classes))
        smoothed, label = self._memory[track.id].update(probabilities, time_s)
        x, y, width, height = (float(value) for value in track.box)
        return Face(
            id=track.id,
            box=(x, y, width, height),
            score=track.score,
            probabilities=probabilities,
            smoothed=smoothed,
            label=label,
        )

    def __call__(self, frame: Frame) -> FrameResult:
        """Say what is in a frame; frames must come in the order of their time."""
        stages: dict[str, float] = {}
        tracks = self._follow(frame, stages)
        faces: list[Face] = []
        if tracks:
            begin = time.perf_counter()
            probabilities = self._classify(frame.image, tracks)
            middle = time.perf_counter()
            faces = [
                self._face(track, row, frame.time_s)
                for track, row in zip(tracks, probabilities, strict=True)
            ]
            stages["classify"] = (middle - begin) * 1000
            stages["smooth"] = (time.perf_counter() - middle) * 1000
        return FrameResult(
            source=frame.name,
            frame=frame.index,
            time_s=frame.time_s,
            wall=frame.wall,
            size=(frame.image.shape[1], frame.image.shape[0]),
            faces=faces,
            latency_ms=(time.time() - frame.wall) * 1000,
            stages_ms=stages,
        )
