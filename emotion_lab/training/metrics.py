"""Classification metrics of a split, computed with torchmetrics."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)


def scalar_metrics(num_classes: int) -> MetricCollection:
    """Return accuracy and macro and weighted precision, recall and F1.

    As in torchmetrics, macro averages ignore classes that neither occur nor are predicted.
    """
    k = num_classes
    metrics: dict[str, Metric | MetricCollection] = {
        "accuracy": MulticlassAccuracy(k, average="micro")
    }
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


class EpochMetrics(Metric):
    """Loss and classification metrics of an epoch, accumulated without device synchronisation.

    The updates of torchmetrics' classification metrics read values (``unique``, ``bincount``,
    ``isnan().any()``), so each would wait for the accelerator. This metric only accumulates a
    confusion matrix; :func:`scalar_metrics` is computed from it once an epoch.
    """

    full_state_update = False
    confusion: Tensor
    loss: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        counts = torch.zeros(num_classes**2, dtype=torch.long)
        self.add_state("confusion", counts, dist_reduce_fx="sum")
        self.add_state("loss", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: its mean loss (scalar), logits (B, K) and labels, int64 (B,)."""
        cells = labels * self.num_classes + logits.argmax(1)
        self.confusion = self.confusion.index_add(0, cells, torch.ones_like(cells))
        self.loss = self.loss + loss.float() * len(labels)

    def means(self) -> dict[str, Tensor]:
        """Return mean loss and accuracy of the batches of this process."""
        counts = self.confusion.view(self.num_classes, -1)
        return {"loss": self.loss / counts.sum(), "accuracy": counts.diag().sum() / counts.sum()}

    def compute(self) -> dict[str, Tensor]:
        """Return ``loss``, ``accuracy``, ``macro_f1`` and the rest of :func:`scalar_metrics`."""
        cells = torch.arange(self.num_classes**2).repeat_interleave(self.confusion.cpu())
        labels, predicted = cells // self.num_classes, cells % self.num_classes
        return {"loss": self.means()["loss"], **scalar_metrics(self.num_classes)(predicted, labels)}
