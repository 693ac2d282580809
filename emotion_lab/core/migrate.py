"""Migration of configs and overrides written by earlier versions to today's config keys.

Files of checkpoints, runs and sweeps keep the key names of the version that wrote them. Their
readers call one of the functions here, so that the rest of the code uses one name per key. The same
table gives the suggestion for an old key on the command line.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

#: Config group -> {old key: new key}.
_GROUPS: dict[str, dict[str, str]] = {
    "augment": {
        "erase": "erase_p",
        "flip": "flip_p",
        "light": "color_jitter_p",
        "rotate": "degrees",
        "sizes": "progressive_resize",
        "warp": "affine_p",
    },
    "data": {
        "drop": "drop_csv",
        "mix_shards": "shuffle_buffer_shards",
        "on_error": "on_decode_error",
        "relabel": "relabel_csv",
        "remote_cache_mib": "cache_size_mib",
        "votes": "ferplus_csv",
    },
    "detector": {
        "neighbours": "min_neighbors",
        "nms": "nms_threshold",
        "runtime": "backend",
        "score": "score_threshold",
    },
    "distill": {"share": "alpha"},
    "loss": {"smoothing": "label_smoothing"},
    "schedule": {"step_epochs": "step_size", "warmup_share": "warmup_fraction"},
    "smoothing": {
        "lead_s": "switch_evidence_s",
        "looks": "observation_rate_hz",
        "switches": "transition_rate_hz",
    },
    "sweep": {
        "high": "max_lr",
        "low": "min_lr",
        "reduction": "reduction_factor",
        "startup": "n_startup_trials",
        "steps": "num_steps",
        "unpruned": "n_warmup_trials",
    },
    "tracking": {
        "cut": "scene_cut_threshold",
        "reach": "max_match_distance",
        "smooth_s": "box_time_constant_s",
    },
    "trainer": {
        "accumulate": "accumulate_grad_batches",
        "clip": "gradient_clip_val",
        "ema": "ema_decay",
        "log_every": "log_every_n_steps",
        "mode": "monitor_mode",
        "progress": "enable_progress_bar",
        "threads": "num_threads",
    },
}
#: Old dotted key -> new dotted key of the configs that ``train`` stores.
_STORED: dict[str, str] = {
    **{f"{g}.{old}": f"{g}.{new}" for g, keys in _GROUPS.items() for old, new in keys.items()},
    "ledger": "test_ledger",
    "replay": "reproduce",
    "runtime": "backend",
}
#: Old key -> new keys; which of several is meant depends on the command.
RENAMED: dict[str, tuple[str, ...]] = {
    **{old: (new,) for old, new in _STORED.items()},
    "a": ("run_a",),
    "b": ("run_b",),
    "by": ("sort_by",),
    "choose": ("selection",),
    "explain": ("num_explained",),
    "faces": ("face_detector",),
    "faces_file": ("face_detector_file",),
    "mistakes": ("num_mistakes",),
    "n": ("num_images",),
    "nested": ("num_splits",),
    "paced": ("realtime",),
    "restore": ("rescore",),
    "robustness": ("num_robustness",),
    "runtime.device": ("backend.device",),
    "runtime.precision": ("backend.precision",),
    "runtime.threads": ("backend.threads",),
    "show": ("num_shown",),
    "size": ("max_members",),
    "what": ("benchmark",),
}
#: Dotted key -> {old value: new value}.
RENAMED_VALUES: dict[str, dict[str, str]] = {
    "backend.precision": {"f32": "fp32"},
    "trainer.precision": {
        "32": "fp32",
        "32-true": "fp32",
        "bf16-mixed": "bf16",
        "16-mixed": "fp16",
    },
}
#: Old key whose name has another meaning today -> its new key and its old values.
_REUSED: dict[str, tuple[str, tuple[str, ...]]] = {
    "data.labels": ("data.label_source", ("original", "majority", "soft"))
}
_REPRODUCED = (
    *("cnn", "efficientnet_b3", "googlenet_ce", "googlenet_focal", "googlenet_focal_6class"),
    *("mobilenetv3_weighted", "senet", "vit_4blocks"),
)
RENAMED_VALUES["experiment"] = {f"seed_{name}": f"repro_{name}" for name in _REPRODUCED}

#: Datasets whose images earlier versions compared by the bytes of their files, not by pixels.
_HASHED_FILES = ("image_folder", "stream")

#: Old -> new class name of callbacks with a state in ``last.ckpt``.
_CALLBACKS = {"Averaging": "EMACallback", "History": "MetricsHistory"}


def migrate_callbacks(states: dict[str, Any]) -> dict[str, Any]:
    """Return the callback states of a checkpoint under the names of today's classes."""
    return {_CALLBACKS.get(name, name): state for name, state in states.items()}


