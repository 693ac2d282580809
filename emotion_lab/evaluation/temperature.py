"""The temperature in a checkpoint: fitted on val, kept where live and every report find it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core.errors import UserError
from emotion_lab.evaluation.calibration import fit_temperature, nll
from emotion_lab.evaluation.result import EvaluationResult


def fit_checkpoint_temperature(judged: EvaluationResult) -> dict[str, Any]:
    """Fit the temperature on a split that may be used for choosing.

    Returns:
        ``temperature``, and what it was fitted on: ``split``, ``n``, ``hash``, ``nll`` before and
        after (``nll_calibrated``).

    Raises:
        UserError: If the split is test.
    """
    if judged.split != "val":
        raise UserError("the temperature is fitted on val, never on test or train: set split=val.")
    temperature = fit_temperature(judged.logits, judged.labels)
    return {
        "temperature": temperature,
        "split": judged.split,
        "n": len(judged.labels),
        "hash": judged.scores["fingerprint"]["hash"],
        "nll": nll(judged.logits, judged.labels),
        "nll_calibrated": nll(judged.logits, judged.labels, temperature),
    }


def store(checkpoint: Path, found: dict[str, Any]) -> None:
    """Keep a fitted temperature in the checkpoint; the weights stay as they are.

    Raises:
        UserError: If the checkpoint cannot be read or written.
    """
    content = ckpt.read(checkpoint)
    card = {**content[ckpt.CARD], "temperature": found["temperature"], "calibration": found}
    ckpt.write(checkpoint, {**content, ckpt.CARD: card})
