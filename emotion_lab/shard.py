"""Write a dataset as WebDataset shards: ``python -m emotion_lab.shard out=<folder>``."""

from __future__ import annotations

import os
from pathlib import Path

from omegaconf import DictConfig

from emotion_lab.cli import app
from emotion_lab.config import compose
from emotion_lab.core import paths
from emotion_lab.core.errors import UserError
from emotion_lab.core.wording import counted

#: Data keys of a training run; they are set when the shards are used, not when they are written.
_TRAINING_KEYS = ("folds", "drop_csv", "relabel_csv", "ferplus_csv", "drop_not_face")


def validate(cfg: DictConfig, overrides: list[str]) -> list[str]:
    """Check the arguments before Hydra creates the run directory."""
    if cfg.out is None:
        raise UserError("out is missing: name the folder to create, out=<folder>.")
    if "://" in str(cfg.out):
        raise UserError(
            f"out={cfg.out} is an address: write to a folder and copy it there, for instance with "
            "aws s3 cp --recursive."
        )
    out = Path(str(cfg.out)).expanduser()
    if out.exists():
        raise UserError(f"out={out} exists, and nothing is replaced: name a new folder.")
    if cfg.data.name in ("stream", "checkpoint"):
        raise UserError(f"data={cfg.data.name} cannot be sharded: name the data it came from.")
    keys = [f"data.{key}" for key in _TRAINING_KEYS if cfg.data.get(key)]
    keys += ["data.label_source"] if cfg.data.label_source != "original" else []
    if cfg.data.labels != "fer2013":
        raise UserError(f"data.labels={cfg.data.labels} cannot be sharded: it needs data=fer2013.")
    if keys:
        raise UserError(
            f"{', '.join(keys)} cannot be written into a stream: set it when the data is used."
        )
    path = None if cfg.data.get("download") else cfg.data.path
    paths.check_exist({"data.path": path})
    if path is not None:
        data = Path(str(path)).expanduser().resolve()
        if data.is_dir() and data in out.resolve().parents and cfg.data.name == "image_folder":
            raise UserError(f"out={out} is inside the data, {path}: name a folder outside of it.")
    parent = next(p for p in out.absolute().parents if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"cannot write out={out}: {parent} is not a writable folder.")
    return []


def shard(cfg: DictConfig) -> None:
    """Write the shards; print their size, the licence and the folder."""
    from emotion_lab.data.shards.writer import open_all_splits, write_shards

    config = compose.to_container(cfg)
    out = Path(str(config["out"])).expanduser()
    source = open_all_splits(config["data"])
    for note in source.notes:
        print(f"  {note}")
    size = config["shard_mib"] * 2**20
    meta = write_shards(source, config["data"]["name"], out, size, config["licence"])
    for name, entry in meta["splits"].items():
        mib = sum(shard["bytes"] for shard in entry["shards"]) / 2**20
        shards = counted(len(entry["shards"]), "shard")
        print(f"{name}: {counted(entry['n'], 'image')}, {shards}, {mib:,.1f} MiB")
    print(f"licence: {meta['licence']}")
    print(out)


def main() -> None:
    """Entry point of ``emotion-lab shard``."""
    app.run("shard", shard, validate)


if __name__ == "__main__":
    main()
