"""The class that finds faces and classifies them, for Python and for the commands."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias, overload

import cv2
import numpy as np
from PIL import Image

from emotion_lab.config import compose
from emotion_lab.core import weights
from emotion_lab.core.errors import UserError, unknown
from emotion_lab.core.extras import missing_package
from emotion_lab.data.images import to_array
from emotion_lab.data.types import SYNTHETIC
from emotion_lab.inference.classifier import Classifier, load_classifier
from emotion_lab.inference.loader import InvalidImageError
from emotion_lab.inference.neutral import NO_REFERENCE, read_person, read_reference
from emotion_lab.video.detectors import build_detector
from emotion_lab.video.enrolment import (
    ENROL_S,
    Enrolment,
    neutral_face,
    note_temporal,
    write_person,
)
from emotion_lab.video.pipeline import Pipeline
from emotion_lab.video.results import Faces, StreamFrame
from emotion_lab.video.smoothing import check_network
from emotion_lab.video.sources.open import open_source, read_photo
from emotion_lab.video.sources.threaded import FrameSource
from emotion_lab.video.types import Detector, Frame

#: A path, uint8 (H, W, 3) RGB, or a PIL image.
ImageLike: TypeAlias = "str | Path | np.ndarray | Image.Image"


def to_rgb(image: ImageLike) -> np.ndarray:
    """Return an image as uint8 (H, W, 3) RGB.

    Raises:
        UserError: If a path is a URL, missing or not an image.
        InvalidImageError: If an array has another shape or dtype; also a UserError.
    """
    if isinstance(image, (str, Path)):
        if "://" in str(image):
            raise UserError(f"{image} is a URL: download the image and give its path.")
        return read_photo(image)
    if isinstance(image, Image.Image):
        image = to_array(image)
        return image if image.shape[2] == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    valid = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3
    if not valid or image.shape[2] != 3 or not image.size:
        got = type(image).__name__
        if isinstance(image, np.ndarray):
            got = f"{image.dtype} {image.shape}"
        raise InvalidImageError(
            f"expected a path, a PIL image or uint8 (H, W, 3) in RGB order, got {got}."
        )
    return image


def _is_single(images: Any) -> bool:
    if isinstance(images, np.ndarray):
        return images.ndim != 4
    return not isinstance(images, (list, tuple))


class EmotionRecognizer:
    """Finds the faces of an image or video and classifies their emotions.

    Build it with :func:`load`. Every array is RGB; OpenCV reads BGR, so convert its images with
    ``cv2.cvtColor(image, cv2.COLOR_BGR2RGB)``: the order cannot be detected. Not thread-safe.

    Args:
        classifier: Of :func:`load_classifier`.
        detector: Of :func:`build_detector`.
        smoothing: ``conf/smoothing/<name>.yaml`` as a dict, for streams.
        tracking: See :class:`FaceTracker`; None: its defaults.
        align: Rotate every face so that the eyes are level, if the detector returns landmarks.
        max_turn_deg: See :class:`Pipeline`.
        classify: See :class:`ClassifySchedule`; None: every face of every frame is classified.

    Attributes:
        classes: Class names, in the order of the probabilities.

    Example:
        >>> model = emotion_lab.load()
        >>> faces = model("photo.jpg")
        >>> faces[0].label, faces[0].probabilities["happy"]
        >>> faces.draw().save("out.png")
    """

    def __init__(
        self,
        classifier: Classifier,
        detector: Detector,
        smoothing: dict[str, Any],
        tracking: dict[str, Any] | None = None,
        align: bool = False,
        max_turn_deg: float | None = None,
        classify: dict[str, Any] | None = None,
    ) -> None:
        self.classifier, self.detector = classifier, detector
        self.classes = classifier.classes
        check_network(smoothing, classifier)
        self._stream = Pipeline(
            detector,
            classifier,
            smoothing,
            tracking,
            align,
            max_turn_deg=max_turn_deg,
            classify=classify,
        )
        if classifier.neutral is not None:
            self._stream.enrolment = Enrolment(classifier.neutral)
        self._stills = self._stream.clone(stills=True)
        self._noted = False

    def pipeline(self, stills: bool, synthetic: bool = False) -> Pipeline:
        """Return a pipeline with no tracks that shares detector and classifier.

        Args:
            stills: Frames are unrelated photos.
            synthetic: Whether the frames show synthetic faces; otherwise a model that was trained
                on synthetic faces is named on standard error, once.
        """
        self._note_training_data(synthetic)
        pipeline = self._stream.clone(stills)
        if self._stream.enrolment is not None and not stills:
            # Not a clone: it saves the neutral face of the next enrolment.
            pipeline.enrolment = self._stream.enrolment
            pipeline.enrolment.reset()
        return pipeline

    def enrol(
        self,
        neutral: ImageLike | None,
        reference: str | Path | None = None,
        save: str | Path | None = None,
    ) -> None:
        """Correct all labels from now on by the neutral face of a person.

        Args:
            neutral: Photo or clip (its first 3 s) of one person with a neutral face, or a file that
                ``save`` wrote; None: nobody is enrolled yet.
            reference: Run directory of ``python -m emotion_lab.neutral`` with this model; None: the
                numbers that the model holds, as the shipped ones do.
            save: File for the neutral face, as numbers; for None nothing is saved.

        Raises:
            UserError: If there is no face or several, a file is of another model, or the model
                holds no average neutral face and there is no ``reference``.
        """
        model = (self.classifier.model_id, self.classes)
        known = self.classifier.neutral
        if reference is not None:
            known = read_reference(Path(reference).expanduser(), *model)
        if known is None:
            raise UserError(NO_REFERENCE)
        if neutral is not None:
            note_temporal(self._stream.smoothing)
        file = None if save is None else Path(save).expanduser()
        person: np.ndarray | None = None
        if isinstance(neutral, (str, Path)) and Path(neutral).suffix == ".json":
            person = read_person(Path(neutral).expanduser(), *model)
        elif neutral is not None:
            name = str(neutral) if isinstance(neutral, (str, Path)) else "<image>"
            person = neutral_face(self._looks(neutral), name)
            if file is not None:
                write_person(file, known, person)
        self._stream.enrolment = Enrolment(known, person, file if neutral is None else None)
        self._stills.enrolment = self._stream.enrolment.clone()

    def _looks(self, neutral: ImageLike) -> Iterator[list[np.ndarray]]:
        """Yield the probabilities of all faces in a photo, or in each frame of a clip's start."""
        if not isinstance(neutral, (str, Path)):
            frames: Iterable[Frame] = [Frame(to_rgb(neutral), 0, 0.0, 0.0)]
        else:
            frames = open_source({"source": str(neutral)})
        pipeline = self._stream.clone(stills=True)
        pipeline.enrolment = None  # an earlier person must not correct the new one
        count, time_s = 0, 0.0
        for frame in frames:
            if frame.time_s > ENROL_S:
                return
            yield [face.probabilities for face in pipeline(frame).faces]
            count, time_s = count + 1, frame.time_s
        if count > 1:
            print(
                f"neutral: {neutral} ends after {time_s:.1f} s of {ENROL_S:g} s: the neutral face "
                f"is the mean of its {count} frames",
                file=sys.stderr,
            )

    def _note_training_data(self, synthetic: bool) -> None:
        if self.classifier.data_name in SYNTHETIC and not (synthetic or self._noted):
            self._noted = True
            print(
                "note: this model was trained on synthetic faces only; its labels of real faces "
                "mean nothing.",
                file=sys.stderr,
            )

    @overload  # a str is also a sequence of str
    def __call__(self, images: ImageLike) -> Faces: ...  # type: ignore[overload-overlap]

    @overload
    def __call__(self, images: Sequence[ImageLike]) -> list[Faces]: ...

    def __call__(self, images: ImageLike | Sequence[ImageLike]) -> Faces | list[Faces]:
        """Find and classify the faces of one image or several.

        Args:
            images: A path, uint8 (H, W, 3) RGB or a PIL image; or a list of these, or uint8
                (N, H, W, 3). A URL is refused. The EXIF orientation of files is applied.

        Returns:
            The faces of one image; for several images a list of these.

        Raises:
            UserError: If a file is missing or unreadable, or an array has another shape or dtype.
        """
        if _is_single(images):
            return self._faces(images)  # type: ignore[arg-type]  # checked by to_rgb
        return [self._faces(image) for image in images]  # type: ignore[union-attr]

    def _faces(self, image: ImageLike) -> Faces:
        self._note_training_data(synthetic=False)
        rgb = to_rgb(image)
        name = str(image) if isinstance(image, (str, Path)) else ""
        result = self._stills(Frame(rgb, index=0, time_s=0.0, wall=0.0, name=name))
        return Faces(rgb, result, self.classes, stills=True)

    def classify(self, crops: ImageLike | Sequence[ImageLike]) -> np.ndarray:
        """Classify faces that are cut out already; no face is detected.

        Args:
            crops: As the images of :meth:`__call__`, of any size.

        Returns:
            Probabilities, float32 (N, K), also for one crop (1, K); columns as :attr:`classes`.

        Raises:
            UserError: As :meth:`__call__`.
        """
        single = _is_single(crops)
        faces = [crops] if single else list(crops)  # type: ignore[arg-type]
        return self.classifier([to_rgb(face) for face in faces])  # type: ignore[arg-type]

    def stream(
        self, source: str | int | Path, *, realtime: bool = False, max_frames: int | None = None
    ) -> Iterator[StreamFrame]:
        """Yield the frames of a camera, video, stream address or image folder.

        Each call starts new tracks. The source is closed at the end, and when the iterator is
        closed or deleted.

        Args:
            source: As ``source=`` of ``live``: the number of a camera, a path, ``rtsp://``,
                ``http://`` or ``synthetic``.
            realtime: Play a file at its own frame rate and drop late frames.
            max_frames: Stop after this number of frames.

        Raises:
            UserError: If the source cannot be opened, or is lost.
        """
        if not isinstance(source, (str, int, Path)):
            raise UserError(
                f"stream() takes one source, not {source!r}: call it once for each, or run "
                "python -m emotion_lab.live 'source=[0,1]' for several at the same time."
            )
        cfg = {"source": str(source), "realtime": realtime, "max_frames": max_frames}
        opened = open_source(cfg)
        pipeline = self.pipeline(opened.stills, bool(opened.truth))
        return self._frames(opened, pipeline)

    def _frames(self, source: FrameSource, pipeline: Pipeline) -> Iterator[StreamFrame]:
        with source:
            for frame in source:
                faces = Faces(frame.image, pipeline(frame), self.classes, source.stills)
                yield StreamFrame(frame.image, frame.index, frame.time_s, faces)


