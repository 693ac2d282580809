"""Outputs of a network of single images for the faces of clips, computed once."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.core.io import cache_root, replaced_file
from emotion_lab.core.paths import find_checkpoint
from emotion_lab.core.progress import track
from emotion_lab.data.types import Split
from emotion_lab.inference.classifier import Classifier, load_classifier, read_source

_BATCH = 128


class FrameOutputs:
    """The network of single images below a temporal model.

    Its probabilities are those of ``live``. They are cached under the hash of the checkpoint and
    of all images.

    Args:
        ckpt: Checkpoint or run directory.

    Attributes:
        path: The checkpoint.
        sha256: Of the checkpoint.
        classes: Class names, in the order of the probabilities.
    """

    def __init__(self, ckpt: str | Path) -> None:
        self.path = find_checkpoint(ckpt)
        source = read_source(self.path)
        self.sha256, self.classes = source.sha256, list(source.card["classes"])
        self._classifier: Classifier | None = None

    @classmethod
    def of_card(cls, card: dict[str, Any]) -> FrameOutputs | None:
        """Return the frame network of a temporal model; None for other checkpoints."""
        if "frame" not in card:
            return None
        expected = card["frame"]
        if not Path(expected["ckpt"]).is_file():
            raise UserError(
                f"the temporal model reads the outputs of {expected['ckpt']}, which is missing."
            )
        frame = cls(expected["ckpt"])
        if frame.sha256 != expected["sha256"]:
            raise UserError(
                f"{frame.path} is not the network that the temporal model was trained with: sha256 "
                f"{frame.sha256[:8]}, expected {expected['sha256'][:8]}. Train the temporal model "
                "again."
            )
        return frame

    def entry(self) -> dict[str, Any]:
        """Return the identity for the card of a temporal model."""
        return {"ckpt": str(self.path.resolve()), "sha256": self.sha256}

    def __call__(self, split: Split) -> np.ndarray:
        """Return the probabilities of all images of a split, float32 (N, K)."""
        digest = hashlib.sha256(self.sha256.encode() + b"".join(split.digests()))
        file = cache_root() / "frame_outputs" / f"{digest.hexdigest()}.npy"
        with contextlib.suppress(OSError, ValueError, EOFError):  # missing or damaged
            return np.load(file, allow_pickle=False)
        if self._classifier is None:
            self._classifier = load_classifier(self.path, "torch")
        starts = range(0, len(split), _BATCH)
        rows = [
            self._classifier(
                [split.image(i) for i in range(start, min(start + _BATCH, len(split)))]
            )
            for start in track(starts, "frame network", len(starts))
        ]
        outputs = np.concatenate(rows)
        with contextlib.suppress(OSError):  # a cache folder that cannot be written
            file.parent.mkdir(parents=True, exist_ok=True)
            with replaced_file(file) as temporary, temporary.open("wb") as array:
                np.save(array, outputs)
        return outputs
