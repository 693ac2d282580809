"""Train on a CSV of images, with a quantity that some images have, and use the checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from emotion_lab.inference.classifier import load_classifier
from tests.conftest import TINY, composed, run_training


def test_csv_with_a_quantity_is_trained_and_predicted(tmp_path: Path) -> None:
    rng, rows = np.random.default_rng(0), ["path,label,split,valence,person"]
    for i in range(36):
        label, split = ("happy", "sad", "fear")[i % 3], "train" if i < 24 else "val"
        pixels = rng.integers(60 * (i % 3), 60 * (i % 3) + 100, (16, 16), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        valence = "" if i % 4 == 3 else f"{(0.8, -0.6, -0.4)[i % 3]}"
        rows.append(f"{i}.png,{label},{split},{valence},p{i}")
    (tmp_path / "faces.csv").write_text("\n".join(rows))
    overrides = ("data=csv", "data.group=person", "quantities_head.weight=1", "augment=none")
    tiny = [text for text in TINY if not text.startswith(("data=", "data.n="))]
    cfg = composed(*tiny, *overrides, f"data.path={tmp_path / 'faces.csv'}")
    metrics = run_training(cfg, tmp_path / "run")
    assert metrics["val"]["n"] == 12 and metrics["fingerprints"]["train"]["n"] == 24
    assert metrics["selection_bias"]["groups"] == 12
    header = (tmp_path / "run" / "history.csv").read_text().splitlines()[0]
    assert "val/ccc_valence" in header and "intensity" not in header

    classifier = load_classifier(tmp_path / "run", "torch", threads=1)
    assert sorted(classifier.classes) == ["fear", "happy", "sad"]
    probabilities, values = classifier.predict([np.full((20, 20, 1), 128, np.uint8)])
    face = classifier.quantities(probabilities[0], 0, values[0])
    assert face["valence"] == values[0, 0] and face["valence_std"] is None
    assert face["arousal"] == classifier.derived(probabilities[0], 0)["arousal"]
    assert classifier.quantities.source == {
        "valence": "learned",
        "arousal": "derived",
        "intensity": "derived",
    }
