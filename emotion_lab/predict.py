"""Classify faces in images and videos: ``python -m emotion_lab.predict ckpt=... source=...``."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from emotion_lab.cli import app
from emotion_lab.config import compose
from emotion_lab.config.overrides import quote
from emotion_lab.core import distributed, paths
from emotion_lab.core.errors import UserError


def validate(cfg: DictConfig, overrides: list[str]) -> list[str]:
    """Run the fast checks, before Hydra creates the run directory."""
    from emotion_lab.video.enrolment import check_enrolment
    from emotion_lab.video.overlay.translations import load_translations

    paths.check_checkpoint(cfg.ckpt, exported=True)
    if cfg.source is None:
        raise UserError("source is missing: set an image, a folder or a video, source=<path>.")
    name = str(cfg.source)
    if name.isdecimal() or "://" in name or name.startswith("/dev/"):
        raise UserError(f"source={name} has no end: use python -m emotion_lab.live source={name}.")
    paths.check_exist({"detector.file": cfg.detector.get("file")})
    check_enrolment(cfg)
    load_translations(str(cfg.language), ())
    folder = Path(str(cfg.hydra.run.dir if cfg.out is None else cfg.out))
    if (folder / "predictions.jsonl").exists() and not cfg.overwrite:
        raise UserError(
            f"{folder / 'predictions.jsonl'} exists already: name another folder, out=<folder>, "
            "or set overwrite=true."
        )
    outputs = {"out": folder / "predictions.jsonl", "save": cfg.save}
    paths.check_apart({"source": cfg.source, "ckpt": cfg.ckpt}, outputs)
    paths.check_folder(folder, "hydra.run.dir" if cfg.out is None else "out")
    return [] if cfg.out is None else [f"hydra.run.dir={quote(str(cfg.out))}"]


def predict(cfg: DictConfig) -> None:
    """Classify the faces of every image or frame and write ``predictions.jsonl``."""
    from hydra.core.hydra_config import HydraConfig

    from emotion_lab.video import factory
    from emotion_lab.video.runner import PipelineRunner, progress_bar
    from emotion_lab.video.sinks.base import Sink
    from emotion_lab.video.sinks.console import ConsoleSink
    from emotion_lab.video.sinks.jsonl import JsonlSink
    from emotion_lab.video.sources.open import open_source

    plain = compose.to_container(cfg)
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    source = open_source(plain)
    with distributed.stoppable(), source:
        # Before the model is loaded, which takes seconds.
        sinks: list[Sink] = [factory.build_save_sink(plain, source)] if plain["save"] else []
        pipeline = factory.build_pipeline(plain, source.stills, bool(source.truth))
        overlay = factory.build_overlay(plain, pipeline.classes) if plain["save"] else None
        if source.stills:
            sinks.append(ConsoleSink(pipeline.classes))
        # Created last, because it truncates an existing file: nothing may fail afterwards.
        log = JsonlSink(run_dir / "predictions.jsonl", pipeline.classes, plain["overwrite"])
        runner = PipelineRunner(source, pipeline, overlay, [log, *sinks])
        try:
            with progress_bar(source.name, source.count) as on_frame:
                runner.run(on_frame)
        finally:
            print("\n".join(runner.stats.summary_lines(source.stills)))
            print(run_dir, flush=True)


def main() -> None:
    """Entry point of ``emotion-lab predict``."""
    app.run("predict", predict, validate)


if __name__ == "__main__":
    main()
