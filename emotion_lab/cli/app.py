"""Run a command: check the command line, compose the config, report errors in one line.

Nothing here imports torch.
"""

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

from emotion_lab.config.compose import CONF, check_custom, precheck
from emotion_lab.config.overrides import flags, quote_paths
from emotion_lab.core import distributed
from emotion_lab.core.errors import UserError
from emotion_lab.core.paths import locked_run_dir


def _guarded(
    entry: str,
    task: Callable[[DictConfig], Any],
    full: bool,
    multirun: bool,
    custom: bool,
    results: Sequence[str] | None,
) -> Callable[[DictConfig], Any]:
    """Return ``task`` with its run folder claimed and a user's mistake answered in one line.

    It is answered before Hydra adds lines of its own. A failed job does not stop a sweep, but
    Ctrl-C does.
    """

    def claim(cfg: DictConfig) -> contextlib.AbstractContextManager[None]:
        from hydra.core.hydra_config import HydraConfig

        # The other processes of a run on several devices work in the folder of the first.
        if results is None or not distributed.is_rank_zero():
            return contextlib.nullcontext()
        folder = Path(HydraConfig.get().runtime.output_dir)
        if cfg.get("resume") or cfg.get("rescore"):
            return locked_run_dir(folder, key=None)
        # Some commands hand out= on as hydra.run.dir.
        named = cfg.get("out") is not None and Path(str(cfg.out)).resolve() == folder.resolve()
        key = "out" if named else "hydra.sweep.dir" if multirun else "hydra.run.dir"
        return locked_run_dir(folder, *results, key=key)

    def guarded(cfg: DictConfig) -> Any:
        try:
            if custom:
                check_custom(cfg, entry)
            with claim(cfg):
                return task(cfg)
        except Exception as error:
            mistake = error if isinstance(error, UserError) else explain(error)
            if mistake is None or full:
                raise
            if multirun and getattr(mistake, "exit_code", 2) == 2:
                raise mistake from None
            fail(mistake)

    # Hydra names the job, and with it the log file, after the module.
    guarded.__module__ = f"emotion_lab.{entry}"
    return guarded


def explain(error: Exception) -> UserError | None:
    """Return what to tell the user of a machine that is at its end; None for anything else."""
    words = str(error)
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            "the disk is full; what was saved before is whole. Free some space and start again "
            "(a training goes on with resume=<run folder>)."
        )
    no_room = "can't allocate memory" in words or "out of memory" in words
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and no_room):
        return UserError(
            f"not enough memory ({words.splitlines()[0][:120]}). Try a smaller data.batch_size, "
            "model or data.n."
        )
    return None


def fail(error: BaseException) -> NoReturn:
    """Print one line and leave: 2 for a user's mistake, 130 for a run the user stopped."""
    code = getattr(error, "exit_code", 2)
    prefix = "error: " if code == 2 else ""
    # A loader's worker process sends its traceback along.
    words = str(error).rsplit("emotion_lab.core.errors.UserError: ", 1)[-1]
    print(f"{prefix}{' '.join(words.split())}", file=sys.stderr)
    raise SystemExit(code)


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
        task: Receives the composed config. It imports what is heavy itself.
        prepare: Called with (checked config, overrides) before Hydra makes the run folder; it may
            raise :class:`UserError` and returns further overrides.
        results: Files of the run folder; where one is there already, nothing is begun.
        sweep: Held around the jobs of a sweep, given what ``prepare`` returned; each job then
            claims its own folder.
    """
    import hydra

    full = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")
    # Said three times of our own launcher files, and nothing a user could mend.
    warnings.filterwarnings("ignore", message=r"(?s).*validated against ConfigStore schema.*")
    try:
        argv = quote_paths(sys.argv[1:])
        if any(flag in argv for flag in ("-h", "--help")):
            from emotion_lab.cli.help import show

            try:
                show(entry)
                sys.stdout.flush()
            except BrokenPipeError:  # ... --help | head
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return
        overrides, multirun, custom = flags(argv)
        prepared: list[str] = []
        if not custom:
            cfg = precheck(entry, overrides, multirun)
            shows = any(
                a in ("-c", "--cfg", "--info", "-i") or a.startswith("--cfg=") for a in argv
            )
            if prepare is not None and not shows:
                prepared = prepare(cfg, overrides)
        # With this set Hydra passes exceptions on, so that one place decides how they look.
        os.environ["EMOTION_LAB_FULL_ERROR"] = "1" if full else "0"
        os.environ["HYDRA_FULL_ERROR"] = "1"
        sys.argv = [sys.argv[0], *argv, *prepared]
        sweeps = multirun and sweep is not None and bool(prepared)
        task = _guarded(entry, task, full, multirun, custom, None if sweeps else results)
        with sweep(prepared) if sweep is not None and sweeps else contextlib.nullcontext():
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=entry)(task)()
    except (UserError, OSError) as error:  # Hydra itself writes into the run folder
        mistake = error if isinstance(error, UserError) else explain(error)
        if mistake is None or full:
            raise
        fail(mistake)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise SystemExit(130) from None
