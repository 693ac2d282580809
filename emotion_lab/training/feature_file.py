"""File of cached features: checked when read, and computed again if it does not fit."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from emotion_lab.core.io import cache_root, replaced_file
from emotion_lab.data.types import Split
from emotion_lab.models.base import Backbone

#: Part of the key of a file -> how a printed line names it.
_PARTS = {
    "images": "other images",
    "weights": "other weights",
    "input": "another input of the network",
    "views": "other augmented views",
    "precision": "another precision",
}
_KEY = "key"


def path(*identity: str) -> Path:
    """Return the file for the data and the network that ``identity`` names.

    It is replaced when images, weights or input change, so features do not pile up.
    """
    name = hashlib.blake2b("\0".join(identity).encode(), digest_size=8).hexdigest()
    return cache_root() / "features" / f"{name}.npz"


def image_digest(splits: Mapping[str, Split]) -> str:
    """Return the hash of the images of splits, in order, 32 hex digits."""
    digest = hashlib.blake2b(digest_size=16)
    for name, split in splits.items():
        digest.update(f"{name} {len(split)} ".encode() + b"".join(split.digests()))
    return digest.hexdigest()


def weight_digest(backbone: Backbone) -> str:
    """Return the hash of all parameters and buffers but those of the heads, 32 hex digits."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in backbone.net.state_dict().items():
        if backbone.stage_index(name) < len(backbone.stages):
            array = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()


def read(file: Path, key: dict[str, str]) -> dict[str, Tensor] | None:
    """Return split -> features, or None, with a printed reason, if they must be computed.

    Args:
        file: See :func:`path`.
        key: ``images``, ``weights``, ... of the run; a file with another key is not used.
    """
    if not file.is_file():
        return None
    try:
        # The checksums of the archive are compared on reading.
        with np.load(file, allow_pickle=False) as archive:
            saved = json.loads(str(archive[_KEY]))
            if saved == key:
                names = [name for name in archive.files if name != _KEY]
                return {name: torch.from_numpy(archive[name]) for name in names}
        reasons = [words for part, words in _PARTS.items() if saved.get(part) != key[part]]
        reason = f"it holds the features of {' and '.join(reasons)}"
    except (OSError, ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile):
        reason = "it is damaged"
    print(f"features: {file} is not used, {reason}: computed again", flush=True)
    return None


def write(file: Path, key: dict[str, str], features: Mapping[str, Tensor]) -> None:
    """Write a file atomically; a folder that cannot be written is a printed line."""
    arrays = {name: values.numpy() for name, values in features.items()}
    arrays[_KEY] = np.array(json.dumps(key))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replaced_file(file) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]  # its own options have other types
        print(f"features: saved in {file}", flush=True)
    except OSError as error:
        print(
            f"warning: features are not saved, {file.parent} cannot be written: {error.strerror}. "
            "Set EMOTION_LAB_CACHE to a folder with room.",
            flush=True,
        )
