"""The fastest runtime of this machine among those that give PyTorch's answers, measured once."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from emotion_lab.core.environment import cpu_name
from emotion_lab.core.io import atomic_write, cache_root
from emotion_lab.inference.base import (
    RUNTIMES,
    BackendUnavailableError,
    InferenceBackend,
    ModelSource,
)
from emotion_lab.inference.converted_model import probes

#: (runtime, precision), each tried. The last is the reference itself and always there.
CANDIDATES = (("openvino", "fp32"), ("openvino", "bf16"), ("onnxruntime", "fp32"), ("torch", "fp32"))
#: What they need; a choice is remembered for these versions.
PACKAGES = ("openvino", "onnxruntime", "onnx", "onnxscript", "torch")
#: Raised when what is remembered, or how it is measured, changes.
FORMAT = 1

#: All of them together are timed for so long, in turn, each at least once and at most so often.
MEASURE_S = 0.8
ROUNDS = 40
#: bfloat16 has to be so much faster to be worth its lost digits.
WORTH = 1.05


def version(package: str) -> str | None:
    """Return the version of a package, None where it cannot be imported. Imports nothing."""
    if importlib.util.find_spec(package) is None:
        return None
    for name in (package, f"{package}-gpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def timed(runtimes: Sequence[InferenceBackend], source: ModelSource) -> list[float]:
    """Return milliseconds of one face for each, the median of rounds in turn."""
    image = probes(source.spec)[:1]
    times: list[list[float]] = [[] for _ in runtimes]
    begin = time.perf_counter()
    while len(times[-1]) < ROUNDS:
        for runtime, kept in zip(runtimes, times, strict=True):
            runtime.run(image)  # not counted: the caches are still another's
            start = time.perf_counter()
            runtime.run(image)
            kept.append(1000 * (time.perf_counter() - start))
        if time.perf_counter() - begin > MEASURE_S:
            break
    return [statistics.median(kept) for kept in times]


def _circumstances(cfg: dict[str, Any], source: ModelSource) -> dict[str, Any]:
    """Return what the choice depends on; where all of it is as before, nothing is measured."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "format": FORMAT,
        "candidates": [list(pair) for pair in CANDIDATES],
        "sha256": source.sha256,
        "versions": {package: version(package) for package in PACKAGES},
        "cpu": cpu_name(),
        "cores": cores(),
        "gpu": gpu,
        "torch_threads": torch.get_num_threads(),
        **{key: cfg[key] for key in ("precision", "device", "threads")},
    }


def _memory(key: dict[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_root() / "runtime" / f"{digest[:16]}.json"


def _build(cfg: dict[str, Any], source: ModelSource, name: str, precision: str) -> InferenceBackend:
    return RUNTIMES.get(name)({**cfg, "name": name, "precision": precision}, source)


def _remembered(
    cfg: dict[str, Any], source: ModelSource, key: dict[str, Any]
) -> InferenceBackend | None:
    """Return what was chosen before; None if nothing was, or it does not load any more."""
    try:
        found = json.loads(_memory(key).read_text(encoding="utf-8"))
        if found["key"] != key:
            return None
        name, precision = found["choice"]
        notes = [f"{found['said']}, measured before", *map(str, found["passed"])]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if (name, precision) not in CANDIDATES:
        return None
    try:
        runtime = _build(cfg, source, name, precision)
    except BackendUnavailableError:
        return None
    return InferenceBackend(runtime.name, runtime.run, [*notes, *runtime.notes])


def _measured(cfg: dict[str, Any], source: ModelSource, key: dict[str, Any]) -> InferenceBackend:
    """Build every candidate that is usable, time them, remember and return the fastest."""
    wanted = [pair for pair in CANDIDATES if cfg["precision"] in ("auto", pair[1])]
    usable: dict[tuple[str, str], InferenceBackend] = {}
    passed: list[str] = []
    before = torch.get_num_threads()
    print(
        "runtime: converting this checkpoint for each runtime and timing them, once",
        file=sys.stderr,
        flush=True,
    )
    for pair in wanted:
        try:
            usable[pair] = _build(cfg, source, *pair)
        except BackendUnavailableError as error:
            if str(error) not in passed:
                passed.append(str(error))
    if not usable:
        raise BackendUnavailableError("; ".join(passed))
    times = dict(zip(usable, timed(list(usable.values()), source), strict=True))
    order = sorted(times, key=lambda pair: times[pair] * (WORTH if pair[1] != "fp32" else 1))
    name, precision = order[0]
    if name != "torch":
        torch.set_num_threads(before)  # the candidate has set them for the whole process
    chosen = usable[order[0]]
    said = "auto: of " + ", ".join(f"{a} {b} {times[a, b]:.2f} ms" for a, b in order)
    notes = [f"{said} a face, measured now"]
    content = {
        "key": key,
        "choice": [name, precision],
        "ms": {f"{a} {b}": round(times[a, b], 4) for a, b in order},
        "said": f"{said} a face",
        "passed": passed,
    }
    memory = _memory(key)
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(memory, (json.dumps(content, indent=2) + "\n").encode())
    except OSError:
        notes[0] += f" (not remembered, {memory.parent} cannot be written)"
    return InferenceBackend(chosen.name, chosen.run, [*notes, *passed, *chosen.notes])


@RUNTIMES.register("auto")
def build(cfg: dict[str, Any], source: ModelSource) -> InferenceBackend:
    """Take the fastest candidate; the notes give the times of all and why others were passed over.

    The first time each is converted, checked and timed, some seconds in all; the choice is kept in
    the cache folder. It holds for this checkpoint, these versions and this processor.

    Raises:
        Unusable: If none can do what ``backend.precision`` and ``backend.device`` ask for.
    """
    key = _circumstances(cfg, source)
    return _remembered(cfg, source, key) or _measured(cfg, source, key)
