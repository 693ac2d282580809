"""Several sources of one run: checks before the model is loaded, names, and opening."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from emotion_lab.core.errors import UserError
from emotion_lab.video.sources.camera import without_password
from emotion_lab.video.sources.open import SYNTHETIC_SOURCE, camera_index, is_address, open_source
from emotion_lab.video.sources.threaded import FrameSource
from emotion_lab.video.sources.video_file import SOURCE_HINT

#: Sources that are opened at the same time; a camera or stream can take seconds.
_OPENED_AT_ONCE = 8
_DEFAULT_PORTS = {"http": 80, "https": 443, "rtsp": 554, "rtsps": 322}


def source_list(value: Any) -> list[str]:
    """Return the sources of ``source=``: one, or those of a list.

    Raises:
        UserError: If a list is empty or nested, an entry is empty, or two are the same source.
    """
    if value is None or isinstance(value, (str, int)):
        return [str("" if value is None else value).strip()]
    sources = []
    for item in value:
        text = str("" if item is None else item).strip()
        if not isinstance(item, (str, int)) or (text[:1] == "[" and not Path(text).exists()):
            raise UserError(
                "source= is a list within a list: name every source once, source=[0,1,clip.mp4]."
            )
        if not text:
            raise UserError(f"source= has an empty entry: remove it, or {SOURCE_HINT}.")
        sources.append(text)
    if not sources:
        raise UserError("source=[] names no source: name some, source=[0,1,clip.mp4].")
    _check_different(sources)
    return sources


def _check_different(sources: Sequence[str]) -> None:
    """Refuse the same camera, file or address twice."""
    seen: dict[tuple[Any, ...], str] = {}
    for source in sources:
        key, shown = _identity(source), without_password(source)
        if key in seen:
            same = "" if seen[key] == source else f" ({seen[key]} and {shown})"
            raise UserError(f"source= names the same {key[0]} twice, {shown}{same}: name it once.")
        if source != SYNTHETIC_SOURCE:  # each one shows another person
            seen[key] = shown


def _identity(source: str) -> tuple[Any, ...]:
    """Return the kind of a source and what identifies it, however it is written."""
    if is_address(source):
        try:
            parts = urlsplit(source)
            scheme, port = parts.scheme.lower(), parts.port
        except ValueError:
            return "address", source
        port = port or _DEFAULT_PORTS.get(scheme)
        return "address", scheme, parts.hostname, port, parts.path.rstrip("/"), parts.query
    path = Path(source).expanduser()
    if source != SYNTHETIC_SOURCE and not re.fullmatch(r"\d+|/dev/.*", source) and path.exists():
        status = path.stat()  # also equal for two links to a file
        return "file", status.st_dev, status.st_ino or os.path.realpath(path)
    index = camera_index(source)
    return ("source", source) if index is None else ("camera", index)


def source_names(sources: Sequence[str]) -> list[str]:
    """Return a short name for each source, for file names and the page; all are different.

    The name is that of a file without its suffix, ``camera<number>``, or host and path of an
    address. The second source of a name gets ``-2``, the third ``-3``.
    """
    names: list[str] = []
    for source in sources:
        base = _base_name(source)
        name, number = base, 1
        while name.casefold() in {other.casefold() for other in names}:
            number += 1
            name = f"{base}-{number}"
        names.append(name)
    return names


def _base_name(source: str) -> str:
    if source.isdecimal():
        text = f"camera{int(source)}"
    elif is_address(source):
        text = re.sub(r"^\w+://", "", without_password(source)).split("?")[0]
    else:
        text = Path(source).stem if Path(source).is_file() else Path(source).name
    return re.sub(r"[^\w-]+", "_", text).strip("_")[:60] or "source"


def named(path: Any, name: str) -> Path:
    """Return the path of the output of one source, ``out.jsonl`` -> ``out.<name>.jsonl``."""
    path = Path(str(path)).expanduser()
    # Without a suffix, the name must not become one.
    link = "." if path.suffix else "-"
    return path.with_name(f"{path.stem}{link}{name}{path.suffix}")


def open_all(cfg: dict[str, Any], sources: Sequence[str]) -> list[FrameSource]:
    """Open all sources as :func:`open_source` does, in order.

    Raises:
        UserError: If one cannot be opened, or is a photo, a folder of photos or a recording. All
            others are closed then.
    """
    synthetic = 0
    configs = []
    for source in sources:
        configs.append({**cfg, "source": source, "seed": int(cfg.get("seed") or 0) + synthetic})
        synthetic += source == SYNTHETIC_SOURCE
    with ThreadPoolExecutor(min(_OPENED_AT_ONCE, len(sources))) as pool:
        futures = [pool.submit(open_source, config) for config in configs]
    opened = [future.result() for future in futures if future.exception() is None]
    try:
        for future in futures:
            future.result()
        for one in opened:
            if one.stills or one.kind == "recording":
                kind = "a recording" if one.kind == "recording" else "no camera or video"
                raise UserError(
                    f"{one.name} is {kind}: a list of sources takes cameras, videos, addresses "
                    "and synthetic. Run it alone."
                )
    except BaseException:
        for one in opened:
            one.close()
        raise
    return opened
