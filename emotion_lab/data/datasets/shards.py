"""Shards written by ``python -m emotion_lab.shard``, in a folder or on ``s3://``."""

from __future__ import annotations

import json
from typing import Any

from emotion_lab.core.errors import UserError, unknown
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.core.paths import check_inside
from emotion_lab.core.wording import counted
from emotion_lab.data.shards.storage import META, open_storage
from emotion_lab.data.shards.store import FORMATS, open_split
from emotion_lab.data.types import DATASETS, SPLITS, LoadedDataset


def _check_files(entries: dict[str, Any], where: str) -> None:
    """Refuse an index whose files lie outside of their split or have no size."""
    for name, entry in entries.items():
        for file in (entry["index"], entry["names"], *entry["shards"]):
            path = check_inside(file["file"], where)
            if name not in SPLITS or path.rpartition("/")[0] != name:
                raise UserError(f"{where} is damaged: {path} is not a file of the split '{name}'.")
            if type(file["bytes"]) is not int or file["bytes"] < 0:
                raise UserError(f"{where} is damaged: {path} has the size {file['bytes']!r}.")


def _check_cache_size(cfg: dict[str, Any], entry: dict[str, Any], name: str) -> None:
    """Refuse a cache that cannot hold the shards of two shuffle buffers: current and next."""
    sizes = sorted((shard["bytes"] for shard in entry["shards"]), reverse=True)
    needed = -(-sum(sizes[: 2 * int(cfg["shuffle_buffer_shards"])]) // 2**20)
    if needed > int(cfg["cache_size_mib"]):
        raise UserError(
            f"data.cache_size_mib={cfg['cache_size_mib']} is too small for "
            f"data.shuffle_buffer_shards={cfg['shuffle_buffer_shards']} of {name}: set "
            f"data.cache_size_mib={needed} or more, or fewer shards."
        )


@DATASETS.register("stream")
def load(cfg: dict[str, Any], splits: tuple[str, ...]) -> LoadedDataset:
    """Open the index of each requested split; images are read on access.

    Args:
        cfg: The ``data`` group; ``path``, ``shuffle_buffer_shards``, ``cache_size_mib``,
            ``on_decode_error`` and ``strict_labels`` are used.
        splits: The splits to open; no file of another split is read or downloaded.

    Returns:
        Images, order, labels, names and content hashes of the dataset that was sharded.
    """
    if cfg.get("on_decode_error") == "skip":
        raise UserError(
            "data.on_decode_error=skip does not apply to data=stream: bad files are left out when "
            "the data is sharded, and a damaged stream is copied again."
        )
    storage = open_storage(cfg)
    content = storage.read_meta()
    try:
        meta = json.loads(content)
        version, classes, entries = meta["format"], list(meta["classes"]), dict(meta["splits"])
        if version in FORMATS:
            _check_files(entries, f"{storage.name}/{META}")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{storage.name}/{META} is damaged, or not that of a stream.") from None
    if version not in FORMATS:
        raise UserError(
            f"{storage.name} is a stream of version {version}, supported are "
            f"{' and '.join(map(str, FORMATS))}: shard the data again."
        )
    if cfg.get("strict_labels"):
        for name in classes:
            if name not in EMOTIONS:
                raise unknown("class", name, EMOTIONS, "data.strict_labels=false keeps it.")
    opened = {}
    for name in SPLITS:
        if name in entries and name in splits:
            if storage.remote:
                _check_cache_size(cfg, entries[name], name)
            opened[name] = open_split(storage, entries[name])
    shards = counted(sum(len(entry["shards"]) for entry in entries.values()), "shard")
    notes = [f"stream of {meta['source']}, {shards}; licence: {meta['licence']}"]
    if version == 1:
        notes.append("stream of version 1: all images are decoded at the start; shard them again")
    return LoadedDataset(
        classes,
        opened,
        storage.name,
        notes,
        available_splits=[name for name in SPLITS if name in entries],
        class_folders={name: list(folders) for name, folders in meta["folders"].items()},
    )
