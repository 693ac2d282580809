"""What all sinks share: closing, files that are never overwritten, disks that are full."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.core.io import atomic_write
from emotion_lab.video.types import Closeable, Frame, FrameResult


class Sink(Closeable):
    """Takes every frame of a run, in order. A ``with`` block closes it, also on Ctrl-C.

    Attributes:
        wants_picture: Whether ``drawn`` must be given; where no sink wants one, none is drawn.
        stopped: Whether the user asked this sink for an end.
        debug: Whether the user asked it for details on the picture.
    """

    wants_picture = False
    stopped = False
    debug = False

    def write(self, frame: Frame, result: FrameResult, drawn: np.ndarray | None) -> None:
        """Take a frame.

        Args:
            frame: As captured. A sink that stores pictures takes them from ``drawn`` only, since
                faces may have to be hidden.
            result: What is known of it.
            drawn: uint8 (H, W, 3) RGB from the overlay.

        Raises:
            UserError: If it cannot be stored; what was stored before stays whole.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Finish what was begun; may be called more than once."""


def new_file(path: str | Path, overwrite: bool = False) -> Path:
    """Return ``path`` if a file can be made there; nothing is made yet.

    Raises:
        UserError: If the folder is missing or closed, or a file is there that must stay.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise UserError(f"{path} is a folder. Name a file in it.")
    if not path.parent.is_dir():
        raise UserError(f"No folder {path.parent} to write {path.name} in. Make it first.")
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists already. Name another file or set overwrite=true.")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UserError(f"No permission to write {path}. Name a file in another folder.")
    return path


def failed(path: Path, error: OSError, kept: str) -> UserError:
    """Build the error for a write that failed, such as on a full disk."""
    reason = error.strerror or type(error).__name__
    return UserError(
        f"Cannot write {path}: {reason}. {kept} Free some space or name another place."
    )


def write_file(path: Path, data: bytes) -> None:
    """Write a file so that it is there completely or not at all.

    Raises:
        UserError: If it cannot be written.
    """
    try:
        atomic_write(path, data)
    except OSError as error:
        raise failed(path, error, "Nothing was written.") from error


def write_png(path: Path, image: np.ndarray) -> None:
    """Write uint8 (H, W, 3) RGB as a PNG, completely or not at all.

    Raises:
        UserError: If it cannot be written.
    """
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not done:
        raise UserError(f"OpenCV could not turn a picture of {image.shape} into {path.name}.")
    write_file(path, data.tobytes())
