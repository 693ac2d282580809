"""Compare two models on the same images: ``python -m emotion_lab.compare a=<run> b=<run>``."""

from __future__ import annotations

import json
from pathlib import Path

from omegaconf import DictConfig

from emotion_lab import checks, config

RESULTS = ("compare.json",)


def prepare(cfg: DictConfig, overrides: list[str]) -> list[str]:
    """Read both sides, which takes no second, before Hydra makes the run folder."""
    from emotion_lab.comparison.sides import read_sides, runs_of

    read_sides(runs_of("a", cfg.a), runs_of("b", cfg.b), cfg.split)
    if not str(cfg.hydra.mode or "").endswith("MULTIRUN"):
        checks.check_fresh(str(cfg.hydra.run.dir), *RESULTS)
    return []


def compare(cfg: DictConfig) -> float:
    """Compare, write the results, print them; returns the difference in accuracy, b - a."""
    from hydra.core.hydra_config import HydraConfig

    from emotion_lab.comparison import show
    from emotion_lab.comparison.compare import compare as compared
    from emotion_lab.comparison.sides import runs_of
    from emotion_lab.evaluation.style import both
    from emotion_lab.files import write_whole

    run_dir = Path(HydraConfig.get().runtime.output_dir)
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
