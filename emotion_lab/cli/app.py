"""Start of every command: command line checks, config, and one-line errors. No torch here."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import DictConfig

from emotion_lab import __version__
from emotion_lab.config.compose import CONF, activate_plugins, check_custom, has_sweeps, precheck
from emotion_lab.config.overrides import flags, flags_first, parse, quote_texts
from emotion_lab.core import distributed, plugins
from emotion_lab.core.errors import UserError, first_line
from emotion_lab.core.extras import check_installed, missing_package
from emotion_lab.core.io import print_any_name
from emotion_lab.core.paths import locked_run_dir


def _guarded(
    entry: str,
    task: Callable[[DictConfig], Any],
    full: bool,
    multirun: bool,
    custom: bool,
    results: Sequence[str] | None,
) -> Callable[[DictConfig], Any]:
    """Return ``task`` with a locked run directory and one-line user errors.

    Errors are printed here, before Hydra adds its own lines. A failed job does not stop a sweep,
    Ctrl-C does. For the arguments see :func:`run`.
    """

    def lock(cfg: DictConfig) -> contextlib.AbstractContextManager[None]:
        from hydra.core.hydra_config import HydraConfig

        # With several devices, only rank 0 locks the directory that all ranks share.
        if results is None or not distributed.is_rank_zero():
            return contextlib.nullcontext()
        folder = Path(HydraConfig.get().runtime.output_dir)
        if cfg.get("resume") or cfg.get("rescore"):
            return locked_run_dir(folder, key=None)
        # Some commands pass out= on as hydra.run.dir.
        is_out = cfg.get("out") is not None and Path(str(cfg.out)).resolve() == folder.resolve()
        key = "out" if is_out else "hydra.sweep.dir" if multirun else "hydra.run.dir"
        return locked_run_dir(folder, *results, key=key)

    def guarded(cfg: DictConfig) -> Any:
        _return_to_start()
        try:
            # Again for a custom config, and for the worker process of a launcher.
            plugins.activate(cfg.get("plugins") or ())
            if custom:
                check_custom(cfg, entry)
            with lock(cfg):
                return task(cfg)
        except Exception as error:
            user_error = as_user_error(error)
            if user_error is None or full:
                raise
            if multirun and getattr(user_error, "exit_code", 2) == 2:
                raise user_error from None
            fail(user_error)

    # Hydra names the job and its log file after the module.
    guarded.__module__ = f"emotion_lab.{entry}"
    return guarded


def _return_to_start() -> None:
    """Undo ``hydra.job.chdir=true``, which would change the meaning of every relative path.

    The paths are checked before Hydra starts, and defaults such as the test ledger are relative.
    """
    from hydra.core.hydra_config import HydraConfig

    config = HydraConfig.get()
    if config.job.chdir and not Path.cwd().samefile(config.runtime.cwd):
        os.chdir(config.runtime.cwd)
        print(
            "hydra.job.chdir=true has no effect: results are written to the run directory, and "
            "relative paths stay those of the folder where the command was started",
            file=sys.stderr,
        )


def as_user_error(error: Exception) -> UserError | None:
    """Return the error for a user, None for a bug.

    A full disk, full memory and a package that an extra installs are errors for a user.
    """
    if isinstance(error, UserError):
        return error
    if isinstance(error, ModuleNotFoundError):
        return missing_package(error)
    message = str(error)
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            "the disk is full; files saved before are intact. Free some space and start again "
            "(continue a training with resume=<run directory>)."
        )
    no_memory = "can't allocate memory" in message or "out of memory" in message
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and no_memory):
        return UserError(
            f"not enough memory ({first_line(error)}). Try a smaller data.batch_size, "
            "model or data.n."
        )
    if isinstance(error, ValueError) and "more than 1 value per channel" in message:
        return UserError(
            "this model cannot be trained on a batch of one image (BatchNorm of 1 x 1 features has "
            "no variance). Set data.batch_size=2 or more."
        )
    return None


def fail(error: BaseException) -> NoReturn:
    """Print an error in one line and exit with its code: 2, or 130 after Ctrl-C."""
    code = getattr(error, "exit_code", 2)
    prefix = "error: " if code == 2 else ""
    # The message of a DataLoader worker contains its traceback.
    message = str(error).rsplit("emotion_lab.core.errors.UserError: ", 1)[-1]
    print(f"{prefix}{' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)


def _is_informational(argv: list[str], entry: str) -> bool:
    """Print the version or the help if a command line asks for it."""
    if "--version" in argv:
        print(f"emotion_lab {__version__}")
        return True
    if not any(flag in argv for flag in ("-h", "--help")):
        return False
    from emotion_lab.cli.help import show

    activate_plugins(parse([a for a in argv if a.startswith("plugins=")]), entry)
    show(entry)
    return True


def run(
    entry: str,
    task: Callable[[DictConfig], Any],
    prepare: Callable[[DictConfig, list[str]], list[str]] | None = None,
    results: Sequence[str] = (),
    sweep: Callable[[list[str]], contextlib.AbstractContextManager[None]] | None = None,
) -> None:
    """Run an entry point: check the command line, compose with Hydra, call ``task(cfg)``.

    Args:
        entry: Name of the config, ``conf/<entry>.yaml``.
        task: Receives the composed config; it does the heavy imports.
        prepare: Called with (checked config, overrides) before Hydra creates the run directory;
            it may raise :class:`UserError` and returns further overrides.
        results: Results in the run directory; a directory that holds one is refused.
        sweep: Context manager around the jobs of a sweep, called with the overrides that
            ``prepare`` returned; each job locks its own directory.
    """
    import hydra

    print_any_name()
    full = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")
    # Hydra warns three times about the launcher configs of this package.
    warnings.filterwarnings("ignore", message=r"(?s).*validated against ConfigStore schema.*")
    try:
        argv = quote_texts(sys.argv[1:])
        if _is_informational(argv, entry):
            return
        overrides, multirun, custom = flags(argv)
        if multirun and not has_sweeps(entry):
            raise UserError(f"{entry} runs one job: remove -m.")
        prepared: list[str] = []
        if custom:
            activate_plugins(parse(overrides), entry)
        else:
            cfg = precheck(entry, overrides, multirun)
            only_shown = any(
                a in ("-c", "--cfg", "--info", "-i") or a.startswith("--cfg=") for a in argv
            )
            if not only_shown:
                check_installed(entry)
                prepared = prepare(cfg, overrides) if prepare else []
        # With this variable Hydra passes exceptions on, and _guarded prints them.
        os.environ["EMOTION_LAB_FULL_ERROR"] = "1" if full else "0"
        os.environ["HYDRA_FULL_ERROR"] = "1"
        sys.argv = [sys.argv[0], *flags_first(argv, overrides), *prepared]
        around_jobs = sweep if multirun and prepared else None
        task = _guarded(entry, task, full, multirun, custom, None if around_jobs else results)
        with around_jobs(prepared) if around_jobs else contextlib.nullcontext():
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=entry)(task)()
    # OSError: Hydra writes into the run directory.
    except (UserError, OSError, ModuleNotFoundError) as error:
        user_error = as_user_error(error)
        if user_error is None or full:
            raise
        fail(user_error)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise SystemExit(130) from None
