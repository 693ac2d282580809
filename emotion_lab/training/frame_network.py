"""The network of single images below a temporal model."""

from __future__ import annotations

from typing import Any

from emotion_lab.core.errors import UserError
from emotion_lab.data.checkpoint_data import relabel
from emotion_lab.data.datamodule import EmotionData
from emotion_lab.inference.frame_outputs import FrameOutputs
from emotion_lab.temporal.base import is_temporal


def check(cfg: dict[str, Any]) -> None:
    """Refuse options of images for a temporal model (whole config ``cfg``)."""
    if not is_temporal(cfg["model"]):
        return
    unused = {
        "augment": cfg["augment"]["name"] != "none",
        "data.feature_cache": cfg["data"]["feature_cache"] != "none",
        "mix.mixup": cfg["mix"]["mixup"] > 0,
        "mix.cutmix": cfg["mix"]["cutmix"] > 0,
        "distill.teacher": cfg["distill"]["teacher"] is not None,
        "votes_head.weight": cfg["votes_head"]["weight"] > 0,
    }
    for key in (key for key, is_set in unused.items() if is_set):
        raise UserError(
            f"{key} does not apply to model={cfg['model']['name']}, which reads the outputs of "
            "model.frame_ckpt and no images: start from experiment=temporal, without it."
        )


def _check_val_clips(data: EmotionData) -> None:
    """Refuse val of one clip: at the end of the run the smoothers are compared over its clips."""
    groups, unit = data.split("val").groups, "group" if data.cfg.get("group") else "clip"
    if groups is not None and len(set(groups)) < 2:
        raise UserError(
            f"val of {data.source.location} has one {unit}, and smoothers are compared over "
            f"{unit}s: add clips, or set a larger data.val_fraction."
        )


def open_for(cfg: dict[str, Any], data: EmotionData) -> FrameOutputs | None:
    """Open the frame network of a temporal model and prepare the data for it; None for others."""
    if not is_temporal(cfg["model"]):
        return None
    _check_val_clips(data)
    frame = FrameOutputs(cfg["model"]["frame_ckpt"])
    data.source.notes.extend(relabel(data, frame.classes))
    counts = data.class_counts("train")
    if missing := [name for name, n in zip(frame.classes, counts, strict=True) if not n]:
        data.source.notes.append(
            f"warning: there are no clips of {', '.join(missing)} in train: the model learns that "
            "these emotions do not occur"
        )
    data.use_windows(frame, cfg["model"])
    return frame
