"""Compare runs on the same images: two with ``run_a=`` and ``run_b=``, or many with ``runs=``.

``smoothing=[...]`` compares smoothers on clips.
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from emotion_lab.cli import app
from emotion_lab.config import compose
from emotion_lab.config.overrides import values
from emotion_lab.core import paths
from emotion_lab.core.errors import UserError

RESULTS = ("compare.json", "leaderboard.json")


def _recordings(cfg: DictConfig) -> tuple[Path, Path] | None:
    """Return ``run_a`` and ``run_b`` if they are recordings or replays of live, else None."""
    from emotion_lab.experiments.compare.load import parse_runs
    from emotion_lab.experiments.recordings.load import recorded_sides

    if cfg.run_a is None or cfg.run_b is None:
        return None
    return recorded_sides([parse_runs("run_a", cfg.run_a), parse_runs("run_b", cfg.run_b)])


def _leaderboard_runs(cfg: DictConfig) -> list[Path]:
    """Return the run directories of ``runs=``; none if two sides are compared."""
    from emotion_lab.experiments.compare.load import parse_runs

    if cfg.runs is None:
        if cfg.latency:
            raise UserError("latency= applies to a leaderboard only: give runs=<folder>.")
        return []
    if cfg.run_a is not None or cfg.run_b is not None:
        raise UserError(
            "runs= ranks many runs, run_a= and run_b= compare two: give runs=<folder>, or "
            "run_a=<run> run_b=<run>."
        )
    return parse_runs("runs", cfg.runs)


def validate(cfg: DictConfig, overrides: list[str]) -> list[str]:
    """Read and check the runs, which takes less than a second, before Hydra creates a directory."""
    from emotion_lab.experiments.compare.load import kept_rows, parse_runs, read_pairs

    smoothers = values(overrides, "smoothing")
    runs = [] if smoothers else _leaderboard_runs(cfg)
    recordings = None if smoothers else _recordings(cfg)
    if cfg.drop_csv is not None and (smoothers or runs or recordings is not None):
        raise UserError("drop_csv= applies to two runs only: give run_a=<run> run_b=<run>.")
    if smoothers:
        from emotion_lab.experiments.compare import smoothing

        smoothing.check(cfg, smoothing.named_smoothers(overrides))
    elif recordings is not None:
        from emotion_lab.experiments.recordings.load import read_sides

        read_sides(*recordings)
    elif runs:
        from emotion_lab.experiments.leaderboard import grouping, latency

        configurations = grouping.read(runs, cfg.sort_by, cfg.split)
        if cfg.latency:
            latency.checkpoints(configurations.groups)
    else:
        from emotion_lab.experiments.compare.result import verdict_metric

        sides = parse_runs("run_a", cfg.run_a), parse_runs("run_b", cfg.run_b)
        a, b, _ = read_pairs(*sides, cfg.split)
        if cfg.drop_csv is not None:
            kept_rows(a[0].names, cfg.drop_csv)
        verdict_metric(cfg.sort_by, [*a, *b])
    if not compose.is_multirun(cfg.hydra):
        paths.check_fresh(str(cfg.hydra.run.dir), *RESULTS)
    return []


def _compare_smoothers(cfg: DictConfig, overrides: list[str], run_dir: Path) -> float:
    """Compare smoothers, write and print the results; return the accuracy of the last one."""
    from emotion_lab.core.io import write_json
    from emotion_lab.core.tables import show
    from emotion_lab.experiments.compare import smoother_scores, smoothing

    result = smoothing.run(compose.to_container(cfg), smoothing.named_smoothers(overrides), run_dir)
    write_json(run_dir / "compare.json", result)
    show(*smoother_scores.lines(result), str(run_dir))
    return float(result["smoothers"][result["last"]]["accuracy"])


def _rank(cfg: DictConfig, runs: list[Path], run_dir: Path) -> float:
    """Rank many runs, write and print the leaderboard; return the best mean score."""
    from emotion_lab.core.io import atomic_write, to_bytes, write_json
    from emotion_lab.core.tables import show
    from emotion_lab.experiments.leaderboard import grouping, paper, report
    from emotion_lab.experiments.leaderboard.table import build_leaderboard

    configurations = grouping.read(runs, cfg.sort_by, cfg.split)
    result = build_leaderboard(configurations, Path(str(cfg.test_ledger)), bool(cfg.latency))
    pictures = report.draw_figures(configurations, result, run_dir)
    atomic_write(run_dir / "leaderboard.csv", to_bytes(report.csv_text(result)))
    atomic_write(run_dir / "leaderboard.md", to_bytes(paper.markdown(result)))
    atomic_write(run_dir / "leaderboard.tex", to_bytes(paper.latex(result)))
    report.write_page(run_dir, result, pictures)
    # Written last: it marks the run directory as complete.
    write_json(run_dir / "leaderboard.json", result)
    show(*report.lines(result), str(run_dir))
    return float(result["groups"][0][result["by"]]["mean"])


def _compare_recordings(folders: tuple[Path, Path], run_dir: Path) -> float | None:
    """Compare two models on a recording; return their agreement, 0..1."""
    from emotion_lab.core.io import write_json
    from emotion_lab.core.tables import show
    from emotion_lab.experiments.recordings import report, result
    from emotion_lab.experiments.recordings.load import read_sides

    a, b = read_sides(*folders)
    content, looks = result.compare(a, b)
    write_json(run_dir / "compare.json", content)
    report.write_page(run_dir, content, a, b, looks)
    show(*report.lines(content), f"page: {run_dir / 'compare.html'}", str(run_dir))
    agreement = content["agreement"]["value"]
    return None if agreement is None else float(agreement)


def compare(cfg: DictConfig) -> float | None:
    """Compare runs, write and print the results; return the difference of the scores, b - a."""
    from hydra.core.hydra_config import HydraConfig

    from emotion_lab.core.io import write_json
    from emotion_lab.core.tables import show
    from emotion_lab.experiments.compare import report, result
    from emotion_lab.experiments.compare.load import parse_runs
    from emotion_lab.reports.style import both

    run_dir = Path(HydraConfig.get().runtime.output_dir)
    overrides = list(HydraConfig.get().overrides.task)
    if values(overrides, "smoothing"):
        return _compare_smoothers(cfg, overrides, run_dir)
    recordings = _recordings(cfg)
    if recordings is not None:
        return _compare_recordings(recordings, run_dir)
    runs = _leaderboard_runs(cfg)
    if runs:
        return _rank(cfg, runs, run_dir)
    a, b = parse_runs("run_a", cfg.run_a), parse_runs("run_b", cfg.run_b)
    ledger = Path(str(cfg.test_ledger))
    content = result.compare(a, b, cfg.split, ledger, cfg.sort_by, cfg.drop_csv)
    write_json(run_dir / "compare.json", content)
    pictures = both(lambda style: report.figure(content, style), run_dir, "compare")
    report.write_page(run_dir, content, pictures)
    show(*report.lines(content), str(run_dir))
    return float(content["difference"][content["by"]])


def main() -> None:
    """Entry point of ``emotion-lab compare``."""
    app.run("compare", compare, validate, RESULTS)


if __name__ == "__main__":
    main()
