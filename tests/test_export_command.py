"""The export command: files, certificates, exit codes and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emotion_lab import export as entry
from emotion_lab.config import compose
from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core.errors import UserError
from emotion_lab.exporters import verify as certifying
from emotion_lab.exporters.base import FORMATS, chosen
from emotion_lab.exporters.calibration_data import val_images
from emotion_lab.exporters.verify import compare
from emotion_lab.exporters.verify_page import write_page
from emotion_lab.inference.loader import load
from emotion_lab.models.load import restore
from tests.conftest import TINY, composed, make_checkpoint
from tests.exporters.test_export import reference


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run folder of an untrained senet."""
    folder = tmp_path_factory.mktemp("run")
    cfg = composed(*TINY, "data.n=200")
    classes = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
    make_checkpoint(cfg, folder / "checkpoints" / "best.ckpt", classes)
    return folder


def exported(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Run the entry point in this process; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["export", *words])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # a run before sets it, for Hydra alone
    try:
        entry.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_the_command(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    out = tmp_path / "out"
    words = (f"ckpt={run}", "format=onnx", f"hydra.run.dir={out}", "licence=for a test")
    monkeypatch.setattr(certifying, "ROUND_S", 0.001)
    assert exported(monkeypatch, *words) == 0
    said = capsys.readouterr().out
    assert "senet.fp32.onnx: passed, 0 of" in said and said.splitlines()[-1] == str(out)
    assert "a certificate should stand on 1,000 or more" in said
    whole = json.loads((out / "certificate.json").read_text())
    (one,) = whole["files"]
    net, card = restore(ckpt.find(run))
    assert one["n"] == card["fingerprints"]["val"]["n"] and one["passed"] is True
    assert one["format"] == "onnx" and one["precision"] == "fp32" and one["label_flips"] == 0
    assert one["max_drift"] <= 1e-4 and one["accuracy_change"] == 0
    assert one["latency_ms"]["b1"] > 0 and one["latency_ms"]["b8"] > 0
    file = out / "senet.fp32.onnx"
    assert one["size_mb"] == pytest.approx(file.stat().st_size / 1e6, abs=1e-3)
    meta = load(file).meta
    assert meta["licence"] == "for a test"
    assert meta["checkpoint_sha256"] == whole["checkpoint_sha256"]
    assert meta["data"]["fingerprints"]["val"]["hash"] == whole["fingerprint"]["hash"]
    beside = json.loads((out / "senet.fp32.onnx.certificate.json").read_text())
    assert beside["label_flips"] == 0 and beside["about"]["hardware"]["cpu"]
    page = (out / "senet.fp32.onnx.certificate.html").read_text()
    assert "passed" in page and "Labels that differ" in page and "://" not in page
    # Nothing is replaced, neither what is certified nor what an export that was stopped left.
    assert exported(monkeypatch, *words) == 2
    assert "already holds certificate.json" in capsys.readouterr().err
    (out / "certificate.json").unlink()
    content = file.read_bytes()
    assert exported(monkeypatch, *words) == 2
    assert "already holds senet.fp32.onnx" in capsys.readouterr().err
    assert file.read_bytes() == content


def test_a_failed_certificate(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """An export that loses the temperature is caught."""
    from emotion_lab.exporters import graph

    monkeypatch.setattr(certifying, "ROUND_S", 0.001)
    honest = graph.Postprocess.forward
    monkeypatch.setattr(graph.Postprocess, "forward", lambda self, x: honest(self, x * 1.05))
    out = tmp_path / "out"
    words = (f"ckpt={run}", "format=torchscript", f"hydra.run.dir={out}")
    assert exported(monkeypatch, *words) == 1
    said = capsys.readouterr()
    assert "FAILED" in said.out and "1 of 1 certificates failed" in said.err
    assert "a probability differs by" in said.err and "most on" in said.err
    (one,) = json.loads((out / "certificate.json").read_text())["files"]
    assert one["passed"] is False and "differs by" in one["failures"][0]
    page = (out / "senet.fp32.torchscript.certificate.html").read_text()
    assert "Failed." in page


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["format=torchscript", "precision=int8"], "cannot be written in precision=int8: set prec"),
        (["format=onnx", "precision=bf16"], "set precision=fp32 or fp16 or int8"),
        (["format=onx"], "Unknown format 'onx'. Did you mean 'onnx'?"),
        (["precision=int4"], "Unknown precision 'int4'. Did you mean"),
        (["format=torchscript", "batch=4"], "keeps its batch open"),
        (["batch=many"], "expected dynamic, or a whole number"),
        (["num_images=50"], "expected a whole number of 1000 or more"),
        (["ckpt=nowhere"], "no such checkpoint: nowhere"),
    ],
)
def test_mistakes(
    words: list[str], said: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    given = words if words[0].startswith("ckpt") else [f"ckpt={run}", *words]
    assert exported(monkeypatch, *given) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1, error


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    honest = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "nncf" else honest(name)
    )
    with pytest.raises(UserError, match=r'needs nncf: pip install "emotion_lab\[deploy\]"'):
        chosen("openvino", "int8")
    assert chosen("openvino", "fp32") == [("openvino", "fp32")]


