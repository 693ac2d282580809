"""Training of the head for valence, arousal and intensity, beside the classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import ConcordanceCorrCoef, MeanSquaredError, Metric, MetricCollection

from emotion_lab.core.errors import UserError
from emotion_lab.data.datamodule import EmotionData
from emotion_lab.data.types import Split
from emotion_lab.models.auxiliary_head import last_linear
from emotion_lab.models.base import EmotionNet
from emotion_lab.models.quantities_head import QuantitiesHead, check_network
from emotion_lab.training.mixup import check_unmixed

#: With fewer values in a split, there is no correlation.
_MIN_VALUES = 2


def ccc_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Return 1 - CCC, the concordance correlation coefficient (Lin 1989, Biometrics 45).

    Args:
        predicted: float32 (B,).
        target: float32 (B,), NaN without a value; these rows do not count.

    Returns:
        Scalar, 0 (equal) to 2; 1 without gradient for fewer than two values.
    """
    has_value = ~target.isnan()
    count = has_value.sum().clamp_min(1)
    target = target.nan_to_num()

    def mean(values: Tensor) -> Tensor:
        return (values * has_value).sum() / count

    x_mean, y_mean = mean(predicted), mean(target)
    x, y = predicted - x_mean, target - y_mean
    scatter = mean(x**2) + mean(y**2) + (x_mean - y_mean) ** 2
    return 1 - 2 * mean(x * y) / scatter.clamp_min(1e-8)


def _metrics() -> MetricCollection:
    parts: dict[str, Metric | MetricCollection]
    parts = {"ccc": ConcordanceCorrCoef(), "rmse": MeanSquaredError(squared=False)}
    return MetricCollection(parts, compute_groups=False)


class TrainedQuantitiesHead(QuantitiesHead):
    """The head with its loss and its validation metrics.

    Args:
        classifier: The last layer of the network; its gradient trains the layers below, too.
        targets: Split (train, val) -> quantity -> annotated values, float32 (N,), NaN without a
            value. All splits have the same quantities.
        weight: Weight of the loss, above 0; the loss on labels has weight 1.
    """

    train_targets: Tensor
    val_targets: Tensor

    def __init__(
        self, classifier: nn.Linear, targets: dict[str, dict[str, np.ndarray]], weight: float
    ) -> None:
        super().__init__(classifier, list(targets["train"]))
        self.weight = weight
        for split, values in targets.items():
            table = np.stack([values[name] for name in self.names], 1).astype(np.float32)
            # Not persistent: the targets belong to the data, not to the checkpoint.
            self.register_buffer(f"{split}_targets", torch.from_numpy(table), persistent=False)
        self.metrics: Mapping[str, MetricCollection] = nn.ModuleDict(  # type: ignore[assignment]
            {name: _metrics() for name in self.names}
        )

    def forward(self, loss: Tensor, positions: Tensor) -> Tensor:
        """Return ``loss + weight * mean of 1 - CCC`` for the images at ``positions`` of train.

        The network must have processed the batch before. The mean is over the quantities.
        """
        values, targets = self.values(), self.train_targets[positions].unbind(1)
        losses = [ccc_loss(x, y) for x, y in zip(values.values(), targets, strict=True)]
        return loss + self.weight * torch.stack(losses).mean()

    def update_metrics(self, positions: Tensor) -> None:
        """Add the batch at ``positions`` (B,) of val, which the network has processed."""
        targets = self.val_targets[positions]
        for (name, values), target in zip(self.values().items(), targets.unbind(1), strict=True):
            has_value = ~target.isnan()
            if has_value.any():
                self.metrics[name].update(values[has_value], target[has_value])

    def compute_and_reset(self) -> dict[str, Tensor]:
        """Return ``ccc_<quantity>`` and ``rmse_<quantity>`` of val, and reset the metrics."""
        scores: dict[str, Tensor] = {}
        for name in self.names:
            scores |= {f"{k}_{name}": value for k, value in self.metrics[name].compute().items()}
            self.metrics[name].reset()
        return scores


def _annotated(split: Split) -> dict[str, int]:
    """Return quantity -> number of its values."""
    return {name: int((~np.isnan(v)).sum()) for name, v in split.quantities.items()}


def build(cfg: dict[str, Any], data: EmotionData, net: EmotionNet) -> TrainedQuantitiesHead | None:
    """Build the head for ``quantities_head.weight`` (whole config ``cfg``); None for weight 0.

    It learns every quantity that has values in train and in val.
    """
    weight = cfg["quantities_head"]["weight"]
    if not weight:
        return None
    splits = {name: data.split(name) for name in ("train", "val")}
    counts = {name: _annotated(split) for name, split in splits.items()}
    names = [
        name
        for name in splits["train"].quantities
        if all(count.get(name, 0) >= _MIN_VALUES for count in counts.values())
    ]
    if not names:
        raise UserError(
            f"quantities_head.weight={weight:g} needs values of valence, arousal or intensity in "
            "train and val: set data=csv with these columns, or data=synthetic "
            "data.strengths=[0.1,1]."
        )
    check_unmixed(cfg, "quantities_head.weight")
    classifier = last_linear(net, "quantities_head.weight")
    check_network(net)
    learned = ", ".join(f"{name} ({counts['train'][name]:,} images)" for name in names)
    others = [name for name in counts["train"] if name not in names]
    without = f"; not {', '.join(others)}, which has no values in train or val" if others else ""
    print(f"quantities head: learns {learned}{without}")
    targets = {
        split: {name: part.quantities[name] for name in names} for split, part in splits.items()
    }
    return TrainedQuantitiesHead(classifier, targets, weight)
