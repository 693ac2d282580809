"""Processing of photos and clips in one process: the work of every engine."""

from __future__ import annotations

import contextlib
import io
import re
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.core import plugins
from emotion_lab.core.errors import UserError
from emotion_lab.core.wording import counted
from emotion_lab.data import s3
from emotion_lab.data.images import is_image_name
from emotion_lab.video import factory
from emotion_lab.video.batch.base import Chunk, FileItem, FileResult
from emotion_lab.video.batch.listing import save_name
from emotion_lab.video.pipeline import FoundFaces
from emotion_lab.video.recognizer import EmotionRecognizer
from emotion_lab.video.runner import PipelineRunner
from emotion_lab.video.sinks.base import Sink, make_folder
from emotion_lab.video.sinks.console import describe_faces
from emotion_lab.video.sinks.jsonl import json_line, result_to_dict
from emotion_lab.video.sources.animation import num_pictures
from emotion_lab.video.sources.open import open_file, read_reduced_photo
from emotion_lab.video.types import Frame, FrameResult

#: Threads that read files, and files that are read before their turn; decoded photos are large.
_READERS, _AHEAD = 2, 3


def file_row(name: str, result: FrameResult, classes: Sequence[str]) -> bytes:
    """Return the line of one photo or frame.

    It holds no time of the processing, so that every engine writes the same line.
    """
    row = {**result_to_dict(result, classes), "source": name}
    del row["wall"], row["latency_ms"]
    return json_line(row)


def failed(item: FileItem, error: BaseException | str) -> FileResult:
    """Return the result of a broken file: one line with the reason."""
    if isinstance(error, UserError):
        # Only the first sentence: the others say what to set for a single source.
        reason = getattr(error, "reason", None) or re.split(r"\. (?=[A-Z])", str(error))[0]
        reason = reason.removeprefix(item.path).strip().removeprefix("is ")
    else:
        reason = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    reason = " ".join(reason.split())[:300]
    line = json_line({"source": item.name, "error": reason, "faces": []})
    return FileResult(item.name, line, 1, 0, 0, reason, error=reason)


class RowsSink(Sink):
    """Collects the lines of one file."""

    def __init__(self, name: str, classes: Sequence[str]) -> None:
        self.name, self.classes = name, classes
        self.lines: list[bytes] = []

    def write(self, frame: Frame, result: FrameResult, drawn: np.ndarray | None = None) -> None:
        """Add the line of one frame."""
        self.lines.append(file_row(self.name, result, self.classes))


def _read(item: FileItem, folder: Path, decode: bool) -> Path | tuple[np.ndarray, int]:
    """Return a photo and its reduction, or the path of a clip.

    Args:
        folder: For files from S3.
        decode: Whether photos are decoded; otherwise their path is returned too.
    """
    path = Path(item.path)
    if item.path.startswith("s3://"):
        bucket, key = s3.split_address(item.path, "source")
        path = folder / f"{abs(hash(item.name))}{Path(key).suffix}"
        try:
            s3.s3_client().download_file(bucket, key, str(path))
        except UserError:
            raise
        except Exception as error:  # botocore creates exception classes at run time
            raise s3.read_error(item.path, "source", error) from None
    if decode and is_image_name(path):
        is_jpeg = path.suffix.lower() in (".jpg", ".jpeg")
        if is_jpeg or not num_pictures(path)[1]:
            return read_reduced_photo(path)
    return path


class FileProcessor:
    """Processes the files of a chunk; a broken file becomes a result with an error.

    The faces of all photos of a chunk are classified in one batch.

    Args:
        cfg: Config of ``predict`` as plain dicts.
        model: A loaded model; None: it is loaded.
    """

    def __init__(self, cfg: dict[str, Any], model: EmotionRecognizer | None = None) -> None:
        self.cfg = cfg
        plugins.activate(cfg["plugins"])
        if model is None:
            model = factory.build_recognizer({**cfg, "enrol_save": None})  # saved already
        # synthetic=True: the first process has printed the note about the training data.
        self.photos = model.pipeline(stills=True, synthetic=True)
        self.classes = model.classes

    def __call__(self, chunk: Chunk) -> list[FileResult]:
        """Return the results of all files, clips first."""
        results: list[FileResult] = []
        found: list[FoundFaces] = []
        with tempfile.TemporaryDirectory(prefix="emotion_lab_") as folder:
            for item, content in self._read_ahead(chunk, Path(folder)):
                try:
                    file = content.result()
                    if isinstance(file, Path):
                        results.append(self._run(item, file))
                    else:
                        found.append(self._find(item, *file))
                except Exception as error:  # decoders raise exceptions of any class
                    results.append(failed(item, error))
        return results + [self._photo_result(result) for result in self.photos.classify(found)]

    def _read_ahead(self, chunk: Chunk, folder: Path) -> Iterator[tuple[FileItem, Future]]:
        """Yield every file with its content, of which the next ones are read already."""
        with ThreadPoolExecutor(_READERS) as pool:
            waiting: deque[tuple[FileItem, Future]] = deque()
            for item in chunk:
                decode = self.cfg["save"] is None
                waiting.append((item, pool.submit(_read, item, folder, decode)))
                if len(waiting) > _AHEAD:
                    yield waiting.popleft()
            yield from waiting

    def _find(self, item: FileItem, image: np.ndarray, reduced: int) -> FoundFaces:
        found = self.photos.find(Frame(image, 0, 0.0, time.time(), item.name, reduced=reduced))
        # Small copies: views would keep the photos in memory.
        found.crops = [self.photos.classifier.resize(crop) for crop in found.crops]
        return found

    def _photo_result(self, result: FrameResult) -> FileResult:
        line = file_row(result.source, result, self.classes)
        shown, faces = describe_faces(result, self.classes), len(result.faces)
        return FileResult(result.source, line, 1, int(faces > 0), faces, shown)

    def _run(self, item: FileItem, path: Path) -> FileResult:
        """Process a clip, or a photo that is drawn, frame by frame."""
        with contextlib.redirect_stderr(io.StringIO()) as messages:
            source = open_file(path, self.cfg["max_frames"])
            rows = RowsSink(item.name, self.classes)
            sinks: list[Sink] = [rows]
            overlay = None
            with source:
                if self.cfg["save"]:
                    suffix = ".png" if source.stills else ".mp4"
                    target = Path(str(self.cfg["save"])).expanduser() / save_name(item.name)
                    # Also a.png becomes a.png.png, so that no source is ever replaced.
                    target = target.with_name(target.name + suffix)
                    make_folder(target.parent, "Set save=<folder>.")
                    save = {**self.cfg, "save": target, "overwrite": True}
                    sinks.append(factory.build_save_sink(save, source))
                    overlay = factory.build_overlay(self.cfg, self.classes)
                pipeline = self.photos.clone(source.stills)
                stats = PipelineRunner(source, pipeline, overlay, sinks).run()
        notes = tuple(messages.getvalue().replace(str(path), item.name).splitlines())
        shown = f"{counted(stats.frames, 'frame')}, {counted(stats.ids, 'face')}"
        counts = (len(rows.lines), stats.with_faces, stats.ids)
        return FileResult(item.name, b"".join(rows.lines), *counts, shown, notes=notes)
