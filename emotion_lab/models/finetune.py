"""Fine-tuning: frozen stages and layer-wise learning rates."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from emotion_lab.core.errors import UserError
from emotion_lab.models.base import EmotionNet
from emotion_lab.models.network import Network


def apply_freeze(net: EmotionNet, freeze: str, unfreeze_last: int | None) -> None:
    """Set ``requires_grad`` of all parameters.

    Args:
        net: The network.
        freeze: ``none`` or ``backbone`` (only the classifier head is trained).
        unfreeze_last: Train only the head and this many of the last stages; None uses ``freeze``.
    """
    backbone = net.backbone
    num_stages = len(backbone.stages)
    if unfreeze_last is None:
        first = 0 if freeze == "none" else num_stages
    elif unfreeze_last > num_stages:
        raise UserError(
            f"model.unfreeze_last must be a whole number from 0 to {num_stages}, the number of "
            f"stages of this model, got {unfreeze_last}."
        )
    else:
        first = num_stages - unfreeze_last
    for name, parameter in backbone.net.named_parameters():
        trained = backbone.stage_index(name) >= first
        parameter.requires_grad_(trained and name not in backbone.fixed_parameters)


def unfreeze_all(net: EmotionNet) -> None:
    """Make all parameters trainable, except the constants of the architecture."""
    apply_freeze(net, "none", None)


def frozen_batchnorm_eval(net: EmotionNet) -> None:
    """Put BatchNorm layers with frozen parameters into eval mode.

    Call it after every ``train()``. Otherwise their running statistics change, and with them the
    features of the frozen layers.
    """
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            parameters = list(module.parameters(recurse=False))
            if parameters and not any(p.requires_grad for p in parameters):
                module.eval()


def param_groups(
    net: EmotionNet, lr: float, weight_decay: float, layer_decay: float, decay_norm_and_bias: bool
) -> list[dict[str, Any]]:
    """Return optimizer parameter groups for all parameters.

    Frozen parameters are included, so that unfreezing in a later epoch needs no new groups;
    optimizers skip parameters without a gradient.

    Args:
        net: The network.
        lr: Learning rate of the head.
        weight_decay: Weight decay of the groups that use it.
        layer_decay: Learning rate factor per stage (layer-wise decay, Clark et al. 2020): the
            last stage has ``lr * layer_decay``, the one before ``lr * layer_decay**2`` and so on.
            1.0 gives all stages the same rate.
        decay_norm_and_bias: Whether weight decay also applies to biases, norm parameters and the
            embeddings that the architecture exempts.

    Returns:
        Groups with keys ``params``, ``lr``, ``weight_decay`` and ``name`` (unique), from input to
        output.
    """
    backbone = net.backbone
    num_stages = len(backbone.stages)
    exempt_hook = getattr(backbone.net, "no_weight_decay", None)  # timm's convention
    exempt = set(exempt_hook()) if callable(exempt_hook) else set()

    by_stage: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in backbone.net.named_parameters():
        decays = decay_norm_and_bias or not (
            parameter.ndim <= 1 or name.endswith("bias") or name in exempt
        )
        # With one rate for all stages, one group is enough.
        stage = backbone.stage_index(name) if layer_decay < 1 else num_stages
        by_stage.setdefault((stage, decays), []).append(parameter)

    groups = []
    for (stage, decays), params in sorted(by_stage.items(), key=lambda item: item[0]):
        name = "all" if layer_decay == 1 else "head" if stage == num_stages else f"stage{stage}"
        groups.append(
            {
                "params": params,
                "lr": lr * layer_decay ** (num_stages - stage),
                "weight_decay": weight_decay if decays else 0.0,
                "name": name if decays else f"{name}_no_decay",
            }
        )
    return groups


def count_parameters(net: Network) -> tuple[int, int]:
    """Return the number of trainable and of all parameters."""
    parameters = list(net.parameters())
    return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)
