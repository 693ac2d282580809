"""Classify faces of a camera or video: ``python -m emotion_lab.live ckpt=<run> source=0``."""

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
    """Run the fast checks before Hydra creates the run directory."""
    from emotion_lab.temporal.smoother_file import check_smoother
    from emotion_lab.video.enrolment import check_enrolment
    from emotion_lab.video.overlay.translations import load_translations
    from emotion_lab.video.several import check_several, output_files
    from emotion_lab.video.sources.several import source_list
    from emotion_lab.video.web.address import check_secret

    paths.check_checkpoint(cfg.ckpt, exported=True)
    paths.check_exist({"detector.file": cfg.detector.get("file")})
    load_translations(str(cfg.language), ())
    sources = source_list(cfg.source)
    if len(sources) > 1:
        check_several(cfg)
    files = output_files(cfg, sources)
    paths.check_apart({**_source_keys(sources), "ckpt": cfg.ckpt}, files)
    _check_record(cfg)
    check_enrolment(cfg)
    check_smoother(cfg)
    if cfg.display == "web":
        check_secret(cfg.web)
    for key, file in files.items():
        if not key.startswith("record"):
            _check_file(key, Path(file).expanduser(), cfg)
    paths.check_folder(str(cfg.hydra.run.dir))
    return []


def _source_keys(sources: list[str]) -> dict[str, str]:
    """Return the sources by the key or the position that an error names."""
    if len(sources) == 1:
        return {"source": sources[0]}
    return {f"source {number}": name for number, name in enumerate(sources, start=1)}


def _check_file(key: str, path: Path, cfg: DictConfig) -> None:
    """Check the path of ``save=`` or ``log=``; ``key`` may also name the source."""
    from emotion_lab.data.images import is_image_name

    if path.is_file() and not cfg.overwrite:
        raise UserError(f"{key}={path} exists already: use another path or overwrite=true.")
    is_log = key.startswith("log")
    if is_log and path.is_dir():
        raise UserError(f"{key}={path} is a folder. Give the path of a file.")
    # The folder of a photo and save=<folder> are created, that of a video or a log is not.
    is_file = is_log or (path.suffix and not is_image_name(path))
    if is_file and not path.parent.is_dir():
        raise UserError(f"{key}={path}: folder {path.parent} does not exist. Create it first.")


def _check_record(cfg: DictConfig) -> None:
    """Check ``record=`` and the keys that cannot be combined with it."""
    if cfg.record is None:
        return
    folder = Path(str(cfg.record)).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"record={cfg.record} exists and is not empty: name a new folder.")
    if cfg.anonymize != "none":
        raise UserError(
            f"record={cfg.record} keeps recognisable faces, which anonymize={cfg.anonymize} "
            "forbids: use save= to keep the anonymised video, or set anonymize=none."
        )
    if cfg.loop:
        raise UserError("record= keeps every frame once: set loop=false.")


def choose_display(display: str, num_sources: int) -> tuple[str, str]:
    """Return ``window``, ``web`` or ``none``, and a line to print once the model is loaded.

    ``auto`` becomes ``web`` if there is no window.
    """
    from emotion_lab.video.sinks.window import window_problem

    if display not in ("auto", "window"):
        return display, ""
    problem = "a window shows one source" if num_sources > 1 else window_problem()
    if problem is None:
        return "window", ""
    if display == "window":
        raise UserError(f"Cannot show a window: {problem}, or set display=web.")
    return "web", f"display: web, because {problem}\n"


def run_live(cfg: dict[str, Any], run_dir: Path) -> None:
    """Run until all sources end, the window is closed or Ctrl-C."""
    from emotion_lab.video import factory
    from emotion_lab.video.runner import PipelineRunner, progress_bar
    from emotion_lab.video.sinks.base import Sink
    from emotion_lab.video.sinks.jsonl import JsonlSink
    from emotion_lab.video.sinks.summary import SummarySink
    from emotion_lab.video.sinks.window import WindowSink
    from emotion_lab.video.sources.open import open_source
    from emotion_lab.video.sources.several import source_list

    sources = source_list(cfg["source"])
    display, note = choose_display(cfg["display"], len(sources))
    if len(sources) > 1:
        from emotion_lab.video.several import run_several

        run_several({**cfg, "display": display}, run_dir, note)
        return
    cfg = {**cfg, "source": sources[0]}
    with open_source(cfg) as source, contextlib.ExitStack() as stack:
        factory.check_recordable(cfg, source)
        if display == "web":
            from emotion_lab.video.web import server

            server_socket = stack.enter_context(server.bind(cfg["web"]))
        # Before the model is loaded, which takes seconds.
        sinks: list[Sink] = [factory.build_save_sink(cfg, source)] if cfg["save"] else []
        pipeline = factory.build_pipeline(cfg, source.stills, bool(source.truth))
        sys.stderr.write(note)
        overlay = factory.build_overlay(cfg, pipeline.classes)
        if cfg["summary"] and not source.stills:
            sinks.append(SummarySink(run_dir, pipeline.classes, cfg["overwrite"]))
        recording = factory.build_recording_sink(cfg, source, pipeline, run_dir)
        if recording is not None:
            sinks.insert(0, recording)
        log = cfg["log"] or (run_dir / "live.jsonl" if display == "web" else None)
        if log:
            # Built last, because it empties an existing log: no later step may fail.
            sinks.insert(0, JsonlSink(log, pipeline.classes, cfg["overwrite"]))
        if display == "window":
            sinks.append(WindowSink(folder=run_dir, checked=True, on_neutral=pipeline.enrol))
        runner = PipelineRunner(source, pipeline, overlay, sinks)
        if display == "web":
            server.serve({source.name: runner}, cfg["web"], run_dir, server_socket)
            return
        try:
            total = source.count if display == "none" else None
            with progress_bar(source.name, total) as on_frame:
                runner.run(on_frame)
        finally:
            # Also after Ctrl-C or a disconnected camera: the files are complete.
            print("\n".join(runner.stats.summary_lines(source.stills)))
            for key in ("log", "save", "record"):
                if cfg[key] and Path(str(cfg[key])).expanduser().exists():
                    print(f"{key}: {cfg[key]}")
            if source.kind == "recording":
                print(f"compare: python -m emotion_lab.compare run_a={source.name} run_b={run_dir}")
            print(run_dir, flush=True)


def live(cfg: DictConfig) -> None:
    """Run the composed ``live`` config."""
    from hydra.core.hydra_config import HydraConfig

    with distributed.stoppable():
        run_live(compose.to_container(cfg), Path(HydraConfig.get().runtime.output_dir))


def main() -> None:
    """Entry point of ``emotion-lab live``."""
    app.run("live", live, validate)


if __name__ == "__main__":
    main()
