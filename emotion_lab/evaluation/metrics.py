"""Scores of a split, computed from its predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from emotion_lab.data.contamination import count_text, warning
from emotion_lab.evaluation.predict import Predictions
from emotion_lab.training.metrics import class_metrics, scalar_metrics


def score(predictions: Predictions, classes: list[str]) -> dict[str, Any]:
    """Return the metrics of a split as Python builtins.

    Returns:
        ``n``, ``loss`` (cross-entropy, natural log), ``accuracy``, macro and weighted precision,
        recall and F1 (0 to 1), ``per_class`` (``support`` is 0 for a class without samples),
        ``classes`` and ``confusion`` (counts, rows true, columns predicted).
    """
    logits, labels = predictions.logits, predictions.labels
    scalars = scalar_metrics(len(classes))(logits, labels)
    detail = class_metrics(len(classes))(logits, labels)
    support = torch.bincount(labels, minlength=len(classes))
    return {
        "n": len(labels),
        "loss": float(F.cross_entropy(logits, labels)),
        **{name: float(value) for name, value in scalars.items()},
        "per_class": {
            name: {
                "precision": float(detail["precision"][i]),
                "recall": float(detail["recall"][i]),
                "f1": float(detail["f1"][i]),
                "support": int(support[i]),
            }
            for i, name in enumerate(classes)
        },
        "classes": list(classes),
        "confusion": detail["confusion"].long().tolist(),
    }


def score_against(predictions: Predictions, labels: np.ndarray) -> dict[str, Any]:
    """Return ``n``, ``accuracy`` and ``macro_f1`` for another set of labels.

    ``labels``, int64 (N,), are ordered by position in the split; images with -1 are left out.
    """
    targets = torch.from_numpy(labels)[predictions.positions]
    has_label = targets >= 0
    logits = predictions.logits[has_label]
    values = scalar_metrics(logits.shape[1])(logits, targets[has_label]) if has_label.any() else {}
    scalars = {name: float(values[name]) for name in ("accuracy", "macro_f1") if name in values}
    return {"n": int(has_label.sum()), **scalars}


def unseen_text(scores: dict[str, Any]) -> str | None:
    """Return how many of the scored images were trained on, with the accuracy on the others.

    None if no image was, or if ``scores`` lack ``trained_on``.
    """
    if "trained_on" not in scores:
        return None
    trained_on = scores["trained_on"]
    text = warning(trained_on, scores["n"])
    if text is None or count_text(trained_on, scores["n"]) is None:
        return text
    others = trained_on["others"]
    if not others["n"]:
        return f"{text}: no image remains without them"
    return f"{text}: accuracy {others['accuracy']:.2%} on the {others['n']:,} others"


def report_text(scores: dict[str, Any], split: str) -> str:
    """Return the classification report as text, one row per class."""
    width = max([len(name) for name in scores["classes"]] + [12]) + 2
    lines = [f"{split}: n = {scores['n']}, accuracy {scores['accuracy']:.4f}"]
    lines += [f"warning: {text}"] if (text := unseen_text(scores)) is not None else []
    lines.append("")
    lines.append(" " * width + f"{'precision':>10}{'recall':>10}{'f1':>10}{'support':>10}")
    for name, row in scores["per_class"].items():
        if row["support"] == 0:
            lines.append(f"{name:<{width}}{'no samples':>30}{0:>10}")
            continue
        values = "".join(f"{row[key]:>10.4f}" for key in ("precision", "recall", "f1"))
        lines.append(f"{name:<{width}}{values}{row['support']:>10}")
    lines.append("")
    for average in ("macro", "weighted"):
        keys = (f"{average}_precision", f"{average}_recall", f"{average}_f1")
        values = "".join(f"{scores[key]:>10.4f}" for key in keys)
        lines.append(f"{average + ' avg':<{width}}{values}{scores['n']:>10}")
    for name, row in scores.get("by_labels", {}).items():
        if row["n"]:
            lines.append(
                f"with the {name} labels: n = {row['n']}, accuracy {row['accuracy']:.4f}, "
                f"macro F1 {row['macro_f1']:.4f}"
            )
    if episodes := scores.get("episodes"):
        ways = []
        for way in ("majority", "mean"):
            low, high = episodes[f"accuracy_{way}_ci95"]
            accuracy = episodes[f"accuracy_{way}"]
            ways.append(f"accuracy {accuracy:.4f} [{low:.4f}, {high:.4f}] by {way}")
        over = f" of {episodes['groups']} groups" if episodes["groups"] else ""
        lines.append(f"{episodes['n']} episodes{over}: {', '.join(ways)}")
    return "\n".join(lines) + "\n"
