"""Derived valence, arousal and intensity against the values that people gave (``data=csv``)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torchmetrics.functional import concordance_corrcoef, mean_squared_error

from emotion_lab.evaluation.calibration import probabilities
from emotion_lab.evaluation.result import EvaluationResult
from emotion_lab.inference.derived import DerivedOutputs, VoteShares

#: With fewer values, a correlation says nothing.
MIN_VALUES = 10


def score_quantities(result: EvaluationResult) -> dict[str, Any] | None:
    """Compare the derived outputs of the predicted emotions with annotated values.

    Returns:
        None if the split has none. Otherwise for each quantity with at least :data:`MIN_VALUES`
        values that can be derived: ``n``, ``ccc`` (concordance correlation coefficient, Lin
        1989; 1 is best) and ``rmse``. ``ccc`` is None if all values are equal.
    """
    derive = DerivedOutputs(result.classes, VoteShares.from_card(result.card.get("vote_shares")))
    p = probabilities(result.logits, result.card.get("temperature", 1.0))
    positions = result.predictions.positions.numpy()
    scores: dict[str, Any] = {}
    derived = None
    for name, values in result.part.quantities.items():
        if derived is None:
            derived = [derive(row, int(row.argmax())) for row in p]
        found = np.array([np.nan if row[name] is None else row[name] for row in derived])
        true = values[positions].astype(np.float64)
        has_both = ~np.isnan(found) & ~np.isnan(true)
        if has_both.sum() < MIN_VALUES:
            continue
        pair = torch.from_numpy(found[has_both]), torch.from_numpy(true[has_both])
        ccc = float(concordance_corrcoef(*pair)) if pair[0].std() and pair[1].std() else None
        rmse = float(mean_squared_error(*pair, squared=False))
        scores[name] = {"n": int(has_both.sum()), "ccc": ccc, "rmse": rmse}
    return scores or None
