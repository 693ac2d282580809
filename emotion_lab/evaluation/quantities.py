"""Valence, arousal and intensity, learned and derived, against those of the data."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torchmetrics.functional import concordance_corrcoef, mean_squared_error

from emotion_lab.evaluation.calibration import probabilities
from emotion_lab.evaluation.result import EvaluationResult
from emotion_lab.evaluation.statistics import interval
from emotion_lab.inference.derived import QUANTITIES, DerivedOutputs, VoteShares

#: With fewer values, a correlation says nothing.
MIN_VALUES = 10


def _derived(result: EvaluationResult) -> dict[str, np.ndarray]:
    """Return quantity -> value derived for each image, float64 (N,), NaN without one."""
    derive = DerivedOutputs(result.classes, VoteShares.from_card(result.card.get("vote_shares")))
    p = probabilities(result.logits, result.card.get("temperature", 1.0))
    rows = [derive(row, int(row.argmax())) for row in p]
    return {
        name: np.array([np.nan if row[name] is None else row[name] for row in rows], np.float64)
        for name in QUANTITIES
    }


def _bootstrap(x: torch.Tensor, y: torch.Tensor) -> list[float]:
    """Return the 95 % bootstrap interval over images of the CCC of ``x`` and ``y`` (N,)."""
    rng = np.random.default_rng(0)
    draws = (rng.integers(len(x), size=(len(x), 50)) for _ in range(20))  # 1000 in all
    values = torch.cat([concordance_corrcoef(x[d], y[d]) for d in draws]).numpy()
    low, high = interval(values[np.isfinite(values)])
    return [float(low), float(high)]


def _compare(found: np.ndarray, true: np.ndarray) -> dict[str, Any] | None:
    """Return the scores of the images that have both values; None below MIN_VALUES."""
    has_both = ~np.isnan(found) & ~np.isnan(true)
    if has_both.sum() < MIN_VALUES:
        return None
    pair = torch.from_numpy(found[has_both]), torch.from_numpy(true[has_both])
    varies = bool(pair[0].std() and pair[1].std())
    return {
        "n": int(has_both.sum()),
        "ccc": float(concordance_corrcoef(*pair)) if varies else None,
        "ccc_ci95": _bootstrap(*pair) if varies else None,
        "rmse": float(mean_squared_error(*pair, squared=False)),
    }


def score_quantities(result: EvaluationResult) -> list[dict[str, Any]]:
    """Compare learned and derived quantities with annotated values.

    Returns:
        A row for each quantity and source with at least :data:`MIN_VALUES` values: ``quantity``;
        ``source``, ``learned`` (by the head of the checkpoint) or ``derived`` (from the
        probabilities); ``n``; ``ccc`` (concordance correlation coefficient, Lin 1989; 1 is best;
        None if all values are equal) with its bootstrap interval ``ccc_ci95``; and ``rmse``.
    """
    if not result.part.quantities:
        return []
    learned = {
        name: v.numpy().astype(np.float64) for name, v in result.predictions.quantities.items()
    }
    sources = {"learned": learned, "derived": _derived(result)}
    positions = result.predictions.positions.numpy()
    rows = []
    for name, values in result.part.quantities.items():
        true = values[positions].astype(np.float64)
        for source, found in sources.items():
            if name in found and (scores := _compare(found[name], true)) is not None:
                rows.append({"quantity": name, "source": source, **scores})
    return rows
