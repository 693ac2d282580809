"""How much each member of an ensemble counts: fitted on val, never on what is then reported."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize

#: Keeps the logarithm finite where every member rules out the true class.
_FLOOR = 1e-12


def fit_weights(probabilities: Sequence[np.ndarray], labels: np.ndarray) -> np.ndarray:
    """Return the shares that minimise the negative log-likelihood of the weighted average.

    The loss is convex in the shares, so there is one minimum and no seed.

    Args:
        probabilities: For each of M members, (N, K), rows summing to 1.
        labels: int64 (N,).

    Returns:
        float64 (M,), none below 0, summing to 1.
    """
    rows = np.arange(len(labels))
    # What each member gives to the true class: all that the loss depends on.
    given = np.stack([np.asarray(p, np.float64)[rows, labels] for p in probabilities], axis=1)
    given = np.maximum(given, _FLOOR)

    def loss(shares: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = np.maximum(given @ shares, _FLOOR)
        return -float(np.log(mixed).mean()), -(given / mixed[:, None]).mean(0)

    members = len(probabilities)
    found = minimize(
        loss,
        np.full(members, 1 / members),
        jac=True,
        method="SLSQP",
        bounds=[(0.0, 1.0)] * members,
        constraints={"type": "eq", "fun": lambda shares: shares.sum() - 1},
        options={"ftol": 1e-10, "maxiter": 500},
    )
    shares = np.clip(found.x, 0, 1)
    return shares / shares.sum()
