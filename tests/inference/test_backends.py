"""Inference backends: same results as PyTorch, errors in one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml

from emotion_lab.config.compose import CONF
from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core.errors import UserError
from emotion_lab.core.paths import find_checkpoint
from emotion_lab.data.datamodule import EmotionData
from emotion_lab.data.transforms import Resize
from emotion_lab.evaluation.predict import predict
from emotion_lab.inference.base import BACKENDS, DEFAULTS
from emotion_lab.inference.classifier import load_classifier
from emotion_lab.inference.face_crop import crop_faces
from emotion_lab.models.load import restore
from tests.conftest import command, composed
from tests.helpers_export import (
    NAMES,
    SIZE,
    open_classifier,
    random_faces,
    skip_without,
    write_checkpoint,
)

#: Face sizes above, below and equal to the network's.
SIZES = [(40, 50), (21, 30), (32, 32), (60, 20), (8, 90), (64, 64), (33, 31), (90, 88), (12, 12)]


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of colour and grey images of several sizes."""
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("happy", "sad"):
            (root / split / name).mkdir(parents=True)
            for i, size in enumerate([(40, 50, 3), (21, 30, 3), (32, 32, 3), (60, 20)]):
                blobs = generator.integers(0, 256, (3, 3, *size[2:]), dtype=np.uint8)
                pixels = cv2.resize(blobs, size[1::-1], interpolation=cv2.INTER_CUBIC)
                if len(size) == 3:
                    pixels[..., 2] //= 3  # little red, so that exchanged channels are detected
                cv2.imwrite(str(root / split / name / f"{i}.png"), pixels)
    return root


@pytest.fixture(scope="module")
def rgb_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rgb") / "checkpoints" / "best.ckpt"
    return write_checkpoint(path, 3).parents[1]


@pytest.fixture(scope="module")
def grey_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("grey") / "checkpoints" / "best.ckpt"
    return write_checkpoint(path, 1).parents[1]


def torch_logits(run: Path, images: list[np.ndarray]) -> torch.Tensor:
    net, _ = restore(find_checkpoint(run))
    resized = np.stack([Resize(SIZE, 3)(image) for image in images]).transpose(0, 3, 1, 2)
    with torch.inference_mode():
        return net(torch.from_numpy(resized.copy()))


@pytest.mark.parametrize(
    ("channels", "backend"),  # grey ONNX is left out: the export is slow and adds no coverage
    [(1, "torch"), (1, "openvino"), (3, "torch"), (3, "openvino"), (3, "onnx")],
)
def test_live_equals_evaluation(
    image_folder: Path, grey_run: Path, rgb_run: Path, channels: int, backend: str
) -> None:
    """Image files through the dataset, and through OpenCV and the classifier, as a camera's."""
    run = grey_run if channels == 1 else rgb_run
    net, card = restore(find_checkpoint(run))
    cfg = composed("data=image_folder", f"data.path={image_folder}", "data.batch_size=3")
    data = EmotionData(cfg["data"], ("train", "val"))
    data.prepare_for(card["input"]["image_size"], card["input"]["channels"])
    evaluated = predict(net, data.val_dataloader(), "cpu").logits.numpy()
    frames = [cv2.imread(str(image_folder / name)) for name in data.split("val").names]
    assert len(frames) == 8 and all(frame is not None for frame in frames)
    classifier = open_classifier(run, backend)
    live = classifier.logits([cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) for frame in frames])
    assert np.ptp(evaluated, axis=0).max() > 1, "the logits do not vary by image"
    np.testing.assert_allclose(live, evaluated, rtol=1e-5, atol=1e-5)
    # A grey image may have one channel.
    is_grey = [bool((frame == frame[..., :1]).all()) for frame in frames]
    single = [frame[..., :1] for frame, grey in zip(frames, is_grey, strict=True) if grey]
    assert len(single) == 2
    np.testing.assert_allclose(classifier.logits(single), evaluated[is_grey], rtol=1e-5, atol=1e-5)
    # Exchanged channels change the result.
    difference = np.abs(classifier.logits(frames) - evaluated).max(1)
    assert difference[np.logical_not(is_grey)].min() > 0.01


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_backend_equals_torch_for_every_batch_size(rgb_run: Path, backend: str) -> None:
    classifier = open_classifier(rgb_run, backend)
    assert backend in classifier.runtime_name and "fp32" in classifier.runtime_name
    images = random_faces(*SIZES)
    expected = torch_logits(rgb_run, images).softmax(1).numpy()
    for count in (*range(1, 10), 2, 9, 1):
        probabilities = classifier(images[:count])
        assert probabilities.dtype == np.float32 and probabilities.shape == (count, len(NAMES))
        np.testing.assert_allclose(probabilities, expected[:count], atol=1e-5)
    assert classifier([]).shape == (0, len(NAMES))


def test_card_of_the_checkpoint_is_used(tmp_path: Path, capsys: Any) -> None:
    path = write_checkpoint(tmp_path / "checkpoints" / "best.ckpt", 3, temperature=2.5)
    classifier = open_classifier(tmp_path, "torch")
    assert capsys.readouterr().out == "" and classifier.runtime_name.startswith("torch ")
    assert classifier.classes == NAMES and classifier.temperature == 2.5
    assert (classifier.spec.image_size, classifier.spec.channels) == (SIZE, 3)
    assert classifier.crop_margin == 0.25
    images = random_faces(*SIZES[:4])
    logits = torch_logits(tmp_path, images)
    probabilities = load_classifier(path, "torch")(images)
    np.testing.assert_allclose(probabilities, (logits / 2.5).softmax(1).numpy(), atol=1e-6)
    assert np.abs(probabilities - logits.softmax(1).numpy()).max() > 0.05
    assert list(path.parent.iterdir()) == [path]


