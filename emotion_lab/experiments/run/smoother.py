"""The smoother of a trained temporal model: its file and its comparison with the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from emotion_lab.config import compose
from emotion_lab.core.tables import show
from emotion_lab.evaluation.result import EvaluationResult
from emotion_lab.experiments.compare.smoother_scores import compare_smoothers, lines
from emotion_lab.inference.frame_outputs import FrameOutputs
from emotion_lab.temporal import smoother_file
from emotion_lab.video.smoothing import untrained


def write_smoother(
    run_dir: Path, result: EvaluationResult, temperature: float
) -> dict[str, Any] | None:
    """Write the file for ``live``, with the comparison on val; print the comparison.

    Args:
        run_dir: The run directory.
        result: Predictions of the best checkpoint on val.
        temperature: Logits are divided by it.

    Returns:
        See :func:`compare_smoothers`; None for a network of images.
    """
    frame = FrameOutputs.of_card(result.card)
    if frame is None:
        return None
    model = result.card["config"]["model"]
    meta = {
        "model": model["name"],
        "step_s": model["step_s"],
        "temperature": temperature,
        "classes": result.classes,
        "frame": frame.entry(),
    }
    state = result.net.backbone.net.state_dict()
    weights = {name: value.cpu().numpy() for name, value in state.items()}
    file = run_dir / smoother_file.FILE
    smoother_file.write(file, meta, weights)
    smoothers = {name: compose.defaults("smoothing", name) for name in (*untrained(), "temporal")}
    smoothers["temporal"]["ckpt"] = str(run_dir)
    over = "groups" if result.card["config"]["data"].get("group") else "clips"
    classify = {"when": "auto"}  # the default of live
    comparison = compare_smoothers(frame(result.part), result.part, smoothers, over, classify)
    smoother_file.write(file, {**meta, "comparison": comparison}, weights)
    show(f"\nsmoothers on {result.split}:", *lines(comparison))
    return comparison


def update_smoother(checkpoint: Path, result: EvaluationResult, temperature: float) -> None:
    """Write the file for ``live`` again after the calibration of a temporal model.

    Args:
        checkpoint: The calibrated checkpoint.
        result: Its predictions on val.
        temperature: The new temperature.
    """
    file = checkpoint.parent.parent / smoother_file.FILE
    if checkpoint.name != "best.ckpt" or not file.is_file():
        print(
            f"note: live keeps its temperature: {checkpoint} is not the best checkpoint of a run "
            f"with {smoother_file.FILE}"
        )
        return
    write_smoother(file.parent, result, temperature)
    print(f"temperature saved in {file}, which live and predict read")
