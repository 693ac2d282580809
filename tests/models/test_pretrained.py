"""Pretrained weights: layouts, errors, adaptation, download."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import time
import urllib.error
from pathlib import Path

import pytest
import torch

from emotion_lab.core import timeout
from emotion_lab.core.errors import UserError
from emotion_lab.models import EmotionNet, build_model
from emotion_lab.models import pretrained as weights_module
from emotion_lab.models.pretrained import fetch, load_local
from tests.conftest import error_message
from tests.models.test_models import build, small

SHARED = Path(__file__).parents[3] / "shared" / "weights" / "mobilenet_v2_imagenet.pth"


def different(net: EmotionNet) -> EmotionNet:
    """Give every tensor of ``net`` values that no initialisation would."""
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape) * 5)
    return net


def same(a: EmotionNet, b: EmotionNet, but: str = "-") -> bool:
    other = b.state_dict()
    return all(torch.equal(v, other[k]) for k, v in a.state_dict().items() if but not in k)


def layouts(net: EmotionNet) -> dict[str, dict]:
    plain = net.backbone.net.state_dict()
    whole = net.state_dict()
    return {
        "plain": plain,
        "wrapped": {"state_dict": plain, "epoch": 3},
        "model": {"model": plain},
        "model_state_dict": {"model_state_dict": {f"module.{k}": v for k, v in plain.items()}},
        "emotion_net": whole,
        "compiled": {f"_orig_mod.{k}": v for k, v in plain.items()},
        "own": {
            "emotion_lab": {"version": "0"},
            "state_dict": {f"model.{k}": v for k, v in whole.items()}
            | {"criterion.weight": torch.ones(7)},
        },
    }


@pytest.mark.parametrize("layout", list(layouts(build("cnn"))))
def test_layouts(tmp_path: Path, layout: str) -> None:
    source, target = different(build("cnn")), build("cnn")
    torch.save(layouts(source)[layout], tmp_path / "x.pth")
    report = load_local(target.backbone, tmp_path / "x.pth")
    total = len(source.state_dict())
    assert report == f"loaded {total} of {total} tensors from x.pth"
    assert same(source, target)


def test_safetensors(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    source = different(build("senet"))
    path = tmp_path / "x.safetensors"
    safetensors.save_file(source.backbone.net.state_dict(), path)
    target = build_model(small("senet", weights=str(path)), 7)[0]
    assert same(source, target)
    assert target.weights_report.startswith("loaded ")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="truncated"):
        load_local(target.backbone, path)


def test_head_may_differ(tmp_path: Path) -> None:
    source, target = different(build("cnn", num_classes=10)), build("cnn")
    torch.save(source.backbone.net.state_dict(), tmp_path / "x.pth")
    report = load_local(target.backbone, tmp_path / "x.pth")
    assert "new: classifier.weight (10 -> 7 classes), classifier.bias" in report
    assert same(target, source, but="classifier")
    headless = {k: v for k, v in source.backbone.net.state_dict().items() if "class" not in k}
    torch.save(headless, tmp_path / "x.pth")
    assert "new: classifier.weight" in load_local(target.backbone, tmp_path / "x.pth")


def test_weights_of_another_network_load_nothing(tmp_path: Path) -> None:
    net, original = build("senet"), build("senet")
    path = tmp_path / "x.pth"
    plain = different(build("senet")).backbone.net.state_dict()
    for change, message in [
        ({"stem.0.weight": None}, "missing stem.0.weight"),
        ({"extra.weight": torch.ones(1)}, "unexpected extra.weight"),
        ({"stem.1.weight": torch.ones(5)}, r"wrong shape stem.1.weight \(5,\) \(not \(8,\)\)"),
    ]:
        torch.save({k: v for k, v in (plain | change).items() if v is not None}, path)
        with pytest.raises(UserError, match=f"weights of another network: {message}") as caught:
            load_local(net.backbone, path)
        assert "\n" not in str(caught.value)
    torch.save(build("cnn").state_dict(), path)
    with pytest.raises(UserError, match=r"missing .* more; unexpected .* more"):
        load_local(net.backbone, path)
    assert same(net, original)


class CreatesFolder:
    """An object that creates a folder when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_code_is_not_executed(tmp_path: Path, zipped: bool) -> None:
    path, trace = tmp_path / "x.pth", tmp_path / "ran"
    data = {"weight": torch.ones(1), "object": CreatesFolder(trace)}
    if zipped:
        torch.save(data, path)
    else:
        path.write_bytes(pickle.dumps(data | {"weight": 1}))
    with pytest.raises(UserError, match="could run code; it was refused, nothing was run"):
        load_local(build("cnn").backbone, path)
    assert not trace.exists()


