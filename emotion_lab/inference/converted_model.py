"""Backends ONNX Runtime and OpenVINO: they run a cached export of the checkpoint.

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
import torch
from scipy.special import softmax

from emotion_lab.core import weights
from emotion_lab.core.errors import UserError
from emotion_lab.core.input_spec import InputSpec
from emotion_lab.core.io import cache_root
from emotion_lab.inference.base import (
    BACKENDS,
    BackendUnavailableError,
    InferenceBackend,
    ModelSource,
    not_installed,
    supported_option,
)
from emotion_lab.inference.conversion.base import FORMATS
from emotion_lab.inference.conversion.writer import export, move_into_place, package_versions
from emotion_lab.inference.loader import RunOptions, open_graph
from emotion_lab.inference.openvino_core import computes_bf16, import_openvino
from emotion_lab.models.network import Network

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


def reference(net: Network) -> Callable[[np.ndarray], np.ndarray]:
    """Return eager PyTorch on the CPU, in the memory format of evaluation."""
    net = net.eval()
    layout = torch.channels_last if net.backbone.conv else torch.contiguous_format
    net = net.to(memory_format=layout)

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return net(torch.from_numpy(images).contiguous(memory_format=layout)).float().numpy()

    return run


def max_difference(
    run: Callable[[np.ndarray], np.ndarray], logits: np.ndarray, source: ModelSource
) -> float:
    """Return the largest difference of a probability from the probe images' ``logits``."""
    images = probe_images(source.spec)
    # With two batch sizes, a graph whose batch size is fixed by mistake fails here.
    outputs = np.concatenate([run(images[:1]), run(images[1:])])
    if outputs.shape != logits.shape:
        return float("nan")
    ours, expected = (
        softmax(np.asarray(x, np.float64) / source.temperature, 1) for x in (outputs, logits)
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
    with tempfile.TemporaryDirectory(prefix=".convert-", dir=path.parent) as folder:
        copies = [Path(shutil.copy(f, Path(folder) / (path.stem + f.suffix))) for f in files]
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
    net = source.net()
    logits = reference(net)(probe_images(source.spec))
    if not np.isfinite(logits).all():
        raise UserError(
            f"{source.path}: its network gives no finite numbers. Train it again, or set another "
            "ckpt=<file>."
        )
    facts = {"probes": {"version": FORMAT, "logits": logits.tolist()}}
    sha256 = source.sha256
    try:
        net.to(memory_format=torch.contiguous_format)
        export(net, source.card, format, "fp32", path, checkpoint=sha256, resize=False, extra=facts)
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


@BACKENDS.register("onnx")
@BACKENDS.register("onnxruntime")
def build_onnxruntime(cfg: dict[str, Any], source: ModelSource) -> InferenceBackend:
    """Run with ONNX Runtime; ``onnx`` is a second name of it."""
    supported_option(cfg, "precision", "fp32")
    device = supported_option(cfg, "device", "cpu", "cuda")
    try:
        import onnx  # noqa: F401 (needed by the conversion, checked before it starts)
        import onnxruntime as ort
        import onnxscript  # noqa: F401 (likewise)
    except ImportError as error:
        raise not_installed(cfg["name"], "onnxruntime onnx onnxscript", error) from error
    has_gpu = "CUDAExecutionProvider" in ort.get_available_providers()
    if device == "cuda" and not has_gpu:
        raise BackendUnavailableError(
            "backend.device=cuda: this onnxruntime has no GPU support. pip install "
            "onnxruntime-gpu in its place, or set backend.device=cpu."
        )
    device = "cuda" if has_gpu and device != "cpu" else "cpu"
    name = f"onnxruntime {ort.__version__} fp32 on {device}"
    return open_converted(source, "onnx", name, RunOptions(cfg["threads"], "fp32", device))


@BACKENDS.register("openvino")
def build_openvino(cfg: dict[str, Any], source: ModelSource) -> InferenceBackend:
    """Run with OpenVINO; ``backend.precision=auto`` is bf16 if the CPU supports it, else fp32."""
    precision = supported_option(cfg, "precision", "fp32", "bf16")
    supported_option(cfg, "device", "cpu")
    try:
        version = import_openvino().__version__.split("-")[0]
    except ImportError as error:
        raise not_installed("openvino", "openvino", error) from error

    def run_in(precision: str) -> InferenceBackend:
        name = f"openvino {version} {precision} on cpu"
        return open_converted(source, "openvino", name, RunOptions(cfg["threads"], precision))

    if precision == "bf16" and not computes_bf16():
        raise BackendUnavailableError(
            "backend.precision=bf16: this CPU has no bfloat16 instructions (AMX or AVX512-BF16). "
            "Set backend.precision=auto."
        )
    if precision != "auto" or not computes_bf16():
        return run_in("fp32" if precision == "auto" else precision)
    try:
        return run_in("bf16")
    except BackendUnavailableError as error:
        backend = run_in("fp32")
        backend.notes.insert(0, f"not bf16: {error}")
        return backend
