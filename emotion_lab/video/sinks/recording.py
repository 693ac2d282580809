"""Records the frames of a source, or the faces alone, with every decision."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.core.io import write_json
from emotion_lab.inference.face_crop import LARGEST, square
from emotion_lab.video.recording import FACE_MARGIN, FORMAT, HEADER, PICTURES, ROWS
from emotion_lab.video.sinks.base import Sink, make_folder, write_error
from emotion_lab.video.sinks.jsonl import LineWriter, result_to_dict
from emotion_lab.video.sinks.video import RESERVE
from emotion_lab.video.types import Frame, FrameResult

#: JPEG without colour subsampling.
_ENCODING = {
    "jpg": [
        *(cv2.IMWRITE_JPEG_QUALITY, 95),
        *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
    ],
    "png": [cv2.IMWRITE_PNG_COMPRESSION, 1],
}
_HINT = "Set record=<folder>."


class RecordingSink(Sink):
    """Writes the files of :mod:`emotion_lab.video.recording`.

    Args:
        folder: Created if missing.
        header: The keys of :func:`~emotion_lab.video.recording.read_header` that are given here.
        what: ``frames``, ``faces`` (crops with a margin), or ``none``: only the decisions.
        picture_format: ``jpg`` or ``png`` (lossless).
    """

    def __init__(
        self, folder: Path, header: dict[str, Any], what: str, picture_format: str = "jpg"
    ) -> None:
        self.folder, self.what, self.picture_format = folder, what, picture_format
        self._header = {
            "format": FORMAT,
            "what": what,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            **header,
            "frames": None,
        }
        self._latencies: list[float] = []
        make_folder(folder if what == "none" else folder / PICTURES, _HINT)
        self._rows = LineWriter(folder / ROWS)
        self._write_header()

    def _write_header(self) -> None:
        path = self.folder / HEADER
        try:
            write_json(path, self._header)
        except OSError as error:
            raise write_error(path, error, "Nothing was written.") from error

    def write(self, frame: Frame, result: FrameResult, drawn: np.ndarray | None = None) -> None:
        """Write the pictures of a frame, then its line; the picture is the one of the source."""
        row = result_to_dict(result, self._header["classes"])
        if self.what != "none":
            self._check_space()
            # Not rounded: the smoothing of a replay gets the same times.
            row["time_s"] = float(frame.time_s)
            row["pictures"] = [
                self._write_picture(frame, region, f"{frame.index:08d}_{number}")
                for number, region in enumerate(self._regions(frame, result))
            ]
        if self.what == "faces":
            row["tracks"] = [
                {
                    "id": face.id,
                    "box": list(map(float, face.box)),
                    "score": float(face.score),
                    "landmarks": None if face.landmarks is None else face.landmarks.tolist(),
                }
                for face in result.faces
            ]
        self._rows.write(row)
        self._latencies.append(result.latency_ms)

    def _check_space(self) -> None:
        if self._rows.rows % 32 == 0 and shutil.disk_usage(self.folder).free < RESERVE:
            raise UserError(
                f"Cannot write {self.folder}: less than {RESERVE // 2**20} MiB left on the disk. "
                f"It has {self._rows.rows} complete frames. Free disk space or use another disk."
            )

    def _regions(self, frame: Frame, result: FrameResult) -> list[tuple[int, int, int, int]]:
        """Return left, top, right and bottom of the parts of the frame to store."""
        height, width = frame.image.shape[:2]
        if self.what == "frames":
            return [(0, 0, width, height)]
        regions = []
        for face in result.faces:
            left, top, side = square(np.array(face.box), FACE_MARGIN, LARGEST * max(width, height))
            left, top, right, bottom = (
                *(max(0, left), max(0, top)),
                *(min(width, left + side), min(height, top + side)),
            )
            if right > left and bottom > top:
                regions.append((left, top, right, bottom))
        return regions

    def _write_picture(
        self, frame: Frame, region: tuple[int, int, int, int], name: str
    ) -> dict[str, Any]:
        """Write a part of a frame; return its entry in the row."""
        left, top, right, bottom = region
        image = cv2.cvtColor(frame.image[top:bottom, left:right], cv2.COLOR_RGB2BGR)
        suffix = f".{self.picture_format}"
        data = cv2.imencode(suffix, image, _ENCODING[self.picture_format])[1].tobytes()
        path = self.folder / PICTURES / f"{name}{suffix}"
        try:
            path.write_bytes(data)
        except OSError as error:
            state = f"It has {self._rows.rows} complete frames."
            raise write_error(path, error, state) from error
        return {
            "file": f"{PICTURES}/{path.name}",
            "bytes": len(data),
            **{"left": left, "top": top, "width": right - left, "height": bottom - top},
        }

    def close(self) -> None:
        """Complete the header."""
        if self._header["frames"] is not None:
            return
        self._rows.close()
        self._header["frames"] = self._rows.rows
        if self._latencies:
            quantiles = np.percentile(self._latencies, (50, 95)).round(3).tolist()
            self._header["latency_ms"] = dict(zip(("p50", "p95"), quantiles, strict=True))
        self._write_header()
