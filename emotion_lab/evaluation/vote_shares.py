"""Fit and check the map from probabilities to the shares of human votes, which gives ``intensity``.

Dirichlet calibration (Kull et al. 2019, arXiv:1910.12656) with the shares of the FER+ votes
(Barsoum et al. 2016, arXiv:1608.01041) as targets. It is fitted on val, as the temperature is: the
network was trained on the images of train, so that its probabilities are too certain there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax
from scipy.stats import bootstrap, spearmanr

from emotion_lab.core.errors import UserError
from emotion_lab.evaluation.calibration import log_probabilities
from emotion_lab.evaluation.result import EvaluationResult
from emotion_lab.evaluation.statistics import ALPHA
from emotion_lab.evaluation.temperature import MIN_IMAGES
from emotion_lab.inference.derived import VoteShares

#: Penalty of the squared distance of the weights from the identity (ODIR in the paper).
PENALTY = 1e-3
FOLDS = 5
ROUNDS = 1000
#: Lower limits of the bins of intensity.
BINS = (0.0, 0.2, 0.4, 0.6, 0.8)


def fit(log_p: np.ndarray, shares: np.ndarray) -> VoteShares:
    """Fit the map; the loss, cross-entropy with the shares, is convex.

    Args:
        log_p: Logarithms of the calibrated probabilities, (N, K).
        shares: Shares of the votes, (N, K), rows sum to 1.
    """
    n, k = shares.shape
    identity = np.eye(k)

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        weight, bias = x[: k * k].reshape(k, k), x[k * k :]
        log_q = log_softmax(log_p @ weight.T + bias, axis=1)
        error, off = (np.exp(log_q) - shares) / n, weight - identity
        value = -(shares * log_q).sum() / n + PENALTY * (off**2).sum()
        return value, np.concatenate([(error.T @ log_p + 2 * PENALTY * off).ravel(), error.sum(0)])

    start = np.concatenate([identity.ravel(), np.zeros(k)])
    x = minimize(loss, start, jac=True, method="L-BFGS-B").x
    return VoteShares(x[: k * k].reshape(k, k), x[k * k :])


def _voted(result: EvaluationResult, temperature: float) -> tuple[np.ndarray, ...] | None:
    """Return calibrated probabilities and vote shares of the images with votes, or None."""
    votes = result.part.votes
    if votes is None:
        return None
    votes = votes[result.predictions.positions.numpy()].astype(np.float64)
    has_votes = votes.sum(1) > 0
    votes = votes[has_votes]
    if len(votes) < MIN_IMAGES:
        return None
    log_p = log_probabilities(result.logits[has_votes], temperature)
    return log_p, votes / votes.sum(1, keepdims=True)


def fit_checkpoint_shares(result: EvaluationResult, temperature: float) -> dict[str, Any] | None:
    """Fit the map on an evaluation of val; None without votes or with too few images.

    Args:
        temperature: Of the checkpoint.

    Returns:
        ``weight``, ``bias``, and the data they were fitted on: ``split``, ``n``, ``hash``.
    """
    if result.split != "val":
        raise UserError("the vote shares are fitted on val, never on test or train: set split=val.")
    if (voted := _voted(result, temperature)) is None:
        return None
    shares = fit(*voted)
    return {
        "weight": shares.weight.tolist(),
        "bias": shares.bias.tolist(),
        "split": "val",
        "n": len(voted[0]),
        "hash": result.scores["fingerprint"]["hash"],
    }


def _cross_fitted(log_p: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return shares (N, K) of each image from a map fitted on the other four folds (seed 0)."""
    fold = np.random.default_rng(0).permutation(len(log_p)) % FOLDS
    predicted = np.zeros_like(shares)
    for k in range(FOLDS):
        held_out = fold == k
        predicted[held_out] = fit(log_p[~held_out], shares[~held_out])(np.exp(log_p[held_out]))
    return predicted


def check_intensity(result: EvaluationResult) -> dict[str, Any] | None:
    """Compare the intensity of the predicted emotion with the share of the votes for it.

    On the images that the map of the checkpoint was fitted on, or if it has none, each image is
    predicted by a map fitted on the other folds.

    Returns:
        None if the split has too few votes. Otherwise ``n``; ``spearman`` (rank correlation of
        Spearman 1904) and its 95 % percentile bootstrap interval ``spearman_ci95`` over images;
        the same of the probability alone, ``spearman_probability``; ``mae`` (mean absolute
        error of the share); ``bins`` with ``from``, ``n``, mean ``intensity`` and mean ``share``;
        ``cross_fitted`` and ``in_checkpoint`` (whether it has a map).
    """
    temperature = result.card.get("temperature", 1.0)
    if (voted := _voted(result, temperature)) is None:
        return None
    log_p, shares = voted
    stored = result.card.get("vote_shares")
    fitted_here = stored is None or stored["hash"] == result.scores["fingerprint"]["hash"]
    mapped = VoteShares.from_card(stored)
    if fitted_here or mapped is None:
        predicted = _cross_fitted(log_p, shares)
    else:
        predicted = mapped(np.exp(log_p))
    rows, label = np.arange(len(log_p)), log_p.argmax(1)
    intensity, share = predicted[rows, label], shares[rows, label]

    def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
        return float(spearmanr(x, y).statistic)

    interval = bootstrap(
        (intensity, share),
        rank_correlation,
        paired=True,
        vectorized=False,
        n_resamples=ROUNDS,
        confidence_level=1 - ALPHA,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    bins = []
    for low, high in zip(BINS, (*BINS[1:], np.inf), strict=True):
        inside = (intensity >= low) & (intensity < high)
        row: dict[str, Any] = {"from": low, "n": int(inside.sum()), "intensity": None}
        row["share"] = None
        if inside.any():
            row |= {"intensity": float(intensity[inside].mean())}
            row |= {"share": float(share[inside].mean())}
        bins.append(row)
    return {
        "n": len(share),
        "spearman": rank_correlation(intensity, share),
        "spearman_ci95": [float(interval.low), float(interval.high)],
        "spearman_probability": rank_correlation(np.exp(log_p[rows, label]), share),
        "mae": float(np.abs(intensity - share).mean()),
        "bins": bins,
        "cross_fitted": fitted_here,
        "in_checkpoint": stored is not None,
    }
