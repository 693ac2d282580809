"""Accuracy on images made worse: nine corruptions in five severities (see ``corruptions``)."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch

from emotion_lab.core.progress import track
from emotion_lab.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from emotion_lab.evaluation.result import EvaluationResult
from emotion_lab.models.base import EmotionNet

#: Pixels of a batch, 128 images of 48x48. Large images come in smaller batches, for the memory.
BATCH_PIXELS = 128 * 48**2


def _keys(judged: EvaluationResult, seed: int) -> list[tuple[int, ...]]:
    """Return one key of whole numbers for each prediction, from the image's content and the seed.

    Content, not position: another model that leaves out a class, or reads the folder in another
    order, still meets the same images under the same noise.
    """
    part, keys = judged.part, []
    for position in judged.predictions.positions.tolist():
        digest = part.store.digest(int(part.indices[position]))
        mixed = hashlib.blake2b(digest, digest_size=16, salt=f"{seed:x}".encode()[-16:]).digest()
        keys.append(tuple(np.frombuffer(mixed, np.uint32).tolist()))
    return keys


def choose(labels: np.ndarray, keys: list[tuple[int, ...]], n: int) -> np.ndarray:
    """Choose ``n`` predictions at random, each class by its share (largest remainders).

    Args:
        labels: int64 (N,).
        keys: N random keys: those with the smallest ones of each class are taken.
        n: How many.

    Returns:
        int64 (min(n, N),), ascending.
    """
    if n >= len(labels):
        return np.arange(len(labels))
    order = sorted(range(len(labels)), key=lambda i: keys[i])
    members = [[i for i in order if labels[i] == label] for label in np.unique(labels)]
    exact = [n * len(indices) / len(labels) for indices in members]
    counts = [int(value) for value in exact]
    # Where two remainders are equal, the keys decide: not the order of the classes.
    remainders = sorted(
        range(len(members)), key=lambda c: (counts[c] - exact[c], keys[members[c][0]])
    )
    for c in remainders[: n - sum(counts)]:
        counts[c] += 1
    chosen = [i for indices, count in zip(members, counts, strict=True) for i in indices[:count]]
    return np.array(sorted(chosen), dtype=np.int64)


@torch.inference_mode()
def _right(net: EmotionNet, images: list[np.ndarray], labels: np.ndarray, device: str) -> int:
    """Return how many of the fitted images (S, S, C) the network recognises."""
    batch = torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2)).to(device)
    memory = torch.channels_last if net.backbone.conv else torch.contiguous_format
    predicted = net(batch.contiguous(memory_format=memory)).float().argmax(1)
    return int((predicted.cpu().numpy() == labels).sum())


def robustness(
    judged: EvaluationResult, n: int = 500, device: str = "cpu", seed: int = 0
) -> dict[str, Any]:
    """Score the network on corrupted copies of some of the split's images.

    The images are corrupted as they were read, at their own size, then fitted to the network.
    Which images, and their noise, are functions of the images and the seed alone, so that two
    models of the same split can be compared. There is no test-time augmentation.

    Args:
        judged: The network and the split; images that cannot be read are not in it.
        n: Images to take; all of them where there are fewer.
        device: ``cpu``, ``cuda`` or ``mps``.
        seed: Of the choice of images and of their noise, 0 or more.

    Returns:
        ``n``; ``clean``, the accuracy on these images as they are; and by name of each corruption
        the accuracies at severities 1 to 5. Accuracies are shares from 0 to 1.

    Raises:
        ValueError: If ``n`` is below 1 or the split has no predictions.
    """
    if n < 1 or not len(judged.labels):
        raise ValueError(f"expected at least one image, got n={n} of {len(judged.labels)}")
    keys, labels, fit = _keys(judged, seed), judged.labels, judged.fit
    chosen = choose(labels, keys, n)
    net = judged.net.to(device).eval()
    clean = 0
    right = {name: [0] * len(SEVERITIES) for name in CORRUPTIONS}
    size = max(8, BATCH_PIXELS // fit.image_size**2)
    batches = [chosen[i : i + size] for i in range(0, len(chosen), size)]
    for part in track(batches, "robustness "):
        raw = [judged.raw(i) for i in part]
        clean += _right(net, [fit(image) for image in raw], labels[part], device)
        for name, counts in right.items():
            for k, severity in enumerate(SEVERITIES):
                images = [
                    fit(corrupt(image, name, severity, keys[i]))
                    for i, image in zip(part, raw, strict=True)
                ]
                counts[k] += _right(net, images, labels[part], device)
    total = len(chosen)
    return {
        "n": total,
        "clean": clean / total,
        **{name: [count / total for count in counts] for name, counts in right.items()},
    }


def examples(judged: EvaluationResult, i: int, seed: int = 0) -> dict[str, list[np.ndarray]]:
    """Return the image of prediction ``i`` under every corruption, as the network sees it.

    Returns:
        Name of the corruption -> five images uint8 (S, S, C), severities 1 to 5; the very images
        that :func:`robustness` scores with that seed.
    """
    image, key = judged.raw(i), _keys(judged, seed)[i]
    return {
        name: [judged.fit(corrupt(image, name, severity, key)) for severity in SEVERITIES]
        for name in CORRUPTIONS
    }
