"""An exported file in a checkpoint's place: live and predict take it, all else says what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core import paths
from emotion_lab.core.errors import UserError
from emotion_lab.core.io import EXPORT_SUFFIXES
from emotion_lab.exporters.base import FORMATS
from emotion_lab.exporters.writer import export
from emotion_lab.inference import exported_model, loader
from emotion_lab.inference.classifier import load_classifier
from emotion_lab.inference.exported_model import faces
from emotion_lab.models.load import restore
from tests.conftest import TINY, command, composed, make_checkpoint

for package in ("onnx", "onnxscript", "onnxruntime", "openvino"):
    if not __import__("importlib.util").util.find_spec(package):
        pytest.skip(f"{package} is not installed", allow_module_level=True)

NAMES = ["wütend", "平静", "glad & <still>"]


def run_of(folder: Path, channels: int) -> Path:
    """Return a run folder with a checkpoint that has a temperature and a margin, and its files."""
    cfg = composed(
        *TINY, "model.image_size=32", f"model.channels={channels}", "data.crop_margin=0.3"
    )
    path = make_checkpoint(cfg, folder / "checkpoints" / "best.ckpt", NAMES)
    content = ckpt.read(path)
    content[ckpt.CARD]["temperature"] = 1.7
    ckpt.write(path, content)
    net, card = restore(path)
    for format in FORMATS.names():
        name = f"net{FORMATS.get(format).suffix}"
        export(net, card, format, "fp32", folder / "files" / name)
    export(net, card, "onnx", "fp32", folder / "files" / "four.onnx", batch=4)
    return folder


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of(tmp_path_factory.mktemp("grey"), 1)


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of(tmp_path_factory.mktemp("colour"), 3)


def crops() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    shapes = [
        (40, 40, 3),
        (20, 20, 3),
        (90, 80, 3),
        (32, 32, 3),
        (64, 64, 3),
        (1, 1, 3),
        (50, 9, 1),
    ]
    noise = [generator.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]
    blurred = [cv2.blur(one, (5, 5)).reshape(one.shape) for one in noise]
    return [one // (i + 1) for i, one in enumerate(blurred)]  # unlike each other, to be told apart


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", [*(f"net{suffix}" for suffix in EXPORT_SUFFIXES), "four.onnx"])
def test_it_says_what_the_checkpoint_says(
    name: str, channels: int, request: pytest.FixtureRequest, capsys: Any
) -> None:
    run = request.getfixturevalue("grey" if channels == 1 else "colour")
    known = load_classifier(run, "torch", threads=1)
    capsys.readouterr()
    ours = load_classifier(run / "files" / name, threads=1)
    said = capsys.readouterr().out
    program = exported_model.PROGRAMS[Path(name).suffix][0]
    assert said.startswith(f"classifier: {program} ") and said.count("\n") == 1
    assert f"fp32 on cpu (the exported file {name}, fp32)" in said
    assert ours.classes == NAMES and ours.crop_margin == 0.3 and ours.spec == known.spec
    expected, found = known(crops()), ours(crops())
    assert expected.std(0).max() > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert ours([]).shape == (0, 3)
    with pytest.raises(ValueError, match="expected a face as uint8"):
        ours([np.zeros((5, 5, 4), np.uint8)])


def test_a_certain_answer_stays_finite(grey: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sure(self: Any, images: np.ndarray) -> np.ndarray:
        return np.float32([[1, 0, 0]]).repeat(len(images), axis=0)

    monkeypatch.setattr(loader.Model, "run", sure)
    classifier = load_classifier(grey / "files" / "net.onnx", threads=1)
    np.testing.assert_allclose(classifier(crops()), sure(None, np.zeros(7)), atol=1e-30)


def test_grey_made_rgb() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 1, 4, 5), dtype=np.uint8)
    made = faces(images)
    assert made.shape == (2, 4, 5, 3) and made.flags.c_contiguous
    np.testing.assert_array_equal(made[..., 2], images[:, 0])
    coloured = images.repeat(3, axis=1) // np.uint8([1, 2, 3])[:, None, None]
    np.testing.assert_array_equal(faces(coloured)[..., 1], coloured[:, 1])


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("net.onnx", "torch", "backend=torch is not for"),
        ("net.xml", "onnx", "runs with openvino: leave backend=auto"),
        ("net.xml", {"name": "auto", "precision": "bf16"}, "backend.precision=bf16 is not for"),
        ("net.pt2", {"name": "auto", "device": "cuda"}, "leave backend.device=auto"),
        ("net.onnx", {"name": "auto", "threads": 0}, "backend.threads=0 is not valid"),
        ("net.onnx", "openvin", "backend=openvin is not for"),
    ],
)
def test_options_that_a_file_does_not_leave_open(
    name: str, options: Any, said: str, grey: Path
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        load_classifier(grey / "files" / name, options)
    assert "\n" not in str(caught.value)
    fine = {"name": {"net.xml": "openvino", "net.pt2": "torch"}.get(name, "onnx")}
    assert load_classifier(grey / "files" / name, {**fine, "device": "cpu", "precision": "fp32"})


def test_who_takes_it(grey: Path, tmp_path: Path) -> None:
    assert tuple(loader._OPEN) == EXPORT_SUFFIXES == tuple(exported_model.PROGRAMS)
    assert {FORMATS.get(name).suffix for name in FORMATS.names()} == {*EXPORT_SUFFIXES}
    for suffix in EXPORT_SUFFIXES:
        file = str(grey / "files" / f"net{suffix}")
        paths.check_checkpoint(file, exported=True)
        for refused in (file, [file]):
            with pytest.raises(UserError, match="needs the checkpoint it was made of"):
                paths.check_checkpoint(refused, several=True)
    with pytest.raises(UserError, match=r"name a file, ckpt=.*four.onnx"):
        paths.check_checkpoint(str(grey / "files"), exported=True)
    with pytest.raises(UserError, match="is it a run folder of train"):
        paths.check_checkpoint(str(tmp_path), exported=True)


def test_predict_with_a_file(colour: Path, tmp_path: Path) -> None:
    """The same faces, numbers and names from the file as from its checkpoint."""
    image = crops()[2]
    cv2.imwrite(str(tmp_path / "face.png"), image)
    rows = []
    for given in (colour / "files" / "net.xml", colour):
        out = tmp_path / given.name
        done = command(
            f"ckpt={given}",
            f"source={tmp_path / 'face.png'}",
            "detector=full_frame",
            *(() if given is not colour else ("backend=torch",)),
            f"out={out}",
            module="emotion_lab.predict",
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        (line,) = (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
        rows.append(json.loads(line)["faces"][0])
    ours, known = rows
    assert list(ours["probabilities"]) == NAMES and ours["label"] == known["label"]
    assert ours["box"] == known["box"]
    assert ours["probabilities"] == pytest.approx(known["probabilities"], abs=1e-4)


def test_live_with_a_file(grey: Path, tmp_path: Path) -> None:
    words = (
        *("source=synthetic", "detector=full_frame", "display=none", "max_frames=5"),
        *(f"log={tmp_path / 'log.jsonl'}", f"hydra.run.dir={tmp_path / 'live'}"),
    )
    file = grey / "files" / "net.onnx"
    done = command(f"ckpt={file}", *words, module="emotion_lab.live", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "classifier: onnxruntime" in done.stdout and "net.onnx, fp32" in done.stdout
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len(rows) == 5 and list(rows[0]["faces"][0]["smoothed"]) == NAMES
    damaged = tmp_path / "net.onnx"
    damaged.write_bytes(file.read_bytes()[:-200])
    done = command(
        f"ckpt={damaged}", *words, "overwrite=true", module="emotion_lab.live", cwd=tmp_path
    )
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ") and "Export it again" in last
    assert "Traceback" not in done.stderr
