"""Audit a dataset before training: ``python -m emotion_lab.audit data=fer2013``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from emotion_lab.cli import app
from emotion_lab.config import compose
from emotion_lab.core import paths
from emotion_lab.core.errors import UserError

if TYPE_CHECKING:
    from emotion_lab.data.types import LoadedDataset

RESULTS = ("audit.json",)


def validate(cfg: DictConfig, overrides: list[str]) -> list[str]:
    """Check arguments and paths before Hydra creates the run directory."""
    if cfg.ckpt is not None and cfg.predictions is not None:
        raise UserError("ckpt and predictions are two sources of predictions: give only one.")
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
    if not compose.is_multirun(cfg.hydra):
        paths.check_fresh(str(cfg.hydra.run.dir), *RESULTS)
    return []


def _predictions(
    cfg: dict[str, Any], source: LoadedDataset, run_dir: Path
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the predictions from ``ckpt`` or ``predictions``, and the files they come from."""
    from emotion_lab.audits import label_issues

    if cfg["ckpt"] is not None:
        arguments = (cfg["ckpt"], cfg["data"], source.classes, run_dir / "val", source.notes)
        table, notes = label_issues.predict_val(*arguments)
        for note in notes:
            print(f"  {note}")
        source.notes += notes
        return [table], [str(cfg["ckpt"])]
    files = label_issues.find_predictions(paths.as_list(cfg["predictions"]))
    return [label_issues.read_predictions(file, source.classes) for file in files], [
        str(f) for f in files
    ]


def audit(cfg: DictConfig) -> float:
    """Run the audit, write the run directory and print the summary.

    Returns:
        Number of groups of identical images across splits.
    """
    from hydra.core.hydra_config import HydraConfig

    from emotion_lab.audits import result as audit_result
    from emotion_lab.audits.image_stats import open_all_splits, scan_images
    from emotion_lab.audits.label_issues import find_label_issues
    from emotion_lab.audits.no_face import build_face_detector
    from emotion_lab.audits.run import summary, write_run
    from emotion_lab.core import tables

    run_dir = Path(HydraConfig.get().runtime.output_dir)
    container = compose.to_container(cfg)
    # Before the images are read, so that a wrong argument is reported at once.
    detector = build_face_detector(container["face_detector"], container["face_detector_file"])
    source = open_all_splits(container["data"])
    for note in source.notes:
        print(f"  {note}")
    predictions, files = _predictions(container, source, run_dir)
    stats = scan_images(source, container["data"])
    label_issues = find_label_issues(stats, predictions, files) if files else None
    result = audit_result.run_checks(stats, container, label_issues, detector)
    report = audit_result.build_report(result, container)
    write_run(run_dir, result, report, container["num_shown"])
    tables.show(*summary(report), f"report: {run_dir / 'audit.html'}", str(run_dir))
    return float(report["duplicates"]["identical_groups_across_splits"])


def main() -> None:
    """Entry point of ``emotion-lab audit``."""
    app.run("audit", audit, validate, RESULTS)


if __name__ == "__main__":
    main()
