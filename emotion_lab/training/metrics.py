"""The metrics of a split, by torchmetrics."""

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


class EpochMetrics(Metric):
    """Loss and scores of an epoch, counted where the batches are.

    torchmetrics' own updates look at the numbers (``unique``, ``bincount``, ``isnan().any()``), and
    an accelerator has to finish its work before it can show them. This one only adds; what
    :func:`scalar_metrics` makes of the counts is asked for once an epoch.

    Args:
        num_classes: K.
    """

    full_state_update = False
    confusion: Tensor
    loss: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        pairs = torch.zeros(num_classes**2, dtype=torch.long)
        self.add_state("confusion", pairs, dist_reduce_fx="sum")
        self.add_state("loss", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Count a batch.

        Args:
            loss: Mean of the batch, scalar.
            logits: (B, K).
            labels: int64 (B,).
        """
        pair = labels * self.num_classes + logits.argmax(1)
        self.confusion = self.confusion.index_add(0, pair, torch.ones_like(pair))
        self.loss = self.loss + loss.float() * len(labels)

    def means(self) -> dict[str, Tensor]:
        """Return mean loss and accuracy of what this process has counted."""
        counts = self.confusion.view(self.num_classes, -1)
        return {"loss": self.loss / counts.sum(), "accuracy": counts.diag().sum() / counts.sum()}

    def compute(self) -> dict[str, Tensor]:
        """Return ``loss``, ``accuracy``, ``macro_f1`` and the rest of :func:`scalar_metrics`."""
        pairs = torch.arange(self.num_classes**2).repeat_interleave(self.confusion.cpu())
        labels, predicted = pairs // self.num_classes, pairs % self.num_classes
        return {
            "loss": self.means()["loss"],
            **scalar_metrics(self.num_classes)(predicted, labels),
        }