def has_old_loss(columns: Collection[str]) -> bool:
    """Return whether a history is of an earlier version, which called the criterion ``loss``."""
    return "val/loss" in columns and "val/criterion" not in columns


def _is_cross_entropy(config: Mapping[str, Any]) -> bool:
    """Return whether the criterion of a run is the cross-entropy, so that both names are right."""
    return (config.get("loss") or {}).get("name") == "ce"


def migrate_history(
    rows: Iterable[Mapping[str, Any]], config: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the rows of a history with today's names: epochs from 1, the criterion of a loss.

    Args:
        rows: Rows of any version.
        config: Config of the run. Its loss tells whether ``val/loss`` of an earlier version is
            also the cross-entropy, which ``val/loss`` is now; else the rows lack it.
    """
    result = [dict(row) for row in rows]
    if result and int(result[0]["epoch"]) == 0:
        for row in result:
            row["epoch"] = type(row["epoch"])(int(row["epoch"]) + 1)
    for row in result:
        if not has_old_loss(row):
            continue
        cross_entropy = row["val/loss"]
        for stage in ("train", "val"):
            if f"{stage}/loss" in row:
                row[f"{stage}/criterion"] = row.pop(f"{stage}/loss")
        if _is_cross_entropy(config):
            row["val/loss"] = cross_entropy
    return result


def migrate_monitor(name: str, config: Mapping[str, Any]) -> str:
    """Return today's name of a metric that a run with :func:`has_old_loss` monitored."""
    stage, _, metric = name.partition("/")
    same = stage == "val" and _is_cross_entropy(config)
    return f"{stage}/criterion" if metric == "loss" and not same else name


def migrate_monitors(config: dict[str, Any]) -> dict[str, Any]:
    """Return the migrated config of a run with :func:`has_old_loss`."""
    schedule = config.get("schedule") or {}
    if "monitor" in schedule:
        # Today's default; of a cross-entropy, both names have the same value.
        monitor = str(schedule["monitor"]).replace("/loss", "/criterion")
        config = {**config, "schedule": {**schedule, "monitor": monitor}}
    return {**config, "monitor": migrate_monitor(config["monitor"], config)}


def migrate_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return a stored config of ``train`` with today's keys and values.

    Args:
        config: Resolved config as plain dicts; it is not changed.

    Returns:
        The migrated config, keys in the same order. A config with today's keys is returned equal.
    """
    result = {}
    for name, value in config.items():
        name = _STORED.get(name, name)
        keys = _GROUPS.get(name, {})
        if isinstance(value, dict) and (keys or any(f"{name}." in key for key in RENAMED_VALUES)):
            value = _migrate_group(name, value)
        result[name] = value
    data = result.get("data")
    if isinstance(data, dict) and data.get("name") in _HASHED_FILES and "digest_of" not in data:
        result["data"] = {**data, "digest_of": "file"}
    return result


def migrate_override(text: str) -> str:
    """Return an override as typed (``key=value``) with today's key and value."""
    left, equals, value = text.partition("=")
    key = left.lstrip("+~")
    new = _migrate_key(key, value.split(",")[0])
    value = ",".join(str(_migrate_value(new, part)) for part in value.split(","))
    return f"{left[: len(left) - len(key)]}{new}{equals}{value}"


def _migrate_group(group: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a config group with today's keys and values."""
    result = {}
    for key, value in values.items():
        new = _migrate_key(f"{group}.{key}", value)
        result[new.removeprefix(f"{group}.")] = _migrate_value(new, value)
    return result


def _migrate_key(key: str, value: Any) -> str:
    """Return today's name of a dotted key."""
    new, values = _REUSED.get(key, (key, ()))
    return new if str(value) in values else _STORED.get(key, key)


def _migrate_value(key: str, value: Any) -> Any:
    """Return today's name of a value."""
    renamed = RENAMED_VALUES.get(key)
    return renamed.get(str(value), value) if renamed else value
