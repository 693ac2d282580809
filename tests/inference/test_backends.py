"""From a checkpoint to a runtime that says what PyTorch says; bad input is one line."""

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
from emotion_lab.data.datamodule import EmotionData
from emotion_lab.data.transforms import Resize
from emotion_lab.evaluation.predict import predict
from emotion_lab.inference import classifier as classifier_module
from emotion_lab.inference.base import DEFAULTS, RUNTIMES
from emotion_lab.inference.classifier import Classifier, load_classifier
from emotion_lab.inference.face_crop import crop_faces
from emotion_lab.models.base import build_model
from emotion_lab.models.load import restore
from emotion_lab.training.fit import make_card
from tests.conftest import TINY, composed

NAMES = ["neutral", "zest", "fear", "angry", "happy"]
SIZE = 32


@pytest.fixture(autouse=True)
def one_warm_face(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading runs batches of eight sizes; these tests load many times."""
    monkeypatch.setattr(classifier_module, "WARM_FACES", 1)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of pictures as users have: colour and grey, none of the network's size."""
    root = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("happy", "sad"):
            (root / split / name).mkdir(parents=True)
            for i, size in enumerate([(40, 50, 3), (21, 30, 3), (32, 32, 3), (60, 20)]):
                blobs = generator.integers(0, 256, (3, 3, *size[2:]), dtype=np.uint8)
                pixels = cv2.resize(blobs, size[1::-1], interpolation=cv2.INTER_CUBIC)
                if len(size) == 3:
                    pixels[..., 2] //= 3  # little red: swapping the ends shows
                cv2.imwrite(str(root / split / name / f"{i}.png"), pixels)
    return root


def write(path: Path, channels: int, seed: int = 0, **changes: Any) -> Path:
    """Write a checkpoint as a run would leave it, of a network that is untrained but decided."""
    cfg = composed(
        *TINY, f"model.image_size={SIZE}", f"model.channels={channels}", "data.crop_margin=0.25"
    )
    torch.manual_seed(seed)
    net, spec = build_model(cfg["model"], len(NAMES))
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.weight, 1, 0.3)
            torch.nn.init.normal_(module.bias, 0, 0.3)
    torch.nn.init.normal_(net.backbone.net.classifier.weight, 0, 2)
    data = EmotionData(cfg["data"], ("val",))
    card = {**make_card(cfg, data, spec, {}), "classes": NAMES, **changes}
    state = {f"model.{key}": value for key, value in net.state_dict().items()}
    ckpt.write(path, {"state_dict": state, ckpt.CARD: card})
    return path


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run folder of a colour network."""
    return write(tmp_path_factory.mktemp("rgb") / "checkpoints" / "best.ckpt", 3).parents[1]


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run folder of a grey network."""
    return write(tmp_path_factory.mktemp("grey") / "checkpoints" / "best.ckpt", 1).parents[1]


def has_openvino() -> bool:
    """Tell, without pytest.importorskip: that would import it with its telemetry."""
    from emotion_lab.inference.openvino_core import import_openvino

    try:
        import_openvino()
    except ImportError:
        return False
    return True


def load(run: Path, name: str, **options: Any) -> Classifier:
    """Load with one thread; skip where the runtime is not installed."""
    if name == "onnx":
        for package in ("onnxruntime", "onnx", "onnxscript"):
            pytest.importorskip(package)
    if name == "openvino" and not has_openvino():
        pytest.skip("openvino is not installed")
    if name == "openvino":
        options.setdefault("precision", "fp32")  # by itself it is bf16 where the CPU has it
    return load_classifier(run, {"name": name, **options}, threads=1)


