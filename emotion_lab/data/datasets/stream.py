"""Shards made by ``python -m emotion_lab.shard``, in a folder or on ``s3://``."""

from __future__ import annotations

import json

from emotion_lab.core.errors import UserError, unknown
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.data.shards.storage import META, find_place
from emotion_lab.data.shards.store import FORMAT, open_split
from emotion_lab.data.types import DATASETS, SPLITS, LoadedDataset


def _check_room(cfg: dict, entry: dict, name: str) -> None:
    """Refuse a cache that cannot hold the shards that are shuffled together, and the next ones."""
    sizes = sorted((shard["bytes"] for shard in entry["shards"]), reverse=True)
    needed = -(-sum(sizes[: 2 * int(cfg["shuffle_buffer_shards"])]) // 2**20)
    if needed > int(cfg["cache_size_mib"]):
        raise UserError(
            f"data.cache_size_mib={cfg['cache_size_mib']} is too small for "
            f"data.shuffle_buffer_shards={cfg['shuffle_buffer_shards']} of {name}: set data.cache_size_mib={needed} or "
            "more, or fewer shards."
        )


@DATASETS.register("stream")
def load(cfg: dict, splits: tuple[str, ...]) -> LoadedDataset:
    """Open a stream: the index of each split asked for, no image.

    Args:
        cfg: The ``data`` group; ``path``, ``shuffle_buffer_shards``, ``cache_size_mib``, ``on_decode_error`` and
            ``strict_labels`` are used.
        splits: Which splits to open; nothing is read or fetched of the others.

    Returns:
        Images, order, labels, names and content hashes of the data that was converted.

    Raises:
        UserError: If there is no stream, it is damaged, or it cannot be reached.
    """
    if cfg.get("on_decode_error") == "skip":
        raise UserError(
            "data.on_decode_error=skip does not apply to data=stream: bad files are left out when the "
            "data is converted, and a damaged stream is copied again."
        )
    place = find_place(cfg)
    content = place.meta()
    try:
        meta = json.loads(content)
        version, classes, entries = meta["format"], list(meta["classes"]), dict(meta["splits"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{place.name}/{META} is damaged, or not that of a stream.") from None
    if version != FORMAT:
        raise UserError(
            f"{place.name} is a stream of version {version}, here {FORMAT} is read: convert the "
            "data once more."
        )
    if cfg.get("strict_labels"):
        for name in classes:
            if name not in EMOTIONS:
                raise unknown("class", name, EMOTIONS, "data.strict_labels=false keeps it.")
    source = LoadedDataset(
        classes, {}, place.name, found=[name for name in SPLITS if name in entries]
    )
    source.folders = {name: list(folders) for name, folders in meta["folders"].items()}
    for name in source.found:
        if name in splits:
            if place.remote:
                _check_room(cfg, entries[name], name)
            source.splits[name] = open_split(place, entries[name])
    shards = sum(len(entry["shards"]) for entry in entries.values())
    source.notes.append(f"stream of {meta['source']}, {shards} shards; licence: {meta['licence']}")
    return source
