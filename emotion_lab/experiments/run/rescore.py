"""Recreate the val predictions that a finished training run has lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from emotion_lab.core import runs
from emotion_lab.core.errors import UserError
from emotion_lab.evaluation.evaluate import evaluate_checkpoint
from emotion_lab.reports.run_files import save_results

#: metrics.json holds float32 scores.
_ROUNDING = 1e-6
#: Relative. Other hardware sums in another order: the loss changes slightly, labels hardly ever.
_LOSS_TOLERANCE = 1e-3


def rescore(run_dir: Path, data_cfg: dict[str, Any], device: str) -> float:
    """Evaluate ``best.ckpt`` on val again and write the prediction files of ``train``.

    Nothing is written unless the images and scores are those of ``metrics.json``.

    Returns:
        The accuracy.
    """
    run = runs.read(run_dir)
    saved = run.metrics["val"]
    threads = (run.config.get("trainer") or {}).get("num_threads")
    if threads:
        # The last digit depends on the number of threads.
        torch.set_num_threads(int(threads))
    result = evaluate_checkpoint(run_dir / "checkpoints" / "best.ckpt", data_cfg, "val", device)
    fingerprint = (saved.get("fingerprint") or {}).get("hash")
    if fingerprint not in (None, result.scores["fingerprint"]["hash"]):
        raise UserError(
            f"val is not the data that {run_dir} was scored on: nothing is written. Set "
            "data.path=<the data it was trained on>."
        )
    for score in ("accuracy", "loss"):
        old, new = float(saved[score]), float(result.scores[score])
        tolerance = _ROUNDING if score == "accuracy" else _LOSS_TOLERANCE * max(1.0, abs(old))
        if abs(old - new) > tolerance:
            raise UserError(
                f"{run_dir}/checkpoints/best.ckpt has val {score} {new:.6f}, metrics.json "
                f"has {old:.6f}: nothing is written. Try the hardware it was trained on; "
                "otherwise train it again, or leave the run out."
            )
    save_results(run_dir, result, "predictions_val.csv")
    return float(result.scores["accuracy"])