def test_invalid_weights_files(tmp_path: Path) -> None:
    backbone = build("cnn").backbone
    path = tmp_path / "x.pth"
    with pytest.raises(UserError, match="No weights file at"):
        load_local(backbone, path)
    with pytest.raises(UserError, match=r"no checkpoints/best.ckpt in .*: is it a run directory"):
        load_local(backbone, tmp_path)
    torch.save(backbone.net.state_dict(), path)
    content = path.read_bytes()
    pointer = b"version https://git-lfs\n" * 9
    for invalid in (content[: len(content) // 2], content[:100], b"", pointer):
        path.write_bytes(invalid)
        with pytest.raises(UserError, match="truncated or not a weights file") as caught:
            load_local(backbone, path)
        assert "\n" not in str(caught.value)
    for data, message in (([1, 2], "holds a list, not a state_dict"), ({"epoch": 1}, "no tensors")):
        torch.save(data, path)
        with pytest.raises(UserError, match=message):
            load_local(backbone, path)


@pytest.mark.parametrize("name", ["mobilenetv3", "googlenet", "timm", "vit"])
def test_colour_weights_in_a_grey_network(tmp_path: Path, name: str) -> None:
    half = {"mean": [0.5], "std": [0.5]}
    colour = build(name, **half).eval()
    grey = build(name, channels=1, **half).eval()
    torch.save(colour.backbone.net.state_dict(), tmp_path / "x.pth")
    assert "summed over RGB for grey input" in load_local(grey.backbone, tmp_path / "x.pth")
    size = grey.spec.image_size
    x = torch.randint(0, 256, (2, 1, size, size), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(grey(x), colour(x.repeat(1, 3, 1, 1)), atol=1e-4, rtol=1e-4)


def test_vit_positions_are_resampled(tmp_path: Path) -> None:
    source, target = build("vit", image_size=64), build("vit", image_size=96)
    torch.save(source.state_dict(), tmp_path / "x.pth")
    assert "pos_embed resized 17 -> 37" in load_local(target.backbone, tmp_path / "x.pth")
    old, new = (net.backbone.net.pos_embed.detach() for net in (source, target))
    torch.testing.assert_close(new[:, :1], old[:, :1])
    grids = [p[0, 1:].T.reshape(64, side, side) for p, side in ((old, 4), (new, 6))]
    interpolate = torch.nn.functional.interpolate
    expected = interpolate(grids[0][None], size=(6, 6), mode="bicubic", antialias=True)
    torch.testing.assert_close(grids[1], expected[0])
    other = build("vit", image_size=96, embed_dim=32)
    with pytest.raises(UserError, match="another network"):
        load_local(other.backbone, tmp_path / "x.pth")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path / "checkpoints"


@pytest.mark.parametrize(
    ("name", "host"), [("mobilenetv3", "download.pytorch.org"), ("timm", "huggingface.co")]
)
def test_offline(hub: Path, monkeypatch: pytest.MonkeyPatch, name: str, host: str) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(weights_module.urllib.request, "urlopen", refuse)
    monkeypatch.setattr("emotion_lab.models.timm._cached_weights_file", lambda _: None)
    message = error_message(build_model, small(name, pretrained=True), 7)
    assert message.startswith(f"Cannot reach {host} for the ImageNet weights of ")
    assert "Download https://" in message and "model.weights=<file>" in message
    assert message.endswith("or set model.pretrained=false.") and "\n" not in message
    assert not hub.exists()


def test_hanging_dns_lookup(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeout, "DEADLINE_S", 0.2)
    monkeypatch.setattr(weights_module.urllib.request, "urlopen", lambda *_, **__: time.sleep(3))
    start = time.monotonic()
    with pytest.raises(UserError, match=r"Cannot reach example.org"):
        fetch("https://example.org/x.pth", None, "x")
    assert time.monotonic() - start < 2


def test_fetch_verifies_and_caches(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"weights" * 1000
    digest = hashlib.sha256(content).hexdigest()
    sent = [b"an error page"]
    monkeypatch.setattr(
        weights_module.urllib.request, "urlopen", lambda *_, **__: io.BytesIO(sent[-1])
    )
    url = f"https://example.org/net-{digest[:8]}.pth"
    with pytest.raises(UserError, match="did not send the file expected"):
        fetch(url, None, "x")
    assert not list(hub.iterdir())
    sent.append(content)
    assert fetch(url, None, "x").read_bytes() == content
    sent.append(b"not requested")
    assert fetch(url, digest, "x").read_bytes() == content
    # A damaged copy is replaced.
    (hub / f"net-{digest[:8]}.pth").write_bytes(content[:10])
    sent.append(content)
    assert fetch(url, None, "x").read_bytes() == content
    assert len(list(hub.iterdir())) == 1


def test_fetch_into_unwritable_folder(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.write_text("a file")
    monkeypatch.setattr(weights_module.urllib.request, "urlopen", lambda *_, **__: io.BytesIO(b"x"))
    with pytest.raises(UserError, match="Cannot write the weights of x"):
        fetch("https://example.org/x.pth", None, "x")


def test_weights_file_has_priority_over_pretrained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights_module.urllib.request, "urlopen", lambda *_, **__: 1 / 0)
    for name in ("mobilenetv3", "timm"):
        torch.save(build(name).state_dict(), tmp_path / "x.pth")
        net = build_model(small(name, pretrained=True, weights=str(tmp_path / "x.pth")), 7)[0]
        assert net.weights_report.startswith("loaded ")


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_file(), reason=f"{SHARED} is absent")
def test_real_imagenet_weights() -> None:
    cfg = small("torchvision", weights=str(SHARED), mean=[0.5], std=[0.5])
    net = build_model(cfg, 7)[0]
    assert net.weights_report == (
        "loaded 312 of 314 tensors from mobilenet_v2_imagenet.pth; "
        "new: classifier.1.weight (1000 -> 7 classes), classifier.1.bias"
    )
    with pytest.raises(UserError, match="weights of another network"):
        build_model({**cfg, "backbone": "resnet18"}, 7)
