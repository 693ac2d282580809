"""Look at the data before anyone trains: ``python -m emotion_lab.audit data=fer2013``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from emotion_lab import checks, config
from emotion_lab.errors import UserError

RESULTS = ("audit.json",)


def prepare(cfg: DictConfig, overrides: list[str]) -> list[str]:
    """Check what is cheap to check, before Hydra makes the run folder."""
    if cfg.ckpt is not None and cfg.predictions is not None:
        raise UserError("ckpt and predictions both say what to examine labels with: give one.")
    if cfg.ckpt is not None:
        checks.check_checkpoint(cfg.ckpt)
    path = None if cfg.data.get("download") else cfg.data.get("path")
    paths = {
        "data.path": path,
        "data.drop": cfg.data.get("drop"),
        "data.relabel": cfg.data.get("relabel"),
        "data.votes": cfg.data.get("votes"),
        "faces_file": cfg.faces_file,
    }
    checks.check_exist(paths)
    if cfg.predictions is not None:
        from emotion_lab.auditing.doubts import find_predictions

        find_predictions(checks.paths(cfg.predictions))
    if not str(cfg.hydra.mode or "").endswith("MULTIRUN"):
        checks.check_fresh(str(cfg.hydra.run.dir), *RESULTS)
    return []


def _predictions(
    cfg: dict[str, Any], classes: list[str], run_dir: Path
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the predictions that ``ckpt`` or ``predictions`` give, and where they come from."""
    from emotion_lab.auditing import doubts

    if cfg["ckpt"] is not None:
        table = doubts.predict_val(cfg["ckpt"], cfg["data"], classes, run_dir / "val")
        return [table], [str(cfg["ckpt"])]
    files = doubts.find_predictions(checks.paths(cfg["predictions"]))
    return [doubts.read_predictions(file, classes) for file in files], [str(f) for f in files]


def audit(cfg: DictConfig) -> float:
    """Look, write the run folder, print a table.

    Returns:
        How many groups of byte-identical images cross splits.
    """
    from hydra.core.hydra_config import HydraConfig

    from emotion_lab.auditing.doubts import find_doubts
    from emotion_lab.auditing.faces import find_detector
    from emotion_lab.auditing.look import look, open_all
    from emotion_lab.auditing.report import examine, summary

    run_dir = Path(HydraConfig.get().runtime.output_dir)
    plain = config.plain(cfg)
    # What may be wrong with the command is told before the images are read.
    detector = find_detector(plain["faces"], plain["faces_file"])
    source = open_all(plain["data"])
    for note in source.notes:
        print(f"  {note}")
    predictions, files = _predictions(plain, source.classes, run_dir)
    looked = look(source, plain["data"])
    doubts = find_doubts(looked, predictions, files) if files else None
    report = examine(looked, plain, doubts, detector, run_dir)
    print("\n" + summary(report))
    print(run_dir)
    return float(report["duplicates"]["identical_groups_across_splits"])


def main() -> None:
    """Entry point of ``emotion-audit``."""
    config.run("audit", audit, prepare, RESULTS)


if __name__ == "__main__":
    main()
