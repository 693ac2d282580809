"""Interface, registry and selection of export formats. Imports no torch."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from emotion_lab.core.errors import UserError, unknown
from emotion_lab.core.registry import Registry

if TYPE_CHECKING:
    from emotion_lab.inference.conversion.graph import ExportModel

#: Precisions of all formats, the most accurate first.
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
DYNAMIC = "dynamic"


@dataclass(frozen=True)
class CalibrationData:
    """Images that determine the int8 scales.

    Attributes:
        faces: RGB, uint8 (h, w, 3) each.
        labels: Class indices, int64 (N,).
        max_drop: Largest accepted loss of accuracy on these images, a fraction.
    """

    faces: Sequence[np.ndarray]
    labels: np.ndarray
    max_drop: float = 0.005


@dataclass(frozen=True)
class ExportJob:
    """Arguments of one export.

    Attributes:
        model: float32, on the CPU.
        batch: :data:`DYNAMIC`, or a fixed batch size.
        calibration: Required for int8.
    """

    model: ExportModel
    precision: str
    batch: int | str = DYNAMIC
    calibration: CalibrationData | None = None

    def __post_init__(self) -> None:
        """Raise a ValueError for int8 without calibration images, before the export starts."""
        if self.precision == "int8" and not (self.calibration and len(self.calibration.faces)):
            raise ValueError("int8 needs calibration images")


class ExportFormat(ABC):
    """A file format. Its module imports torch and the runtime only inside methods.

    Attributes:
        packages: Packages needed for export and inference besides torch.
        fixes_batch: Whether a fixed batch size is supported.
    """

    suffix: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]]
    packages: ClassVar[tuple[str, ...]] = ()
    fixes_batch: ClassVar[bool] = True

    @abstractmethod
    def write(self, job: ExportJob, path: Path) -> None:
        """Write the graph to ``path``, without metadata."""

    @abstractmethod
    def label(self, path: Path, text: str) -> None:
        """Add the metadata entry ``text`` without changing the graph hash."""

    def files(self, path: Path) -> list[Path]:
        """Return the files of one export, ``path`` last."""
        return [path]

    def run_precision(self, precision: str) -> str:
        """Return the precision in which the runtime computes a file of ``precision``."""
        return "fp16" if precision == "fp16" else "fp32"


FORMATS: Registry[type[ExportFormat]] = Registry(
    "format", "emotion_lab.inference.conversion.formats"
)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress the log messages, warnings and printed lines of exporters."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def package_version(package: str) -> str | None:
    """Return the version of a package or its ``-gpu`` build, None if not installed."""
    try:
        if importlib.util.find_spec(package) is None:
            return None
    except ImportError:  # blocked
        return None
    for name in (package, f"{package}-gpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"


def package_versions(format: str, precision: str = "fp32") -> dict[str, str | None]:
    """Return the versions of torch and of the packages that a format needs."""
    packages = ("torch", *FORMATS.get(format).packages, *(["nncf"] if precision == "int8" else []))
    return {name: package_version(name) for name in packages}


def check_precision(format: str, precision: str) -> None:
    """Raise a UserError if the format does not support the precision."""
    supported = FORMATS.get(format).precisions
    if precision not in supported:
        raise UserError(
            f"format={format} cannot be written in precision={precision}: "
            f"set precision={' or '.join(supported)}."
        )


def select_formats(
    format: str, precision: str, batch: int | str = DYNAMIC
) -> list[tuple[str, str]]:
    """Return the requested (format, precision) pairs; ``all`` selects every one.

    ``format=all`` with a fixed batch size selects the formats that support one.
    """
    if precision not in (*PRECISIONS, "all"):
        raise unknown("precision", precision, (*PRECISIONS, "all"), "Set it with precision=<name>.")
    if format not in ("all", *FORMATS.names()):
        raise unknown("format", format, ["all", *FORMATS.names()], "Set it with format=<name>.")
    if "all" not in (format, precision):
        check_precision(format, precision)
    pairs = [
        (name, supported)
        for name in (FORMATS.names() if format == "all" else [format])
        if format != "all" or batch == DYNAMIC or FORMATS.get(name).fixes_batch
        for supported in FORMATS.get(name).precisions
        if precision in (supported, "all")
    ]
    for name, supported in pairs:
        kind = FORMATS.get(name)
        if batch != DYNAMIC and not kind.fixes_batch:
            raise UserError(f"format={name} supports no fixed batch size: leave batch=dynamic.")
        needed = [*kind.packages, *(["nncf"] if supported == "int8" else [])]
        missing = [package for package in needed if importlib.util.find_spec(package) is None]
        if missing:
            raise UserError(
                f"format={name} precision={supported} needs {', '.join(missing)}: "
                'pip install "emotion_lab[deploy]"'
            )
    return pairs
