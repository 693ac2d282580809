"""The public loader: without torch, with damaged or modified files and with invalid input."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import types
import warnings
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from emotion_lab.core.errors import UserError
from emotion_lab.exporters.verify import eager, predict_all
from emotion_lab.inference import loader, metadata
from emotion_lab.inference.conversion.base import FORMATS
from emotion_lab.inference.conversion.writer import export
from emotion_lab.inference.loader import load
from emotion_lab.models.base import build_model
from tests.helpers_export import card_of, skip_without
from tests.models.test_models import small

skip_without("onnx", "onnxscript", "onnxruntime", "openvino")

NAMES = ["neutral", "zest", "fear"]
SUFFIXES = {name: FORMATS.get(name).suffix for name in FORMATS.names()}


@pytest.fixture(scope="module")
def net() -> Any:
    torch.manual_seed(0)
    network = build_model(small("cnn", image_size=32), len(NAMES))[0].eval()
    last = [m for m in network.modules() if isinstance(m, torch.nn.Linear)][-1]
    torch.nn.init.normal_(last.weight, 0, 2)
    return network


@pytest.fixture(scope="module")
def exports(net: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with one file of each format."""
    folder = tmp_path_factory.mktemp("exported")
    card = card_of(net, "cnn", classes=NAMES, temperature=0.8)
    for format, suffix in SUFFIXES.items():
        export(net, card, format, "fp32", folder / f"cnn{suffix}")
    return folder


@pytest.fixture
def copies(exports: Path, tmp_path: Path) -> Path:
    """Return a folder with copies of the files, which a test may damage."""
    for file in exports.iterdir():
        shutil.copy(file, tmp_path)
    return tmp_path


