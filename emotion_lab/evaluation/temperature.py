"""The calibration temperature of a checkpoint: fitted on val, stored in its metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core.errors import UserError
from emotion_lab.core.wording import counted
from emotion_lab.evaluation.calibration import HIGHEST, LOWEST, fit_temperature, nll
from emotion_lab.evaluation.result import EvaluationResult

#: With fewer val images, a fitted temperature depends more on chance than on the network.
MIN_IMAGES = 200


def fit_calibration(logits: np.ndarray, labels: np.ndarray, val_hash: str) -> dict[str, Any]:
    """Fit the temperature on predictions of val; keep 1 where a fit would not be reliable.

    That is with fewer than :data:`MIN_IMAGES` images, or if the fit reaches the limits of its
    range (a network without errors on val would be given a confidence of 1 for everything).

    Args:
        logits: float (N, K).
        labels: int64 (N,).
        val_hash: Hash of the fingerprint of val.

    Returns:
        ``temperature``; ``not_fitted``, the reason for a temperature of 1, or None; the data
        (``split``, ``n``, ``hash``); the NLL before (``nll``) and after (``nll_calibrated``).
    """
    temperature, reason = 1.0, None
    if len(labels) < MIN_IMAGES:
        reason = f"val has {counted(len(labels), 'image')}, at least {MIN_IMAGES} are needed"
    else:
        fitted = fit_temperature(logits, labels)
        # The NLL is flat near the limits, so the minimum is found to some percent.
        if 1.25 * LOWEST < fitted < HIGHEST / 1.25:
            temperature = fitted
        else:
            reason = f"the best value lies outside of {LOWEST:g} to {HIGHEST:g}"
    return {
        "temperature": temperature,
        "not_fitted": reason,
        "split": "val",
        "n": len(labels),
        "hash": val_hash,
        "nll": nll(logits, labels),
        "nll_calibrated": nll(logits, labels, temperature),
    }


def describe(calibration: dict[str, Any]) -> str:
    """Return a printable line about a fitted temperature."""
    if calibration["not_fitted"]:
        return f"temperature 1, not fitted: {calibration['not_fitted']}"
    return (
        f"temperature {calibration['temperature']:.3f}, fitted on val: NLL "
        f"{calibration['nll']:.4f} -> {calibration['nll_calibrated']:.4f}"
    )


def fit_checkpoint_temperature(result: EvaluationResult) -> dict[str, Any]:
    """Fit the temperature on an evaluation of val; refuse other splits.

    Returns:
        See :func:`fit_calibration`.
    """
    if result.split != "val":
        raise UserError("the temperature is fitted on val, never on test or train: set split=val.")
    return fit_calibration(result.logits, result.labels, result.scores["fingerprint"]["hash"])


def store(
    checkpoint: Path, calibration: dict[str, Any], vote_shares: dict[str, Any] | None = None
) -> None:
    """Write a fitted temperature into a checkpoint file; the weights do not change.

    Args:
        checkpoint: The file.
        calibration: Of :func:`fit_calibration`.
        vote_shares: Of :func:`~emotion_lab.evaluation.vote_shares.fit_checkpoint_shares`. An
            earlier map belongs to an earlier temperature: without a new one it is removed, as is
            the average neutral face.
    """
    content = ckpt.read(checkpoint)
    temperature = calibration["temperature"]
    card = {**content[ckpt.CARD], "temperature": temperature, "calibration": calibration}
    for key in ("vote_shares", "neutral"):
        card.pop(key, None)
    if vote_shares is not None:
        card["vote_shares"] = vote_shares
    ckpt.write(checkpoint, {**content, ckpt.CARD: card})
