"""Checks of the results of ``predict`` that run before models are loaded."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from emotion_lab.config import compose, schema
from emotion_lab.core import extras
from emotion_lab.core.errors import UserError
from emotion_lab.video.batch.listing import is_many
from emotion_lab.video.batch.output import LOG, TABLE
from emotion_lab.video.batch.parquet import NAME

#: Seconds to wait for an answer of a Ray cluster.
_CONNECT_S = 5.0
#: Keys of files on which the results depend; their role is that of a location.
_FILES = {
    *("ckpt", "smoothing.ckpt", "enrol", "enrol_reference"),
    *("detector.file", "detector.config"),
}


def check_results(cfg: DictConfig, folder: Path) -> dict[str, Path]:
    """Check that the results can be written to ``folder``, or continued there.

    Returns:
        Config key -> file, of the files that will be written.
    """
    files = {"out": folder / LOG}
    if cfg.format != "jsonl":
        extras.require("pyarrow", f"format={cfg.format}")
        files["format"] = folder / NAME
        if files["format"].is_dir():
            raise UserError(f"{files['format']} is a folder, which cannot be replaced: remove it.")
    if cfg.resume:
        _check_resume(cfg, folder)
        return files
    many = is_many(str(cfg.source))
    for file in (*files.values(), *([folder / TABLE] if many else [])):
        if file.exists() and not cfg.overwrite:
            raise UserError(
                f"{file} exists already: name another folder, out=<folder>, or set overwrite=true"
                f"{' or resume=true' if many else ''}."
            )
    return files


def check_cluster(address: str) -> None:
    """Check that something answers at ``RAY_ADDRESS``: Ray itself waits for minutes.

    Args:
        address: ``host:port``, ``ray://host:port``, or another value, which is not checked.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"engine=ray: nothing answers at RAY_ADDRESS={address} ({error}). Start the cluster "
            "there (ray start --head), correct the address, or unset RAY_ADDRESS to run Ray on "
            "this machine."
        ) from None


def _check_resume(cfg: DictConfig, folder: Path) -> None:
    """Check that an interrupted run can be continued with this config."""
    if cfg.out is None:
        raise UserError("resume=true needs the folder of the interrupted run: set out=<folder>.")
    if not is_many(str(cfg.source)):
        raise UserError(
            f"resume=true is for many files, but source={cfg.source} is one: leave it out."
        )
    stored = folder / ".hydra" / "config.yaml"
    if not (folder / LOG).is_file() or not stored.is_file():
        raise UserError(f"resume=true: there is no interrupted run in out={folder}.")
    earlier, now = (result_settings(config) for config in (OmegaConf.load(stored), cfg))
    for key in sorted(earlier.keys() | now.keys()):
        if earlier.get(key) != now.get(key):
            raise UserError(
                f"resume=true: {key} was {earlier.get(key)} in out={folder}, now it is "
                f"{now.get(key)}. Set it as before, or set out=<a new folder>."
            )


def result_settings(cfg: Any) -> dict[str, Any]:
    """Return all settings on which the results depend."""
    keys = [str(key) for key in cfg if key != "hydra"]
    config = compose.to_container(OmegaConf.masked_copy(cfg, keys))
    files = {key: value for key, value in schema.leaves(config) if key in _FILES}
    # ``format`` has the role of export's key of that name.
    return {**schema.identity(config, exclude=("format",)), **files}
