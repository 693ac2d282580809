"""The live pipeline: detection, tracking, classification and smoothing of one frame."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.inference.classifier import Classifier
from emotion_lab.inference.face_crop import crop_faces
from emotion_lab.inference.neutral import NO_REFERENCE
from emotion_lab.video.batching import BatchingClassifier
from emotion_lab.video.classify_schedule import ClassifySchedule, Look
from emotion_lab.video.detectors.photo import PhotoDetector
from emotion_lab.video.enrolment import Enrolment, note_temporal
from emotion_lab.video.head_pose import HeadPose, head_pose
from emotion_lab.video.recording import FACE_MARGIN
from emotion_lab.video.scene_cut import SceneCutDetector
from emotion_lab.video.smoothing import QuantitySmoother, TrackSmoother
from emotion_lab.video.tracker import FaceTracker
from emotion_lab.video.types import Detector, Face, Frame, FrameResult, Track


@dataclass
class FoundFaces:
    """The faces of one frame, not yet classified.

    Attributes:
        result: Result of the frame without faces.
        tracks: One for each face, sorted by id.
        crops: One for each track, uint8 (h, w, C); they may be views into the image of the frame.
        pictures: Small pictures of the crops, see :meth:`ClassifySchedule.pictures`.
        lost: Ids of the tracks that ended with this frame; they do not come back.
        restarts: Whether ids begin at 1 again, so that earlier tracks are other faces.
    """

    result: FrameResult
    tracks: list[Track]
    crops: list[np.ndarray]
    pictures: list[np.ndarray | None] = field(default_factory=list)
    lost: set[int] = field(default_factory=set)
    restarts: bool = False


@dataclass
class _FaceState:
    """Smoothers and last classification of one track."""

    smoother: TrackSmoother
    quantities: QuantitySmoother
    look: Look | None = None
    pose: HeadPose | None = None
    pose_seen_s: float | None = None


class Pipeline:
    """Detects faces every few frames, tracks them in between, classifies faces in one batch.

    :meth:`find` and :meth:`classify` share no state: they may run in two threads.

    Args:
        classifier: Provides the class names and the crop margin.
        smoothing: ``conf/smoothing/<name>.yaml`` as a dict.
        tracking: See :class:`FaceTracker`; ``scene_cut_threshold``: see
            :class:`SceneCutDetector` (default 0.25).
        align: Rotate every face so that the eyes are level, if the detector returns landmarks.
        stills: Frames are unrelated photos: nothing is smoothed.
        max_turn_deg: Largest angle between face and camera, degrees; a face that is turned further
            away is uncertain. None: no limit.
        classify: See :class:`ClassifySchedule`; None: every face of every frame is classified.
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
        classify: dict[str, Any] | None = None,
    ) -> None:
        self.detector, self.classifier = detector, classifier
        self.photo_detector = PhotoDetector(detector)
        self.smoothing, self.tracking = smoothing, dict(tracking or {})
        self.tracker = FaceTracker(tracking)
        self.scene_cut = SceneCutDetector(self.tracking.get("scene_cut_threshold", 0.25))
        self.align, self.stills, self.max_turn_deg = align, stills, max_turn_deg
        self.classify_cfg, self.schedule = classify, ClassifySchedule(classify)
        # Validates the smoothing config now instead of at the first face.
        TrackSmoother(smoothing, len(classifier.classes))
        self._faces: dict[int, _FaceState] = {}  # by id of the active tracks
        #: Corrects the probabilities of a person by its neutral face, if set.
        self.enrolment: Enrolment | None = None
        self._loop = 0  # repetition of the clip
        self._size: tuple[int, int] | None = None  # of the previous frame
        self._detector_lock = threading.Lock()
        #: Shared by all clones.
        self.batching = BatchingClassifier(classifier)

    def clone(self, stills: bool) -> Pipeline:
        """Return a pipeline with the same settings and no tracks, for another thread.

        Both share detector and classifier. Neither is thread-safe: a common lock serializes the
        calls of the detector, and the faces of all threads that wait are classified in one batch.
        """
        other = Pipeline(
            self.detector,
            self.classifier,
            self.smoothing,
            self.tracking,
            self.align,
            stills,
            self.max_turn_deg,
            self.classify_cfg,
        )
        other.photo_detector = self.photo_detector
        other._detector_lock = self._detector_lock
        other.batching = self.batching
        other.enrolment = None if self.enrolment is None else self.enrolment.clone()
        return other

    def enrol(self) -> None:
        """Measure the neutral faces of all visible persons during the next seconds.

        Raises:
            UserError: If the average neutral face of the model is not known.
        """
        if self.enrolment is None:
            raise UserError(NO_REFERENCE)
        note_temporal(self.smoothing)
        self.enrolment.request()

    @property
    def classes(self) -> list[str]:
        """Class names, in the order of the probabilities."""
        return self.classifier.classes

    def _track(self, frame: Frame, stages: dict[str, float]) -> FoundFaces:
        """Return the tracks of a frame, without crops."""
        found = FoundFaces(self._result(frame, stages), [], [])
        # Each photo, and each repetition of a clip, starts with face 1; a new scene has new faces.
        found.restarts = self.stills or frame.loop != self._loop
        self._loop = frame.loop
        if frame.tracks is not None:
            self._check_recorded_faces()
            found.tracks = frame.tracks
            return found
        begin, known = time.perf_counter(), self.tracker.ids
        is_cut = not self.stills and self.scene_cut(frame.image, frame.time_s)
        # Boxes of a picture of another size are at other places.
        is_cut = is_cut or self._size not in (None, found.result.size)
        self._size = found.result.size
        if found.restarts:
            self.tracker.reset(restart_ids=True)
        elif is_cut:
            self.tracker.reset()
        stages["cut"] = (time.perf_counter() - begin) * 1000
        detections = None
        begin = time.perf_counter()
        if self.tracker.needs_detection(frame.time_s):
            detector = self.photo_detector if self.stills else self.detector
            with self._detector_lock:
                detections = detector(frame.image)
            stages["detect"] = (time.perf_counter() - begin) * 1000
        begin = time.perf_counter()
        found.tracks = self.tracker.update(detections, frame.time_s, found.result.size)
        found.lost = known - self.tracker.ids
        stages["track"] = (time.perf_counter() - begin) * 1000
        return found

    @staticmethod
    def _result(frame: Frame, stages: dict[str, float]) -> FrameResult:
        """Return the result of a frame without faces."""
        return FrameResult(
            source=frame.name,
            frame=frame.index,
            time_s=frame.time_s,
            wall=frame.wall,
            size=(frame.image.shape[1], frame.image.shape[0]),
            stages_ms=stages,
            reduced=frame.reduced,
        )

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

    def find(self, frame: Frame) -> FoundFaces:
        """Detect and track the faces of a frame; frames must come in order of time."""
        stages: dict[str, float] = {}
        found = self._track(frame, stages)
        if found.tracks:
            begin = time.perf_counter()
            boxes = np.stack([track.box for track in found.tracks])
            landmarks = [track.landmarks for track in found.tracks]
            margin = self.classifier.crop_margin
            found.crops = crop_faces(frame.image, boxes, margin, landmarks, self.align)
            found.pictures = self.schedule.pictures(found.crops)
            stages["crop"] = (time.perf_counter() - begin) * 1000
        return found

    def select(self, found: Sequence[FoundFaces]) -> list[list[int]]:
        """Return the indices of the faces that must be classified, for each frame.

        Args:
            found: As for :meth:`classify`.
        """
        selected, restarted = [], False
        for one in found:
            begin = time.perf_counter()
            restarted = restarted or one.restarts  # earlier states are those of other faces
            rows = list(range(len(one.tracks)))
            if not restarted:
                time_s = one.result.time_s
                rows = [k for k in rows if self._is_due(one.tracks[k], one.pictures[k], time_s)]
            if one.tracks:
                one.result.stages_ms["select"] = (time.perf_counter() - begin) * 1000
            selected.append(rows)
        return selected

    def _is_due(self, track: Track, picture: np.ndarray | None, time_s: float) -> bool:
        state = self._faces.get(track.id)
        if state is None or state.look is None:
            return True
        return self.schedule.is_due(state.look, state.smoother, time_s, track.box, picture)

    def classify(self, found: Sequence[FoundFaces]) -> list[FrameResult]:
        """Classify the faces of several frames in one batch, then smooth them frame by frame.

        Args:
            found: Of :meth:`find`, in order of time.
        """
        selected = self.select(found)
        crops = [one.crops[k] for one, rows in zip(found, selected, strict=True) for k in rows]
        begin = time.perf_counter()
        outputs = self.batching(crops) if crops else ((), ())
        classify_ms = (time.perf_counter() - begin) * 1000
        values = iter(zip(*outputs, strict=True))
        results = []
        for one, rows in zip(found, selected, strict=True):
            if rows:
                one.result.stages_ms["classify"] = classify_ms * len(rows) / len(crops)
            results.append(self.finish(one, {k: next(values) for k in rows}))
        return results

    def finish(
        self, found: FoundFaces, outputs: dict[int, tuple[np.ndarray, np.ndarray]]
    ) -> FrameResult:
        """Smooth the faces of a frame and return its result.

        Args:
            outputs: Index of each face of :meth:`select` -> probabilities, float32 (K,), and
                learned quantities, float32 (Q,).
        """
        begin, result = time.perf_counter(), found.result
        if found.restarts:
            self._faces.clear()
            if self.enrolment is not None:
                self.enrolment.reset()
        for lost_id in found.lost:
            self._faces.pop(lost_id, None)
        if self.enrolment is not None:
            self.enrolment.step(result.time_s)
        for k, track in enumerate(found.tracks):
            values = outputs.get(k)
            look = None
            if values is not None:
                look = self.schedule.look(result.time_s, track.box, found.pictures[k], *values)
            result.faces.append(self._face(track, look, result.time_s))
        if found.tracks:
            result.stages_ms["smooth"] = (time.perf_counter() - begin) * 1000
        result.latency_ms = (time.time() - result.wall) * 1000
        return result

    def _face(self, track: Track, look: Look | None, time_s: float) -> Face:
        """Return a face with a new classification, or else with its last one."""
        if track.id not in self._faces:
            self._faces[track.id] = _FaceState(
                TrackSmoother(self.smoothing, len(self.classes)),
                QuantitySmoother(self.smoothing, self.classifier.quantities.learned),
            )
        state = self._faces[track.id]
        state.look = look or state.look
        if state.look is None:
            raise ValueError(f"face {track.id} was never classified")
        probabilities, quantities = state.look.probabilities, state.look.quantities
        if self.enrolment is not None:
            probabilities = self.enrolment.correct(track.id, probabilities)
        smoothed: np.ndarray
        label: int | None
        if self.stills:
            # One image has no history: its label is the most probable class, never uncertain.
            smoothed, label = probabilities, int(probabilities.argmax())
        else:
            # In every frame: between two classifications the face looks the same.
            smoothed, label = state.smoother.update(probabilities, time_s)
            quantities = state.quantities.update(quantities, time_s)
        pose = self._pose(track, state)
        limit = self.max_turn_deg
        turned_away = limit is not None and pose is not None and pose.turn > limit
        label = None if turned_away else label
        x, y, width, height = (float(value) for value in track.box)
        return Face(
            id=track.id,
            box=(x, y, width, height),
            score=track.score,
            probabilities=probabilities,
            smoothed=smoothed,
            label=label,
            quantities=self._quantities(smoothed, label, quantities),
            quantity_source=self.classifier.quantities.source,
            pose=pose,
            turned_away=turned_away,
            landmarks=track.landmarks,
            classified=look is not None,
        )

    def _pose(self, track: Track, state: _FaceState) -> HeadPose | None:
        if track.seen_s != state.pose_seen_s:
            # Until the next detection the landmarks only move with the box.
            state.pose, state.pose_seen_s = head_pose(track.landmarks), track.seen_s
        return state.pose

    def _quantities(
        self, smoothed: np.ndarray, label: int | None, learned: np.ndarray
    ) -> dict[str, float | None]:
        return self.classifier.quantities(smoothed, label, learned)

    def __call__(self, frame: Frame) -> FrameResult:
        """Process one frame; frames must come in order of time."""
        return self.classify([self.find(frame)])[0]
