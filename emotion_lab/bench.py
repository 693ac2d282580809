"""Measure speed: ``python -m emotion_lab.bench benchmark=data|train|live|deploy``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from emotion_lab.cli import app
from emotion_lab.config import compose
from emotion_lab.core import paths
from emotion_lab.core.errors import UserError, unknown


def validate(cfg: DictConfig, overrides: list[str]) -> list[str]:
    """Check what is cheap to check, before Hydra makes the run folder."""
    if cfg.benchmark == "deploy":
        _check_deploy(cfg)
    elif cfg.images < 2 * cfg.data.batch_size:
        raise UserError(
            f"images={cfg.images} is less than two batches: set images={4 * cfg.data.batch_size} "
            "or a smaller data.batch_size."
        )
    if cfg.benchmark == "live" and cfg.ckpt is None:
        raise UserError("ckpt is missing: benchmark=live measures with a checkpoint, ckpt=<path>.")
    if cfg.benchmark == "live":
        paths.check_checkpoint(cfg.ckpt)
    ckpt = None if cfg.benchmark == "deploy" else cfg.ckpt
    required = {"data.path": cfg.data.path, "ckpt": ckpt, "clip": cfg.clip, "photo": cfg.photo}
    paths.check_exist(required)
    if not str(cfg.hydra.mode or "").endswith("MULTIRUN"):
        paths.check_folder(str(cfg.hydra.run.dir))
    return []


def _check_deploy(cfg: DictConfig) -> None:
    """Check what ``benchmark=deploy`` is asked to measure.

    Raises:
        UserError: For a network that does not exist, or too little to measure.
    """
    if cfg.ckpt is not None:
        paths.check_checkpoint(cfg.ckpt, several=True)
    if cfg.exports is not None and (cfg.ckpt is None or cfg.num_images is None):
        raise UserError(
            "exports= times files beside their checkpoint and counts where they answer otherwise: "
            "add ckpt=<path> num_images=1000."
        )
    for place in paths.as_list(cfg.exports):
        paths.check_exist({"exports": place})
    if cfg.ckpt is None and cfg.num_images is not None:
        raise UserError("num_images= asks checkpoints the same images: give them, ckpt=[one,other].")
    if cfg.ckpt is None and not cfg.models:
        raise UserError("models=[] leaves nothing to measure: name some, models=[cnn,senet].")
    for name in cfg.models:
        if name not in compose.options("model"):
            raise unknown("model", name, compose.options("model"), "Set it with models=[<name>].")


def lines(result: dict[str, Any]) -> list[str]:
    """Return the results as lines for people."""
    shown = []
    for part in ("data", "train"):
        if part not in result:
            continue
        found = result[part]
        shown.append(f"\n{part}: images a second, median of {result['rounds']} rounds in turn")
        for name, rate in found["rounds"].items():
            low, high = rate["min"], rate["max"]
            shown.append(f"  {name:<8} {rate['median']:>10,.0f}   ({low:,.0f} to {high:,.0f})")
        shown.append(f"  ours is {found['ratio']:.1f} times the plain way")
        if "of_ceiling" in found:
            shown.append(f"  and {found['of_ceiling']:.0%} of the step alone")
            shown.append(
                f"  peak memory of a training process: {found['peak_memory_mib']:,.0f} MiB"
            )
        for row in found.get("epoch", []):
            shown.append(
                f"  an epoch of {row['n']:>6,} images: {row['seconds']:.3f} s, "
                f"{row['us_per_image']} us each"
            )
        for row in found.get("folder", []):
            shown.append(
                f"  a folder of {row['images']:,} images of 224 px, no cache: "
                f"peak {row['peak_memory_mib']:,.0f} MiB"
            )
    if "deploy" in result:
        from emotion_lab.benchmarks.deploy.pareto import lines as deploy_lines

        shown += deploy_lines(result["deploy"])
    return shown + (live_lines(result["live"]) if "live" in result else [])


def live_lines(found: dict[str, Any]) -> list[str]:
    """Return the results of ``benchmark=live`` as lines for people."""
    from emotion_lab.benchmarks.live import PARTS

    shown = [f"\nlive: {found['detector']}, {found['runtime']}"]
    for part, name in PARTS.items():
        if part in found:
            row = found[part]
            width, height = row["size"]
            shown.append(
                f"  {name} ({row['frames']} frames of {width}x{height}): plain (Haar and PyTorch, "
                f"face by face) {row['seed_fps']:,.0f} frames/s, ours {row['ours_fps']:,.0f}, "
                f"{row['ratio']:.1f} times; faces a frame {row['seed_faces']:.2f} and "
                f"{row['ours_faces']:.2f}"
            )
    if "latency" in found:
        row = found["latency"]
        shown.append(
            f"  capture to label at {row['fps']:.0f} frames/s: median {row['p50_ms']:.1f} ms, "
            f"p95 {row['p95_ms']:.1f} ms, {row['dropped']} of {row['frames'] + row['dropped']} "
            "frames dropped"
        )
    shown.append("  smoothing     switches/min   fewer   flicker/min   delay ms   changes followed")
    for name, row in found["smoothing"].items():
        fewer = "" if row["fewer_switches"] is None else f"{row['fewer_switches']:.1f}x"
        keys = ("switches_per_min", "flicker_per_min", "delay_ms_median")
        rate, flicker, delay = ("-" if row[key] is None else row[key] for key in keys)
        shown.append(
            f"  {name:<12} {rate:>13} {fewer:>7} {flicker:>13} {delay:>10}   "
            f"{row['followed']} of {row['changes']}"
        )
    return shown


def _smoothers() -> dict[str, Any]:
    """Return the config of every smoother with its defaults."""
    return {name: compose.defaults("smoothing", name) for name in compose.options("smoothing")}


def bench(cfg: DictConfig) -> None:
    """Measure, print a table, leave ``bench.json``."""
    from hydra.core.hydra_config import HydraConfig

    from emotion_lab.core.environment import choose_accelerator, git_commit, hardware, versions
    from emotion_lab.core.io import write_json

    hydra_cfg = HydraConfig.get()
    run_dir = Path(hydra_cfg.runtime.output_dir)
    plain = compose.to_container(cfg)
    device = choose_accelerator(plain["trainer"]["accelerator"])
    import torch

    if plain["trainer"]["num_threads"]:
        torch.set_num_threads(int(plain["trainer"]["num_threads"]))
    plain["workers"] = (os.cpu_count() or 1) if plain["workers"] is None else plain["workers"]
    result: dict[str, Any] = {
        "what": plain["benchmark"],
        "model": plain["model"]["name"],
        "image_size": plain["model"]["image_size"],
        "batch_size": plain["data"]["batch_size"],
        "images": plain["images"],
        "rounds": plain["rounds"],
        "workers_plain": plain["workers"],
        "data_name": plain["data"]["name"],
        "hardware": hardware(device),
        "versions": versions(),
        "commit": git_commit(),
    }
    if plain["benchmark"] == "data":
        from emotion_lab.benchmarks.data import bench as measure

        result["data"] = measure(plain, device)
    elif plain["benchmark"] == "live":
        from emotion_lab.benchmarks.live import bench as measure_live

        result["live"] = measure_live(plain, _smoothers())
    elif plain["benchmark"] == "deploy":
        from emotion_lab.benchmarks.deploy.matrix import bench as measure_deploy

        result["deploy"] = measure_deploy(plain, run_dir)
    else:
        from emotion_lab.benchmarks.train import bench as measure_training

        overrides = list(hydra_cfg.overrides.task)
        result["train"] = measure_training(plain, device, overrides)
    write_json(run_dir / "bench.json", result)
    print("\n".join(lines(result)))
    print(run_dir)


def main() -> None:
    """Entry point of ``emotion-bench``."""
    app.run("bench", bench, validate, ("bench.json",))


if __name__ == "__main__":
    main()
