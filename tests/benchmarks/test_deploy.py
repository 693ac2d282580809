"""benchmark=deploy: what it times, whom it asks, what it leaves behind."""

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
from emotion_lab.config import compose
from emotion_lab.core.errors import UserError
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.inference import auto_select
from emotion_lab.inference.base import BackendUnavailableError, InferenceBackend
from tests.benchmarks.test_deploy_pareto import row
from tests.conftest import TINY, command, composed, make_checkpoint

NAMES = list(EMOTIONS)


# --- the measuring --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run folder with a checkpoint and what it scored."""
    folder = tmp_path_factory.mktemp("run")
    cfg = composed(*TINY, "data.n=200", "data.size=32", "model.image_size=32")
    make_checkpoint(cfg, folder / "checkpoints" / "best.ckpt", NAMES)
    (folder / "metrics.json").write_text(json.dumps({"val": {"accuracy": 0.5}}))
    return folder


def contender(run: Path, folder: Path) -> matrix.BenchmarkCandidate:
    (found,) = matrix.trained([str(run)], folder)
    return found


def test_times_are_those_of_the_calls(run: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Runtimes that sleep: a call's milliseconds and the ratio to eager PyTorch come out."""
    monkeypatch.setattr(matrix, "ROUND_S", 0.02)

    def sleeps(ms: float) -> InferenceBackend:
        return InferenceBackend("", lambda images: time.sleep(ms * len(images) / 1000))  # type: ignore

    ways = {("torch", "fp32", 1): sleeps(6), ("openvino", "fp32", 1): sleeps(2)}
    rows = matrix.measured(contender(run, tmp_path), ways, [1, 4], rounds=3)
    assert [(r["runtime"], r["batch"]) for r in rows] == [
        *(("torch", 1), ("openvino", 1)),
        *(("torch", 4), ("openvino", 4)),
    ]
    for one in rows:
        ms = (6 if one["runtime"] == "torch" else 2) * one["batch"]
        assert ms <= one["ms_min"] <= one["ms"] <= one["ms_max"]
        assert one["faces_per_s"] == pytest.approx(1000 * one["batch"] / one["ms"], rel=0.01)
        assert one["accuracy"] == 0.5 and one["agreement"] is None
    assert all(one["ratio"] == 1 for one in rows if one["runtime"] == "torch")
    for eager, other in (rows[:2], rows[2:]):
        assert other["ratio"] == pytest.approx(eager["ms"] / other["ms"], rel=0.01)


def test_what_cannot_run_is_said(run: Path, tmp_path: Path, monkeypatch: Any) -> None:
    honest = auto_select.RUNTIMES.get

    def get(name: str) -> Any:
        def refuse(cfg: Any, source: Any) -> InferenceBackend:
            raise BackendUnavailableError(f"{name} has no luck")

        return honest(name) if name == "torch" else refuse

    monkeypatch.setattr(matrix.RUNTIMES, "get", get)
    before = torch.get_num_threads()
    usable, reasons = matrix.variants(contender(run, tmp_path), 1)
    torch.set_num_threads(before)
    assert list(usable) == [matrix.EAGER]
    assert set(reasons) == set(auto_select.CANDIDATES) - {matrix.EAGER}
    assert reasons["openvino", "fp32"] == "openvino has no luck"


def test_agreement_is_counted_on_the_same_images(run: Path, tmp_path: Path) -> None:
    given = contender(run, tmp_path)
    eager = matrix.RUNTIMES.get("torch")(
        {"name": "torch", "precision": "fp32", "device": "cpu", "threads": 1}, given.source
    ).run

    def wrong(images: np.ndarray) -> np.ndarray:
        return np.roll(eager(images), 1, axis=1)

    runs = {matrix.EAGER: eager, ("openvino", "fp32"): eager, ("openvino", "bf16"): wrong}
    found = matrix.predict_all(given, runs, 1000, {"path": None})
    first = found[matrix.EAGER]
    assert first["agreement"] == 1 and first["n"] == 20
    assert found["openvino", "fp32"] == first
    assert found["openvino", "bf16"]["agreement"] == 0
    rows = [
        row("m", 0.5, 1, 1, runtime=runtime, precision=precision) for runtime, precision in runs
    ]
    matrix._judge(rows, found)
    drop = found["openvino", "bf16"]["accuracy"] - first["accuracy"]
    assert [one["accuracy"] for one in rows] == pytest.approx([0.5, 0.5, 0.5 + drop])
    # Where no run wrote down its score, these images' counts.
    rows[0]["accuracy"] = None
    matrix._judge(rows[:1], found)
    assert rows[0]["accuracy"] == pytest.approx(first["accuracy"])


def test_random_weights_say_something(tmp_path: Path) -> None:
    (found,) = matrix.untrained(["senet"], tmp_path)
    assert found.accuracy is None and found.card is None
    net = found.source.net()
    assert not net.training and net is not found.source.held
    images = torch.randint(0, 256, (4, found.source.spec.channels, 48, 48), dtype=torch.uint8)
    with torch.no_grad():
        logits = net(images)
    assert logits.shape == (4, 7) and logits.std(0).max() > 1e-3 and logits.abs().max() < 1e3


def test_names_and_accuracy_of_checkpoints(run: Path, tmp_path: Path) -> None:
    cfg = composed(*TINY, "data.n=80", "data.size=32", "model.image_size=32")
    make_checkpoint(cfg, tmp_path / "other" / "checkpoints" / "best.ckpt", NAMES)
    both = matrix.trained([str(run), str(tmp_path / "other")], tmp_path)
    assert [one.name for one in both] == [f"senet ({run.name})", "senet (other)"]
    assert [one.accuracy for one in both] == [0.5, None]
    assert [one.name for one in matrix.trained([str(run)], tmp_path)] == ["senet"]


def test_the_command(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    kept = sorted(path.name for path in (run / "checkpoints").iterdir())
    done = command(
        "benchmark=deploy",
        f"ckpt={run}",
        "rounds=1",
        "batches=[1,2]",
        "threads=1",
        "num_images=1000",
        "budget.latency_ms=0.00001",
        f"hydra.run.dir={out}",
        module="emotion_lab.bench",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((out / "bench.json").read_text())["deploy"]
    rows = found["rows"]
    kinds = [(one["runtime"], one["precision"]) for one in rows if one["batch"] == 1]
    assert kinds[0] == matrix.EAGER and len(set(kinds)) == len(kinds)
    assert len(rows) == 2 * len(kinds) and {one["threads"] for one in rows} == {1}
    left_out = {(one["runtime"], one["precision"]) for one in found["left_out"]}
    assert left_out | set(kinds) == set(auto_select.CANDIDATES)
    weights = sum(
        value.numel() * value.element_size()
        for value in contender(run, tmp_path).source.net().state_dict().values()
    )
    assert all(weights / 1e6 * 0.8 < one["size_mb"] < weights / 1e6 + 1 for one in rows)
    exact = [one for one in rows if one["precision"] == "fp32"]
    assert all(one["agreement"] == 1 and one["accuracy"] == 0.5 for one in exact)
    assert found["pareto"] and all(one in rows for one in found["pareto"])
    assert found["choice"]["row"] is None and found["choice"]["nearest"] in rows
    assert "nothing fits within 1e-05 ms; nearest is senet" in done.stdout
    assert (out / "deploy.png").stat().st_size > 5000
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == kept


# --- bad input ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("models=[sennet]",), "Did you mean 'senet'"),
        (("models=[]",), "nothing to measure"),
        (("num_images=1000",), "ckpt=\\[one,other\\]"),
        (("exports=somewhere",), "add ckpt=<path> num_images=1000"),
        (("num_images=10",), "num_images=10 is not valid"),
        (("ckpt=nowhere.ckpt",), "no such checkpoint"),
        (("batches=[0]",), "batches=\\[0\\] is not valid"),
        (("batches=[]",), "whole numbers of 1 or more"),
        (("budget.latency_ms=0",), "budget.latency_ms=0 is not valid"),
        (("threads=0",), "threads=0 is not valid"),
    ],
)
def test_mistakes(typed: tuple[str, ...], said: str, tmp_path: Path) -> None:
    overrides = ["benchmark=deploy", *typed, f"hydra.run.dir='{tmp_path / 'out'}'"]
    with pytest.raises(UserError, match=said):
        entry.validate(compose.precheck("bench", overrides), overrides)