def faces(count: int, seed: int = 0) -> list[np.ndarray]:
    """Return blurred noise of many shapes, RGB, the channels unlike."""
    generator = np.random.default_rng(seed)
    sizes = generator.integers(8, 90, (count, 2))
    images = [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    return [cv2.blur(image, (5, 5)) // np.uint8([1, 2, 4]) for image in images]


# --- the same as training -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "runtime"),  # no grey with onnx: exporting is slow, and colour shows as much
    [(1, "torch"), (1, "openvino"), (3, "torch"), (3, "openvino"), (3, "onnx")],
)
def test_live_and_training_say_the_same(
    pictures: Path, grey: Path, colour: Path, channels: int, runtime: str
) -> None:
    """Files through training's loader, and through OpenCV and the classifier as a camera's."""
    run = grey if channels == 1 else colour
    net, card = restore(ckpt.find(run))
    cfg = composed("data=image_folder", f"data.path={pictures}", "data.batch_size=3")
    data = EmotionData(cfg["data"], ("train", "val"))
    data.prepare_for(card["input"]["image_size"], card["input"]["channels"])
    trained = predict(net, data.val_dataloader(), "cpu").logits.numpy()
    names = data.split("val").names
    shot = [cv2.imread(str(pictures / name)) for name in names]
    assert len(shot) == 8 and all(image is not None for image in shot)
    classifier = load(run, runtime)
    live = classifier.logits([cv2.cvtColor(image, cv2.COLOR_BGR2RGB) for image in shot])
    assert np.ptp(trained, axis=0).max() > 1, "the network says one thing, no test"
    np.testing.assert_allclose(live, trained, rtol=1e-5, atol=1e-5)
    # A grey picture may also come with one channel.
    single = [image[..., :1] for image in shot if (image == image[..., :1]).all()]
    flat = [i for i, image in enumerate(shot) if (image == image[..., :1]).all()]
    assert len(single) == 2
    np.testing.assert_allclose(classifier.logits(single), trained[flat], rtol=1e-5, atol=1e-5)
    # Were red and blue mixed up, it would show.
    swapped = classifier.logits(shot)
    tinted = [i for i in range(len(shot)) if i not in flat]
    assert np.abs(swapped - trained)[tinted].max(1).min() > 0.01


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_runtimes_say_what_torch_says(colour: Path, runtime: str) -> None:
    classifier = load(colour, runtime)
    assert runtime in classifier.runtime_name and "fp32" in classifier.runtime_name
    net, _ = restore(ckpt.find(colour))
    images = faces(9)
    fitted = np.stack([Resize(SIZE, 3)(image) for image in images]).transpose(0, 3, 1, 2)
    with torch.inference_mode():
        expected = net(torch.from_numpy(fitted.copy())).softmax(1).numpy()
    for count in (*range(1, 10), 2, 9, 1):
        found = classifier(images[:count])
        assert found.dtype == np.float32 and found.shape == (count, len(NAMES))
        np.testing.assert_allclose(found, expected[:count], atol=1e-5)
    assert classifier([]).shape == (0, len(NAMES))


def test_what_the_checkpoint_says_is_used(tmp_path: Path, capsys: Any) -> None:
    path = write(tmp_path / "checkpoints" / "best.ckpt", 3, temperature=2.5)
    classifier = load(tmp_path, "torch")
    said = capsys.readouterr().out
    assert said.startswith("classifier: torch") and said.count("\n") == 1
    assert classifier.classes == NAMES and classifier.temperature == 2.5
    assert (classifier.spec.image_size, classifier.spec.channels) == (SIZE, 3)
    assert classifier.crop_margin == 0.25 and classifier.card["format"] == ckpt.FORMAT
    images = faces(4)
    net, _ = restore(path)
    fitted = np.stack([Resize(SIZE, 3)(image) for image in images]).transpose(0, 3, 1, 2)
    with torch.inference_mode():
        logits = net(torch.from_numpy(fitted.copy()))
    found = load_classifier(path, "torch")(images)
    np.testing.assert_allclose(found, (logits / 2.5).softmax(1).numpy(), atol=1e-6)
    assert np.abs(found - logits.softmax(1).numpy()).max() > 0.05
    assert sorted(os.listdir(path.parent)) == ["best.ckpt"]


def test_only_faces_are_taken(grey: Path) -> None:
    classifier = load(grey, "torch")
    good = np.zeros((5, 5, 3), np.uint8)
    for bad in (good[:, :, 0], good[:0], good.astype(np.float32), np.zeros((5, 5, 4), np.uint8)):
        with pytest.raises(ValueError, match="expected a face as uint8"):
            classifier([good, bad])


# --- what is installed ----------------------------------------------------------------------------


def test_openvino_does_not_phone_home(tmp_path: Path) -> None:
    if not has_openvino():
        pytest.skip("openvino is not installed")
    code = (
        "from emotion_lab.inference.openvino_core import import_openvino; import sys;"
        "ov = import_openvino(); assert ov.tools.ovc.telemetry_utils.tm.__name__.endswith('stub');"
        "assert not [m for m in sys.modules if m.startswith('openvino_telemetry.')]"
    )
    environment = {k: v for k, v in os.environ.items() if k != "CI"} | {"HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=200)
    assert not (tmp_path / "intel").exists()


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signal on Windows")
def test_a_signal_after_classifiers_came_and_went(grey: Path) -> None:
    """Two that end in the order in which they came; with a core each, this was a crash."""
    if not has_openvino():
        pytest.skip("openvino is not installed")
    code = (
        "import gc, os, signal, sys\n"
        "from emotion_lab.inference.classifier import load_classifier\n"
        "first = load_classifier(sys.argv[1], 'openvino')\n"
        "second = load_classifier(sys.argv[1], 'openvino')\n"
        "del first; gc.collect()\n"
        "del second; gc.collect()\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('heard'))\n"
        "os.kill(os.getpid(), signal.SIGUSR1)\n"
    )
    command = [sys.executable, "-c", code, str(grey)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0 and "heard" in done.stdout, done.stderr


def test_runtimes_and_their_yaml_are_the_same() -> None:
    files = {path.stem: path for path in (CONF / "backend").glob("*.yaml")}
    assert sorted(files) == sorted([*RUNTIMES.names(), "base"])
    base = yaml.safe_load(files.pop("base").read_text())
    assert base == DEFAULTS
    for name, path in files.items():
        assert yaml.safe_load(path.read_text()) == {"defaults": ["base", "_self_"], "name": name}


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("openvin", "Unknown runtime 'openvin'. Did you mean 'openvino'?"),
        ({"name": "torch", "precision": "bf16"}, "backend.precision=bf16 is not for backend=torch"),
        ({"name": "torch", "precision": "int8"}, "expected auto, fp32, bf16"),
        ({"name": "torch", "device": "tpu"}, "expected auto, cpu, cuda"),
        ({"name": "torch", "threads": 0}, "backend.threads=0 is not valid"),
        ({"name": "torch", "thread": 1}, "Did you mean 'backend.threads'?"),
    ],
)
def test_bad_options(grey: Path, options: Any, said: str) -> None:
    with pytest.raises(UserError) as caught:
        load_classifier(grey, options)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_bad_checkpoints(grey: Path, tmp_path: Path) -> None:
    good = ckpt.find(grey).read_bytes()
    path = tmp_path / "bad.ckpt"

    def refused(said: str, runtime: str = "torch") -> None:
        with pytest.raises(UserError, match=said) as caught:
            load_classifier(path, runtime)
        assert "\n" not in str(caught.value)

    refused("no such checkpoint")
    path.write_bytes(good[: len(good) // 2])
    refused("truncated or not a checkpoint")
    torch.save({"state_dict": {"weight": torch.ones(2)}}, path)
    refused("not a checkpoint of emotion_lab")
    content = ckpt.read(ckpt.find(grey))
    card = content[ckpt.CARD]
    for change in (
        {"temperature": 0.0},
        {"temperature": None},
        {"classes": []},
        {"input": {**card["input"], "crop_margin": float("nan")}},
        {"input": {"image_size": 32}},
    ):
        ckpt.write(path, {**content, ckpt.CARD: {**card, **change}})
        refused("damaged: its card is not whole")
    weights = {key: value * float("nan") for key, value in content["state_dict"].items()}
    ckpt.write(path, {**content, "state_dict": weights})
    refused("no finite numbers")
    if has_openvino():
        refused("no finite numbers", "openvino")


# --- crops ----------------------------------------------------------------------------------------


def test_mad_boxes(grey: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    boxes = np.array([(1e9, -1e9, 3, 3), (-5e8, 0, 1e9, 1e9), (3, 3, -4, 2)], np.float32)
    unknown = np.full((3, 5, 2), np.nan, np.float32)
    for align in (False, True):
        crops = crop_faces(image, boxes, 0.1, unknown, align)
        assert all(crop.size and max(crop.shape) <= 160 for crop in crops)
        np.testing.assert_array_equal(np.unique(crops[0].reshape(-1, 3), axis=0), [image[0, -1]])
        assert np.isfinite(load(grey, "torch")(crops)).all()
    assert crop_faces(image, np.zeros((0, 4), np.float32), 0.1) == []
    with pytest.raises(ValueError, match="no finite numbers"):
        crop_faces(image, np.array([(0, 0, np.nan, 1)]), 0.1)
    with pytest.raises(ValueError, match="expected an image"):
        crop_faces(image[:0], boxes, 0.1)
