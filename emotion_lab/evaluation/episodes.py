"""Accuracy of episodes: looks of one face that share a label, classified as a whole."""

from __future__ import annotations

from typing import Any

import numpy as np

from emotion_lab.data.types import Looks
from emotion_lab.evaluation.statistics import wilson


def episode_scores(probabilities: np.ndarray, labels: np.ndarray, looks: Looks) -> dict[str, Any]:
    """Return the accuracy of episodes, by the majority of the looks and by their mean.

    An episode is a run of looks of one track with one label.

    Args:
        probabilities: float32 (N, K).
        labels: int64 (N,).
        looks: Tracks of the N images.

    Returns:
        ``n``, ``accuracy_majority`` (most frequent prediction; of equal ones the first class) and
        ``accuracy_mean`` (mean of the probabilities), each with a Wilson interval, ``..._ci95``.
    """
    starts = np.flatnonzero((np.diff(looks.tracks) != 0) | (np.diff(labels) != 0)) + 1
    parts = np.split(np.arange(len(labels)), starts)
    predicted, k = probabilities.argmax(1), probabilities.shape[1]
    truth = np.array([labels[part[0]] for part in parts])
    majority = [np.bincount(predicted[part], minlength=k).argmax() for part in parts]
    mean = [probabilities[part].mean(0).argmax() for part in parts]
    scores: dict[str, Any] = {"n": len(parts)}
    for name, shown in (("majority", majority), ("mean", mean)):
        correct = int((np.array(shown) == truth).sum())
        scores[f"accuracy_{name}"] = correct / len(parts)
        scores[f"accuracy_{name}_ci95"] = wilson(correct, len(parts))
    return scores
