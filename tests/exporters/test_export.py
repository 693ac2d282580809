"""Exported files say what the checkpoint says, carry what they are, and prove it."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from emotion_lab.core.errors import UserError
from emotion_lab.data.transforms import Resize
from emotion_lab.exporters import verify as certifying
from emotion_lab.exporters.base import FORMATS, CalibrationData
from emotion_lab.exporters.graph import Preprocess
from emotion_lab.exporters.verify import (
    ReferencePredictions,
    certify,
    compare,
    eager,
    failures,
    predict_all,
)
from emotion_lab.exporters.writer import export, file_name
from emotion_lab.inference import openvino_core
from emotion_lab.inference.loader import PIXELS, load
from emotion_lab.models.base import InputSpec, build_model
from emotion_lab.models.ensemble import Ensemble
from tests.models.test_models import small

for package in ("onnx", "onnxscript", "onnxruntime", "openvino"):
    if not __import__("importlib.util").util.find_spec(package):
        pytest.skip(f"{package} is not installed", allow_module_level=True)

NAMES = ["neutral", "zest", "fear", "angry", "happy"]
BACKBONES = ("cnn", "senet", "googlenet", "mobilenetv3", "efficientnet_b3", "vit")


def card_of(net: Any, name: str = "senet", **changes: Any) -> dict[str, Any]:
    spec = net.spec
    given = {"image_size": spec.image_size, "channels": spec.channels, "crop_margin": 0.1}
    return {
        "classes": NAMES,
        "temperature": 1.7,
        "input": {**given, "mean": list(spec.mean), "std": list(spec.std)},
        "config": {"model": {"name": name}, "data": {"name": "synthetic"}},
        **changes,
    }


def decided(name: str, seed: int = 0, **overrides: Any) -> Any:
    """Return a small network whose answers differ by image."""
    torch.manual_seed(seed)
    net, _ = build_model(small(name, **overrides), len(NAMES))
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
            torch.nn.init.normal_(module.weight, 1, 0.3)
    # As after training: statistics of such images, and logits of some size that differ by image.
    images = np.stack(faces(*[(48, 48)] * 12, seed=1))
    images = Preprocess(net.spec)(torch.from_numpy(images))
    with torch.no_grad():
        net.train()(images)
        logits = net.eval()(images)
        last = [m for m in net.modules() if isinstance(m, torch.nn.Linear)][-1]
        last.weight /= logits.std(0).mean()
        last.bias -= logits.mean(0)
        last.bias /= logits.std(0).mean()
    return net


def faces(*sizes: tuple[int, int], seed: int = 0) -> list[np.ndarray]:
    """Return blurred noise, RGB, the channels unlike."""
    generator = np.random.default_rng(seed)
    images = [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    return [cv2.blur(image, (5, 5)) // np.uint8([1, 2, 4]) for image in images]


def known_of(net: Any, card: dict[str, Any], images: list[np.ndarray]) -> ReferencePredictions:
    """Return what PyTorch says, with its own answers for labels."""
    given = predict_all(eager(net, card["temperature"]), images)
    names = [f"face {i}" for i in range(len(images))]
    return ReferencePredictions(images, given.argmax(1), names, card["classes"], given)


SIZES = [(48, 48)] * 6 + [(30, 20), (90, 120), (96, 96), (47, 200), (20, 16)]


# --- the shell ------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "channels"), [(48, 1), (64, 3), (37, 1)])
def test_the_graph_prepares_faces_as_training_does(size: int, channels: int) -> None:
    """OpenCV's result to the last bit, but for means that lie on the edge of rounding."""
    prepare = Preprocess(InputSpec(size, channels, (0.5,) * channels, (0.5,) * channels))
    fit = Resize(size, channels)
    generator = np.random.default_rng(0)
    shapes = [(size, size), (2 * size, 2 * size), (3 * size, 2 * size), (size, 2 * size), (1, 1)]
    shapes += [(size - 1, 3 * size), (7, 5), (2 * size + 3, size)]
    shapes += [tuple(generator.integers(2, 200, 2)) for _ in range(20)]
    for height, width in shapes:
        image = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        expected = fit(image).transpose(2, 0, 1).astype(int)
        found = prepare(torch.from_numpy(image[None]))[0].numpy().astype(int)
        off = np.abs(found - expected)
        assert off.max() <= 1 and (off > 0).mean() < 0.002, (height, width)
        if min(height, width) < size or height % size == width % size == 0:
            assert off.max() == 0, (height, width)


