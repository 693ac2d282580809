"""Files that a run writes: predictions, classification report and figures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from emotion_lab.evaluation.metrics import report_text
from emotion_lab.evaluation.predictions_file import write_predictions
from emotion_lab.evaluation.result import EvaluationResult
from emotion_lab.reports import figures
from emotion_lab.reports.style import write_png

#: Images in the figure of random samples.
_SAMPLES = 32


def random_indices(n: int, limit: int) -> list[int]:
    """Return at most ``limit`` of ``n`` indices in random order, always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(n, generator=generator)[:limit].tolist()


def captions(result: EvaluationResult, indices: Sequence[int], separator: str = "\n") -> list[str]:
    """Return predicted class and confidence of predictions, and the true class if it differs."""
    texts = []
    for i in indices:
        predicted, label = int(result.predicted[i]), int(result.labels[i])
        text = f"{result.classes[predicted]} {result.probabilities[i, predicted]:.0%}"
        if predicted != label:
            text += f"{separator}(is {result.classes[label]})"
        texts.append(text)
    return texts


def write_confusion(scores: dict[str, Any], path: Path, title: str) -> Path:
    """Draw the confusion matrix of ``scores`` with percentages and counts."""
    draw = partial(figures.confusion, scores["confusion"], scores["classes"], cells="both")
    return write_png(partial(draw, title=title), path)


def write_learning_curves(run_dir: Path, title: str) -> Path:
    """Draw ``history.csv`` of a run to ``curves.png``."""
    draw = partial(figures.curves, run_dir / "history.csv", title=title)
    return write_png(draw, run_dir / "curves.png")


def save_results(run_dir: Path, result: EvaluationResult, predictions: str) -> dict[str, Path]:
    """Write the predictions, the classification report, confusion matrix and random samples.

    ``predictions`` is the file name of the predictions.

    Returns:
        The figures, as ``<split>/confusion`` and ``<split>/samples``.
    """
    split, scores = result.split, result.scores
    write_predictions(
        run_dir / predictions,
        result.names,
        result.labels,
        result.predicted,
        result.probabilities,
        result.classes,
        result.groups,
    )
    report = run_dir / f"classification_report_{split}.txt"
    report.write_text(report_text(scores, split), encoding="utf-8")
    title = f"{split}: n = {scores['n']}, accuracy {scores['accuracy']:.2%}"
    confusion = write_confusion(scores, run_dir / f"confusion_{split}.png", title)
    chosen = random_indices(len(result.labels), _SAMPLES)
    images = [result.image(i) for i in chosen]
    correct = (result.predicted == result.labels)[chosen].tolist()
    draw = partial(figures.image_grid, images, captions(result, chosen), correct)
    samples = write_png(draw, run_dir / f"samples_{split}.png")
    return {f"{split}/confusion": confusion, f"{split}/samples": samples}
