"""Watch faces: ``python -m emotion_lab.live ckpt=<run> source=0``."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from emotion_lab.cli import app
from emotion_lab.config import compose
from emotion_lab.core import distributed, paths
from emotion_lab.core.errors import UserError


def validate(cfg: DictConfig, overrides: list[str]) -> list[str]:
    """Check what is cheap to check, before Hydra makes the run folder."""
    from emotion_lab.video.overlay.translations import load_words

    paths.check_checkpoint(cfg.ckpt, exported=True)
    paths.check_exist({"detector.file": cfg.detector.get("file")})
    load_words(str(cfg.language), ())
    paths.check_apart({"source": cfg.source, "ckpt": cfg.ckpt}, {"save": cfg.save, "log": cfg.log})
    for key in ("save", "log"):
        path = None if cfg[key] is None else Path(str(cfg[key])).expanduser()
        if path is not None and path.is_file() and not cfg.overwrite:
            raise UserError(f"{key}={path} exists already: name another or set overwrite=true.")
        # A folder for pictures is made.
        if path is not None and (key == "log" or path.suffix) and not path.parent.is_dir():
            raise UserError(f"{key}={path}: there is no folder {path.parent}. Make it first.")
    paths.check_folder(str(cfg.hydra.run.dir))
    return []


def choose_display(wanted: str) -> str:
    """Return ``window``, ``web`` or ``none``; says so where ``auto`` cannot open a window.

    Raises:
        UserError: If a window is asked for and none can be opened.
    """
    from emotion_lab.video.sinks.window import gui_reason

    if wanted not in ("auto", "window"):
        return wanted
    reason = gui_reason()
    if reason is None:
        return "window"
    if wanted == "window":
        raise UserError(f"Cannot show a window: {reason}.")
    print(f"display: web, because {reason}", file=sys.stderr)
    return "web"


def watch(cfg: dict[str, Any], run_dir: Path) -> None:
    """Run until the source ends, the window is closed or Ctrl-C.

    Raises:
        UserError: For a source, checkpoint, detector or file that cannot be used.
    """
    from emotion_lab.video import factory
    from emotion_lab.video.runner import PipelineRunner, progress
    from emotion_lab.video.sinks.base import Sink
    from emotion_lab.video.sinks.jsonl import JsonlSink
    from emotion_lab.video.sinks.summary import SummarySink
    from emotion_lab.video.sinks.window import WindowSink

    display = choose_display(cfg["display"])
    source = factory.build_source(cfg)
    with source, contextlib.ExitStack() as stack:
        if display == "web":
            from emotion_lab.video.web import server as web

            taken = stack.enter_context(web.take(cfg["web"]))
        pipeline = factory.build_pipeline(cfg, source.stills)
        overlay = factory.build_overlay(cfg, pipeline.classes)
        sinks: list[Sink] = []
        if cfg["save"]:
            sinks.append(factory.build_save(cfg, source))
        if cfg["summary"] and not source.stills:
            sinks.append(SummarySink(run_dir, pipeline.classes, cfg["overwrite"]))
        if cfg["log"]:
            # Last: it empties a file that may be replaced, so nothing may go wrong any more.
            sinks.insert(0, JsonlSink(cfg["log"], pipeline.classes, cfg["overwrite"]))
        if display == "window":
            sinks.append(WindowSink(folder=run_dir, checked=True))
        info = {"detector": pipeline.detector.name}
        session = PipelineRunner(source, pipeline, overlay, sinks, info)
        if display == "web":
            web.serve(session, cfg["web"], run_dir, taken)
        else:
            bar, every = progress(source.name, source.count if display == "none" else None)
            try:
                with bar:
                    session.run(every)
            finally:
                # Also on Ctrl-C or a camera that went away: what was seen is kept.
                print("\n".join(session.report.lines(source.stills)))
                for key in ("log", "save"):
                    if cfg[key] and Path(str(cfg[key])).expanduser().exists():
                        print(f"{key}: {cfg[key]}")
                print(run_dir, flush=True)


def live(cfg: DictConfig) -> None:
    """Watch, as the composed ``live`` config says."""
    from hydra.core.hydra_config import HydraConfig

    with distributed.stoppable():
        watch(compose.to_container(cfg), Path(HydraConfig.get().runtime.output_dir))


def main() -> None:
    """Entry point of ``emotion-live``."""
    app.run("live", live, validate)


if __name__ == "__main__":
    main()
