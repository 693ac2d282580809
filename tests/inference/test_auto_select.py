"""backend=auto: the fastest that gives PyTorch's answers, measured once; and evaluate with it."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emotion_lab.config import compose
from emotion_lab.core.errors import UserError
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.evaluate import validate
from emotion_lab.evaluation.evaluate import evaluate_checkpoint
from emotion_lab.inference import auto_select
from emotion_lab.inference import classifier as classifier_module
from emotion_lab.inference.base import (
    RUNTIMES,
    BackendUnavailableError,
    InferenceBackend,
    ModelSource,
)
from emotion_lab.inference.classifier import load_classifier, open_runtime
from emotion_lab.inference.converted_model import reference
from tests.conftest import TINY, command, composed, make_checkpoint

NAMES = list(EMOTIONS)
CFG = {"name": "auto", "precision": "auto", "device": "cpu", "threads": 1}


@pytest.fixture(scope="module")
def cfg() -> dict[str, Any]:
    return composed(*TINY, "data.n=200", "data.size=32", "model.image_size=32", "augment=none")


@pytest.fixture
def run(cfg: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any) -> Path:
    """Return a checkpoint of its own, with a cache folder of its own."""
    monkeypatch.setenv("EMOTION_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(classifier_module, "WARM_FACES", 1)
    return make_checkpoint(cfg, tmp_path / "run" / "checkpoints" / "best.ckpt", NAMES)


class Bench:
    """Stands in for the runtimes: they take the time they are told to, and are counted.

    Attributes:
        ms: (name, precision) -> milliseconds of a call; a text is why it is unusable.
        built: What was built, in order.
        calls: How often a network ran.
    """

    def __init__(self, ms: dict[tuple[str, str], float | str]) -> None:
        self.ms, self.built, self.calls = ms, [], 0

    def get(self, name: str) -> Any:
        def build(cfg: dict[str, Any], source: ModelSource) -> InferenceBackend:
            pair = (name, cfg["precision"])
            self.built.append(pair)
            cost = self.ms[pair]
            if isinstance(cost, str):
                raise BackendUnavailableError(cost)

            def run(images: np.ndarray) -> np.ndarray:
                self.calls += 1
                time.sleep(cost / 1000)
                return np.zeros((len(images), 7), np.float32)

            return InferenceBackend(" ".join(pair), run, ["as kept"])

        return build


@pytest.fixture
def bench(run: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Return runtimes whose order of speed is not that of the candidates."""
    made = Bench(
        {
            ("openvino", "fp32"): 9.0,
            ("openvino", "bf16"): 6.0,
            ("onnxruntime", "fp32"): 2.0,
            ("torch", "fp32"): 16.0,
        }
    )
    monkeypatch.setattr(auto_select, "RUNTIMES", made)
    return made


def source(run: Path) -> ModelSource:
    return classifier_module._describe(run)[1]


# --- what is chosen -------------------------------------------------------------------------


def test_the_fastest_is_taken_and_remembered(bench: Bench, run: Path) -> None:
    given = source(run)
    begin = time.perf_counter()
    first = auto_select.build(CFG, given)
    assert time.perf_counter() - begin < auto_select.MEASURE_S + 3
    assert first.name == "onnxruntime fp32" and bench.built == list(auto_select.CANDIDATES)
    note = first.notes[0]
    assert "measured now" in note and first.notes[-1] == "as kept"
    order = [note.index(word) for word in ("onnxruntime fp32", "openvino bf16", "torch fp32")]
    assert order == sorted(order)
    bench.built.clear()
    bench.calls = 0
    again = auto_select.build(CFG, given)
    assert again.name == "onnxruntime fp32" and bench.built == [("onnxruntime", "fp32")]
    assert bench.calls == 0, "a remembered choice measures nothing"
    assert again.notes[0] == note.replace("measured now", "measured before")


