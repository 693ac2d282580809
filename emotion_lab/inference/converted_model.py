"""The cached export of a checkpoint that the backends ONNX Runtime and OpenVINO run.

The export is the same as that of ``python -m emotion_lab.export``, without resizing and softmax in
the graph: OpenCV resizes faster. It contains PyTorch's logits of a few probe images. Each start
compares the backend with them, which detects another processor or a lower precision without
building the PyTorch network again.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.core import weights
from emotion_lab.core.errors import UserError
from emotion_lab.core.input_spec import InputSpec
from emotion_lab.core.io import cache_root, move_into_place, scratch_folder
from emotion_lab.inference.base import (
    BackendUnavailableError,
    InferenceBackend,
    ModelSource,
    softmax,
)
from emotion_lab.inference.conversion.base import FORMATS, package_versions
from emotion_lab.inference.loader import RunOptions, open_graph

#: Version of the graph and the probe images; files of other versions are converted again.
FORMAT = 2
#: Format -> suffix of the cached file, which is named after the checkpoint.
SUFFIXES = {"onnx": ".onnx", "openvino": ".openvino.xml"}
#: Largest accepted difference of a probability from PyTorch's. float32 runtimes sum in another
#: order (1e-6 was measured); bfloat16 has 8 significant bits (0.008).
TOLERANCE = {"fp32": 1e-4, "bf16": 0.03}


def probe_images(spec: InputSpec) -> np.ndarray:
    """Return four images, uint8 (4, C, S, S): noise, a ramp, waves, weak noise on grey.

    They are computed without a random generator, whose numbers may change with its version.
    """
    shape = (spec.channels, spec.image_size, spec.image_size)
    count = np.arange(np.prod(shape), dtype=np.uint64)
    noise = ((count * 2654435761 % 2**32) >> 24).reshape(shape).astype(np.float64)
    c, y, x = np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij")
    waves = 127.5 + 127.5 * np.sin(9 * x + 2 * c) * np.cos(7 * y - c)
    ramp = 255 * (0.7 * y + 0.3 * (1 - x)) * (1 - 0.3 * c)
    return np.stack([noise, ramp, waves, 96 + noise / 4]).astype(np.uint8)


def max_difference(
    run: Callable[[np.ndarray], np.ndarray], logits: np.ndarray, source: ModelSource
) -> float:
    """Return the largest difference of a probability or learned quantity on the probe images.

    Args:
        run: The backend.
        logits: What PyTorch returns, (4, K + Q).
        source: The checkpoint.
    """
    images = probe_images(source.spec)
    # With two batch sizes, a graph whose batch size is fixed by mistake fails here.
    outputs = np.concatenate([run(images[:1]), run(images[1:])])
    if outputs.shape != logits.shape:
        return float("nan")
    k = len(source.card["classes"])
    ours, expected = (
        np.concatenate([softmax(np.asarray(x[:, :k], np.float64), source.temperature), x[:, k:]], 1)
        for x in (outputs, logits)
    )
    return float(np.abs(ours - expected).max())


def cache_paths(source: ModelSource, format: str) -> list[Path]:
    """Return the possible paths of the cached file: next to the checkpoint, in the cache folder."""
    suffix = SUFFIXES[format]
    fallback = cache_root() / "deploy" / f"{source.sha256[:16]}{suffix}"
    if source.path.parent == weights.FOLDER:  # its .onnx is a shipped file
        return [fallback]
    return [source.path.with_name(source.path.stem + suffix), fallback]


def save_converted(files: Sequence[Path], path: Path) -> None:
    """Copy the files of one export to ``path`` and its folder, atomically and the last one last."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(path.parent, ".convert-") as folder:
        copies = [Path(shutil.copy(f, folder / (path.stem + f.suffix))) for f in files]
        move_into_place(copies, path.parent)


def _open_cached(
    path: Path, source: ModelSource, format: str, name: str, options: RunOptions
) -> InferenceBackend | None:
    """Return the backend of a cached file; None if it is missing, stale, damaged or differs."""
    if not path.is_file():
        return None
    try:
        meta, run = open_graph(path, options)
        if meta["checkpoint_sha256"] != source.sha256 or meta["probes"]["version"] != FORMAT:
            return None
        if not package_versions(format).items() <= meta["versions"].items():
            return None
        # Earlier versions converted checkpoints without their learned quantities.
        if meta.get("learned", []) != source.card.get("quantities", []):
            return None
        difference = max_difference(run, np.asarray(meta["probes"]["logits"]), source)
    except Exception:  # a damaged file raises arbitrary exceptions
        return None
    if not difference <= TOLERANCE[options.precision or "fp32"]:
        return None
    return InferenceBackend(name, run, [f"{path.name}, within {difference:.0e} of PyTorch"])


def _convert(
    path: Path, source: ModelSource, format: str, name: str, options: RunOptions
) -> InferenceBackend:
    """Export the checkpoint to ``path`` and verify the backend with it."""
    import torch  # a start from a cached file does without it

    from emotion_lab.inference.backends.torch import reference
    from emotion_lab.inference.conversion.writer import export

    net, card = source.restore()
    logits = reference(net)(probe_images(source.spec))
    if not np.isfinite(logits).all():
        raise UserError(
            f"{source.path}: its network gives no finite numbers. Train it again, or set another "
            "ckpt=<file>."
        )
    facts: dict[str, Any] = {"probes": {"version": FORMAT, "logits": logits.tolist()}}
    if learned := source.card.get("quantities"):
        facts["learned"] = learned
    sha256 = source.sha256
    try:
        net.to(memory_format=torch.contiguous_format)
        export(net, card, format, "fp32", path, checkpoint=sha256, resize=False, extra=facts)
        run = open_graph(path, options)[1]
        difference = max_difference(run, logits, source)
    except Exception as error:  # exporters and runtimes raise arbitrary exceptions
        cause = error.__cause__ or error
        reason = " ".join(str(cause).split())[:200] or type(cause).__name__
        raise BackendUnavailableError(
            f"{source.path} cannot be converted to {name} ({reason}). Set backend=torch."
        ) from error
    tolerance = TOLERANCE[options.precision or "fp32"]
    if not difference <= tolerance:
        raise BackendUnavailableError(
            f"{source.path}: {name} differs from PyTorch by {difference:.2g} in a "
            f"probability, allowed is {tolerance:g}. Set backend=torch."
        )
    return InferenceBackend(name, run, [f"converted now, within {difference:.0e} of PyTorch"])


def open_converted(
    source: ModelSource, format: str, name: str, options: RunOptions
) -> InferenceBackend:
    """Return the backend from a cached file, or convert, verify and cache the checkpoint.

    One file, stored in float32, serves all precisions of the computation.
    """
    paths = cache_paths(source, format)
    for path in paths:
        backend = _open_cached(path, source, format, name, options)
        if backend is not None:
            return backend
    with tempfile.TemporaryDirectory() as folder:
        converted = Path(folder) / paths[0].name
        backend = _convert(converted, source, format, name, options)
        for path in paths:
            try:
                save_converted(FORMATS.get(format)().files(converted), path)
            except OSError:  # read-only, or a full disk
                continue
            backend.notes.append(f"cached as {path}")
            return backend
    folders = f"neither {source.path.parent} nor {paths[-1].parent}"
    backend.notes.append(f"not cached, {folders} can be written")
    return backend
