"""Convert a checkpoint once, keep the result beside it, and hold it against PyTorch at each start.

The kept file carries what PyTorch said of a few probe images. Loading compares the runtime with
that: a damaged file, another processor or a lower precision are noticed without building the
PyTorch network again.
"""

from __future__ import annotations

import json
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from scipy.special import softmax

from emotion_lab.core.errors import UserError
from emotion_lab.core.io import cache_root
from emotion_lab.inference.base import BackendUnavailableError, InferenceBackend, ModelSource
from emotion_lab.models.base import EmotionNet, InputSpec

M = TypeVar("M")

#: Name of the entry in a converted file.
ENTRY = "emotion_lab"
#: Raised when the exported graph or the probe images change; older files are converted anew.
FORMAT = 1

#: Largest difference of a probability from PyTorch's that is accepted. float32 runtimes add in
#: another order (about 1e-6 was measured); bfloat16 keeps 8 bits of each number (0.008).
TOLERANCE = {"fp32": 1e-4, "bf16": 0.03}


class Converter(ABC, Generic[M]):
    """One foreign runtime; ``M`` is its converted network in memory.

    Attributes:
        name: For people, for instance ``openvino 2026.4.1 fp32``.
        version: Whatever a kept file depends on: program and version.
        suffix: Of the kept file, which is named after the checkpoint.
        precision: Key of :data:`TOLERANCE`.
    """

    name: str
    version: str
    suffix: str
    precision: str

    @abstractmethod
    def convert(self, net: EmotionNet) -> M:
        """Convert; the graph takes uint8 (B, C, S, S), any B, and returns float32 logits."""

    @abstractmethod
    def label(self, model: M, text: str) -> M:
        """Write ``text`` into the model under :data:`ENTRY`."""

    @abstractmethod
    def save(self, model: M, path: Path) -> None:
        """Write ``path``, and if need be files beside it of the same stem."""

    @abstractmethod
    def load(self, path: Path) -> tuple[M, str]:
        """Return the model and the text of :meth:`label`; raise anything if damaged."""

    @abstractmethod
    def compile(self, model: M) -> Callable[[np.ndarray], np.ndarray]:
        """Return the function of :attr:`Runtime.run`."""


def probes(spec: InputSpec) -> np.ndarray:
    """Return four images, uint8 (4, C, S, S): noise, a ramp, waves, soft noise on grey.

    They come from arithmetic, not from a generator whose numbers may change with its version.
    """
    shape = (spec.channels, spec.image_size, spec.image_size)
    count = np.arange(np.prod(shape), dtype=np.uint64)
    noise = ((count * 2654435761 % 2**32) >> 24).reshape(shape).astype(np.float64)
    c, y, x = np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij")
    waves = 127.5 + 127.5 * np.sin(9 * x + 2 * c) * np.cos(7 * y - c)
    ramp = 255 * (0.7 * y + 0.3 * (1 - x)) * (1 - 0.3 * c)
    return np.stack([noise, ramp, waves, 96 + noise / 4]).astype(np.uint8)


def reference(net: EmotionNet) -> Callable[[np.ndarray], np.ndarray]:
    """Return eager PyTorch on the CPU, in the memory format that evaluation uses."""
    net = net.eval()
    layout = torch.channels_last if net.backbone.conv else torch.contiguous_format
    net = net.to(memory_format=layout)

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return net(torch.from_numpy(images).contiguous(memory_format=layout)).float().numpy()

    return run


def difference(
    run: Callable[[np.ndarray], np.ndarray], logits: np.ndarray, source: ModelSource
) -> float:
    """Return the largest difference of a probability from the ``logits`` of the probes."""
    images = probes(source.spec)
    # Two batch sizes: a graph that is nailed to one fails here, not in the middle of a film.
    ours = np.concatenate([run(images[:1]), run(images[1:])])
    if ours.shape != logits.shape:
        return float("nan")
    both = [softmax(np.asarray(x, np.float64) / source.temperature, 1) for x in (ours, logits)]
    return float(np.abs(both[0] - both[1]).max())


def _places(source: ModelSource, suffix: str) -> list[Path]:
    """Return where the converted file may lie: beside the checkpoint, else in the cache."""
    spare = cache_root() / "deploy" / f"{source.sha256[:16]}{suffix}"
    return [source.path.with_name(source.path.stem + suffix), spare]


def _key(converter: Converter, source: ModelSource) -> dict[str, Any]:
    return {"format": FORMAT, "sha256": source.sha256, "runtime": converter.version}


def _kept(converter: Converter[M], source: ModelSource, path: Path) -> InferenceBackend | None:
    """Return the runtime of a kept file; None if it is absent, stale, damaged or wrong."""
    if not path.is_file():
        return None
    try:
        model, text = converter.load(path)
        label = json.loads(text)
        if {key: label[key] for key in _key(converter, source)} != _key(converter, source):
            return None
        run = converter.compile(model)
        worst = difference(run, np.asarray(label["logits"]), source)
    except Exception:  # a damaged file fails in whatever way its reader likes
        return None
    if not worst <= TOLERANCE[converter.precision]:
        return None
    return InferenceBackend(converter.name, run, [f"{path.name}, within {worst:.0e} of PyTorch"])


def save_converted(converter: Converter[M], model: M, path: Path) -> None:
    """Write the files under temporary names, then rename them into place, ``path`` last."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".convert-", dir=path.parent) as folder:
        converter.save(model, Path(folder) / path.name)
        for file in sorted(Path(folder).iterdir(), key=lambda file: file.name == path.name):
            with open(file, "rb+") as handle:
                os.fsync(handle.fileno())
            os.replace(file, path.with_name(file.name))


def open_converted(converter: Converter[M], source: ModelSource) -> InferenceBackend:
    """Return the runtime from a kept file, or convert, check and keep it.

    Raises:
        Unusable: If it cannot be converted, or says something else than PyTorch.
        UserError: If the network itself gives no finite numbers.
    """
    places = _places(source, converter.suffix)
    for path in places:
        runtime = _kept(converter, source, path)
        if runtime is not None:
            return runtime
    net = source.net()
    images = probes(source.spec)
    logits = reference(net)(images)
    if not np.isfinite(logits).all():
        raise UserError(
            f"{source.path}: its network gives no finite numbers. Train it again, or give another "
            "ckpt=<file>."
        )
    label = json.dumps({**_key(converter, source), "logits": logits.tolist()})
    try:
        net = net.to(memory_format=torch.contiguous_format)
        model = converter.label(converter.convert(net), label)
        run = converter.compile(model)
        worst = difference(run, logits, source)
    except Exception as error:  # each exporter has errors of its own for what it cannot do
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise BackendUnavailableError(
            f"{source.path} cannot be converted to {converter.name} ({reason}). Set backend=torch."
        ) from error
    tolerance = TOLERANCE[converter.precision]
    if not worst <= tolerance:
        raise BackendUnavailableError(
            f"{source.path}: {converter.name} differs from PyTorch by {worst:.2g} in a "
            f"probability, allowed is {tolerance:g}. Set backend=torch."
        )
    notes = [f"converted now, within {worst:.0e} of PyTorch"]
    for path in places:
        try:
            save_converted(converter, model, path)
        except (OSError, RuntimeError):  # read-only or full; OpenVINO raises RuntimeError for it
            continue
        return InferenceBackend(converter.name, run, [*notes, f"kept as {path}"])
    spare = places[-1].parent
    notes.append(f"not kept, neither {source.path.parent} nor {spare} can be written")
    return InferenceBackend(converter.name, run, notes)