@pytest.mark.parametrize(
    "change", [{"threads": 2}, {"precision": "fp32"}, "sha256", "version", "cpu"]
)
def test_other_circumstances_are_measured_anew(
    bench: Bench, run: Path, monkeypatch: pytest.MonkeyPatch, change: Any
) -> None:
    given, cfg = source(run), dict(CFG)
    auto_select.build(cfg, given)
    bench.built.clear()
    if change == "sha256":
        given = ModelSource(given.path, "0" * 64, given.spec, given.temperature)
    elif change == "version":
        real = auto_select.version
        monkeypatch.setattr(auto_select, "version", lambda p: "9.9" if p == "openvino" else real(p))
    elif change == "cpu":
        monkeypatch.setattr(auto_select, "cpu_name", lambda: "another")
    else:
        cfg |= change
    auto_select.build(cfg, given)
    assert len(bench.built) > 1


def test_bf16_has_to_be_worth_it(bench: Bench, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = source(run)
    bench.ms[("onnxruntime", "fp32")] = "not installed"
    assert auto_select.build(CFG, given).name == "openvino bf16"
    # A hair faster is not enough: then float32 keeps its digits.
    exact = {"openvino fp32": 1.0, "openvino bf16": 0.97, "torch fp32": 3.0}
    monkeypatch.setattr(auto_select, "timed", lambda runtimes, _: [exact[r.name] for r in runtimes])
    chosen = auto_select.build({**CFG, "threads": 3}, given)
    assert chosen.name == "openvino fp32"
    assert "not installed" in chosen.notes, "it says why others were passed over"


def test_a_remembered_choice_that_does_not_load(bench: Bench, run: Path) -> None:
    given = source(run)
    auto_select.build(CFG, given)
    bench.ms[("onnxruntime", "fp32")] = "gone"
    bench.built.clear()
    found = auto_select.build(CFG, given)
    assert found.name == "openvino bf16" and "gone" in found.notes
    assert bench.built == [("onnxruntime", "fp32"), *auto_select.CANDIDATES]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: text.replace('"onnxruntime",\n    "fp32"', '"quantum",\n    "fp32"'),
        lambda text: text.replace('"threads": 1', '"threads": 64'),
    ],
)
def test_a_damaged_memory_is_measured_anew(bench: Bench, run: Path, spoil: Any) -> None:
    given = source(run)
    auto_select.build(CFG, given)
    (file,) = (run.parents[2] / "cache" / "runtime").glob("*.json")
    before = file.read_text()
    assert spoil(before) != before
    file.write_text(spoil(before))
    bench.built.clear()
    assert auto_select.build(CFG, given).name == "onnxruntime fp32" and len(bench.built) > 1
    assert json.loads(file.read_text())["choice"] == ["onnxruntime", "fp32"]


def test_nowhere_to_remember(bench: Bench, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run.parents[2] / "file").write_text("")
    monkeypatch.setenv("EMOTION_LAB_CACHE", str(run.parents[2] / "file"))
    found = auto_select.build(CFG, source(run))
    assert found.name == "onnxruntime fp32" and "not remembered" in found.notes[0]


def test_measuring_is_bounded(bench: Bench, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_select, "MEASURE_S", 0.2)
    slow = [InferenceBackend(str(i), lambda images: time.sleep(0.02)) for i in range(3)]
    begin = time.perf_counter()
    times = auto_select.timed(slow, source(run))
    assert time.perf_counter() - begin < 1.0 and all(20 <= ms < 200 for ms in times)


def test_what_no_runtime_can_do(bench: Bench, run: Path) -> None:
    bench.ms[("openvino", "bf16")] = "this CPU has no bfloat16"
    with pytest.raises(BackendUnavailableError, match="no bfloat16"):
        auto_select.build({**CFG, "precision": "bf16"}, source(run))


def test_versions_are_those_that_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch.__version__.startswith(auto_select.version("torch") or "?")
    assert auto_select.version("no_such_package") is None
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    assert auto_select.version("onnxruntime") is None


# --- the real ones --------------------------------------------------------------------------


def test_what_really_runs_here(run: Path, capsys: Any) -> None:
    """Whatever is chosen says what PyTorch says, in one line; the second start is short."""
    before = torch.get_num_threads()
    first = load_classifier(run, "auto", threads=1)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("classifier: ") and "auto: of " in line and "torch fp32" in line
    begin = time.perf_counter()
    again = load_classifier(run, "auto", threads=1)
    took = time.perf_counter() - begin
    assert again.runtime_name == first.runtime_name and took < 8
    assert "measured before" in capsys.readouterr().out
    assert torch.get_num_threads() == before
    face = np.random.default_rng(0).integers(0, 256, (32, 32, 1), dtype=np.uint8)
    expected = load_classifier(run, "torch", threads=1)([face])
    np.testing.assert_allclose(again([face]), expected, atol=0.03)


