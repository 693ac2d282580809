"""What a deployment costs here: networks x runtimes x precisions x batches x threads, in turn."""

from __future__ import annotations

import copy
import io
import json
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn

from emotion_lab.benchmarks.deploy import exports, pareto
from emotion_lab.benchmarks.deploy.figure import draw
from emotion_lab.config import compose
from emotion_lab.core import checkpoint, paths
from emotion_lab.core.errors import UserError
from emotion_lab.core.io import file_hash
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.core.timing import in_turn
from emotion_lab.data.datamodule import EmotionData
from emotion_lab.evaluate import data_config
from emotion_lab.evaluation.evaluate import match_classes
from emotion_lab.evaluation.predict import predict
from emotion_lab.inference.auto_select import CANDIDATES, cores
from emotion_lab.inference.base import (
    DEFAULTS,
    RUNTIMES,
    BackendUnavailableError,
    InferenceBackend,
    ModelSource,
)
from emotion_lab.inference.exported_model import faces
from emotion_lab.models.base import EmotionNet, build_model
from emotion_lab.models.ensemble import Ensemble
from emotion_lab.models.load import restore
from emotion_lab.reports.style import both

#: Calls of one way are repeated for so long in each round.
ROUND_S = 0.1
#: What everything is compared with: PyTorch as it comes.
EAGER = ("torch", "fp32")

Run = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class InMemoryModel(ModelSource):
    """A network that is at hand, as runtimes see it; what is converted lies in a folder of ours."""

    held: EmotionNet | Ensemble | None = None

    def net(self) -> EmotionNet | Ensemble:
        """Return a copy: converters change its memory format."""
        assert self.held is not None
        return copy.deepcopy(self.held)


@dataclass(frozen=True)
class BenchmarkCandidate:
    """A network that is measured.

    Attributes:
        name: For people.
        source: The network.
        accuracy: On val, as its run found it; None where nobody knows.
        card: The checkpoint's; None for random weights.
        sha256: Of the checkpoint's file; empty for random weights.
    """

    name: str
    source: InMemoryModel
    accuracy: float | None = None
    card: dict[str, Any] | None = None
    sha256: str = ""


def settle(net: EmotionNet) -> None:
    """Fit BatchNorm's statistics to noise, so that random weights keep activations in range.

    Left alone they fade from layer to layer to numbers so small that a CPU handles them slowly.
    """
    spec, generator = net.spec, torch.Generator().manual_seed(0)
    shape = (8, spec.channels, spec.image_size, spec.image_size)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    with torch.no_grad():
        net.train()(images)
    net.eval()


def untrained(names: Sequence[str], folder: Path) -> list[BenchmarkCandidate]:
    """Build backbones of the registry with random weights."""
    found = []
    for i, name in enumerate(names):
        torch.manual_seed(0)
        net, spec = build_model(compose.defaults("model", name), len(EMOTIONS))
        settle(net)
        source = InMemoryModel(folder / f"{i}.ckpt", uuid.uuid4().hex, spec, 1.0, net)
        found.append(BenchmarkCandidate(name, source))
    return found


