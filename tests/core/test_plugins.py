"""Packages outside of this one: activation, and one line for each mistake in them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from emotion_lab.config import compose
from emotion_lab.core import plugins
from emotion_lab.losses import LOSSES, build_loss
from emotion_lab.models import MODELS, build_model
from tests.conftest import error_message

IMPORTS = "from torch import nn\nfrom emotion_lab.models import MODELS\n"
MODEL = (
    IMPORTS + '@MODELS.register("plug")\n'
    "def build(cfg, num_classes):\n"
    "    return nn.Sequential(nn.Flatten(), nn.Linear(48 * 48, num_classes + {extra}))\n"
)
LOSS = (
    "from torch import nn\nfrom emotion_lab.losses import LOSSES\n"
    '@LOSSES.register("plug")\n'
    "class Plug(nn.Module):\n"
    "    def forward(self, logits, target):\n"
    "        return {value}\n"
)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Return a function that writes a package ``plug_test`` and activates it."""
    before = set(sys.modules)
    for registry in (MODELS, LOSSES):
        registry.names()
        monkeypatch.setattr(registry, "_items", dict(registry._items))
    monkeypatch.setattr(plugins, "_activated", {})
    monkeypatch.setattr(plugins, "_imported", set())
    monkeypatch.syspath_prepend(tmp_path)

    def write(code: str, **yamls: str) -> Path:
        folder = tmp_path / "plug_test"
        folder.mkdir()
        (folder / "__init__.py").touch()
        (folder / "part.py").write_text(code)
        for group, text in yamls.items():
            (folder / "conf" / group).mkdir(parents=True)
            (folder / "conf" / group / "plug.yaml").write_text(text)
        plugins.activate(["plug_test"])
        return folder / "part.py"

    yield write
    for name in set(sys.modules) - before:
        if name.startswith("plug_test"):
            del sys.modules[name]


def refused(function: Callable[[], object], *words: object) -> None:
    message = error_message(function)
    assert all(str(word) in message for word in words), message


def model(**keys: object) -> object:
    return build_model({"name": "plug", **keys}, 7)


def loss() -> torch.nn.Module:
    return build_loss({"name": "plug"}, 7, [1.0] * 7, [1] * 7)


def test_a_model_with_a_yaml_of_one_line(package: Callable[..., Path]) -> None:
    package(MODEL.format(extra=0), model="name: plug\n")
    assert "plug" in compose.options("model")
    cfg = compose.precheck("train", ["plugins=[plug_test]", "model=plug", "model.freeze=backbone"])
    net, spec = build_model(compose.to_container(cfg.model), 7)
    assert (spec.image_size, spec.channels) == (48, 1)
    assert net.eval()(torch.zeros(2, 1, 48, 48)).shape == (2, 7)
    assert plugins.provider(MODELS.get("plug")) == "plug_test"
    assert plugins.provider(MODELS.get("cnn")) is None


def test_packages_that_cannot_be_found() -> None:
    refused(lambda: plugins.activate(["no_such_package"]), "is not installed", "PYTHONPATH")
    refused(lambda: plugins.activate(["this"]), "is a module, not a package")
    refused(lambda: compose.precheck("train", ["plugins=x"]), "for instance plugins=[x]")
    refused(lambda: compose.precheck("train", ["plugins=a,b"]), "plugins takes a list")


@pytest.mark.parametrize(
    ("code", "line", "reason"),
    [
        ("import no_such_module\n", 1, "ModuleNotFoundError: No module named 'no_such_module'"),
        ("x = 1\nx = = 2\n", 2, "SyntaxError"),
        ("def f():\n    return 1 / 0\nf()\n", 2, "ZeroDivisionError"),
    ],
)
def test_a_module_that_cannot_be_imported(
    package: Callable[..., Path], code: str, line: int, reason: str
) -> None:
    refused(MODELS.names, f"{package(code)}:{line} cannot be imported", reason)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (MODEL.format(extra=1), ("returns (1, 8)", "expected logits (1, 7)")),
        (MODEL.format(extra="cfg['wdith']"), ("cannot be built: KeyError: 'wdith'",)),
        (MODEL.format(extra=0).replace("num_classes)", ")"), ("takes (cfg): too many",)),
        (MODEL.format(extra=0).replace("48 * 48", "99"), ("does not take images of 48x48",)),
        (MODEL.format(extra=0).replace("return nn", "nn"), ("returns NoneType",)),
        (MODEL.format(extra=0).replace('"plug"', '"cnn"'), ("'cnn' is registered twice", "cnn.py")),
    ],
)
def test_mistakes_in_a_model(
    package: Callable[..., Path], code: str, words: tuple[str, ...]
) -> None:
    file = package(code)
    refused(model, *words, *([] if "48x48" in words[0] else [file]))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("logits", ("returns (2, 7)", "expected a scalar")),
        ("1.0", ("returns float",)),
        ("logits[range(2), target].mean()", ("fails for targets as probabilities",)),
    ],
)
def test_mistakes_in_a_loss(
    package: Callable[..., Path], value: str, words: tuple[str, ...]
) -> None:
    refused(loss, package(LOSS.format(value=value)), *words)


def test_mistakes_in_a_yaml(package: Callable[..., Path]) -> None:
    file = package(MODEL.format(extra=0), model="width: 3\n", data="name: plug\n").parent / "conf"
    refused(
        lambda: compose.precheck("train", ["model=plug"]), file / "model/plug.yaml", "lacks 'name'"
    )
    refused(
        lambda: compose.precheck("train", ["data=plug"]),
        f"{file / 'data/plug.yaml'} lacks the keys of every dataset",
        "Write defaults: [base, _self_] above name:.",
    )
    (file / "model/plug.yaml").write_text("defaults: [base, _self_]\nname: plug\n")
    compose._compose_groups.cache_clear()
    assert compose.precheck("train", ["model=plug"]).model.name == "plug"
