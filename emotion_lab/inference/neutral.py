"""Correction of probabilities by the neutral face of a person.

A face that looks angry at rest adds the same evidence for anger to all of its expressions. The
correction subtracts it: with l the logarithms of the probabilities,

    l' = l - strength * (neutral face of this person - average neutral face)

The average neutral face and the strength are properties of a model, measured by
``python -m emotion_lab.neutral``. Faces are numbers here (K log-probabilities), not pictures.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.core.io import write_json

#: Version of the files.
FORMAT = 1
#: File name of a reference in its run directory.
REFERENCE = "neutral.json"
#: Why nobody can be enrolled.
NO_REFERENCE = (
    "the average neutral face of this model is not known: start with enrol_reference=<run of "
    "python -m emotion_lab.neutral>."
)
_SMALLEST = 1e-4  # floor of a probability before the logarithm, as in the smoothers


def log_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """Return float64 (..., K): logarithms with a floor, and mean 0 over the classes."""
    values = np.log(np.maximum(np.asarray(probabilities, np.float64), _SMALLEST))
    return values - values.mean(-1, keepdims=True)


def correct(
    probabilities: np.ndarray, neutral: np.ndarray, average: np.ndarray, strength: float
) -> np.ndarray:
    """Return corrected probabilities, float32 (..., K).

    Args:
        probabilities: (..., K).
        neutral: Log-probabilities of the neutral face of the person, (..., K).
        average: Those of the average neutral face, (K,).
        strength: 0 (no correction) to 1.
    """
    values = log_probabilities(probabilities) - strength * (neutral - average)
    values = np.exp(values - values.max(-1, keepdims=True))
    return (values / values.sum(-1, keepdims=True)).astype(np.float32)


@dataclass(frozen=True)
class NeutralReference:
    """What the correction needs to know of a model.

    Attributes:
        classes: K names, in the order of the probabilities.
        model: Hash of the model, see :attr:`Classifier.model_id`.
        average: Log-probabilities of the average neutral face, float64 (K,).
        strength: 0..1.
    """

    classes: list[str]
    model: str
    average: np.ndarray
    strength: float

    @classmethod
    def from_card(
        cls, entry: dict[str, Any] | None, model: str, classes: list[str]
    ) -> NeutralReference | None:
        """Build the reference of a checkpoint's or exported file's ``neutral``; None if missing."""
        if entry is None:
            return None
        return cls(classes, model, np.array(entry["average"], np.float64), float(entry["strength"]))

    def correct(self, probabilities: np.ndarray, neutral: np.ndarray) -> np.ndarray:
        """Return :func:`correct` for a person."""
        return correct(probabilities, neutral, self.average, self.strength)


def _read(path: Path, kind: str, model: str, classes: list[str]) -> dict[str, Any]:
    """Read a file of this module and check that it belongs to a model."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = (content["format"], content["kind"], len(content["neutral"]))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError):
        found = None
    if found is None or found[:2] != (FORMAT, kind):
        raise UserError(f"{path} is no {kind} of this version.")
    if content.get("classes") != classes:
        raise UserError(
            f"{path} is of a model with the classes {', '.join(map(str, content['classes']))}, but "
            f"this one has {', '.join(classes)}, in this order. Make it again with this model."
        )
    if content.get("model") != model:
        raise UserError(f"{path} is of another model than ckpt=: make it again with this one.")
    if found[2] != len(classes) or not np.isfinite(content["neutral"]).all():
        raise UserError(f"{path} is damaged: it does not hold {len(classes)} numbers.")
    return content


def read_reference(path: Path, model: str, classes: list[str]) -> NeutralReference:
    """Read the reference of a model: the file, or the run directory of ``neutral``."""
    file = path / REFERENCE if path.is_dir() else path
    content = _read(file, "neutral reference", model, classes)
    return NeutralReference(
        classes, model, np.array(content["neutral"], np.float64), float(content["strength"])
    )


def read_person(path: Path, model: str, classes: list[str]) -> np.ndarray:
    """Read the neutral face of a person, float64 (K,)."""
    return np.array(_read(path, "neutral face", model, classes)["neutral"], np.float64)


def write(
    path: Path,
    kind: str,
    model: str,
    classes: list[str],
    neutral: Sequence[float] | np.ndarray,
    **more: Any,
) -> None:
    """Write a ``neutral reference`` or the ``neutral face`` of a person; ``more`` is appended."""
    content: dict[str, Any] = {"format": FORMAT, "kind": kind, "model": model, "classes": classes}
    content["neutral"] = [round(float(value), 6) for value in neutral]
    try:
        write_json(path, content | more)
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror}. Use another path.") from None
