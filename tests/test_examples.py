"""The examples of docs/examples and of the docs agree with ``emotion_lab.inference.loader``."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import textwrap
from itertools import takewhile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from emotion_lab.core.labels import EMOTIONS
from emotion_lab.inference.conversion.graph import Preprocess
from emotion_lab.inference.conversion.writer import export
from emotion_lab.synthetic.photo import draw_group
from tests.conftest import ROOT
from tests.helpers_detectors import SHARED, shared
from tests.helpers_export import card_of, varied_network

EXAMPLES = ROOT / "docs" / "examples"
CLASSES = ["neutral", "zest", "fröhlich", "angry", "not sure"]
#: Runs a script after blocking the import of the modules in the first argument.
WITHOUT = """
import runpy, sys
blocked, *sys.argv = sys.argv[1:]
for name in blocked.split(","):
    sys.modules[name] = None
runpy.run_path(sys.argv[0], run_name="__main__")
"""
References = list[dict[str, float]]
HEAVY = "torch,torchvision,hydra,omegaconf,lightning,timm,albumentations"


run: Any = importlib.import_module("docs.examples.run")


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return run.draw_faces(tmp_path_factory.mktemp("faces"))


@pytest.fixture(scope="module")
def model(faces: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an exported network whose predictions vary by face."""
    net = varied_network("senet", channels=1)
    images = [torch.from_numpy(cv2.imread(str(face))[None, :, :, ::-1].copy()) for face in faces]
    with torch.no_grad():
        logits = torch.cat([net(Preprocess(net.spec)(image)) for image in images])
    # The network was scaled for noise; for synthetic faces its logits are too large.
    card = card_of(net, classes=CLASSES, temperature=float(logits.std()))
    return export(net, card, "onnx", "fp32", tmp_path_factory.mktemp("model") / "senet.fp32.onnx")


@pytest.fixture(scope="module")
def references(model: Path, faces: list[Path]) -> References:
    results = run.expected(model, faces)
    assert all(list(result) == CLASSES for result in results)
    deviation = np.std([list(result.values()) for result in results], axis=0)
    assert deviation.max() > 0.01, "the predictions do not vary by face"
    return results


