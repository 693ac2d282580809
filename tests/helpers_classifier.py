"""Base of the classifiers in the tests of the pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from emotion_lab.inference.derived import DerivedOutputs, FaceQuantities
from emotion_lab.inference.neutral import NeutralReference


class ProbabilitiesOnly:
    """A classifier that has learned no quantities; ``__call__`` returns the probabilities."""

    classes: Sequence[str]
    crop_margin = 0.0
    neutral: NeutralReference | None = None

    @property
    def quantities(self) -> FaceQuantities:
        """Values derived from the probabilities."""
        return FaceQuantities(DerivedOutputs(self.classes))

    def predict(self, crops: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return probabilities (N, K) and no quantities (N, 0)."""
        rows = self(crops)  # type: ignore[operator]
        return rows, np.zeros((len(rows), 0), np.float32)
