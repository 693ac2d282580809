"""The metrics of a split, by torchmetrics."""

from __future__ import annotations

from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)


def scalar_metrics(num_classes: int) -> MetricCollection:
    """Return accuracy and macro and weighted precision, recall and F1.

    Macro averages leave out classes that neither occur nor are predicted, as torchmetrics does.
    """
    k = num_classes
    metrics = {"accuracy": MulticlassAccuracy(k, average="micro")}
    for average in ("macro", "weighted"):
        metrics[f"{average}_precision"] = MulticlassPrecision(k, average=average)
        metrics[f"{average}_recall"] = MulticlassRecall(k, average=average)
        metrics[f"{average}_f1"] = MulticlassF1Score(k, average=average)
    return MetricCollection(metrics)


def class_metrics(num_classes: int) -> MetricCollection:
    """Return precision, recall and F1 of each class, and the confusion matrix (rows true)."""
    k = num_classes
    return MetricCollection(
        {
            "precision": MulticlassPrecision(k, average="none"),
            "recall": MulticlassRecall(k, average="none"),
            "f1": MulticlassF1Score(k, average="none"),
            "confusion": MulticlassConfusionMatrix(k),
        }
    )
