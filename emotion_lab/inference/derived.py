"""Valence, arousal and intensity of a face.

The derived values are computed from the class probabilities and add no information to them. A
network that learned a quantity (``quantities_head.weight``) gives its value itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from emotion_lab.core.labels import COORDINATES, QUANTITY_RANGES, class_key

#: Names of the quantities, in the order of the outputs.
QUANTITIES = tuple(QUANTITY_RANGES)
_SMALLEST = 1e-6  # lower bound of a probability before its logarithm is taken


@dataclass(frozen=True)
class VoteShares:
    """Maps probabilities to the expected shares of the votes of several annotators.

    A linear map of the log-probabilities, followed by a softmax: Dirichlet calibration (Kull et
    al. 2019, arXiv:1910.12656). :mod:`emotion_lab.evaluation.vote_shares` fits it.

    Attributes:
        weight: (K, K).
        bias: (K,).
    """

    weight: np.ndarray
    bias: np.ndarray

    @classmethod
    def from_card(cls, values: dict[str, Any] | None) -> VoteShares | None:
        """Build the map of a checkpoint's or exported file's ``vote_shares``; None if missing."""
        if values is None:
            return None
        return cls(np.asarray(values["weight"]), np.asarray(values["bias"]))

    def __call__(self, probabilities: np.ndarray) -> np.ndarray:
        """Return the shares of the classes, float64 (..., K), for probabilities (..., K)."""
        logits = np.log(np.maximum(probabilities, _SMALLEST)) @ self.weight.T + self.bias
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        return shares / shares.sum(-1, keepdims=True)


class DerivedOutputs:
    """Derives valence, arousal and intensity from the probabilities of one face.

    Args:
        classes: K class names.
        vote_shares: Of the checkpoint; without it there is no intensity.
    """

    def __init__(self, classes: Sequence[str], vote_shares: VoteShares | None = None) -> None:
        self.vote_shares = vote_shares
        keys = [class_key(name) for name in classes]
        known = all(key in COORDINATES for key in keys)
        self._coordinates = np.array([COORDINATES[key] for key in keys]) if known else None

    def __call__(self, probabilities: np.ndarray, label: int | None) -> dict[str, float | None]:
        """Return the derived outputs of a face.

        Args:
            probabilities: (K,), sum 1.
            label: The class that is named, None while uncertain.

        Returns:
            - ``valence`` and ``arousal``, -1 to 1: the expectation of :data:`COORDINATES` over the
              classes, and as their error ``valence_std`` and ``arousal_std``, the standard
              deviation over the classes; None if a class has no coordinates
            - ``intensity``, 0 to 1: the expected share of people who name the emotion ``label``;
              None while uncertain, or without ``vote_shares``
        """
        values: dict[str, float | None] = {}
        mean = std = (None, None)
        if self._coordinates is not None:
            centre = probabilities @ self._coordinates
            variance = probabilities @ (self._coordinates - centre) ** 2
            mean, std = centre.tolist(), np.sqrt(variance).tolist()
        for index, name in enumerate(("valence", "arousal")):
            values[name], values[f"{name}_std"] = mean[index], std[index]
        values["intensity"] = None
        if self.vote_shares is not None and label is not None:
            values["intensity"] = float(self.vote_shares(probabilities)[label])
        return values


class FaceQuantities:
    """Valence, arousal and intensity of one face: learned where the network has them, else derived.

    Args:
        derived: Derives the values.
        learned: Quantities that the network learned.

    Attributes:
        source: Quantity -> ``learned`` or ``derived``.
    """

    def __init__(self, derived: DerivedOutputs, learned: Sequence[str] = ()) -> None:
        self.derived, self.learned = derived, list(learned)
        self.source = {name: "learned" if name in learned else "derived" for name in QUANTITIES}

    def __call__(
        self, probabilities: np.ndarray, label: int | None, learned: np.ndarray
    ) -> dict[str, float | None]:
        """Return the values of a face.

        Args:
            probabilities: (K,), sum 1.
            label: The class that is named, None while uncertain.
            learned: The learned values (Q,).

        Returns:
            The keys of :meth:`DerivedOutputs.__call__`. A learned value has no error: its
            ``..._std`` is None.
        """
        values = self.derived(probabilities, label)
        for name, value in zip(self.learned, learned.tolist(), strict=True):
            values[name] = value
            if f"{name}_std" in values:
                values[f"{name}_std"] = None
        return values
