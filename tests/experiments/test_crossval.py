"""Cross-validation: pooling of folds, report, and rejected runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from sklearn.metrics import accuracy_score, f1_score

from emotion_lab import crossval
from emotion_lab.cli.help import show
from emotion_lab.config import compose
from emotion_lab.core import runs
from emotion_lab.core.errors import UserError
from emotion_lab.evaluation.predictions_file import read_predictions, write_predictions
from emotion_lab.experiments.compare.result import compare
from emotion_lab.experiments.crossval.figure import figure
from emotion_lab.experiments.crossval.pool import pool
from emotion_lab.experiments.crossval.report import lines, summary, write
from emotion_lab.reports.style import DARK, render
from tests.conftest import TINY, command, error_message

CLASSES = ["happy", "sad", "neutral"]
LABELS = np.repeat([0, 1, 2], [60, 30, 33])
FOLDS = 3


def write_folds(root: Path, right: float = 0.7, seed: int = 0, **data: Any) -> list[Path]:
    """Write the runs of a cross-validation; the second has its classes in reverse order."""
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.ones(3), len(LABELS)) * 0.4
    correct = generator.random(len(LABELS)) < right
    predicted = np.where(correct, LABELS, generator.integers(0, 3, 123))
    probabilities[np.arange(len(LABELS)), predicted] += 0.6
    folders = []
    for index in range(FOLDS):
        folder = root / str(index)
        folder.mkdir(parents=True)
        rows = np.flatnonzero(np.arange(len(LABELS)) % FOLDS == index)
        classes = CLASSES[::-1] if index == 1 else CLASSES
        order = [CLASSES.index(name) for name in classes]
        labels = np.argsort(order)[LABELS[rows]]
        fold = probabilities[rows][:, order]
        path, names = folder / "predictions_val.csv", [f"face {row}" for row in rows]
        write_predictions(path, names, labels, fold.argmax(1), fold, classes)
        held = np.bincount(LABELS[rows], minlength=3)
        rest = np.bincount(LABELS, minlength=3) - held
        fingerprints = {
            split: {
                "n": int(counts.sum()),
                "counts": dict(zip(CLASSES, counts.tolist(), strict=True)),
                "hash": f"{split}{index}",
                "known_as": None,
            }
            for split, counts in (("train", rest), ("val", held))
        }
        score = float((fold.argmax(1) == labels).mean())
        val = {"n": len(rows), "accuracy": score, "macro_f1": score / 2, "loss": 1.0}
        metrics = {
            "val": {**val, "fingerprint": fingerprints["val"]},
            "seed": seed,
            "monitor": {"name": "val/macro_f1", "best": score / 2},
            "best_epoch": 1,
            "fingerprints": fingerprints,
        }
        settings = {"folds": FOLDS, "fold": index, "split_seed": 0, "path": None, **data}
        cfg = {
            "data": {"name": "fer2013", **settings},
            "model": {"name": "senet"},
            "trainer": {"monitor_mode": "auto", "num_threads": index},
            "monitor": "val/macro_f1",
            "seed": seed,
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(cfg))
        (folder / "metrics.json").write_text(json.dumps(metrics))
        folders.append(folder)
    return folders


def change(folder: Path, file: str, edit: Any) -> None:
    """Change ``config.yaml`` or ``metrics.json`` of a run directory."""
    path = folder / file
    content = yaml.safe_load(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def error(folders: list[Path]) -> str:
    return error_message(lambda: pool(runs.find(folders)))


def test_pool_has_every_image_once(tmp_path: Path) -> None:
    write_folds(tmp_path)
    pooled = pool(runs.find([tmp_path]))
    assert pooled.classes == CLASSES and len(pooled.names) == len(LABELS) == len(set(pooled.names))
    rows = np.array([int(name.split()[1]) for name in pooled.names])
    np.testing.assert_array_equal(pooled.labels, LABELS[rows])
    np.testing.assert_array_equal(pooled.folds, rows % FOLDS)
    np.testing.assert_array_equal(pooled.probabilities.argmax(1), pooled.predicted)
    content = summary(pooled)
    assert content["accuracy"] == pytest.approx(accuracy_score(pooled.labels, pooled.predicted))
    f1 = f1_score(pooled.labels, pooled.predicted, average="macro")
    assert content["macro_f1"] == pytest.approx(f1)
    low, high = content["accuracy_ci95"]
    assert low < content["accuracy"] < high
    per_fold = [row["accuracy"] for row in content["per_fold"]]
    assert content["over_folds"]["accuracy"]["mean"] == pytest.approx(np.mean(per_fold))
    assert content["over_folds"]["accuracy"]["std"] == pytest.approx(np.std(per_fold, ddof=1))
    assert [row["n"] for row in content["per_fold"]] == [41, 41, 41]
    assert any("not a standard error" in warning for warning in content["warnings"])
    text = "\n".join(map(str, lines(content)))
    assert "n = 123" in text and "warning: " in text and f"{content['accuracy']:.4f}" in text


def test_the_order_of_the_runs_does_not_matter(tmp_path: Path) -> None:
    folders = write_folds(tmp_path)
    first, other = (summary(pool(runs.find(order))) for order in (folders, folders[::-1]))
    assert first == other


def test_compare_reads_a_pool(tmp_path: Path) -> None:
    pools = []
    for name, right in (("a", 0.4), ("b", 0.9)):
        write_folds(tmp_path / name, right)
        folder = tmp_path / f"pool {name}"
        folder.mkdir()
        pooled = pool(runs.find([tmp_path / name]))
        content = write(pooled, folder, "python -m emotion_lab.crossval")
        saved = read_predictions(folder, "val")
        assert saved.names == pooled.names and saved.seed == 0
        np.testing.assert_allclose(saved.probabilities, pooled.probabilities, atol=1e-6)
        metrics = json.loads((folder / "metrics.json").read_text())
        assert metrics["val"]["accuracy"] == pytest.approx(content["accuracy"])
        assert metrics["val"]["macro_f1"] == pytest.approx(content["macro_f1"])
        assert np.array(metrics["val"]["confusion"]).sum() == len(LABELS)
        assert json.loads((folder / "folds.json").read_text())["n"] == len(LABELS)
        for file in ("folds.png", "confusion_val.png", "classification_report_val.txt"):
            assert (folder / file).stat().st_size > 100
        pools.append(folder)
    result = compare(pools[:1], pools[1:], "val", tmp_path / "ledger.jsonl")
    assert result["verdict"] == "better" and result["n"] == len(LABELS)
    # Other folds of the same images are rejected.
    for folder in (tmp_path / "b").iterdir():
        change(folder, "metrics.json", lambda m: m["fingerprints"]["val"].update(hash="other"))
    (other := tmp_path / "other").mkdir()
    write(pool(runs.find([tmp_path / "b"])), other, "")
    with pytest.raises(UserError, match="not scored on the same val split"):
        compare(pools[:1], [other], "val", tmp_path / "ledger.jsonl")


@pytest.mark.usefixtures("rendered_figures")
def test_figure_with_many_folds(tmp_path: Path) -> None:
    write_folds(tmp_path)
    content = summary(pool(runs.find([tmp_path])))
    many = {**content, "per_fold": content["per_fold"] * 10}
    many |= {"folds": 30, "macro_f1_ci95": None}
    assert len(render(lambda style: figure(many, style), DARK)) > 1000


def test_missing_and_duplicate_folds(tmp_path: Path) -> None:
    folders = write_folds(tmp_path)
    assert "2 of 3 folds are given: 0, 2. Train the missing folds" in error(folders[::2])
    assert "(-m data.fold=1,2)" in error(folders[:1])
    again = write_folds(tmp_path / "again")
    assert "fold 0 is given twice" in error([*folders, again[0]])


def test_different_configs(tmp_path: Path) -> None:
    folders = write_folds(tmp_path)
    change(folders[2], "config.yaml", lambda c: c["model"].update(name="cnn"))
    message = error(folders)
    assert 'model.name is "senet", "cnn"' in message
    assert f"runs=[{folders[0]},{folders[1]}]" in message
    change(folders[2], "config.yaml", lambda c: c["model"].update(name="senet"))
    change(folders[2], "config.yaml", lambda c: c["data"].update(split_seed=1))
    assert "data.split_seed is 0, 1" in error(folders)
    # Paths may differ.
    change(folders[2], "config.yaml", lambda c: c["data"].update(split_seed=0, path="/elsewhere"))
    assert len(pool(runs.find(folders)).names) == len(LABELS)
    change(folders[0], "config.yaml", lambda c: c["data"].update(folds=None))
    assert "is not a fold of a cross-validation" in error(folders)


def test_overlapping_and_incomplete_folds(tmp_path: Path) -> None:
    folders = write_folds(tmp_path)
    original = (folders[1] / "predictions_val.csv").read_text()
    rows = (folders[0] / "predictions_val.csv").read_text().splitlines()
    name = rows[1].split(",")[0]
    first = original.splitlines()[1].split(",")[0]
    (folders[1] / "predictions_val.csv").write_text(original.replace(first + ",", name + ",", 1))
    assert f"folds 0 and 1 overlap: both hold out '{name}'" in error(folders)
    (folders[1] / "predictions_val.csv").write_text(original)
    change(folders[2], "metrics.json", lambda m: m["fingerprints"]["train"]["counts"].update(sad=5))
    message = error(folders)
    assert f"{folders[2]} has 15 images of sad in train and val" in message
    assert "hold out 30" in message
    # Images that are left out on purpose cannot be counted.
    for folder in folders:
        change(folder, "config.yaml", lambda c: c["data"].update(limit=100))
    assert any("data.limit=100" in note for note in pool(runs.find(folders)).notes)
    change(folders[1], "metrics.json", lambda m: m.pop("fingerprints"))
    assert "has no fingerprints" in error(folders)


def test_different_classes_and_missing_predictions(tmp_path: Path) -> None:
    folders = write_folds(tmp_path)
    path = folders[2] / "predictions_val.csv"
    path.write_text(path.read_text().replace("sad", "fear"))
    assert "do not have the same classes: only one of them has fear, sad" in error(folders)
    path.unlink()
    assert "no predictions of val" in error(folders)


@pytest.mark.parametrize("text", ["data.fold=range(3)", "data.fold=range(0,3)", "data.fold=0,1,2"])
def test_range_is_a_sweep(text: str) -> None:
    cfg = compose.precheck("train", [*TINY, "data.folds=3", text], multirun=True)
    assert cfg.data.fold == 0
    with pytest.raises(UserError, match="is a sweep: add -m"):
        compose.precheck("train", [*TINY, "data.folds=3", text])
    with pytest.raises(UserError, match=r"data.fold=-1 is not valid"):
        compose.precheck("train", [*TINY, "data.fold=range(-1,3)"], multirun=True)


def test_missing_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="runs is missing"):
        crossval.validate(compose.precheck("crossval", []), [])
    with pytest.raises(UserError, match="no such run directory"):
        crossval.validate(compose.precheck("crossval", [f"runs={tmp_path / 'none'}"]), [])


def test_pool_of_a_real_sweep(tmp_path: Path) -> None:
    tiny = [text for text in TINY if not text.startswith("data.n=")]
    small = ("data.n=60", "data.size=32", "model.image_size=32", "trainer.max_epochs=1")
    folds = ("data.exclude=[disgust]", "data.folds=2", "data.fold=range(2)")
    done = command("-m", *tiny, *small, *folds, "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all((tmp_path / "sweep" / job / "metrics.json").exists() for job in "01")
    pooled = pool(runs.find([tmp_path / "sweep"]))
    fingerprints = [run.metrics["fingerprints"] for run in pooled.runs]
    assert len(pooled.names) == sum(splits["val"]["n"] for splits in fingerprints)
    assert len(pooled.names) == fingerprints[0]["train"]["n"] + fingerprints[0]["val"]["n"]
    assert [run.config["data"]["fold"] for run in pooled.runs] == [0, 1] and not pooled.notes


@pytest.mark.parametrize("entry", ["crossval", "ensemble"])
def test_help_names_every_key(entry: str, capsys: pytest.CaptureFixture[str]) -> None:
    show(entry)
    text = capsys.readouterr().out
    for key in compose.precheck(entry, []):
        assert key == "hydra" or f"\n  {key}=" in text
