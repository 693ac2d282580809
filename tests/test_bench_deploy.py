"""what=deploy: what it times, what it chooses, what it leaves behind."""

from __future__ import annotations

import json
import random
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emotion_lab import bench as entry
from emotion_lab import config
from emotion_lab.benchmarks import deploy, deploy_choice, deploy_exports
from emotion_lab.benchmarks.deploy_figure import draw
from emotion_lab.deploy import auto
from emotion_lab.deploy.base import Runtime, Unusable
from emotion_lab.errors import UserError
from emotion_lab.evaluation.style import DARK, LIGHT, render
from emotion_lab.exporting.files import export
from emotion_lab.files import file_hash
from emotion_lab.labels import EMOTIONS
from emotion_lab.models.restore import restore
from tests.conftest import TINY, command, composed, make_checkpoint

NAMES = list(EMOTIONS)


def row(model: str, accuracy: float | None, ms: float, size: float, **more: Any) -> dict[str, Any]:
    return {
        "model": model,
        "runtime": "torch",
        "precision": "f32",
        "batch": 1,
        "threads": 1,
        "accuracy": accuracy,
        "agreement": None,
        "ms": ms,
        "ms_min": ms,
        "ms_max": ms,
        "ratio": 1.0,
        "size_mb": size,
        **more,
    }


BEST = row("best", 0.70, 20.0, 50.0)
FAST = row("fast", 0.60, 1.0, 20.0)
SMALL = row("small", 0.61, 4.0, 2.0)
POOR = row("poor", 0.60, 4.1, 20.0)
ROWS = [POOR, BEST, FAST, SMALL]


# --- the choice -----------------------------------------------------------------------------


def test_the_front() -> None:
    assert deploy_choice.front(ROWS) == [FAST, SMALL, BEST]
    # The same weights in another wrapping are no smaller file.
    twin = {**FAST, "ms": 1.5, "size_mb": 19.8}
    assert deploy_choice.front([FAST, twin]) == [FAST]
    assert deploy_choice.front([FAST, {**FAST, "threads": 2}]) == [FAST, {**FAST, "threads": 2}]
    unknown = [{**one, "accuracy": None} for one in ROWS]
    assert [r["model"] for r in deploy_choice.front(unknown)] == ["fast", "small"]
    assert deploy_choice.front([]) == []


@pytest.mark.parametrize("seed", range(5))
def test_nothing_on_the_front_is_beaten_and_all_else_is(seed: int) -> None:
    draws = random.Random(seed)
    sizes = (1.0, 2.0, 4.0)
    rows = [
        row(str(i), round(draws.random(), 1), round(draws.random(), 1), draws.choice(sizes))
        for i in range(40)
    ]
    front = deploy_choice.front(rows)
    costs = np.array([(-r["accuracy"], r["ms"], r["size_mb"]) for r in rows])
    for one, cost in zip(rows, costs, strict=True):
        beaten = ((costs <= cost).all(1) & (costs < cost).any(1)).any()
        assert (one in front) == (not beaten)


@pytest.mark.parametrize(
    ("latency", "size", "model"),
    [
        (None, None, "best"),
        (5, None, "small"),
        (5, 10, "small"),
        (2, None, "fast"),
        (None, 30, "small"),
        (20, 50, "best"),
    ],
)
def test_the_budget_names_the_most_accurate(
    latency: float | None, size: float | None, model: str
) -> None:
    found = deploy_choice.choose(ROWS, latency, size)
    assert found["row"]["model"] == model
    line = deploy_choice.choice_line(found, True)
    assert line.startswith("most accurate with") and f": {model}, torch f32, 1 thread (" in line
    assert ("without a budget" in line) == (latency is None and size is None)


def test_an_impossible_budget_names_the_nearest() -> None:
    found = deploy_choice.choose(ROWS, 0.5, 10)
    assert found["row"] is None and found["nearest"] == FAST and found["over"] == 2.0
    line = deploy_choice.choice_line(found, True)
    assert line == (
        "nothing fits within 0.5 ms and 10 MB; nearest is fast, torch f32, 1 thread "
        "(accuracy 60.00%, 1.00 ms, 20.0 MB), 2 times the budget"
    )
    assert "nothing was measured" in deploy_choice.choice_line(deploy_choice.choose([], 1, 1), True)


def test_of_equal_accuracy_the_fastest() -> None:
    rows = [row("a", 0.5, 3, 1), row("a", 0.5, 2, 1, threads=2), row("b", 0.4, 1, 1)]
    assert deploy_choice.choose(rows, None, None)["row"] == rows[1]
    unknown = [{**one, "accuracy": None} for one in rows]
    found = deploy_choice.choose(unknown, None, None)
    assert found["row"]["model"] == "b"
    assert deploy_choice.choice_line(found, False).startswith("fastest (accuracy not measured)")


