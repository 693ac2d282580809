"""Comparability of ``val/criterion``: it is measured with the loss of each run. No torch here."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from emotion_lab.core.errors import UserError
from emotion_lab.core.runs import Run

#: Keys that change the loss, or its class weights through the training images.
_KEYS = (
    *("loss", "experiment", "data.class_weights", "data.effective_beta", "data.drop_csv"),
    *("data.relabel_csv", "data.drop_not_face", "data.label_source", "data.limit"),
    "data.labels",
)
#: Keys that add terms to the value that is optimised, ``train/criterion``.
_TRAIN_HEADS = ("votes_head", "quantities_head")
_TRAIN_KEYS = ("distill", "mix", *_TRAIN_HEADS, "model", "data.sampler")


def check_searched(monitor: str, keys: Iterable[str]) -> None:
    """Refuse to choose between different losses by their own values.

    Args:
        monitor: The monitored metric.
        keys: Config keys with several values.
    """
    stage, _, metric = monitor.partition("/")
    if metric != "criterion":
        return
    changing = _KEYS + (_TRAIN_KEYS if stage == "train" else ())
    for key in keys:
        if any(key == name or key.startswith(f"{name}.") for name in changing):
            raise UserError(
                f"monitor={monitor} is measured with the loss of each run, so it cannot choose "
                f"between values of {key}: set monitor=val/loss (the cross-entropy for every "
                "loss), val/macro_f1 or val/accuracy."
            )


def _measured_with(run: Run) -> str:
    """Return what determines the criterion of a run, as text."""
    data = run.config.get("data") or {}
    train = (run.metrics.get("fingerprints") or {}).get("train") or {}
    parts: list[Any] = [run.config.get("loss"), train.get("counts")]
    parts += [data.get("class_weights"), data.get("effective_beta")]
    if str(run.config["monitor"]).startswith("train/"):
        parts += [run.config.get(name) for name in ("distill", "mix", *_TRAIN_HEADS, "model")]
    return json.dumps(parts, sort_keys=True, default=str)


def is_comparable(runs: Iterable[Run]) -> bool:
    """Return whether runs with one monitor can be ranked by it."""
    return len({_measured_with(r) for r in runs if r.config["monitor"].endswith("/criterion")}) < 2
