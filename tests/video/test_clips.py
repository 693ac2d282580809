"""``data=clips``: folders of classes, a CSV of episodes, the cache, and mistakes in one line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from emotion_lab.core.errors import UserError
from emotion_lab.data.build import load_data
from emotion_lab.data.datamodule import EmotionData
from emotion_lab.data.types import LoadedDataset
from emotion_lab.evaluation.episodes import episode_scores
from emotion_lab.synthetic.video import render_video
from emotion_lab.video import clip_faces
from tests.conftest import composed


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return five clips of 1 s at 10 frames per second, of different persons."""
    folder = tmp_path_factory.mktemp("clips")
    for seed in range(5):
        timeline = [(0.5, "happy"), (0.5, "sad")]
        render_video(folder / f"{seed}.mp4", timeline, fps=10, size=(64, 64), seed=seed)
    return sorted(folder.iterdir())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMOTION_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def config(path: Path, *overrides: str) -> dict[str, Any]:
    data: dict[str, Any] = composed("data=clips", "data.detector=full_frame", *overrides)["data"]
    return {**data, "path": str(path)}


def load(path: Path, *overrides: str, carve: bool = True) -> LoadedDataset:
    return load_data(config(path, *overrides), ("train", "val"), carve)


def folders(root: Path, clip: list[Path], **counts: int) -> Path:
    """Copy clips into class folders."""
    rest = iter(clip)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            shutil.copy(next(rest), root / name / f"{i}.mp4")
    return root


def episodes(root: Path, clip: list[Path], *rows: str) -> Path:
    """Write a CSV next to the clips a.mp4 and b.mp4."""
    for name, file in zip(("a", "b"), clip, strict=False):
        shutil.copy(file, root / f"{name}.mp4")
    file = root / "episodes.csv"
    file.write_text("\n".join(["file,start_s,end_s,label", *rows]) + "\n")
    return file


def test_no_clip_stands_in_train_and_val(tmp_path: Path, clip: list[Path]) -> None:
    data = load(folders(tmp_path / "data", clip, happy=3, sad=2), "data.val_fraction=0.4")
    train, val = data.splits["train"], data.splits["val"]
    assert data.classes == ["happy", "sad"]
    assert len(train) + len(val) == 50 and {0, 1} == set(train.labels) == set(val.labels)
    files = [{name.split(":")[0] for name in part.names} for part in (train, val)]
    assert not files[0] & files[1]
    assert train.looks is not None and np.diff(train.looks.times[:10]).min() > 0


def test_split_folders_are_the_splits(tmp_path: Path, clip: list[Path]) -> None:
    for split in ("train", "val"):
        clips = clip[:2] if split == "train" else clip[2:]
        folders(tmp_path / "data" / split, clips, happy=1, sad=1)
    data = load(tmp_path / "data")
    assert [len(data.splits[name]) for name in ("train", "val")] == [20, 20]


def test_episodes_label_their_part_of_the_clip(tmp_path: Path, clip: list[Path]) -> None:
    rows = ["a.mp4,0,0.5,happiness", "a.mp4,0.6,1.0,sad", "b.mp4,0.2,0.4,sad", "b.mp4,0.5,1,happy"]
    data = load(episodes(tmp_path, clip, *rows), carve=False)
    train = data.splits["train"]
    assert train.labels.tolist() == [0] * 5 + [1] * 4 + [1] * 2 + [0] * 5
    assert train.looks is not None
    np.testing.assert_allclose(train.looks.times[5:9], [0.6, 0.7, 0.8, 0.9], atol=1e-6)
    assert train.groups is not None and len(np.unique(train.looks.tracks)) == 2
    assert [Path(name).name for name in train.groups] == ["a.mp4"] * 9 + ["b.mp4"] * 7


