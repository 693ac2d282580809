"""The examples of docs/examples and of the texts agree with ``emotion_lab.inference.loader``."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from itertools import takewhile
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from emotion_lab.exporters.graph import Preprocess
from emotion_lab.exporters.writer import export
from tests.conftest import ROOT
from tests.exporters.test_export import card_of, decided

EXAMPLES = ROOT / "docs" / "examples"
CLASSES = ["neutral", "zest", "fröhlich", "angry", "not sure"]
#: Runs a script in a process in which the modules named first cannot be imported.
WITHOUT = """
import runpy, sys
lacking, *sys.argv = sys.argv[1:]
for name in lacking.split(","):
    sys.modules[name] = None
runpy.run_path(sys.argv[0], run_name="__main__")
"""
HEAVY = "torch,torchvision,hydra,omegaconf,lightning,timm,albumentations"


def _read_run() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_examples", EXAMPLES / "run.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


run = _read_run()


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return run.draw_faces(tmp_path_factory.mktemp("faces"))


@pytest.fixture(scope="module")
def model(faces: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an exported network whose answers differ by face."""
    net = decided("senet", channels=1)
    pictures = [torch.from_numpy(cv2.imread(str(face))[None, :, :, ::-1].copy()) for face in faces]
    with torch.no_grad():
        logits = torch.cat([net(Preprocess(net.spec)(picture)) for picture in pictures])
    # It was made for noise: of drawn faces it would be too sure.
    card = card_of(net, classes=CLASSES, temperature=float(logits.std()))
    return export(net, card, "onnx", "fp32", tmp_path_factory.mktemp("model") / "senet.fp32.onnx")


@pytest.fixture(scope="module")
def wanted(model: Path, faces: list[Path]) -> list[dict[str, float]]:
    answers = run.expected(model, faces)
    assert all(list(each) == CLASSES for each in answers)
    # Faces that all got the same answer would prove little.
    assert np.std([list(each.values()) for each in answers], axis=0).max() > 0.01
    return answers


