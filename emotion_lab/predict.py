"""Say what is in photos and clips: ``python -m emotion_lab.predict ckpt=<run> source=<photo>``."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from emotion_lab import checks, config, processes
from emotion_lab.command_line import quote
from emotion_lab.errors import UserError


def prepare(cfg: DictConfig, overrides: list[str]) -> list[str]:
    """Check what is cheap to check, before Hydra makes the run folder."""
    from emotion_lab.faces.words import load_words

    checks.check_checkpoint(cfg.ckpt, exported=True)
    if cfg.source is None:
        raise UserError("source is missing: give an image, a folder or a clip, source=<path>.")
    name = str(cfg.source)
    if name.isdecimal() or "://" in name or name.startswith("/dev/"):
        raise UserError(f"source={name} has no end: use python -m emotion_lab.live source={name}.")
    checks.check_exist({"detector.file": cfg.detector.get("file")})
    load_words(str(cfg.language), ())
    folder = Path(str(cfg.hydra.run.dir if cfg.out is None else cfg.out))
    if (folder / "predictions.jsonl").exists() and not cfg.overwrite:
        raise UserError(
            f"{folder / 'predictions.jsonl'} exists already: name another folder, out=<folder>, "
            "or set overwrite=true."
        )
    outputs = {"out": folder / "predictions.jsonl", "save": cfg.save}
    checks.check_apart({"source": cfg.source, "ckpt": cfg.ckpt}, outputs)
    checks.check_folder(folder, "hydra.run.dir" if cfg.out is None else "out")
    return [] if cfg.out is None else [f"hydra.run.dir={quote(str(cfg.out))}"]


def predict(cfg: DictConfig) -> None:
    """Look at every image or frame, leave ``predictions.jsonl``."""
    from hydra.core.hydra_config import HydraConfig

    from emotion_lab.faces import build
    from emotion_lab.faces.session import Session, progress
    from emotion_lab.faces.sinks.base import Sink
    from emotion_lab.faces.sinks.jsonl import JsonlSink
    from emotion_lab.faces.sinks.printed import PrintedSink

    plain = config.plain(cfg)
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    source = build.build_source(plain)
    with processes.stoppable(), source:
        pipeline = build.build_pipeline(plain, source.stills)
        path = run_dir / "predictions.jsonl"
        sinks: list[Sink] = []
        overlay = None
        if plain["save"]:
            overlay = build.build_overlay(plain, pipeline.classes)
            sinks.append(build.build_save(plain, source))
        if source.stills:
            sinks.append(PrintedSink(pipeline.classes))
        # Last: it empties a file that may be replaced, so nothing may go wrong any more.
        sinks.insert(0, JsonlSink(path, pipeline.classes, plain["overwrite"]))
        session = Session(source, pipeline, overlay, sinks, {"detector": pipeline.detector.name})
        bar, every = progress(source.name, source.count)
        try:
            with bar:
                session.run(every)
        finally:
            print("\n".join(session.report.lines(source.stills)))
            print(run_dir, flush=True)


def main() -> None:
    """Entry point of ``emotion-predict``."""
    config.run("predict", predict, prepare)


if __name__ == "__main__":
    main()
