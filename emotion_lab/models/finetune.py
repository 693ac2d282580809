"""Which parts of a network learn, and how fast."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from emotion_lab.core.errors import UserError, unknown
from emotion_lab.models.base import EmotionNet

FREEZE = ("none", "backbone")


def apply_freeze(net: EmotionNet, freeze: str, unfreeze_last: int | None) -> None:
    """Set which parameters learn.

    Args:
        net: The network.
        freeze: ``none`` or ``backbone`` (only the classifier head learns).
        unfreeze_last: N: the last N stages and the head learn, the rest is frozen, whatever
            ``freeze`` says. None leaves it to ``freeze``.

    Raises:
        UserError: For another policy, or more stages than there are.
    """
    backbone = net.backbone
    count = len(backbone.stages)
    if freeze not in FREEZE:
        raise unknown("freeze policy", freeze, FREEZE, "Set it with model.freeze=<name>.")
    if unfreeze_last is None:
        first = 0 if freeze == "none" else count
    elif type(unfreeze_last) is not int or not 0 <= unfreeze_last <= count:
        raise UserError(
            f"model.unfreeze_last must be a whole number from 0 to {count}, the number of stages "
            f"of this model, got {unfreeze_last}."
        )
    else:
        first = count - unfreeze_last
    for name, parameter in backbone.net.named_parameters():
        learns = backbone.stage_of(name) >= first
        parameter.requires_grad_(learns and name not in backbone.constants)


def unfreeze_all(net: EmotionNet) -> None:
    """Let every parameter learn that the architecture does not hold constant."""
    apply_freeze(net, "none", None)


def frozen_batchnorm_eval(net: EmotionNet) -> None:
    """Put BatchNorm layers with frozen parameters into eval mode.

    Call it after every ``train()``: otherwise their running statistics drift although nothing
    else in the frozen part moves, and the features change under the head.
    """
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            parameters = list(module.parameters(recurse=False))
            if parameters and not any(p.requires_grad for p in parameters):
                module.eval()


def param_groups(
    net: EmotionNet,
    lr: float,
    weight_decay: float,
    layer_decay: float,
    decay_norm_and_bias: bool,
) -> list[dict[str, Any]]:
    """Sort all parameters into optimiser groups.

    Frozen parameters are included, so that unfreezing at an epoch needs no new groups: without a
    gradient an optimiser passes over them.

    Args:
        net: The network.
        lr: Learning rate of the head.
        weight_decay: Weight decay where it applies.
        layer_decay: The last stage learns at ``lr * layer_decay``, the one before at
            ``lr * layer_decay**2`` and so on (layer-wise decay; Clark et al. 2020). 1.0 gives
            all the same rate.
        decay_norm_and_bias: Whether weight decay also applies to biases, norm parameters and the
            embeddings that the architecture exempts.

    Returns:
        Groups with keys ``params``, ``lr``, ``weight_decay`` and ``name`` (unique), in the order
        of the network.

    Raises:
        UserError: If ``layer_decay`` is outside (0, 1].
    """
    if not 0 < layer_decay <= 1:
        raise UserError(f"model.layer_decay must be above 0 and at most 1, got {layer_decay}.")
    backbone = net.backbone
    count = len(backbone.stages)
    exempt_hook = getattr(backbone.net, "no_weight_decay", None)
    exempt = set(exempt_hook()) if callable(exempt_hook) else set()

    sorted_in: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in backbone.net.named_parameters():
        decays = decay_norm_and_bias or not (
            parameter.ndim <= 1 or name.endswith("bias") or name in exempt
        )
        # With one rate for all, stages make no difference and would only multiply the groups.
        stage = backbone.stage_of(name) if layer_decay < 1 else count
        sorted_in.setdefault((stage, decays), []).append(parameter)

    groups = []
    for (stage, decays), params in sorted(sorted_in.items(), key=lambda item: item[0]):
        part = "all" if layer_decay == 1 else "head" if stage == count else f"stage{stage}"
        groups.append(
            {
                "params": params,
                "lr": lr * layer_decay ** (count - stage),
                "weight_decay": weight_decay if decays else 0.0,
                "name": part if decays else f"{part}_no_decay",
            }
        )
    return groups


def count_parameters(net: EmotionNet) -> tuple[int, int]:
    """Return the numbers of (trainable, all) parameters."""
    parameters = list(net.parameters())
    return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)