def test_what_is_chosen_from() -> None:
    eight = row("a", 0.9, 1, 1, batch=8)
    assert deploy_choice.contenders([*ROWS, eight]) == ROWS
    assert deploy_choice.contenders([eight]) == [eight]
    unknown = row("new", None, 0.1, 0.1)
    assert deploy_choice.contenders([*ROWS, unknown]) == ROWS
    assert deploy_choice.contenders([]) == []


def test_the_table_says_what_there_is() -> None:
    found = {
        "rounds": 5,
        "rows": [BEST, POOR, {**FAST, "agreement": 0.998}, SMALL],
        "pareto": deploy_choice.front(ROWS),
        "choice": deploy_choice.choose(ROWS, None, None),
        "left_out": [{"model": "fast", "runtime": "x", "precision": "y", "why": "no luck"}],
    }
    lines = deploy_choice.lines(found)
    by_name = {line.split()[1 if line.split()[0] == "*" else 0]: line for line in lines[2:6]}
    assert by_name["best"].lstrip().startswith("*") and by_name["best"].endswith("70.00%")
    assert not by_name["poor"].lstrip().startswith("*")
    assert not any("not measured" in line for line in lines)
    assert any("left out: fast, x y: no luck" in line for line in lines)
    found["rows"] = [{**one, "accuracy": None} for one in ROWS]
    assert any("accuracy not measured" in line for line in deploy_choice.lines(found))


@pytest.mark.parametrize("known", [True, False])
def test_the_picture(known: bool) -> None:
    rows = ROWS if known else [{**one, "accuracy": None} for one in ROWS]
    front = deploy_choice.front(rows)
    pictures = [render(partial(draw, rows, front), style) for style in (LIGHT, DARK)]
    assert pictures[0] != pictures[1] and min(map(len, pictures)) > 5000
    figure = draw(rows, front, LIGHT)
    axis = figure.axes[0]
    assert {text.get_text() for text in axis.texts} == {"best", "fast", "small", "poor"}
    areas = sorted(float(marks.get_sizes()[0]) for marks in axis.collections)
    assert len(areas) == 4 and areas[0] < areas[1] == areas[2] < areas[3]
    assert ("accuracy" in axis.get_ylabel()) == known


# --- the measuring --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run folder with a checkpoint and what it scored."""
    folder = tmp_path_factory.mktemp("run")
    cfg = composed(*TINY, "data.n=200", "data.size=32", "model.image_size=32")
    make_checkpoint(cfg, folder / "checkpoints" / "best.ckpt", NAMES)
    (folder / "metrics.json").write_text(json.dumps({"val": {"accuracy": 0.5}}))
    return folder


def contender(run: Path, folder: Path) -> deploy.Contender:
    (found,) = deploy.trained([str(run)], folder)
    return found


