"""The parity certificates beside exported files, read to decide which int8 files may run."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from emotion_lab.core.io import file_hash


def certificate_path(file: Path) -> Path:
    """Return the path of the certificate of an exported file."""
    return Path(f"{file}.certificate.json")


def has_passed(file: Path, checkpoint_sha256: str | None) -> bool:
    """Return whether the int8 export ``file`` has a certificate of this checkpoint that passed."""
    try:
        certificate = json.loads(certificate_path(file).read_text(encoding="utf-8"))
        return (
            certificate["passed"] is True
            and certificate["precision"] == "int8"
            and certificate["sha256"] == file_hash(file)
            and certificate["about"]["checkpoint_sha256"] == checkpoint_sha256
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def certified_int8(folders: Iterable[Path], checkpoint_sha256: str | None) -> Path | None:
    """Return the first certified int8 export of a checkpoint that OpenVINO runs, None if none."""
    for folder in folders:
        for pattern in ("*.int8.xml", "*.int8.onnx"):
            for file in sorted(folder.glob(pattern)):
                if has_passed(file, checkpoint_sha256):
                    return file
    return None
