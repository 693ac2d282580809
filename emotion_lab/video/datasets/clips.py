"""Video clips: folders of classes, or a CSV of episodes."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.config import compose
from emotion_lab.core.csv_input import read_rows
from emotion_lab.core.errors import UserError
from emotion_lab.core.file_names import is_system_name
from emotion_lab.core.labels import class_key, class_order
from emotion_lab.core.progress import track
from emotion_lab.data.types import (
    DATASETS,
    SPLITS,
    ArrayStore,
    LoadedDataset,
    Looks,
    Split,
    data_path,
    subfolders,
)
from emotion_lab.video.clip_faces import ClipFaces, cut_faces
from emotion_lab.video.detectors import auto, build_detector

_COLUMNS = ("file", "start_s", "end_s", "label")


@dataclass(frozen=True)
class _Episode:
    """A part of a clip with one label.

    Attributes:
        file: The clip.
        label: Class name.
        where: Position for error messages.
        start_s: First second; ``end_s`` None is the end of the clip.
        split: Name of the split; None if the data is not divided.
    """

    file: Path
    label: str
    where: str
    start_s: float = 0.0
    end_s: float | None = None
    split: str | None = None


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and not is_system_name(p.name))


def _read_folder(root: Path) -> list[_Episode]:
    """List ``class/clip``, or ``split/class/clip`` if all folders are splits."""
    folders = subfolders(root)
    divided = bool(folders) and all(folder.name in SPLITS for folder in folders)
    episodes = []
    for part in folders if divided else [root]:
        for folder in subfolders(part):
            label, split = class_key(folder.name), part.name if divided else None
            episodes += [_Episode(f, label, str(f), split=split) for f in _files(folder)]
    if not episodes:
        raise UserError(
            f"data.path={root} holds no clips: expected <class>/<clip>, train/<class>/<clip>, or "
            "a CSV of episodes."
        )
    return episodes


def _read_csv(path: Path) -> list[_Episode]:
    """Read the rows ``file,start_s,end_s,label`` and optionally ``split``."""
    try:
        header, *rows = read_rows(path) or [[]]
    except (OSError, UnicodeError, csv.Error) as error:
        raise UserError(f"Cannot read {path}: {error}. Set data.path=<file.csv>.") from None
    header = [name.strip().lower() for name in header]
    missing = [name for name in _COLUMNS if name not in header]
    if missing:
        raise UserError(
            f"{path} lacks the column {', '.join(missing)}: expected {','.join(_COLUMNS)} and "
            "optionally split."
        )
    episodes = []
    for number, row in enumerate(rows, 2):
        if not any(row):
            continue
        where, values = f"{path} row {number}", dict(zip(header, row, strict=False))
        try:
            start_s, end_s = float(values["start_s"]), float(values["end_s"])
        except (KeyError, ValueError):
            raise UserError(f"{where}: start_s and end_s must be seconds.") from None
        if not 0 <= start_s < end_s:
            raise UserError(
                f"{where}: the episode runs from {start_s:g} to {end_s:g} s, times must rise from "
                "0 or more."
            )
        split = values.get("split", "").strip() or None
        if split is not None and split not in SPLITS:
            raise UserError(f"{where}: split '{split}' is unknown, expected {', '.join(SPLITS)}.")
        file = path.parent / values["file"].strip()
        if not file.is_file():
            raise UserError(f"{where}: the clip {file} does not exist.")
        label = class_key(values.get("label", ""))
        if not label:
            raise UserError(f"{where}: the label is missing.")
        episodes.append(_Episode(file, label, where, start_s, end_s, split))
    _check_splits(path, episodes)
    return episodes


def _check_splits(path: Path, episodes: list[_Episode]) -> None:
    """Refuse a clip that is in two splits, and a file that divides some rows only."""
    if not episodes:
        raise UserError(f"{path} has no episodes.")
    splits: dict[Path, str | None] = {}
    for episode in episodes:
        if splits.setdefault(episode.file, episode.split) != episode.split:
            raise UserError(f"{episode.where}: {episode.file.name} is in two splits.")
    if None in splits.values() and len(set(splits.values())) > 1:
        raise UserError(f"{path}: the split is missing in some rows.")


def _assign(faces: ClipFaces, episodes: list[_Episode]) -> np.ndarray:
    """Return the index of the episode of each look of a clip, int64 (N,), -1 outside of them."""
    assigned = np.full(len(faces.times), -1, np.int64)
    for index, episode in enumerate(episodes):
        if (episode.end_s or 0.0) > faces.seconds + 1e-6:
            raise UserError(
                f"{episode.where}: end_s={episode.end_s:g} lies beyond the end of "
                f"{episode.file.name} ({faces.seconds:.2f} s)."
            )
        inside = faces.times >= episode.start_s
        if episode.end_s is not None:
            inside &= faces.times < episode.end_s
        if not inside.any():
            raise UserError(
                f"{episode.where}: no face was found in this "
                f"{'clip' if episode.end_s is None else 'episode'}. Remove it, or set another "
                "data.detector."
            )
        if (assigned[inside] >= 0).any():
            raise UserError(f"{episode.where}: it overlaps another episode of the same clip.")
        assigned[inside] = index
    return assigned


def _open_split(
    clips: list[list[_Episode]],
    classes: list[str],
    cfg: dict[str, Any],
    settings: dict[str, Any],
    title: str,
) -> Split:
    """Cut the faces of clips; looks outside of the episodes are left out.

    Args:
        clips: The episodes of each clip.
        classes: Class names.
        cfg: The ``data`` group.
        settings: The detector and its options.
        title: Of the progress bar.
    """
    detector, margin, size = build_detector(settings), cfg["crop_margin"], cfg["size"]
    images, labels, times, numbers = [], [], [], []
    count = 0  # episodes of the clips before
    tracks: list[np.ndarray] = []
    names: list[str] = []
    groups: list[str] = []
    for episodes in track(clips, title, len(clips)):
        file = episodes[0].file
        faces = cut_faces(file, detector, settings, margin, size)
        assigned = _assign(faces, episodes)
        kept = assigned >= 0
        images.append(faces.images[kept])
        own_labels = np.array([classes.index(episode.label) for episode in episodes])
        labels.append(own_labels[assigned[kept]])
        numbers.append(assigned[kept] + count)
        count += len(episodes)
        tracks.append(faces.tracks[kept] + 1 + (tracks[-1].max() if tracks else 0))
        times.append(faces.times[kept])
        pairs = zip(faces.tracks[kept], times[-1], strict=True)
        names += [f"{file}:{face}:{time_s:.3f}" for face, time_s in pairs]
        groups += [str(file)] * len(times[-1])
    return Split(
        ArrayStore(np.concatenate(images)),
        np.arange(len(names), dtype=np.int64),
        np.concatenate(labels),
        names,
        groups=None if cfg.get("group") else groups,  # set by data.group
        looks=Looks(np.concatenate(tracks), np.concatenate(times), np.concatenate(numbers)),
    )


@DATASETS.register("clips")
def load(cfg: dict[str, Any], splits: tuple[str, ...]) -> LoadedDataset:
    """Load clips: every face of a clip, in every frame, is an image with a time.

    Args:
        cfg: The ``data`` group; ``path``, ``detector``, ``size`` and ``crop_margin`` are used.
        splits: The splits to open; clips of other splits are listed but not opened.

    Returns:
        The splits of the folders ``train``, ``val`` and ``test`` or of the column ``split``;
        without them, all clips are train.
    """
    root = Path(data_path(cfg)[0]).expanduser()
    if not root.exists():
        raise UserError(f"data.path={root} does not exist. Set data.path=<folder or CSV>.")
    episodes = _read_folder(root) if root.is_dir() else _read_csv(root)
    classes = class_order(episode.label for episode in episodes)
    by_split: dict[str, dict[Path, list[_Episode]]] = {}
    for episode in episodes:
        files = by_split.setdefault(episode.split or "train", {})
        files.setdefault(episode.file, []).append(episode)
    settings = compose.defaults("detector", cfg["detector"])
    if cfg["detector"] == "auto":
        settings = auto.resolve(settings, "save {url} in data/")
    opened = {
        name: _open_split(list(files.values()), classes, cfg, settings, f"faces of {name}")
        for name, files in by_split.items()
        if name in splits
    }
    count = sum(len(files) for files in by_split.values())
    notes = [f"{count} clips, {len(episodes)} episodes; faces found with {settings['name']}"]
    available = [name for name in SPLITS if name in by_split]
    return LoadedDataset(classes, opened, str(root), notes, available_splits=available)
