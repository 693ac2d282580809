"""``backend=auto``: the fastest backend that agrees with PyTorch, measured once, then cached."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.core.environment import cores, cpu_multiplies_bf16, cpu_name
from emotion_lab.core.errors import UserError
from emotion_lab.core.io import cache_root, file_hash, write_json
from emotion_lab.inference.base import (
    BACKENDS,
    BackendUnavailableError,
    InferenceBackend,
    ModelSource,
)
from emotion_lab.inference.certificate import certified_int8
from emotion_lab.inference.conversion.base import package_version
from emotion_lab.inference.converted_model import probe_images
from emotion_lab.inference.exported_model import open_exported

#: The candidates (backend, precision). The last one is the reference and always available. On a
#: CPU, ONNX Runtime is a candidate only where OpenVINO cannot run: the conversion for it takes
#: longer than everything else together, and its speed is about that of OpenVINO.
CANDIDATES = (
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("onnxruntime", "fp32"),
    ("torch", "fp32"),
)
#: A further candidate for a checkpoint with a certified int8 export.
INT8 = ("openvino", "int8")
#: A choice is valid for the versions of these packages.
PACKAGES = ("openvino", "onnxruntime", "onnx", "onnxscript", "torch")
#: A choice is valid for the values of these environment variables.
VARIABLES = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
#: Version of the choice file and of the measurement.
FORMAT = 2

#: Seconds in which all candidates together are timed alternately, for 1 to ROUNDS rounds.
MEASURE_S = 0.8
ROUNDS = 40
#: bfloat16 and int8 are chosen only if they are faster than fp32 by this factor.
BF16_MARGIN = 1.05


def has_gpu() -> bool:
    """Return whether an NVIDIA driver is installed, without torch: its tool is on the path."""
    return shutil.which("nvidia-smi") is not None


def measure(backends: Sequence[InferenceBackend], source: ModelSource) -> list[float]:
    """Return the median milliseconds of one face for each backend, timed alternately."""
    image = probe_images(source.spec)[:1]
    times: list[list[float]] = [[] for _ in backends]
    start_time = time.perf_counter()
    while len(times[-1]) < ROUNDS:
        for backend, own_times in zip(backends, times, strict=True):
            backend.run(image)  # warm-up: the CPU caches hold another network
            start = time.perf_counter()
            backend.run(image)
            own_times.append(1000 * (time.perf_counter() - start))
        if time.perf_counter() - start_time > MEASURE_S:
            break
    return [statistics.median(own_times) for own_times in times]


def conditions(cfg: dict[str, Any], sha256: str) -> dict[str, Any]:
    """Return everything the choice depends on; a choice is valid while all of it is equal.

    Args:
        sha256: Of the checkpoint.
    """
    return {
        "format": FORMAT,
        "candidates": [list(pair) for pair in CANDIDATES],
        "sha256": sha256,
        "versions": {package: package_version(package) for package in PACKAGES},
        "cpu": cpu_name(),
        "cores": cores(),
        "gpu": has_gpu(),
        "environment": {name: os.environ.get(name) for name in VARIABLES},
        **{key: cfg[key] for key in ("precision", "device", "threads")},
    }


def choice_path(key: dict[str, Any]) -> Path:
    """Return the path of the choice file for :func:`conditions`."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_root() / "runtime" / f"{digest[:16]}.json"


def certified_export(source: ModelSource) -> Path | None:
    """Return the int8 export of a checkpoint whose certificate passed; None without one.

    It is searched in the checkpoint's folder, in its run directory and in ``export/`` there.
    """
    folder = source.path.parent
    run = folder.parent if folder.name == "checkpoints" else folder
    return certified_int8((folder, run, run / "export"), source.sha256)


def _open_int8(cfg: dict[str, Any], source: ModelSource) -> InferenceBackend:
    """Open the certified int8 export; its outputs are those of the checkpoint."""
    file = certified_export(source)
    if file is None:
        raise BackendUnavailableError(f"{source.path} has no certified int8 export.")
    try:
        options = {"name": "openvino", "precision": "auto", "device": "auto"}
        card, _, opened = open_exported(file, {**cfg, **options})
    except UserError as error:
        raise BackendUnavailableError(str(error)) from error
    if card["quantities"] != source.card.get("quantities", []):
        raise BackendUnavailableError(
            f"{file} lacks what the checkpoint has learned: export again."
        )
    k = len(card["classes"])

    def run(images: np.ndarray) -> np.ndarray:
        outputs = opened.run(images)
        # The export divides by the temperature itself.
        outputs[:, :k] *= source.temperature
        return outputs

    note = f"{file.name}, whose certificate passed"
    return InferenceBackend(opened.name, run, [note])


