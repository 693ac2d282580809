"""Resume or repeat a run: find its checkpoint and merge new overrides into its config."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from emotion_lab.config import compose
from emotion_lab.config.overrides import override_key, quote
from emotion_lab.core.errors import UserError

#: Keys that ``trainer=<name>`` changes in a resumed run; the others keep their values.
_DEVICE_KEYS = ("accelerator", "devices", "strategy", "num_nodes", "precision")


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
    if any(override_key(text) == "trainer.ema_decay" for text in overrides):
        raise UserError(
            "trainer.ema_decay cannot change on resume: the checkpoint holds the average."
        )
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
            group = OmegaConf.load(compose.CONF / "trainer" / f"{text.split('=', 1)[1]}.yaml")
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


def resumed_config(cfg: DictConfig, overrides: list[str], card: dict[str, Any]) -> dict[str, Any]:
    """Return the config of a resumed run; ``card`` is the metadata of its checkpoint."""
    result = merge_overrides(cfg, overrides, card["config"])
    result["resume"] = cfg.resume
    planned, requested = card["config"]["trainer"]["max_epochs"], result["trainer"]["max_epochs"]
    schedule = card["config"]["schedule"]["name"]
    if planned != requested and schedule in ("cosine", "onecycle"):
        raise UserError(
            f"trainer.max_epochs={requested} cannot change on resume: schedule={schedule} was "
            f"computed for {planned} epochs."
        )
    return result
