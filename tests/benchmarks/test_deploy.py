"""benchmark=deploy: timing, agreement with PyTorch, candidates and the command."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emotion_lab import bench as entry
from emotion_lab.benchmarks.deploy import matrix
from emotion_lab.benchmarks.deploy.candidates import (
    BenchmarkCandidate,
    load_candidates,
    random_candidates,
)
from emotion_lab.config import compose
from emotion_lab.core.errors import UserError
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.inference.backends import auto
from emotion_lab.inference.base import BackendUnavailableError, InferenceBackend
from tests.benchmarks.test_deploy_pareto import row
from tests.conftest import TINY, command, composed, make_checkpoint

NAMES = list(EMOTIONS)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run directory with a checkpoint and its val accuracy."""
    folder = tmp_path_factory.mktemp("run")
    cfg = composed(*TINY, "data.n=200", "data.size=32", "model.image_size=32")
    make_checkpoint(cfg, folder / "checkpoints" / "best.ckpt", NAMES)
    (folder / "metrics.json").write_text(json.dumps({"val": {"accuracy": 0.5}}))
    return folder


@pytest.fixture
def candidate(run: Path, tmp_path: Path) -> BenchmarkCandidate:
    (candidate,) = load_candidates([str(run)], tmp_path)
    return candidate


def test_times_and_ratios(candidate: BenchmarkCandidate, monkeypatch: Any) -> None:
    """Backends that sleep: the rows have their milliseconds and the ratio to eager PyTorch."""
    monkeypatch.setattr(matrix, "ROUND_S", 0.02)

    def sleep(ms: float) -> InferenceBackend:
        def run(images: np.ndarray) -> np.ndarray:
            time.sleep(ms * len(images) / 1000)
            return images

        return InferenceBackend("", run)

    backends = {("torch", "fp32", 1): sleep(6), ("openvino", "fp32", 1): sleep(2)}
    rows = matrix.measure(candidate, backends, [1, 4], rounds=3, files={})
    kinds = [(batch, name) for batch in (1, 4) for name in ("torch", "openvino")]
    assert [(r["batch"], r["runtime"]) for r in rows] == kinds
    for r in rows:
        ms = (6 if r["runtime"] == "torch" else 2) * r["batch"]
        assert ms <= r["ms_min"] <= r["ms"] <= r["ms_max"]
        assert r["faces_per_s"] == pytest.approx(1000 * r["batch"] / r["ms"], rel=0.01)
        assert r["accuracy"] == 0.5 and r["agreement"] is None
    assert all(r["ratio"] == 1 for r in rows if r["runtime"] == "torch")
    for eager, other in (rows[:2], rows[2:]):
        assert other["ratio"] == pytest.approx(eager["ms"] / other["ms"], rel=0.01)


def test_unavailable_backends_have_a_reason(
    candidate: BenchmarkCandidate, monkeypatch: Any
) -> None:
    original = matrix.BACKENDS.get

    def get(name: str) -> Any:
        def refuse(cfg: Any, source: Any) -> InferenceBackend:
            raise BackendUnavailableError(f"{name} is unavailable")

        return original(name) if name == "torch" else refuse

    monkeypatch.setattr(matrix.BACKENDS, "get", get)
    threads = torch.get_num_threads()
    backends, reasons = matrix.open_backends(candidate, 1)
    torch.set_num_threads(threads)
    assert list(backends) == [matrix.EAGER]
    assert set(reasons) == set(auto.CANDIDATES) - {matrix.EAGER}
    assert reasons["openvino", "fp32"] == "openvino is unavailable"


def test_agreement_and_accuracy(candidate: BenchmarkCandidate) -> None:
    eager = matrix.BACKENDS.get("torch")(
        {"name": "torch", "precision": "fp32", "device": "cpu", "threads": 1}, candidate.source
    ).run

    def wrong(images: np.ndarray) -> np.ndarray:
        return np.roll(eager(images), 1, axis=1)

    runs = {matrix.EAGER: eager, ("openvino", "fp32"): eager, ("openvino", "bf16"): wrong}
    scores = matrix.predict_all(candidate, runs, 1000, None)
    reference = scores[matrix.EAGER]
    assert reference["agreement"] == 1 and reference["n"] == 20
    assert scores["openvino", "fp32"] == reference
    assert scores["openvino", "bf16"]["agreement"] == 0
    rows = [row("m", 0.5, 1, 1, runtime=name, precision=precision) for name, precision in runs]
    matrix.add_scores(rows, scores)
    drop = scores["openvino", "bf16"]["accuracy"] - reference["accuracy"]
    assert [r["accuracy"] for r in rows] == pytest.approx([0.5, 0.5, 0.5 + drop])
    # Without the val accuracy of the run, the accuracy on these images is used.
    rows[0]["accuracy"] = None
    matrix.add_scores(rows[:1], scores)
    assert rows[0]["accuracy"] == pytest.approx(reference["accuracy"])


