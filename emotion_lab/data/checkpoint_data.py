"""A data split prepared for a checkpoint: same val, same class order, same input size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from emotion_lab.config import compose
from emotion_lab.core.errors import UserError
from emotion_lab.core.labels import normalize
from emotion_lab.core.wording import counted
from emotion_lab.data.datamodule import EmotionData
from emotion_lab.data.transforms import Resize
from emotion_lab.data.types import DATASETS, SYNTHETIC, LoadedDataset, Split, data_path
from emotion_lab.data.window_dataset import FrameNetwork

#: Keys of the ``data`` group that decide the classes, and which images are train and which val.
_SPLIT_KEYS = (
    *("split_seed", "val_fraction", "folds", "fold", "group"),
    *("exclude", "digest_of", "label_scheme"),
)


def is_foreign(data_cfg: dict[str, Any], card: dict[str, Any]) -> bool:
    """Return whether a ``data`` group names other data than that of a checkpoint.

    Data of the same kind at the same path is not foreign, whether or not the command names it.
    """
    if data_cfg["name"] == "checkpoint":
        return False
    trained_on = card["config"]["data"]
    if data_cfg["name"] != trained_on["name"] or data_cfg["name"] in SYNTHETIC:
        return True
    location, other = (data_path(cfg)[0] for cfg in (data_cfg, trained_on))
    if "://" in location + other:
        return location.rstrip("/") != other.rstrip("/")
    return Path(location).resolve() != Path(other).resolve()


def data_config(data_cfg: dict[str, Any], card: dict[str, Any]) -> dict[str, Any]:
    """Return the ``data`` group to read: for ``data=checkpoint`` that of the card of a checkpoint.

    Keys that are set in ``data_cfg``, the group of the command, override those of the card. If
    the command names the data of the checkpoint explicitly, train and val are divided as for the
    training run, so that val holds no image that was trained on.
    """
    if data_cfg["name"] != "checkpoint":
        if is_foreign(data_cfg, card):
            return data_cfg
        trained_on = card["config"]["data"]
        _check_folds(data_cfg, trained_on)
        return data_cfg | {key: trained_on[key] for key in _SPLIT_KEYS if key in trained_on}
    overrides = {key: value for key, value in data_cfg.items() if value is not None}
    trained_on = card["config"]["data"]
    _check_folds({**trained_on, **overrides}, trained_on)
    plugin = card.get("plugins", {}).get("data")
    if plugin and trained_on["name"] not in DATASETS.names():
        raise UserError(
            f"this checkpoint was trained with data={trained_on['name']} of the plug-in {plugin}: "
            f"add plugins=[{plugin}]."
        )
    if trained_on["name"] in SYNTHETIC and overrides.get("path"):
        raise UserError(
            f"data.path={overrides['path']} does not apply: the checkpoint was trained on "
            "synthetic faces. Set data=image_folder data.path=<folder>, or data=fer2013."
        )
    # Checkpoints of earlier versions lack keys that were added later: take the defaults.
    defaults = compose.defaults("data", trained_on["name"])
    return {**defaults, **trained_on, **overrides, "name": trained_on["name"]}


def _check_folds(data_cfg: dict[str, Any], trained_on: dict[str, Any]) -> None:
    """Refuse other labels than those of the training run if it held out a fold.

    Folds are stratified: with other labels, val would hold images that were trained on.
    """
    labels, own = (cfg.get("labels") or "fer2013" for cfg in (data_cfg, trained_on))
    if trained_on.get("folds") is not None and labels != own:
        raise UserError(
            f"data.labels={labels}: the checkpoint was trained on folds of data.labels={own}, "
            f"which hold other images. Set data.labels={own}."
        )


def match_classes(
    part: Split, data_classes: Sequence[str], classes: Sequence[str]
) -> tuple[Split, list[str]]:
    """Relabel a split into the class order of a checkpoint; classes are matched by name.

    Args:
        part: The split, labelled by position in ``data_classes``.
        data_classes: Class names of the data.
        classes: Class names of the checkpoint; images of other classes are left out.

    Returns:
        The new split and one note for each class without a match.
    """
    target = {normalize(name): index for index, name in enumerate(classes)}
    mapping = np.array([target.get(normalize(n), -1) for n in data_classes], dtype=np.int64)
    labels = mapping[part.labels]
    notes = []
    for index, name in enumerate(data_classes):
        unmatched = int((part.labels == index).sum())
        images = counted(unmatched, "image")
        if name not in target and unmatched:
            notes.append(f"class '{name}' is unknown to the checkpoint: {images} left out")
    kept = np.flatnonzero(labels >= 0)
    if not len(kept):
        raise UserError(
            f"no class is shared: the data has {', '.join(data_classes)}, "
            f"the checkpoint {', '.join(classes)}."
        )
    result = part.subset(kept)
    result.labels = labels[kept]
    result.label_sets = {
        name: np.where(values >= 0, mapping[values], -1)
        for name, values in result.label_sets.items()
    }
    if result.votes is not None:
        is_shared = mapping >= 0
        votes = np.zeros((len(kept), len(classes)), result.votes.dtype)
        votes[:, mapping[is_shared]] = result.votes[:, is_shared]
        result.votes = votes
    return result, notes


def relabel(module: EmotionData, classes: Sequence[str]) -> list[str]:
    """Relabel the opened splits of a module into other classes; return notes for the user."""
    source, parts, notes = module.source, {}, []
    for name, original in source.splits.items():
        parts[name], lines = match_classes(original, source.classes, classes)
        notes += lines
    module.source = replace(source, classes=list(classes), splits=parts)
    return notes


def class_mapping(
    source: LoadedDataset, part: Split, classes: Sequence[str]
) -> list[dict[str, Any]]:
    """Return how each class of the data maps to the classes of a checkpoint.

    Keys: ``from`` (name in the data), ``to`` (class of the checkpoint, or None), ``n`` (images).
    """
    return [
        {
            "from": ", ".join(source.class_folders.get(name, [name])),
            "to": name if name in classes else None,
            "n": int((part.labels == index).sum()),
        }
        for index, name in enumerate(source.classes)
    ]


def _same_val(card: dict[str, Any], data_cfg: dict[str, Any], part: Split) -> EmotionData | None:
    """Return val as the training run divided it if other data is a copy of its data, else None.

    The same images can have another name or format: a stream of a folder, a folder of a CSV. Data
    is divided once more only if its number of images allows it.

    Args:
        card: Of the checkpoint.
        data_cfg: The ``data`` group of the copy.
        part: Val of that data, not divided as for the training run.
    """
    prints, trained_on = card.get("fingerprints", {}), card["config"]["data"]
    if "val" not in prints or "train" not in prints:
        return None
    n = prints["val"]["n"] + prints["train"]["n"]
    if len(part) != n and trained_on.get("folds") is None and not trained_on.get("exclude"):
        return None
    settings = {key: trained_on[key] for key in _SPLIT_KEYS if key in trained_on}
    try:
        module = EmotionData({**data_cfg, **settings}, ("val",), card["seed"])
    except UserError:
        return None
    return module if module.fingerprints()["val"]["hash"] == prints["val"]["hash"] else None


@dataclass
class CheckpointData:
    """One split of a dataset, ready for the network of a checkpoint.

    Attributes:
        module: The data module; it holds only this split.
        split: ``train``, ``val`` or ``test``.
        fingerprint: Fingerprint of the images and labels.
        foreign: Whether the data differs from the data of the training run.
        mapping: See :func:`class_mapping`; empty unless ``foreign``.
        notes: Lines to show: skipped files and classes.
    """

    module: EmotionData
    split: str
    fingerprint: dict[str, Any]
    foreign: bool = False
    mapping: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def open(
        cls,
        card: dict[str, Any],
        data_cfg: dict[str, Any],
        split: str,
        foreign: bool = False,
        frame: FrameNetwork | None = None,
    ) -> CheckpointData:
        """Load a split and adapt it to the checkpoint of ``card``.

        Args:
            card: Metadata of the checkpoint.
            data_cfg: The result of :func:`data_config`.
            split: ``train``, ``val`` or ``test``.
            foreign: The result of :func:`is_foreign`.
            frame: The frame network of a temporal model.
        """
        if "frame" in card and frame is None:
            raise UserError(
                f"model={card['config']['model']['name']} is a temporal model, and this command "
                "takes networks of single images: use evaluate, compare, live or predict."
            )
        classes = list(card["classes"])
        module = EmotionData(data_cfg, (split,), card["seed"], carve=not foreign)
        if foreign and split == "val":
            member = card.get("members", [card])[0]
            same = _same_val(member, data_cfg, module.split(split))
            module, foreign = (module, True) if same is None else (same, False)
        source = module.source
        mapping = class_mapping(source, module.split(split), classes) if foreign else []
        notes = relabel(module, classes)
        module.prepare_for(card["input"]["image_size"], card["input"]["channels"])
        if frame is not None:
            module.use_windows(frame, card["config"]["model"])
        fingerprint = module.fingerprints()[split]
        members = card.get("members", [card])
        fingerprints = [member.get("fingerprints", {}) for member in members]
        if any(prints.get(split, {}).get("hash") == fingerprint["hash"] for prints in fingerprints):
            # The config names the data of the training run explicitly.
            foreign, mapping = False, []
        return cls(module, split, fingerprint, foreign, mapping, [*source.notes, *notes])

    @property
    def part(self) -> Split:
        """The images, labelled in the class order of the checkpoint."""
        return self.module.split(self.split)

    @property
    def resize(self) -> Resize:
        """The deterministic transform to the input of the network."""
        return self.module.dataset(self.split).resize

    def loader(self) -> DataLoader:
        """Return a loader of the split: in order, without augmentation."""
        return self.module.eval_dataloader(self.split)
