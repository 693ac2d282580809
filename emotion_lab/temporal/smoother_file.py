"""The file of a trained temporal model that ``live`` reads, without torch.

It is a numpy archive: the weights, and under ``meta`` JSON with

- ``format`` and ``model`` (name), ``step_s`` and ``temperature``,
- ``classes``, in the order of inputs and outputs, and ``frame``, the checkpoint of single images,
- ``comparison`` with the other smoothers on held-out clips.
"""

from __future__ import annotations

import functools
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.core.io import atomic_write
from emotion_lab.temporal.base import TEMPORAL, Arrays, TemporalModel

#: Name in the run directory.
FILE = "temporal.npz"
FORMAT = 1
_META = "meta"
#: Prefixes of the weights of the temporal model and of the linear layer.
_BODY, _HEAD = "body.", "head."


@dataclass(frozen=True)
class TrainedModel:
    """A temporal model with its weights.

    Attributes:
        path: The file.
        meta: See the description of the file.
        body: The temporal model.
        weight: Linear layer, float32 (K, hidden).
        bias: float32 (K,).
    """

    path: Path
    meta: dict[str, Any]
    body: TemporalModel
    weight: np.ndarray
    bias: np.ndarray


def write(path: Path, meta: dict[str, Any], weights: Arrays) -> None:
    """Write a file; ``weights`` are the ``state_dict`` of :class:`models.temporal.StepClassifier`.

    Args:
        path: The file.
        meta: See the description of the file; ``format`` is added.
        weights: float32 arrays by name.
    """
    buffer = io.BytesIO()
    text = json.dumps({"format": FORMAT, **meta}, allow_nan=False)
    np.savez(buffer, **{_META: np.array(text), **weights})  # type: ignore[arg-type]
    atomic_write(path, buffer.getvalue())


def check_smoother(cfg: Any) -> None:
    """Check ``smoothing.ckpt`` of a composed config, if ``smoothing=temporal``, without loading."""
    if cfg.smoothing.name == "temporal":
        find(cfg.smoothing.ckpt)


def find(ckpt: str | Path | None) -> Path:
    """Return the file of ``smoothing.ckpt``: the file itself, or a run directory of train."""
    if ckpt is None:
        raise UserError(
            "smoothing.ckpt is missing: give the run directory of a temporal model, "
            "smoothing.ckpt=<run>."
        )
    path = Path(ckpt).expanduser()
    if path.suffix == ".ckpt":
        path = path.parents[1] if len(path.parents) > 1 else path
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise UserError(
            f"smoothing.ckpt={ckpt}: {file} does not exist; it is written at the end of "
            "python -m emotion_lab.train experiment=temporal."
        )
    return file


def read(ckpt: str | Path | None) -> TrainedModel:
    """Read the file of ``smoothing.ckpt``."""
    path = find(ckpt)
    return _read(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _read(path: Path, _modified: int) -> TrainedModel:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        meta = json.loads(str(arrays.pop(_META)))
        version, kind = meta["format"], TEMPORAL.get(meta["model"])
        body = {n[len(_BODY) :]: value for n, value in arrays.items() if n.startswith(_BODY)}
        head = arrays[f"{_HEAD}weight"], arrays[f"{_HEAD}bias"]
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        raise UserError(f"smoothing.ckpt: {path} is damaged, or no temporal model.") from None
    if version != FORMAT:
        raise UserError(f"{path} has format {version}, this version reads {FORMAT}: upgrade.")
    return TrainedModel(path, meta, kind(body), *head)
