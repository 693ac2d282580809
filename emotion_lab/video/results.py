"""Results of the Python API: the faces of one image, and the frames of a stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, overload

import numpy as np
from PIL import Image

from emotion_lab.core.errors import UserError
from emotion_lab.video.head_pose import HeadPose
from emotion_lab.video.overlay.overlay import Overlay
from emotion_lab.video.types import Face, FrameResult


@dataclass(frozen=True)
class FaceEmotion:
    """One face and its emotion.

    Attributes:
        label: Name of the class. In a stream it is that of the smoothed probabilities, and None
            while uncertain; in a single image it is the most probable class.
        box: x, y (top left), width, height in pixels of the image; may extend beyond it.
        probabilities: Class name -> probability in this image; they sum to 1.
        smoothed: Class name -> probability smoothed over time; in a single image those of
            ``probabilities``.
        score: Score of the detector, 0..1.
        id: Number of the face, constant over the frames of a stream, from 1; None in a single
            image.
        quantities: ``valence``, ``arousal`` (-1 to 1), their errors ``valence_std`` and
            ``arousal_std``, and ``intensity`` (0 to 1); see
            :class:`~emotion_lab.inference.derived.FaceQuantities`.
        quantity_source: For each of the three ``learned`` (by the network) or ``derived`` (from
            ``smoothed``).
        pose: Yaw, pitch and roll of the head in degrees; None without landmarks.
        turned_away: Whether the label is None because of ``max_turn_deg``.
    """

    label: str | None
    box: tuple[float, float, float, float]
    probabilities: dict[str, float]
    smoothed: dict[str, float]
    score: float
    id: int | None
    quantities: dict[str, float | None]
    quantity_source: dict[str, str]
    pose: HeadPose | None
    turned_away: bool


def _public(face: Face, classes: Sequence[str], stills: bool) -> FaceEmotion:
    probabilities, smoothed = (
        dict(zip(classes, values.tolist(), strict=True))
        for values in (face.probabilities, face.smoothed)
    )
    return FaceEmotion(
        label=None if face.label is None else classes[face.label],
        box=face.box,
        probabilities=probabilities,
        smoothed=smoothed,
        score=float(face.score),
        id=None if stills else face.id,
        quantities=face.quantities,
        quantity_source=face.quantity_source,
        pose=face.pose,
        turned_away=face.turned_away,
    )


class Faces(Sequence[FaceEmotion]):
    """The faces of one image, in the order of detection (in a stream by id).

    Attributes:
        image: uint8 (H, W, 3) RGB.
        classes: Class names, in the order of the probabilities.
    """

    def __init__(
        self, image: np.ndarray, result: FrameResult, classes: Sequence[str], stills: bool
    ) -> None:
        self.image, self.classes = image, list(classes)
        self._result = result
        self._faces = [_public(face, classes, stills) for face in result.faces]

    @overload
    def __getitem__(self, index: int) -> FaceEmotion: ...

    @overload
    def __getitem__(self, index: slice) -> list[FaceEmotion]: ...

    def __getitem__(self, index: int | slice) -> FaceEmotion | list[FaceEmotion]:
        return self._faces[index]

    def __len__(self) -> int:
        return len(self._faces)

    def __iter__(self) -> Iterator[FaceEmotion]:
        return iter(self._faces)

    def __repr__(self) -> str:
        return f"Faces({self._faces!r})"

    def draw(self) -> Image.Image:
        """Return a copy of the image with boxes, labels and probabilities, in RGB."""
        overlay = Overlay({"timeline_s": 0.0}, self.classes)
        return Image.fromarray(overlay.draw(self.image, self._result))

    def to_dict(self) -> list[dict[str, Any]]:
        """Return one dict a face, with the attributes of :class:`FaceEmotion`; JSON types only."""
        return [{**asdict(face), "box": list(face.box)} for face in self._faces]

    def to_pandas(self) -> Any:
        """Return a ``pandas.DataFrame`` with one row a face.

        Columns: id, label, score, x, y, width, height, the probability of each class, valence,
        valence_std, arousal, arousal_std, intensity, the source of each of the three
        (valence_source, ...: learned or derived), and yaw, pitch and roll.

        Raises:
            UserError: If pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError:
            raise UserError("to_pandas() needs pandas: pip install pandas.") from None
        columns = ["id", "label", "score", "x", "y", "width", "height", *self.classes]
        rows = [
            {
                **dict(zip(columns, [face.id, face.label, face.score, *face.box], strict=False)),
                **face.probabilities,
                **face.quantities,
                **{f"{name}_source": source for name, source in face.quantity_source.items()},
                **(asdict(face.pose) if face.pose else dict.fromkeys(("yaw", "pitch", "roll"))),
            }
            for face in self._faces
        ]
        return pd.DataFrame(rows, columns=None if rows else columns)


@dataclass(frozen=True)
class StreamFrame:
    """One frame of :meth:`EmotionRecognizer.stream`.

    Attributes:
        image: uint8 (H, W, 3) RGB.
        index: Number of the frame in the source, from 0; frames that a camera dropped leave gaps.
        time_s: Seconds since the start of the source.
        faces: The faces, with ids and smoothed labels.
    """

    image: np.ndarray
    index: int
    time_s: float
    faces: Faces
