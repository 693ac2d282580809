"""Accuracy of episodes: looks that share a label, classified as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from emotion_lab.data.types import Looks
from emotion_lab.evaluation.statistics import intervals, wilson


def _parts(labels: np.ndarray, looks: Looks) -> list[np.ndarray]:
    """Return the positions of the looks of each episode."""
    if looks.episodes is not None:
        order = np.argsort(looks.episodes, kind="stable")
        return np.split(order, np.flatnonzero(np.diff(looks.episodes[order])) + 1)
    starts = np.flatnonzero((np.diff(looks.tracks) != 0) | (np.diff(labels) != 0)) + 1
    return np.split(np.arange(len(labels)), starts)


def episode_scores(
    probabilities: np.ndarray, labels: np.ndarray, looks: Looks, groups: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return the accuracy of episodes, by the majority of the looks and by their mean.

    An episode is an annotated one with all faces in it; where none are annotated, it is a run of
    looks of one track with one label.

    Args:
        probabilities: float32 (N, K).
        labels: int64 (N,).
        looks: Tracks of the N images.
        groups: N names of clips or persons.

    Returns:
        ``n``, ``accuracy_majority`` (most frequent prediction; of equal ones the first class) and
        ``accuracy_mean`` (mean of the probabilities), each with an interval, ``..._ci95``: of the
        bootstrap over ``groups`` (their number) if one has several episodes, else Wilson's
        (``groups`` is None).
    """
    parts = _parts(labels, looks)
    predicted, k = probabilities.argmax(1), probabilities.shape[1]
    truth = np.array([labels[part[0]] for part in parts])
    majority = [np.bincount(predicted[part], minlength=k).argmax() for part in parts]
    mean = [probabilities[part].mean(0).argmax() for part in parts]
    owners = None if groups is None else [groups[part[0]] for part in parts]
    if owners is not None and len(set(owners)) == len(owners):
        owners = None
    scores: dict[str, Any] = {"n": len(parts), "groups": None}
    for name, shown in (("majority", majority), ("mean", mean)):
        correct = int((np.array(shown) == truth).sum())
        scores[f"accuracy_{name}"] = correct / len(parts)
        if owners is None:
            scores[f"accuracy_{name}_ci95"] = wilson(correct, len(parts))
        else:
            drawn = intervals(truth, np.array(shown), k, groups=owners)
            scores["groups"] = drawn["groups"]
            scores[f"accuracy_{name}_ci95"] = drawn["accuracy_ci95"]
    return scores
