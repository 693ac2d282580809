"""``detector=auto``: YuNet if its file is present or can be downloaded, else the Haar cascade."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from emotion_lab.config import compose
from emotion_lab.core.io import cache_root
from emotion_lab.video.detectors.weights import DownloadError, find_weights
from emotion_lab.video.detectors.yunet import URL, WHAT
from emotion_lab.video.types import DETECTORS, Detector

FILE = URL.rpartition("/")[2]
#: Seconds to wait for the download; an explicit detector=yunet waits longer.
DEADLINE_S = 4.0
#: Why the download failed in this process; it is not tried again.
_failures: list[str] = []


def resolve(
    cfg: dict[str, Any], hint: str = "save {url} in data/, or set detector.file=<path>"
) -> dict[str, Any]:
    """Return the config of the detector that is used: YuNet, else Haar with its own settings.

    The reason for Haar is printed on standard error, once.

    Args:
        cfg: Keys of ``conf/detector/yunet.yaml``. ``file`` must be a file of YuNet; without it,
            the file is searched in ``data/`` and in the cache, and then downloaded.
        hint: How to get YuNet; ``{url}`` is its address.
    """
    cfg = {**cfg, "name": "yunet"}
    if not cfg["file"] and (Path("data") / FILE).is_file():
        cfg["file"] = f"data/{FILE}"
    if cfg["file"] or (cache_root() / FILE).is_file() or not _failures:
        try:
            return {**cfg, "file": str(find_weights(cfg, WHAT, URL, deadline_s=DEADLINE_S))}
        except DownloadError as error:
            _failures.append(error.reason)
            print(
                "detector: haar, because YuNet cannot be downloaded. It finds more faces: "
                f"{hint.format(url=URL)}.",
                file=sys.stderr,
            )
    return compose.defaults("detector", "haar")


@DETECTORS.register("auto")
def build(cfg: dict[str, Any]) -> Detector:
    """Build the detector of :func:`resolve`."""
    cfg = resolve(cfg)
    return DETECTORS.get(cfg["name"])(cfg)
