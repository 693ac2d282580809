"""Mixup and CutMix with torchvision's transforms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import CutMix, MixUp, RandomChoice

from emotion_lab.core.errors import UserError


def check_unmixed(cfg: dict[str, Any], key: str) -> None:
    """Refuse mixup and cutmix for the option ``key``, which needs one image for each label."""
    if cfg["mix"]["mixup"] or cfg["mix"]["cutmix"]:
        raise UserError(f"{key} does not support mix.mixup and mix.cutmix: set them to 0.")


class MixupCutmix:
    """Blends the images and labels of a batch (arXiv:1710.09412, arXiv:1905.04899).

    ``cfg`` has the alphas of ``mixup`` and ``cutmix`` (0 is off) and the ``probability`` of mixing
    a batch.
    """

    def __init__(self, cfg: dict[str, Any], num_classes: int) -> None:
        kinds = []
        if cfg["mixup"]:
            kinds.append(MixUp(alpha=float(cfg["mixup"]), num_classes=num_classes))
        if cfg["cutmix"]:
            kinds.append(CutMix(alpha=float(cfg["cutmix"]), num_classes=num_classes))
        self.transform = RandomChoice(kinds) if len(kinds) > 1 else (kinds or [None])[0]
        self.probability = float(cfg["probability"])
        if kinds and num_classes < 2:
            raise UserError("mix needs at least two classes")

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return images float (B, C, S, S) and the labels, (B, K) if the batch was mixed.

        Random numbers come from torch's generator, which training seeds at every step.
        """
        if self.transform is None or len(images) < 2:
            return images, labels
        if self.probability < 1 and torch.rand(()).item() >= self.probability:
            return images, labels
        return self.transform(images.float(), labels)
