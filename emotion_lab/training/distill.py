"""Knowledge distillation from a trained teacher network (Hinton et al. 2015, arXiv:1503.02531)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from emotion_lab.core.errors import UserError
from emotion_lab.core.io import file_hash
from emotion_lab.core.paths import find_checkpoint
from emotion_lab.models.base import InputSpec
from emotion_lab.models.load import restore
from emotion_lab.models.network import Network
from emotion_lab.training.mixup import check_unmixed
from emotion_lab.training.precompute import precompute


class Distillation:
    """Combines the loss on labels with the KL divergence from the teacher's soft targets.

    It is not a module, so checkpoints of the student do not include the teacher.

    Args:
        teacher: Set to eval mode; it is moved to the device of the images.
        class_order: For each class of the student, its index in the teacher's output.
        spec: Input of the student; images are converted to the teacher's input.
        temperature: T > 0; both distributions are softened by it.
        alpha: Weight of the soft targets, 0 to 1; the labels have weight 1 - alpha.
    """

    def __init__(
        self,
        teacher: Network,
        class_order: list[int],
        spec: InputSpec,
        temperature: float,
        alpha: float,
    ) -> None:
        self.teacher = teacher.requires_grad_(False).eval()
        self.class_order, self.spec = class_order, spec
        self.temperature, self.alpha = temperature, alpha
        #: Targets (N, K) of each image of train; None if the teacher sees the augmented images.
        self._precomputed: Tensor | None = None

    def _teacher_input(self, images: Tensor) -> Tensor:
        """Convert images (B, C, H, W), 0..255, to the teacher's channels and size."""
        spec = self.teacher.spec
        images = images.float()
        if spec.channels != images.shape[1]:
            if spec.channels == 3:
                images = images.expand(-1, 3, -1, -1)
            else:
                # ITU-R BT.601 weights, as in OpenCV's conversion of RGB to grey.
                weights = images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
                images = (images * weights).sum(1, keepdim=True)
        size = spec.image_size
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
        logits = self.teacher(self._teacher_input(images)).float()[:, self.class_order]
        return (logits / self.temperature).softmax(1)

    def precompute(self, batches: DataLoader, device: torch.device) -> None:
        """Compute the targets of train once: the mean over each image and its mirror image.

        Args:
            batches: All images of train, not augmented.
            device: Device of the teacher during this pass.
        """

        def both(images: Tensor) -> Tensor:
            return (self.targets(images) + self.targets(images.flip(-1))) / 2

        self._precomputed = precompute(both, batches, device, "teacher")

    def _targets_at(self, positions: Tensor, device: torch.device) -> Tensor:
        assert self._precomputed is not None
        if self._precomputed.device != device:
            self._precomputed = self._precomputed.to(device)
        return self._precomputed[positions]

    def __call__(self, loss: Tensor, logits: Tensor, images: Tensor, positions: Tensor) -> Tensor:
        """Return ``(1 - alpha) * loss + alpha * T^2 * KL(teacher || student)``, softened by T.

        The factor T^2 keeps the scale of the gradients independent of T.

        Args:
            loss: Loss on the labels, scalar.
            logits: Logits of the student (B, K).
            images: Input of the student, 0..255 (B, C, H, W).
            positions: Positions of the images in train, int64 (B,).
        """
        student = F.log_softmax(logits.float() / self.temperature, 1)
        if self._precomputed is None:
            targets = self.targets(images)
        else:
            targets = self._targets_at(positions, logits.device)
        divergence = F.kl_div(student, targets, reduction="batchmean")
        return (1 - self.alpha) * loss + self.alpha * self.temperature**2 * divergence


def _class_order(teacher: list[str], student: list[str]) -> list[int]:
    missing = [name for name in student if name not in teacher]
    if missing:
        raise UserError(
            f"distill.teacher lacks the classes {', '.join(missing)}: it has {', '.join(teacher)}. "
            f"Leave them out with data.exclude=[{','.join(missing)}], or choose another teacher."
        )
    return [teacher.index(name) for name in student]


def check_precompute(cfg: dict[str, Any]) -> None:
    """Refuse ``distill.precompute`` without a teacher, and with mixed images (whole config)."""
    if not cfg["distill"]["precompute"]:
        return
    if cfg["distill"]["teacher"] is None:
        raise UserError(
            "distill.precompute=true needs a teacher: set distill.teacher=<a checkpoint or run "
            "directory>, or distill.precompute=false."
        )
    check_unmixed(cfg, "distill.precompute")


def build(
    cfg: dict[str, Any], spec: InputSpec, classes: list[str]
) -> tuple[Distillation | None, dict[str, Any] | None]:
    """Build the distillation for ``distill.teacher`` and print the teacher.

    ``spec`` and ``classes`` are those of the student. The second result is the teacher's entry in
    ``metrics.json``; both are None without a teacher.
    """
    if cfg["teacher"] is None:
        return None, None
    path = find_checkpoint(cfg["teacher"])
    net, card = restore(path)
    class_order = _class_order(list(card["classes"]), classes)
    cards = card.get("members") or [card]
    facts = {
        "checkpoint": str(path),
        "sha256": file_hash(path),
        "parameters": sum(p.numel() for p in net.parameters()),
        "members": len(cards),
    }
    print(
        f"teacher: {path}, {facts['parameters']:,} parameters, {net.spec.image_size} px, "
        f"temperature {cfg['temperature']:g}, alpha {cfg['alpha']:g}"
    )
    return Distillation(net, class_order, spec, cfg["temperature"], cfg["alpha"]), facts