def _group(group: str, name: str) -> dict[str, Any]:
    """Return ``conf/<group>/<name>.yaml`` as a dict."""
    if name not in compose.options(group):
        raise unknown(group, name, compose.options(group))
    return compose.defaults(group, name)


def load(
    name: str | Path | None = None,
    *,
    detector: str = "auto",
    detector_file: str | Path | None = None,
    backend: str = "auto",
    smoothing: str = "ema",
    max_turn_deg: float | None = None,
) -> EmotionRecognizer:
    """Load a model for images, videos and face crops.

    Args:
        name: A shipped model (``fer2013``), a checkpoint, a run directory of
            train, or an exported file; None: ``fer2013``. Only a checkpoint or run directory needs
            PyTorch. A file that is called like a shipped model is ``./fer2013``.
        detector: Name in ``conf/detector/``; ``auto`` is YuNet if its file is present or can be
            downloaded, else Haar.
        detector_file: Model file of the detector; None: its default.
        backend: Name in ``conf/backend/``; ``auto`` measures once which one is the fastest.
        smoothing: Name in ``conf/smoothing/``, for streams.
        max_turn_deg: Largest angle between face and camera, degrees; the label of a face that is
            turned further away is None. None: no limit.

    Raises:
        UserError: If a name is unknown, or a file is missing, damaged or needs a package that is
            not installed.
    """
    name = weights.DEFAULT if name is None else name
    if "://" in str(name):
        raise UserError(f"{name} is a URL: download the file and give its path.")
    detector_cfg = _group("detector", detector)
    if detector_file is not None:
        detector_cfg["file"] = str(Path(detector_file).expanduser())
    smoothing_cfg, backend_cfg = _group("smoothing", smoothing), _group("backend", backend)
    try:
        classifier = load_classifier(name, backend_cfg)
        return EmotionRecognizer(
            classifier, build_detector(detector_cfg), smoothing_cfg, max_turn_deg=max_turn_deg
        )
    except ModuleNotFoundError as error:
        raise missing_package(error) or error from None