def test_random_weights_give_varying_logits(tmp_path: Path) -> None:
    (candidate,) = random_candidates(["senet"], tmp_path)
    assert candidate.accuracy is None and candidate.card is None
    net = candidate.source.restore()[0]
    assert not net.training and net is not candidate.source.original()
    images = torch.randint(0, 256, (4, candidate.source.spec.channels, 48, 48), dtype=torch.uint8)
    with torch.no_grad():
        logits = net(images)
    assert logits.shape == (4, 7) and logits.std(0).max() > 1e-3 and logits.abs().max() < 1e3


def test_names_and_accuracy_of_checkpoints(run: Path, tmp_path: Path) -> None:
    cfg = composed(*TINY, "data.n=80", "data.size=32", "model.image_size=32")
    make_checkpoint(cfg, tmp_path / "other" / "checkpoints" / "best.ckpt", NAMES)
    both = load_candidates([str(run), str(tmp_path / "other")], tmp_path)
    assert [c.name for c in both] == [f"senet ({run.name})", "senet (other)"]
    assert [c.accuracy for c in both] == [0.5, None]
    assert [c.name for c in load_candidates([str(run)], tmp_path)] == ["senet"]


def test_command(
    run: Path, candidate: BenchmarkCandidate, rendered_figures: None, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    files = sorted(path.name for path in (run / "checkpoints").iterdir())
    overrides = ("rounds=1", "batches=[1,2]", "threads=1", "num_images=1000")
    overrides += (f"ckpt={run}", "budget.latency_ms=0.00001", f"hydra.run.dir={out}")
    done = command("benchmark=deploy", *overrides, module="emotion_lab.bench", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((out / "bench.json").read_text())["deploy"]
    rows = result["rows"]
    kinds = [(r["runtime"], r["precision"]) for r in rows if r["batch"] == 1]
    assert kinds[0] == matrix.EAGER and len(set(kinds)) == len(kinds)
    assert len(rows) == 2 * len(kinds) and {r["threads"] for r in rows} == {1}
    left_out = {(r["runtime"], r["precision"]) for r in result["left_out"]}
    assert left_out | set(kinds) == set(auto.CANDIDATES)
    weights = sum(value.nbytes for value in candidate.source.restore()[0].state_dict().values())
    assert all(weights / 1e6 * 0.8 < r["size_mb"] < weights / 1e6 + 1 for r in rows)
    exact = [r for r in rows if r["precision"] == "fp32"]
    assert all(r["agreement"] == 1 and r["accuracy"] == 0.5 for r in exact)
    assert result["pareto"] and all(r in rows for r in result["pareto"])
    assert result["choice"]["row"] is None and result["choice"]["nearest"] in rows
    assert "nothing fits within 1e-05 ms; nearest is senet" in done.stdout
    assert (out / "deploy.png").stat().st_size > 5000
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == files


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("models=[sennet]",), "Did you mean 'senet'"),
        (("models=[]",), "nothing to measure"),
        (("num_images=1000",), "add ckpt="),
        (("exports=somewhere",), "add ckpt=<path> num_images=1000"),
        (("num_images=10",), "num_images=10 is not valid"),
        (("ckpt=nowhere.ckpt",), "no such checkpoint"),
        (("batches=[0]",), "batches=\\[0\\] is not valid"),
        (("batches=[]",), "whole numbers of 1 or more"),
        (("budget.latency_ms=0",), "budget.latency_ms=0 is not valid"),
        (("threads=0",), "threads=0 is not valid"),
    ],
)
def test_invalid_arguments(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    overrides = ["benchmark=deploy", *arguments, f"hydra.run.dir='{tmp_path / 'out'}'"]
    with pytest.raises(UserError, match=message):
        entry.validate(compose.precheck("bench", overrides), overrides)
