"""Agreement of ``classify.when=auto`` with ``always``: labels, share of classifications, delay."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from emotion_lab.video.types import FrameResult


@dataclass(frozen=True)
class Agreement:
    """Counts over the faces of all frames, of two pipelines on the same frames.

    Attributes:
        faces: Faces in all frames.
        equal: Faces with the same displayed label, or uncertain in both.
        classified: Faces that the second pipeline classified.
    """

    faces: int = 0
    equal: int = 0
    classified: int = 0

    @staticmethod
    def of(reference: Sequence[FrameResult], results: Sequence[FrameResult]) -> Agreement:
        """Compare two pipelines with the same detector and tracker."""
        faces = equal = classified = 0
        for expected, result in zip(reference, results, strict=True):
            labels = {face.id: face.label for face in expected.faces}
            faces += len(result.faces)
            equal += sum(labels[face.id] == face.label for face in result.faces)
            classified += sum(face.classified for face in result.faces)
        return Agreement(faces, equal, classified)

    def __add__(self, other: Agreement) -> Agreement:
        """Return the counts of both clips."""
        return Agreement(
            self.faces + other.faces, self.equal + other.equal, self.classified + other.classified
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the number of faces, and fractions of it; None without a face."""
        faces = self.faces
        return {
            "faces": faces,
            "agreement": round(self.equal / faces, 5) if faces else None,
            "classified": round(self.classified / faces, 4) if faces else None,
        }


def delay_increase_ms(
    reference: Sequence[float | None], delays: Sequence[float | None]
) -> float | None:
    """Return the median increase of the delay over the changes that both follow, milliseconds.

    Args:
        reference: Seconds from each true change to the new label, None if it was not followed.
        delays: The same for the pipeline to compare.
    """
    pairs = zip(reference, delays, strict=True)
    increases = [b - a for a, b in pairs if a is not None and b is not None]
    return round(1000 * statistics.median(increases), 1) if increases else None
