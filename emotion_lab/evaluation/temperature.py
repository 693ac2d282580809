"""The calibration temperature of a checkpoint: fitted on val, stored in its metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core.errors import UserError
from emotion_lab.evaluation.calibration import fit_temperature, nll
from emotion_lab.evaluation.result import EvaluationResult


def fit_checkpoint_temperature(result: EvaluationResult) -> dict[str, Any]:
    """Fit the temperature on val; refuse other splits.

    Returns:
        ``temperature``; the data it was fitted on (``split``, ``n``, ``hash``); the NLL before
        (``nll``) and after (``nll_calibrated``).
    """
    if result.split != "val":
        raise UserError("the temperature is fitted on val, never on test or train: set split=val.")
    temperature = fit_temperature(result.logits, result.labels)
    return {
        "temperature": temperature,
        "split": result.split,
        "n": len(result.labels),
        "hash": result.scores["fingerprint"]["hash"],
        "nll": nll(result.logits, result.labels),
        "nll_calibrated": nll(result.logits, result.labels, temperature),
    }


def store(checkpoint: Path, calibration: dict[str, Any]) -> None:
    """Write a fitted temperature into a checkpoint file; the weights do not change."""
    content = ckpt.read(checkpoint)
    temperature = calibration["temperature"]
    card = {**content[ckpt.CARD], "temperature": temperature, "calibration": calibration}
    ckpt.write(checkpoint, {**content, ckpt.CARD: card})
