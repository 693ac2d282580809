"""Search for good settings: ``python -m emotion_lab.sweep optim.lr=1e-3,1e-2 loss=ce,focal``.

A program of its own and no plugin of Hydra: hydra-optuna-sweeper pins optuna 2.10, whose studies on
disk fail with SQLAlchemy 2.1, so none would survive a kill.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from emotion_lab.cli import app, preflight
from emotion_lab.config import compose
from emotion_lab.config.overrides import quote, values
from emotion_lab.core import paths
from emotion_lab.core.errors import UserError
from emotion_lab.core.runs import monitor_mode
from emotion_lab.experiments.tuning import space as spaces
from emotion_lab.experiments.tuning import spec as asking

if TYPE_CHECKING:
    import optuna

RESULTS = (asking.FILE, "lr_find.json")
#: What may grow when a search goes on.
RESUME_KEYS = ("sweep.trials", "sweep.timeout")


class SearchInterruptedError(UserError):
    """The user stopped the search; everything needed to go on is saved."""

    exit_code = 130


def fixed(overrides: list[str]) -> list[str]:
    """Return the overrides that every trial is given."""
    own = ("sweep.", "sweep=", "hydra", "resume=")
    return [text for text in overrides if not text.lstrip("+~").startswith(own)]


def _resumes(cfg: DictConfig, overrides: list[str]) -> list[str]:
    """Check ``resume=``; returns the overrides that lead to its folder."""
    for text in overrides:
        key = text.lstrip("+~").split("=", 1)[0]
        if key not in ("resume", *RESUME_KEYS) and not key.startswith("hydra."):
            raise UserError(
                f"resume= goes on with the search as it was asked for; '{text}' cannot change. "
                f"Allowed: {', '.join(RESUME_KEYS)}."
            )
    folder = Path(str(cfg.resume))
    asking.load(folder)
    place = quote(str(folder), interpolate=True)
    return [f"hydra.run.dir={place}", "hydra.output_subdir=null"]


def validate(cfg: DictConfig, overrides: list[str]) -> list[str]:
    """Check what is cheap to check, before Hydra makes the folder."""
    name = cfg.sweep.name
    if name != "lr_find" and importlib.util.find_spec("optuna") is None:
        raise UserError('optuna is not installed: pip install "emotion_lab[sweep]".')
    for text in overrides:
        if text.startswith(("hydra/launcher", "hydra.launcher", "hydra.sweep")):
            raise UserError(
                f"'{text}' does not apply: a search runs one trial after the other, in "
                "hydra.run.dir. Launchers are for python -m emotion_lab.train -m."
            )
    if cfg.resume is not None:
        return _resumes(cfg, overrides)
    if cfg.test:
        raise UserError(
            "test=true: a search chooses on val and never opens the test split. Add test=false."
        )
    if cfg.trainer.devices != 1 or cfg.trainer.num_nodes > 1:
        raise UserError("a search runs one device a trial: set trainer.devices=1.")
    path = None if cfg.data.get("download") else cfg.data.path
    required = {f"data.{key}": cfg.data[key] for key in ("ferplus_csv", "drop_csv", "relabel_csv")}
    fold = values(overrides, "data.fold")
    preflight.check_fold([cfg.data.folds], [cfg.data.fold], fold is not None)
    searched = {str(text).split("=", 1)[0] for text in cfg.sweep.get("space") or ()}
    if "distill.teacher" not in searched:
        preflight.check_teacher(cfg.distill.teacher)
    paths.check_exist({"data.path": path, **required, "model.weights": cfg.model.weights})
    paths.check_fresh(str(cfg.hydra.run.dir), *RESULTS)
    if name == "lr_find":
        if cfg.sweep.min_lr >= cfg.sweep.max_lr:
            raise UserError(
                f"sweep.min_lr={cfg.sweep.min_lr:g} is not below sweep.max_lr={cfg.sweep.max_lr:g}."
            )
        return []
    if name == "halving" and cfg.sweep.pruner not in ("hyperband", "halving"):
        raise UserError(
            f"sweep=halving prunes by hyperband or halving, not sweep.pruner={cfg.sweep.pruner}."
        )
    if not str(cfg.monitor).startswith("val/"):
        raise UserError(f"monitor={cfg.monitor}: a search chooses on val, monitor=val/macro_f1.")
    spaces.read(list(cfg.sweep.space), fixed(overrides))
    return []


def _asked(cfg: DictConfig, overrides: list[str], folder: Path) -> asking.SearchSpec:
    """Return what is asked for: now, or when the search began."""
    if cfg.resume is None:
        sweep = compose.to_container(cfg.sweep)
        texts = [str(text) for text in sweep.pop("space")]
        asked = asking.SearchSpec(
            fixed(overrides), texts, sweep, str(cfg.monitor), monitor_mode(cfg)
        )
    else:
        asked = asking.load(folder)
        typed = {text.split("=", 1)[0] for text in overrides}
        # A limit of time is of one session.
        asked.sweep["timeout"] = cfg.sweep.timeout
        if "sweep.trials" in typed:
            asked.sweep["trials"] = cfg.sweep.trials
    asked.save(folder)
    return asked


def _pictures(
    rows: list[dict[str, Any]], summary: dict[str, Any], space: Any, folder: Path
) -> None:
    """Draw what there is enough of."""
    from emotion_lab.core.io import atomic_write
    from emotion_lab.experiments.tuning import figures
    from emotion_lab.reports.style import LIGHT, render

    monitor, mode = summary["monitor"], summary["mode"]
    shares, what = summary["importances"], (rows, space.dimensions, monitor, mode)
    draws = {}
    if any(row["value"] is not None for row in rows):
        draws["history"] = lambda style: figures.history(rows, monitor, mode, style)
    if shares:
        draws["importances"] = lambda style: figures.importances(shares, style)
    if sum(row["status"] == "finished" for row in rows) > 1:
        draws["slices"] = lambda style: figures.slices(*what, style)
        draws["parallel"] = lambda style: figures.parallel(*what, style)
    for name, draw in draws.items():
        atomic_write(folder / f"{name}.png", render(draw, LIGHT))


def _sum_up(
    study: optuna.Study, space: Any, asked: asking.SearchSpec, folder: Path
) -> dict[str, Any]:
    """Write the summary and the pictures, print the table."""
    from emotion_lab.experiments.tuning import summary as summaries

    found = summaries.write(study, space, asked, folder, whole=True)
    rows = summaries.rows(study, space, asked, folder)
    _pictures(rows, found, space, folder)
    print("\n" + "\n".join(summaries.lines(rows, found, space, folder)))
    print(folder, flush=True)
    return found


def _epochs(space: Any) -> int:
    """Return the most epochs that a trial may train."""
    for one in space.dimensions:
        if one.key == "trainer.max_epochs":
            return max(int(option) for option in one.options) if one.options else int(one.high)
    chosen = [group.word(group.options[0]) for group in space.groups]
    return int(space.config(chosen).trainer.max_epochs)


def plan(
    asked: asking.SearchSpec, space: spaces.Space, epochs: int, done: int, default: bool
) -> list[str]:
    """Say what is about to be run.

    Args:
        asked: What was asked for.
        space: What is searched.
        epochs: The most that a trial may train.
        done: Trials that the study has already.
        default: Whether the space is ``sweep.space``, since none was typed.
    """
    own = asked.sweep
    already = f", {done} of them begun before" if done else ""
    limit = "" if own["timeout"] is None else f", none begins after {own['timeout']:g} s"
    why = " (sweep.space: no key was typed with several values)" if default else ""
    return [
        f"planned: {own['trials']} trials{already}, each of at most {epochs} epochs{limit}; "
        f"sampler {own['sampler']}, pruner {own['pruner']}, best {asked.monitor}",
        f"searched{why}: {'  '.join(space.typed)}",
    ]


def search(cfg: DictConfig, overrides: list[str], folder: Path) -> float:
    """Run the study to its end; returns the best value.

    Raises:
        UserError: If it was stopped (exit code 130), or no trial has a result.
    """
    from emotion_lab.experiments.tuning import runner
    from emotion_lab.experiments.tuning import study as studies

    asked = _asked(cfg, overrides, folder)
    space = spaces.read(asked.space, asked.overrides)
    epochs = _epochs(space)
    study = studies.open_study(folder, asked, epochs)
    typed = any(text.startswith("sweep.space=") for text in overrides)
    default = cfg.resume is None and not typed
    print("\n".join(plan(asked, space, epochs, len(study.get_trials(deepcopy=False)), default)))
    try:
        runner.run_trials(study, space, asked, folder)
    except KeyboardInterrupt:
        _sum_up(study, space, asked, folder)
        again = f"python -m emotion_lab.sweep resume={shlex.quote(str(folder))}"
        raise SearchInterruptedError(f"stopped and saved. Go on with: {again}") from None
    found = _sum_up(study, space, asked, folder)
    if found["best"] is None:
        raise UserError(f"no trial finished; the reasons stand in {folder / 'summary.csv'}.")
    return float(found["best"]["value"])


def find_lr(cfg: DictConfig, folder: Path) -> float:
    """Run the learning-rate test; returns the suggestion."""
    # The bar of Lightning's tuner; tqdm looks when it is imported.
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    from emotion_lab.experiments.tuning.lr_finder import find

    result = find(compose.to_container(cfg), folder)
    print(f"{result['steps']} batches, {result['lr'][0]:.1e} to {result['lr'][-1]:.1e}")
    print(f"the loss falls fastest at:\n  optim.lr={result['suggestion']:g}")
    print(folder)
    return float(result["suggestion"])


def sweep(cfg: DictConfig) -> float:
    """Search, or find a learning rate; everything of value lands in the run folder."""
    from hydra.core.hydra_config import HydraConfig

    hydra_cfg = HydraConfig.get()
    folder = Path(hydra_cfg.runtime.output_dir)
    if cfg.resume is None and cfg.sweep.name == "lr_find":
        return find_lr(cfg, folder)
    return search(cfg, list(hydra_cfg.overrides.task), folder)


def main() -> None:
    """Entry point of ``emotion-sweep``."""
    try:
        sys.argv[1:] = spaces.gather(sys.argv[1:])
    except UserError as error:
        if os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0"):
            raise
        app.fail(error)
    app.run("sweep", sweep, validate, RESULTS)


if __name__ == "__main__":
    main()
