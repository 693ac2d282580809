"""From crops of faces to probabilities, by nothing but the checkpoint or an exported file."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

from emotion_lab.core import checkpoint
from emotion_lab.core.errors import UserError, unknown
from emotion_lab.core.io import EXPORT_SUFFIXES, file_hash
from emotion_lab.data.transforms import Resize
from emotion_lab.inference.base import DEFAULTS, RUNTIMES, WORDS, InferenceBackend, ModelSource
from emotion_lab.inference.exported_model import open_exported
from emotion_lab.models.base import InputSpec

#: Batches of 1 to this many faces are run before the first real one, within :data:`WARM_S`.
WARM_FACES = 8
WARM_S = 1.0


class Classifier:
    """Classifies faces. Made by :func:`load_classifier`; one caller at a time.

    Attributes:
        classes: Class names, in the order of the probabilities.
        spec: The network's input (image_size, channels, mean, std).
        crop_margin: Share of a detected box to add on every side, for :func:`crop_faces`.
        temperature: Logits are divided by it before the softmax.
        runtime_name: Program, version and precision that run the network.
        card: What the checkpoint says of itself; of an exported file what is used of that.
    """

    def __init__(self, card: dict[str, Any], spec: InputSpec, runtime: InferenceBackend) -> None:
        self.card = card
        self.spec = spec
        self.classes: list[str] = list(card["classes"])
        self.crop_margin = float(card["input"]["crop_margin"])
        self.temperature = float(card["temperature"])
        self.runtime_name = runtime.name
        #: How the runtime was chosen and checked, in words.
        self.notes = runtime.notes
        self._run = runtime.run
        self._fit = Resize(spec.image_size, spec.channels)

    def logits(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Return float32 (N, K), what the network says of uint8 (h, w, 3) RGB or (h, w, 1) grey.

        Raises:
            ValueError: If an image is empty or of another shape or type.
        """
        if not len(images):
            return np.zeros((0, len(self.classes)), np.float32)
        for image in images:
            good = image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] in (1, 3)
            if not good or not image.size:
                raise ValueError(
                    "expected a face as uint8 (h, w, 3) RGB or (h, w, 1) grey, "
                    f"got {image.dtype} {image.shape}"
                )
        batch = np.stack([self._fit(image) for image in images]).transpose(0, 3, 1, 2)
        return self._run(np.ascontiguousarray(batch))

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Classify faces in one batch.

        Args:
            images: N crops of any size, uint8 (h, w, 3) RGB or (h, w, 1) grey. They reach the
                network exactly as in training and evaluation.

        Returns:
            Probabilities, float32 (N, K).

        Raises:
            ValueError: If an image is empty or of another shape or type.
        """
        return softmax(self.logits(images) / np.float32(self.temperature), axis=1)

    def warm(self) -> None:
        """Run small batches of each size once, so that no frame pays for a first time.

        Raises:
            UserError: If the network gives no finite numbers.
        """
        size, channels = self.spec.image_size, self.spec.channels
        begin = time.perf_counter()
        for count in range(1, WARM_FACES + 1):
            logits = self._run(np.full((count, channels, size, size), 128, np.uint8))
            if not np.isfinite(logits).all():
                raise UserError(
                    "the checkpoint's network gives no finite numbers. Train it again, or give "
                    "another ckpt=<file>."
                )
            if time.perf_counter() - begin > WARM_S:
                return


def _describe(path: Path) -> tuple[dict[str, Any], ModelSource]:
    """Read what the checkpoint says of itself.

    Raises:
        UserError: If it is not ours or lacks something.
    """
    card = checkpoint.read(path)[checkpoint.CARD]
    try:
        given = card["input"]
        spec = InputSpec(
            int(given["image_size"]),
            int(given["channels"]),
            tuple(float(value) for value in given["mean"]),
            tuple(float(value) for value in given["std"]),
        )
        if not card["classes"] or not all(isinstance(name, str) for name in card["classes"]):
            raise ValueError("no class names")
        temperature, margin = float(card["temperature"]), float(given["crop_margin"])
        if not (0 < temperature < np.inf and 0 <= margin < np.inf):
            raise ValueError(f"temperature {temperature}, crop_margin {margin}")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is damaged: its card is not whole ({type(error).__name__}: {error})."
        ) from None
    return card, ModelSource(path, file_hash(path), spec, temperature)


def _options(runtime: dict[str, Any] | str, threads: int | None) -> dict[str, Any]:
    """Return the runtime's config, complete and checked."""
    cfg = {"name": runtime} if isinstance(runtime, str) else dict(runtime)
    cfg = {**DEFAULTS, **cfg}
    for key in cfg:
        if key != "name" and key not in DEFAULTS:
            raise unknown("option", f"backend.{key}", (f"backend.{name}" for name in DEFAULTS))
    for key, words in WORDS.items():
        if cfg[key] not in words:
            raise UserError(f"backend.{key}={cfg[key]} is not valid: expected {', '.join(words)}.")
    if threads is not None:
        cfg["threads"] = threads
    count = cfg["threads"]
    if count is not None and (type(count) is not int or count < 1):
        raise UserError(f"backend.threads={count} is not valid: expected a whole number above 0.")
    return cfg


def open_runtime(
    ckpt: str | Path, runtime: dict[str, Any] | str, threads: int | None = None
) -> tuple[dict[str, Any], ModelSource, InferenceBackend]:
    """Return a checkpoint's card, the checkpoint as runtimes see it, and the runtime.

    Raises:
        UserError: See :func:`load_classifier`.
    """
    path = checkpoint.find(ckpt)
    cfg = _options(runtime, threads)
    build = RUNTIMES.get(cfg["name"])
    card, source = _describe(path)
    return card, source, build(cfg, source)


def load_classifier(
    ckpt: str | Path, runtime: dict[str, Any] | str = "auto", threads: int | None = None
) -> Classifier:
    """Load a checkpoint for use, in one line on standard output saying with what it runs.

    The first time it is converted to the runtime's own format, kept beside the checkpoint. An
    exported file runs as it is.

    Args:
        ckpt: A checkpoint of train, its run folder, or what export wrote.
        runtime: ``conf/backend/<name>.yaml`` as a plain dict, or its name.
        threads: CPU threads of one inference; wins over ``backend.threads``.

    Raises:
        UserError: If the checkpoint is not ours or damaged, the runtime is unknown, not installed
            or gives other answers than PyTorch.
    """
    path = Path(ckpt)
    if path.suffix in EXPORT_SUFFIXES and path.is_file():
        card, spec, built = open_exported(path, _options(runtime, threads))
    else:
        card, source, built = open_runtime(ckpt, runtime, threads)
        spec = source.spec
    classifier = Classifier(card, spec, built)
    classifier.warm()
    notes = "; ".join(classifier.notes)
    print(f"classifier: {classifier.runtime_name}" + (f" ({notes})" if notes else ""), flush=True)
    return classifier
