"""Look at the data before anyone trains: ``python -m emotion_lab.audit data=fer2013``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from emotion_lab.cli import app
from emotion_lab.config import compose
from emotion_lab.core import paths
from emotion_lab.core.errors import UserError

RESULTS = ("audit.json",)


def validate(cfg: DictConfig, overrides: list[str]) -> list[str]:
    """Check what is cheap to check, before Hydra makes the run folder."""
    if cfg.ckpt is not None and cfg.predictions is not None:
        raise UserError("ckpt and predictions both say what to examine labels with: give one.")
    if cfg.ckpt is not None:
        paths.check_checkpoint(cfg.ckpt)
    path = None if cfg.data.get("download") else cfg.data.get("path")
    required = {
        "data.path": path,
        "data.drop_csv": cfg.data.get("drop_csv"),
        "data.relabel_csv": cfg.data.get("relabel_csv"),
        "data.ferplus_csv": cfg.data.get("ferplus_csv"),
        "face_detector_file": cfg.face_detector_file,
    }
    paths.check_exist(required)
    if cfg.predictions is not None:
        from emotion_lab.audits.label_issues import find_predictions

        find_predictions(paths.as_list(cfg.predictions))
    if not str(cfg.hydra.mode or "").endswith("MULTIRUN"):
        paths.check_fresh(str(cfg.hydra.run.dir), *RESULTS)
    return []


def _predictions(
    cfg: dict[str, Any], classes: list[str], run_dir: Path
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the predictions that ``ckpt`` or ``predictions`` give, and where they come from."""
    from emotion_lab.audits import label_issues

    if cfg["ckpt"] is not None:
        table = label_issues.predict_val(cfg["ckpt"], cfg["data"], classes, run_dir / "val")
        return [table], [str(cfg["ckpt"])]
    files = label_issues.find_predictions(paths.as_list(cfg["predictions"]))
    return [label_issues.read_predictions(file, classes) for file in files], [str(f) for f in files]


def audit(cfg: DictConfig) -> float:
    """Look, write the run folder, print a table.

    Returns:
        How many groups of byte-identical images cross splits.
    """
    from hydra.core.hydra_config import HydraConfig

    from emotion_lab.audits.image_stats import open_all_splits, scan_images
    from emotion_lab.audits.label_issues import find_label_issues
    from emotion_lab.audits.no_face import find_detector
    from emotion_lab.audits.run import examine, summary

    run_dir = Path(HydraConfig.get().runtime.output_dir)
    plain = compose.to_container(cfg)
    # What may be wrong with the command is told before the images are read.
    detector = find_detector(plain["face_detector"], plain["face_detector_file"])
    source = open_all_splits(plain["data"])
    for note in source.notes:
        print(f"  {note}")
    predictions, files = _predictions(plain, source.classes, run_dir)
    looked = scan_images(source, plain["data"])
    doubts = find_label_issues(looked, predictions, files) if files else None
    report = examine(looked, plain, doubts, detector, run_dir)
    print("\n" + summary(report))
    print(run_dir)
    return float(report["duplicates"]["identical_groups_across_splits"])


def main() -> None:
    """Entry point of ``emotion-audit``."""
    app.run("audit", audit, validate, RESULTS)


if __name__ == "__main__":
    main()
