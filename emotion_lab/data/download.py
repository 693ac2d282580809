"""Fetching the public FER2013 CSV."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

from emotion_lab.core.errors import UserError

#: A public copy that holds the challenge's CSV (others hold folders of JPEG files).
KAGGLE_DATASET = "deadskull7/fer2013"
FILE = "fer2013.csv"
PAGE = f"https://www.kaggle.com/datasets/{KAGGLE_DATASET}"

_PROBE_SECONDS = 12.0


def _by_hand(reason: str, into: Path) -> UserError:
    """Build the one line that tells how to fetch the file without this program."""
    return UserError(
        f"{reason} Fetch {FILE} by hand from {PAGE} and put it at {into / FILE}, "
        f"or set data.path=<the file>."
    )


def _probe() -> str | None:
    """Return why Kaggle cannot be reached, or None when it can.

    kagglehub retries for minutes, and a name look-up has no time limit of its own; hence the
    thread, which is left behind when it does not answer.
    """
    result: list[str | None] = []

    def ask() -> None:
        import requests

        try:
            requests.head("https://www.kaggle.com", timeout=(5, 6), allow_redirects=False)
            result.append(None)
        except requests.RequestException as error:
            result.append(type(error).__name__)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PROBE_SECONDS)
    return result[0] if result else "no answer"


def download_fer2013(into: Path) -> Path:
    """Fetch the CSV from Kaggle and put it at ``into/fer2013.csv``.

    Args:
        into: Folder to put the file in; made when missing.

    Returns:
        The path of the CSV.

    Raises:
        UserError: If kagglehub is not installed (``pip install kagglehub``), Kaggle cannot be
            reached (within 20 s) or refuses.
    """
    try:
        import kagglehub
    except ImportError as error:
        raise _by_hand(
            "data.download=true needs kagglehub: pip install kagglehub.", into
        ) from error
    reason = _probe()
    if reason is not None:
        raise _by_hand(f"www.kaggle.com cannot be reached ({reason}).", into)
    try:
        folder = Path(kagglehub.dataset_download(KAGGLE_DATASET))
    except Exception as error:  # kagglehub raises its own, requests' and OS errors
        text = " ".join(str(error).split())[:120]
        raise _by_hand(f"Kaggle did not hand out {KAGGLE_DATASET} ({text}).", into) from error
    found = sorted(folder.rglob(FILE))
    if not found:
        raise _by_hand(f"Kaggle's {KAGGLE_DATASET} holds no {FILE} any more.", into)
    return _place(found[0], into)


def _place(source: Path, into: Path) -> Path:
    """Link or copy ``source`` to ``into/fer2013.csv`` in one step."""
    target = into / FILE
    temporary = into / f".{FILE}.{os.getpid()}"
    try:
        into.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source.resolve(), temporary)
        except OSError:  # another disk
            shutil.copyfile(source, temporary)
        os.replace(temporary, target)
    except OSError as error:
        raise UserError(
            f"Fetched {source} but cannot put it in {into} ({error}); set data.path={source}."
        ) from error
    return target
