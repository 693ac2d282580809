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
from emotion_lab.core.registry import Registry, source

#: ``build(**arguments)`` returns the loss. Arguments are the keys of ``conf/loss/<name>.yaml`` and,
#: if the builder has parameters of these names, ``num_classes`` (int), ``class_weights`` (float32
#: tensor (K,)) and ``class_counts`` (K ints) of the training split.
LOSSES: Registry[Callable[..., nn.Module]] = Registry("loss", "emotion_lab.losses")


def soft_targets(target: Tensor, num_classes: int) -> Tensor:
    """Return targets as probabilities, float (B, K), from indices (B,) or probabilities (B, K)."""
    if target.ndim == 2:
        return target
    return F.one_hot(target, num_classes).to(torch.float32)


def weighted_mean(per_class: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """Average per-class losses (B, K) over soft targets (B, K) and class weights (K,).

    The sum is divided by the total weight of the batch, as in PyTorch for class indices. PyTorch
    divides by B for soft targets, so its two paths disagree for one-hot targets.
    """
    if weight is None:
        return (target * per_class).sum(1).mean()
    weights = target * weight
    return (weights * per_class).sum() / weights.sum()


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
            place = plugins.place(error, builder.__module__) or source(builder)
            raise UserError(
                f"{place}: loss '{name}' fails for targets as {words}: {plugins.reason(error)}"
            ) from error
        if not isinstance(value, Tensor) or value.ndim:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise UserError(
                f"{source(builder)}: loss '{name}' returns {shape} for targets as {words}, "
                "expected a scalar tensor."
            )
