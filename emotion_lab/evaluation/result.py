"""A checkpoint scored on a split, and what belongs to it: every part of a report starts here."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from emotion_lab.data.transforms import Resize
from emotion_lab.data.types import Split
from emotion_lab.evaluation.predict import Predictions
from emotion_lab.evaluation.test_ledger import setup
from emotion_lab.models.base import EmotionNet
from emotion_lab.models.ensemble import Ensemble


@dataclass
class EvaluationResult:
    """A checkpoint's predictions of a split, and what belongs to them.

    Index ``i`` counts the predictions, not the images of the split: images that could not be read
    have none.

    Attributes:
        net: In eval mode; takes uint8 (B, C, S, S), gives logits (B, K).
        card: The checkpoint's card.
        split: ``train``, ``val`` or ``test``.
        part: The images, labelled in the checkpoint's class order.
        predictions: Logits (N, K), labels and positions in ``part``.
        scores: See :func:`emotion_lab.evaluation.metrics.score`, with ``fingerprint`` and ``tta``.
        fit: The deterministic transform to the network's input.
        device: Where ``net`` is.
        foreign: Whether this is other data than the checkpoint was trained on.
        notes: Lines worth showing: what was left out, mapped or skipped.
        openings: Earlier lines of the test ledger for this split; empty unless ``split`` is test.
        mapping: What became of each class of other data; empty unless ``foreign``.
    """

    net: EmotionNet | Ensemble
    card: dict[str, Any]
    split: str
    part: Split
    predictions: Predictions
    scores: dict[str, Any]
    fit: Resize
    device: str
    foreign: bool = False
    notes: list[str] = field(default_factory=list)
    openings: list[dict[str, Any]] = field(default_factory=list)
    mapping: list[dict[str, Any]] = field(default_factory=list)

    @property
    def setup(self) -> dict[str, Any]:
        """What makes it a configuration of its own, as in the ledger."""
        return setup(self.card, self.scores["tta"])

    @property
    def classes(self) -> list[str]:
        """Class names in label order."""
        return list(self.card["classes"])

    @property
    def labels(self) -> np.ndarray:
        """True classes, int64 (N,)."""
        return self.predictions.labels.numpy()

    @property
    def logits(self) -> np.ndarray:
        """Logits, float32 (N, K)."""
        return self.predictions.logits.numpy()

    @cached_property
    def probabilities(self) -> np.ndarray:
        """Softmax of the logits at temperature 1, float32 (N, K)."""
        return self.predictions.probabilities.numpy()

    @cached_property
    def predicted(self) -> np.ndarray:
        """The class of the largest logit, int64 (N,)."""
        return self.logits.argmax(1)

    def name(self, i: int) -> str:
        """Return the path or ``file:row`` of prediction ``i``."""
        return str(self.part.names[int(self.predictions.positions[i])])

    def image(self, i: int) -> np.ndarray:
        """Return the image of prediction ``i`` as the network saw it, uint8 (S, S, C)."""
        return self.fit(self.raw(i))

    def raw(self, i: int) -> np.ndarray:
        """Return the image of prediction ``i`` as it was read, uint8 (H, W, C)."""
        return self.part.image(int(self.predictions.positions[i]))
