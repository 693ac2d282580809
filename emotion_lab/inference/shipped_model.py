"""A shipped model with ``backend=auto``: the fastest of the runtimes that agree.

Measured once, then cached; no torch here. The candidates are ONNX Runtime and OpenVINO, the latter
also in bfloat16 where the CPU computes in it.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.core import weights
from emotion_lab.core.environment import cpu_multiplies_bf16
from emotion_lab.core.errors import UserError
from emotion_lab.core.input_spec import InputSpec
from emotion_lab.core.io import file_hash, write_json
from emotion_lab.inference.backends import auto
from emotion_lab.inference.base import InferenceBackend, ModelSource, softmax
from emotion_lab.inference.conversion.base import package_version
from emotion_lab.inference.converted_model import TOLERANCE, probe_images
from emotion_lab.inference.exported_model import open_exported

#: An exported file, opened: card, input and backend.
Opened = tuple[dict[str, Any], InputSpec, InferenceBackend]


@dataclass(frozen=True)
class Candidate:
    """One way to run a shipped model.

    Attributes:
        package: ``onnxruntime`` or ``openvino``.
        precision: ``fp32``, ``bf16`` or ``int8``.
        path: The file.
    """

    package: str
    precision: str
    path: Path

    @property
    def label(self) -> str:
        """Package and precision."""
        return f"{self.package} {self.precision}"

    def open(self, cfg: dict[str, Any]) -> Opened:
        """Open the file with the threads of ``cfg``, the complete config of the backend."""
        precision = "bf16" if self.precision == "bf16" else "auto"
        return open_exported(self.path, {**cfg, "name": self.package, "precision": precision})


def candidates(name: str, precision: str) -> list[Candidate]:
    """Return the candidates for ``backend.precision``; the first one is the reference."""
    path, packages = weights.find(name, ".onnx"), ("onnxruntime", "openvino")
    own = "int8" if name in weights.INT8 else "fp32"
    found = [Candidate(package, own, path) for package in packages]
    if own == "fp32" and (precision == "bf16" or cpu_multiplies_bf16()):
        found.append(Candidate("openvino", "bf16", path))
    if precision == "bf16":  # the reference is not a choice, but needed
        return [found[0], found[-1]]
    return found


def _probabilities(opened: Opened) -> np.ndarray:
    """Return the probabilities of the probe images, float32 (4, K)."""
    card, spec, backend = opened
    return softmax(backend.run(probe_images(spec))[:, : len(card["classes"])], 1.0)


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max()) if a.shape == b.shape else float("nan")


def _tolerance(candidate: Candidate) -> float:
    # Two runtimes may round an int8 activation to neighbouring values.
    return TOLERANCE.get(candidate.precision, TOLERANCE["bf16"])


def _open_all(
    wanted: Sequence[Candidate], cfg: dict[str, Any]
) -> tuple[dict[Candidate, Opened], list[str]]:
    """Open every candidate that is installed and agrees with the first one.

    Returns:
        The opened candidates, and the reasons of those left out.
    """
    opened: dict[Candidate, Opened] = {}
    reference: np.ndarray | None = None
    reasons = []
    for candidate in wanted:
        try:
            model = candidate.open(cfg)
        except UserError as error:
            reasons.append(str(error))
            continue
        own = _probabilities(model)
        reference = own if reference is None else reference
        difference = _difference(own, reference)
        if difference <= _tolerance(candidate):
            opened[candidate] = model
        else:
            reasons.append(f"{candidate.label} differs by {difference:.2g} in a probability")
    if not opened:
        raise UserError(reasons[0])
    return opened, reasons


def _measured(
    wanted: Sequence[Candidate], cfg: dict[str, Any], key: dict[str, Any], cache: Path
) -> Opened:
    """Time all candidates alternately, cache the choice and return it."""
    opened, reasons = _open_all(wanted, cfg)
    allowed = [one for one in opened if cfg["precision"] in ("auto", one.precision)]
    if not allowed:
        raise UserError(reasons[0])
    card, spec, _ = opened[allowed[0]]
    source = ModelSource(allowed[0].path, "", spec, 1.0, card)
    times = auto.measure([opened[one][2] for one in allowed], source)
    ms = dict(zip(allowed, times, strict=True))
    # Less exact than float32: only where it is clearly faster.
    margin = {one: 1.0 if one.precision == "fp32" else auto.BF16_MARGIN for one in allowed}
    order = sorted(allowed, key=lambda one: ms[one] * margin[one])
    timings = "auto: of " + ", ".join(f"{one.label} {ms[one]:.2f} ms" for one in order) + " a face"
    best = order[0]
    content = {
        "key": key,
        "choice": best.label,
        "probabilities": _probabilities(opened[best]).tolist(),
        "timings": timings,
    }
    with contextlib.suppress(OSError):  # a cache folder that cannot be written
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_json(cache, content)
    return _with_notes(opened[best], [f"{timings}, measured now", *reasons])


def _cached(
    wanted: Sequence[Candidate], cfg: dict[str, Any], key: dict[str, Any], cache: Path
) -> Opened | None:
    """Return the choice of an earlier start; None if there is none that still gives its results."""
    try:
        content = json.loads(cache.read_text(encoding="utf-8"))
        if content["key"] != key:
            return None
        candidate = next(one for one in wanted if one.label == content["choice"])
        opened = candidate.open(cfg)
        expected = np.asarray(content["probabilities"], np.float32)
        if not _difference(_probabilities(opened), expected) <= _tolerance(candidate):
            return None
        return _with_notes(opened, [f"{content['timings']}, measured before"])
    except (OSError, ValueError, KeyError, TypeError, StopIteration, UserError):
        return None


def _with_notes(opened: Opened, notes: list[str]) -> Opened:
    card, spec, backend = opened
    return card, spec, InferenceBackend(backend.name, backend.run, [*notes, *backend.notes])


def open_shipped(name: str, cfg: dict[str, Any]) -> Opened:
    """Open a shipped model with the fastest candidate.

    Args:
        cfg: Complete config of ``backend=auto``.

    Raises:
        UserError: If a file is damaged, or an option is for no candidate.
    """
    reference = weights.find(name, ".onnx")
    if cfg["device"] not in ("auto", "cpu") or package_version("openvino") is None:
        return open_exported(reference, cfg)  # raises for a device; without OpenVINO no choice
    wanted = candidates(name, cfg["precision"])
    if cfg["precision"] not in ("auto", *(one.precision for one in wanted)):
        return open_exported(reference, cfg)  # raises, because the file has another precision
    key = auto.conditions(cfg, file_hash(reference))
    key["candidates"] = [[one.label, one.path.name, file_hash(one.path)] for one in wanted]
    cache = auto.choice_path(key)
    opened = _cached(wanted, cfg, key, cache)
    if opened is None:
        print(f"measuring {name}, once", file=sys.stderr, flush=True)
        opened = _measured(wanted, cfg, key, cache)
    return opened
