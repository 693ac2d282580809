"""Deployment benchmark: time networks x backends x precisions x batch sizes x threads."""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emotion_lab.benchmarks.deploy import exports, pareto
from emotion_lab.benchmarks.deploy.candidates import (
    BenchmarkCandidate,
    load_candidates,
    random_candidates,
)
from emotion_lab.benchmarks.deploy.figure import draw
from emotion_lab.core import paths
from emotion_lab.core.environment import cores
from emotion_lab.core.timing import time_interleaved
from emotion_lab.data import contamination
from emotion_lab.data.checkpoint_data import CheckpointData, data_config
from emotion_lab.evaluation.predict import predict
from emotion_lab.inference.backends.auto import CANDIDATES
from emotion_lab.inference.base import BACKENDS, DEFAULTS, BackendUnavailableError, InferenceBackend
from emotion_lab.inference.exported_model import to_rgb_batch
from emotion_lab.reports.style import both

#: Seconds that a variant is called repeatedly in each round.
ROUND_S = 0.1
#: The reference (backend, precision): eager PyTorch.
EAGER = ("torch", "fp32")

Run = Callable[[np.ndarray], np.ndarray]
#: (backend, precision)
Kind = tuple[str, str]
#: (backend, precision, threads)
Variant = tuple[str, str, int]


def size_mb(candidate: BenchmarkCandidate, backend: str, exported: Path | None = None) -> float:
    """Return the size of the files that a backend loads in 10**6 bytes."""
    if backend == "torch":
        buffer = io.BytesIO()
        torch.save(candidate.source.original().state_dict(), buffer)
        return buffer.tell() / 1e6
    if exported is not None:
        openvino = exported.suffix == ".xml"
        files = [exported, exported.with_suffix(".bin")] if openvino else [exported]
    else:
        path = candidate.source.path
        file_format = {"onnxruntime": "onnx"}.get(backend, backend)
        # No glob: the name may contain brackets.
        same_stem = (f for f in path.parent.iterdir() if f.name.startswith(f"{path.stem}."))
        files = [file for file in same_stem if file_format in file.name.split(".")]
    return sum(file.stat().st_size for file in files) / 1e6


def open_backends(
    candidate: BenchmarkCandidate, threads: int
) -> tuple[dict[Kind, InferenceBackend], dict[Kind, str]]:
    """Return the backends that agree with PyTorch, and the reasons why others are unavailable."""
    backends, reasons = {}, {}
    for name, precision in sorted(CANDIDATES, key=lambda kind: kind != EAGER):
        cfg = {**DEFAULTS, "name": name, "device": "cpu", "threads": threads}
        try:
            backends[name, precision] = BACKENDS.get(name)(
                {**cfg, "precision": precision}, candidate.source
            )
        except BackendUnavailableError as error:
            reasons[name, precision] = str(error)
    return backends, reasons


def timed_block(run: Run, images: np.ndarray, threads: int) -> Callable[[], int]:
    """Return a function that calls ``run`` for ROUND_S seconds and returns the image count."""

    def work() -> int:
        torch.set_num_threads(threads)  # a setting of the process, not of a network
        calls, start = 0, time.perf_counter()
        while calls < 2 or time.perf_counter() - start < ROUND_S:
            run(images)
            calls += 1
        return calls * len(images)

    return work


def measure(
    candidate: BenchmarkCandidate,
    backends: Mapping[Variant, InferenceBackend],
    batch_sizes: Sequence[int],
    rounds: int,
    files: Mapping[Kind, Path],
) -> list[dict[str, Any]]:
    """Time all variants of one network in alternation; return the rows of ``bench.json``.

    ``backends`` include eager PyTorch. The median of the rounds is reported, without the warm-up.
    """
    spec = candidate.source.spec
    shape = (max(batch_sizes), spec.channels, spec.image_size, spec.image_size)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    blocks = {}
    for batch_size in batch_sizes:
        for (name, precision, threads), backend in backends.items():
            batch = images[:batch_size].copy()
            if exports.is_exported(name):
                batch = to_rgb_batch(batch)
            key = (name, precision, threads, batch_size)
            blocks[key] = timed_block(backend.run, batch, threads)
    named = {str(key): block for key, block in blocks.items()}
    # A block limits its duration itself.
    rates = time_interleaved(named, rounds, progress=False, at_least=0)
    rows: list[dict[str, Any]] = []
    for (name, precision, threads, batch_size), images_per_s in zip(
        blocks, rates.values(), strict=True
    ):
        ms = 1000 * batch_size / np.asarray(images_per_s)
        median = float(np.median(ms))
        rows.append(
            {
                "model": candidate.name,
                "image_size": spec.image_size,
                "runtime": name,
                "precision": precision,
                "name": backends[name, precision, threads].name,
                "batch": batch_size,
                "threads": threads,
                "ms": round(median, 4),
                "ms_min": round(float(ms.min()), 4),
                "ms_max": round(float(ms.max()), 4),
                "faces_per_s": round(1000 * batch_size / median, 1),
                "size_mb": round(size_mb(candidate, name, files.get((name, precision))), 3),
                "accuracy": candidate.accuracy,
                "agreement": None,
            }
        )
    eager_ms = {(r["threads"], r["batch"]): r["ms"] for r in rows if r["runtime"] == EAGER[0]}
    for row in rows:
        row["ratio"] = round(eager_ms[row["threads"], row["batch"]] / row["ms"], 3)
    return rows


