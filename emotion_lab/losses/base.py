"""What every loss shares: targets, class weights, the registry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emotion_lab.core.errors import UserError
from emotion_lab.core.registry import Registry

#: ``build(cfg, num_classes, class_weights, class_counts) -> nn.Module``
LOSSES: Registry[Callable[..., nn.Module]] = Registry("loss", "emotion_lab.losses")


def soft_targets(target: Tensor, num_classes: int) -> Tensor:
    """Return float (B, K) targets from class indices (B,) or from probabilities (B, K)."""
    if target.ndim == 2:
        return target
    return F.one_hot(target, num_classes).to(torch.float32)


def weighted_mean(per_class: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """Average ``per_class`` losses (B, K) under soft ``target`` (B, K) and class weights (K,).

    The sum is divided by the weight that the batch carries, as PyTorch does for class indices;
    PyTorch's own soft-target path divides by B, so the two would disagree on one-hot targets.
    """
    if weight is None:
        return (target * per_class).sum(1).mean()
    carried = target * weight
    return (carried * per_class).sum() / carried.sum()


def build_loss(
    cfg: dict[str, Any],
    num_classes: int,
    class_weights: Sequence[float],
    class_counts: Sequence[int],
) -> nn.Module:
    """Build the loss that ``conf/loss/<name>.yaml`` describes.

    Args:
        cfg: The ``loss`` group: ``name`` and the arguments of that loss.
        num_classes: K.
        class_weights: K weights of the training split (method ``data.class_weights``).
        class_counts: K image counts of the training split.

    Returns:
        A module: (logits (B, K), target (B,) int64 or (B, K) float) -> scalar.

    Raises:
        UserError: For an unknown name or argument.
    """
    arguments = {key: value for key, value in cfg.items() if key != "name"}
    build = LOSSES.get(cfg["name"])
    weights = torch.tensor(list(class_weights), dtype=torch.float32)
    try:
        return build(num_classes=num_classes, weights=weights, counts=class_counts, **arguments)
    except TypeError as error:
        raise UserError(f"loss={cfg['name']}: {error}") from None
