"""Exports of every network in every format: parity with PyTorch, metadata, full disks."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emotion_lab.core.errors import UserError
from emotion_lab.data.transforms import Resize
from emotion_lab.exporters.verify import certify, eager, predict_all
from emotion_lab.inference import openvino_core
from emotion_lab.inference.conversion.base import FORMATS, CalibrationData
from emotion_lab.inference.conversion.graph import Preprocess
from emotion_lab.inference.conversion.writer import export, file_name
from emotion_lab.inference.loader import RunOptions, load, open_graph
from emotion_lab.models.base import InputSpec
from emotion_lab.models.ensemble import Ensemble
from emotion_lab.models.quantities_head import join
from tests.helpers_export import (
    NAMES,
    card_of,
    random_faces,
    reference_of,
    skip_without,
    varied_network,
)

skip_without("onnx", "onnxscript", "onnxruntime", "openvino")

BACKBONES = ("cnn", "senet", "googlenet", "mobilenetv3", "efficientnet_b3", "vit")
SIZES = [(48, 48)] * 6 + [(30, 20), (90, 120), (96, 96), (47, 200), (20, 16)]


def export_to(
    folder: Path, net: Any, card: dict[str, Any], format: str, precision: str = "fp32", **facts: Any
) -> Path:
    path = folder / file_name(card, format, precision)
    return export(net, card, format, precision, path, **facts)


@pytest.mark.parametrize(("size", "channels"), [(48, 1), (64, 3), (37, 1)])
def test_graph_resizes_as_opencv(size: int, channels: int) -> None:
    """Bit-exact, except for means that are close to a rounding boundary."""
    preprocess = Preprocess(InputSpec(size, channels, (0.5,) * channels, (0.5,) * channels))
    resize = Resize(size, channels)
    generator = np.random.default_rng(0)
    shapes = [(size, size), (2 * size, 2 * size), (3 * size, 2 * size), (size, 2 * size), (1, 1)]
    shapes += [(size - 1, 3 * size), (7, 5), (2 * size + 3, size)]
    shapes += [tuple(generator.integers(2, 200, 2)) for _ in range(20)]
    for height, width in shapes:
        image = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        expected = resize(image).transpose(2, 0, 1).astype(int)
        pixels = preprocess(torch.from_numpy(image[None]))[0].numpy().astype(int)
        difference = np.abs(pixels - expected)
        assert difference.max() <= 1 and (difference > 0).mean() < 0.002, (height, width)
        if min(height, width) < size or height % size == width % size == 0:
            assert difference.max() == 0, (height, width)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_network_exports_to_onnx(name: str, tmp_path: Path) -> None:
    net = varied_network(name, channels=1 if name in ("cnn", "senet") else 3)
    card = card_of(net, name)
    reference = reference_of(net, card, random_faces(*SIZES))
    path = export_to(tmp_path, net, card, "onnx")
    assert path.name == f"{name}.fp32.onnx" and [path] == list(tmp_path.iterdir())
    assert reference.probabilities.std(0).max() > 1e-3, "the predictions do not vary by image"
    certificate = certify(path, "onnx", "fp32", reference)
    assert certificate["passed"] and certificate["label_flips"] == 0, certificate
    assert certificate["max_drift"] < 5e-5
    assert "quantities" not in certificate and load(path, 1).quantities == []
    batch = np.stack(reference.faces[:5])
    single = np.concatenate([load(path, 1).run(batch[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(load(path, 1).run(batch), single, atol=1e-5)


@pytest.mark.parametrize(
    ("format", "precision"),
    [
        *(("openvino", precision) for precision in ("fp32", "fp16", "bf16")),
        *(("torchscript", "fp32"), ("torch_export", "fp32"), ("onnx", "fp16")),
    ],
)
def test_every_format(format: str, precision: str, tmp_path: Path) -> None:
    learned = ["valence", "intensity"]
    net = join(varied_network("senet", quantities=learned))
    card = card_of(net, quantities=learned)
    reference = reference_of(net, card, random_faces(*SIZES))
    kind = FORMATS.get(format)()
    try:
        path = export_to(tmp_path, net, card, format, precision, checkpoint="abc", licence="ours")
        certificate = certify(path, format, precision, reference)
    except UserError as error:
        if precision == "bf16" and "no instructions" in str(error):
            pytest.skip("this CPU has no bfloat16 instructions")
        raise
    assert sorted(tmp_path.iterdir()) == sorted(kind.files(path))
    # A small random network with large logits: bfloat16 differed by 0.01 to 0.10, by seed.
    assert certificate["max_drift"] < {"fp32": 1e-5, "bf16": 0.2}.get(precision, 0.1)
    # The lower precision is in effect.
    assert precision == "fp32" or certificate["max_drift"] > 1e-7
    assert certificate["run_precision"] == kind.run_precision(precision)
    drifts = certificate["quantities"]
    assert list(drifts) == learned and max(d["mean_drift"] for d in drifts.values()) < 0.1
    assert precision != "fp32" or drifts["valence"]["max_drift"] < 1e-5
    assert min(values.std() for values in reference.quantities.values()) > 0.01
    meta = load(path, 1).meta
    assert meta["quantities"]["columns"] == load(path, 1).quantities == learned
    assert meta["quantities"]["ranges"] == [[-1, 1], [0, 1]]
    assert meta["classes"] == NAMES and meta["temperature"] == 1.7 and meta["licence"] == "ours"
    assert meta["checkpoint_sha256"] == "abc" and meta["crop_margin"] == 0.1
    assert meta["input"]["colour"] == "RGB" and meta["precision"] == precision
    for file in kind.files(path):
        content = file.read_bytes()
        assert b"graph.py" not in content and str(Path.cwd()).encode() not in content, file
    # The network is not modified.
    assert {p.dtype for p in net.parameters()} == {torch.float32}


@pytest.mark.parametrize("format", ["onnx", "openvino", "torchscript", "torch_export"])
def test_graph_without_resizing(format: str, tmp_path: Path) -> None:
    """It maps resized images to the logits of the network."""
    net = varied_network("cnn")
    path = tmp_path / f"net{FORMATS.get(format).suffix}"
    export(net, card_of(net, "cnn"), format, "fp32", path, resize=False, extra={"note": 1})
    meta, run = open_graph(path, RunOptions(threads=1))
    assert meta["note"] == 1 and meta["input"]["layout"] == "NCHW"
    shape = (5, net.spec.channels, net.spec.image_size, net.spec.image_size)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with torch.no_grad():
        expected = net(torch.from_numpy(images)).numpy()
    for count in (5, 1):
        np.testing.assert_allclose(run(images[:count]), expected[:count], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch", ["dynamic", 4])
def test_bfloat16_applies_to_the_network_only(batch: Any, tmp_path: Path) -> None:
    """The network receives the pixels of float32, for faces of any size."""
    if not openvino_core.computes_bf16():
        pytest.skip("this CPU has no bfloat16 instructions")
    net = varied_network("senet")
    path = export_to(tmp_path, net, card_of(net), "openvino", "bf16", batch=batch)

    def parts() -> tuple[Any, Any]:
        model = openvino_core.core().read_model(path)
        return openvino_core.split(model, openvino_core.PIXELS)

    in_fp32 = openvino_core.start(parts()[0], "fp32", 1)
    in_bf16 = openvino_core.start(parts()[0], "bf16", 1)
    for size in ((48, 48), (96, 96), (70, 90), (30, 20)):
        faces = np.stack(random_faces(*[size] * 4))
        expected = Preprocess(net.spec)(torch.from_numpy(faces)).numpy()
        np.testing.assert_array_equal(in_fp32(faces), expected)
        if size[0] > 48:  # without resizing these dark faces need no more than 8 bits
            assert (in_bf16(faces) != expected).mean() > 0.01, "resizing in bfloat16 is exact"
    faces = np.stack(random_faces(*[(96, 96)] * 4))
    network = openvino_core.start(parts()[1], "bf16", 1)
    expected = network(Preprocess(net.spec)(torch.from_numpy(faces)).numpy())
    np.testing.assert_array_equal(load(path, 1).run(faces), expected)


def test_split_at_a_missing_tensor(tmp_path: Path) -> None:
    net = varied_network("cnn")
    path = export_to(tmp_path, net, card_of(net), "openvino")
    with pytest.raises(ValueError, match="no tensor is called nothing"):
        openvino_core.split(openvino_core.core().read_model(path), "nothing")


@pytest.mark.parametrize("format", ["onnx", "openvino", "torch_export"])
def test_fixed_batch_size(format: str, tmp_path: Path) -> None:
    net = varied_network("cnn")
    path = export_to(tmp_path, net, card_of(net, "cnn"), format, batch=4)
    model, faces = load(path, 1), np.stack(random_faces(*[(40, 50)] * 6))
    expected = predict_all(eager(net, 1.7), list(faces))
    for count in (1, 4, 6):
        np.testing.assert_allclose(model.run(faces[:count]), expected[:count], atol=1e-5)
    if format == "onnx":
        import onnx

        shape = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
        assert shape[0].dim_value == 4 and shape[3].dim_value == 3


def test_ensemble_is_one_graph(tmp_path: Path) -> None:
    nets = [varied_network("cnn", seed=i) for i in range(2)]
    ensemble = Ensemble(nets, [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0]], [0.3, 0.7]).eval()
    members = [card_of(net, "cnn") for net in nets]
    card = {**members[0], "temperature": 1.0, "members": members}
    reference = reference_of(ensemble, card, random_faces(*SIZES))
    path = export_to(tmp_path, ensemble, card, "onnx")
    assert path.name == "ensemble.fp32.onnx" and load(path).meta["model"] == ["cnn", "cnn"]
    assert certify(path, "onnx", "fp32", reference)["passed"]


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_int8(format: str, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    net = varied_network("cnn")
    card = card_of(net, "cnn")
    images = random_faces(*[(48, 48)] * 40)
    reference = reference_of(net, card, images)
    calibration = CalibrationData(images, reference.labels, max_drop=1.0)
    int8 = export_to(tmp_path, net, card, format, "int8", calibration=calibration)
    fp32 = export_to(tmp_path, net, card, format)
    certificate = certify(int8, format, "int8", reference)
    kind = FORMATS.get(format)()
    sizes = [kind.files(path)[0].stat().st_size for path in (int8, fp32)]
    assert 1e-4 < certificate["mean_drift"] < 0.1 and sizes[0] < 0.75 * sizes[1], sizes
    with pytest.raises(ValueError, match="int8 needs calibration images"):
        export_to(tmp_path, net, card, format, "int8")


@pytest.mark.parametrize("format", ["onnx", "openvino", "torchscript", "torch_export"])
def test_full_disk(format: str, tmp_path: Path) -> None:
    """The error is one line and no file remains; torch's own writer would abort the process."""
    resource = pytest.importorskip("resource", reason="Windows has no file size limits")
    net = varied_network("cnn")
    # A file size limit of 10 kB fails as a full disk does; OpenVINO's graph alone is larger.
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limit[1]))
    try:
        with pytest.raises((OSError, UserError)) as caught:
            export_to(tmp_path, net, card_of(net, "cnn"), format, resize=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert isinstance(caught.value, OSError) or "is the disk full?" in str(caught.value)
    assert "Try another format" not in str(caught.value) and not list(tmp_path.iterdir())
