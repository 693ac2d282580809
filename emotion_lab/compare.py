"""Compare models on the same images: two, ``a=<run> b=<run>``, or many, ``runs=<folder>``."""

from __future__ import annotations

import json
from pathlib import Path

from omegaconf import DictConfig

from emotion_lab import checks, config
from emotion_lab.errors import UserError

RESULTS = ("compare.json", "leaderboard.json")


def _places(cfg: DictConfig) -> list[Path]:
    """Return what ``runs=`` names; nothing where two sides are compared.

    Raises:
        UserError: If both are given, or keys of the other one.
    """
    from emotion_lab.comparison.sides import runs_of

    if cfg.runs is None:
        for key, unset in (("by", None), ("latency", False)):
            if cfg[key] != unset:
                raise UserError(f"{key}= is for a leaderboard: give runs=<folder>.")
        return []
    if cfg.a is not None or cfg.b is not None:
        raise UserError(
            "runs= ranks many runs, a= and b= compare two: give runs=<folder>, or a=<run> b=<run>."
        )
    return runs_of("runs", cfg.runs)


def prepare(cfg: DictConfig, overrides: list[str]) -> list[str]:
    """Read what is given, which takes no second, before Hydra makes the run folder."""
    from emotion_lab.comparison.sides import read_sides, runs_of

    places = _places(cfg)
    if places:
        from emotion_lab.leaderboard import groups, latency

        found = groups.read(places, cfg.by, cfg.split)
        if cfg.latency:
            latency.checkpoints(found.groups)
    else:
        read_sides(runs_of("a", cfg.a), runs_of("b", cfg.b), cfg.split)
    if not str(cfg.hydra.mode or "").endswith("MULTIRUN"):
        checks.check_fresh(str(cfg.hydra.run.dir), *RESULTS)
    return []


def rank(cfg: DictConfig, places: list[Path], run_dir: Path) -> float:
    """Rank, write the results, print them; returns the best mean."""
    from emotion_lab.files import write_whole
    from emotion_lab.leaderboard import show
    from emotion_lab.leaderboard.board import board
    from emotion_lab.leaderboard.groups import read

    found = read(places, cfg.by, cfg.split)
    result = board(found, Path(str(cfg.ledger)), bool(cfg.latency))
    drawn = show.pictures(found, result, run_dir)
    write_whole(run_dir / "leaderboard.csv", show.table(result).encode())
    show.write_page(run_dir, result, drawn)
    # Last: where it is, the rest is.
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    write_whole(run_dir / "leaderboard.json", text.encode())
    print("\n".join(show.lines(result)))
    print(run_dir)
    return float(result["groups"][0][result["by"]]["mean"])


def compare(cfg: DictConfig) -> float:
    """Compare, write the results, print them; returns the difference in accuracy, b - a."""
    from hydra.core.hydra_config import HydraConfig

    from emotion_lab.comparison import show
    from emotion_lab.comparison.compare import compare as compared
    from emotion_lab.comparison.sides import runs_of
    from emotion_lab.evaluation.style import both
    from emotion_lab.files import write_whole

    run_dir = Path(HydraConfig.get().runtime.output_dir)
    places = _places(cfg)
    if places:
        return rank(cfg, places, run_dir)
    a, b = runs_of("a", cfg.a), runs_of("b", cfg.b)
    result = compared(a, b, cfg.split, Path(str(cfg.ledger)))
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    write_whole(run_dir / "compare.json", text.encode())
    pictures = both(lambda style: show.figure(result, style), run_dir, "compare")
    show.write_page(run_dir, result, pictures)
    print("\n".join(show.lines(result)))
    print(run_dir)
    return float(result["difference"]["accuracy"])


def main() -> None:
    """Entry point of ``emotion-compare``."""
    config.run("compare", compare, prepare, RESULTS)


if __name__ == "__main__":
    main()