def test_the_script(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", f"--model={model}"])
    monkeypatch.setattr(run, "MODULES", tmp_path / "node_modules")
    assert run.main() == 0
    said = capsys.readouterr().out
    for name in ("plain.py", "with_runtime.py"):
        assert f"python/{name}: passed, 4 faces" in said
    assert "browser: not run" in said and "cpp: not run" in said and "FAILED" not in said


@pytest.mark.parametrize("name", ["nowhere.onnx", "senet.fp32.xml"])
def test_a_model_that_the_examples_cannot_read(
    name: str, faces: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    file = tmp_path / name
    if file.suffix == ".xml":
        file.write_text("<net/>")
    monkeypatch.setattr(sys, "argv", ["run.py", f"--model={file}"])
    with pytest.raises(SystemExit) as end:
        run.main()
    assert end.value.code == 2 and "is no .onnx file" in capsys.readouterr().err
    said = {
        "plain.py": "usage: plain.py <exported .onnx>",
        "with_runtime.py": f"error: {file} lacks",
    }
    if file.suffix == ".xml":
        for script in run.SCRIPTS:
            with pytest.raises(run.Failed, match=said[script.name]) as caught:
                run.printed([sys.executable, script, file, faces[0]])
            assert "Traceback" not in str(caught.value)


def test_the_script_notices_what_differs(
    model: Path,
    wanted: list[dict[str, float]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
    tmp_path: Path,
) -> None:
    def said(script: str) -> str:
        (tmp_path / "example.py").write_text(script)
        assert run.main() == 1
        return capsys.readouterr().out

    monkeypatch.setattr(sys, "argv", ["run.py", f"--model={model}"])
    monkeypatch.setattr(run, "MODULES", tmp_path / "node_modules")
    monkeypatch.setattr(run, "SCRIPTS", (tmp_path / "example.py",))
    off = "\n".join(f"{name} {share + 0.0002}" for name, share in wanted[0].items())
    monkeypatch.setattr(run, "draw_faces", lambda folder: ["the first"])
    monkeypatch.setattr(run, "expected", lambda *_: wanted[:1])
    assert "FAILED, 1 faces, largest difference 0.0002" in said(f"print({off!r})")
    assert "FAILED, other classes" in said(f"print({off.replace('zest', 'rest')!r})")
    assert "no idea" in said("raise SystemExit('no idea')")


@pytest.mark.parametrize(
    ("script", "lacking"),
    [("plain.py", f"emotion_lab,{HEAVY}"), ("with_runtime.py", HEAVY)],
)
def test_python_without_torch(
    script: str, lacking: str, model: Path, faces: list[Path], wanted: list[dict[str, float]]
) -> None:
    words = [sys.executable, "-c", WITHOUT, lacking, EXAMPLES / "python" / script, model]
    answer = run.printed([*words, faces[1]])
    assert run.largest_difference([answer], wanted[1:2]) < 1e-5
    assert list(answer.values()) == sorted(answer.values(), reverse=True)
    with pytest.raises(run.Failed, match="error: nowhere.png is missing or no picture"):
        run.printed([*words, "nowhere.png"])


@pytest.mark.parametrize("text", ["README.md", "docs/export.md"])
def test_the_lines_in_the_text(
    text: str,
    model: Path,
    faces: list[Path],
    wanted: list[dict[str, float]],
    tmp_path: Path,
) -> None:
    """As they stand there, in a folder with such files."""
    blocks = (ROOT / text).read_text().split("    import cv2\n")[1:]
    (block,) = [part for part in blocks if "from emotion_lab.inference.loader import load" in part]
    lines = filter(None, block.splitlines())
    code = ["import cv2", *(line[4:] for line in takewhile(lambda line: line[0] == " ", lines))]
    assert len(code) <= 10
    (tmp_path / "lines.py").write_text("\n".join(code))
    shutil.copy(model, tmp_path / "senet.fp32.onnx")
    shutil.copy(faces[2], tmp_path / "face.png")
    words = [sys.executable, "-c", WITHOUT, HEAVY, "lines.py"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    best = max(wanted[2], key=wanted[2].__getitem__)
    assert done.stdout.startswith(f"{best} {wanted[2][best]:.4f}"), (done.stdout, wanted[2])


@pytest.mark.skipif(
    not (shutil.which("cmake") and os.environ.get("ONNXRUNTIME_ROOT")),
    reason="needs cmake and ONNXRUNTIME_ROOT=<unpacked ONNX Runtime with include/ and lib/>",
)
def test_cpp(
    model: Path, faces: list[Path], wanted: list[dict[str, float]], tmp_path: Path
) -> None:
    root = f"-DONNXRUNTIME_ROOT={os.environ['ONNXRUNTIME_ROOT']}"
    build = tmp_path / "build"
    for words in (["-S", EXAMPLES / "cpp", "-B", build, root], ["--build", build]):
        done = subprocess.run(["cmake", *words], capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stdout + done.stderr
    program = build / "face"
    assert run.largest_difference(run.cpp_answers(program, model, faces), wanted) <= run.TOLERANCE
    # A comment in the header, and grey.
    grey = tmp_path / "grey.pgm"
    grey.write_bytes(b"P5\n# drawn\n2 3\n255\n" + bytes(range(6)))
    assert sorted(run.printed([program, model, grey])) == sorted(CLASSES)
    grey.write_bytes(b"P5 2 3 255\n" + bytes(5))
    with pytest.raises(run.Failed, match="ends too early"):
        run.printed([program, model, grey])


@pytest.mark.skipif(
    not (run.browser() and run.MODULES.is_dir()),
    reason="needs Chromium and docs/examples/browser/node_modules (npm install there)",
)
def test_browser(
    model: Path, faces: list[Path], wanted: list[dict[str, float]], tmp_path: Path
) -> None:
    found = run.browser_answers(run.browser(), model, faces)
    assert [list(each) for each in found] == [CLASSES] * len(faces)
    assert run.largest_difference(found, wanted) <= run.TOLERANCE
    # The class names come out of the file, and without them it is refused.
    foreign = tmp_path / "foreign.onnx"
    foreign.write_bytes(model.read_bytes().replace(b"emotion_lab", b"emotion_bal"))
    with pytest.raises(run.Failed, match="the page says: .*holds no metadata of emotion_lab"):
        run.browser_answers(run.browser(), foreign, faces[:1])
