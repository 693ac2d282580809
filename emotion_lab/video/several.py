"""``live`` with a list of sources: checks, and one runner for each of them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from emotion_lab.core.errors import UserError
from emotion_lab.core.threads import usable_cores
from emotion_lab.video import factory
from emotion_lab.video.multi_runner import MultiRunner, raise_errors
from emotion_lab.video.overlay.overlay import Overlay
from emotion_lab.video.pipeline import Pipeline
from emotion_lab.video.runner import PipelineRunner, progress_bar
from emotion_lab.video.sinks.base import Sink, make_folder
from emotion_lab.video.sinks.jsonl import JsonlSink
from emotion_lab.video.sinks.summary import SummarySink
from emotion_lab.video.sources.several import named, open_all, source_list, source_names
from emotion_lab.video.sources.threaded import FrameSource
from emotion_lab.video.turns import Turns

#: Outputs of which every source gets its own, see :func:`source_config`.
_FILES = ("save", "log", "record")


def source_config(cfg: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the config of one source: its own files of ``save``, ``log`` and ``record``."""
    own = dict(cfg)
    for key in ("save", "log"):
        own[key] = None if own[key] is None else str(named(own[key], name))
    if own["record"] is not None:
        own["record"] = str(Path(str(own["record"])).expanduser() / name)
    return own


def check_several(cfg: DictConfig) -> None:
    """Refuse the keys that need a single source."""
    if cfg.display == "window":
        raise UserError(
            "display=window shows one source: set display=web for a page with all of them, or "
            "display=none."
        )
    if cfg.enrol_save is not None and cfg.enrol is None:
        raise UserError(
            "enrol_save= keeps the face that is measured in front of one source: add enrol=<photo "
            "or clip>, or run that source alone."
        )


def output_files(cfg: Mapping[str, Any], sources: list[str]) -> dict[str, str]:
    """Return the outputs outside of the run directory, by their key and source."""
    if len(sources) == 1:
        return {key: str(cfg[key]) for key in _FILES if cfg[key] is not None}
    files: dict[str, str] = {}
    for name in source_names(sources):
        own = source_config(cfg, name)
        files |= {f"{key} of {name}": own[key] for key in _FILES if own[key] is not None}
    return files


def _build_runner(
    cfg: dict[str, Any],
    source: FrameSource,
    pipeline: Pipeline,
    overlay: Overlay,
    save: Sink | None,
    folder: Path,
    turns: Turns,
) -> PipelineRunner:
    """Build the runner of one source, whose files without a key of their own are in ``folder``."""
    sinks = [] if save is None else [save]
    if cfg["summary"]:
        sinks.append(SummarySink(folder, pipeline.classes, cfg["overwrite"]))
    recording = factory.build_recording_sink(cfg, source, pipeline, folder)
    if recording is not None:
        sinks.insert(0, recording)
    log = cfg["log"] or (folder / "live.jsonl" if cfg["display"] == "web" else None)
    if log:
        sinks.insert(0, JsonlSink(log, pipeline.classes, cfg["overwrite"]))
    return PipelineRunner(source, pipeline, overlay, sinks, turns=turns)


def _build_runners(
    cfg: dict[str, Any], sources: dict[str, FrameSource], run_dir: Path
) -> dict[str, PipelineRunner]:
    """Load the model once and build a runner for each source; all share detector and model."""
    configs = {name: source_config(cfg, name) for name in sources}
    # Before the model is loaded, which takes seconds.
    saves = {
        name: factory.build_save_sink(configs[name], source) if cfg["save"] else None
        for name, source in sources.items()
    }
    model = factory.build_recognizer(cfg)
    factory.print_model(cfg, model)
    overlay = factory.build_overlay(cfg, model.classes)
    turns = Turns(usable_cores())
    runners = {}
    for name, source in sources.items():
        folder = run_dir / name
        make_folder(folder, "Set hydra.run.dir=<folder>.")
        pipeline = model.pipeline(stills=False, synthetic=bool(source.truth))
        own = (overlay.clone(), saves[name], folder, turns)
        runners[name] = _build_runner(configs[name], source, pipeline, *own)
    return runners


def run_several(cfg: dict[str, Any], run_dir: Path, note: str = "") -> None:
    """Run all sources of ``cfg["source"]`` until they end, or Ctrl-C.

    Args:
        cfg: The config of ``live``; ``display`` is ``web`` or ``none``.
        note: Printed on standard error once the model is loaded.

    Raises:
        LostSourcesError: At the end, if some sources were lost.
    """
    from emotion_lab.video.web import server

    names = source_list(cfg["source"])
    sources = dict(zip(source_names(names), open_all(cfg, names), strict=True))
    with contextlib.ExitStack() as stack:
        for source in sources.values():
            stack.enter_context(source)
        if cfg["display"] == "web":
            server_socket = stack.enter_context(server.bind(cfg["web"]))
        runners = _build_runners(cfg, sources, run_dir)
        sys.stderr.write(note)
        if cfg["display"] == "web":
            server.serve(runners, cfg["web"], run_dir, server_socket)
            return
        multi = MultiRunner(runners)
        counts = [source.count for source in sources.values()]
        total = sum(count or 0 for count in counts) if all(counts) else None
        try:
            with progress_bar(f"{len(sources)} sources", total) as on_frame:
                multi.run(on_frame)
        finally:
            # Also after Ctrl-C: the files are complete.
            for name, runner in runners.items():
                print(f"{name}: " + "; ".join(runner.stats.summary_lines(stills=False)))
            for key, file in output_files(cfg, names).items():
                if Path(file).exists():
                    print(f"{key}: {file}")
            print(run_dir, flush=True)
        raise_errors(multi.errors, len(runners))
