"""Images that a checkpoint learnt from are counted in whatever data it is scored on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from emotion_lab.config import compose
from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core import weights
from emotion_lab.core.migrate import migrate_config
from emotion_lab.data import contamination
from emotion_lab.data.checkpoint_data import data_config, is_foreign
from emotion_lab.data.datamodule import EmotionData
from emotion_lab.data.fingerprint import fingerprint
from emotion_lab.data.shards.writer import open_all_splits, write_shards
from emotion_lab.evaluation.evaluate import LedgerEntry, evaluate_checkpoint
from emotion_lab.evaluation.metrics import report_text, unseen_text
from emotion_lab.evaluation.result import EvaluationResult
from tests.conftest import make_checkpoint

CLASSES = ["happy", "sad"]


def folder_cfg(folder: Path, **settings: Any) -> dict[str, Any]:
    return {**compose.defaults("data", "image_folder"), "path": str(folder), **settings}


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 40 distinct grey images of two classes, without a val folder."""
    folder, generator = tmp_path_factory.mktemp("data") / "faces", np.random.default_rng(0)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for i in range(20):
            image = Image.fromarray(generator.integers(0, 255, (32, 32), np.uint8))
            image.save(folder / name / f"{i:02}.png")
    return folder


@pytest.fixture(scope="module")
def copy(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same images as RGB files of another format and name."""
    folder = tmp_path_factory.mktemp("copy") / "faces"
    for path in sorted(faces.rglob("*.png")):
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        image = Image.open(path).convert("RGB")
        image.save(folder / path.parent.name / f"x{path.stem}.bmp")
    return folder


@pytest.fixture(scope="module")
def run(cfg: dict[str, Any], faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint that was trained on 32 of the images; 8 are val."""
    data = folder_cfg(faces, val_fraction=0.2)
    path = tmp_path_factory.mktemp("run") / "checkpoints" / "best.ckpt"
    return make_checkpoint({**cfg, "data": data}, path, CLASSES)


def score(run: Path, asked: dict[str, Any], split: str = "val") -> EvaluationResult:
    """Evaluate as the command does."""
    card = ckpt.read(run)[ckpt.CARD]
    foreign = is_foreign(asked, card)
    return evaluate_checkpoint(run, data_config(asked, card), split, foreign=foreign)


def test_own_val_has_no_training_image(run: Path, faces: Path) -> None:
    result = score(run, folder_cfg(faces))
    assert result.scores["n"] == 8 and not result.foreign
    assert result.scores["trained_on"] == {
        **{"n": 0, "near": 0, "unknown": [], "near_unknown": []},
        "others": {"n": 8, "accuracy": result.scores["accuracy"]},
    }
    assert not [note for note in result.notes if "warning" in note]


def test_val_of_the_run_is_remade_for_a_copy_of_its_data(
    run: Path, faces: Path, copy: Path, tmp_path: Path
) -> None:
    """The copy is a folder of other files, or a stream; its settings are the defaults."""
    own = ckpt.read(run)[ckpt.CARD]["fingerprints"]["val"]
    write_shards(open_all_splits(folder_cfg(copy)), "image_folder", tmp_path / "stream", 2**20)
    stream = {**compose.defaults("data", "stream"), "path": str(tmp_path / "stream")}
    for asked in (folder_cfg(copy), stream):
        result = score(run, asked)
        assert result.scores["fingerprint"] == own and not result.foreign
        assert result.scores["trained_on"]["n"] == 0


def test_images_in_train_are_counted_and_left_out(run: Path, copy: Path) -> None:
    """With one image missing, the copy is other data: all of its 39 images are scored."""
    (copy / "sad" / "x19.bmp").rename(copy / "x19.bmp")
    try:
        result = score(run, folder_cfg(copy))
    finally:
        (copy / "x19.bmp").rename(copy / "sad" / "x19.bmp")
    trained_on = result.scores["trained_on"]
    images = contamination.of_card(ckpt.read(run)[ckpt.CARD])
    expected = images.seen(result.part).exact
    assert result.foreign and len(expected) == 39 and 31 <= expected.sum() <= 32
    right = (result.predicted == result.labels)[~expected]
    assert trained_on["n"] == expected.sum()
    assert trained_on["others"] == {"n": len(right), "accuracy": pytest.approx(right.mean())}
    text = (
        f"{expected.sum()} of 39 images are in the training data: accuracy {right.mean():.2%} on "
        f"the {len(right)} others"
    )
    assert f"warning: {text}" in result.notes and text in report_text(result.scores, "val")


def test_all_images_in_train(run: Path, faces: Path) -> None:
    result = score(run, folder_cfg(faces), "train")
    text = "32 of 32 images are in the training data: no image remains without them"
    assert unseen_text(result.scores) == text


def test_every_member_of_an_ensemble_counts(
    cfg: dict[str, Any], run: Path, faces: Path, tmp_path: Path
) -> None:
    """The second member had another val split."""
    data = folder_cfg(faces, val_fraction=0.2, split_seed=1)
    other = make_checkpoint({**cfg, "data": data}, tmp_path / "b.ckpt", CLASSES)
    val = EmotionData(folder_cfg(faces, val_fraction=0.2), ("val",)).split("val")
    expected = int(contamination.of_card(ckpt.read(other)[ckpt.CARD]).seen(val).exact.sum())
    result = evaluate_checkpoint([run, other], ckpt.read(run)[ckpt.CARD]["config"]["data"])
    assert result.scores["trained_on"]["n"] == expected > 0


def without_list(run: Path, target: Path, **config: Any) -> Path:
    """Write the checkpoint as an earlier version did: its card does not list the images."""
    content = ckpt.read(run)
    del content[ckpt.CARD]["trained_on"]
    content[ckpt.CARD]["config"]["data"] |= config
    ckpt.write(target, content)
    return target


def test_data_of_earlier_checkpoints_is_opened_again(run: Path, copy: Path, tmp_path: Path) -> None:
    """At its own location, or where the evaluated data of the same kind is: a moved folder."""
    images = contamination.of_card(ckpt.read(run)[ckpt.CARD])
    assert len(images.pixels) == 32
    gone = str(tmp_path / "no such folder")
    for config, data in (({}, None), ({"path": gone}, folder_cfg(copy))):
        card = ckpt.read(without_list(run, tmp_path / "old.ckpt", **config))[ckpt.CARD]
        assert contamination.of_card(card, data).pixels.tolist() == images.pixels.tolist()


def test_unknown_is_not_zero(run: Path, copy: Path, tmp_path: Path) -> None:
    """The data of the run is gone, or it has changed."""
    for path in sorted(copy.rglob("x0*.bmp")):
        (tmp_path / "part" / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "part" / path.parent.name)
    gone = without_list(run, tmp_path / "gone.ckpt", path=str(tmp_path / "no such folder"))
    changed = without_list(run, tmp_path / "changed.ckpt", val_fraction=0.4)
    for old in (gone, changed):
        result = score(old, folder_cfg(tmp_path / "part"))
        assert result.scores["n"] == 20 and result.scores["trained_on"]["n"] is None
        assert [note for note in result.notes if note.startswith("warning: it is unknown")]


def test_cards_list_their_images_compactly(run: Path) -> None:
    pixels = ckpt.read(run)[ckpt.CARD]["trained_on"]["pixels"]
    assert pixels.dtype == torch.int64 and pixels.shape == (32,)
    assert (pixels.diff() > 0).all()


def test_the_shipped_checkpoint_lists_its_images() -> None:
    """Training has 28,709 images, 27,473 of them different."""
    card = ckpt.read(weights.find("fer2013", ".ckpt"))[ckpt.CARD]
    images = contamination.of_card(card)
    assert len(images.pixels) == 27_473 and images.unknown == []
    assert (np.diff(images.pixels) > 0).all() and images.pixels.max() < 2**40
    # 12 images without contrast have no perceptual hash, some near copies have the same.
    assert images.perceptual.shape == (27_431, 13) and images.near_unknown == []


def test_lists_of_earlier_versions_are_read(run: Path, copy: Path, tmp_path: Path) -> None:
    """They had 64 bits of each hash, and no perceptual hashes: near copies are unknown."""
    content = ckpt.read(run)
    part = EmotionData(content[ckpt.CARD]["config"]["data"], ("train",)).split("train")
    digests = [int.from_bytes(digest[:8], "little", signed=True) for digest in part.digests()]
    content[ckpt.CARD]["trained_on"] = {"pixels": torch.tensor(sorted(digests)), "unknown": []}
    ckpt.write(tmp_path / "old.ckpt", content)
    result = score(tmp_path / "old.ckpt", folder_cfg(copy), "train")
    assert result.scores["trained_on"]["n"] == 32 and result.scores["trained_on"]["near"] is None
    # No exact copy is no answer either.
    seen = contamination.of_card(ckpt.read(tmp_path / "old.ckpt")[ckpt.CARD]).seen(
        EmotionData(folder_cfg(copy, val_fraction=0.2), ("val",)).split("val")
    )
    assert contamination.warning(seen.summary(), 8) == (
        "it is unknown whether near copies of these images were trained on: no perceptual hashes "
        "for near copies in epoch 1, senet"
    )


def test_near_copies_are_counted_and_left_out(run: Path, copy: Path, tmp_path: Path) -> None:
    """Mirrored and resized files; the images are noise, which JPEG would change completely."""
    for path in sorted(copy.rglob("x*.bmp"))[:39]:
        target = tmp_path / "faces" / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        image = Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        image.resize((64, 64)).save(target)
    result = score(run, folder_cfg(tmp_path / "faces"))
    trained_on = result.scores["trained_on"]
    assert trained_on["n"] == 0 and 31 <= trained_on["near"] <= 32
    assert trained_on["others"]["n"] == 39 - trained_on["near"] == int((~result.seen).sum())
    assert (
        f"near copies of {trained_on['near']} of 39 images are in the training data: accuracy"
        in (report_text(result.scores, "val"))
    )


def test_streams_of_earlier_runs_keep_their_data_config() -> None:
    config = {"data": {"name": "stream", "path": "s3://bucket/faces/"}}
    card = {"config": migrate_config(config)}
    assert card["config"]["data"]["digest_of"] == "file"
    asked = {"name": "stream", "path": "s3://bucket/faces", "digest_of": "pixels"}
    assert not is_foreign(asked, card) and is_foreign({**asked, "path": "s3://bucket/b"}, card)
    assert data_config(asked, card)["digest_of"] == "file"


def test_openings_of_earlier_versions_count(run: Path, copy: Path, tmp_path: Path) -> None:
    """They recorded a test folder by the hash of its files."""
    (tmp_path / "data").mkdir()
    shutil.copytree(copy, tmp_path / "data" / "test")
    data = folder_cfg(tmp_path / "data")
    part = EmotionData(data, ("test",)).split("test")
    line = {"fingerprint": fingerprint(part, CLASSES, "file")["hash"], "config": "c", "epoch": 1}
    (tmp_path / "ledger.jsonl").write_text(json.dumps(line) + "\n")
    entry = LedgerEntry(tmp_path / "ledger.jsonl", tmp_path)
    for count in (1, 2):
        result = evaluate_checkpoint(run, data, "test", foreign=True, entry=entry)
        assert len(result.openings) == count