# --- every network, every format ------------------------------------------------------------


@pytest.mark.parametrize("name", BACKBONES)
def test_every_network_exports_to_onnx(name: str, tmp_path: Path) -> None:
    net = decided(name, channels=1 if name in ("cnn", "senet") else 3)
    card = card_of(net, name)
    known = known_of(net, card, faces(*SIZES))
    path = export(net, card, "onnx", "fp32", tmp_path / file_name(card, "onnx", "fp32"))
    assert path.name == f"{name}.fp32.onnx" and [path] == list(tmp_path.iterdir())
    # Differences by image, so that agreement means something.
    assert known.probabilities.std(0).max() > 1e-3
    found = certify(path, "onnx", "fp32", known)
    assert found["passed"] and found["label_flips"] == 0 and found["max_drift"] < 5e-5, found
    # Any batch.
    batch = np.stack(known.faces[:5])
    alone = np.concatenate([load(path, 1).run(batch[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(load(path, 1).run(batch), alone, atol=1e-5)


@pytest.mark.parametrize(
    ("format", "precision"),
    [
        ("openvino", "fp32"),
        ("openvino", "fp16"),
        ("openvino", "bf16"),
        ("torchscript", "fp32"),
        ("torch_export", "fp32"),
        ("onnx", "fp16"),
    ],
)
def test_every_format(format: str, precision: str, tmp_path: Path) -> None:
    net = decided("senet")
    card = card_of(net)
    known = known_of(net, card, faces(*SIZES))
    kind = FORMATS.get(format)()
    path = tmp_path / file_name(card, format, precision)
    try:
        export(net, card, format, precision, path, checkpoint="abc", licence="ours")
        found = certify(path, format, precision, known)
    except UserError as error:
        if precision == "bf16" and "no instructions" in str(error):
            pytest.skip("this CPU computes no bfloat16")
        raise
    assert sorted(tmp_path.iterdir()) == sorted(kind.files(path))
    exact = precision == "fp32"
    # A small random network with large logits: what bfloat16 makes of it was 0.01 to 0.10 by seed.
    assert found["max_drift"] < {"fp32": 1e-5, "bf16": 0.2}.get(precision, 0.1)
    assert exact or found["max_drift"] > 1e-7  # the lower precision is really there
    assert found["run_precision"] == kind.run_precision(precision)
    meta = load(path, 1).meta
    assert meta["classes"] == NAMES and meta["temperature"] == 1.7 and meta["licence"] == "ours"
    assert meta["checkpoint_sha256"] == "abc" and meta["crop_margin"] == 0.1
    assert meta["input"]["colour"] == "RGB" and meta["precision"] == precision
    for file in kind.files(path):
        content = file.read_bytes()
        assert b"shell.py" not in content and str(Path.cwd()).encode() not in content, file
    # The network itself is as it was.
    assert {p.dtype for p in net.parameters()} == {torch.float32}


@pytest.mark.parametrize("batch", ["dynamic", 4])
def test_bfloat16_is_for_the_network_alone(batch: Any, tmp_path: Path) -> None:
    """Faces of any size reach the network with the pixels that they have in float32."""
    if not openvino_core.computes_bf16():
        pytest.skip("this CPU computes no bfloat16")
    net = decided("senet")
    path = export(net, card_of(net), "openvino", "bf16", tmp_path / "senet.bf16.xml", batch=batch)
    read = openvino_core.core().read_model
    exact, rough = (openvino_core.split(read(path), PIXELS)[0] for _ in range(2))
    pixels, lost = openvino_core.start(exact, "fp32", 1), openvino_core.start(rough, "bf16", 1)
    for size in ((48, 48), (96, 96), (70, 90), (30, 20)):
        given = np.stack(faces(*[size] * 4))
        expected = Preprocess(net.spec)(torch.from_numpy(given)).numpy()
        np.testing.assert_array_equal(pixels(given), expected)
        if size[0] > 48:  # these faces are too dark for 48 by 48 to lose a bit
            assert (lost(given) != expected).mean() > 0.01, "why it is done"
    # The runtime does so: what it says is what the network says in bfloat16 of those pixels.
    given = np.stack(faces(*[(96, 96)] * 4))
    network = openvino_core.start(openvino_core.split(read(path), PIXELS)[1], "bf16", 1)
    found = load(path, 1).run(given)
    np.testing.assert_array_equal(
        found, network(Preprocess(net.spec)(torch.from_numpy(given)).numpy())
    )


def test_a_graph_that_cannot_be_cut(tmp_path: Path) -> None:
    net = decided("cnn")
    path = export(net, card_of(net), "openvino", "fp32", tmp_path / "cnn.fp32.xml")
    with pytest.raises(ValueError, match="no tensor is called nothing"):
        openvino_core.split(openvino_core.core().read_model(path), "nothing")


@pytest.mark.parametrize("format", ["onnx", "openvino", "torch_export"])
def test_a_batch_nailed_down(format: str, tmp_path: Path) -> None:
    net = decided("senet")
    card = card_of(net)
    path = export(net, card, format, "fp32", tmp_path / file_name(card, format, "fp32"), batch=4)
    model, given = load(path, 1), np.stack(faces(*[(40, 50)] * 6))
    expected = predict_all(eager(net, 1.7), list(given))
    for count in (1, 4, 6):
        np.testing.assert_allclose(model.run(given[:count]), expected[:count], atol=1e-5)
    if format == "onnx":
        import onnx

        shape = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
        assert shape[0].dim_value == 4 and shape[3].dim_value == 3


def test_an_ensemble_is_one_graph(tmp_path: Path) -> None:
    nets = [decided("senet", seed=i) for i in range(2)]
    together = Ensemble(nets, [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0]], [0.3, 0.7]).eval()
    card = {**card_of(nets[0]), "temperature": 1.0, "members": [card_of(net) for net in nets]}
    known = known_of(together, card, faces(*SIZES))
    path = export(together, card, "onnx", "fp32", tmp_path / file_name(card, "onnx", "fp32"))
    assert path.name == "ensemble.fp32.onnx" and load(path).meta["model"] == ["senet", "senet"]
    assert certify(path, "onnx", "fp32", known)["passed"]


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_int8(format: str, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    net = decided("cnn")
    card = card_of(net, "cnn")
    images = faces(*[(48, 48)] * 40)
    known = known_of(net, card, images)
    path = tmp_path / file_name(card, format, "int8")
    export(net, card, format, "int8", path, CalibrationData(images, known.labels, max_drop=1.0))
    plain = export(net, card, format, "fp32", tmp_path / file_name(card, format, "fp32"))
    found = certify(path, format, "int8", known)
    weights = [FORMATS.get(format)().files(file)[0].stat().st_size for file in (path, plain)]
    assert 1e-4 < found["mean_drift"] < 0.1 and weights[0] < 0.75 * weights[1], (found, weights)
    with pytest.raises(UserError, match="int8 needs calibration images"):
        export(net, card, format, "int8", tmp_path / path.name)


@pytest.mark.parametrize("format", ["onnx", "openvino", "torchscript", "torch_export"])
def test_a_disk_that_is_full(format: str, tmp_path: Path) -> None:
    """One line, nothing left behind; of torch itself the whole process would end."""
    resource = pytest.importorskip("resource", reason="Windows has no limits of this kind")
    net = decided("cnn")
    file = tmp_path / file_name(card_of(net, "cnn"), format, "fp32")
    # Files may grow to 10 kB, which fails as a full disk does; OpenVINO's graph alone is more.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises((OSError, UserError)) as caught:
            export(net, card_of(net, "cnn"), format, "fp32", file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert isinstance(caught.value, OSError) or "is the disk full?" in str(caught.value)
    assert "Try another format" not in str(caught.value) and not list(tmp_path.iterdir())


# --- certificates ---------------------------------------------------------------------------


def reference(n: int = 2000) -> ReferencePredictions:
    generator = np.random.default_rng(0)
    given = generator.dirichlet(np.ones(5) * 0.3, n)
    labels = np.where(generator.random(n) < 0.7, given.argmax(1), generator.integers(0, 5, n))
    names = [f"row {i}" for i in range(n)]
    return ReferencePredictions([np.zeros((4, 4, 3), np.uint8)] * n, labels, names, NAMES, given)


def test_what_a_certificate_counts() -> None:
    known = reference()
    same = compare(known, known.probabilities)
    assert same["label_flips"] == 0 and same["max_drift"] == 0 and same["accuracy_change"] == 0
    assert same["accuracy"] == pytest.approx((known.probabilities.argmax(1) == known.labels).mean())
    off = known.probabilities.copy()
    right = np.flatnonzero(off.argmax(1) == known.labels)[:7]
    off[right] = np.roll(off[right], 1, axis=1)
    found = compare(known, off)
    assert found["label_flips"] == 7 and found["accuracy_change"] == pytest.approx(-7 / 2000)
    low, high = found["accuracy_change_ci95"]
    assert low < -7 / 2000 < high <= 0 and found["macro_f1_change"] < 0
    assert {one["image"] for one in found["worst"][:7]} == {f"row {i}" for i in right}
    assert found["mean_drift"] == pytest.approx(np.abs(off - known.probabilities).mean())


def test_what_fails() -> None:
    known = reference()
    found = compare(known, known.probabilities)
    for precision in ("fp32", "fp16", "bf16", "int8"):
        assert failures(precision, found) == []

    def said(precision: str, **changes: Any) -> str:
        return "; ".join(failures(precision, {**found, **changes}))

    assert "1 of 2,000 labels differ" in said("fp32", label_flips=1)
    assert "most on row" in said("fp32", label_flips=1)
    assert "allowed is 0.0001" in said("fp32", max_drift=2e-4)
    assert "fp32" and said("fp32", max_drift=float("nan"))
    assert not said("fp16", label_flips=6, max_drift=0.1)  # 0.3 % of 2,000
    assert "7 of 2,000" in said("bf16", label_flips=7)
    assert not said("int8", label_flips=300, accuracy_change=-0.005)
    assert "-0.60 points" in said("int8", accuracy_change=-0.006)


def test_int8_has_to_be_faster() -> None:
    plain = {"b1": 2.0, "b8": 10.0, "b1_threads2": 1.0, "b8_threads2": 5.0}
    assert "not worth it here" in (certifying.speedup_verdict({**plain, "b1": 1.95}, plain) or "")
    assert certifying.speedup_verdict({**plain, "b8": 8.0}, plain) is None


def test_latency_is_of_the_network_that_is_named() -> None:
    import time

    def way(seconds: float) -> Any:
        return lambda threads: lambda given: time.sleep(seconds * len(given))

    found = certifying.latency(
        {"slow": way(0.004), "fast": way(0.001)}, np.zeros((4, 4, 3), np.uint8), rounds=1
    )
    assert found["slow"]["b1"] >= 4 and found["slow"]["b8"] >= 32
    assert set(found["fast"]) == set(certifying.WAYS)
    assert found["fast"]["b8"] < found["slow"]["b8"] / 2
