"""The list ``datasets=[...]`` of ``evaluate``; no torch import."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from emotion_lab.core.csv_input import delimiter_of
from emotion_lab.core.errors import UserError
from emotion_lab.evaluation.predictions_file import PREDICTION_COLUMNS

#: The data of the training run, in ``datasets=[...]``.
OWN = "checkpoint"
#: Characters of a CSV file that are read to find its columns.
_MAX_HEADER = 10_000


def kind_of(path: str) -> str:
    """Return what a path of ``datasets`` is: the name of a ``data`` group, or ``predictions``."""
    if path == OWN:
        return OWN
    location = Path(path).expanduser()
    if location.is_dir():
        return "stream" if (location / "stream.json").is_file() else "image_folder"
    try:
        with location.open(encoding="utf-8-sig", errors="replace") as file:
            header = file.readline(_MAX_HEADER)
    except OSError as error:
        raise UserError(f"datasets: {path} cannot be read: {error}.") from None
    columns = [name.strip().strip('"').lower() for name in header.split(delimiter_of(header))]
    if columns[:3] == PREDICTION_COLUMNS:
        return "predictions"
    return "csv" if {"path", "label"} <= set(columns) else "fer2013"


def check_datasets(paths: Sequence[str]) -> None:
    """Refuse a dataset that does not exist, or that is in the list twice."""
    resolved: list[Path] = []
    for path in paths:
        location = Path(path).expanduser().resolve()
        if path != OWN and not location.exists():
            raise UserError(
                f"datasets: {path} does not exist. Give folders, CSV files, predictions.csv files, "
                f"or {OWN} for the data of the training run."
            )
        if location in resolved:
            raise UserError(f"datasets has {path} twice: give every dataset once.")
        resolved.append(location)
    if all(path != OWN and kind_of(path) == "predictions" for path in paths):
        raise UserError("datasets has predictions only: add a dataset for ckpt, or use compare.")
