"""Folds of a cross-validation put together, and everything that is none."""

from __future__ import annotations

import copy
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
from emotion_lab.experiments.crossval.pool import lines, pool, summary, write
from emotion_lab.reports.style import DARK, render
from tests.conftest import TINY, command

CLASSES = ["happy", "sad", "neutral"]
LABELS = np.repeat([0, 1, 2], [60, 30, 33])
FOLDS = 3


def write_folds(root: Path, right: float = 0.7, seed: int = 0, **data: Any) -> list[Path]:
    """Write the run folders of a cross-validation; the second has its classes the other way."""
    generator = np.random.default_rng(seed)
    given = generator.dirichlet(np.ones(3), len(LABELS)) * 0.4
    told = np.where(generator.random(len(LABELS)) < right, LABELS, generator.integers(0, 3, 123))
    given[np.arange(len(LABELS)), told] += 0.6
    made = []
    for index in range(FOLDS):
        folder = root / str(index)
        folder.mkdir(parents=True)
        rows = np.flatnonzero(np.arange(len(LABELS)) % FOLDS == index)
        classes = CLASSES[::-1] if index == 1 else CLASSES
        order = [CLASSES.index(name) for name in classes]
        labels = np.argsort(order)[LABELS[rows]]
        mine = given[rows][:, order]
        names = [f"face {row}" for row in rows]
        write_predictions(
            folder / "predictions_val.csv", names, labels, mine.argmax(1), mine, classes
        )
        held = np.bincount(LABELS[rows], minlength=3)
        rest = np.bincount(LABELS, minlength=3) - held
        prints = {
            split: {
                "n": int(counts.sum()),
                "counts": dict(zip(CLASSES, counts.tolist(), strict=True)),
                "hash": f"{split}{index}",
                "known_as": None,
            }
            for split, counts in (("train", rest), ("val", held))
        }
        score = float((mine.argmax(1) == labels).mean())
        val = {"n": len(rows), "accuracy": score, "macro_f1": score / 2, "loss": 1.0}
        metrics = {
            "val": {**val, "fingerprint": prints["val"]},
            "seed": seed,
            "monitor": {"name": "val/macro_f1", "best": score / 2},
            "best_epoch": 1,
            "fingerprints": prints,
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
        made.append(folder)
    return made


def change(folder: Path, file: str, edit: Any) -> None:
    """Change ``config.yaml`` or ``metrics.json`` of a run folder."""
    path = folder / file
    content = yaml.safe_load(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def refused(places: list[Path]) -> str:
    with pytest.raises(UserError) as caught:
        pool(runs.find(places))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what is pooled -------------------------------------------------------------------------


def test_every_image_once_by_class_name(tmp_path: Path) -> None:
    write_folds(tmp_path)
    pooled = pool(runs.find([tmp_path]))
    assert pooled.classes == CLASSES and len(pooled.names) == len(LABELS) == len(set(pooled.names))
    rows = np.array([int(name.split()[1]) for name in pooled.names])
    np.testing.assert_array_equal(pooled.labels, LABELS[rows])
    np.testing.assert_array_equal(pooled.folds, rows % FOLDS)
    np.testing.assert_array_equal(pooled.probabilities.argmax(1), pooled.predicted)
    found = summary(pooled)
    assert found["accuracy"] == pytest.approx(accuracy_score(pooled.labels, pooled.predicted))
    f1 = f1_score(pooled.labels, pooled.predicted, average="macro")
    assert found["macro_f1"] == pytest.approx(f1)
    low, high = found["accuracy_ci95"]
    assert low < found["accuracy"] < high
    each = [row["accuracy"] for row in found["per_fold"]]
    assert found["over_folds"]["accuracy"]["mean"] == pytest.approx(np.mean(each))
    assert found["over_folds"]["accuracy"]["std"] == pytest.approx(np.std(each, ddof=1))
    assert [row["n"] for row in found["per_fold"]] == [41, 41, 41]
    assert any("no standard error" in warning for warning in found["warnings"])
    text = "\n".join(lines(found))
    assert "n = 123" in text and "warning: " in text and f"{found['accuracy']:.4f}" in text


def test_the_order_of_the_runs_does_not_matter(tmp_path: Path) -> None:
    places = write_folds(tmp_path)
    one, other = (summary(pool(runs.find(order))) for order in (places, places[::-1]))
    assert one == other


def test_a_pool_is_a_run_that_compare_reads(tmp_path: Path) -> None:
    pools = []
    for name, right in (("a", 0.4), ("b", 0.9)):
        write_folds(tmp_path / name, right)
        folder = tmp_path / f"pool {name}"
        folder.mkdir()
        pooled = pool(runs.find([tmp_path / name]))
        found = write(pooled, folder, "python -m emotion_lab.crossval")
        saved = read_predictions(folder, "val")
        assert saved.names == pooled.names and saved.seed == 0
        np.testing.assert_allclose(saved.probabilities, pooled.probabilities, atol=1e-6)
        metrics = json.loads((folder / "metrics.json").read_text())
        assert metrics["val"]["accuracy"] == pytest.approx(found["accuracy"])
        assert metrics["val"]["macro_f1"] == pytest.approx(found["macro_f1"])
        assert np.array(metrics["val"]["confusion"]).sum() == len(LABELS)
        assert json.loads((folder / "folds.json").read_text())["n"] == len(LABELS)
        for file in ("folds.png", "confusion_val.png", "classification_report_val.txt"):
            assert (folder / file).stat().st_size > 100
        pools.append(folder)
    result = compare(pools[:1], pools[1:], "val", tmp_path / "ledger.jsonl")
    assert result["verdict"] == "better" and result["n"] == len(LABELS)
    # Folds that were cut otherwise are other images to a network: not to be compared.
    for index in range(FOLDS):
        change(
            tmp_path / "b" / str(index),
            "metrics.json",
            lambda m: m["fingerprints"]["val"].update(hash="other"),
        )
    (other := tmp_path / "other").mkdir()
    write(pool(runs.find([tmp_path / "b"])), other, "")
    with pytest.raises(UserError, match="not scored on the same val split"):
        compare(pools[:1], [other], "val", tmp_path / "ledger.jsonl")


def test_many_folds_are_drawn_too(tmp_path: Path) -> None:
    write_folds(tmp_path)
    found = summary(pool(runs.find([tmp_path])))
    many = copy.deepcopy(found)
    many["per_fold"] = found["per_fold"] * 10
    many |= {"folds": 30, "macro_f1_ci95": None}
    assert len(render(lambda style: figure(many, style), DARK)) > 1000


# --- what is refused ------------------------------------------------------------------------


def test_a_fold_that_is_missing_or_twice(tmp_path: Path) -> None:
    places = write_folds(tmp_path)
    assert "of 3 folds there are 0, 2 only. Train data.fold=1" in refused([places[0], places[2]])
    assert "(-m data.fold=1,2)" in refused(places[:1])
    again = write_folds(tmp_path / "again")
    assert "fold 0 is there twice" in refused([*places, again[0]])


def test_other_configs(tmp_path: Path) -> None:
    places = write_folds(tmp_path)
    change(places[2], "config.yaml", lambda c: c["model"].update(name="cnn"))
    words = refused(places)
    assert 'model.name is "senet", "cnn"' in words and f"runs=[{places[0]},{places[1]}]" in words
    change(places[2], "config.yaml", lambda c: c["model"].update(name="senet"))
    change(places[2], "config.yaml", lambda c: c["data"].update(split_seed=1))
    assert "data.split_seed is 0, 1" in refused(places)
    # Where things lie may differ.
    change(places[2], "config.yaml", lambda c: c["data"].update(split_seed=0, path="/elsewhere"))
    assert len(pool(runs.find(places)).names) == len(LABELS)
    change(places[0], "config.yaml", lambda c: c["data"].update(folds=None))
    assert "is no fold of a cross-validation" in refused(places)


def test_folds_that_overlap_or_leave_images_out(tmp_path: Path) -> None:
    places = write_folds(tmp_path)
    whole = (places[1] / "predictions_val.csv").read_text()
    rows = (places[0] / "predictions_val.csv").read_text().splitlines()
    name = rows[1].split(",")[0]
    first = whole.splitlines()[1].split(",")[0]
    (places[1] / "predictions_val.csv").write_text(whole.replace(first + ",", name + ",", 1))
    assert f"folds 0 and 1 overlap: both hold out '{name}'" in refused(places)
    (places[1] / "predictions_val.csv").write_text(whole)
    change(
        places[2],
        "metrics.json",
        lambda m: m["fingerprints"]["train"]["counts"].update(sad=5),
    )
    words = refused(places)
    assert f"{places[2]} was cut out of 15 images of sad" in words and "hold out 30" in words
    # Where images were left out on purpose nothing can be counted, and that is said.
    for place in places:
        change(place, "config.yaml", lambda c: c["data"].update(limit=100))
    assert any("data.limit=100" in note for note in pool(runs.find(places)).notes)
    change(places[1], "metrics.json", lambda m: m.pop("fingerprints"))
    assert "tells no fingerprints" in refused(places)


def test_other_classes_and_no_predictions(tmp_path: Path) -> None:
    places = write_folds(tmp_path)
    path = places[2] / "predictions_val.csv"
    path.write_text(path.read_text().replace("sad", "fear"))
    assert "do not have the same classes: only one of them has fear, sad" in refused(places)
    path.unlink()
    assert "no predictions of val" in refused(places)


# --- the commands ---------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["data.fold=range(3)", "data.fold=range(0,3)", "data.fold=0,1,2"])
def test_a_range_is_a_sweep(text: str) -> None:
    cfg = compose.precheck("train", [*TINY, "data.folds=3", text], multirun=True)
    assert cfg.data.fold == 0
    with pytest.raises(UserError, match="is a sweep: add -m"):
        compose.precheck("train", [*TINY, "data.folds=3", text])
    with pytest.raises(UserError, match="data.fold=-1 is not valid"):
        compose.precheck("train", [*TINY, "data.fold=range(-1,3)"], multirun=True)


def test_without_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="runs is missing"):
        crossval.validate(compose.precheck("crossval", []), [])
    with pytest.raises(UserError, match="no such run folder"):
        crossval.validate(compose.precheck("crossval", [f"runs={tmp_path / 'none'}"]), [])


def test_a_sweep_over_folds_is_pooled(tmp_path: Path) -> None:
    """A range on a real command line, on tiny drawn faces; then the pool."""
    tiny = [text for text in TINY if not text.startswith("data.n=")]
    done = command(
        "-m",
        *tiny,
        "data.n=60",
        "data.size=32",
        "model.image_size=32",
        "trainer.max_epochs=1",
        "data.exclude=[disgust]",
        "data.folds=2",
        "data.fold=range(2)",
        "hydra.sweep.dir=sweep",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    found = runs.find([tmp_path / "sweep"])
    pooled = pool(found)
    prints = [run.metrics["fingerprints"] for run in found]
    assert len(pooled.names) == sum(each["val"]["n"] for each in prints)
    assert len(pooled.names) == prints[0]["train"]["n"] + prints[0]["val"]["n"]
    assert [run.config["data"]["fold"] for run in pooled.runs] == [0, 1] and not pooled.notes


@pytest.mark.parametrize("entry", ["crossval", "ensemble"])
def test_help_names_every_key(entry: str, capsys: pytest.CaptureFixture[str]) -> None:
    show(entry)
    text = capsys.readouterr().out
    for key in compose.precheck(entry, []):
        assert key == "hydra" or f"\n  {key}=" in text
