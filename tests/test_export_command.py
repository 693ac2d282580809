"""The export command: files, certificates, exit codes, rejected input."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from emotion_lab import export as export_command
from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core.errors import UserError
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.core.paths import find_checkpoint
from emotion_lab.exporters import verify
from emotion_lab.inference.conversion import graph
from emotion_lab.inference.conversion.base import FORMATS, select_formats
from emotion_lab.inference.loader import load
from tests.conftest import TINY, composed, make_checkpoint


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run directory of a senet that is not trained."""
    folder = tmp_path_factory.mktemp("run")
    cfg = composed(*TINY, "data.n=200")
    make_checkpoint(cfg, folder / "checkpoints" / "best.ckpt", list(EMOTIONS))
    return folder


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "ROUND_S", 0.001)


def exit_code(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> int:
    """Run the entry point in this process; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["export", *overrides])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # an earlier run in this process may have set it
    try:
        export_command.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_files_and_certificates(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    out = tmp_path / "out"
    overrides = (f"ckpt={run}", "format=onnx", f"hydra.run.dir={out}", "licence=for a test")
    assert exit_code(monkeypatch, *overrides) == 0
    output = capsys.readouterr().out
    assert "senet.fp32.onnx: passed, 0 of" in output and output.splitlines()[-1] == str(out)
    assert "a certificate should be based on 1,000 or more" in output
    summary = json.loads((out / "certificate.json").read_text())
    (certificate,) = summary["files"]
    card = ckpt.read(find_checkpoint(run))[ckpt.CARD]
    assert certificate["n"] == card["fingerprints"]["val"]["n"]
    assert summary["trained_on"] == {"n": 0, "near": 0, "unknown": [], "near_unknown": []}
    assert certificate["format"] == "onnx" and certificate["precision"] == "fp32"
    assert certificate["passed"] is True and certificate["label_flips"] == 0
    assert certificate["max_drift"] <= 1e-4 and certificate["accuracy_change"] == 0
    assert certificate["latency_ms"]["b1"] > 0 and certificate["latency_ms"]["b8"] > 0
    file = out / "senet.fp32.onnx"
    assert certificate["size_mb"] == pytest.approx(file.stat().st_size / 1e6, abs=1e-3)
    meta = load(file).meta
    assert meta["licence"] == "for a test"
    assert meta["checkpoint_sha256"] == summary["checkpoint_sha256"]
    assert meta["data"]["fingerprints"]["val"]["hash"] == summary["fingerprint"]["hash"]
    own = json.loads((out / "senet.fp32.onnx.certificate.json").read_text())
    assert own["label_flips"] == 0 and own["about"]["hardware"]["cpu"]
    page = (out / "senet.fp32.onnx.certificate.html").read_text()
    assert "passed" in page and "Different labels" in page and "://" not in page
    # Existing files are not replaced, with a certificate or without.
    assert exit_code(monkeypatch, *overrides) == 2
    assert "already holds certificate.json" in capsys.readouterr().err
    (out / "certificate.json").unlink()
    content = file.read_bytes()
    assert exit_code(monkeypatch, *overrides) == 2
    assert "already holds senet.fp32.onnx" in capsys.readouterr().err
    assert file.read_bytes() == content


def test_failed_certificate(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """A wrong temperature in the graph is detected."""
    forward = graph.Postprocess.forward
    monkeypatch.setattr(graph.Postprocess, "forward", lambda self, x: forward(self, x * 1.05))
    out = tmp_path / "out"
    overrides = (f"ckpt={run}", "format=torchscript", f"hydra.run.dir={out}")
    assert exit_code(monkeypatch, *overrides) == 1
    output = capsys.readouterr()
    assert "FAILED" in output.out and "1 of 1 certificates failed" in output.err
    assert "a probability differs by" in output.err and "largest difference on" in output.err
    (certificate,) = json.loads((out / "certificate.json").read_text())["files"]
    assert certificate["passed"] is False and "differs by" in certificate["failures"][0]
    assert "Failed." in (out / "senet.fp32.torchscript.certificate.html").read_text()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["format=torchscript", "precision=int8"], "cannot be written in precision=int8: set prec"),
        (["format=onnx", "precision=bf16"], "set precision=fp32 or fp16 or int8"),
        (["format=onx"], "Unknown format 'onx'. Did you mean 'onnx'?"),
        (["precision=int4"], "Unknown precision 'int4'. Did you mean"),
        (["format=torchscript", "batch=4"], "supports no fixed batch size"),
        (["batch=many"], "expected dynamic, or a whole number"),
        (["num_images=50"], "expected a whole number of 1000 or more"),
        (["ckpt=nowhere"], "no such checkpoint: nowhere"),
    ],
)
def test_bad_input(
    overrides: list[str], message: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    if not overrides[0].startswith("ckpt"):
        overrides = [f"ckpt={run}", *overrides]
    assert exit_code(monkeypatch, *overrides) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1, error


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "nncf" else find_spec(name)
    )
    with pytest.raises(UserError, match=r'needs nncf: pip install "emotion_lab\[deploy\]"'):
        select_formats("openvino", "int8")
    assert select_formats("openvino", "fp32") == [("openvino", "fp32")]


def test_all_selects_every_supported_pair() -> None:
    assert select_formats("all", "int8") == [("onnx", "int8"), ("openvino", "int8")]
    # TorchScript has no fixed batch size: all leaves it out.
    formats = [format for format, _ in select_formats("all", "fp32", 8)]
    assert formats == [name for name in FORMATS.names() if name != "torchscript"]
    assert [name for name, _ in select_formats("all", "fp32")] == FORMATS.names()
    assert ("openvino", "bf16") in select_formats("openvino", "all")


def test_checks_import_nothing_heavy(run: Path) -> None:
    code = (
        "import sys; from emotion_lab import export; from emotion_lab.config import compose\n"
        f"cfg = compose.precheck('export', [\"ckpt='{run}'\"])\n"
        "export.validate(cfg, [])\n"
        "heavy = {'torch', 'onnx', 'openvino', 'nncf', 'onnxruntime'} & {*sys.modules}\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
