"""``model=checkpoint``: the network of a checkpoint, to fine-tune it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from emotion_lab.core.errors import UserError
from emotion_lab.models import build_model
from emotion_lab.models.load import checkpoint_model
from tests.conftest import TINY, command, composed, make_checkpoint

CLASSES = ["happy", "sad", "neutral"]


def group(*overrides: str) -> dict[str, object]:
    return composed("data=synthetic", "model=checkpoint", *overrides)["model"]


def test_shipped_model_is_the_default_and_set_keys_are_kept() -> None:
    model = checkpoint_model(group("model.freeze=backbone", "model.image_size=64"))
    assert (model["name"], model["stem"], model["widths"]) == ("senet", 32, [64, 128, 256])
    assert (model["freeze"], model["image_size"], model["channels"]) == ("backbone", 64, 1)
    assert str(model["weights"]).endswith("fer2013.ckpt")
    net, _ = build_model(model, 4)
    assert "(7 -> 4 classes)" in net.weights_report


def test_other_groups_are_unchanged() -> None:
    model = composed("data=synthetic", "model=cnn")["model"]
    assert checkpoint_model(model) is model


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs model"):
        checkpoint_model(group("model.weights=null"))
    with pytest.raises(UserError, match="no such checkpoint"):
        checkpoint_model(group(f"model.weights={tmp_path}/none.ckpt"))


@pytest.mark.parametrize(
    ("classes", "rows", "report"),
    [
        (CLASSES, [0, 1, 2], ""),
        (["neutral", "happy", "sad"], [2, 0, 1], "classifier of 3 of 3 classes, matched by name"),
        (["sad", "happy"], [1, 0], "classifier of 2 of 3 classes, matched by name"),
        (["happy", "sad", "contempt"], None, "no weights for contempt, so the classifier is new"),
        (["happy", "contempt"], None, "(3 -> 2 classes)"),
    ],
)
def test_the_classifier_is_matched_by_class_name(
    tmp_path: Path, classes: list[str], rows: list[int] | None, report: str
) -> None:
    start = make_checkpoint(composed(*TINY), tmp_path / "start.ckpt", CLASSES)
    model = checkpoint_model(group(f"model.weights={start}"))
    old = build_model(model, 3, CLASSES)[0].backbone.net.classifier
    net, _ = build_model(model, len(classes), classes)
    new = net.backbone.net.classifier
    assert report in net.weights_report
    if rows is None:
        assert not any(torch.equal(row, other) for row in new.weight for other in old.weight)
    else:
        assert torch.equal(new.weight, old.weight[rows]) and torch.equal(new.bias, old.bias[rows])


def test_finetune_a_checkpoint_to_other_classes(tmp_path: Path) -> None:
    cfg = composed(*TINY)
    start = make_checkpoint(cfg, tmp_path / "start.ckpt", CLASSES)
    run = tmp_path / "run"
    small = [text for text in TINY if not text.startswith("model")]
    done = command(
        "experiment=finetune",
        *small,
        f"model.weights={start}",
        "trainer.max_epochs=2",
        "model.unfreeze_at_epoch=1",
        "data.feature_cache=ram",
        "data.feature_views=2",
        f"hydra.run.dir={run}",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "(3 -> 7 classes)" in done.stdout
    saved = yaml.safe_load((run / "config.yaml").read_text())["model"]
    assert saved["name"] == "senet" and saved["widths"] == [8, 8, 8, 8]
    assert saved["layer_decay"] == 0.6 and saved["freeze"] == "backbone"
    # The run does not need the file it started from.
    start.unlink()
    scored = command(f"ckpt={run}", "num_robustness=0", module="emotion_lab.evaluate", cwd=tmp_path)
    assert scored.returncode == 0, scored.stderr
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["val"]["n"] > 0
    # Last before the run directory: both models on the classes that they share.
    compared = metrics["before_after"]
    assert compared["classes"] and 0 < compared["n"] <= metrics["val"]["n"]
    line = done.stdout.strip().splitlines()[-2]
    assert line.startswith(f"val before and after, {compared['n']} images of ")