def test_all_stands_for_every_pair() -> None:
    assert chosen("all", "int8") == [("onnx", "int8"), ("openvino", "int8")]
    assert [name for name, _ in chosen("all", "fp32")] == FORMATS.names()
    assert ("openvino", "bf16") in chosen("openvino", "all")


def test_calibration_has_no_part_in_the_comparison() -> None:
    cfg = composed(*TINY, "data.n=8000", "data.val_fraction=0.3")
    card = {"classes": None, "seed": 0, "fingerprints": {}}
    from emotion_lab.data.datamodule import EmotionData

    card["classes"] = EmotionData(cfg["data"], ("val",)).classes
    images = val_images(card, cfg["data"], False, 5000, 60)
    assert images.calibration is not None and len(images.calibration.faces) == 60
    if len(images.faces) >= 1000:
        seen = {face.tobytes() for face in images.faces}
        assert not any(face.tobytes() in seen for face in images.calibration.faces)
    fewer = val_images(card, {**cfg["data"], "limit": 100}, False, 5000, 60)
    assert len(fewer.faces) == 100
    assert any("calibrated by are compared as well" in note for note in fewer.notes)


def test_nothing_heavy_before_the_checks(run: Path) -> None:
    code = (
        "import sys; from emotion_lab import export; from emotion_lab.config import compose\n"
        "from emotion_lab.exporters.base import FORMATS; FORMATS.names()\n"
        f"cfg = compose.precheck('export', [\"ckpt='{run}'\"])\n"
        "export.validate(cfg, [])\n"
        "heavy = {'torch', 'onnx', 'openvino', 'nncf', 'onnxruntime'} & {*sys.modules}\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


def test_config_has_a_key_for_everything() -> None:
    cfg = composed("ckpt=x", entry="export")
    assert cfg["format"] == "onnx" and cfg["precision"] == "fp32" and cfg["batch"] == "dynamic"
    assert (compose.CONF / "export.yaml").read_text().startswith("# Write a checkpoint")


def test_a_page_escapes(tmp_path: Path) -> None:
    known = reference(1000)
    known.names[0] = "<script>"
    off = known.probabilities.copy()
    off[0] = np.roll(off[0], 1)
    entry_ = {
        "file": "a<b.onnx",
        "format": "onnx",
        "precision": "fp32",
        "run_precision": "fp32",
        "split": "val",
        "size_mb": 1.0,
        **compare(known, off),
        "passed": False,
        "failures": ["<b>"],
    }
    about = {
        "notes": [],
        "checkpoint_sha256": "0",
        "data": "x",
        "fingerprint": {"hash": "1"},
        "licence": "none",
        "versions": {"torch": "2"},
    }
    write_page(tmp_path / "page.html", entry_, about, known.faces[: len(entry_["worst"])])
    text = (tmp_path / "page.html").read_text()
    assert "<script>" not in text and "a&lt;b.onnx" in text and "&lt;b&gt;" in text
