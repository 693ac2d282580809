"""The checkpoint file: weights plus builtins, written whole or not at all, read without code.

A checkpoint explains itself. Under the key ``emotion_lab`` lies its card: the resolved config,
class names in order, input (size, channels, colour order, mean, std), crop margin, temperature,
split fingerprints and versions. It loads under ``torch.load(weights_only=True)``.

An ensemble's file has, in place of ``state_dict``, ``members``: a state dict for each. Its card has
their cards (``members``) and shares (``weights``), and says how they were chosen (``ensemble``).
"""

from __future__ import annotations

import collections
import contextlib
import errno
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from emotion_lab.core.errors import UserError
from emotion_lab.core.migrate import migrate_config

#: Raised when the meaning of the card changes; readers refuse what they do not know.
FORMAT = 1
#: Of a file with several networks; readers that know one network only refuse it.
ENSEMBLE_FORMAT = 2
CARD = "emotion_lab"
#: What an ensemble's file is called in its run folder.
ENSEMBLE = "ensemble.ckpt"

_PLAIN = (bool, int, float, str, bytes, type(None), torch.Tensor)
#: What torch's optimisers and Lightning's loops store and ``weights_only`` admits.
_ADMITTED = (torch.dtype, torch.Size, torch.device)
#: dict and the subclasses of it that ``weights_only`` admits.
_DICTS = (dict, collections.OrderedDict, collections.Counter)


def check_plain(value: Any, where: str = "checkpoint") -> None:
    """Refuse anything that would not load under ``weights_only=True``.

    Raises:
        TypeError: Naming the place and the type, for instance a DictConfig or a numpy scalar.
    """
    kind = type(value)
    if isinstance(value, torch.Tensor) or kind in _PLAIN or isinstance(value, _ADMITTED):
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
    """Write a checkpoint under a temporary name, then rename it into place.

    A process killed in the middle, or a full disk, leaves the file that was there before.

    Raises:
        TypeError: If ``content`` holds more than tensors and builtins.
        UserError: If it cannot be written.
    """
    check_plain(content)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        # torch's zip writer hides the errno of a failed write behind a RuntimeError.
        full = full or "file write failed" in str(error) or "unexpected pos" in str(error)
        kept = f"; the last good {path.name} is kept" if path.exists() else ""
        words = (str(error) or type(error).__name__).splitlines()[0]
        reason = "the disk is full" if full else words
        raise UserError(f"cannot save {path}: {reason}{kept}. Free some space, then resume.") from (
            None if full else error
        )
    finally:
        # After the rename there is none; after any failure, Ctrl-C included, it is rubbish.
        with contextlib.suppress(OSError):
            temporary.unlink()


def find(path: str | Path, prefer: str = "best.ckpt") -> Path:
    """Return the checkpoint file that ``path`` names: a file, or a run folder's ``prefer``.

    The run folder of an ensemble has its own file.

    Raises:
        UserError: If there is none.
    """
    place = Path(path)
    if place.is_file():
        return place
    if place.is_dir():
        for candidate in (place / "checkpoints" / prefer, place / prefer, place / ENSEMBLE):
            if candidate.is_file():
                return candidate
        raise UserError(f"no checkpoints/{prefer} in {place}: is it a run folder of train?")
    raise UserError(f"no such checkpoint: {place}. Give a .ckpt file or a run folder.")


def _whole(path: Path) -> bool:
    """Compare the checksums, which torch does not: damaged weights would answer, and wrongly."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # a damaged file makes this reader fail in any way
        return not zipfile.is_zipfile(path)  # torch's old format has no checksums


def read(path: Path) -> dict[str, Any]:
    """Read one of our checkpoints; nothing in it is ever executed.

    Returns:
        The whole content; the card is under :data:`CARD`.

    Raises:
        UserError: If it is truncated, unsafe, of another program or of a newer format.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} is refused: it holds Python objects that could run code, or is no checkpoint."
        ) from None
    except Exception as error:  # a damaged file makes torch's reader fail in any way
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise UserError(f"{path} is truncated or not a checkpoint ({reason}).") from None
    if not isinstance(content, dict) or not isinstance(content.get(CARD), dict):
        raise UserError(
            f"{path} is not a checkpoint of emotion_lab (no card in it); "
            "to start from foreign weights use train model.weights=<file>."
        )
    if not _whole(path):
        raise UserError(f"{path} is damaged: its checksum is wrong. Copy or save it again.")
    found = content[CARD].get("format")
    known = ENSEMBLE_FORMAT if "members" in content else FORMAT
    if not isinstance(found, int) or found > known:
        raise UserError(f"{path} has format {found}, this version reads up to {known}: upgrade.")
    card = content[CARD]
    for part in (card, *card.get("members", ())):
        if isinstance(part, dict) and isinstance(part.get("config"), dict):
            part["config"] = migrate_config(part["config"])
    return content


def describe(card: dict[str, Any]) -> str:
    """Return epoch and model of a checkpoint, or the models of an ensemble, as one phrase."""
    if "members" not in card:
        return f"epoch {card['epoch'] + 1}, {card['config']['model']['name']}"
    names = [member["config"]["model"]["name"] for member in card["members"]]
    models = [f"{names.count(name)} {name}" for name in dict.fromkeys(names)]
    return f"ensemble of {', '.join(models)}"
