"""What a config value may be, where its type alone does not say it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rule:
    """A test for a value and the words for what passes it."""

    test: Callable[[Any], bool]
    expected: str


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def one_of(*names: str) -> Rule:
    """Accept one of the given words."""
    return Rule(lambda value: str(value) in names, f"one of {', '.join(names)}")


def at_least(low: int) -> Rule:
    """Accept a whole number of at least ``low``."""
    return Rule(lambda value: _whole(value) and value >= low, f"a whole number of {low} or more")


def between(low: float, high: float, open_low: bool = False, open_high: bool = False) -> Rule:
    """Accept a number from ``low`` to ``high``; the open ends are excluded."""

    def test(value: Any) -> bool:
        if not _number(value):
            return False
        above = value > low if open_low else value >= low
        return above and (value < high if open_high else value <= high)

    words = f"a number {'above' if open_low else 'from'} {low:g}"
    if math.isfinite(high):
        words += f" {'and below' if open_high else 'to'} {high:g}"
    return Rule(test, words)


#: Keys that may be null though their default is not.
NULLABLE = frozenset(
    {
        "data.exclude",
        "detector.sha256",
        "model.channels",
        "model.image_size",
        "model.mean",
        "model.std",
        "tracking.scene_cut_threshold",
        "trainer.patience",
    }
)


def _part(value: Any) -> bool:
    """Accept a number of batches, or a share of them."""
    return _whole(value) and value >= 1 or isinstance(value, float) and 0 < value <= 1


BATCHES = Rule(_part, "a whole number of 1 or more, or a share above 0.0 to 1.0")
SWITCH = Rule(lambda v: v == "auto" or isinstance(v, bool), "auto, true or false")


def _span(low: float, high: float) -> Rule:
    """Accept two rising numbers from ``low`` to ``high``."""

    def test(value: Any) -> bool:
        pair = _items(value)
        return len(pair) == 2 and all(map(_number, pair)) and low <= pair[0] <= pair[1] <= high

    return Rule(test, f"[from, to], two rising numbers from {low:g} to {high:g}")


def _items(value: Any) -> list[Any]:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []


def _steps(value: Any) -> bool:
    """Accept [[share of the epochs, pixels], ...], shares rising from 0."""
    pairs = [_items(pair) for pair in _items(value)]
    if not pairs or any(len(pair) != 2 for pair in pairs):
        return False
    shares = [share for share, _ in pairs]
    if not all(_number(share) and 0 <= share < 1 for share in shares) or shares[0] != 0:
        return False
    return shares == sorted(set(shares)) and all(_whole(size) and size >= 16 for _, size in pairs)


POSITIVE = between(0, math.inf, open_low=True)
NOT_NEGATIVE = between(0, math.inf)
SHARE = between(0, 1)

#: What an epoch logs; a run is chosen by one of these.
SCORES = tuple(
    f"{stage}/{name}"
    for stage in ("val", "train")
    for name in (
        "loss",
        "accuracy",
        *(f"{a}_{n}" for a in ("macro", "weighted") for n in ("precision", "recall", "f1")),
    )
)
CHOOSES = Rule(one_of(*SCORES).test, f"one of {', '.join(SCORES)} (never test/...)")

#: Dotted key -> rule. ``null`` is accepted everywhere a default is ``null``.
RULES: dict[str, Rule] = {
    "seed": Rule(lambda v: _whole(v) and 0 <= v < 2**32, "a whole number from 0 to 4294967295"),
    "split": one_of("train", "val", "test"),
    "data.batch_size": at_least(1),
    "data.num_workers": at_least(0),
    "data.limit": at_least(1),
    "data.sampler": one_of("shuffle", "weighted"),
    "data.class_weights": one_of("inverse", "sqrt_inverse", "effective_number"),
    "data.effective_beta": between(0, 1, open_high=True),
    "data.folds": at_least(2),
    "data.fold": at_least(0),
    "data.val_fraction": between(0, 1, open_low=True, open_high=True),
    "data.split_seed": at_least(0),
    "data.crop_margin": NOT_NEGATIVE,
    "data.cache": one_of("auto", "ram", "none"),
    "data.cache_limit_mib": at_least(0),
    "data.label_source": one_of("original", "majority", "soft"),
    "data.on_decode_error": one_of("raise", "skip"),
    "data.shuffle_buffer_shards": at_least(1),
    "data.cache_size_mib": at_least(1),
    "shard_mib": at_least(1),
    "batch": Rule(
        lambda v: v == "dynamic" or _whole(v) and v >= 1, "dynamic, or a whole number of 1 or more"
    ),
    "num_images": at_least(1000),
    "calibration": at_least(50),
    "weights": one_of("equal", "val"),
    "sort_by": one_of("accuracy", "macro_f1"),
    "selection": one_of("val", "all"),
    "metric": one_of("monitor", *dict.fromkeys(name.split("/", 1)[1] for name in SCORES)),
    "max_members": at_least(1),
    "num_splits": at_least(0),
    "num_mistakes": at_least(0),
    "num_explained": at_least(0),
    "num_robustness": at_least(0),
    "near_distance": Rule(lambda v: _whole(v) and 0 <= v <= 64, "a whole number from 0 to 64"),
    "near_correlation": between(0, 1),
    "blank": NOT_NEGATIVE,
    "tiny": at_least(1),
    "face_detector": one_of("none", "haar", "yunet"),
    "num_shown": at_least(0),
    "tta": one_of("none", "flip", "tencrop"),
    "display": one_of("auto", "window", "web", "none"),
    "anonymize": one_of("none", "blur"),
    "width": at_least(16),
    "height": at_least(16),
    "fps": POSITIVE,
    "max_frames": at_least(1),
    "reconnect_s": NOT_NEGATIVE,
    "tracking.detect_every": at_least(1),
    "tracking.detect_every_s": POSITIVE,
    "tracking.max_missed_s": NOT_NEGATIVE,
    "tracking.coast_s": NOT_NEGATIVE,
    "tracking.box_time_constant_s": NOT_NEGATIVE,
    "tracking.max_match_distance": POSITIVE,
    "tracking.scene_cut_threshold": between(0, 1, open_low=True),
    "overlay.bars": one_of("auto", "all", "top3", "none"),
    "overlay.timeline_s": NOT_NEGATIVE,
    "overlay.scale": POSITIVE,
    "web.port": Rule(lambda v: _whole(v) and 0 <= v <= 65535, "a whole number from 0 to 65535"),
    "smoothing.threshold": SHARE,
    "smoothing.switch_evidence_s": NOT_NEGATIVE,
    "smoothing.tau_s": POSITIVE,
    "smoothing.window_s": POSITIVE,
    "smoothing.transition_rate_hz": POSITIVE,
    "smoothing.observation_rate_hz": POSITIVE,
    "smoothing.min_cutoff": POSITIVE,
    "smoothing.beta": NOT_NEGATIVE,
    "smoothing.d_cutoff": POSITIVE,
    "smoothing.space": one_of("logit", "probability"),
    "detector.score_threshold": SHARE,
    "detector.nms_threshold": SHARE,
    "detector.size": at_least(32),
    "detector.scale_factor": between(1, 10, open_low=True),
    "detector.min_neighbors": at_least(0),
    "detector.min_size": at_least(1),
    "detector.min_face": at_least(12),
    "detector.max_faces": at_least(1),
    "detector.backend": one_of("auto", "opencv", "openvino"),
    "backend.precision": one_of("auto", "fp32", "bf16"),
    "backend.device": one_of("auto", "cpu", "cuda"),
    "backend.threads": at_least(1),
    "benchmark": one_of("data", "train", "live", "deploy"),
    "threads": at_least(1),
    "batches": Rule(
        lambda v: bool(_items(v)) and all(_whole(n) and n >= 1 for n in _items(v)),
        "a list of whole numbers of 1 or more, for instance [1,8]",
    ),
    "budget.latency_ms": POSITIVE,
    "budget.size_mb": POSITIVE,
    "seconds": POSITIVE,
    "rounds": at_least(1),
    "images": at_least(1),
    "folder": at_least(1),
    "workers": at_least(0),
    "augment.flip_p": SHARE,
    "augment.affine_p": SHARE,
    "augment.degrees": between(0, 180),
    "augment.scale": _span(0.1, 10),
    "augment.translate": SHARE,
    "augment.color_jitter_p": SHARE,
    "augment.brightness": SHARE,
    "augment.contrast": SHARE,
    "augment.erase_p": SHARE,
    "augment.erase_size": _span(0, 1),
    "augment.progressive_resize": Rule(
        _steps, "[[0,<pixels>],[<share of the epochs>,<pixels>]], shares rising from 0"
    ),
    "model.image_size": at_least(16),
    "model.channels": Rule(lambda v: v in (1, 3), "1 (grey) or 3 (RGB)"),
    "model.freeze": one_of("none", "backbone"),
    "model.unfreeze_last": at_least(0),
    "model.unfreeze_at_epoch": at_least(1),
    "model.layer_decay": between(0, 1, open_low=True),
    "model.dropout": between(0, 1, open_high=True),
    "optim.lr": POSITIVE,
    "optim.weight_decay": NOT_NEGATIVE,
    "optim.momentum": between(0, 1, open_high=True),
    "mix.mixup": NOT_NEGATIVE,
    "mix.cutmix": NOT_NEGATIVE,
    "mix.probability": SHARE,
    "monitor": CHOOSES,
    "schedule.monitor": CHOOSES,
    "schedule.mode": one_of("min", "max"),
    "schedule.factor": between(0, 1, open_low=True, open_high=True),
    "schedule.patience": at_least(0),
    "schedule.min_lr": NOT_NEGATIVE,
    "schedule.step_size": at_least(1),
    "schedule.gamma": between(0, 1, open_low=True),
    "schedule.warmup_epochs": NOT_NEGATIVE,
    "schedule.warmup_fraction": between(0, 1, open_low=True, open_high=True),
    "loss.gamma": NOT_NEGATIVE,
    "loss.label_smoothing": between(0, 1, open_high=True),
    "loss.beta": between(0, 1, open_high=True),
    "sweep.trials": at_least(1),
    "sweep.timeout": POSITIVE,
    "sweep.seed": at_least(0),
    "sweep.sampler": one_of("tpe", "random"),
    "sweep.pruner": one_of("none", "median", "halving", "hyperband"),
    "sweep.n_startup_trials": at_least(1),
    "sweep.n_warmup_trials": at_least(0),
    "sweep.min_epochs": at_least(1),
    "sweep.reduction_factor": at_least(2),
    "sweep.min_lr": POSITIVE,
    "sweep.max_lr": POSITIVE,
    "sweep.num_steps": at_least(20),
    "trainer.max_epochs": at_least(1),
    "trainer.patience": at_least(1),
    "trainer.accelerator": one_of("auto", "cpu", "gpu", "cuda", "mps"),
    "trainer.precision": one_of("auto", "fp32", "bf16", "fp16"),
    "trainer.devices": Rule(
        lambda v: _whole(v) and (v >= 1 or v == -1), "a whole number of 1 or more, or -1 for all"
    ),
    "trainer.strategy": one_of("auto", "ddp", "fsdp"),
    "trainer.num_nodes": at_least(1),
    "trainer.accumulate_grad_batches": at_least(1),
    "trainer.num_threads": at_least(1),
    "trainer.max_time": Rule(
        lambda v: bool(re.fullmatch(r"\d+:\d\d:\d\d:\d\d", str(v))), "DD:HH:MM:SS"
    ),
    "trainer.limit_train_batches": BATCHES,
    "trainer.limit_val_batches": BATCHES,
    "trainer.channels_last": SWITCH,
    "trainer.enable_progress_bar": SWITCH,
    "distill.temperature": POSITIVE,
    "distill.alpha": between(0, 1),
    "trainer.gradient_clip_val": POSITIVE,
    "trainer.ema_decay": between(0, 1, open_low=True, open_high=True),
    "trainer.log_every_n_steps": at_least(1),
    "logger.tensorboard.pictures_every": at_least(1),
    "logger.tensorboard.explain": at_least(0),
    "logger.wandb.mode": one_of("auto", "online", "offline"),
    "logger.wandb.pictures_every": at_least(1),
    "logger.wandb.explain": at_least(0),
    "logger.wandb.upload_s": POSITIVE,
    "trainer.monitor_mode": one_of("auto", "max", "min"),
}