def test_faces_are_cut_once(
    tmp_path: Path, clip: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folders(tmp_path / "data", clip, happy=2, sad=2)
    first = load(root, carve=False)
    assert len(list(cache.rglob("*.npz"))) == 4

    def refuse(*args: Any) -> None:
        raise AssertionError("cut again")

    monkeypatch.setattr(clip_faces, "_cut", refuse)
    assert load(root, carve=False).splits["train"].digests() == first.splits["train"].digests()
    with pytest.raises(UserError, match="cut again"):
        load(root, "data.size=32", carve=False)


def test_folds_divide_by_clip(tmp_path: Path, clip: list[Path]) -> None:
    root = folders(tmp_path / "data", clip, happy=2, sad=2)
    data = EmotionData(config(root, "data.folds=2"), ("train", "val"))
    parts = [{name.split(":")[0] for name in data.split(split).names} for split in ("train", "val")]
    assert len(parts[0]) == len(parts[1]) == 2 and not parts[0] & parts[1]


@pytest.mark.parametrize(
    "rows, message",
    [
        (["a.mp4,0,1.5,happy"], r"row 2: end_s=1.5 lies beyond the end of a.mp4 \(1.00 s\)"),
        (["a.mp4,0.5,0.2,happy"], r"row 2: the episode runs from 0.5 to 0.2 s, times must rise"),
        (["a.mp4,0,x,happy"], r"row 2: start_s and end_s must be seconds"),
        (["c.mp4,0,1,happy"], r"row 2: the clip .*c.mp4 does not exist"),
        (["a.mp4,0,0.5,happy", "a.mp4,0.3,1,sad"], r"row 3: it overlaps another episode"),
        (["a.mp4,0,1,"], r"row 2: the label is missing"),
        ([], r"has no episodes"),
    ],
)
def test_mistakes_in_episodes(
    tmp_path: Path, clip: list[Path], rows: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load(episodes(tmp_path, clip, *rows), carve=False)


def test_mistakes_in_folders(tmp_path: Path, clip: list[Path]) -> None:
    with pytest.raises(UserError, match=r"class sad of .* has one clip, .* data.exclude=\[sad\]"):
        load(folders(tmp_path / "one", clip, happy=2, sad=1))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no clips: expected <class>/<clip>"):
        load(tmp_path / "empty")
    with pytest.raises(UserError, match=r"lacks the column start_s, end_s"):
        (tmp_path / "x.csv").write_text("file,label\na.mp4,happy\n")
        load(tmp_path / "x.csv")


def test_a_clip_without_a_face(tmp_path: Path) -> None:
    for name in ("happy", "sad"):
        (tmp_path / "data" / name).mkdir(parents=True)
        path = str(tmp_path / "data" / name / "grey.mp4")
        writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 64))
        for _ in range(3):
            writer.write(np.full((64, 64, 3), 128, np.uint8))
        writer.release()
    with pytest.raises(UserError, match=r"grey.mp4: no face was found in this clip"):
        load(tmp_path / "data", "data.detector=haar", carve=False)


def test_group_keeps_the_clips_of_a_person_together(tmp_path: Path, clip: list[Path]) -> None:
    root = folders(tmp_path / "data", clip[:4], happy=2, sad=2)  # 0.mp4 and 1.mp4 in each
    data = load(root, r"data.group='(\d)\.mp4'", "data.val_fraction=0.4")
    parts = [data.splits["train"], data.splits["val"]]
    assert [set(part.groups or ()) for part in parts] in ([{"0"}, {"1"}], [{"1"}, {"0"}])
    assert all(set(part.labels) == {0, 1} for part in parts)
    with pytest.raises(UserError, match=r"class happy of .* has one group \(data.group\)"):
        load(root, "data.group='data'")


def test_episodes_of_one_clip_are_resampled_together(tmp_path: Path, clip: list[Path]) -> None:
    rows = ["a.mp4,0,0.3,happy", "a.mp4,0.5,1.0,happy", "b.mp4,0,0.5,sad"]
    part = load(episodes(tmp_path, clip, *rows), carve=False).splits["train"]
    assert part.looks is not None and part.looks.episodes is not None
    assert part.looks.episodes.tolist() == [0] * 3 + [1] * 5 + [2] * 5
    happy = np.tile([1.0, 0.0], (len(part), 1))
    scores = episode_scores(happy, part.labels, part.looks, part.groups)
    assert (scores["n"], scores["groups"]) == (3, 2)
    assert scores["accuracy_mean"] == pytest.approx(2 / 3)
    assert scores["accuracy_mean_ci95"] == [0, 1]  # a sample can hold one clip only


def test_accuracy_of_episodes_by_majority_and_by_mean(tmp_path: Path, clip: list[Path]) -> None:
    part = load(folders(tmp_path / "data", clip, happy=2, sad=2), carve=False).splits["train"]
    assert part.looks is not None
    probabilities = np.tile([0.4, 0.6], (len(part), 1))
    probabilities[:4] = [0.95, 0.05]  # 4 of the 10 looks of the first clip, but sure
    scores = episode_scores(probabilities, part.labels, part.looks)
    assert scores["n"] == 4
    assert (scores["accuracy_majority"], scores["accuracy_mean"]) == (0.5, 0.75)
    low, high = scores["accuracy_mean_ci95"]
    assert low < 0.75 < high
