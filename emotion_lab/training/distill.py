"""Distillation: a student learns what a teacher says, not the labels alone (Hinton et al. 2015)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core.errors import UserError
from emotion_lab.core.io import file_hash
from emotion_lab.models.base import EmotionNet, InputSpec
from emotion_lab.models.ensemble import Ensemble
from emotion_lab.models.load import restore


class Distillation:
    """Mixes the loss on labels with the divergence from a teacher's soft targets.

    No module: the teacher belongs neither into the student's checkpoint nor to its parameters.

    Args:
        teacher: In eval mode; it is moved to where the images are.
        order: For each class of the student, where the teacher has it.
        spec: What the student takes: images are fitted from this to the teacher's own input.
        temperature: T > 0; both distributions are softened by it.
        share: Of the soft targets, 0 to 1; the labels have the rest.
    """

    def __init__(
        self,
        teacher: EmotionNet | Ensemble,
        order: list[int],
        spec: InputSpec,
        temperature: float,
        share: float,
    ) -> None:
        self.teacher = teacher.requires_grad_(False).eval()
        self.order, self.spec = order, spec
        self.temperature, self.share = temperature, share

    def _fitted(self, images: Tensor) -> Tensor:
        """Return images (B, C, H, W), 0..255, with the teacher's channels and size."""
        wanted = self.teacher.spec
        images = images.float()
        if wanted.channels != images.shape[1]:
            if wanted.channels == 3:
                images = images.expand(-1, 3, -1, -1)
            else:
                # The weights of ITU-R BT.601, as OpenCV turns RGB to grey.
                weights = images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
                images = (images * weights).sum(1, keepdim=True)
        size = wanted.image_size
        if images.shape[-1] != size:
            images = F.interpolate(
                images, (size, size), mode="bilinear", antialias=images.shape[-1] > size
            )
        return images

    @torch.no_grad()
    def targets(self, images: Tensor) -> Tensor:
        """Return the teacher's softened probabilities (B, K) in the student's class order."""
        if next(self.teacher.parameters()).device != images.device:
            self.teacher.to(images.device)
        logits = self.teacher(self._fitted(images)).float()[:, self.order]
        return (logits / self.temperature).softmax(1)

    def __call__(self, loss: Tensor, logits: Tensor, images: Tensor) -> Tensor:
        """Return the mixed loss.

        Args:
            loss: On the labels, scalar.
            logits: Of the student (B, K).
            images: What the student saw, 0..255 (B, C, H, W).

        Returns:
            ``(1 - share) * loss + share * T^2 * KL(teacher || student)``, both softened by T; the
            square keeps the gradients' size as T changes.
        """
        own = F.log_softmax(logits.float() / self.temperature, 1)
        divergence = F.kl_div(own, self.targets(images), reduction="batchmean")
        return (1 - self.share) * loss + self.share * self.temperature**2 * divergence


def _order(teacher: list[str], student: list[str]) -> list[int]:
    missing = [name for name in student if name not in teacher]
    if missing:
        raise UserError(
            f"distill.teacher does not know {', '.join(missing)}: it has {', '.join(teacher)}. "
            f"Leave them out with data.exclude=[{','.join(missing)}], or give another teacher."
        )
    return [teacher.index(name) for name in student]


def _seen(cards: list[dict[str, Any]], fingerprints: dict[str, Any]) -> str | None:
    """Return a warning where the teacher may have learnt from the student's val images."""
    val = fingerprints["val"]["hash"]
    for card in cards:
        known = card.get("fingerprints", {})
        if known.get("train", {}).get("hash") == val:
            return "warning: the teacher was trained on what is val here; val says too much"
        if known.get("val", {}).get("hash") != val:
            return (
                "warning: the teacher had another val split: it may have been trained on images "
                "that are val here, and val would say too much"
            )
    return None


def build(
    cfg: dict[str, Any], spec: InputSpec, classes: list[str], fingerprints: dict[str, Any]
) -> tuple[Distillation | None, dict[str, Any] | None]:
    """Build what ``distill.teacher`` asks for and say what the teacher is.

    Args:
        cfg: The ``distill`` node of the config.
        spec: The student's input.
        classes: The student's, in order.
        fingerprints: Of the splits of this run.

    Returns:
        The distillation and the facts for ``metrics.json``; both None without a teacher.

    Raises:
        UserError: If the teacher cannot be read or lacks a class.
    """
    if cfg["teacher"] is None:
        return None, None
    path = ckpt.find(cfg["teacher"])
    net, card = restore(path)
    order = _order(list(card["classes"]), classes)
    cards = card.get("members") or [card]
    warning = _seen(cards, fingerprints)
    if warning is not None:
        print(warning)
    facts = {
        "checkpoint": str(path),
        "sha256": file_hash(path),
        "parameters": sum(p.numel() for p in net.parameters()),
        "members": len(cards),
        "val_seen": warning,
    }
    print(
        f"teacher: {path}, {facts['parameters']:,} parameters, {net.spec.image_size} px, "
        f"temperature {cfg['temperature']:g}, share {cfg['share']:g}"
    )
    return Distillation(net, order, spec, cfg["temperature"], cfg["alpha"]), facts
