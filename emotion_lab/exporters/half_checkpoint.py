"""Half-precision checkpoints without local paths, as shipped in ``emotion_lab/weights``.

``python -m emotion_lab.exporters.half_checkpoint <run directory or checkpoint> <file.ckpt>``
"""

from __future__ import annotations

import argparse
import io
import zipfile
from pathlib import Path
from typing import Any

import torch

from emotion_lab.config.fields import Role
from emotion_lab.config.schema import role
from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core.io import atomic_write
from emotion_lab.core.paths import find_checkpoint


def without_paths(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a config without locations: their keys are null, other absolute paths lose folders."""
    result: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            result[key] = without_paths(value, f"{prefix}{key}.")
        elif role(f"{prefix}{key}") is Role.LOCATION:
            result[key] = None
        else:
            is_path = isinstance(value, str) and Path(value).is_absolute()
            result[key] = Path(value).name if is_path else value
    return result


def convert(source: Path, target: Path) -> None:
    """Write a checkpoint with float16 weights; every command casts them to float32 again.

    Vectors, such as biases and BatchNorm statistics, stay in float32: they are small, and variances
    may exceed the range of float16. The file has no training state, and is compressed: torch reads
    such a file, though not with ``mmap``.

    Args:
        source: A checkpoint of a single network.
        target: The file to write.
    """
    content = ckpt.read(source)
    card = content[ckpt.CARD]
    weights = {
        key: value.half() if value.dtype == torch.float32 and value.ndim > 1 else value
        for key, value in content["state_dict"].items()
    }
    card = {**card, "config": without_paths(card["config"])}
    ckpt.write(target, {"state_dict": weights, ckpt.CARD: card})
    _compress(target)


def _compress(path: Path) -> None:
    """Compress the records of a checkpoint, which torch stores as they are."""
    content = io.BytesIO()
    with (
        zipfile.ZipFile(path) as source,
        zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as target,
    ):
        for record in source.infolist():
            target.writestr(record.filename, source.read(record))
    atomic_write(path, content.getvalue())


def main() -> None:
    """Convert the checkpoint that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", help="run directory or checkpoint")
    parser.add_argument("target", type=Path, help="file to write")
    arguments = parser.parse_args()
    convert(find_checkpoint(arguments.source), arguments.target)
    print(f"{arguments.target}: {arguments.target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
