"""Classification of face crops with a checkpoint or an exported file."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.config import schema
from emotion_lab.core import weights
from emotion_lab.core.errors import UserError, unknown
from emotion_lab.core.input_spec import InputSpec
from emotion_lab.core.io import EXPORT_SUFFIXES, cache_root, file_hash, write_json
from emotion_lab.core.paths import find_checkpoint
from emotion_lab.data.transforms import Resize
from emotion_lab.inference.base import (
    BACKENDS,
    DEFAULTS,
    InferenceBackend,
    ModelSource,
    input_spec,
    softmax,
)
from emotion_lab.inference.derived import DerivedOutputs, FaceQuantities, VoteShares
from emotion_lab.inference.exported_model import open_exported
from emotion_lab.inference.neutral import NeutralReference
from emotion_lab.inference.shipped_model import open_shipped

#: Version of the cached cards.
CARD_FORMAT = 5
#: Values of ``backend=`` for which a shipped model runs as its ONNX file.
SHIPPED_BACKENDS = ("auto", "onnx", "onnxruntime", "openvino")
#: Batch sizes 1 to WARM_FACES run before the first frame, for at most WARM_S seconds.
WARM_FACES = 8
WARM_S = 1.0


class Classifier:
    """Classifies faces; built by :func:`load_classifier`. Not thread-safe.

    Attributes:
        classes: Class names, in the order of the probabilities.
        crop_margin: Fraction of a detected box to add on every side, for :func:`crop_faces`.
        temperature: Logits are divided by it before the softmax.
        runtime_name: Program, version, precision and device that run the network.
        model_id: Hash of the checkpoint, also for a file that was exported from it.
        notes: How the backend was chosen and verified.
        resize: Resizes one crop to the input of the network; a second time changes nothing.
        data_name: Name of the dataset that it was trained on; None in exported files without it.
        derived: Valence, arousal and intensity of a face from its probabilities.
        neutral: Average neutral face and strength of the neutral baseline; None if not known.
        quantities: The same, with the learned values in the place of derived ones.
    """

    def __init__(
        self, card: dict[str, Any], spec: InputSpec, backend: InferenceBackend, model_id: str
    ) -> None:
        self.spec, self.model_id = spec, model_id
        self.classes: list[str] = list(card["classes"])
        self.crop_margin = float(card["input"]["crop_margin"])
        self.temperature = float(card["temperature"])
        self.data_name: str | None = card["config"]["data"]["name"]
        vote_shares = VoteShares.from_card(card["vote_shares"])
        self.derived = DerivedOutputs(self.classes, vote_shares)
        self.quantities = FaceQuantities(self.derived, card.get("quantities", []))
        self.neutral = NeutralReference.from_card(card.get("neutral"), model_id, self.classes)
        self.runtime_name = backend.name
        self.notes = backend.notes
        self._run = backend.run
        self.resize = Resize(spec.image_size, spec.channels)

    def logits(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Return the logits, float32 (N, K); the arguments are those of :meth:`__call__`."""
        return self._outputs(images)[:, : len(self.classes)]

    def _outputs(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Return logits and learned quantities, float32 (N, K + Q)."""
        if not len(images):
            columns = len(self.classes) + len(self.quantities.learned)
            return np.zeros((0, columns), np.float32)
        for image in images:
            valid = image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] in (1, 3)
            if not valid or not image.size:
                raise ValueError(
                    "expected a face as uint8 (h, w, 3) RGB or (h, w, 1) grey, "
                    f"got {image.dtype} {image.shape}"
                )
        batch = np.stack([self.resize(image) for image in images]).transpose(0, 3, 1, 2)
        return self._run(np.ascontiguousarray(batch))

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Classify faces in one batch, with the preprocessing of training and evaluation.

        Args:
            images: N crops of any size, uint8 (h, w, 3) RGB or (h, w, 1) grey.

        Returns:
            Probabilities, float32 (N, K).

        Raises:
            ValueError: If an image is empty or has another shape or dtype.
        """
        return self.predict(images)[0]

    def predict(self, images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return probabilities, float32 (N, K), and learned quantities, float32 (N, Q).

        The columns are :attr:`classes` and ``quantities.learned``; the arguments are those of
        :meth:`__call__`.
        """
        outputs = self._outputs(images)
        k = len(self.classes)
        return softmax(outputs[:, :k], self.temperature), outputs[:, k:]

    def warm(self) -> None:
        """Run each small batch size once, because the first run of a batch size is slow."""
        size, channels = self.spec.image_size, self.spec.channels
        start_time = time.perf_counter()
        for count in range(1, WARM_FACES + 1):
            logits = self._run(np.full((count, channels, size, size), 128, np.uint8))
            if not np.isfinite(logits).all():
                raise UserError(
                    "the checkpoint's network gives no finite numbers. Train it again, or set "
                    "another ckpt=<file>."
                )
            if time.perf_counter() - start_time > WARM_S:
                return


def _read_card(path: Path) -> dict[str, Any]:
    """Read the card of a checkpoint and return the entries that running it needs."""
    from emotion_lab.core import checkpoint  # imports torch

    content = checkpoint.read(path)
    card = content[checkpoint.CARD]
    if "frame" in card:
        raise UserError(
            f"ckpt={path} is a temporal model: set smoothing=temporal smoothing.ckpt=<its run "
            f"directory> ckpt={card['frame']['ckpt']}."
        )
    try:
        spec = input_spec(card["input"])
        if not card["classes"] or not all(isinstance(name, str) for name in card["classes"]):
            raise ValueError("no class names")
        temperature, margin = float(card["temperature"]), float(card["input"]["crop_margin"])
        if not (0 < temperature < np.inf and 0 <= margin < np.inf):
            raise ValueError(f"temperature {temperature}, crop_margin {margin}")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is damaged: its card is incomplete ({type(error).__name__}: {error})."
        ) from None
    data = card.get("members", [card])[0].get("config", {}).get("data", {})
    return {
        "classes": list(card["classes"]),
        "temperature": temperature,
        "vote_shares": card.get("vote_shares"),
        "neutral": card.get("neutral"),
        "quantities": checkpoint.quantities(content),
        "input": {**asdict(spec), "crop_margin": margin},
        "config": {"data": {"name": data.get("name")}},
    }


def read_source(path: Path) -> ModelSource:
    """Read and check the card of a checkpoint.

    It is saved in the cache folder under the file's hash: the next start reads it without torch,
    whose import takes seconds.
    """
    sha256 = file_hash(path)
    cached = cache_root() / "cards" / f"{sha256}.{CARD_FORMAT}.json"
    try:
        card = json.loads(cached.read_text(encoding="utf-8"))
        spec, temperature = input_spec(card["input"]), float(card["temperature"])
    except (OSError, ValueError, KeyError, TypeError):
        card = _read_card(path)
        spec, temperature = input_spec(card["input"]), card["temperature"]
        with contextlib.suppress(OSError):  # a cache folder that cannot be written
            cached.parent.mkdir(parents=True, exist_ok=True)
            write_json(cached, card)
    return ModelSource(path, sha256, spec, temperature, card)


def _options(backend: dict[str, Any] | str, threads: int | None) -> dict[str, Any]:
    """Return the complete, checked config of the backend."""
    cfg = {**DEFAULTS, **({"name": backend} if isinstance(backend, str) else backend)}
    for key in cfg:
        if key != "name" and key not in DEFAULTS:
            raise unknown("option", f"backend.{key}", (f"backend.{name}" for name in DEFAULTS))
    if threads is not None:
        cfg["threads"] = threads
    schema.check_group("backend", cfg)
    return cfg


def open_backend(
    ckpt: str | Path, backend: dict[str, Any] | str, threads: int | None = None
) -> tuple[ModelSource, InferenceBackend]:
    """Open a checkpoint with a backend; the arguments are those of :func:`load_classifier`."""

    path = find_checkpoint(ckpt)
    cfg = _options(backend, threads)
    build = BACKENDS.get(cfg["name"])
    source = read_source(path)
    return source, build(cfg, source)


def load_classifier(
    ckpt: str | Path, backend: dict[str, Any] | str = "auto", threads: int | None = None
) -> Classifier:
    """Load a checkpoint or an exported file.

    The first call converts a checkpoint to the backend's format and caches the result next to it.
    An exported file runs as it is.

    Args:
        ckpt: A checkpoint of train, its run directory, an exported file, or the name of a shipped
            model. A shipped model runs as its ONNX file, unless ``backend`` needs its checkpoint.
        backend: ``conf/backend/<name>.yaml`` as a plain dict, or its name.
        threads: CPU threads of one inference; overrides ``backend.threads``.
    """
    cfg = _options(backend, threads)
    is_shipped = weights.is_name(ckpt) and cfg["name"] in SHIPPED_BACKENDS
    path = weights.find(str(ckpt), ".onnx") if is_shipped else Path(ckpt)
    if path.suffix in EXPORT_SUFFIXES and path.is_file():
        is_choice = is_shipped and cfg["name"] == "auto"
        card, spec, opened = open_shipped(str(ckpt), cfg) if is_choice else open_exported(path, cfg)
        own = weights.checkpoint_hash(path)
        model_id = own or card["checkpoint_sha256"] or file_hash(path)
    else:
        source, opened = open_backend(ckpt, backend, threads)
        card, spec, model_id = source.card, source.spec, source.sha256
    classifier = Classifier(card, spec, opened, model_id)
    classifier.warm()
    return classifier
