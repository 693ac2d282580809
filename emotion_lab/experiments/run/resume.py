"""Resume or repeat a run: find its checkpoint and merge new overrides into its config."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from emotion_lab.config import compose, schema
from emotion_lab.config.fields import Role
from emotion_lab.config.overrides import override_key, quote
from emotion_lab.core import runs
from emotion_lab.core.errors import UserError
from emotion_lab.core.io import atomic_write
from emotion_lab.core.wording import counted

#: Keys that ``trainer=<name>`` changes in a resumed run; the others keep their values.
_DEVICE_KEYS = ("accelerator", "devices", "strategy", "num_nodes", "precision")
#: Keys of the trainer, with the schedules that are computed from them when a run starts.
_PLANNED_FROM = {
    "max_epochs": ("cosine", "onecycle"),
    "accumulate_grad_batches": ("cosine", "onecycle", "step"),
    "limit_train_batches": ("cosine", "onecycle", "step"),
}
#: Keys that only end a run: with other values, the epochs before the resume are the same.
_STOP_KEYS = ("trainer.max_epochs", "trainer.max_time", "trainer.patience")


def find_last_checkpoint(resume: str) -> tuple[Path, Path]:
    """Return (checkpoint, run directory) of ``resume=<run directory or checkpoint>``."""
    path = Path(resume)
    if path.is_dir():
        checkpoint = path / "checkpoints" / "last.ckpt"
        if not checkpoint.is_file():
            raise UserError(f"nothing to resume: no checkpoints/last.ckpt in {path}")
        return checkpoint, path
    if not path.is_file():
        raise UserError(f"resume={path}: no such run directory or checkpoint")
    folder = path.parent
    return path, folder.parent if folder.name == "checkpoints" else folder


def check_resume(cfg: DictConfig, overrides: list[str], multirun: bool) -> list[str]:
    """Check ``resume=`` and return the overrides that select its run directory."""
    if multirun:
        raise UserError("resume= continues one run; it cannot be swept with -m.")
    _, run_dir = find_last_checkpoint(cfg.resume)
    fixed = {
        "trainer.ema_decay": "the checkpoint holds the average",
        "trainer.monitor_mode": "best.ckpt was chosen with it",
    }
    for key in map(override_key, overrides):
        if key in fixed:
            raise UserError(f"{key} cannot change on resume: {fixed[key]}. Remove {key}=.")
    reason = "resume= continues the run with its own config"
    compose.check_unchanged(cfg, overrides, reason, groups=("trainer",))
    return [f"hydra.run.dir={quote(str(run_dir))}", "hydra.output_subdir=null"]


def merge_overrides(
    cfg: DictConfig, overrides: list[str], config: dict[str, Any]
) -> dict[str, Any]:
    """Return the config of an earlier run, changed by the overrides of this command.

    Args:
        cfg: The config of this command, composed with ``overrides``.
        overrides: Overrides of this command; ``resume=``, ``reproduce=`` and ``hydra`` are skipped.
        config: The config of the earlier run.
    """
    current = compose.to_container(cfg)
    result = copy.deepcopy(config)
    # Plain dicts: a path may contain "${", which OmegaConf would resolve a second time.
    for text in overrides:
        if text.startswith(("resume=", "reproduce=", "hydra")):
            continue
        if text.startswith("trainer="):
            # The group also sets the defaults of all its other keys: take the device keys only.
            group = OmegaConf.load(compose.config_file("trainer", text.split("=", 1)[1]))
            keys = {str(key) for key in group} | {"accelerator"}
            result["trainer"] |= {
                key: current["trainer"][key] for key in _DEVICE_KEYS if key in keys
            }
            continue
        *parents, last = override_key(text).split(".")
        source, target = current, result
        for name in parents:
            source = source[name]
            if not isinstance(target.get(name), dict):
                target[name] = {}
            target = target[name]
        target[last] = source[last]
    return result


def save_config(run_dir: Path, config: dict[str, Any]) -> None:
    """Write ``config.yaml`` of a run atomically."""
    # Not by OmegaConf, which would parse a path that contains "${".
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    atomic_write(run_dir / "config.yaml", text.encode())


def saved_config(run_dir: Path, card: dict[str, Any]) -> dict[str, Any]:
    """Return the config that a run was last trained with; ``card`` is that of its checkpoint.

    ``config.yaml`` is newer than the card if a resumed run was killed before its first checkpoint.
    Earlier versions did not update ``config.yaml`` on resume; their runs have no ``resumes.json``.
    """
    file = run_dir / "config.yaml"
    if not (run_dir / runs.RESUMES).is_file() or not file.is_file():
        return card["config"]
    try:
        return runs.read_config(run_dir)
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{file} cannot be read: {reason}.") from None


def resumed_config(cfg: DictConfig, overrides: list[str], saved: dict[str, Any]) -> dict[str, Any]:
    """Return the config of a resumed run; ``saved`` is the config that it had before."""
    return {**merge_overrides(cfg, overrides, saved), "resume": None}


def check_changes(saved: dict[str, Any], config: dict[str, Any], position: dict[str, int]) -> None:
    """Refuse changes that do not fit the training done so far.

    Args:
        saved: The config that the run had before.
        config: The config to resume it with.
        position: ``epoch``, the number of completed epochs, and ``start``, the number of batches
            of the next epoch that were trained on.
    """
    name, epoch, batches = saved["schedule"]["name"], position["epoch"], position["start"]
    for key, schedules in _PLANNED_FROM.items():
        old, new = saved["trainer"].get(key), config["trainer"][key]
        if old == new:
            continue
        change = f"trainer.{key}={new} cannot change on resume"
        plans = [f"schedule={name}"] if name in schedules else []
        if key == "max_epochs" and saved["augment"].get("progressive_resize"):
            plans.append("augment.progressive_resize")
        if plans:
            raise UserError(
                f"{change}: {plans[0]} was computed for {json.dumps(old)}. Remove trainer.{key}=, "
                "or start a new run with it (model.weights=<this run> keeps the weights)."
            )
        if key != "max_epochs" and batches:
            raise UserError(
                f"{change} now: the run was stopped after batch {batches} of epoch {epoch + 1}. "
                f"Remove trainer.{key}=; it can change after a completed epoch."
            )
    if config["trainer"]["max_epochs"] < epoch:
        raise UserError(
            f"trainer.max_epochs={config['trainer']['max_epochs']} is too small: this run has "
            f"completed {counted(epoch, 'epoch')}. Set trainer.max_epochs={epoch} or more."
        )


def changed_keys(old: dict[str, Any], new: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return dotted key -> ``old`` and ``new`` value of the keys that differ between configs."""
    before, after = dict(schema.leaves(old)), dict(schema.leaves(new))
    return {
        key: {"old": before.get(key), "new": after.get(key)}
        for key in dict.fromkeys([*before, *after])
        if key != "resume" and before.get(key) != after.get(key)
    }


def earlier_values(run_dir: Path) -> list[str]:
    """Return the values that a resumed run was trained with before those of its ``config.yaml``.

    Returns:
        For instance ``trainer.gradient_clip_val=null until step 12``; only keys that change the
        result of the steps before the resume.
    """
    return [
        f"{key}={json.dumps(change['old'])} until step {resume['step']}"
        for resume in runs.read_resumes(run_dir)
        for key, change in resume["changed"].items()
        if schema.role(key) is Role.IDENTITY and key not in _STOP_KEYS
    ]
