"""The result of evaluating a checkpoint on one split; all reports start from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from emotion_lab.data.transforms import Resize
from emotion_lab.data.types import Split
from emotion_lab.evaluation.predict import Predictions
from emotion_lab.evaluation.test_ledger import setup
from emotion_lab.models.network import Network


@dataclass
class EvaluationResult:
    """Predictions and scores of a checkpoint on one split.

    Index ``i`` counts predictions.

    Attributes:
        net: In eval mode; maps uint8 (B, C, S, S) to logits (B, K).
        card: Metadata of the checkpoint.
        split: ``train``, ``val`` or ``test``.
        part: The images, labelled in the class order of the checkpoint.
        predictions: Logits (N, K), labels and positions in ``part``.
        scores: See :func:`emotion_lab.evaluation.metrics.score`, with ``fingerprint`` and ``tta``.
        resize: The deterministic transform to the input of the network.
        device: Device of ``net``.
        foreign: Whether the data differs from the data of the training run.
        notes: Lines to show: images left out, classes mapped, warnings.
        openings: Earlier test ledger entries of these images; empty unless ``split`` is test.
        mapping: How each class of foreign data maps to the checkpoint; empty unless ``foreign``.
        seen: Which of the N images the checkpoint learnt from, exactly or nearly, bool (N,); None
            if not computed.
    """

    net: Network
    card: dict[str, Any]
    split: str
    part: Split
    predictions: Predictions
    scores: dict[str, Any]
    resize: Resize
    device: str
    foreign: bool = False
    notes: list[str] = field(default_factory=list)
    openings: list[dict[str, Any]] = field(default_factory=list)
    mapping: list[dict[str, Any]] = field(default_factory=list)
    seen: np.ndarray | None = None

    @property
    def setup(self) -> dict[str, Any]:
        """Identity of the evaluated configuration, see :func:`test_ledger.setup`."""
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
        """Predicted classes (largest logit), int64 (N,)."""
        return self.logits.argmax(1)

    @property
    def names(self) -> list[str]:
        """Paths, or ``file:row``, of all predictions."""
        return [self.name(i) for i in range(len(self.labels))]

    @property
    def groups(self) -> list[str] | None:
        """Groups of all predictions (``data.group``), or None."""
        groups = self.part.groups
        return None if groups is None else [groups[i] for i in self.predictions.positions.tolist()]

    def name(self, i: int) -> str:
        """Return the path, or ``file:row``, of prediction ``i``."""
        return str(self.part.names[int(self.predictions.positions[i])])

    def image(self, i: int) -> np.ndarray:
        """Return the image of prediction ``i`` resized to the network input, uint8 (S, S, C)."""
        return self.resize(self.raw(i))

    def raw(self, i: int) -> np.ndarray:
        """Return the original image of prediction ``i``, uint8 (H, W, C)."""
        return self.part.image(int(self.predictions.positions[i]))
