"""Export a checkpoint: ``python -m emotion_lab.export ckpt=<run> format=onnx``."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from emotion_lab.cli import app
from emotion_lab.config import compose
from emotion_lab.core import paths

RESULTS = ("certificate.json",)


def validate(cfg: DictConfig, overrides: list[str]) -> list[str]:
    """Run the fast checks, before Hydra creates the run directory."""
    from emotion_lab.inference.conversion.base import select_formats

    paths.check_checkpoint(cfg.ckpt)
    select_formats(str(cfg.format), str(cfg.precision), cfg.batch)
    paths.check_exist({"data.path": cfg.data.path})
    if not compose.is_multirun(cfg.hydra):
        paths.check_fresh(str(cfg.hydra.run.dir), *RESULTS)
    return []


def export(cfg: DictConfig) -> None:
    """Write the requested files and their certificates."""
    from hydra.core.hydra_config import HydraConfig

    from emotion_lab.exporters.run import export_checkpoint
    from emotion_lab.training.fit import quiet

    quiet()
    export_checkpoint(compose.to_container(cfg), Path(HydraConfig.get().runtime.output_dir))


def main() -> None:
    """Entry point of ``emotion-lab export``."""
    app.run("export", export, validate, RESULTS)


if __name__ == "__main__":
    main()
