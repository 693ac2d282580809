"""Measure speed: ``python -m emotion_lab.bench benchmark=train`` and the like."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from emotion_lab.cli import app
from emotion_lab.config import compose
from emotion_lab.core import extras, paths
from emotion_lab.core.errors import UserError, unknown


def validate(cfg: DictConfig, overrides: list[str]) -> list[str]:
    """Check the arguments before Hydra creates the run directory."""
    if cfg.benchmark == "deploy":
        _check_deploy(cfg)
    elif cfg.images < 2 * cfg.data.batch_size:
        raise UserError(
            f"images={cfg.images} is less than two batches: set images={4 * cfg.data.batch_size} "
            "or a smaller data.batch_size."
        )
    if cfg.benchmark == "live":
        if cfg.ckpt is None:
            raise UserError("ckpt is missing: benchmark=live needs a checkpoint, ckpt=<path>.")
        paths.check_checkpoint(cfg.ckpt)
        if cfg.peer is not None and cfg.clip is None and cfg.photo is None:
            raise UserError("peer= needs frames: add clip=<video> or photo=<image>.")
    if cfg.benchmark in ("sources", "archive"):
        if cfg.ckpt is None:
            raise UserError(
                f"ckpt is missing: benchmark={cfg.benchmark} needs a model, ckpt=<path>."
            )
        paths.check_checkpoint(cfg.ckpt, exported=True)
    for name in cfg.engines if cfg.benchmark == "archive" else ():
        if name not in compose.options("engine"):
            raise unknown(
                "engine", name, compose.options("engine"), "Set it with engines=[<name>]."
            )
        if name == "ray":
            extras.require("ray", "engines=[ray]")
    if cfg.benchmark == "derived" and cfg.ckpt is not None:
        paths.check_checkpoint(cfg.ckpt, exported=True)
    paths.check_exist({"data.path": cfg.data.path, "photo": cfg.photo})
    for clip in paths.as_list(cfg.clip):
        paths.check_exist({"clip": clip})
    if not compose.is_multirun(cfg.hydra):
        paths.check_folder(str(cfg.hydra.run.dir))
    return []


def _check_deploy(cfg: DictConfig) -> None:
    if cfg.ckpt is not None:
        paths.check_checkpoint(cfg.ckpt, several=True)
    if cfg.exports is not None and (cfg.ckpt is None or cfg.num_images is None):
        raise UserError(
            "exports= compares exported files with their checkpoint: "
            "add ckpt=<path> num_images=1000."
        )
    for path in paths.as_list(cfg.exports):
        paths.check_exist({"exports": path})
    if cfg.ckpt is None and cfg.num_images is not None:
        raise UserError("num_images= needs checkpoints: add ckpt=[<path>,<path>].")
    if cfg.ckpt is None and not cfg.models:
        raise UserError("models=[] leaves nothing to measure: name some, models=[cnn,senet].")
    for name in cfg.models:
        if name not in compose.options("model"):
            raise unknown("model", name, compose.options("model"), "Set it with models=[<name>].")


def _measure(
    config: dict[str, Any],
    overrides: list[str],
    run_dir: Path,
    device: str,
    save: Callable[[dict[str, Any]], object],
) -> Any:
    """Run the chosen benchmark; only its own dependencies are imported.

    Args:
        save: Keeps the parts that are measured so far.
    """
    if config["benchmark"] == "data":
        from emotion_lab.benchmarks import data

        return data.bench(config, device)
    if config["benchmark"] == "live":
        from emotion_lab.benchmarks.live import run
        from emotion_lab.video.smoothing import untrained

        smoothers = {name: compose.defaults("smoothing", name) for name in untrained()}
        return run.bench(config, smoothers, save)
    if config["benchmark"] == "archive":
        from emotion_lab.benchmarks import archive

        return archive.bench(config, save)
    if config["benchmark"] == "deploy":
        from emotion_lab.benchmarks.deploy import matrix

        return matrix.bench(config, run_dir)
    if config["benchmark"] == "train":
        from emotion_lab.benchmarks import train

        return train.bench(config, device, overrides)
    return importlib.import_module(f"emotion_lab.benchmarks.{config['benchmark']}").bench(config)


def bench(cfg: DictConfig) -> None:
    """Run a benchmark, print the results and write ``bench.json``."""
    import torch
    from hydra.core.hydra_config import HydraConfig

    from emotion_lab.benchmarks.report import report
    from emotion_lab.core.environment import choose_accelerator, git_commit, hardware, versions
    from emotion_lab.core.io import write_json
    from emotion_lab.core.tables import show

    hydra_cfg = HydraConfig.get()
    run_dir, overrides = Path(hydra_cfg.runtime.output_dir), list(hydra_cfg.overrides.task)
    config = compose.to_container(cfg)
    device = choose_accelerator(config["trainer"]["accelerator"])
    if config["trainer"]["num_threads"]:
        torch.set_num_threads(int(config["trainer"]["num_threads"]))
    config["workers"] = (os.cpu_count() or 1) if config["workers"] is None else config["workers"]
    result: dict[str, Any] = {
        "what": config["benchmark"],
        "model": config["model"]["name"],
        "image_size": config["model"]["image_size"],
        "batch_size": config["data"]["batch_size"],
        "images": config["images"],
        "rounds": config["rounds"],
        "workers_plain": config["workers"],
        "data_name": config["data"]["name"],
        "hardware": hardware(device),
        "versions": versions(),
        "commit": git_commit(),
    }

    def save(part: dict[str, Any], complete: bool = False) -> None:
        result[config["benchmark"]] = part
        kept = result if complete else {**result, "complete": False}
        write_json(run_dir / "bench.json", kept)

    try:
        save(_measure(config, overrides, run_dir, device, save), complete=True)
    except BaseException:
        if config["benchmark"] in result:
            show(*report(result), f"not complete; measured so far: {run_dir / 'bench.json'}")
        raise
    show(*report(result), str(run_dir))


def main() -> None:
    """Entry point of ``emotion-lab bench``."""
    app.run("bench", bench, validate, ("bench.json",))


if __name__ == "__main__":
    main()
