"""Train: ``python -m emotion_lab.train model=senet loss=weighted_ce``."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from emotion_lab import checks, config
from emotion_lab.command_line import quote
from emotion_lab.errors import UserError

#: What may differ when a run is resumed: where things are and how long it goes on, not what it is.
RESUME_KEYS = ("data.path", "data.num_workers", "data.cache", "trainer", "logger", "test", "ledger")


def _run_of(resume: str) -> tuple[Path, Path]:
    """Return (last.ckpt, run folder) of ``resume=``.

    Raises:
        UserError: If there is nothing to resume from.
    """
    place = Path(resume)
    if place.is_dir():
        file = place / "checkpoints" / "last.ckpt"
        if not file.is_file():
            raise UserError(f"nothing to resume: no checkpoints/last.ckpt in {place}")
        return file, place
    if not place.is_file():
        raise UserError(f"resume={place}: no such run folder or checkpoint")
    folder = place.parent
    return place, folder.parent if folder.name == "checkpoints" else folder


def _check_sweep(trainer: DictConfig) -> None:
    """Refuse a job of a sweep that wants several devices.

    Raises:
        UserError: If it does.
    """
    if trainer.devices != 1 or trainer.num_nodes > 1:
        raise UserError(
            f"-m with trainer.devices={trainer.devices}, trainer.num_nodes={trainer.num_nodes}: "
            "a sweep runs one device a job. Set trainer.devices=1, or run the jobs without -m."
        )


def prepare(cfg: DictConfig, overrides: list[str]) -> list[str]:
    """Check what is cheap to check, before Hydra makes the run folder."""
    hydra_cfg = cfg.hydra
    multirun = str(hydra_cfg.mode or "").endswith("MULTIRUN")
    if multirun:
        _check_sweep(cfg.trainer)
    if cfg.resume is not None:
        if multirun:
            raise UserError("resume= goes on with one run; it cannot be swept with -m.")
        file, run = _run_of(cfg.resume)
        for text in overrides:
            key = text.lstrip("+~").split("=", 1)[0]
            if key == "trainer.ema":
                raise UserError("trainer.ema cannot change on resume: the average is the run's.")
            allowed = key == "resume" or key.startswith("hydra.")
            if not allowed and not any(key == k or key.startswith(f"{k}.") for k in RESUME_KEYS):
                raise UserError(
                    f"resume= goes on with the run as it was configured; '{text}' cannot change. "
                    f"Allowed: {', '.join(RESUME_KEYS)}."
                )
        return [f"hydra.run.dir={quote(str(run))}", "hydra.output_subdir=null"]
    # data.download=true may name a folder that is still to be made.
    path = None if cfg.data.get("download") else cfg.data.path
    data = {f"data.{key}": cfg.data[key] for key in ("votes", "drop", "relabel")}
    paths = {"data.path": path, **data, "model.weights": cfg.model.weights}
    checks.check_exist(paths)
    if cfg.test:
        checks.check_appendable(Path(str(cfg.ledger)))
    if not multirun:
        run = Path(str(hydra_cfg.run.dir))
        if (run / "checkpoints" / "last.ckpt").exists():
            raise UserError(
                f"{run} already holds a run: go on with resume='{run}', "
                "or choose another hydra.run.dir."
            )
        checks.check_folder(run)
    return []


def _resumed(cfg: DictConfig, overrides: list[str], card: dict[str, Any]) -> dict[str, Any]:
    """Return the config of the run to resume, with the allowed overrides of this command."""
    kept = [text for text in overrides if not text.startswith(("resume=", "hydra"))]
    current = config.plain(cfg)
    result = copy.deepcopy(card["config"])
    # Plain dicts: a path may hold "${", which a second pass through OmegaConf would resolve.
    for text in kept:
        if text.startswith("trainer="):
            # The group alone would bring the defaults of all its keys.
            own = OmegaConf.load(config.CONF / "trainer" / f"{text.split('=', 1)[1]}.yaml")
            chosen = [key for key in own if key != "defaults"]
            moved = ("accelerator", "devices", "strategy", "num_nodes", "precision")
            result["trainer"] |= {
                key: current["trainer"][key] for key in {*chosen, "accelerator"} if key in moved
            }
            continue
        *parents, last = text.lstrip("+~").split("=", 1)[0].split(".")
        source, target = current, result
        for name in parents:
            source = source[name]
            if not isinstance(target.get(name), dict):
                target[name] = {}
            target = target[name]
        target[last] = source[last]
    result["resume"] = cfg.resume
    planned, wanted = card["config"]["trainer"]["max_epochs"], result["trainer"]["max_epochs"]
    schedule = card["config"]["schedule"]["name"]
    if planned != wanted and schedule in ("cosine", "onecycle"):
        raise UserError(
            f"trainer.max_epochs={wanted} cannot change on resume: schedule={schedule} was laid "
            f"out over {planned} epochs."
        )
    return result


def train(cfg: DictConfig) -> float:
    """Train, score the best checkpoint on val (and test if asked), return the monitored value."""
    from hydra.core.hydra_config import HydraConfig

    from emotion_lab import checkpoint as ckpt
    from emotion_lab.evaluation.finish import finish
    from emotion_lab.training.fit import fit
    from emotion_lab.training.loggers import close

    hydra_cfg = HydraConfig.get()
    if str(hydra_cfg.mode or "").endswith("MULTIRUN"):
        _check_sweep(cfg.trainer)
    run_dir = Path(hydra_cfg.runtime.output_dir)
    resume = None
    plain = config.plain(cfg)
    if cfg.resume is not None:
        resume, _ = _run_of(cfg.resume)
        content = ckpt.read(resume)
        if "optimizer_states" not in content:
            raise UserError(
                f"resume={resume} holds weights only, for use: go on with the run folder or its "
                "last.ckpt, or start from these weights with model.weights=."
            )
        card = content[ckpt.CARD]
        plain = _resumed(cfg, list(hydra_cfg.overrides.task), card)
    else:
        OmegaConf.save(OmegaConf.create(plain), run_dir / "config.yaml")
    fitted = fit(plain, run_dir, resume)
    if not fitted.main:
        # Another process of this run scores, writes the files and opens the test split.
        return float(fitted.facts["monitor"]["best"])
    status = "failed"
    try:
        value = finish(plain, run_dir, fitted)
        status = "success"
    finally:
        close(fitted.loggers, status)
    print(run_dir)
    return value


def main() -> None:
    """Entry point of ``emotion-train``."""
    config.run("train", train, prepare, ("checkpoints/last.ckpt", "metrics.json"))


if __name__ == "__main__":
    main()
