"""Model files of detectors: config key, cache, download and hash check."""

from __future__ import annotations

import hashlib
import http.client
import os
from pathlib import Path
from typing import Any

from emotion_lab.core.errors import UserError
from emotion_lab.core.io import atomic_write, cache_root, file_hash
from emotion_lab.core.timeout import open_url


class DownloadError(UserError):
    """A model file cannot be downloaded; ``reason`` is a short cause."""

    def __init__(self, what: str, reason: str, manual: str) -> None:
        super().__init__(f"Cannot download {what} ({reason}). {manual}.")
        self.reason = reason


def configured_path(cfg: dict[str, Any], key: str, what: str, allow_dir: bool = False) -> Path:
    """Return ``cfg[key]`` as a path of a readable file; messages call it ``what``."""
    name = cfg["name"]
    if not cfg.get(key):
        raise UserError(f"detector={name} needs {what}. Set detector.{key}=<path>.")
    path = Path(str(cfg[key])).expanduser()
    if not path.exists():
        raise UserError(f"No file at {path} for detector={name}. Set detector.{key}=<path>.")
    if path.is_dir() and not allow_dir:
        raise UserError(f"detector.{key}={path} is a folder; detector={name} needs {what}.")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path} cannot be read. Change its permissions, or detector.{key}=<path>.")
    return path


def find_weights(
    cfg: dict[str, Any],
    what: str,
    url: str | None = None,
    allow_dir: bool = False,
    deadline_s: float | None = None,
) -> Path:
    """Return the verified model file of a detector.

    ``cfg["file"]`` has precedence. Without it the cache is searched for the file name of ``url``;
    if missing, the file is downloaded there once.

    Args:
        cfg: The detector's config; uses ``name``, ``file`` and ``sha256`` (null: not checked).
        what: Description of the file for error messages.
        allow_dir: Whether ``file`` may be a directory, which is not hashed.
        deadline_s: Seconds to wait for the connection; None: those of :func:`open_url`.
    """
    sha256 = cfg.get("sha256")
    if cfg.get("file") or url is None:
        path = configured_path(cfg, "file", what, allow_dir)
        if sha256 and path.is_file() and (digest := file_hash(path)) != sha256:
            raise UserError(
                f"{path} is not the expected file (sha256 {digest[:16]}..., expected "
                f"{sha256[:16]}...). Download it again, or set detector.sha256=null to use it."
            )
        return path
    path = cache_root() / url.rpartition("/")[2]
    if path.is_file() and (not sha256 or file_hash(path) == sha256):
        return path
    return _download(url, path, sha256, what, deadline_s)


def _download(
    url: str, path: Path, sha256: str | None, what: str, deadline_s: float | None
) -> Path:
    """Download ``url`` to ``path`` atomically; nothing is written if the hash is wrong."""
    manual = f"Download {url} on another computer and set detector.file=<path>"
    try:
        with open_url(url, deadline_s) as response:
            data = response.read()
    except (OSError, http.client.HTTPException) as error:
        reason = " ".join(str(error).split())[:100]
        raise DownloadError(what, reason, manual) from error
    digest = hashlib.sha256(data).hexdigest()
    if sha256 and digest != sha256:
        raise UserError(
            f"{url} did not return the expected file (sha256 {digest[:16]}..., expected "
            f"{sha256[:16]}...). Try again, or: {manual}."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, data)
    except OSError as error:
        raise UserError(
            f"Cannot write {path}: {error.strerror}. Set EMOTION_LAB_CACHE to a folder with room."
        ) from error
    return path
