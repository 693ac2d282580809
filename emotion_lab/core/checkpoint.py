"""Checkpoint files: atomic writes, and reading without executing code.

A checkpoint contains tensors and builtins only, so that ``torch.load(weights_only=True)`` reads it.
Its card, under the key ``emotion_lab``, holds the resolved config, class names in order, input
(size, channels, colour order, mean, std), crop margin, temperature, split fingerprints, hashes of
the training images (``trained_on``) and versions: other commands need no further information.

The file of an ensemble has ``members``, a list of state dicts, instead of ``state_dict``. Its card
holds the cards of the members (``members``), their ``weights`` and the selection (``ensemble``).
"""

from __future__ import annotations

import collections
import errno
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from emotion_lab.core.errors import UserError, first_line
from emotion_lab.core.io import replaced_file
from emotion_lab.core.labels import QUANTITY_RANGES
from emotion_lab.core.migrate import (
    has_old_loss,
    migrate_callbacks,
    migrate_config,
    migrate_history,
    migrate_monitors,
)

#: Version of the card; a reader refuses a newer one. Increase it when the meaning changes.
FORMAT = 1
#: Version of the card of an ensemble; a reader for single networks refuses it.
ENSEMBLE_FORMAT = 2
CARD = "emotion_lab"

_PLAIN = (bool, int, float, str, bytes, type(None), torch.Tensor)
#: Types that torch's optimizers and Lightning's loops store and ``weights_only`` accepts.
_ACCEPTED = (torch.dtype, torch.Size, torch.device)
#: dict and the subclasses that ``weights_only`` accepts.
_DICTS = (dict, collections.OrderedDict, collections.Counter)


def check_plain(value: Any, where: str = "checkpoint") -> None:
    """Refuse values that would not load under ``weights_only=True``.

    Raises:
        TypeError: With the position and the type, for instance a DictConfig or a numpy scalar.
    """
    kind = type(value)
    if isinstance(value, torch.Tensor) or kind in _PLAIN or isinstance(value, _ACCEPTED):
        return
    if kind in _DICTS:
        for key, item in value.items():
            check_plain(key, f"{where} key")
            check_plain(item, f"{where}[{key!r}]")
    elif kind in (list, tuple, set):
        for index, item in enumerate(value):
            check_plain(item, f"{where}[{index}]")
    else:
        raise TypeError(f"{where} is a {kind.__module__}.{kind.__name__}; only builtins are saved")


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint to a temporary file, then rename it.

    An earlier file is kept if the process is killed or the disk is full.
    """
    check_plain(content)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced_file(path) as temporary, temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        # torch's zip writer hides the errno of a failed write behind a RuntimeError.
        full = full or "file write failed" in str(error) or "unexpected pos" in str(error)
        kept = f"; the last good {path.name} is kept" if path.exists() else ""
        reason = "the disk is full" if full else first_line(error)
        raise UserError(f"cannot save {path}: {reason}{kept}. Free some space, then resume.") from (
            None if full else error
        )


def _is_intact(path: Path) -> bool:
    """Compare the checksums of the zip archive; torch does not, and would load damaged weights."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # the reader raises arbitrary exceptions for damaged files
        return not zipfile.is_zipfile(path)  # torch's old format has no checksums


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint of this package without executing code; its config keys are migrated.

    Returns:
        The content; the card is under :data:`CARD`.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} is refused: it holds Python objects that could run code, or is no checkpoint."
        ) from None
    except Exception as error:  # torch raises arbitrary exceptions for damaged files
        raise UserError(f"{path} is truncated or not a checkpoint ({first_line(error)}).") from None
    if not isinstance(content, dict) or not isinstance(content.get(CARD), dict):
        raise UserError(
            f"{path} is not a checkpoint of emotion_lab (no card in it); "
            "to start from foreign weights use train model.weights=<file>."
        )
    if not _is_intact(path):
        raise UserError(f"{path} is damaged: its checksum is wrong. Copy or save it again.")
    version = content[CARD].get("format")
    newest = ENSEMBLE_FORMAT if "members" in content else FORMAT
    if not isinstance(version, int) or version > newest:
        raise UserError(f"{path} has format {version}, this version reads up to {newest}: upgrade.")
    card = content[CARD]
    for part in (card, *card.get("members", ())):
        if isinstance(part, dict) and isinstance(part.get("config"), dict):
            part["config"] = migrate_config(part["config"])
    if "callbacks" in content:
        content["callbacks"] = migrate_callbacks(content["callbacks"])
        _migrate_losses(content)
    return content


def _migrate_losses(content: dict[str, Any]) -> None:
    """Migrate the history and the monitors of a checkpoint to resume from, in place."""
    card, history = content[CARD], content["callbacks"].get("MetricsHistory", {})
    rows = history.get("rows")
    if not rows:
        return
    history["rows"] = migrate_history(rows, card["config"])
    if has_old_loss(rows[0]):
        card["config"] = migrate_monitors(card["config"])
        card["monitor"] = card["config"]["monitor"]


def quantities(content: dict[str, Any]) -> list[str]:
    """Return the quantities that a checkpoint has learned; of an ensemble, those of all members."""
    card, head = content[CARD], "quantities_head.linear.weight"
    if "members" not in content:
        return list(card.get("quantities", [])) if head in content.get("state_dict", {}) else []
    members = [
        set(member.get("quantities", [])) if head in state else set()
        for state, member in zip(content["members"], card["members"], strict=True)
    ]
    return [name for name in QUANTITY_RANGES if all(name in own for own in members)]


def describe(card: dict[str, Any]) -> str:
    """Return epoch and model of a checkpoint, or the models of an ensemble, as one phrase."""
    if "members" not in card:
        return f"epoch {card['epoch'] + 1}, {card['config']['model']['name']}"
    names = [member["config"]["model"]["name"] for member in card["members"]]
    models = [f"{names.count(name)} {name}" for name in dict.fromkeys(names)]
    return f"ensemble of {', '.join(models)}"
