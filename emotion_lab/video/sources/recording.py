"""The frames of a recording, at the times at which they were recorded."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.video.recording import read_header, read_rows
from emotion_lab.video.sources.threaded import FrameReader
from emotion_lab.video.sources.video_file import print_stderr
from emotion_lab.video.types import Frame, Track


def _is_whole(folder: Path, row: dict[str, Any]) -> bool:
    """Return whether the pictures of a row exist and have their size."""
    try:
        return all((folder / p["file"]).stat().st_size == p["bytes"] for p in row["pictures"])
    except OSError:
        return False


class RecordingReader(FrameReader):
    """The frames of a recording; of recorded faces, the faces on black and their tracks.

    A recording that a kill or power failure cut short ends with its last whole frame.

    Args:
        folder: Written by ``live record=<folder>``.
    """

    kind = "recording"

    def __init__(self, folder: Path) -> None:
        header = read_header(folder)
        if header["replay_of"] is not None:
            raise UserError(
                f"{folder} is a replay without pictures: set source={header['replay_of']}."
            )
        self.folder, self.name, self.fps = folder, str(folder), header["fps"]
        self.truth = tuple((float(start_s), str(name)) for start_s, name in header["truth"])
        self.has_tracks = header["what"] == "faces"
        rows = read_rows(folder)
        if any("pictures" not in row for row in rows):
            raise UserError(f"{folder} is damaged: a line of its index has no pictures.")
        whole = [_is_whole(folder, row) for row in rows]
        self._rows = rows[: whole.index(False)] if False in whole else rows
        rest = list(zip(rows, whole, strict=True))[len(self._rows) :]
        if any(is_whole and row["pictures"] for row, is_whole in rest):
            frame = rest[0][0]["frame"]
            raise UserError(
                f"{folder} is damaged: the picture of frame {frame} is missing or incomplete, but "
                "later ones are there. Copy the folder again."
            )
        if not self._rows:
            raise UserError(f"{folder} holds no whole frame: record again.")
        if header["frames"] != len(self._rows):
            print_stderr(f"{folder}: cut short; its {len(self._rows)} whole frames are replayed.")
        self.count, self.size = len(self._rows), tuple(self._rows[0]["size"])

    def _image(self, row: dict[str, Any]) -> np.ndarray:
        """Return the frame, black outside of what was recorded, uint8 (H, W, 3) RGB."""
        width, height = row["size"]
        image = np.zeros((height, width, 3), np.uint8)
        for picture in row["pictures"]:
            path = self.folder / picture["file"]
            data = np.frombuffer(path.read_bytes(), np.uint8)
            part = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
            left, top = picture["left"], picture["top"]
            region = image[top : top + picture["height"], left : left + picture["width"]]
            if part is None or part.shape != region.shape:
                raise UserError(f"{path} is damaged: it is no picture of its size in the index.")
            region[:] = cv2.cvtColor(part, cv2.COLOR_BGR2RGB)
        return image

    def images(self, frames: Iterable[int]) -> Iterator[np.ndarray]:
        """Yield the pictures of some frames, given by their recorded numbers."""
        rows = {row["frame"]: row for row in self._rows}
        for frame in frames:
            yield self._image(rows[frame])

    def _tracks(self, row: dict[str, Any]) -> list[Track]:
        tracks = []
        for track in row["tracks"]:
            points = track["landmarks"]
            landmarks = None if points is None else np.array(points, np.float32)
            box = np.array(track["box"], np.float32)
            tracks.append(Track(track["id"], box, track["score"], landmarks, row["time_s"]))
        return tracks

    def frames(self, stop: threading.Event) -> Iterator[Frame]:
        """Yield every frame with its recorded number, times and source."""
        for row in self._rows:
            if stop.is_set():
                return
            yield Frame(
                self._image(row),
                row["frame"],
                row["time_s"],
                row["wall"],
                row["source"],
                tracks=self._tracks(row) if self.has_tracks else None,
            )

    def close(self) -> None:
        """Nothing is open between two reads."""
