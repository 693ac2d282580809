"""What a format is given and what it writes. Nothing here imports torch."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from emotion_lab.core.errors import UserError, unknown
from emotion_lab.core.registry import Registry

if TYPE_CHECKING:
    from emotion_lab.exporters.graph import ExportModel

#: Every precision that some format knows, the most exact first.
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
DYNAMIC = "dynamic"


@dataclass(frozen=True)
class CalibrationData:
    """Images to choose the scales of int8 by.

    Attributes:
        faces: RGB, uint8 (h, w, 3) each.
        labels: Their classes, int64 (N,).
        max_drop: The largest loss of accuracy on them that is accepted, a share.
    """

    faces: Sequence[np.ndarray]
    labels: np.ndarray
    max_drop: float = 0.005


@dataclass(frozen=True)
class ExportJob:
    """One file to write.

    Attributes:
        model: From uint8 faces (B, H, W, 3) to probabilities; float32, on the CPU.
        precision: One of the format's.
        batch: :data:`DYNAMIC`, or the only number of faces the file will take.
        calibration: For int8.
    """

    model: ExportModel
    precision: str
    batch: int | str = DYNAMIC
    calibration: CalibrationData | None = None


class ExportFormat(ABC):
    """One kind of file. Importing its module imports nothing heavy.

    Attributes:
        suffix: Of the file.
        precisions: What it can be written in.
        packages: What writing and running needs beside torch.
        fixes_batch: Whether a file can be nailed to one batch size.
    """

    suffix: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]]
    packages: ClassVar[tuple[str, ...]] = ()
    fixes_batch: ClassVar[bool] = True

    @abstractmethod
    def write(self, job: ExportJob, path: Path) -> None:
        """Write the graph to ``path``, without what it says of itself."""

    @abstractmethod
    def label(self, path: Path, text: str) -> None:
        """Write ``text`` into the metadata of the file without changing its graph hash."""

    def files(self, path: Path) -> list[Path]:
        """Return the files that belong together, ``path`` last."""
        return [path]

    def run_precision(self, precision: str) -> str:
        """Return what the runtime is told to compute in where the file does not say it."""
        return {"fp16": "fp16", "bf16": "bf16"}.get(precision, "fp32")


#: Name -> format.
FORMATS: Registry[type[ExportFormat]] = Registry("format", "emotion_lab.exporters.formats")


def chosen(name: str, precision: str, batch: int | str = DYNAMIC) -> list[tuple[str, str]]:
    """Return the (format, precision) pairs that are asked for; ``all`` stands for every one.

    Raises:
        UserError: For an unknown name, a pair that does not exist, or a missing package.
    """
    if precision not in (*PRECISIONS, "all"):
        raise unknown("precision", precision, (*PRECISIONS, "all"), "Set it with precision=<name>.")
    names = FORMATS.names() if name == "all" else [name]
    if name not in ("all", *FORMATS.names()):
        raise unknown("format", name, ["all", *FORMATS.names()], "Set it with format=<name>.")
    pairs = [
        (one, each)
        for one in names
        for each in FORMATS.get(one).precisions
        if precision in (each, "all")
    ]
    if not pairs:
        able = " or ".join(FORMATS.get(name).precisions)
        raise UserError(
            f"format={name} cannot be written in precision={precision}: set precision={able}."
        )
    for one, each in pairs:
        kind = FORMATS.get(one)
        if batch != DYNAMIC and not kind.fixes_batch:
            raise UserError(f"format={one} keeps its batch open: leave batch=dynamic.")
        needed = [*kind.packages, *(["nncf"] if each == "int8" else [])]
        lacking = [package for package in needed if importlib.util.find_spec(package) is None]
        if lacking:
            raise UserError(
                f"format={one} precision={each} needs {', '.join(lacking)}: "
                'pip install "emotion_lab[deploy]"'
            )
    return pairs
