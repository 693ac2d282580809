"""Loss registry, soft targets and class-weighted averaging."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emotion_lab.core import plugins
from emotion_lab.core.errors import UserError
from emotion_lab.core.registry import Registry, place, source

#: ``build(**arguments)`` returns the loss. Arguments are the keys of ``conf/loss/<name>.yaml`` and,
#: if the builder has parameters of these names, ``num_classes`` (int), ``class_weights`` (float32
#: tensor (K,)) and ``class_counts`` (K ints) of the training split.
LOSSES: Registry[Callable[..., nn.Module]] = Registry("loss", "emotion_lab.losses")


def soft_targets(target: Tensor, num_classes: int) -> Tensor:
    """Return targets as probabilities, float (B, K), from indices (B,) or probabilities (B, K)."""
    if target.ndim == 2:
        return target
    return F.one_hot(target, num_classes).to(torch.float32)


class WeightedLoss(nn.Module):
    """Base of losses with optional class weights (K,).

    The sum over a batch is divided by the total weight of its targets, as in PyTorch for class
    indices. PyTorch divides by B for soft targets, so its two paths disagree for one-hot targets.
    """

    weight: Tensor | None

    def __init__(self, weight: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("weight", weight, persistent=False)

    def weighted_mean(self, per_class: Tensor, target: Tensor) -> Tensor:
        """Average per-class losses (B, K) over soft targets (B, K) and the class weights."""
        if self.weight is None:
            return (target * per_class).sum(1).mean()
        weights = target * self.weight
        return (weights * per_class).sum() / weights.sum()

    def total_weight(self, target: Tensor) -> Tensor | float:
        """Return the number by which the sum over targets (B,) or (B, K) is divided."""
        if self.weight is None:
            return float(len(target))
        return (soft_targets(target, len(self.weight)) * self.weight).sum()


def total_weight(loss: nn.Module, target: Tensor) -> Tensor | float:
    """Return the weight of a batch with targets (B,) or (B, K) in a mean of ``loss`` over batches.

    With it, the mean over batches is that over all images. A loss without a method
    ``total_weight(target)`` is a plain mean over images, so the weight is B, or a class of torch.
    """
    method = getattr(loss, "total_weight", None)
    if callable(method):
        return method(target)
    if isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss)) and target.ndim == 1:
        return float(len(target)) if loss.weight is None else loss.weight[target].sum()
    return float(len(target))


def weighs_classes(cfg: dict[str, Any]) -> bool:
    """Return whether a loss gives rare classes a larger weight; ``cfg`` is the group ``loss``."""
    try:
        loss = build_loss(cfg, 2, class_weights=[0.6, 3.0], class_counts=[50, 10])
    except UserError:  # a plug-in for another number of classes
        return False
    frequent, rare = (float(total_weight(loss, torch.tensor([label]))) for label in (0, 1))
    return rare > frequent


def build_loss(
    cfg: dict[str, Any],
    num_classes: int,
    class_weights: Sequence[float],
    class_counts: Sequence[int],
) -> nn.Module:
    """Build the loss of the config group ``loss``.

    ``class_weights`` and ``class_counts`` (K each) are those of the training split.

    Returns:
        A module: (logits (B, K), target (B,) int64 or (B, K) float) -> scalar.
    """
    arguments = {key: value for key, value in cfg.items() if key != "name"}
    data_arguments = {
        "num_classes": num_classes,
        "class_weights": torch.tensor(list(class_weights), dtype=torch.float32),
        "class_counts": class_counts,
    }
    parameters = inspect.signature(LOSSES.get(cfg["name"])).parameters
    arguments |= {key: value for key, value in data_arguments.items() if key in parameters}
    loss = LOSSES.build(cfg["name"], **arguments)
    _check_output(cfg["name"], loss, num_classes)
    return loss


def _check_output(name: str, loss: Any, num_classes: int) -> None:
    """Refuse a loss that does not return a scalar for class indices and for probabilities."""
    builder = LOSSES.get(name)
    indices = torch.zeros(2, dtype=torch.int64)
    targets = {"indices (B,)": indices, "probabilities (B, K)": soft_targets(indices, num_classes)}
    for words, target in targets.items():
        try:
            with torch.no_grad():
                value = loss(torch.zeros(2, num_classes), target)
        except Exception as error:  # a plug-in can raise anything
            raise UserError(
                f"{place(error, builder)}: loss '{name}' fails for targets as {words}: "
                f"{plugins.reason(error)}"
            ) from error
        if not isinstance(value, Tensor) or value.ndim:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise UserError(
                f"{source(builder)}: loss '{name}' returns {shape} for targets as {words}, "
                "expected a scalar tensor."
            )