def predict_all(
    candidate: BenchmarkCandidate, runs: Mapping[Kind, Run], num_images: int, path: str | None
) -> dict[Kind, dict[str, float]]:
    """Predict the same images of the checkpoint's val split with every backend.

    Args:
        candidate: A checkpoint.
        runs: Functions of the backends; eager PyTorch among them.
        num_images: Maximum number of images, stratified by class.
        path: ``data.path``, if the data was moved.

    Returns:
        For each backend: ``accuracy``, ``agreement`` (fraction of images with the label of
        PyTorch) and ``n``, the number of images.
    """
    assert candidate.card is not None
    card = candidate.card.get("members", [candidate.card])[0]
    cfg = data_config({"name": "checkpoint", "path": path, "limit": num_images}, card)
    data = CheckpointData.open(candidate.card, cfg, "val")
    seen = contamination.of_card(candidate.card, cfg).seen(data.part)
    text = contamination.warning(seen.summary(), len(data.part))
    if text is not None:
        print(f"  warning: {candidate.name}: {text}")
    predicted, labels = {}, np.zeros(0)
    for kind, run in runs.items():
        predictions = predict(candidate.source.original(), data.loader(), "cpu", run=run)
        predicted[kind] = predictions.logits.numpy().argmax(1)
        labels = predictions.labels.numpy()
    return {
        kind: {
            "accuracy": float((classes == labels).mean()),
            "agreement": float((classes == predicted[EAGER]).mean()),
            "n": len(labels),
        }
        for kind, classes in predicted.items()
    }


def add_scores(rows: list[dict[str, Any]], scores: Mapping[Kind, dict[str, float]]) -> None:
    """Set agreement and accuracy of the rows, in place.

    The training run evaluated PyTorch on all of val. The accuracy of another backend is that
    accuracy plus its difference to PyTorch on the images of ``scores``.
    """
    eager = scores[EAGER]["accuracy"]
    for row in rows:
        score = scores[row["runtime"], row["precision"]]
        accuracy = eager if row["accuracy"] is None else row["accuracy"]
        row["accuracy"] = round(accuracy + score["accuracy"] - eager, 6)
        row["agreement"], row["n"] = score["agreement"], score["n"]


def _logits(backend: str, run: Run, num_classes: int) -> Run:
    """Return a function of uint8 (B, C, S, S) with the same class ranking as ``run``."""
    if not exports.is_exported(backend):
        return lambda images: run(images)[:, :num_classes]  # without learned quantities
    return lambda images: run(to_rgb_batch(images)).astype(np.float32)


def bench_candidate(
    candidate: BenchmarkCandidate,
    cfg: dict[str, Any],
    export_files: Sequence[Path],
    thread_counts: Sequence[int],
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Return the rows of one network and the backends that are unavailable, with the reason."""
    print(f"measuring {candidate.name}", flush=True)
    backends: dict[Variant, InferenceBackend] = {}
    files: dict[Kind, Path] = {}
    reasons: dict[Kind, str] = {}
    for threads in thread_counts:
        available, reasons = open_backends(candidate, threads)
        backends |= {(*kind, threads): backend for kind, backend in available.items()}
        opened = exports.open_exports(export_files, candidate.sha256, threads)
        for kind, (file, backend) in opened.items():
            variant = (*kind, threads)
            backends[variant], files[kind] = backend, file
    rows = measure(candidate, backends, sorted(set(cfg["batches"])), cfg["rounds"], files)
    if cfg["num_images"] and candidate.card is not None:
        k = len(candidate.card["classes"])
        runs = {(b, p): _logits(b, backend.run, k) for (b, p, _), backend in backends.items()}
        add_scores(rows, predict_all(candidate, runs, cfg["num_images"], cfg["data"].get("path")))
    left_out = [
        {"model": candidate.name, "runtime": backend, "precision": precision, "why": reason}
        for (backend, precision), reason in reasons.items()
    ]
    return rows, left_out


def bench(cfg: dict[str, Any], run_dir: Path) -> dict[str, Any]:
    """Run the benchmark, choose the best variant within the budget and draw ``deploy.png``.

    Returns:
        ``rows``, ``pareto``, ``choice``, ``left_out``, ``threads``, ``rounds``, ``cores`` and
        ``load`` (load average before the benchmark; None if the system does not provide it).
    """
    thread_counts = sorted({1, cores() if cfg["threads"] is None else cfg["threads"]})
    torch_threads = torch.get_num_threads()
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    rows: list[dict[str, Any]] = []
    left_out: list[dict[str, str]] = []
    try:
        with tempfile.TemporaryDirectory(prefix="emotion_lab-") as temporary:
            checkpoints = paths.as_list(cfg["ckpt"])
            export_files = exports.find_exports(paths.as_list(cfg["exports"]))
            if checkpoints:
                candidates = load_candidates(checkpoints, Path(temporary))
            else:
                candidates = random_candidates(cfg["models"], Path(temporary))
            for candidate in candidates:
                candidate_rows, unavailable = bench_candidate(
                    candidate, cfg, export_files, thread_counts
                )
                rows += candidate_rows
                left_out += unavailable
    finally:
        torch.set_num_threads(torch_threads)
    comparable = pareto.comparable_rows(rows)
    front = pareto.front(comparable)
    both(partial(draw, comparable, front), run_dir, "deploy")
    return {
        "rounds": cfg["rounds"],
        "threads": thread_counts,
        "cores": cores(),
        "load": load,
        "rows": rows,
        "pareto": front,
        "choice": pareto.choose(comparable, **cfg["budget"]),
        "left_out": left_out,
    }
