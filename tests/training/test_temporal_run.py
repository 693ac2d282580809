"""Train a temporal model on synthetic clips, evaluate it and compare it with the smoothers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core.errors import UserError
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.data.datamodule import EmotionData
from emotion_lab.temporal import smoother_file
from emotion_lab.training import frame_network
from emotion_lab.video.types import SMOOTHERS
from tests.conftest import command, composed, make_checkpoint

CLIPS = ("data.n=21", "data.seconds=1", "data.size=32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an untrained frame network, frame.ckpt."""
    folder = tmp_path_factory.mktemp("temporal")
    small = ("data=synthetic", "data.n=40", "model=senet", "model.widths=[8,8,8,8]", "model.stem=8")
    make_checkpoint(composed(*small), folder / "frame.ckpt", list(EMOTIONS))
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """Return the run directory of a temporal model."""
    arguments = ("experiment=temporal", "model.frame_ckpt=frame.ckpt", *CLIPS)
    # TensorBoard: without a graph of the network and explanation maps, which take images.
    quick = ("trainer.max_epochs=1", "logger=tensorboard", "trainer=cpu", "hydra.run.dir=run")
    result = command(*arguments, *quick, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "smoothers on val:" in result.stdout and "model: gru" in result.stdout
    return folder / "run"


def test_the_checkpoint_names_its_frame_network(run: Path) -> None:
    card = ckpt.read(run / "checkpoints" / "best.ckpt")[ckpt.CARD]
    assert card["frame"]["ckpt"].endswith("frame.ckpt") and len(card["frame"]["sha256"]) == 64
    assert card["classes"] == list(EMOTIONS)
    meta = smoother_file.read(run).meta
    assert meta["frame"] == card["frame"] and meta["comparison"]["clips"] == 7
    metrics = json.loads((run / "metrics.json").read_text())
    assert list(metrics["smoothing"]["smoothers"])[-1] == "temporal"


def test_it_is_evaluated_on_its_clips(run: Path, folder: Path) -> None:
    arguments = ("ckpt=run", "report=false", "trainer=cpu", "hydra.run.dir=evaluated")
    result = command(*arguments, module="emotion_lab.evaluate", cwd=folder)
    assert result.returncode == 0, result.stderr
    scores = json.loads((folder / "evaluated" / "metrics.json").read_text())["val"]
    trained = json.loads((run / "metrics.json").read_text())["val"]
    assert scores["accuracy"] == trained["accuracy"] and scores["n"] == trained["n"]


def test_calibration_reaches_the_smoother(run: Path, folder: Path) -> None:
    model = smoother_file.read(run)
    fitted = model.meta["temperature"]
    with np.load(run / smoother_file.FILE) as archive:
        weights = {name: archive[name] for name in archive.files if name != "meta"}
    smoother_file.write(run / smoother_file.FILE, {**model.meta, "temperature": 3.0}, weights)
    arguments = ("ckpt=run", "report=false", "trainer=cpu", "calibrate=true")
    result = command(
        *arguments, "hydra.run.dir=calibrated", module="emotion_lab.evaluate", cwd=folder
    )
    assert result.returncode == 0, result.stderr
    assert "temperature saved in" in result.stdout and "smoothers on val:" in result.stdout
    card = ckpt.read(run / "checkpoints" / "best.ckpt")[ckpt.CARD]
    smoother = SMOOTHERS.build("temporal", {"name": "temporal", "ckpt": str(run)}, len(EMOTIONS))
    assert smoother._temperature == card["temperature"] == fitted  # type: ignore[attr-defined]
    assert smoother_file.read(run).meta["comparison"]["line"] == model.meta["comparison"]["line"]


def test_smoothers_are_compared_on_other_clips(run: Path, folder: Path) -> None:
    arguments = ("smoothing=[ema,temporal]", "smoothing.ckpt=run", "data=synthetic_clips", *CLIPS)
    more = ("data.seed=5", "hydra.run.dir=compared")
    result = command(*arguments, *more, module="emotion_lab.compare", cwd=folder)
    assert result.returncode == 0, result.stderr
    content = json.loads((folder / "compared" / "compare.json").read_text())
    assert list(content["smoothers"]) == ["ema", "temporal"] and content["warnings"] == []
    assert content["clips"] == 7


@pytest.mark.parametrize(
    "module, arguments, message",
    [
        ("train", ["model=gru", "data=synthetic_clips"], "augment does not apply to model=gru"),
        (
            "train",
            ["experiment=temporal"],
            "needs a network of single images: set model.frame_ckpt",
        ),
        (
            "train",
            ["experiment=temporal", "model.frame_ckpt=frame.ckpt", "data.feature_cache=ram"],
            "data.feature_cache does not apply to model=gru",
        ),
        ("evaluate", ["ckpt=run", "tta=flip"], "tta=flip is for images"),
        ("evaluate", ["ckpt=run", "datasets=[checkpoint]"], "datasets= is for networks of single"),
        ("evaluate", ["ckpt=[run,frame.ckpt]"], "cannot be a member of an ensemble"),
        (
            "predict",
            ["ckpt=run", "source=run/samples_val.png", "detector=haar"],
            "is a temporal model: set smoothing=temporal",
        ),
        ("export", ["ckpt=run"], "is a temporal model"),
        ("compare", ["smoothing=[ema]", "ckpt=run"], "is compared with nothing"),
        ("compare", ["smoothing=[ema,hmm]"], "ckpt is missing"),
    ],
)
def test_mistakes_are_one_line(
    run: Path, folder: Path, module: str, arguments: list[str], message: str
) -> None:
    if arguments[0] == "model=gru":
        arguments = [*arguments, "model.frame_ckpt=frame.ckpt"]
    result = command(*arguments, module=f"emotion_lab.{module}", cwd=folder)
    assert result.returncode == 2, result.stdout
    assert message in result.stderr and len(result.stderr.strip().splitlines()) == 1


def test_classes_without_clips(folder: Path) -> None:
    frame = f"model.frame_ckpt={folder / 'frame.ckpt'}"
    cfg = composed("experiment=temporal", frame, *CLIPS, "data.exclude=[fear,sad]")
    data = EmotionData(cfg["data"])
    frame_network.open_for(cfg, data)
    assert data.classes == list(EMOTIONS)
    assert any("no clips of fear, sad in train" in note for note in data.source.notes)
    weights = data.class_weights()
    assert weights[[EMOTIONS.index("fear"), EMOTIONS.index("sad")]].tolist() == [1, 1]
    assert np.isfinite(weights).all() and (weights * data.class_counts("train")).sum() > 0


def test_one_clip_in_val_is_refused_before_training(folder: Path) -> None:
    frame = f"model.frame_ckpt={folder / 'frame.ckpt'}"
    cfg = composed("experiment=temporal", frame, *CLIPS)
    data = EmotionData(cfg["data"], ("val",))
    val = data.split("val")
    assert val.groups is not None
    first = np.flatnonzero(np.array(val.groups) == val.groups[0])
    data.source.splits["val"] = val.subset(first)
    with pytest.raises(UserError, match="has one clip, and smoothers are compared over clips"):
        frame_network.open_for(cfg, data)
