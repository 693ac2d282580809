"""Build an ensemble out of runs: ``python -m emotion_lab.ensemble runs=<sweep folder>``."""

from __future__ import annotations

import shlex
from pathlib import Path

from omegaconf import DictConfig

from emotion_lab.cli import app
from emotion_lab.config.overrides import quote
from emotion_lab.core import paths, runs
from emotion_lab.core.errors import UserError

FILE = "ensemble.ckpt"
RESULTS = (FILE, "ensemble.json")


def run_paths(cfg: DictConfig) -> list[Path]:
    """Return what ``runs=`` names.

    Raises:
        UserError: If it is nothing.
    """
    given = [Path(path) for path in paths.as_list(cfg.runs)]
    if not given:
        raise UserError("runs is missing: give a sweep folder or a list, runs=[<run>,<run>].")
    return given


def validate(cfg: DictConfig, overrides: list[str]) -> list[str]:
    """Look at the runs, which takes a second, before Hydra makes the run folder."""
    from emotion_lab.experiments.ensemble.candidates import read

    read(runs.find(run_paths(cfg)), cfg.metric)
    folder = str(cfg.hydra.run.dir if cfg.out is None else cfg.out)
    if not str(cfg.hydra.mode or "").endswith("MULTIRUN"):
        paths.check_fresh(folder, *RESULTS, key="hydra.run.dir" if cfg.out is None else "out")
    return [] if cfg.out is None else [f"hydra.run.dir={quote(str(cfg.out))}"]


def ensemble(cfg: DictConfig) -> float:
    """Choose, write the checkpoint, print who takes part; returns the score on val."""
    from hydra.core.hydra_config import HydraConfig

    from emotion_lab.core.environment import git_commit, versions
    from emotion_lab.core.io import file_hash, write_json
    from emotion_lab.experiments.ensemble.candidates import read
    from emotion_lab.experiments.ensemble.checkpoint import choose, lines, summary, write_checkpoint
    from emotion_lab.experiments.ensemble.figure import figure
    from emotion_lab.reports.style import both

    hydra_cfg = HydraConfig.get()
    run_dir = Path(hydra_cfg.runtime.output_dir)
    candidates = read(runs.find(run_paths(cfg)), cfg.metric)
    choice = choose(candidates, cfg.selection, cfg.max_members, cfg.num_splits)
    found = summary(candidates, choice)
    path = run_dir / FILE
    made = write_checkpoint(candidates, choice, found, path)
    both(lambda style: figure(found, style), run_dir, "ensemble")
    about = {
        **made,
        "checkpoint": str(path),
        "checkpoint_sha256": file_hash(path),
        "commit": git_commit(),
        "versions": versions(),
        "command": shlex.join(["python", "-m", "emotion_lab.ensemble", *hydra_cfg.overrides.task]),
    }
    write_json(run_dir / "ensemble.json", {**found, **about})
    print("\n".join(lines(found, cfg.num_splits)))
    print(
        f"temperature {made['temperature']:.3f}, fitted on val, NLL {made['nll']:.4f} -> "
        f"{made['nll_calibrated']:.4f}; {made['parameters']:,} parameters"
    )
    print(path)
    print(run_dir)
    return float(found["val"]["score"])


def main() -> None:
    """Entry point of ``emotion-ensemble``."""
    app.run("ensemble", ensemble, validate, RESULTS)


if __name__ == "__main__":
    main()
