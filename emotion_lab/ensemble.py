"""Build an ensemble of trained runs: ``python -m emotion_lab.ensemble runs=<sweep>``."""

from __future__ import annotations

import shlex
from pathlib import Path

from omegaconf import DictConfig

from emotion_lab.cli import app
from emotion_lab.config import compose
from emotion_lab.config.overrides import as_typed, quote
from emotion_lab.core import paths, runs

FILE = "ensemble.ckpt"
RESULTS = (FILE, "ensemble.json")


def validate(cfg: DictConfig, overrides: list[str]) -> list[str]:
    """Read and check the runs, which takes about a second, before Hydra creates a directory."""
    from emotion_lab.experiments.ensemble.candidates import read

    read(runs.find(paths.as_list(cfg.runs)), cfg.metric)
    folder = str(cfg.hydra.run.dir if cfg.out is None else cfg.out)
    if not compose.is_multirun(cfg.hydra):
        paths.check_fresh(folder, *RESULTS, key="hydra.run.dir" if cfg.out is None else "out")
    return [] if cfg.out is None else [f"hydra.run.dir={quote(str(cfg.out))}"]


def ensemble(cfg: DictConfig) -> float:
    """Select members, write the checkpoint and the results; return the score on val."""
    from hydra.core.hydra_config import HydraConfig

    from emotion_lab.core.environment import git_commit, versions
    from emotion_lab.core.io import file_hash, write_json
    from emotion_lab.core.tables import show
    from emotion_lab.evaluation.temperature import describe
    from emotion_lab.experiments.ensemble.candidates import read
    from emotion_lab.experiments.ensemble.checkpoint import lines, select, summary, write_checkpoint
    from emotion_lab.experiments.ensemble.figure import figure
    from emotion_lab.reports.style import both

    hydra_cfg = HydraConfig.get()
    run_dir = Path(hydra_cfg.runtime.output_dir)
    candidates = read(runs.find(paths.as_list(cfg.runs)), cfg.metric)
    selection = select(candidates, cfg.selection, cfg.max_members, cfg.num_splits)
    content = summary(candidates, selection)
    path = run_dir / FILE
    written = write_checkpoint(candidates, selection, content, path)
    both(lambda style: figure(content, style), run_dir, "ensemble")
    provenance = {
        "checkpoint": str(path),
        "checkpoint_sha256": file_hash(path),
        "commit": git_commit(),
        "versions": versions(),
        "command": shlex.join(
            ["python", "-m", "emotion_lab.ensemble", *as_typed(hydra_cfg.overrides.task)]
        ),
    }
    write_json(run_dir / "ensemble.json", {**content, **written, **provenance})
    show(
        *lines(content, cfg.num_splits),
        f"{describe(written)}; {written['parameters']:,} parameters",
        str(path),
        str(run_dir),
    )
    return float(content["val"]["score"])


def main() -> None:
    """Entry point of ``emotion-lab ensemble``."""
    app.run("ensemble", ensemble, validate, RESULTS)


if __name__ == "__main__":
    main()
