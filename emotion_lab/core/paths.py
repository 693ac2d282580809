"""Path checks that are cheap enough to run before anything heavy is imported."""

from __future__ import annotations

import contextlib
import errno
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from emotion_lab.core.errors import UserError
from emotion_lab.core.io import EXPORT_SUFFIXES


def as_list(value: Any) -> list[str]:
    """Return the paths of a key that takes one or a list of them; none for null."""
    if value is None:
        return []
    several = isinstance(value, Sequence) and not isinstance(value, str)
    return [str(path) for path in value] if several else [str(value)]


def check_checkpoint(ckpt: Any, several: bool = False, exported: bool = False) -> None:
    """Make sure that ``ckpt=`` names something that looks like a checkpoint.

    Args:
        ckpt: A path, or a list of them.
        several: Whether a list, an ensemble, is understood.
        exported: Whether an exported file is taken in a checkpoint's place.

    Raises:
        UserError: If it is missing, nothing is there, or a file is cut off.
    """
    given = as_list(ckpt)
    if not any(given):
        raise UserError("ckpt is missing: give a checkpoint or a run folder, ckpt=<path>.")
    if not several and not isinstance(ckpt, str):
        raise UserError(
            "one checkpoint is taken here, ckpt=<path>; python -m emotion_lab.ensemble makes one "
            "of several runs."
        )
    for path in given:
        if not Path(path).exists():
            raise UserError(f"no such checkpoint: {path}. Give a .ckpt file or a run folder.")
        if given.count(path) > 1:
            raise UserError(f"{path} stands twice in ckpt: each member of an ensemble counts once.")
        place = Path(path)
        if place.suffix in EXPORT_SUFFIXES and place.is_file():
            if exported:
                continue
            raise UserError(
                f"{path} is an exported file, and this needs the checkpoint it was made of: "
                "ckpt=<a .ckpt file or run folder>."
            )
        files = [place / "checkpoints" / "best.ckpt", place / "best.ckpt", place / "ensemble.ckpt"]
        files.append(place)
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            inside = sorted(file for file in place.iterdir() if file.suffix in EXPORT_SUFFIXES)
            if exported and inside:
                raise UserError(
                    f"{place} is no run folder of train: name a file, ckpt={inside[0]}."
                )
            raise UserError(f"no checkpoints/best.ckpt in {place}: is it a run folder of train?")
        with open(file, "rb") as stream:
            start = stream.read(2)
        # A whole checkpoint is a zip file; older ones of other programs begin with 0x80.
        if start[:1] != b"\x80" and not zipfile.is_zipfile(file):
            raise UserError(f"{file} is truncated or not a checkpoint.")


def check_exist(paths: dict[str, Any]) -> None:
    """Make sure that every path that was given is there; ``data.path`` may be an address.

    Raises:
        UserError: Naming the key.
    """
    for key, path in paths.items():
        if path is None or (key == "data.path" and "://" in str(path)):
            continue
        if not Path(str(path)).expanduser().exists():
            raise UserError(f"{key}={path} does not exist. Set {key}=<an existing file or folder>.")


def check_folder(folder: str | Path, key: str = "hydra.run.dir") -> None:
    """Make sure that a run folder can be made, without making it.

    Args:
        folder: The run folder.
        key: What names it on the command line.

    Raises:
        UserError: If it cannot.
        OSError: If the disk is full.
    """
    place = Path(folder).absolute()
    above = next(p for p in (place, *place.parents) if p.exists())
    try:
        # Asking for permissions is not enough: root has them all, also where nothing can be made.
        tempfile.TemporaryDirectory(prefix=".", dir=above).cleanup()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"cannot make the run folder {folder}: {above} is no folder that can be written. "
            f"Set {key}=<folder>."
        ) from None


def check_fresh(folder: str | Path, *names: str, key: str = "hydra.run.dir") -> None:
    """Make sure that a run folder can be made and holds no results that would be replaced.

    Args:
        folder: The run folder.
        names: Results.
        key: What names the folder on the command line.

    Raises:
        UserError: If it cannot, or one of the files is there.
    """
    check_folder(folder, key)
    for name in names:
        if (Path(folder) / name).exists():
            raise UserError(
                f"{folder} already holds {name}, and nothing is replaced. Set {key}=<a new folder>."
            )


@contextlib.contextmanager
def locked_run_dir(folder: Path, *names: str, key: str | None = "hydra.run.dir") -> Iterator[None]:
    """Hold a run folder for this process alone, while it works.

    Two commands of the same second have the same folder by default; the second is refused, also
    when the first is done.

    Args:
        folder: The run folder; it exists.
        names: Results; where one is there already, nothing is begun.
        key: What names the folder on the command line; None where it can be no other.

    Raises:
        UserError: If another process works in the folder, or it holds results.
    """
    # Slow to import, and not needed to answer --help or a mistake.
    from filelock import FileLock, Timeout

    file = folder / ".lock"
    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        other = "." if key is None else f", or set {key}=<a new folder>."
        raise UserError(
            f"another process works in {folder}: wait until it is done{other}"
        ) from None
    try:
        check_fresh(folder, *names, key=key or "hydra.run.dir")
        yield
    finally:
        lock.release()
        with contextlib.suppress(OSError):
            file.unlink()


def check_apart(inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
    """Refuse to write over what is read, or two results into one file.

    Raises:
        UserError: Naming the two keys.
    """
    seen: dict[Path, str] = {}
    for key, value in {**inputs, **outputs}.items():
        if value is None:
            continue
        path = Path(str(value)).expanduser().resolve()
        if path in seen and key in outputs:
            raise UserError(f"{key} and {seen[path]} are the same file, {value}: name another.")
        seen.setdefault(path, key)


def check_appendable(ledger: Path) -> None:
    """Make sure that a line can be added to the test ledger, before anything long or sealed.

    Raises:
        UserError: If it cannot.
    """
    try:
        ledger.parent.mkdir(parents=True, exist_ok=True)
        with open(ledger, "a", encoding="utf-8"):
            pass
    except OSError as error:
        raise UserError(
            f"the test ledger {ledger} cannot be written ({error.strerror}); the test split stays "
            "closed. Set test_ledger=<file>."
        ) from None
