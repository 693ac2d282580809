"""Exported files away from home: without torch, and cut off, relabelled or fed with nonsense."""

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
from emotion_lab.exporters.writer import export
from emotion_lab.inference import loader
from emotion_lab.inference.loader import load
from emotion_lab.models.base import build_model
from tests.models.test_models import small

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

NAMES = ["neutral", "zest", "fear"]
SUFFIX = {
    "onnx": ".onnx",
    "torchscript": ".torchscript",
    "openvino": ".xml",
    "torch_export": ".pt2",
}


@pytest.fixture(scope="module")
def net() -> Any:
    torch.manual_seed(0)
    built = build_model(small("cnn", image_size=32), len(NAMES))[0].eval()
    last = [m for m in built.modules() if isinstance(m, torch.nn.Linear)][-1]
    torch.nn.init.normal_(last.weight, 0, 2)
    return built


@pytest.fixture(scope="module")
def home(net: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with one file of each format."""
    folder = tmp_path_factory.mktemp("exported")
    spec = net.spec
    card = {
        "classes": NAMES,
        "temperature": 0.8,
        "input": {
            "image_size": spec.image_size,
            "channels": spec.channels,
            "mean": list(spec.mean),
            "std": list(spec.std),
            "crop_margin": 0.2,
        },
        "config": {"model": {"name": "cnn"}, "data": {"name": "synthetic"}},
    }
    for format, suffix in SUFFIX.items():
        if format == "openvino" and not __import__("importlib.util").util.find_spec("openvino"):
            continue
        export(net, card, format, "fp32", folder / f"cnn{suffix}")
    return folder


@pytest.fixture
def away(home: Path, tmp_path: Path) -> Path:
    """Return a copy that may be spoilt."""
    for file in home.iterdir():
        shutil.copy(file, tmp_path)
    return tmp_path


def pictures(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [cv2.blur(generator.integers(0, 256, shape, dtype=np.uint8), (3, 3)) for shape in shapes]


def refused(path: Path, said: str) -> None:
    with pytest.raises(UserError) as caught:
        load(path)
    assert said in str(caught.value) and "\n" not in str(caught.value), caught.value


# --- use ------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIX.values())
def test_one_face_and_several(home: Path, net: Any, suffix: str) -> None:
    if not (home / f"cnn{suffix}").exists():
        pytest.skip("its runtime is not installed")
    model = load(home / f"cnn{suffix}", threads=1)
    assert model.classes == NAMES and model.crop_margin == 0.2
    given = pictures((40, 50, 3), (40, 50, 3), (20, 30, 3), (32, 32, 3), (70, 90, 3), (1, 4, 3))
    expected = predict_all(eager(net, 0.8), given)
    assert expected.std(0).max() > 0.01
    np.testing.assert_allclose([model(face) for face in given], expected, atol=1e-5)
    np.testing.assert_allclose(model(given), expected, atol=1e-5)
    np.testing.assert_allclose(model(np.stack(given[:2])), expected[:2], atol=1e-5)
    assert model([]).shape == (0, 3)
    # Grey faces, with and without a third axis.
    grey = cv2.cvtColor(given[0], cv2.COLOR_RGB2GRAY)
    wanted = model(grey[:, :, None].repeat(3, axis=2))
    np.testing.assert_allclose(model(grey), wanted, atol=1e-6)
    np.testing.assert_allclose(model([grey[:, :, None], given[2]])[0], wanted, atol=1e-5)
    np.testing.assert_allclose(model(given[0]).sum(), 1, atol=1e-5)


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_without_torch(home: Path, net: Any, suffix: str, tmp_path: Path) -> None:
    """In a process in which none of the heavy packages can be imported."""
    file = home / f"cnn{suffix}"
    if not file.exists():
        pytest.skip("its runtime is not installed")
    (face,) = pictures((40, 50, 3))
    np.save(tmp_path / "face.npy", face)
    code = """
import json, sys
heavy = ("torch", "torchvision", "hydra", "omegaconf", "lightning", "timm", "albumentations",
         "scipy", "matplotlib", "onnx", "yaml", "PIL")
for name in heavy:
    sys.modules[name] = None
import numpy as np
from emotion_lab.inference.loader import load
model = load(sys.argv[1])
print(json.dumps([model.classes, model(np.load(sys.argv[2])).tolist()]))
"""
    words = [sys.executable, "-c", code, str(file), str(tmp_path / "face.npy")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    classes, shares = json.loads(done.stdout)
    assert classes == NAMES
    np.testing.assert_allclose(shares, eager(net, 0.8)(face[None])[0], atol=1e-5)


def test_from_the_command_line(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (face,) = pictures((40, 50, 3))
    cv2.imwrite(str(tmp_path / "face.png"), face[:, :, ::-1])

    def call(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["runtime", *words])
        try:
            loader.main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    assert call(str(home / "cnn.onnx"), str(tmp_path / "face.png")) == 0
    shares = load(home / "cnn.onnx")(face)
    said = capsys.readouterr().out.split()
    assert said[1:] == [NAMES[shares.argmax()], f"{shares.max():.3f}"]
    assert call(str(home / "cnn.onnx"), str(tmp_path / "nothing.png")) == 2
    assert call(str(home / "cnn.onnx")) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_no_torch_where_there_is_one(home: Path, tmp_path: Path) -> None:
    """Where torch is installed, opening a file and asking it do not import it either."""
    (face,) = pictures((40, 50, 3))
    np.save(tmp_path / "face.npy", face)
    code = """
import sys
import numpy as np
from emotion_lab.inference.loader import load
for file in sys.argv[2:]:
    load(file)(np.load(sys.argv[1]))
print([name for name in ("torch", "hydra", "openvino_telemetry") if sys.modules.get(name)])
"""
    files = [str(home / name) for name in ("cnn.onnx", "cnn.xml") if (home / name).exists()]
    words = [sys.executable, "-c", code, str(tmp_path / "face.npy"), *files]
    done = subprocess.run(words, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0 and done.stdout.strip() == "[]", done.stdout + done.stderr


# --- bad files ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cnn.onnx", "cnn.torchscript", "cnn.pt2", "cnn.xml", "cnn.bin"])
def test_cut_off(away: Path, name: str) -> None:
    if not (away / name).exists():
        pytest.skip("its runtime is not installed")
    file = away / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    file = file.with_suffix(".xml") if name == "cnn.bin" else file
    with pytest.raises(UserError, match="truncated or damaged|changed after|no metadata") as caught:
        load(file)
    assert "\n" not in str(caught.value)


def relabel(file: Path, change: Any) -> None:
    """Change the metadata as someone with the right tools would."""
    if file.suffix == ".onnx":
        import onnx

        proto = onnx.load(file)
        (entry,) = (p for p in proto.metadata_props if p.key == loader.ENTRY)
        entry.value = change(entry.value)
        onnx.save(proto, file)
    elif file.suffix == ".xml":
        text = file.read_bytes()
        file.write_bytes(loader.XML_ENTRY.sub(lambda m: change(m[0].decode()).encode(), text))
    else:
        with zipfile.ZipFile(file) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in parts.items():
                if name.endswith(loader.EXTRA):
                    content = change(content.decode()).encode()
                archive.writestr(name, content)


@pytest.mark.parametrize("suffix", SUFFIX.values())
def test_metadata_changed_by_hand(away: Path, suffix: str) -> None:
    file = away / f"cnn{suffix}"
    if not file.exists():
        pytest.skip("its runtime is not installed")
    relabel(file, lambda text: text.replace("zest", "rage"))
    refused(file, "its metadata was changed after the export")


def test_metadata_missing(away: Path) -> None:
    import onnx

    proto = onnx.load(away / "cnn.onnx")
    del proto.metadata_props[:]
    onnx.save(proto, away / "cnn.onnx")
    refused(away / "cnn.onnx", "holds no metadata of emotion_lab")
    with zipfile.ZipFile(away / "cnn.pt2") as archive:
        parts = {n: archive.read(n) for n in archive.namelist() if not n.endswith(loader.EXTRA)}
    with zipfile.ZipFile(away / "cnn.pt2", "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    refused(away / "cnn.pt2", "holds no metadata of emotion_lab")


def test_weights_changed_by_hand(away: Path) -> None:
    """The metadata is whole, but another network lies under it."""
    import onnx

    file = away / "cnn.onnx"
    raw = file.read_bytes()
    text = onnx.load(file).metadata_props[0].value
    proto = onnx.load(file)
    weights = max(proto.graph.initializer, key=lambda one: len(one.raw_data))
    weights.raw_data = weights.raw_data[:-4] + b"\0\0\0\0"
    onnx.save(proto, file)
    assert text in file.read_bytes().decode("latin-1") and file.read_bytes() != raw
    refused(file, "its graph was changed after the export")
    if (away / "cnn.bin").exists():
        weights = bytearray((away / "cnn.bin").read_bytes())
        weights[100] ^= 1
        (away / "cnn.bin").write_bytes(weights)
        refused(away / "cnn.xml", "its graph was changed after the export")


def test_other_files(away: Path, tmp_path: Path) -> None:
    refused(away / "nothing.onnx", "no such file")
    (away / "notes.txt").write_text("x")
    refused(away / "notes.txt", "is no exported file: expected .onnx")
    if (away / "cnn.xml").exists():
        (away / "cnn.bin").unlink()
        refused(away / "cnn.xml", "lacks cnn.bin")
    (away / "cnn.onnx").write_bytes(b"")
    refused(away / "cnn.onnx", "truncated or damaged")


def test_a_newer_file(away: Path) -> None:
    def newer(text: str) -> str:
        meta = {**json.loads(text), "version": 99}
        return json.dumps({**meta, "seal": loader.metadata_digest(meta)})

    relabel(away / "cnn.torchscript", newer)
    refused(away / "cnn.torchscript", "has version 99, this one reads 1: upgrade")


@pytest.mark.parametrize(
    ("suffix", "package"), [(".onnx", "onnxruntime"), (".xml", "openvino"), (".pt2", "torch")]
)
def test_a_runtime_that_is_not_installed(
    home: Path, suffix: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (home / f"cnn{suffix}").exists():
        pytest.skip("it really is not")
    monkeypatch.setitem(sys.modules, package, None)
    refused(home / f"cnn{suffix}", f"which is not installed (import of {package} halted")


def test_something_behind_the_end(away: Path) -> None:
    """protobuf reads on: weights or names appended to a whole file would count."""
    import onnx

    file = away / "cnn.onnx"
    whole = file.read_bytes()
    for part in ("graph", "entry"):
        tail = onnx.ModelProto()
        if part == "graph":
            tail.graph.doc_string = "x"
        else:
            tail.metadata_props.add(key="note", value="x")
        file.write_bytes(whole + tail.SerializeToString())
        refused(file, "its graph was changed after the export")
    # As it was, and written as protobuf would.
    file.write_bytes(whole)
    text = onnx.load(file).metadata_props[0].value
    tail = onnx.ModelProto()
    tail.metadata_props.add(key=loader.ENTRY, value=text)
    assert len(text) > 127 and loader.onnx_entry(text) == tail.SerializeToString()
    assert load(file, 1).classes == NAMES


def test_what_a_runtime_keeps_beside_a_checkpoint(away: Path) -> None:
    kept = json.dumps({"format": 1, "sha256": "0", "runtime": "x", "logits": [[0.0]]})
    relabel(away / "cnn.onnx", lambda _: kept)
    refused(away / "cnn.onnx", "keeps beside a checkpoint, no exported file: give the checkpoint")


def test_another_kind_of_file_under_this_name(away: Path, capfd: Any) -> None:
    shutil.copy(away / "cnn.torchscript", away / "other.pt2")
    refused(away / "other.pt2", "truncated or damaged")
    shutil.copy(away / "cnn.pt2", away / "other.torchscript")
    refused(away / "other.torchscript", "truncated or damaged")
    assert capfd.readouterr().err == "", "torch tells tales"


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True])
def test_threads(home: Path, threads: Any) -> None:
    with pytest.raises(UserError, match="threads=.* is not valid: expected a whole number above 0"):
        load(home / "cnn.onnx", threads)


@pytest.mark.parametrize(("suffix", "package"), [(".onnx", "onnxruntime"), (".xml", "openvino")])
def test_what_a_removed_runtime_leaves(
    home: Path, suffix: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty folder can be imported; that is no damaged file."""
    if not (home / f"cnn{suffix}").exists():
        pytest.skip("it really is not installed")
    monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
    refused(home / f"cnn{suffix}", f"which is not installed (module '{package}' has no attribute")


# --- bad faces ------------------------------------------------------------------------------


def test_no_faces(home: Path) -> None:
    model = load(home / "cnn.onnx", threads=1)
    good = np.zeros((5, 5, 3), np.uint8)
    for bad, said in (
        (good.astype(np.float32), "float32 (5, 5, 3)"),
        (good[:0], "uint8 (0, 5, 3)"),
        (np.zeros((5, 5, 4), np.uint8), "uint8 (5, 5, 4)"),
        (np.zeros((5,), np.uint8), "uint8"),
        ("face.png", "str"),
        (None, "NoneType"),
    ):
        for given in (bad, [good, bad]):
            with pytest.raises(ValueError, match="expected a face as uint8") as caught:
                model(given)
            assert isinstance(caught.value, UserError) and "\n" not in str(caught.value)
        assert said in str(caught.value) or said == "uint8"
    with pytest.raises(ValueError, match=r"expected faces as uint8 \(B, H, W, 3\) RGB"):
        model.run(good)


@pytest.mark.parametrize("suffix", SUFFIX.values())
def test_more_than_a_graph_takes(
    home: Path, net: Any, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than torch leaves open, more at once, and memory that cannot be written to."""
    if not (home / f"cnn{suffix}").exists():
        pytest.skip("its runtime is not installed")
    model = load(home / f"cnn{suffix}", threads=1)
    (wide,) = pictures((3, loader.LARGEST + 9, 3))
    several = np.stack(pictures(*[(20, 30, 3)] * 7))
    expected = predict_all(eager(net, 0.8), [wide, *several])
    np.testing.assert_allclose(model(wide), expected[0], atol=1e-5)
    monkeypatch.setattr(loader, "LARGEST", 30)
    asked = []
    honest = model._run
    model._run = lambda part: asked.append(len(part)) or honest(part)
    model.run(several.repeat(10, axis=0)[:65])
    assert asked == [30, 30, 5]
    several.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(model(several), expected[1:], atol=1e-5)