def _val_accuracy(file: Path) -> float | None:
    """Return what the checkpoint's run scored on val, None where that is not written down."""
    folder = file.parent.parent if file.parent.name == "checkpoints" else file.parent
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        return float(metrics["val"]["accuracy"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def trained(paths: Sequence[str], folder: Path) -> list[BenchmarkCandidate]:
    """Read checkpoints; those of one kind are told apart by their run folders.

    Raises:
        UserError: For a bad checkpoint.
    """
    files = [checkpoint.find(path) for path in paths]
    read = [restore(file) for file in files]
    kinds = [
        "ensemble" if "members" in card else str(card["config"]["model"]["name"])
        for _, card in read
    ]
    found = []
    for i, (file, (net, card), kind) in enumerate(zip(files, read, kinds, strict=True)):
        run = file.parent.parent if file.parent.name == "checkpoints" else file
        name = kind if kinds.count(kind) == 1 else f"{kind} ({run.name})"
        given = float(card["temperature"])
        source = InMemoryModel(folder / f"{i}.ckpt", uuid.uuid4().hex, net.spec, given, net)
        found.append(BenchmarkCandidate(name, source, _val_accuracy(file), card, file_hash(file)))
    return found


def size_mb(contender: BenchmarkCandidate, runtime: str, exported: Path | None = None) -> float:
    """Return 10**6 bytes of what this runtime loads; of PyTorch the saved weights."""
    if exported is not None:
        return exports.size_mb(exported)
    path = contender.source.path
    if runtime == "torch":
        buffer = io.BytesIO()
        assert contender.source.held is not None
        torch.save(contender.source.held.state_dict(), buffer)
        return buffer.tell() / 1e6
    kind = {"onnxruntime": "onnx"}.get(runtime, runtime)
    files = [f for f in path.parent.glob(f"{path.stem}.*") if kind in f.name.split(".")]
    return sum(file.stat().st_size for file in files) / 1e6


def variants(
    contender: BenchmarkCandidate, threads: int
) -> tuple[dict[tuple[str, str], InferenceBackend], dict[tuple[str, str], str]]:
    """Return what can run the network here and gives PyTorch's answers, and why the rest cannot."""
    usable, reasons = {}, {}
    for name, precision in sorted(CANDIDATES, key=lambda pair: pair != EAGER):
        cfg = {**DEFAULTS, "name": name, "device": "cpu", "threads": threads}
        try:
            usable[name, precision] = RUNTIMES.get(name)(
                {**cfg, "precision": precision}, contender.source
            )
        except BackendUnavailableError as error:
            reasons[name, precision] = str(error)
    return usable, reasons


def exported(
    contender: BenchmarkCandidate, files: Sequence[Path], threads: int
) -> dict[tuple[str, str], tuple[Path, InferenceBackend]]:
    """Open those of the files that were exported from this checkpoint.

    Raises:
        UserError: If one is damaged, or two are the same but for their names.
    """
    found: dict[tuple[str, str], tuple[Path, InferenceBackend]] = {}
    for file in files:
        key, digest, runtime = exports.opened(file, threads)
        if digest != contender.sha256:
            continue
        if key in found:
            raise UserError(f"{file} and {found[key][0]} are alike: name one of them in exports.")
        found[key] = (file, runtime)
    return found


def block(run: Run, images: np.ndarray, threads: int) -> Callable[[], int]:
    """Return what a round does: call for a while; it returns how many images it did."""

    def work() -> int:
        torch.set_num_threads(threads)  # of the process: torch knows no threads of one network
        done, begin = 0, time.perf_counter()
        while done < 2 or time.perf_counter() - begin < ROUND_S:
            run(images)
            done += 1
        return done * len(images)

    return work


def measured(
    contender: BenchmarkCandidate,
    ways: dict[tuple[str, str, int], InferenceBackend],
    batches: Sequence[int],
    rounds: int,
    files: Mapping[tuple[str, str], Path] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """Time one network in every way in turn.

    Args:
        contender: The network.
        ways: (runtime, precision, threads) -> runtime.
        batches: Images in a call.
        rounds: Each is timed so often, and once before; the median counts.
        files: (runtime, precision) -> its file, of what was exported.
    """
    spec = contender.source.spec
    generator = np.random.default_rng(0)
    shape = (max(batches), spec.channels, spec.image_size, spec.image_size)
    images = generator.integers(0, 256, shape, dtype=np.uint8)
    keys = [(*way, batch) for batch in batches for way in ways]
    work = {}
    for key in keys:
        given = images[: key[3]].copy()
        if exports.is_exported(key[0]):
            given = faces(given)
        work[str(key)] = block(ways[key[:3]].run, given, key[2])
    rates = in_turn(work, rounds, progress=False, at_least=0)  # a block goes on by itself
    rows = []
    for key in keys:
        runtime, precision, threads, batch = key
        ms = 1000 * batch / np.asarray(rates[str(key)])
        rows.append(
            {
                "model": contender.name,
                "image_size": spec.image_size,
                "runtime": runtime,
                "precision": precision,
                "name": ways[key[:3]].name,
                "batch": batch,
                "threads": threads,
                "ms": round(float(np.median(ms)), 4),
                "ms_min": round(float(ms.min()), 4),
                "ms_max": round(float(ms.max()), 4),
                "faces_per_s": round(1000 * batch / float(np.median(ms)), 1),
                "size_mb": round(size_mb(contender, runtime, files.get(key[:2])), 3),
                "accuracy": contender.accuracy,
                "agreement": None,
            }
        )
    eager = {(r["threads"], r["batch"]): r["ms"] for r in rows if r["runtime"] == EAGER[0]}
    for row in rows:
        row["ratio"] = round(eager[row["threads"], row["batch"]] / row["ms"], 3)
    return rows


def predict_all(
    contender: BenchmarkCandidate, runs: dict[tuple[str, str], Run], n: int, data: dict[str, Any]
) -> dict[tuple[str, str], dict[str, float]]:
    """Ask every runtime the same images of the checkpoint's own val split.

    Args:
        contender: A checkpoint.
        runs: (runtime, precision) -> its function; eager PyTorch's among them.
        n: At most so many images, every class by its share.
        data: The ``data`` group: where the data lies now, if not where it was.

    Returns:
        ``accuracy`` on these images and ``agreement``, the share of PyTorch's labels, of each.

    Raises:
        UserError: If the data is not there.
    """
    assert contender.card is not None and contender.source.held is not None
    card = contender.card.get("members", [contender.card])[0]
    path = {"path": data["path"]} if data.get("path") else {}
    cfg = data_config({"data": {"name": "checkpoint", **path, "limit": n}}, card)
    found = EmotionData(cfg, ("val",), card["seed"])
    classes = list(contender.card["classes"])
    part, _ = match_classes(found, classes, "val")
    found.source.classes, found.source.splits["val"] = classes, part
    found.prepare_for(contender.source.spec.image_size, contender.source.spec.channels)
    said, labels = {}, np.zeros(0)
    for key, run in runs.items():
        given = predict(contender.source.held, found.plain_loader("val"), "cpu", run=run)
        said[key], labels = given.logits.numpy().argmax(1), given.labels.numpy()
    return {
        key: {
            "accuracy": float((guess == labels).mean()),
            "agreement": float((guess == said[EAGER]).mean()),
            "n": len(labels),
        }
        for key, guess in said.items()
    }


def _judge(rows: list[dict[str, Any]], found: dict[tuple[str, str], dict[str, float]]) -> None:
    """Write agreement and accuracy into the rows.

    The run scored PyTorch on all of val; a runtime has that and what it differs on these images.
    """
    for row in rows:
        own = found[row["runtime"], row["precision"]]
        base = found[EAGER]["accuracy"] if row["accuracy"] is None else row["accuracy"]
        row["accuracy"] = round(base + own["accuracy"] - found[EAGER]["accuracy"], 6)
        row["agreement"], row["n"] = own["agreement"], own["n"]


def _logits(runtime: str, run: Run) -> Run:
    """Return a function of uint8 (B, C, S, S) that ranks the classes as ``run`` does."""
    if not exports.is_exported(runtime):
        return run
    return lambda images: run(faces(images)).astype(np.float32)


def bench(cfg: dict[str, Any], run_dir: Path) -> dict[str, Any]:
    """Measure, choose, and draw ``deploy.png``.

    Args:
        cfg: The composed ``bench`` config.
        run_dir: The run folder.

    Returns:
        ``rows``, ``pareto``, ``choice``, ``left_out``, ``threads``, ``rounds``, ``cores`` and
        ``load`` (before; None where the system does not tell it).

    Raises:
        UserError: For a bad checkpoint, or data that is not there.
    """
    count = cores() if cfg["threads"] is None else cfg["threads"]
    threads = sorted({1, count})
    before = torch.get_num_threads()
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    rows: list[dict[str, Any]] = []
    left_out: list[dict[str, str]] = []
    try:
        with tempfile.TemporaryDirectory(prefix="emotion_lab-") as folder:
            place = Path(folder)
            checkpoints = paths.as_list(cfg["ckpt"])
            files = exports.find(paths.as_list(cfg["exports"]))
            candidates = (
                trained(checkpoints, place) if checkpoints else untrained(cfg["models"], place)
            )
            for contender in candidates:
                print(f"measuring {contender.name}", flush=True)
                ways: dict[tuple[str, str, int], InferenceBackend] = {}
                places: dict[tuple[str, str], Path] = {}
                for number in threads:
                    usable, reasons = variants(contender, number)
                    ways |= {(*key, number): runtime for key, runtime in usable.items()}
                    for key, (file, runtime) in exported(contender, files, number).items():
                        ways[(*key, number)], places[key] = runtime, file
                left_out += [
                    {"model": contender.name, "runtime": a, "precision": b, "why": why}
                    for (a, b), why in reasons.items()
                ]
                batches = sorted(set(cfg["batches"]))
                own = measured(contender, ways, batches, cfg["rounds"], places)
                if cfg["num_images"] and contender.card is not None:
                    runs = {key[:2]: _logits(key[0], one.run) for key, one in ways.items()}
                    _judge(own, predict_all(contender, runs, cfg["num_images"], cfg["data"]))
                rows += own
    finally:
        torch.set_num_threads(before)
    part = pareto.contenders(rows)
    result = {
        "rounds": cfg["rounds"],
        "threads": threads,
        "cores": cores(),
        "load": load,
        "rows": rows,
        "pareto": pareto.front(part),
        "choice": pareto.choose(part, **cfg["budget"]),
        "left_out": left_out,
    }
    both(partial(draw, part, result["pareto"]), run_dir, "deploy")
    return result
