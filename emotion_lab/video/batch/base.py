"""Data types and registry of the engines that process many files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from emotion_lab.core.registry import Registry
from emotion_lab.video.recognizer import EmotionRecognizer


@dataclass(frozen=True)
class FileItem:
    """A photo or clip to process.

    Attributes:
        name: ``source`` of its rows, unique.
        path: Path, or ``s3://bucket/key``.
    """

    name: str
    path: str


@dataclass(frozen=True)
class FileResult:
    """All rows of one file.

    Attributes:
        name: That of the item.
        lines: JSON lines, one for each photo or frame; a line with ``error`` for a broken file.
        rows: Number of lines.
        with_face: Number of lines with at least one face.
        faces: Different faces: track ids of a clip, faces of a photo.
        shown: The result in a few words, for the console.
        error: Why the file could not be processed; None if it could.
        notes: Further messages about the file, for the user.
    """

    name: str
    lines: bytes
    rows: int
    with_face: int
    faces: int
    shown: str
    error: str | None = None
    notes: tuple[str, ...] = ()


#: Files that one call of a worker processes: several photos, or one clip.
Chunk = Sequence[FileItem]


class Engine(Protocol):
    """Processes chunks in any order, each file exactly once."""

    def run(self, chunks: Sequence[Chunk], model: EmotionRecognizer) -> Iterator[FileResult]:
        """Yield the result of every file as it comes.

        Args:
            chunks: At least one.
            model: The model as it was loaded in this process.

        Raises:
            UserError: If no worker can start, for instance because of a missing checkpoint.
        """


#: Name -> (config of ``predict`` as plain dicts) -> engine.
ENGINES: Registry[Callable[[dict[str, Any]], Engine]] = Registry(
    "engine", "emotion_lab.video.batch.engines"
)
