"""Baseline pipelines that public FER repositories use, to compare this package with.

Training: PNG files, one PIL image and one transform at a time. Live: Haar cascade, one face at a
time through eager PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
from emotion_lab.models.network import Network


def write_folder(
    split: Split, classes: list[str], count: int, folder: Path, side: int | None = None
) -> None:
    """Write ``count`` images of a split as PNG files, one folder for each class.

    A smaller split is repeated. With ``side``, images are resized to that many pixels.
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
    """Return a typical loader: ImageFolder, transforms of single PIL images, worker processes.

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


def train_epochs(batches: DataLoader, net: EmotionNet, device: str) -> Iterator[int]:
    """Train in float32 with Adam; yield the number of images after each epoch.

    Only the backbone is trained: the transforms have already normalised the images.
    """
    backbone = net.backbone.to(device).train()
    optimizer = torch.optim.Adam(backbone.parameters(), lr=1e-3)
    while True:
        count, total_loss, correct = 0, 0.0, 0
        for images, labels in batches:
            images, labels = images.to(device), labels.to(device)
            optimizer.zero_grad()
            output = backbone(images)
            logits = output[0] if isinstance(output, tuple) else output
            loss: Tensor = nn.functional.cross_entropy(logits, labels)
            loss.backward()
            optimizer.step()
            total_loss += loss.item()
            correct += int((logits.argmax(1) == labels).sum().item())
            count += len(labels)
        yield count


def load_epochs(batches: DataLoader, device: str) -> Iterator[int]:
    """Copy every batch to the device; yield the number of images after each epoch."""
    while True:
        count = sum(len(images.to(device)) for images, _ in batches)
        if device == "cuda":
            torch.cuda.synchronize()
        yield count


def live_pipeline(net: Network) -> Callable[[np.ndarray], int]:
    """Return a function that detects and classifies the faces of an RGB frame.

    It runs a Haar cascade on the whole frame and each face through eager float32 PyTorch, and
    returns the number of faces.
    """
    cascade = Path(cv2.__file__).parent / "data" / "haarcascade_frontalface_default.xml"
    detector = cv2.CascadeClassifier(str(cascade))
    size, channels = net.spec.image_size, net.spec.channels

    @torch.inference_mode()
    def process(image: np.ndarray) -> int:
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        boxes = detector.detectMultiScale(grey, scaleFactor=1.1, minNeighbors=5)
        for x, y, width, height in boxes:
            source = grey if channels == 1 else image
            face = cv2.resize(source[y : y + height, x : x + width], (size, size))
            tensor = torch.from_numpy(face.reshape(size, size, channels)).permute(2, 0, 1)
            int(net(tensor[None]).softmax(1).argmax(1))
        return len(boxes)

    return process
