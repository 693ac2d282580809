"""Drawn pictures as files, one for each image of a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.video.sinks.base import Sink, new_file, write_png
from emotion_lab.video.types import Frame, FrameResult


class ImageFolderSink(Sink):
    """Writes ``<folder>/<name of the image>.png``, sub-folders kept.

    Args:
        folder: Where to; made if it is missing.
        overwrite: Whether files that are there may go.

    Raises:
        UserError: If the folder cannot be made.
    """

    wants_picture = True

    def __init__(self, folder: str | Path, overwrite: bool = False) -> None:
        self.folder, self.overwrite = Path(folder).expanduser(), overwrite
        self._own: set[Path] = set()  # written by this run; a loop may write them again
        self._make(self.folder)

    @staticmethod
    def _make(folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"Cannot make the folder {folder}: {error.strerror}. Set save=<folder>."
            ) from error

    def write(self, frame: Frame, result: FrameResult, drawn: np.ndarray | None) -> None:
        """Write one picture.

        Raises:
            UserError: If it cannot be written.
        """
        if drawn is None:
            raise ValueError("no picture was drawn")
        name = Path(frame.name)
        # The whole name stays in it: a.jpg and a.png are two images.
        inner = Path(name.name) if name.is_absolute() or ".." in name.parts else name
        path = self.folder / inner.with_name(f"{inner.name}.png")
        self._make(path.parent)
        write_png(new_file(path, self.overwrite or path in self._own), drawn)
        self._own.add(path)
