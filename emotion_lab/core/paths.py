"""Path checks that run before heavy imports, and the lock of a run directory."""

from __future__ import annotations

import contextlib
import errno
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from emotion_lab.core import extras, weights
from emotion_lab.core.errors import UserError
from emotion_lab.core.io import EXPORT_SUFFIXES

#: File name of an ensemble in its run directory.
ENSEMBLE = "ensemble.ckpt"
#: Characters that separate or end paths on any system, and control characters.
_FORBIDDEN = {"\\", ":", *map(chr, range(32)), chr(127)}


def check_inside(name: Any, where: str) -> str:
    """Return a file name that lies inside its folder, from an index of unknown origin.

    Only ``folder/file`` with plain parts is accepted: no absolute path, drive, ``..``, backslash,
    hidden part or control character.

    Args:
        name: The name.
        where: The index, for the error message.
    """
    parts = name.split("/") if isinstance(name, str) else [""]
    if any(not part or part.startswith(".") or set(part) & _FORBIDDEN for part in parts):
        raise UserError(
            f"{where} is refused: it names the file {name!r}, which is not a plain name inside "
            "its folder. Do not use data from this source."
        )
    return str(name)


def as_list(value: Any) -> list[str]:
    """Return the paths of a key that takes one path or a list; null gives an empty list."""
    if value is None:
        return []
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    return [str(path) for path in value] if is_list else [str(value)]


def check_checkpoint(ckpt: Any, several: bool = False, exported: bool = False) -> None:
    """Check that ``ckpt=`` names checkpoints, without loading them.

    Args:
        ckpt: A path or the name of a shipped model, or a list of these.
        several: Whether a list (an ensemble) is allowed.
        exported: Whether an exported model is allowed.
    """
    paths = as_list(ckpt)
    if not any(paths):
        raise UserError("ckpt is missing: give a checkpoint or a run directory, ckpt=<path>.")
    if not several and not isinstance(ckpt, str):
        raise UserError(
            "one checkpoint is expected, ckpt=<path>; python -m emotion_lab.ensemble makes one of "
            "several runs."
        )
    for path in paths:
        if paths.count(path) > 1:
            raise UserError(f"{path} is twice in ckpt: each member of an ensemble counts once.")
        if weights.is_name(path):
            weights.find(path, ".onnx" if exported else ".ckpt")
        else:
            _check_one_checkpoint(Path(path), exported)


def _check_one_checkpoint(path: Path, exported: bool) -> None:
    if path.suffix in EXPORT_SUFFIXES and path.is_file():
        if exported:
            return
        raise UserError(
            f"{path} is an exported file, but a checkpoint is needed: ckpt=<the .ckpt file or run "
            "directory it was exported from>."
        )
    try:
        file = find_checkpoint(path)
    except UserError:
        models = sorted(path.glob("*"))
        models = [model for model in models if model.suffix in EXPORT_SUFFIXES]
        if exported and models:
            raise UserError(
                f"{path} is not a run directory of train: set ckpt={models[0]}."
            ) from None
        raise
    with file.open("rb") as stream:
        start = stream.read(2)
    # A checkpoint is a zip file; older ones of other programs start with 0x80.
    if start[:1] != b"\x80" and not zipfile.is_zipfile(file):
        raise UserError(f"{file} is truncated or not a checkpoint.")
    if exported:  # the commands that run without torch
        extras.require("torch", f"ckpt={path} is a checkpoint. It")


def find_checkpoint(path: str | Path) -> Path:
    """Return the checkpoint file of a path.

    Args:
        path: A checkpoint, a run directory of ``train`` (its ``best.ckpt``), that of an ensemble,
            or the name of a shipped model.
    """
    if weights.is_name(path):
        return weights.find(str(path), ".ckpt")
    path = Path(path)
    if not path.exists():
        raise weights.no_checkpoint(path)
    files = (path / "checkpoints" / "best.ckpt", path / "best.ckpt", path / ENSEMBLE, path)
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise UserError(f"no checkpoints/best.ckpt in {path}: is it a run directory of train?")
    return file