def test_other_arrays_are_rejected(grey_run: Path) -> None:
    classifier = open_classifier(grey_run, "torch")
    face = np.zeros((5, 5, 3), np.uint8)
    for bad in (face[:, :, 0], face[:0], face.astype(np.float32), np.zeros((5, 5, 4), np.uint8)):
        with pytest.raises(ValueError, match="expected a face as uint8"):
            classifier([face, bad])


def test_openvino_sends_no_telemetry(tmp_path: Path) -> None:
    skip_without("openvino")
    code = (
        "from emotion_lab.inference.openvino_core import import_openvino; import sys;"
        "ov = import_openvino(); assert ov.tools.ovc.telemetry_utils.tm.__name__.endswith('stub');"
        "assert not [m for m in sys.modules if m.startswith('openvino_telemetry.')]"
    )
    environment = {k: v for k, v in os.environ.items() if k != "CI"} | {"HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=200)
    assert not (tmp_path / "intel").exists()


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="Windows has no such signal")
def test_signal_after_two_classifiers_are_destroyed(grey_run: Path, tmp_path: Path) -> None:
    """With one OpenVINO core per classifier, this was a segmentation fault."""
    skip_without("openvino")
    (tmp_path / "program.py").write_text(
        "import gc, os, signal, sys\n"
        "from emotion_lab.inference.classifier import load_classifier\n"
        "first = load_classifier(sys.argv[1], 'openvino')\n"
        "second = load_classifier(sys.argv[1], 'openvino')\n"
        "del first; gc.collect()\n"
        "del second; gc.collect()\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('received'))\n"
        "os.kill(os.getpid(), signal.SIGUSR1)\n"
    )
    done = command(str(grey_run), module="program", cwd=tmp_path)
    assert done.returncode == 0 and "received" in done.stdout, done.stderr


def test_every_backend_has_a_config_file() -> None:
    files = {path.stem: path for path in (CONF / "backend").glob("*.yaml")}
    assert sorted(files) == sorted([*BACKENDS.names(), "base"])
    assert yaml.safe_load(files.pop("base").read_text()) == DEFAULTS
    for name, path in files.items():
        assert yaml.safe_load(path.read_text()) == {"defaults": ["base", "_self_"], "name": name}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("openvin", "Unknown backend 'openvin'. Did you mean 'openvino'?"),
        ({"name": "torch", "precision": "bf16"}, "backend.precision=bf16 is not for backend=torch"),
        ({"name": "torch", "precision": "int8"}, "expected one of auto, fp32, bf16"),
        ({"name": "torch", "device": "tpu"}, "expected one of auto, cpu, cuda"),
        ({"name": "torch", "threads": 0}, "backend.threads=0 is not valid"),
        ({"name": "torch", "thread": 1}, "Did you mean 'backend.threads'?"),
    ],
)
def test_bad_options(grey_run: Path, options: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_classifier(grey_run, options)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_bad_checkpoints(grey_run: Path, tmp_path: Path) -> None:
    good = find_checkpoint(grey_run).read_bytes()
    path = tmp_path / "bad.ckpt"

    def check_error(message: str, backend: str = "torch") -> None:
        with pytest.raises(UserError, match=message) as caught:
            open_classifier(path, backend)
        assert "\n" not in str(caught.value)

    check_error("no such checkpoint")
    path.write_bytes(good[: len(good) // 2])
    check_error("truncated or not a checkpoint")
    torch.save({"state_dict": {"weight": torch.ones(2)}}, path)
    check_error("not a checkpoint of emotion_lab")
    content = ckpt.read(find_checkpoint(grey_run))
    card = content[ckpt.CARD]
    for change in (
        {"temperature": 0.0},
        {"temperature": None},
        {"classes": []},
        {"input": {**card["input"], "crop_margin": float("nan")}},
        {"input": {"image_size": 32}},
    ):
        ckpt.write(path, {**content, ckpt.CARD: {**card, **change}})
        check_error("damaged: its card is incomplete")
    weights = {key: value * float("nan") for key, value in content["state_dict"].items()}
    ckpt.write(path, {**content, "state_dict": weights})
    check_error("no finite numbers")
    check_error("no finite numbers", "openvino")


def test_invalid_boxes(grey_run: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    boxes = np.array([(1e9, -1e9, 3, 3), (-5e8, 0, 1e9, 1e9), (3, 3, -4, 2)], np.float32)
    landmarks = np.full((3, 5, 2), np.nan, np.float32)
    for align in (False, True):
        crops = crop_faces(image, boxes, 0.1, landmarks, align)
        assert all(crop.size and max(crop.shape) <= 160 for crop in crops)
        np.testing.assert_array_equal(np.unique(crops[0].reshape(-1, 3), axis=0), [image[0, -1]])
        assert np.isfinite(open_classifier(grey_run, "torch")(crops)).all()
    assert crop_faces(image, np.zeros((0, 4), np.float32), 0.1) == []
    with pytest.raises(ValueError, match="no finite numbers"):
        crop_faces(image, np.array([(0, 0, np.nan, 1)]), 0.1)
    with pytest.raises(ValueError, match="expected an image"):
        crop_faces(image[:0], boxes, 0.1)