def test_onnx_is_another_name_of_onnxruntime(run: Path) -> None:
    assert RUNTIMES.get("onnx") is RUNTIMES.get("onnxruntime")
    for package in ("onnxruntime", "onnx", "onnxscript"):
        pytest.importorskip(package)
    names = {open_runtime(run, name, 1)[2].name for name in ("onnx", "onnxruntime")}
    assert len(names) == 1 and names.pop().startswith("onnxruntime ")


# --- evaluate -------------------------------------------------------------------------------


def test_judged_by_another_runtime(cfg: dict[str, Any], run: Path, tmp_path: Path) -> None:
    """``run`` answers in the network's place: its numbers, not PyTorch's, are scored."""
    own = evaluate_checkpoint(run, cfg["data"], "val", tmp_path, "cpu")
    same = reference(source(run).net())
    other = evaluate_checkpoint(run, cfg["data"], "val", tmp_path, "cpu", run=same)
    np.testing.assert_allclose(other.logits, own.logits, atol=1e-5)
    asked: list[tuple[int, ...]] = []

    def moved(images: np.ndarray) -> np.ndarray:
        assert images.dtype == np.uint8 and images.flags["C_CONTIGUOUS"]
        asked.append(images.shape)
        return np.roll(same(images), 1, axis=1)

    rolled = evaluate_checkpoint(run, cfg["data"], "val", tmp_path, "cpu", run=moved)
    assert (rolled.predicted == (own.predicted + 1) % 7).all()
    once = len(asked)
    flipped = evaluate_checkpoint(run, cfg["data"], "val", tmp_path, "cpu", tta="flip", run=same)
    torch_flipped = evaluate_checkpoint(run, cfg["data"], "val", tmp_path, "cpu", tta="flip")
    np.testing.assert_allclose(flipped.logits, torch_flipped.logits, atol=1e-5)
    assert sum(shape[0] for shape in asked) == own.scores["n"] and once > 0


def test_evaluate_says_which_runtime_answered(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    out = tmp_path / "out"
    done = command(
        f"ckpt={run}",
        "backend=onnxruntime",
        "backend.threads=1",
        "num_robustness=0",
        "num_explained=0",
        "trainer=cpu",
        f"hydra.run.dir={out}",
        module="emotion_lab.evaluate",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "runtime: onnxruntime " in done.stdout
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["runtime"].startswith("onnxruntime ")
    report = json.loads((out / "report.json").read_text())
    assert any("answered by onnxruntime" in line for line in report["protocol"]["lines"])
    assert "answered by onnxruntime" in (out / "report.html").read_text(encoding="utf-8")
    own = evaluate_checkpoint(
        run, composed(*TINY, "data.n=200", "data.size=32")["data"], "val", out, "cpu"
    )
    with open(out / "predictions.csv", newline="", encoding="utf-8") as file:
        said = [row["predicted"] for row in csv.DictReader(file)]
    assert said == [NAMES[i] for i in own.predicted]
    assert metrics["val"]["accuracy"] == own.scores["accuracy"]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("backend.threads=2",), "backend.threads=2 does not apply"),
        (("backend.precision=bf16",), "backend.precision=bf16 does not apply"),
        (("backend=auto", "tta=tencrop"), "set backend=torch, or tta=flip"),
        (("backend=openvino", "calibrate=true"), "fits what PyTorch says"),
        (("backend=openvino", "list"), "runs one file"),
    ],
)
def test_evaluate_refuses(run: Path, tmp_path: Path, typed: tuple[str, ...], said: str) -> None:
    path = f"ckpt='{run}'"
    if typed[-1] == "list":
        other = tmp_path / "other.ckpt"
        other.write_bytes(run.read_bytes())
        path, typed = f"ckpt=['{run}','{other}']", typed[:-1]
    overrides = [path, *typed, f"hydra.run.dir='{tmp_path / 'out'}'"]
    with pytest.raises(UserError, match=said):
        validate(compose.precheck("evaluate", overrides), overrides)
