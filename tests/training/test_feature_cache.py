"""Cached features: the results of a run without them, views, resuming, the file, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core.errors import UserError
from emotion_lab.models.base import EmotionNet
from emotion_lab.training import feature_cache
from emotion_lab.training.callbacks import RunInterruptedError
from emotion_lab.training.fit import FitResult, fit
from tests.conftest import composed
from tests.training.conftest import Tiny, press_ctrl_c, read_history

FROZEN = ("model.freeze=backbone", "model.dropout=0.3", "augment=none", "trainer.ema_decay=0.8")
RAM = (*FROZEN, "data.feature_cache=ram")


def run(cfg: dict[str, Any], run_dir: Path, resume: Path | None = None) -> FitResult:
    run_dir.mkdir(exist_ok=True)
    return fit(cfg, run_dir, resume)


def scores(run_dir: Path) -> np.ndarray:
    """Return loss and accuracy of train and val of every epoch."""
    names = ("train/loss", "train/accuracy", "val/loss", "val/accuracy")
    return np.array([[float(row[name]) for name in names] for row in read_history(run_dir)])


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return ckpt.read(run_dir / "checkpoints" / "last.ckpt")["state_dict"]


def seen_images(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that collects the number of images of every pass through the network."""
    counts: list[int] = []
    for name in ("forward", "forward_features"):
        original = getattr(EmotionNet, name)

        def spy(self: EmotionNet, images: torch.Tensor, original: Any = original) -> Any:
            counts.append(len(images))
            return original(self, images)

        monkeypatch.setattr(EmotionNet, name, spy)
    return counts


def test_same_result_without_the_cache(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tiny(*FROZEN, "trainer.max_epochs=4"), tmp_path / "plain")
    counts = seen_images(monkeypatch)
    fitted = run(tiny(*RAM, "trainer.max_epochs=4"), tmp_path / "cached")
    np.testing.assert_allclose(scores(tmp_path / "cached"), scores(tmp_path / "plain"), atol=1e-5)
    before, after = weights(tmp_path / "plain"), weights(tmp_path / "cached")
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, atol=1e-5, rtol=1e-5)
    sizes = [len(fitted.data.split(name)) for name in ("train", "val")]
    # Each image once, and the first batch of train twice more, to check the classifier.
    assert sum(counts) == sum(sizes) + 2 * 16
    text = f"features: computed for {sizes[0]} train and {sizes[1]} val images, "
    assert text in capsys.readouterr().out


def test_images_again_after_unfreezing(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = seen_images(monkeypatch)
    cfg = tiny(*RAM, "trainer.max_epochs=3", "model.unfreeze_at_epoch=[[2,1]]")
    data = run(cfg, tmp_path).data
    n = {name: len(data.split(name)) for name in ("train", "val")}
    # In the last epoch, train and val pass through the network once more.
    assert sum(counts) == 2 * sum(n.values()) + 2 * 16


def test_views_of_light_are_the_images_of_the_first_epochs(tiny: Tiny, tmp_path: Path) -> None:
    """With a view for each epoch, nothing differs from augmenting in every epoch."""
    options = ("augment=light", "trainer.max_epochs=2")
    run(tiny(*FROZEN, *options), tmp_path / "plain")
    run(tiny(*RAM, *options, "data.feature_views=2"), tmp_path / "cached")
    np.testing.assert_allclose(scores(tmp_path / "cached"), scores(tmp_path / "plain"), atol=1e-5)


def test_views_of_device(tiny: Tiny, tmp_path: Path) -> None:
    options = ("augment=device", "data.feature_views=2", "trainer.max_epochs=1")
    values = run(tiny(*RAM, *options), tmp_path).data.features.values  # type: ignore[union-attr]
    assert len(values["train"]) == 2 and len(values["val"]) == 1
    assert not torch.equal(values["train"][0], values["train"][1])


@pytest.mark.parametrize("epoch", [0, 1])
def test_resumed_run_equals_an_uninterrupted_one(epoch: int, tiny: Tiny, tmp_path: Path) -> None:
    """Stopped while it trains on features, and after the backbone was unfrozen."""
    options = ("trainer.max_epochs=2", "model.unfreeze_at_epoch=1", "augment=device")
    cfg = tiny(*RAM, *options, "data.feature_views=1")
    run(cfg, tmp_path / "whole")
    with press_ctrl_c(epoch, 1), pytest.raises(RunInterruptedError):
        run(cfg, tmp_path / "stopped")
    run(cfg, tmp_path / "stopped", tmp_path / "stopped" / "checkpoints" / "last.ckpt")
    whole, stopped = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert all(torch.equal(value, stopped[name]) for name, value in whole.items())
    texts = [(tmp_path / name / "history.csv").read_text() for name in ("whole", "stopped")]
    assert texts[0] == texts[1]


def test_file_is_used_and_checked(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EMOTION_LAB_CACHE", str(tmp_path / "cache"))
    options = (*FROZEN, "data.feature_cache=disk", "trainer.max_epochs=1")

    def printed(*more: str) -> str:
        run(tiny(*options, *more), tmp_path / "run")
        lines = capsys.readouterr().out.splitlines()
        return "\n".join(line for line in lines if line.startswith("features: "))

    assert "computed for" in printed() and "not used" not in printed("data.feature_cache=ram")
    (file,) = (tmp_path / "cache" / "features").iterdir()
    first = scores(tmp_path / "run")
    assert printed() == f"features: read from {file}"
    np.testing.assert_array_equal(scores(tmp_path / "run"), first)
    for change, words in (
        ("seed=1", "other weights"),
        ("model.image_size=40", "other weights and another input of the network"),
        ("data.limit=50", "other images and another input of the network"),
    ):
        assert f"it holds the features of {words}: computed again" in printed(change)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert "it is damaged: computed again" in printed("data.limit=50")
    assert "read from" in printed("data.limit=50")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("data.feature_views=2",), "needs data.feature_cache=ram"),
        (("data.feature_cache=ram", "augment=none"), "needs a frozen backbone"),
        (("data.feature_cache=ram", "model.unfreeze_last=2", "augment=none"), "needs a frozen"),
        ((*RAM, "augment=light"), "augment=light changes the images in every epoch"),
        ((*RAM, "data.feature_views=2"), "needs an augmentation"),
        ((*RAM, "mix.mixup=0.2"), "set them to 0"),
        ((*RAM, "distill.teacher=fer2013"), "needs distill.precompute=true"),
    ],
)
def test_refused_options(options: tuple[str, ...], message: str, tiny: Tiny) -> None:
    with pytest.raises(UserError, match=message):
        feature_cache.check(tiny(*options))


def test_a_network_with_auxiliary_heads_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one classifier, this one has 3"):
        run(composed(*RAM, "model=googlenet", "data=synthetic", "data.n=40"), tmp_path)
