"""Evaluate a checkpoint: ``python -m emotion_lab.evaluate ckpt=<run> split=val``."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from emotion_lab.cli import app
from emotion_lab.config import compose
from emotion_lab.config.overrides import quote
from emotion_lab.core import paths, runs, weights
from emotion_lab.core.errors import UserError
from emotion_lab.evaluation.dataset_list import check_datasets

#: Results of an evaluation; a run directory that holds one is refused.
RESULTS = ("metrics.json", "report.html", "mistakes", "cross_dataset.json")


def validate(cfg: DictConfig, overrides: list[str]) -> list[str]:
    """Check the command before Hydra creates the run directory; return further overrides."""
    paths.check_checkpoint(cfg.ckpt, several=True)
    if cfg.rescore:
        return _check_rescore(cfg, overrides)
    if cfg.calibrate:
        _check_calibrate(cfg)
    _check_backend(cfg)
    paths.check_exist({"face_detector_file": cfg.face_detector_file})
    if cfg.datasets is not None:
        _check_datasets(cfg)
    if not compose.is_multirun(cfg.hydra):
        paths.check_fresh(str(cfg.hydra.run.dir), *RESULTS)
    return []


def _check_rescore(cfg: DictConfig, overrides: list[str]) -> list[str]:
    """Check ``rescore=true``: one finished run, and no option that changes its predictions."""
    reason = "rescore=true recreates the val predictions of train"
    compose.check_unchanged(cfg, overrides, reason, groups=("rescore", "split", "trainer"))
    folders = [Path(path) for path in paths.as_list(cfg.ckpt)]
    if cfg.split != "val" or len(folders) > 1 or not runs.is_run(folders[0]):
        raise UserError(
            "rescore=true writes predictions_val.csv of one finished run of train: give "
            "ckpt=<its run directory>, split=val."
        )
    if compose.is_multirun(cfg.hydra):
        raise UserError("rescore=true writes into the directory of one run: remove -m.")
    run_dir = quote(str(folders[0]), interpolate=True)
    return [f"hydra.run.dir={run_dir}", "hydra.output_subdir=null"]


def _check_calibrate(cfg: DictConfig) -> None:
    """Check ``calibrate=true``: one checkpoint, on the full val split of its own data."""
    if cfg.split != "val" or cfg.tta != "none":
        raise UserError(
            "calibrate=true fits on val, never on test or train, and without test-time "
            "augmentation, which live does not use: set split=val tta=none."
        )
    if cfg.data.name != "checkpoint" or len(paths.as_list(cfg.ckpt)) > 1 or cfg.data.limit:
        raise UserError(
            "calibrate=true fits one checkpoint on all of its own val split: give one ckpt "
            "and no other data."
        )
    if weights.is_name(paths.as_list(cfg.ckpt)[0]):
        raise UserError(
            f"calibrate=true writes into the checkpoint, and {cfg.ckpt} is a shipped one: copy "
            f"{weights.FOLDER / 'fer2013.ckpt'} and set ckpt=<the copy>."
        )


def _check_datasets(cfg: DictConfig) -> None:
    """Check ``datasets=[...]``: existing data, every dataset once."""
    if cfg.calibrate or cfg.data.name != "checkpoint" or cfg.data.path:
        raise UserError(
            "datasets= names the data: remove data=, data.path= and calibrate=. The data of the "
            "training run is datasets=[checkpoint,...]."
        )
    if not paths.as_list(cfg.datasets):
        raise UserError("datasets is empty: give folders and CSV files, datasets=[<data>,<data>].")
    check_datasets(paths.as_list(cfg.datasets))


def _check_backend(cfg: DictConfig) -> None:
    """Check the inference backend and its options."""
    name = cfg.backend.name
    if name == "torch":
        for key in ("precision", "device", "threads"):
            if cfg.backend[key] not in (None, "auto"):
                raise UserError(
                    f"backend.{key}={cfg.backend[key]} does not apply: backend=torch runs in "
                    "float32, on the device of trainer=cpu or trainer=gpu."
                )
        return
    if len(paths.as_list(cfg.ckpt)) > 1:
        raise UserError(
            f"backend={name} runs one file: python -m emotion_lab.ensemble makes one of several "
            "runs. Or set backend=torch."
        )
    if cfg.calibrate:
        raise UserError("calibrate=true fits the predictions of PyTorch: set backend=torch.")
    if cfg.tta == "tencrop":
        raise UserError(
            f"tta=tencrop interpolates pixels, but backend={name} takes uint8 images: set "
            "backend=torch, or tta=flip."
        )


def evaluate(cfg: DictConfig) -> float:
    """Evaluate, write the results and the report; return the accuracy."""
    from hydra.core.hydra_config import HydraConfig

    from emotion_lab.experiments.run.evaluation import run_evaluation

    hydra_cfg = HydraConfig.get()
    run_dir, overrides = Path(hydra_cfg.runtime.output_dir), list(hydra_cfg.overrides.task)
    return run_evaluation(compose.to_container(cfg), overrides, run_dir)


def main() -> None:
    """Entry point of ``emotion-lab evaluate``."""
    app.run("evaluate", evaluate, validate, RESULTS)


if __name__ == "__main__":
    main()
