"""Fine-tuning: frozen stages and layer-wise learning rates."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from emotion_lab.core.errors import UserError
from emotion_lab.models.base import EmotionNet
from emotion_lab.models.network import Network


def trained_stages(net: EmotionNet, model: dict[str, Any], epoch: int = 0) -> int:
    """Return how many of the last stages ``epoch`` trains, next to the classifier.

    Args:
        net: The network.
        model: The ``model`` group: ``freeze``, ``unfreeze_last`` and ``unfreeze_at_epoch``.
        epoch: Counted from 0.
    """
    total = len(net.backbone.stages)
    plan = model["unfreeze_at_epoch"] or []
    plan = [[plan, total]] if isinstance(plan, int) else plan
    last = model["unfreeze_last"]
    if last is None:
        last = total if model["freeze"] == "none" else 0
    for key, number in (("unfreeze_last", last), *(("unfreeze_at_epoch", n) for _, n in plan)):
        if number > total:
            raise UserError(
                f"model.{key}: {number} stages are too many, this model has {total} "
                f"next to the classifier. Use a whole number from 0 to {total}."
            )
    return [last, *(stages for start, stages in plan if start <= epoch)][-1]


def freeze_at(net: EmotionNet, model: dict[str, Any], epoch: int = 0) -> None:
    """Set ``requires_grad`` of all parameters for ``epoch``; see :func:`trained_stages`.

    Constants of the architecture that are stored as parameters are never trained.
    """
    backbone = net.backbone
    first = len(backbone.stages) - trained_stages(net, model, epoch)
    for name, parameter in backbone.net.named_parameters():
        trained = backbone.stage_index(name) >= first
        parameter.requires_grad_(trained and name not in backbone.fixed_parameters)


def train_mode(net: EmotionNet) -> None:
    """Put the network into train mode, except what is frozen; the inverse is ``net.eval()``.

    BatchNorm layers with frozen parameters are in eval mode. Otherwise their running statistics
    would change, and with them the features of the frozen layers. If only the classifier is
    trained, all other modules are in eval mode (no dropout, no stochastic depth): each image has
    fixed features. A network with auxiliary heads computes them in train mode only, so its other
    modules stay in that mode.
    """
    net.train()
    backbone = net.backbone
    parameters = backbone.net.named_parameters()
    trained = {backbone.stage_index(name) for name, p in parameters if p.requires_grad}
    if trained == {len(backbone.stages)} and len(backbone.head_names) == 1:
        backbone.eval()
        backbone.head.train()
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            own = list(module.parameters(recurse=False))
            if own and not any(p.requires_grad for p in own):
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
