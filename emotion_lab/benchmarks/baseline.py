"""The plain way, as public FER code does it: one file, one image, one transform at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from emotion_lab.data.types import Split
from emotion_lab.models.base import EmotionNet, InputSpec


def write_folder(
    split: Split, classes: list[str], count: int, folder: Path, side: int | None = None
) -> None:
    """Write ``count`` images of a split as PNG files, a folder for each class.

    Args:
        split: Read from its beginning, and again where it has fewer.
        classes: Its class names.
        count: Number of files.
        folder: Where to.
        side: Enlarge to this many pixels.
    """
    for index, name in enumerate(classes):
        (folder / f"{index:02d}_{name}").mkdir(parents=True)
    for position in range(count):
        image = split.image(position % len(split))
        label = int(split.labels[position % len(split)])
        if image.shape[2] == 3:
            image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        if side:
            image = cv2.resize(image, (side, side))
        file = folder / f"{label:02d}_{classes[label]}" / f"{position:06d}.png"
        cv2.imwrite(str(file), np.ascontiguousarray(image))


def loader(folder: Path, spec: InputSpec, batch_size: int, workers: int) -> DataLoader:
    """Return the loader that tutorials write: PIL, transforms on single images, workers.

    The transforms are those of ``augment=device`` with its defaults.
    """
    steps: list[object] = [] if spec.channels == 3 else [transforms.Grayscale(1)]
    if spec.image_size != 48:
        steps.append(transforms.Resize((spec.image_size, spec.image_size)))
    steps += [
        transforms.RandomHorizontalFlip(),
        transforms.RandomApply(
            [transforms.RandomAffine(10, translate=(0.06, 0.06), scale=(0.9, 1.1))], 0.7
        ),
        transforms.RandomApply([transforms.ColorJitter(0.2, 0.2)], 0.3),
        transforms.ToTensor(),
        transforms.Normalize(spec.mean, spec.std),
    ]
    return DataLoader(
        ImageFolder(str(folder), transforms.Compose(steps), allow_empty=True),
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )


def epochs(batches: DataLoader, net: EmotionNet, device: str) -> Iterator[int]:
    """Train float32 and contiguous, with Adam; yield the number of images after each epoch.

    The backbone is used without the normalisation of :class:`EmotionNet`, which the transforms
    have already done.
    """
    backbone = net.backbone.to(device).train()
    optimizer = torch.optim.Adam(backbone.parameters(), lr=1e-3)
    while True:
        count, total, right = 0, 0.0, 0
        for images, labels in batches:
            images, labels = images.to(device), labels.to(device)
            optimizer.zero_grad()
            output = backbone(images)
            logits = output[0] if isinstance(output, tuple) else output
            loss: Tensor = nn.functional.cross_entropy(logits, labels)
            loss.backward()
            optimizer.step()
            total += loss.item()
            right += int((logits.argmax(1) == labels).sum().item())
            count += len(labels)
        yield count


def read(batches: DataLoader, device: str) -> Iterator[int]:
    """Bring every batch to the device; yield the number of images after each epoch."""
    while True:
        count = 0
        for images, _ in batches:
            images = images.to(device)
            count += len(images)
        if device == "cuda":
            torch.cuda.synchronize()
        yield count