def _build(cfg: dict[str, Any], source: ModelSource, name: str, precision: str) -> InferenceBackend:
    if precision == "int8":
        return _open_int8(cfg, source)
    return BACKENDS.get(name)({**cfg, "name": name, "precision": precision}, source)


def _cached_choice(
    cfg: dict[str, Any], source: ModelSource, key: dict[str, Any]
) -> InferenceBackend | None:
    """Return the backend chosen earlier; None if it is missing or no longer loads."""
    try:
        content = json.loads(choice_path(key).read_text(encoding="utf-8"))
        name, precision = content["choice"]
        if content["key"] != key or (name, precision) not in (*CANDIDATES, INT8):
            return None
        notes = [f"{content['timings']}, measured before", *map(str, content["reasons"])]
        backend = _build(cfg, source, name, precision)
    except (OSError, ValueError, KeyError, TypeError, BackendUnavailableError):
        return None
    return InferenceBackend(backend.name, backend.run, [*notes, *backend.notes])


def _build_candidates(
    cfg: dict[str, Any], source: ModelSource
) -> tuple[dict[tuple[str, str], InferenceBackend], list[str]]:
    """Build every available candidate; return them and the reasons of the unavailable ones."""
    print(f"converting {source.path}, once", file=sys.stderr, flush=True)
    backends: dict[tuple[str, str], InferenceBackend] = {}
    reasons: list[str] = []
    wanted = [*CANDIDATES]
    if cfg["precision"] == "auto" and certified_export(source) is not None:
        wanted.append(INT8)
    for pair in wanted:
        if cfg["precision"] not in ("auto", pair[1]):
            continue
        if pair[1] == "bf16" and cfg["precision"] == "auto" and not cpu_multiplies_bf16():
            continue  # not requested, so its absence is no reason to report
        if pair[0] == "onnxruntime" and ("openvino", "fp32") in backends and not has_gpu():
            continue
        try:
            backends[pair] = _build(cfg, source, *pair)
        except BackendUnavailableError as error:
            if str(error) not in reasons:
                reasons.append(str(error))
    if not backends:
        raise BackendUnavailableError("; ".join(reasons))
    return backends, reasons


def _measured(cfg: dict[str, Any], source: ModelSource, key: dict[str, Any]) -> InferenceBackend:
    """Time every available candidate, cache the choice and return it."""
    import torch  # a start with a known choice does without it

    torch_threads = torch.get_num_threads()
    backends, reasons = _build_candidates(cfg, source)
    times = dict(zip(backends, measure(list(backends.values()), source), strict=True))
    order = sorted(times, key=lambda pair: times[pair] * (1 if "fp32" in pair else BF16_MARGIN))
    name, precision = order[0]
    if name != "torch":
        torch.set_num_threads(torch_threads)  # building the torch candidate has set them
    fastest = backends[order[0]]
    timings = "auto: of " + ", ".join(f"{a} {b} {times[a, b]:.2f} ms" for a, b in order) + " a face"
    note = f"{timings}, measured now"
    content = {
        "key": key,
        "choice": [name, precision],
        "ms": {f"{a} {b}": round(times[a, b], 4) for a, b in order},
        "timings": timings,
        "reasons": reasons,
    }
    path = choice_path(key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, content)
    except OSError:
        note += f" (not cached, {path.parent} cannot be written)"
    return InferenceBackend(fastest.name, fastest.run, [note, *reasons, *fastest.notes])


@BACKENDS.register("auto")
def build(cfg: dict[str, Any], source: ModelSource) -> InferenceBackend:
    """Choose the fastest candidate; its notes list all times and the unavailable candidates.

    The first call converts, verifies and times each candidate, which takes some seconds. The choice
    is saved in the cache folder, for this checkpoint, these package versions and this processor.
    """
    key = conditions(cfg, source.sha256)
    if (file := certified_export(source)) is not None:
        key["int8"] = file_hash(file)
    return _cached_choice(cfg, source, key) or _measured(cfg, source, key)
