"""What the zip files that torch writes have in common."""

from __future__ import annotations

import zipfile
from pathlib import Path

from emotion_lab.exporters.base import ExportFormat
from emotion_lab.inference.loader import EXTRA


class Archive(ExportFormat):
    """A zip file of torch's, in float32; what it says of itself is one more entry."""

    precisions = ("fp32",)

    def label(self, path: Path, text: str) -> None:
        """See :meth:`ExportFormat.label`."""
        with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
            root = archive.namelist()[0].split("/", 1)[0]
            archive.writestr(zipfile.ZipInfo(f"{root}/{EXTRA}"), text)