def test_times_are_those_of_the_calls(run: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Runtimes that sleep: a call's milliseconds and the ratio to eager PyTorch come out."""
    monkeypatch.setattr(deploy, "ROUND_S", 0.02)

    def sleeps(ms: float) -> Runtime:
        return Runtime("", lambda images: time.sleep(ms * len(images) / 1000))  # type: ignore

    ways = {("torch", "f32", 1): sleeps(6), ("openvino", "f32", 1): sleeps(2)}
    rows = deploy.measured(contender(run, tmp_path), ways, [1, 4], rounds=3)
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
    honest = auto.RUNTIMES.get

    def get(name: str) -> Any:
        def refuse(cfg: Any, source: Any) -> Runtime:
            raise Unusable(f"{name} has no luck")

        return honest(name) if name == "torch" else refuse

    monkeypatch.setattr(deploy.RUNTIMES, "get", get)
    before = torch.get_num_threads()
    usable, reasons = deploy.variants(contender(run, tmp_path), 1)
    torch.set_num_threads(before)
    assert list(usable) == [deploy.EAGER]
    assert set(reasons) == set(auto.CANDIDATES) - {deploy.EAGER}
    assert reasons["openvino", "f32"] == "openvino has no luck"


def test_agreement_is_counted_on_the_same_images(run: Path, tmp_path: Path) -> None:
    given = contender(run, tmp_path)
    eager = deploy.RUNTIMES.get("torch")(
        {"name": "torch", "precision": "f32", "device": "cpu", "threads": 1}, given.source
    ).run

    def wrong(images: np.ndarray) -> np.ndarray:
        return np.roll(eager(images), 1, axis=1)

    runs = {deploy.EAGER: eager, ("openvino", "f32"): eager, ("openvino", "bf16"): wrong}
    found = deploy.answers(given, runs, 1000, {"path": None})
    first = found[deploy.EAGER]
    assert first["agreement"] == 1 and first["n"] == 20
    assert found["openvino", "f32"] == first
    assert found["openvino", "bf16"]["agreement"] == 0
    rows = [
        row("m", 0.5, 1, 1, runtime=runtime, precision=precision) for runtime, precision in runs
    ]
    deploy._judge(rows, found)
    drop = found["openvino", "bf16"]["accuracy"] - first["accuracy"]
    assert [one["accuracy"] for one in rows] == pytest.approx([0.5, 0.5, 0.5 + drop])
    # Where no run wrote down its score, these images' counts.
    rows[0]["accuracy"] = None
    deploy._judge(rows[:1], found)
    assert rows[0]["accuracy"] == pytest.approx(first["accuracy"])


def test_random_weights_say_something(tmp_path: Path) -> None:
    (found,) = deploy.untrained(["senet"], tmp_path)
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
    both = deploy.trained([str(run), str(tmp_path / "other")], tmp_path)
    assert [one.name for one in both] == [f"senet ({run.name})", "senet (other)"]
    assert [one.accuracy for one in both] == [0.5, None]
    assert [one.name for one in deploy.trained([str(run)], tmp_path)] == ["senet"]


def test_the_command(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    kept = sorted(path.name for path in (run / "checkpoints").iterdir())
    done = command(
        "what=deploy",
        f"ckpt={run}",
        "rounds=1",
        "batches=[1,2]",
        "threads=1",
        "n=1000",
        "budget.latency_ms=0.00001",
        f"hydra.run.dir={out}",
        module="emotion_lab.bench",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((out / "bench.json").read_text())["deploy"]
    rows = found["rows"]
    kinds = [(one["runtime"], one["precision"]) for one in rows if one["batch"] == 1]
    assert kinds[0] == deploy.EAGER and len(set(kinds)) == len(kinds)
    assert len(rows) == 2 * len(kinds) and {one["threads"] for one in rows} == {1}
    left_out = {(one["runtime"], one["precision"]) for one in found["left_out"]}
    assert left_out | set(kinds) == set(auto.CANDIDATES)
    weights = sum(
        value.numel() * value.element_size()
        for value in contender(run, tmp_path).source.net().state_dict().values()
    )
    assert all(weights / 1e6 * 0.8 < one["size_mb"] < weights / 1e6 + 1 for one in rows)
    exact = [one for one in rows if one["precision"] == "f32"]
    assert all(one["agreement"] == 1 and one["accuracy"] == 0.5 for one in exact)
    assert found["pareto"] and all(one in rows for one in found["pareto"])
    assert found["choice"]["row"] is None and found["choice"]["nearest"] in rows
    assert "nothing fits within 1e-05 ms; nearest is senet" in done.stdout
    assert (out / "deploy.png").stat().st_size > 5000
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == kept


# --- exported files -------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_exported_files_beside_their_checkpoint(
    channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real file, with the right answers; one of another checkpoint is left alone."""
    monkeypatch.setattr(deploy, "CANDIDATES", (deploy.EAGER,))
    monkeypatch.setattr(deploy, "ROUND_S", 0.01)
    cfg = composed(*TINY, "data.n=200", "model.image_size=32", f"model.channels={channels}")
    path = make_checkpoint(cfg, tmp_path / "checkpoints" / "best.ckpt", NAMES)
    net, card = restore(path)
    out = tmp_path / "files"
    for name, digest in (("ours", file_hash(path)), ("theirs", "0" * 64)):
        file = out / f"{name}.torchscript"
        export(net, card, "torchscript", "fp32", file, checkpoint=digest)
    options = composed(
        "what=deploy",
        f"ckpt={path}",
        f"exports={out}",
        "n=1000",
        "batches=[2]",
        "rounds=1",
        "threads=1",
        entry="bench",
    )
    found = deploy.bench(options, tmp_path)
    rows = {one["runtime"]: one for one in found["rows"]}
    assert set(rows) == {"torch", "exported torchscript"}
    other = rows["exported torchscript"]
    assert other["agreement"] == 1 and other["accuracy"] == rows["torch"]["accuracy"]
    assert other["size_mb"] == round((out / "ours.torchscript").stat().st_size / 1e6, 3)
    assert other["ratio"] > 0 and other["ms"] > 0
    (out / "again.torchscript").write_bytes((out / "ours.torchscript").read_bytes())
    with pytest.raises(UserError, match="are alike"):
        deploy.bench(options, tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no exported file there"):
        deploy_exports.find([str(tmp_path / "empty")])


# --- bad input ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("models=[sennet]",), "Did you mean 'senet'"),
        (("models=[]",), "nothing to measure"),
        (("n=1000",), "ckpt=\\[one,other\\]"),
        (("exports=somewhere",), "add ckpt=<path> n=1000"),
        (("n=10",), "n=10 is not valid"),
        (("ckpt=nowhere.ckpt",), "no such checkpoint"),
        (("batches=[0]",), "batches=\\[0\\] is not valid"),
        (("batches=[]",), "whole numbers of 1 or more"),
        (("budget.latency_ms=0",), "budget.latency_ms=0 is not valid"),
        (("threads=0",), "threads=0 is not valid"),
    ],
)
def test_mistakes(typed: tuple[str, ...], said: str, tmp_path: Path) -> None:
    overrides = ["what=deploy", *typed, f"hydra.run.dir='{tmp_path / 'out'}'"]
    with pytest.raises(UserError, match=said):
        entry.prepare(config.precheck("bench", overrides), overrides)
