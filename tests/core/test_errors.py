"""Suggestions for unknown options; the first line of an error."""

from __future__ import annotations

import re

import pytest

from emotion_lab.config.compose import leaves, options, precheck
from emotion_lab.core import suggestions
from emotion_lab.core.errors import UserError, first_line, unknown_key


def test_first_line() -> None:
    assert first_line(RuntimeError("size mismatch\nat layer 3")) == "size mismatch"
    assert first_line(RuntimeError()) == "RuntimeError"
    assert first_line(RuntimeError("x" * 201)) == "x" * 199 + "…"


def test_unknown_key_suggests_keys_and_not_their_group() -> None:
    known = ["loss", "loss.name", "loss.gamma", "loss.label_smoothing", "optim.lr"]
    assert str(unknown_key("loss.margin", known)) == (
        "Unknown option 'loss.margin'. Available: loss.gamma, loss.label_smoothing, loss.name."
    )
    for key in ("loss.gama", "los.gamma"):
        assert "Did you mean 'loss.gamma'?" in str(unknown_key(key, known))


@pytest.mark.parametrize(
    ("entry", "override", "meant"),
    [
        ("train", "epochs=3", "trainer.max_epochs"),
        ("train", "lr=0.1", "optim.lr"),
        ("train", "batch_size=3", "data.batch_size"),
        ("train", "gpus=1", "trainer.devices"),
        ("train", "workers=1", "data.num_workers"),
        ("train", "pretrained=true", "model.pretrained"),
        ("train", "dataset=fer2013", "data"),
        ("train", "checkpoint=x", "resume"),
        ("evaluate", "checkpoint=x", "ckpt"),
        ("train", "output_dir=x", "hydra.run.dir"),
        ("predict", "input=x", "source"),
        ("train", "loss=CrossEntropyLoss", "ce"),
        ("train", "optim=AdamW", "adamw"),
        ("train", "data=ImageFolder", "image_folder"),
    ],
)
def test_usual_words_of_other_tools(entry: str, override: str, meant: str) -> None:
    with pytest.raises(UserError, match=f"Did you mean '{re.escape(meant)}'"):
        precheck(entry, [override])


def test_every_usual_word_leads_to_a_key_of_a_command() -> None:
    entries = ("train", "evaluate", "export", "predict", "live")
    known = {key for entry in entries for key in leaves(precheck(entry, []))}
    known |= {"loss.label_smoothing", "model.backbone", "model.dropout", "optim.momentum"}
    known |= {"detector.nms_threshold", "schedule.warmup_epochs"}
    for word, keys in suggestions.KEYS.items():
        assert all(key in known or key.startswith("hydra.") for key in keys), word
    for group, names in suggestions.CHOICES.items():
        assert set(names.values()) <= set(options(group))


def test_networks_of_libraries() -> None:
    with pytest.raises(
        UserError, match=r"model=torchvision model\.backbone=resnet50 or model=timm"
    ):
        precheck("train", ["model=ResNet50"])
    with pytest.raises(UserError, match=r"type model=timm model\.backbone=convnext_atto"):
        precheck("train", ["model=convnext_atto"])


def test_library_names_are_those_of_the_libraries() -> None:
    """They are read from the source, because importing the libraries takes seconds."""
    import timm
    from torchvision import models

    assert suggestions._library_names("torchvision") == {*models.list_models(module=models)}
    registered = suggestions._library_names("timm")
    assert registered == {*timm.list_models()} and len(registered) > 500
    assert suggestions._library_names("no_such_package") == set()
