"""Distances of perceptual hashes: changed images, and other pictures."""

from __future__ import annotations

import numpy as np
import pytest

from emotion_lab.benchmarks import near_copies
from emotion_lab.benchmarks.report import near_copies_report
from tests.audits.test_audit import texture
from tests.data.test_perceptual_hash import as_split, mirror


def test_small_changes_are_found_and_others_are_not() -> None:
    rows = near_copies._rows([texture(seed, 48) for seed in range(20)])
    found = {row["change"]: row["found"] for row in rows}
    assert set(found) == set(near_copies.CHANGES)
    assert found["mirrored"] == found["JPEG, quality 75"] == found["resized to 96 pixels"] == 1
    assert found["turned by 10 degrees"] == found["cropped by 8 % on each side"] == 0
    assert rows[0]["max"] == 0 and rows[0]["found_ci95"] == [pytest.approx(0.8389), 1.0]


def test_other_pictures_are_confirmed_by_their_correlation() -> None:
    images = [texture(seed, 48)[:, :, None] for seed in range(30)]
    known = near_copies._thumbnails(as_split([*images[:20], np.zeros_like(images[0])]))
    blank = np.full((48, 48, 1), 90, np.uint8)
    val = as_split([mirror(images[3]), *images[20:], blank])
    others = near_copies.compare_others(val, known)
    assert others == {"n": 11, "close": 1, "correlated": 1, "unconfirmed": []}
    # The highest frequencies lower the correlation, but do not change the hash.
    pattern = 40 * (-1) ** np.add.outer(np.arange(32), np.arange(32))
    known[3] = np.clip(known[3] + pattern, 0, 255)
    others = near_copies.compare_others(val, known)
    (row,) = others["unconfirmed"]
    assert (row["image"], row["training_image"]) == ("0", 3)
    assert row["distance"] <= 8 and row["correlation"] < 0.92
    result = {"bits": 100, "max_distance": 8, "copies": [], "others": others}
    text = "\n".join(map(str, near_copies_report(result)))
    assert "of 11 val images" in text and "1 are not confirmed" in text
