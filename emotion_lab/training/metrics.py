"""Classification metrics of a split, computed with torchmetrics."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)
from torchmetrics.utilities import dim_zero_cat


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


class TrainMetrics(Metric):
    """Metrics of the training batches of an epoch, accumulated without device synchronisation.

    The updates of torchmetrics' classification metrics read values (``unique``, ``bincount``,
    ``isnan().any()``), so each would wait for the accelerator. This metric only accumulates a
    confusion matrix; :func:`scalar_metrics` is computed from it once an epoch.
    """

    full_state_update = False
    confusion: Tensor
    loss: Tensor
    criterion: Tensor
    weight: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        counts = torch.zeros(num_classes**2, dtype=torch.long)
        self.add_state("confusion", counts, dist_reduce_fx="sum")
        for name in ("loss", "criterion", "weight"):
            self.add_state(name, torch.tensor(0.0), dist_reduce_fx="sum")

    def update(
        self,
        logits: Tensor,
        labels: Tensor,
        target: Tensor,
        criterion: Tensor,
        weight: Tensor | float,
    ) -> None:
        """Add a batch.

        Args:
            logits: (B, K).
            labels: int64 (B,), for the accuracy.
            target: What the network learns: ``labels``, or probabilities (B, K).
            criterion: The optimised value, scalar.
            weight: The weight of ``criterion`` in the mean over batches.
        """
        cells = labels * self.num_classes + logits.argmax(1)
        self.confusion = self.confusion.index_add(0, cells, torch.ones_like(cells))
        self.loss = self.loss + F.cross_entropy(logits.float(), target) * len(labels)
        self.criterion = self.criterion + criterion.float() * weight
        self.weight = self.weight + weight

    def means(self) -> dict[str, Tensor]:
        """Return mean loss, criterion and accuracy of the batches of this process."""
        counts = self.confusion.view(self.num_classes, -1)
        return {
            "loss": self.loss / counts.sum(),
            "criterion": self.criterion / self.weight,
            "accuracy": counts.diag().sum() / counts.sum(),
        }

    def compute(self) -> dict[str, Tensor]:
        """Return ``loss``, ``criterion`` and the metrics of :func:`scalar_metrics`."""
        cells = torch.arange(self.num_classes**2).repeat_interleave(self.confusion.cpu())
        labels, predicted = cells // self.num_classes, cells % self.num_classes
        means = self.means()
        return {
            "loss": means["loss"],
            "criterion": means["criterion"],
            **scalar_metrics(self.num_classes)(predicted, labels),
        }


class ValMetrics(Metric):
    """Metrics of val, computed from the logits of all its images at once.

    They are kept on the device until the end of the epoch. So no value depends on the batch size,
    the order of the images or the number of processes, whatever the loss averages over.
    """

    full_state_update = False
    logits: list[Tensor]
    labels: list[Tensor]

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        for name in ("logits", "labels"):
            self.add_state(name, [], dist_reduce_fx="cat")
        #: Labels, predicted classes and cross-entropies (N,) of the last epoch, on the CPU.
        self.images: tuple[Tensor, Tensor, Tensor] | None = None

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: its logits (B, K) and labels, int64 (B,)."""
        self.logits.append(logits.float())
        self.labels.append(labels)

    def compute(  # type: ignore[override]  # torchmetrics passes the arguments on
        self, criterion: Callable[[Tensor, Tensor], Tensor]
    ) -> dict[str, Tensor]:
        """Return ``loss``, ``criterion`` and the metrics of :func:`scalar_metrics`.

        ``loss`` is the cross-entropy (natural log), ``criterion(logits, labels)`` the loss that
        is trained.
        """
        logits, labels = dim_zero_cat(self.logits), dim_zero_cat(self.labels)
        losses = F.cross_entropy(logits, labels, reduction="none")
        self.images = (labels.cpu(), logits.argmax(1).cpu(), losses.cpu())
        return {
            "loss": F.cross_entropy(logits, labels),
            "criterion": criterion(logits, labels),
            **scalar_metrics(self.num_classes)(self.images[1], self.images[0]),
        }
