"""Saves drawn images: a folder with one PNG per image, or one file."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.video.sinks.base import Sink, make_folder, new_file, write_image
from emotion_lab.video.types import Frame, FrameResult


class ImageFolderSink(Sink):
    """Writes ``<folder>/<image name>.png``.

    Args:
        subfolders: Keep the sub-folders of the images' names, for a source that is a folder.
        first: Name of the first image, if known: its file is checked at once.
    """

    wants_picture = True

    def __init__(
        self,
        folder: str | Path,
        overwrite: bool = False,
        subfolders: bool = True,
        first: str | None = None,
    ) -> None:
        self.folder, self.overwrite = Path(folder).expanduser(), overwrite
        self.subfolders = subfolders
        self._written: set[Path] = set()  # loop=true writes the same files again
        make_folder(self.folder, "Set save=<folder>.")
        if first is not None:
            new_file(self._path(first), overwrite)

    def _path(self, image_name: str) -> Path:
        """Return the file of an image."""
        name = Path(image_name)
        if not self.subfolders or name.is_absolute() or ".." in name.parts:
            name = Path(name.name)
        # The suffix is kept in the name: a.jpg and a.png are two images.
        return self.folder / name.with_name(f"{name.name}.png")

    def write(self, frame: Frame, result: FrameResult, drawn: np.ndarray | None) -> None:
        """Write one image."""
        if drawn is None:
            raise ValueError("drawn is required")
        path = self._path(frame.name)
        make_folder(path.parent, "Set save=<folder>.")
        write_image(new_file(path, self.overwrite or path in self._written), drawn)
        self._written.add(path)


class ImageFileSink(Sink):
    """Writes the drawn photo to one file, in the format of its suffix."""

    wants_picture = True

    def __init__(self, path: Path, overwrite: bool = False) -> None:
        self.path = path
        # The whole name may not be UTF-8, which ends the process in OpenCV.
        if not cv2.haveImageWriter(f"image{path.suffix}"):
            raise UserError(f"save={path}: OpenCV cannot write {path.suffix}. Use .png or .jpg.")
        make_folder(path.parent, "Set save=<file>.")
        new_file(path, overwrite)

    def write(self, frame: Frame, result: FrameResult, drawn: np.ndarray | None) -> None:
        """Write the image."""
        if drawn is None:
            raise ValueError("drawn is required")
        write_image(self.path, drawn)
