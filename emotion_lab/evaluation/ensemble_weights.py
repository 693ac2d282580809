"""Weights of ensemble members, fitted on val."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize

from emotion_lab.data.checkpoint_data import CheckpointData
from emotion_lab.evaluation.evaluate import Predictor, evaluate
from emotion_lab.evaluation.predict import Predictions
from emotion_lab.models.load import LoadedCheckpoint

#: Keeps the logarithm finite if every member gives the true class probability 0.
_FLOOR = 1e-12


def fit_weights(probabilities: Sequence[np.ndarray], labels: np.ndarray) -> np.ndarray:
    """Return the weights that minimise the negative log-likelihood of the weighted average.

    The loss is convex in the weights: there is one minimum, and no seed.

    Args:
        probabilities: For each of M members, (N, K), rows sum to 1.
        labels: int64 (N,).

    Returns:
        float64 (M,), none below 0, summing to 1.
    """
    rows = np.arange(len(labels))
    # The loss depends only on the probabilities of the true classes, (N, M).
    p_true = np.stack([np.asarray(p, np.float64)[rows, labels] for p in probabilities], axis=1)
    p_true = np.maximum(p_true, _FLOOR)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = np.maximum(p_true @ weights, _FLOOR)
        return -float(np.log(mixed).mean()), -(p_true / mixed[:, None]).mean(0)

    members = len(probabilities)
    optimum = minimize(
        loss,
        np.full(members, 1 / members),
        jac=True,
        method="SLSQP",
        bounds=[(0.0, 1.0)] * members,
        constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1},
        options={"ftol": 1e-10, "maxiter": 500},
    )
    weights = np.clip(optimum.x, 0, 1)
    return weights / weights.sum()


def fit_ensemble_weights(
    members: Sequence[LoadedCheckpoint], data_cfg: dict[str, Any], device: str, tta: str
) -> tuple[list[float], Predictions, str]:
    """Fit the weights of ensemble members on val.

    Args:
        members: The checkpoints.
        data_cfg: The ``data`` group of the members' own data.
        device: ``cpu``, ``cuda`` or ``mps``.
        tta: Test-time augmentation.

    Returns:
        The weights, the predictions of the weighted ensemble on val, and the hash of val.
    """
    results, printed = [], list[str]()
    for member in members:
        predictor = Predictor(member.net, member.card, (member.path,), device, tta)
        data = CheckpointData.open(member.card, data_cfg, "val")
        results.append(evaluate(predictor, data, printed=printed))
        printed += results[-1].notes
    classes = results[0].classes
    orders = [[result.classes.index(name) for name in classes] for result in results]
    probabilities = [
        result.probabilities[:, order] for result, order in zip(results, orders, strict=True)
    ]
    weights = [float(weight) for weight in fit_weights(probabilities, results[0].labels)]
    mean = np.einsum("m,mnk->nk", np.array(weights, np.float32), np.stack(probabilities))
    logits = torch.from_numpy(mean).clamp_min(1e-12).log()
    first = results[0].predictions
    predictions = Predictions(logits, first.labels, first.positions)
    return weights, predictions, results[0].scores["fingerprint"]["hash"]
