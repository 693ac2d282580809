"""Neutral faces of the tracks of a pipeline, and of a person in a photo or clip."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from emotion_lab.core import weights
from emotion_lab.core.errors import UserError
from emotion_lab.core.io import EXPORT_SUFFIXES
from emotion_lab.core.paths import check_exist, find_checkpoint
from emotion_lab.core.wording import counted
from emotion_lab.inference import neutral
from emotion_lab.inference.classifier import read_source
from emotion_lab.inference.loader import load
from emotion_lab.inference.neutral import NeutralReference, log_probabilities
from emotion_lab.video.sinks.base import new_file

#: Duration of an enrolment, seconds.
ENROL_S = 3.0


def check_enrolment(cfg: DictConfig) -> None:
    """Check the keys ``enrol``, ``enrol_reference`` and ``enrol_save`` without loading a model."""
    check_exist({key: cfg[key] for key in ("enrol", "enrol_reference")})
    if cfg.enrol_save is not None:
        new_file(str(cfg.enrol_save), bool(cfg.overwrite or cfg.get("resume")))
    given = next((key for key in ("enrol", "enrol_save") if cfg[key] is not None), None)
    if given is not None and cfg.enrol_reference is None and not _holds_average(str(cfg.ckpt)):
        raise UserError(
            f"{given}= needs the average neutral face of the model: add enrol_reference=<run of "
            "python -m emotion_lab.neutral>."
        )
    if cfg.enrol_save is None:
        return
    if cfg.enrol is None and cfg.get("display", "none") == "none":
        raise UserError(
            "enrol_save= keeps a face that is measured, and here none is: add enrol=<photo or "
            "clip>."
        )
    if cfg.enrol is not None and str(cfg.enrol).endswith(".json"):
        raise UserError("enrol= is a saved face already: leave enrol_save out.")


def note_temporal(smoothing: dict[str, Any]) -> None:
    """Print that a temporal model and a neutral baseline do not go together."""
    if smoothing["name"] == "temporal":
        print(
            "note: smoothing=temporal was less accurate with a neutral baseline than without "
            "(docs/temporal.md): use smoothing=ema with it.",
            file=sys.stderr,
            flush=True,
        )


def _holds_average(ckpt: str) -> bool:
    """Return whether a model holds its average neutral face; reads its card only."""
    if weights.is_name(ckpt):
        return True
    if Path(ckpt).suffix in EXPORT_SUFFIXES:
        return load(ckpt).meta.get("neutral") is not None
    return read_source(find_checkpoint(ckpt)).card.get("neutral") is not None


def neutral_face(looks: Iterable[list[np.ndarray]], name: str) -> np.ndarray:
    """Return the mean log-probabilities of the only face of a photo or clip, float64 (K,).

    Args:
        looks: For each frame, the probabilities (K,) of each of its faces.
        name: For error messages.
    """
    faces = list(looks)
    for number, frame in enumerate(faces):
        if len(frame) > 1:
            raise UserError(
                f"enrol={name} shows {len(frame)} faces{f' (frame {number})' if number else ''}: "
                "give a photo or clip of one person."
            )
    found = [face for frame in faces for face in frame]
    if not found:
        raise UserError(f"enrol={name} shows no face: give a photo or clip of a neutral face.")
    return log_probabilities(np.stack(found)).mean(0)


class Enrolment:
    """Corrects the probabilities of tracks by their neutral faces.

    Args:
        reference: Of the model.
        person: Neutral face of all tracks that are not enrolled, float64 (K,), or None.
        save: File for the neutral face of the next enrolment of a single track.
    """

    def __init__(
        self,
        reference: NeutralReference,
        person: np.ndarray | None = None,
        save: Path | None = None,
    ) -> None:
        self.reference, self.person, self.save = reference, person, save
        self._requested = False
        self._end_s: float | None = None  # of the enrolment that is under way
        self._looks: dict[int, list[np.ndarray]] = defaultdict(list)
        self._faces: dict[int, np.ndarray] = {}  # by track

    def clone(self) -> Enrolment:
        """Return one without enrolled tracks, for another source; it saves nothing."""
        return Enrolment(self.reference, self.person)

    def request(self) -> None:
        """Enrol all tracks from the next frame on for ``ENROL_S``; callable from any thread."""
        self._requested = True

    def reset(self) -> None:
        """Forget all tracks; an enrolment that is under way ends without a result."""
        self.stop()
        self._looks.clear()
        self._faces.clear()

    def step(self, time_s: float) -> None:
        """Begin or end an enrolment; call it once a frame, before :meth:`correct`."""
        if self._requested:
            self._requested, self._end_s = False, time_s + ENROL_S
            self._looks.clear()
        elif self._end_s is not None and time_s >= self._end_s:
            self._end_s = None
            self._finish()

    def stop(self) -> None:
        """End an enrolment that is under way, which is reported: the source ends or restarts."""
        if self._requested or self._end_s is not None:
            frames = max((len(looks) for looks in self._looks.values()), default=0)
            print(
                f"neutral: not enrolled, the source ended before {ENROL_S:g} s were seen "
                f"({counted(frames, 'frame')})",
                file=sys.stderr,
                flush=True,
            )
        self._requested, self._end_s = False, None
        self._looks.clear()

    def _finish(self) -> None:
        """Set the neutral faces of the tracks that were seen, and save that of a single one."""
        faces = {
            key: log_probabilities(np.stack(looks)).mean(0) for key, looks in self._looks.items()
        }
        self._faces |= faces
        names = ", ".join(f"face {key} ({len(self._looks[key])} frames)" for key in faces)
        print(
            f"neutral: enrolled {names or 'nobody, no face was seen'}", file=sys.stderr, flush=True
        )
        if self.save is None or not faces:
            return
        if len(faces) > 1:
            print(
                "neutral: not saved, because several faces were seen", file=sys.stderr, flush=True
            )
            return
        write_person(self.save, self.reference, *faces.values())

    def correct(self, track_id: int, probabilities: np.ndarray) -> np.ndarray:
        """Return the corrected probabilities of a track, float32 (K,)."""
        if self._end_s is not None:
            self._looks[track_id].append(probabilities)
        face = self._faces.get(track_id, self.person)
        return probabilities if face is None else self.reference.correct(probabilities, face)


def write_person(path: Path, reference: NeutralReference, face: np.ndarray) -> None:
    """Write the neutral face of a person, which :func:`neutral.read_person` reads."""
    neutral.write(path, "neutral face", reference.model, reference.classes, face)
    print(f"neutral: saved to {path}", file=sys.stderr, flush=True)