def blurred_noise(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [cv2.blur(generator.integers(0, 256, shape, dtype=np.uint8), (3, 3)) for shape in shapes]


def check_error(path: Path, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load(path)
    assert message in str(caught.value) and "\n" not in str(caught.value), caught.value


@pytest.mark.parametrize("suffix", SUFFIXES.values())
def test_one_face_and_several(exports: Path, net: Any, suffix: str) -> None:
    model = load(exports / f"cnn{suffix}", threads=1)
    assert model.classes == NAMES and model.crop_margin == 0.1
    sizes = ((40, 50), (40, 50), (20, 30), (32, 32), (70, 90), (1, 4))
    faces = blurred_noise(*((*size, 3) for size in sizes))
    expected = predict_all(eager(net, 0.8), faces)
    assert expected.std(0).max() > 0.01
    np.testing.assert_allclose([model(face) for face in faces], expected, atol=1e-5)
    np.testing.assert_allclose(model(faces), expected, atol=1e-5)
    np.testing.assert_allclose(model(np.stack(faces[:2])), expected[:2], atol=1e-5)
    assert model([]).shape == (0, 3)
    # Grey faces, with and without a channel axis.
    grey = cv2.cvtColor(faces[0], cv2.COLOR_RGB2GRAY)
    expected = model(grey[:, :, None].repeat(3, axis=2))
    np.testing.assert_allclose(model(grey), expected, atol=1e-6)
    np.testing.assert_allclose(model([grey[:, :, None], faces[2]])[0], expected, atol=1e-5)
    np.testing.assert_allclose(model(faces[0]).sum(), 1, atol=1e-5)


@pytest.mark.parametrize("blocked", [True, False])
def test_load_without_the_heavy_packages(
    exports: Path, net: Any, blocked: bool, tmp_path: Path
) -> None:
    """``load`` works without torch, Hydra and others, and does not import them."""
    (face,) = blurred_noise((40, 50, 3))
    np.save(tmp_path / "face.npy", face)
    code = """
import json, sys
heavy = ("torch", "torchvision", "hydra", "omegaconf", "lightning", "timm", "albumentations",
         "scipy", "matplotlib", "onnx", "yaml", "PIL")
if sys.argv[1] == "True":
    sys.modules.update(dict.fromkeys(heavy))
import numpy as np
from emotion_lab.inference.loader import load
for file in sys.argv[3:]:
    model = load(file)
    print(json.dumps([model.classes, model(np.load(sys.argv[2])).tolist()]))
print([name for name in ("torch", "hydra", "openvino_telemetry") if sys.modules.get(name)])
"""
    files = [tmp_path / "face.npy", exports / "cnn.onnx", exports / "cnn.xml"]
    words = [sys.executable, "-c", code, str(blocked), *map(str, files)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    *results, imported = done.stdout.splitlines()
    assert len(results) == 2 and imported == "[]"
    for line in results:
        classes, probabilities = json.loads(line)
        assert classes == NAMES
        np.testing.assert_allclose(probabilities, eager(net, 0.8)(face[None])[0], atol=1e-5)


def test_command_line(
    exports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (face,) = blurred_noise((40, 50, 3))
    cv2.imwrite(str(tmp_path / "face.png"), face[:, :, ::-1])

    def call(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["loader", *words])
        try:
            loader.main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    assert call(str(exports / "cnn.onnx"), str(tmp_path / "face.png")) == 0
    probabilities = load(exports / "cnn.onnx")(face)
    words = capsys.readouterr().out.split()
    assert words[1:] == [NAMES[probabilities.argmax()], f"{probabilities.max():.3f}"]
    assert call(str(exports / "cnn.onnx"), str(tmp_path / "nothing.png")) == 2
    assert call(str(exports / "cnn.onnx")) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


@pytest.mark.parametrize("name", ["cnn.onnx", "cnn.torchscript", "cnn.pt2", "cnn.xml", "cnn.bin"])
def test_truncated_file(copies: Path, name: str) -> None:
    file = copies / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    file = file.with_suffix(".xml") if name == "cnn.bin" else file
    with pytest.raises(UserError, match=r"^.*(truncated or damaged|changed after|no metadata).*\Z"):
        load(file)


def relabel(file: Path, change: Any) -> None:
    """Change the metadata with the tools of each format; an empty text removes a zip entry."""
    if file.suffix == ".onnx":
        import onnx

        proto = onnx.load(file)
        (entry,) = (p for p in proto.metadata_props if p.key == metadata.ENTRY)
        entry.value = change(entry.value)
        onnx.save(proto, file)
    elif file.suffix == ".xml":
        text = file.read_bytes()
        file.write_bytes(metadata.XML_ENTRY.sub(lambda m: change(m[0].decode()).encode(), text))
    else:
        with zipfile.ZipFile(file) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        (entry,) = (name for name in parts if name.endswith(metadata.EXTRA))
        text = change(parts.pop(entry).decode())
        if text:
            parts[entry] = text.encode()
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in parts.items():
                archive.writestr(name, content)


@pytest.mark.parametrize("suffix", SUFFIXES.values())
def test_modified_metadata(copies: Path, suffix: str) -> None:
    file = copies / f"cnn{suffix}"
    relabel(file, lambda text: text.replace("zest", "rage"))
    check_error(file, "its metadata was changed after the export")


def test_missing_metadata(copies: Path) -> None:
    import onnx

    proto = onnx.load(copies / "cnn.onnx")
    del proto.metadata_props[:]
    onnx.save(proto, copies / "cnn.onnx")
    check_error(copies / "cnn.onnx", "holds no metadata of emotion_lab")
    relabel(copies / "cnn.pt2", lambda text: "")
    check_error(copies / "cnn.pt2", "holds no metadata of emotion_lab")


def test_modified_weights(copies: Path) -> None:
    """The metadata is intact, but the weights are different."""
    import onnx

    file = copies / "cnn.onnx"
    proto = onnx.load(file)
    tensor = max(proto.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    tensor.raw_data = tensor.raw_data[:-4] + b"\0\0\0\0"
    onnx.save(proto, file)
    check_error(file, "its graph was changed after the export")
    weights = bytearray((copies / "cnn.bin").read_bytes())
    weights[100] ^= 1
    (copies / "cnn.bin").write_bytes(weights)
    check_error(copies / "cnn.xml", "its graph was changed after the export")


def test_other_files(copies: Path, tmp_path: Path) -> None:
    check_error(copies / "nothing.onnx", "no such file")
    (copies / "notes.txt").write_text("x")
    check_error(copies / "notes.txt", "is not an exported file: expected .onnx")
    (copies / "cnn.bin").unlink()
    check_error(copies / "cnn.xml", "lacks cnn.bin")
    (copies / "cnn.onnx").write_bytes(b"")
    check_error(copies / "cnn.onnx", "truncated or damaged")


def test_newer_version(copies: Path) -> None:
    def newer(text: str) -> str:
        meta = {**json.loads(text), "version": 99}
        return json.dumps({**meta, "seal": metadata.metadata_digest(meta)})

    relabel(copies / "cnn.torchscript", newer)
    check_error(copies / "cnn.torchscript", "has version 99, this program reads 1: upgrade")


@pytest.mark.parametrize(
    ("suffix", "package"), [(".onnx", "onnxruntime"), (".xml", "openvino"), (".pt2", "torch")]
)
def test_runtime_that_is_not_installed(
    exports: Path, suffix: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A removed package may leave an empty folder, which can be imported."""
    file = exports / f"cnn{suffix}"
    monkeypatch.setitem(sys.modules, package, None)
    check_error(file, f"which is not installed (import of {package} halted")
    monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
    check_error(file, f"which is not installed (module '{package}' has no attribute")


def test_appended_data(copies: Path) -> None:
    """Protobuf merges appended messages: appended weights or names would replace the originals."""
    import onnx

    file = copies / "cnn.onnx"
    content = file.read_bytes()
    note = {"key": "note", "value": "x"}
    for tail in (
        onnx.ModelProto(graph=onnx.GraphProto(doc_string="x")),
        onnx.ModelProto(metadata_props=[onnx.StringStringEntryProto(**note)]),
    ):
        file.write_bytes(content + tail.SerializeToString())
        check_error(file, "its graph was changed after the export")
    # The original file passes, and its metadata has protobuf's encoding.
    file.write_bytes(content)
    (entry,) = onnx.load(file).metadata_props
    encoded = onnx.ModelProto(metadata_props=[entry]).SerializeToString()
    assert len(entry.value) > 127 and metadata.onnx_entry(entry.value) == encoded
    assert load(file, 1).classes == NAMES


def test_wrong_suffix(copies: Path, capfd: Any) -> None:
    shutil.copy(copies / "cnn.torchscript", copies / "other.pt2")
    check_error(copies / "other.pt2", "truncated or damaged")
    shutil.copy(copies / "cnn.pt2", copies / "other.torchscript")
    check_error(copies / "other.torchscript", "truncated or damaged")
    assert capfd.readouterr().err == "", "torch logs tracebacks"


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True])
def test_invalid_threads(exports: Path, threads: Any) -> None:
    with pytest.raises(UserError, match=r"threads=.* is not valid: expected a whole"):
        load(exports / "cnn.onnx", threads)


def test_invalid_faces(exports: Path) -> None:
    model = load(exports / "cnn.onnx", threads=1)
    face = np.zeros((5, 5, 3), np.uint8)
    for bad, message in (
        (face.astype(np.float32), "float32 (5, 5, 3)"),
        (face[:0], "uint8 (0, 5, 3)"),
        (np.zeros((5, 5, 4), np.uint8), "uint8 (5, 5, 4)"),
        (np.zeros((5,), np.uint8), "uint8"),
        ("face.png", "str"),
        (None, "NoneType"),
    ):
        for faces in (bad, [face, bad]):
            with pytest.raises(ValueError, match="expected a face as uint8") as caught:
                model(faces)
            assert isinstance(caught.value, UserError) and "\n" not in str(caught.value)
        assert message in str(caught.value) or message == "uint8"
    with pytest.raises(ValueError, match=r"expected faces as uint8 \(B, H, W, 3\) RGB"):
        model.run(face)


@pytest.mark.parametrize("suffix", SUFFIXES.values())
def test_limits_of_the_graph(
    exports: Path, net: Any, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faces above the largest side, batches above the largest size, and a read-only array."""
    model = load(exports / f"cnn{suffix}", threads=1)
    (wide,) = blurred_noise((3, loader.LARGEST + 9, 3))
    batch = np.stack(blurred_noise(*[(20, 30, 3)] * 7))
    expected = predict_all(eager(net, 0.8), [wide, *batch])
    np.testing.assert_allclose(model(wide), expected[0], atol=1e-5)
    monkeypatch.setattr(loader, "LARGEST", 30)
    sizes = []
    run = model._run
    model._run = lambda part: sizes.append(len(part)) or run(part)
    model.run(batch.repeat(10, axis=0)[:65])
    assert sizes == [30, 30, 5]
    batch.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(model(batch), expected[1:], atol=1e-5)