def check_exist(paths: dict[str, Any]) -> None:
    """Check that the path of every key exists; ``data.path`` may be a URL, null is skipped."""
    for key, path in paths.items():
        if key == "model.weights" and weights.is_name(path):
            weights.find(path, ".ckpt")
            continue
        if path is None or (key == "data.path" and "://" in str(path)):
            continue
        if not Path(str(path)).expanduser().exists():
            raise UserError(f"{key}={path} does not exist. Set {key}=<an existing file or folder>.")


def check_folder(folder: str | Path, key: str = "hydra.run.dir") -> None:
    """Check that a run directory can be created, without creating it.

    Args:
        folder: The run directory.
        key: Config key of the directory, for the error message.

    Raises:
        OSError: If the disk is full.
    """
    path = Path(folder).absolute()
    parent = next(p for p in (path, *path.parents) if p.exists())
    try:
        # os.access is not enough: root has all permissions, also in a read-only file system.
        tempfile.TemporaryDirectory(prefix=".", dir=parent).cleanup()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"cannot create the run directory {folder}: {parent} is not a writable folder. "
            f"Set {key}=<folder>."
        ) from None


def check_training_folder(folder: str | Path, key: str = "hydra.run.dir") -> None:
    """Check that a run can be trained in a directory, see :func:`check_folder`.

    TensorBoard and PyTorch write files in folders with UTF-8 names only.
    """
    try:
        str(Path(folder).absolute()).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{key}={folder}: the name is not UTF-8, which TensorBoard and PyTorch need for the "
            f"folder of a run. Set {key}=<another folder>."
        ) from None
    check_folder(folder, key)


def check_fresh(folder: str | Path, *names: str, key: str = "hydra.run.dir") -> None:
    """Check that a run directory can be created and holds none of the results ``names``."""
    check_folder(folder, key)
    for name in names:
        if (Path(folder) / name).exists():
            raise UserError(
                f"{folder} already holds {name}, which is not replaced. Set {key}=<a new folder>."
            )


@contextlib.contextmanager
def locked_run_dir(folder: Path, *names: str, key: str | None = "hydra.run.dir") -> Iterator[None]:
    """Lock a run directory for this process.

    Two commands started in the same second have the same default directory: the second one is
    refused, also after the first one has finished.

    Args:
        folder: The existing run directory.
        names: Results; the directory is refused if it holds one of them.
        key: Config key of the directory, None if another directory is not possible.
    """
    # A slow import, not needed for --help and for errors.
    from filelock import FileLock, Timeout

    file = folder / ".lock"
    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        hint = "." if key is None else f", or set {key}=<a new folder>."
        raise UserError(f"another process works in {folder}: wait until it is done{hint}") from None
    try:
        check_fresh(folder, *names, key=key or "hydra.run.dir")
        yield
    finally:
        lock.release()
        with contextlib.suppress(OSError):
            file.unlink()


def check_apart(inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
    """Refuse an output that is an input or another output; both map a key to a path."""
    seen: dict[Path, str] = {}
    for key, value in {**inputs, **outputs}.items():
        if value is None:
            continue
        path = Path(str(value)).expanduser().resolve()
        if path in seen and key in outputs:
            raise UserError(f"{key} and {seen[path]} are the same file, {value}: name another.")
        seen.setdefault(path, key)


def check_appendable(ledger: Path) -> None:
    """Check that the test ledger can be written, before training and before a test split opens."""
    try:
        ledger.parent.mkdir(parents=True, exist_ok=True)
        ledger.open("a").close()
    except OSError as error:
        raise UserError(
            f"the test ledger {ledger} cannot be written ({error.strerror}); the test split is "
            "not opened. Set test_ledger=<file>."
        ) from None
