"""Data audit on a dataset with known issues; training data after cleaning."""

from __future__ import annotations

import base64
import csv
import functools
import json
import re
from pathlib import Path
from typing import Any

import cv2
import imagehash
import numpy as np
import pytest
from PIL import Image

from emotion_lab.audits import duplicates, html, image_stats, outliers
from emotion_lab.audits.result import build_report, run_checks
from emotion_lab.audits.run import summary, write_run
from emotion_lab.core.errors import UserError
from emotion_lab.data.build import load_data
from emotion_lab.data.types import ArrayStore, LoadedDataset, Split
from tests.conftest import composed

ALL = ("train", "val", "test")
CLASSES = ("angry", "happy", "sad")


@functools.cache
def settings() -> dict[str, Any]:
    return composed("data=image_folder", entry="audit")


def texture(seed: int, size: int = 64) -> np.ndarray:
    """Return a smooth random image, uint8 (size, size); different seeds are no near duplicates."""
    rng = np.random.default_rng(seed)
    field = cv2.resize(rng.normal(size=(9, 9)), (size, size), interpolation=cv2.INTER_CUBIC)
    field = (field - field.mean()) / field.std()
    level, contrast = rng.uniform(105, 150), rng.uniform(30, 45)
    return np.clip(np.rint(level + contrast * field), 0, 255).astype(np.uint8)