@pytest.fixture
def run_tiny(model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Set the arguments of run.py and no folder of the browser's packages; return a folder."""
    monkeypatch.setattr(sys, "argv", ["run.py", f"--model={model}"])
    monkeypatch.setattr(run, "MODULES", tmp_path / "node_modules")
    return tmp_path


@pytest.mark.usefixtures("run_tiny")
def test_run_all_examples(capsys: Any) -> None:
    assert run.main() == 0
    output = capsys.readouterr().out
    for name in ("plain.py", "with_emotion_lab.py"):
        assert f"python/{name}: passed, 4 faces" in output
    assert "browser: not run" in output and "cpp: not run" in output and "FAILED" not in output


@pytest.mark.parametrize("name", ["nowhere.onnx", "senet.fp32.xml"])
def test_file_that_the_examples_cannot_read(
    name: str, faces: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    file = tmp_path / name
    if file.suffix == ".xml":
        file.write_text("<net/>")
    monkeypatch.setattr(sys, "argv", ["run.py", f"--model={file}"])
    with pytest.raises(SystemExit) as end:
        run.main()
    assert end.value.code == 2 and "is not an .onnx file" in capsys.readouterr().err
    messages = {
        "plain.py": "usage: plain.py <exported .onnx>",
        "with_emotion_lab.py": f"error: {file} lacks",
    }
    if file.suffix == ".xml":
        for script in run.SCRIPTS:
            with pytest.raises(run.ExampleError, match=messages[script.name]) as caught:
                run.run_command([sys.executable, script, file, faces[0]])
            assert "Traceback" not in str(caught.value)


def test_differences_are_reported(
    references: References, run_tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def output(script: str) -> str:
        (run_tiny / "example.py").write_text(script)
        assert run.main() == 1
        return capsys.readouterr().out

    monkeypatch.setattr(run, "SCRIPTS", (run_tiny / "example.py",))
    changed = "\n".join(f"{name} {value + 0.0002}" for name, value in references[0].items())
    monkeypatch.setattr(run, "draw_faces", lambda folder: ["the first"])
    monkeypatch.setattr(run, "expected", lambda *_: references[:1])
    assert "FAILED, 1 faces, largest difference 0.0002" in output(f"print({changed!r})")
    assert "FAILED, other classes" in output(f"print({changed.replace('zest', 'rest')!r})")
    assert "no idea" in output("raise SystemExit('no idea')")


@pytest.mark.parametrize(
    ("script", "blocked"), [("plain.py", f"emotion_lab,{HEAVY}"), ("with_emotion_lab.py", HEAVY)]
)
def test_python_without_torch(
    script: str, blocked: str, model: Path, faces: list[Path], references: References
) -> None:
    words = [sys.executable, "-c", WITHOUT, blocked, EXAMPLES / "python" / script, model]
    result = run.run_command([*words, faces[1]])
    assert run.largest_difference([result], references[1:2]) < 1e-5
    assert list(result.values()) == sorted(result.values(), reverse=True)
    with pytest.raises(run.ExampleError, match=r"error: nowhere.png is missing or not an"):
        run.run_command([*words, "nowhere.png"])


@pytest.mark.parametrize("text", ["docs/export.md"])
def test_code_of_the_docs(
    text: str, model: Path, faces: list[Path], references: References, tmp_path: Path
) -> None:
    """The lines of the page run unchanged, in a folder with files of these names."""
    blocks = (ROOT / text).read_text().split("    import cv2\n")[1:]
    (block,) = [part for part in blocks if " = load(" in part]
    lines = filter(None, block.splitlines())
    code = ["import cv2", *(line[4:] for line in takewhile(lambda line: line[0] == " ", lines))]
    assert len(code) <= 10
    (tmp_path / "lines.py").write_text("\n".join(code))
    shutil.copy(model, tmp_path / "senet.fp32.onnx")
    shutil.copy(faces[2], tmp_path / "face.png")
    words = [sys.executable, "-c", WITHOUT, HEAVY, "lines.py"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    best = max(references[2], key=references[2].__getitem__)
    assert done.stdout.startswith(f"{best} {references[2][best]:.4f}"), done.stdout


def test_python_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Its lines run unchanged on a photo of that name."""
    code = (ROOT / "README.md").read_text().partition("## Python\n")[2].partition("\nClips and")[0]
    monkeypatch.chdir(tmp_path)
    Image.fromarray(draw_group(["happy", "surprise", "neutral", "angry"], seed=1)).save("photo.jpg")
    exec(textwrap.dedent(code), {})
    printed = re.fullmatch(r"(\w+) (\(.*\)) (\S+)\n", capsys.readouterr().out)
    assert printed is not None and printed[1] in EMOTIONS
    assert printed[2].count(",") == 3 and 0 <= float(printed[3]) <= 1
    assert (tmp_path / "annotated.png").stat().st_size > 1000


@pytest.mark.skipif(
    not (shutil.which("cmake") and os.environ.get("ONNXRUNTIME_ROOT")),
    reason="needs cmake and ONNXRUNTIME_ROOT=<unpacked ONNX Runtime with include/ and lib/>",
)
def test_cpp(model: Path, faces: list[Path], references: References, tmp_path: Path) -> None:
    root = f"-DONNXRUNTIME_ROOT={os.environ['ONNXRUNTIME_ROOT']}"
    build = tmp_path / "build"
    for words in (["-S", EXAMPLES / "cpp", "-B", build, root], ["--build", build]):
        done = subprocess.run(["cmake", *words], capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stdout + done.stderr
    program = build / "face"
    assert run.largest_difference(run.run_cpp(program, model, faces), references) <= run.TOLERANCE
    # Grey, with a comment in the header.
    grey = tmp_path / "grey.pgm"
    grey.write_bytes(b"P5\n# drawn\n2 3\n255\n" + bytes(range(6)))
    assert sorted(run.run_command([program, model, grey])) == sorted(CLASSES)
    grey.write_bytes(b"P5 2 3 255\n" + bytes(5))
    with pytest.raises(run.ExampleError, match="is truncated"):
        run.run_command([program, model, grey])


needs_browser = pytest.mark.skipif(
    not (run.find_browser() and run.MODULES.is_dir()),
    reason="needs Chromium and onnxruntime-web (make browser)",
)


@needs_browser
def test_browser(model: Path, faces: list[Path], references: References, tmp_path: Path) -> None:
    queries = [f"photo={face.name}" for face in faces]
    visit = run.visit_page(run.find_browser(), model, queries, faces)
    assert [list(result) for result in visit.results] == [CLASSES] * len(faces)
    assert run.largest_difference(visit.results, references) <= run.TOLERANCE
    assert not visit.sent, "the page could connect to another host"
    # The classes are read from the metadata; a file without it is rejected.
    foreign = tmp_path / "foreign.onnx"
    foreign.write_bytes(model.read_bytes().replace(b"emotion_lab", b"emotion_bal"))
    with pytest.raises(run.ExampleError, match=r"the page shows: .*holds no metadata"):
        run.run_browser(run.find_browser(), foreign, faces[:1])


def write_clip(image: np.ndarray, path: Path) -> Path:
    """Write ten equal frames of a BGR image as an uncompressed .y4m."""
    height, width = image.shape[:2]
    frame = b"FRAME\n" + cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420).tobytes()
    path.write_bytes(f"YUV4MPEG2 W{width} H{height} F10:1 C420jpeg\n".encode() + 10 * frame)
    return path


@needs_browser
def test_browser_classifies_the_camera(model: Path, tmp_path: Path) -> None:
    face = run.draw_face(run.sample_face(np.random.default_rng(5), "happy"), 480, 3)
    image = cv2.copyMakeBorder(face[..., ::-1], 0, 0, 80, 80, cv2.BORDER_REPLICATE)
    visit = run.visit_page(
        run.find_browser(), model, ["camera"], clip=write_clip(image, tmp_path / "camera.y4m")
    )
    ((left, top, side),) = visit.frames
    assert side == 336 and (left, top) == (152, 72)  # 0.7 of the height, in the centre
    crop = tmp_path / "crop.png"
    cv2.imwrite(str(crop), image[top : top + side, left : left + side])
    # The camera's colours lose precision in YUV.
    assert run.largest_difference(visit.results, run.expected(model, [crop])) < 0.02


@needs_browser
@pytest.mark.shared
def test_browser_detects_faces(model: Path, tmp_path: Path) -> None:
    """The frame lies around a box of OpenCV's YuNet, and its crop gives the same probabilities."""
    image = cv2.imread(str(shared(SHARED / "media" / "one_face.jpg")))
    photo = tmp_path / "photo.png"  # lossless, so that both decode the same pixels
    cv2.imwrite(str(photo), image)
    yunet = shared(SHARED / "detectors" / "face_detection_yunet_2023mar.onnx")
    visit = run.visit_page(run.find_browser(), model, ["photo=photo.png"], [photo], yunet)
    ((left, top, side),) = visit.frames
    detector = cv2.FaceDetectorYN.create(str(yunet), "", image.shape[1::-1], 0.7)
    x, y, width, height = detector.detect(image)[1][0, :4]
    margin = 1 + 2 * run.load(model).crop_margin
    expected = [x + width / 2, y + height / 2, max(width, height) * margin]
    assert np.allclose([left + side / 2, top + side / 2, side], expected, atol=0.05 * side)
    cv2.imwrite(str(tmp_path / "crop.png"), image[top : top + side, left : left + side])
    references = run.expected(model, [tmp_path / "crop.png"])
    assert run.largest_difference(visit.results, references) <= run.TOLERANCE
