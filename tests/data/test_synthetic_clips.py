"""``data=synthetic_clips``: known truth, one person each, splits by clip."""

from __future__ import annotations

import numpy as np
import pytest

from emotion_lab.core.errors import UserError
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.data.build import load_data
from emotion_lab.data.types import LoadedDataset
from tests.conftest import composed


def load(*splits: str, seed: int = 0, group: str | None = None) -> LoadedDataset:
    overrides = ("data=synthetic_clips", "data.n=21", "data.seconds=1", "data.size=32")
    cfg = composed(*overrides, f"data.seed={seed}")["data"]
    return load_data({**cfg, "group": group}, splits)


@pytest.fixture(scope="module")
def drawn() -> LoadedDataset:
    return load("train", "val")


def test_every_frame_has_a_label_and_a_rising_time(drawn: LoadedDataset) -> None:
    train = drawn.splits["train"]
    assert train.looks is not None and train.image(0).shape == (32, 32, 1)
    assert set(train.labels.tolist()) == set(range(len(EMOTIONS)))
    assert np.unique(train.looks.tracks).tolist() == list(range(7))
    for number in range(7):
        times = train.looks.times[train.looks.tracks == number]
        assert times[0] == 0 and (np.diff(times) > 0).all() and times[-1] < 1.3
        assert np.ptp(np.diff(times)) > 0.005  # irregular


def test_a_split_does_not_depend_on_the_others(drawn: LoadedDataset) -> None:
    val = load("val").splits["val"]
    assert val.digests() == drawn.splits["val"].digests()
    assert not set(val.digests()) & set(drawn.splits["train"].digests())
    assert val.digests() != load("val", seed=1).splits["val"].digests()


def test_a_subset_keeps_tracks_and_times(drawn: LoadedDataset) -> None:
    val = drawn.splits["val"]
    part = val.subset(np.arange(0, len(val), 3))
    assert val.looks is not None and part.looks is not None
    np.testing.assert_array_equal(part.looks.times, val.looks.times[::3])
    np.testing.assert_array_equal(part.looks.tracks, val.looks.tracks[::3])
    assert part.groups is not None and part.groups[-1] == "drawn:val:6"


def test_a_group_of_persons_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.group does not apply to data=synthetic_clips"):
        load("val", group="p")