def save(path: Path, pixels: np.ndarray, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def save_corrupt(path: Path, pixels: np.ndarray) -> None:
    """Write a PNG with a valid header and end but corrupt pixel data."""
    save(path, pixels)
    data = bytearray(path.read_bytes())
    data[60:400] = bytes(340)
    path.write_bytes(bytes(data))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with 90 different images and one example of each issue."""
    root = tmp_path_factory.mktemp("audit") / "faces"
    seeds = iter(range(1000))
    for split in ALL:
        for name in CLASSES:
            for i in range(10):
                save(root / split / name / f"{i}.png", texture(next(seeds)))
    for paths in (
        ("train/happy/repeat_a.png", "train/happy/repeat_b.png"),
        ("train/sad/leak.png", "test/sad/leak.png"),
        ("train/sad/of_val.png", "val/sad/of_val.png"),
        ("train/angry/conflict.png", "train/happy/conflict.png"),
        ("train/angry/both.png", "test/happy/both.png"),
    ):
        pixels = texture(next(seeds))
        for path in paths:
            save(root / path, pixels)
    pixels = texture(next(seeds))
    save(root / "train/happy/mirror.png", pixels)
    save(root / "test/happy/mirror.png", pixels[:, ::-1])
    pixels = texture(next(seeds))
    save(root / "train/sad/again.png", pixels)
    save(root / "train/sad/again.jpg", pixels, quality=50)
    pixels = texture(next(seeds))
    save(root / "train/angry/light.png", pixels)
    save(root / "val/happy/light.png", np.clip(pixels * 0.9 + 25, 0, 255).astype(np.uint8))
    save(root / "train/sad/black.png", np.zeros((64, 64), np.uint8))
    save(root / "val/sad/black.png", np.zeros((64, 64), np.uint8))
    save(root / "train/happy/almost.png", (120 + texture(next(seeds)) // 40).astype(np.uint8))
    save(root / "train/angry/tiny.png", texture(next(seeds), 12))
    save(root / "train/happy/narrow.png", texture(next(seeds), 128)[:, :60])
    for path, level in (("train/sad/dark.png", 22), ("test/angry/white.png", 232)):
        soft = level + 0.2 * (texture(next(seeds)) - 128.0)
        save(root / path, soft.astype(np.uint8))
    grey = texture(next(seeds))
    save(root / "train/sad/grey.png", np.stack([grey, grey, grey], axis=2))
    colour = np.stack([texture(next(seeds)) for _ in range(3)], axis=2)
    save(root / "train/sad/colour.png", colour)
    (root / "train/happy/broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno image")
    (root / "test/sad/broken.jpg").write_bytes(b"")
    save_corrupt(root / "val/angry/middle.png", texture(next(seeds)))
    save_corrupt(root / "test/angry/middle.png", texture(next(seeds)))
    return root


Audited = tuple[image_stats.ImageStats, dict[str, Any], Path]


@pytest.fixture(scope="module")
def audited(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Audited:
    return run_audit(tmp_path_factory.mktemp("run"), path=str(dataset))


def run_audit(run_dir: Path, **data: str) -> Audited:
    """Return image statistics, report and run directory of an audit of a folder."""
    cfg = settings()
    cfg = {**cfg, "data": {**cfg["data"], **data}}
    stats = image_stats.scan_images(image_stats.open_all_splits(cfg["data"]), cfg["data"])
    result = run_checks(stats, cfg, None, None)
    report = build_report(result, cfg)
    write_run(run_dir, result, report, cfg["num_shown"])
    return stats, report, run_dir


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def groups(path: Path, kind: str) -> list[set[str]]:
    members: dict[str, set[str]] = {}
    for row in rows(path):
        if row["kind"] == kind:
            members.setdefault(row["group"], set()).add(row["path"])
    return sorted(members.values(), key=sorted)


def test_duplicates(audited: Audited) -> None:
    _, report, run = audited
    assert groups(run / "duplicates.csv", "identical") == [
        {"test/happy/both.png", "train/angry/both.png"},
        {"test/sad/leak.png", "train/sad/leak.png"},
        {"train/angry/conflict.png", "train/happy/conflict.png"},
        {"train/happy/repeat_a.png", "train/happy/repeat_b.png"},
        {"train/sad/black.png", "val/sad/black.png"},
        {"train/sad/of_val.png", "val/sad/of_val.png"},
    ]
    assert groups(run / "duplicates.csv", "near") == [
        {"test/happy/mirror.png", "train/happy/mirror.png"},
        {"train/angry/light.png", "val/happy/light.png"},
        {"train/sad/again.jpg", "train/sad/again.png"},
    ]
    counts = report["duplicates"]
    assert counts["identical_groups"] == 6 and counts["identical_images"] == 12
    assert counts["identical_groups_across_splits"] == 4
    assert counts["identical_groups_with_conflicting_labels"] == 2
    assert (counts["identical_groups_train_test"], counts["identical_groups_train_val"]) == (2, 2)
    assert counts["identical_groups_val_test"] == 0
    assert counts["near_groups"] == 3 and counts["near_groups_across_splits"] == 2
    assert counts["near_groups_with_conflicting_labels"] == 1


def test_image_issues(audited: Audited) -> None:
    _, report, run = audited
    kinds: dict[str, set[str]] = {}
    for row in rows(run / "findings.csv"):
        kinds.setdefault(row["kind"], set()).add(row["path"])
    assert kinds == {
        "unreadable": {
            "train/happy/broken.png",
            "test/sad/broken.jpg",
            "val/angry/middle.png",
            "test/angry/middle.png",
        },
        "constant": {"train/sad/black.png", "val/sad/black.png"},
        "almost_constant": {"train/happy/almost.png"},
        "tiny": {"train/angry/tiny.png"},
        "narrow": {"train/happy/narrow.png"},
        "dark": {"train/sad/dark.png"},
        "bright": {"test/angry/white.png"},
        "low_contrast": {"train/sad/dark.png", "test/angry/white.png"},
        "grey_as_rgb": {"train/sad/grey.png"},
    }
    assert report["findings"]["unreadable"] == 4 and report["findings"]["blank"] == 3
    assert "no_face" not in report["findings"]
    assert report["spread"]["modes"]["RGB"] == 1
    assert report["spread"]["modes"]["grey stored as RGB"] == 1
    assert report["spread"]["sizes"]["12x12"] == 1 and report["spread"]["different_sizes"] == 3
    reasons = {row["path"]: row["detail"] for row in rows(run / "findings.csv")}
    assert reasons["test/sad/broken.jpg"] == "empty file"


def test_counts_and_fingerprints(audited: Audited, dataset: Path) -> None:
    stats, report, run = audited
    assert json.loads((run / "audit.json").read_text()) == report
    cfg = {**settings()["data"], "path": str(dataset), "on_decode_error": "skip"}
    source = load_data(cfg, ALL)
    assert report["n"] == sum(len(part) for part in source.splits.values()) == len(stats)
    for name, part in source.splits.items():
        for label, cls in enumerate(source.classes):
            assert report["counts"][name][cls] == int((part.labels == label).sum())
        assert report["fingerprint"][name]["n"] == len(part)
    train = report["counts"]["train"].values()
    assert report["imbalance"]["train"] == pytest.approx(max(train) / min(train), abs=0.01)
    text = "\n".join(str(block) for block in summary(report))
    assert "identical" in text and "proposed to drop: " in text and len(text.splitlines()) < 20


def test_drop_proposals(audited: Audited) -> None:
    _, _, run = audited
    proposals = {row["path"]: (row["reason"], row["same_as"]) for row in rows(run / "drop.csv")}
    assert proposals == {
        "train/happy/broken.png": ("unreadable", ""),
        "val/angry/middle.png": ("unreadable", ""),
        "train/sad/black.png": ("blank", ""),
        "train/happy/almost.png": ("blank", ""),
        "train/sad/leak.png": ("copy_of_test", "test/sad/leak.png"),
        "train/angry/both.png": ("copy_of_test", "test/happy/both.png"),
        "train/sad/of_val.png": ("copy_of_val", "val/sad/of_val.png"),
        "train/happy/mirror.png": ("near_copy_of_test", "test/happy/mirror.png"),
        "train/angry/light.png": ("near_copy_of_val", "val/happy/light.png"),
        "train/angry/conflict.png": ("conflicting_labels", "train/happy/conflict.png"),
        "train/happy/conflict.png": ("conflicting_labels", "train/angry/conflict.png"),
        "train/happy/repeat_b.png": ("repeated", "train/happy/repeat_a.png"),
    }
    assert rows(run / "relabel.csv") == []


def test_cleaned_data_has_no_leaks(audited: Audited, dataset: Path, tmp_path: Path) -> None:
    """After ``data.drop_csv`` no duplicates of val and test are in train; test is unchanged."""
    _, report, run = audited
    _, clean, _ = run_audit(tmp_path, path=str(dataset), drop_csv=str(run / "drop.csv"))
    for kind in ("identical", "near"):
        for split in ("val", "test"):
            assert clean["duplicates"][f"{kind}_groups_train_{split}"] == 0
    assert clean["duplicates"]["identical_groups"] == 0
    assert clean["proposed"]["reasons"] == {"unreadable": 2}  # the loader skips these files
    assert clean["fingerprint"]["test"] == report["fingerprint"]["test"]
    assert clean["counts"]["test"] == report["counts"]["test"]
    assert clean["fingerprint"]["train"] != report["fingerprint"]["train"]
    assert clean["n"] == report["n"] - 10


def test_page_is_self_contained(audited: Audited) -> None:
    _, _, run = audited
    text = (run / "audit.html").read_text(encoding="utf-8")
    assert len(text) < 8_000_000
    assert "<script" not in text and "://" not in re.sub(r"data:[^\"]*", "", text)
    assert "default-src 'none'; img-src data:" in text
    sources = re.findall(r"(?:src|href)=\"([^\"#]{5})", text)
    assert sources and set(sources) == {"data:"}
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text
    assert "copy_of_test" in text and "train/happy/broken.png" in text
    for name in ("class_counts.png", "spreads.png"):
        assert (run / name).read_bytes().startswith(b"\x89PNG")


def test_file_names_are_escaped(tmp_path: Path) -> None:
    for name in ("happy", "sad"):
        for i in range(3):
            save(tmp_path / "d" / name / f"<b>&{i}.png", texture(10 * len(name) + i))
    copy = texture(7)
    for name in ("happy", "sad"):
        save(tmp_path / "d" / name / "<script>x.png", copy)
    (tmp_path / "run").mkdir()
    _, report, run = run_audit(tmp_path / "run", path=str(tmp_path / "d"))
    text = (run / "audit.html").read_text(encoding="utf-8")
    assert "<script" not in text and "&lt;script&gt;x.png" in text and "<b>&" not in text
    assert report["counts"].keys() == {"train"}
    assert any("no test split" in note for note in report["notes"])


def test_thumbnails_have_a_size_limit() -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 300, 200, 3), dtype=np.uint8)
    thumbnails = html.Thumbnails(scan_array(images), max_bytes=40_000)
    uris = [thumbnails(i) for i in range(40)]
    assert 0 < sum(len(uri) for uri in uris if uri) <= 40_000
    assert uris[0] is not None and uris[-1] is None
    data = np.frombuffer(base64.b64decode(uris[0].split(",")[1]), np.uint8)
    assert cv2.imdecode(data, cv2.IMREAD_COLOR).shape == (72, 48, 3)


def scan_array(images: np.ndarray) -> image_stats.ImageStats:
    """Scan uint8 (N, H, W, C) as a train split with label 0."""
    n = len(images)
    names = [f"array:{i}" for i in range(n)]
    split = Split(ArrayStore(images), np.arange(n), np.zeros(n, np.int64), names)
    source = LoadedDataset(["happy", "sad"], {"train": split}, "array")
    return image_stats.scan_images(source, {"name": "array"})


def test_hashes_equal_imagehash() -> None:
    images = np.stack([texture(seed, 48) for seed in range(30)])[..., None]
    stats = scan_array(images)
    for i, image in enumerate(images[..., 0]):
        expected = imagehash.phash(Image.fromarray(image)).hash.ravel()
        assert np.array_equal(stats.hashes[i], expected)
        mirrored = Image.fromarray(np.ascontiguousarray(stats.thumbnails[i][:, ::-1]))
        expected = imagehash.phash(mirrored).hash.ravel()
        assert np.array_equal(stats.mirrored_hashes[i], expected)


def test_correlation_allows_small_shifts() -> None:
    picture = texture(3, 40)
    a, b = picture[4:36, 4:36], picture[5:37, 2:34]
    assert duplicates.correlation(a, b) > 0.999
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] < 0.95
    assert duplicates.correlation(a, texture(4, 32)) < 0.7
    assert duplicates.correlation(a, np.full((32, 32), 9, np.uint8)) == 0
    assert duplicates.correlation(a, 255 - a) < 0.7


def test_tukey_fences() -> None:
    values = np.array([10.0, 11, 12, 13, 14])
    assert outliers.tukey_fences(values) == (11 - 2 * 2, 13 + 2 * 2)


def test_images_without_face(tmp_path: Path) -> None:
    """Haar finds most of seven synthetic faces and hardly any in seven textures."""
    from emotion_lab.audits.no_face import build_face_detector, images_without_face

    cfg = {**composed("data=synthetic")["data"], "n": 21, "size": 64, "difficulty": 0.0}
    faces = load_data(cfg, ("train",)).splits["train"].store.images[:7]
    textures = np.stack([texture(seed) for seed in range(7)])[..., None]
    stats = scan_array(np.concatenate([faces, textures]))
    blank = outliers.blank_images(stats, 5.0)
    indices = images_without_face(stats, build_face_detector("haar", None), blank)
    assert sum(i < 7 for i in indices) <= 3 and sum(i >= 7 for i in indices) >= 5
    with pytest.raises(UserError, match="No file at"):
        build_face_detector("haar", str(tmp_path / "no.xml"))
    with pytest.raises(UserError, match=r"Unknown face detector 'harr'\. Did you mean 'haar'"):
        build_face_detector("harr", None)
    assert build_face_detector("none", None) is None


def test_split_without_images(tmp_path: Path) -> None:
    for name in ("happy", "sad"):
        save(tmp_path / "train" / name / "0.png", texture(1))
        (tmp_path / "val" / name).mkdir(parents=True)
        (tmp_path / "val" / name / "0.png").write_bytes(b"no image")
        (tmp_path / "test" / name).mkdir(parents=True)
    cfg = {**settings()["data"], "path": str(tmp_path)}
    with pytest.raises(UserError, match=r"leaves no image of happy, sad in val of"):
        image_stats.open_all_splits(cfg)
    for name in ("happy", "sad"):
        save(tmp_path / "val" / name / "0.png", texture(2))
    # A split folder without files is ignored.
    assert list(image_stats.open_all_splits(cfg).splits) == ["train", "val"]


@pytest.mark.fer2013
def test_fer2013(fer2013_csv: Path) -> None:
    """1,516 groups, 557 across splits: an independent count from the pixel column of the CSV."""
    cfg = composed(f"data.path={fer2013_csv}")["data"]
    stats = image_stats.scan_images(image_stats.open_all_splits(cfg), cfg)
    assert len(stats) == 35_887
    blank = outliers.blank_images(stats, 5.0)
    groups = duplicates.find_duplicates(stats, blank, 8, 0.92)
    counts = duplicates.count_duplicates(stats, groups)
    assert counts["identical_groups"] == 1_516 and counts["identical_images"] == 3_369
    assert counts["identical_groups_across_splits"] == 557
    assert counts["identical_groups_with_conflicting_labels"] == 57
    assert 1_200 < counts["near_groups"] < 1_350
    assert int(blank.sum()) == 14
