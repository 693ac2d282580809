"""Download of the public FER2013 CSV from Kaggle."""

from __future__ import annotations

import shutil
from pathlib import Path

from emotion_lab.core.errors import UserError
from emotion_lab.core.io import replaced_file
from emotion_lab.core.timeout import call_with_timeout

#: A public copy of the challenge's CSV; other copies hold folders of JPEG files.
KAGGLE_DATASET = "deadskull7/fer2013"
FILE = "fer2013.csv"
PAGE = f"https://www.kaggle.com/datasets/{KAGGLE_DATASET}"

_CONNECT_TIMEOUT_S = 12.0


def _download_error(reason: str, into: Path) -> UserError:
    """Return an error that explains how to download the file manually."""
    return UserError(
        f"{reason} Download {FILE} by hand from {PAGE} and put it at {into / FILE}, "
        f"or set data.path=<the file>."
    )


def _connection_problem() -> str | None:
    """Return why Kaggle cannot be reached, or None if it can.

    kagglehub itself retries for minutes.
    """
    import requests

    def request() -> None:
        requests.head("https://www.kaggle.com", timeout=(5, 6), allow_redirects=False)

    try:
        call_with_timeout(request, _CONNECT_TIMEOUT_S)
    except requests.RequestException as error:
        return type(error).__name__
    except TimeoutError:
        return "no answer"
    return None


def download_fer2013(into: Path) -> Path:
    """Download the CSV from Kaggle to ``into/fer2013.csv`` and return its path.

    An unreachable host is an error after at most 20 s.

    Args:
        into: Target folder; created if missing.
    """
    try:
        import kagglehub
    except ImportError as error:
        raise _download_error(
            "data.download=true needs kagglehub: pip install kagglehub.", into
        ) from error
    reason = _connection_problem()
    if reason is not None:
        raise _download_error(f"www.kaggle.com cannot be reached ({reason}).", into)
    try:
        folder = Path(kagglehub.dataset_download(KAGGLE_DATASET))
    except Exception as error:  # kagglehub raises its own exceptions, those of requests and OSError
        text = " ".join(str(error).split())[:120]
        raise _download_error(f"Kaggle refused {KAGGLE_DATASET} ({text}).", into) from error
    paths = sorted(folder.rglob(FILE))
    if not paths:
        raise _download_error(f"Kaggle's {KAGGLE_DATASET} has no {FILE} any more.", into)
    return _link_or_copy(paths[0], into)


def _link_or_copy(source: Path, into: Path) -> Path:
    """Hard-link or copy ``source`` to ``into/fer2013.csv`` atomically."""
    target = into / FILE
    try:
        into.mkdir(parents=True, exist_ok=True)
        with replaced_file(target) as temporary:
            try:
                temporary.hardlink_to(source.resolve())
            except OSError:  # another file system
                shutil.copyfile(source, temporary)
    except OSError as error:
        raise UserError(
            f"Downloaded {source} but cannot put it in {into} ({error}); set data.path={source}."
        ) from error
    return target
