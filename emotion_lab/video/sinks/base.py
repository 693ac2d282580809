"""Base class of sinks and helpers to write files safely."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.core.io import atomic_write
from emotion_lab.video.types import Closeable, Frame, FrameResult


class Sink(Closeable):
    """Receives every frame of a run, in order. Used as a context manager, also after Ctrl-C.

    Attributes:
        wants_picture: Whether ``drawn`` is required; nothing is drawn if no sink requires it.
        stopped: Whether this sink asks the run to end.
        debug: Whether the user asked for debug details on the picture.
    """

    wants_picture = False
    stopped = False
    debug = False

    def write(self, frame: Frame, result: FrameResult, drawn: np.ndarray | None) -> None:
        """Process one frame.

        Args:
            frame: As captured. A sink that stores pictures must use ``drawn`` instead, because
                faces may have to be hidden.
            drawn: uint8 (H, W, 3) RGB from the overlay.

        Raises:
            UserError: If it cannot be stored; what is already stored stays readable.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Complete the output; may be called more than once."""


def new_file(path: str | Path, overwrite: bool = False) -> Path:
    """Return the expanded path if a file may be created there; does not create it."""
    path = Path(path).expanduser()
    if path.is_dir():
        raise UserError(f"{path} is a folder. Give the path of a file.")
    if not path.parent.is_dir():
        raise UserError(f"Folder {path.parent} of {path.name} does not exist. Create it first.")
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists already. Give another path or set overwrite=true.")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UserError(f"No permission to write {path}. Give a path in another folder.")
    return path


def make_folder(folder: Path, hint: str) -> None:
    """Create a folder and its parents if missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot create the folder {folder}: {error.strerror}. {hint}") from error


def write_error(path: Path, error: OSError, state: str) -> UserError:
    """Return the error for a failed write; ``state`` says what the file contains now."""
    reason = error.strerror or type(error).__name__
    return UserError(f"Cannot write {path}: {reason}. {state} Free disk space or use another path.")


def write_file(path: Path, data: bytes) -> None:
    """Write a file atomically."""
    try:
        atomic_write(path, data)
    except OSError as error:
        raise write_error(path, error, "Nothing was written.") from error


def write_image(path: Path, image: np.ndarray) -> None:
    """Write uint8 (H, W, 3) RGB in the format of the suffix, atomically."""
    ok, data = cv2.imencode(path.suffix.lower(), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not ok:
        raise UserError(f"OpenCV could not encode an image of shape {image.shape} as {path.name}.")
    write_file(path, data.tobytes())
