"""Compare models on the same images: two, ``run_a=<run> run_b=<run>``, or many, ``runs=<folder>``."""

from __future__ import annotations

import json
from pathlib import Path

from omegaconf import DictConfig

from emotion_lab.cli import app
from emotion_lab.core import paths
from emotion_lab.core.errors import UserError

RESULTS = ("compare.json", "leaderboard.json")


def _places(cfg: DictConfig) -> list[Path]:
    """Return what ``runs=`` names; nothing where two sides are compared.

    Raises:
        UserError: If both are given, or keys of the other one.
    """
    from emotion_lab.experiments.compare.load import runs_of

    if cfg.runs is None:
        for key, unset in (("sort_by", None), ("latency", False)):
            if cfg[key] != unset:
                raise UserError(f"{key}= is for a leaderboard: give runs=<folder>.")
        return []
    if cfg.run_a is not None or cfg.run_b is not None:
        raise UserError(
            "runs= ranks many runs, run_a= and run_b= compare two: give runs=<folder>, or run_a=<run> run_b=<run>."
        )
    return runs_of("runs", cfg.runs)


def validate(cfg: DictConfig, overrides: list[str]) -> list[str]:
    """Read what is given, which takes no second, before Hydra makes the run folder."""
    from emotion_lab.experiments.compare.load import read_sides, runs_of

    places = _places(cfg)
    if places:
        from emotion_lab.experiments.leaderboard import grouping, latency

        found = grouping.read(places, cfg.sort_by, cfg.split)
        if cfg.latency:
            latency.checkpoints(found.groups)
    else:
        read_sides(runs_of("run_a", cfg.run_a), runs_of("run_b", cfg.run_b), cfg.split)
    if not str(cfg.hydra.mode or "").endswith("MULTIRUN"):
        paths.check_fresh(str(cfg.hydra.run.dir), *RESULTS)
    return []


def rank(cfg: DictConfig, places: list[Path], run_dir: Path) -> float:
    """Rank, write the results, print them; returns the best mean."""
    from emotion_lab.core.io import atomic_write
    from emotion_lab.experiments.leaderboard import report
    from emotion_lab.experiments.leaderboard.grouping import read
    from emotion_lab.experiments.leaderboard.table import board

    found = read(places, cfg.sort_by, cfg.split)
    result = board(found, Path(str(cfg.test_ledger)), bool(cfg.latency))
    drawn = report.pictures(found, result, run_dir)
    atomic_write(run_dir / "leaderboard.csv", report.table(result).encode())
    report.write_page(run_dir, result, drawn)
    # Last: where it is, the rest is.
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    atomic_write(run_dir / "leaderboard.json", text.encode())
    print("\n".join(report.lines(result)))
    print(run_dir)
    return float(result["groups"][0][result["by"]]["mean"])


def compare(cfg: DictConfig) -> float:
    """Compare, write the results, print them; returns the difference in accuracy, b - a."""
    from hydra.core.hydra_config import HydraConfig

    from emotion_lab.core.io import atomic_write
    from emotion_lab.experiments.compare import report
    from emotion_lab.experiments.compare.load import runs_of
    from emotion_lab.experiments.compare.result import compare as compared
    from emotion_lab.reports.style import both

    run_dir = Path(HydraConfig.get().runtime.output_dir)
    places = _places(cfg)
    if places:
        return rank(cfg, places, run_dir)
    a, b = runs_of("run_a", cfg.run_a), runs_of("run_b", cfg.run_b)
    result = compared(a, b, cfg.split, Path(str(cfg.test_ledger)))
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    atomic_write(run_dir / "compare.json", text.encode())
    pictures = both(lambda style: report.figure(result, style), run_dir, "compare")
    report.write_page(run_dir, result, pictures)
    print("\n".join(report.lines(result)))
    print(run_dir)
    return float(result["difference"]["accuracy"])


def main() -> None:
    """Entry point of ``emotion-compare``."""
    app.run("compare", compare, validate, RESULTS)


if __name__ == "__main__":
    main()
