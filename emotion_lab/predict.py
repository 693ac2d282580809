"""Classify faces in images and videos: ``python -m emotion_lab.predict ckpt=... source=...``."""

from __future__ import annotations

import os
from pathlib import Path

from omegaconf import DictConfig

from emotion_lab.cli import app
from emotion_lab.config import compose
from emotion_lab.config.overrides import quote
from emotion_lab.core import distributed, extras, paths
from emotion_lab.core.errors import UserError


def validate(cfg: DictConfig, overrides: list[str]) -> list[str]:
    """Run the fast checks, before Hydra creates the run directory."""
    from emotion_lab.temporal.smoother_file import check_smoother
    from emotion_lab.video.batch.checks import check_cluster, check_results
    from emotion_lab.video.enrolment import check_enrolment
    from emotion_lab.video.overlay.translations import load_translations

    paths.check_checkpoint(cfg.ckpt, exported=True)
    if cfg.source is None:
        raise UserError("source is missing: set an image, a folder or a video, source=<path>.")
    name = str(cfg.source)
    has_no_end = name.isdecimal() or "://" in name or name.startswith("/dev/")
    if has_no_end and not name.startswith("s3://"):
        raise UserError(f"source={name} has no end: use python -m emotion_lab.live source={name}.")
    if cfg.engine.name == "ray":
        extras.require("ray", "engine=ray")
        check_cluster(os.environ.get("RAY_ADDRESS", ""))
    paths.check_exist({"detector.file": cfg.detector.get("file")})
    check_enrolment(cfg)
    check_smoother(cfg)
    load_translations(str(cfg.language), ())
    folder = Path(str(cfg.hydra.run.dir if cfg.out is None else cfg.out))
    outputs = check_results(cfg, folder)
    paths.check_apart({"source": cfg.source, "ckpt": cfg.ckpt}, {**outputs, "save": cfg.save})
    paths.check_folder(folder, "hydra.run.dir" if cfg.out is None else "out")
    return [] if cfg.out is None else [f"hydra.run.dir={quote(str(cfg.out))}"]


def predict(cfg: DictConfig) -> None:
    """Classify the faces of every image or frame and write the results."""
    from hydra.core.hydra_config import HydraConfig

    from emotion_lab.video.batch.listing import is_many
    from emotion_lab.video.batch.run import predict_files, predict_one

    plain = compose.to_container(cfg)
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    with distributed.stoppable():
        run = predict_files if is_many(str(plain["source"])) else predict_one
        run(plain, run_dir)


def main() -> None:
    """Entry point of ``emotion-lab predict``."""
    app.run("predict", predict, validate)


if __name__ == "__main__":
    main()
