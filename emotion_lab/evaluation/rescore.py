"""Predictions of val that a finished run of ``train`` has lost, brought back into its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from emotion_lab.core import runs
from emotion_lab.core.errors import UserError
from emotion_lab.evaluation.evaluate import evaluate_checkpoint, save_results

#: Scores are kept as float32 in metrics.json.
_ROUNDING = 1e-6


def restore(folder: Path, data: dict[str, Any], device: str) -> float:
    """Score ``best.ckpt`` on val anew and write what ``train`` wrote of it.

    Nothing is trained, no score is changed and test stays closed.

    Args:
        folder: The run folder; its ``config.yaml``, ``metrics.json`` and ``best.ckpt`` are there.
        data: The ``data`` group to read.
        device: ``cpu``, ``cuda`` or ``mps``.

    Returns:
        The accuracy.

    Raises:
        UserError: If the run is not finished, or the images or the scores are not those of then;
            nothing is written.
    """
    run = runs.read(folder)
    then = run.metrics["val"]
    threads = (run.config.get("trainer") or {}).get("num_threads")
    if threads:
        # The last digit depends on it.
        torch.set_num_threads(int(threads))
    judged = evaluate_checkpoint(folder / "checkpoints" / "best.ckpt", data, "val", folder, device)
    known = (then.get("fingerprint") or {}).get("hash")
    if known not in (None, judged.scores["fingerprint"]["hash"]):
        raise UserError(
            f"val is not what {folder} was scored on: nothing is restored. Set data.path=<the data "
            "it was trained on>."
        )
    for score in ("accuracy", "loss"):
        was, now = float(then[score]), float(judged.scores[score])
        # Other hardware sums in another order: the loss moves a little, an answer hardly ever.
        allowed = _ROUNDING if score == "accuracy" else 1e-3 * max(1.0, abs(was))
        if abs(was - now) > allowed:
            raise UserError(
                f"{folder}/checkpoints/best.ckpt gives val {score} {now:.6f} now, metrics.json "
                f"says {was:.6f}: nothing is restored. Try on the hardware it was trained on; else "
                "train it again, or leave it out."
            )
    save_results(folder, judged, "predictions_val.csv")
    return float(judged.scores["accuracy"])
