"""The report of an evaluation: numbers, files, temperature and test accesses."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics

from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core import paths
from emotion_lab.core.errors import UserError
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.evaluation import temperature
from emotion_lab.evaluation.calibration import fit_temperature
from emotion_lab.evaluation.deduplicated_score import first_occurrences, without_duplicates
from emotion_lab.evaluation.evaluate import LedgerEntry, evaluate_checkpoint
from emotion_lab.evaluation.result import EvaluationResult
from emotion_lab.reports.evaluation import calibration_numbers, make_report, protocol
from emotion_lab.reports.run_files import save_results
from tests.conftest import TINY, command, composed, make_checkpoint

NAMES = list(EMOTIONS)
QUICK = {"num_mistakes": 30, "num_explained": 1, "num_robustness": 20}
FIGURES = {**QUICK, "num_explained": 0, "num_robustness": 0}


@pytest.fixture(scope="module")
def cfg() -> dict[str, Any]:
    return composed(*TINY, "data.n=400", "data.size=32", "model.image_size=32", "augment=none")


@pytest.fixture(scope="module")
def checkpoint(cfg: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "checkpoints" / "best.ckpt"
    return make_checkpoint(cfg, path, NAMES)


@pytest.fixture(scope="module")
def result(cfg: dict[str, Any], checkpoint: Path, tmp_path_factory: Any) -> EvaluationResult:
    return evaluate_checkpoint(checkpoint, cfg["data"])


@pytest.fixture(scope="module")
def written(
    result: EvaluationResult, cfg: dict[str, Any], tmp_path_factory: Any
) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("report")
    save_results(folder, result, "predictions.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(temperature, "MIN_IMAGES", 1)
        report = make_report(result, folder, QUICK, {"seed": 0, "model": "senet"})
    return folder, report


def evaluate(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command ``evaluate`` in ``cwd``."""
    return command(*arguments, module="emotion_lab.evaluate", cwd=cwd)


def saved(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    labels = np.array([NAMES.index(row["true"]) for row in rows])
    predicted = np.array([NAMES.index(row["predicted"]) for row in rows])
    return labels, predicted, np.array([[float(row[f"p_{n}"]) for n in NAMES] for row in rows])


def test_numbers_match_scikit_learn(written: tuple[Path, dict]) -> None:
    folder, _ = written
    report = json.loads((folder / "report.json").read_text())
    labels, predicted, p = saved(folder)
    close = pytest.approx
    assert report["n"] == len(labels) and report["split"] == "val"
    assert report["accuracy"] == close(metrics.accuracy_score(labels, predicted), abs=1e-6)
    assert report["macro_f1"] == close(metrics.f1_score(labels, predicted, average="macro"), 1e-6)
    assert report["confusion"] == metrics.confusion_matrix(labels, predicted).tolist()
    numbers = metrics.precision_recall_fscore_support(labels, predicted, zero_division=0)
    for i, name in enumerate(NAMES):
        row = report["per_class"][name]
        values = [row["precision"], row["recall"], row["f1"], row["support"]]
        assert values == close([column[i] for column in numbers], abs=1e-6)
        assert row["auc"] == close(metrics.roc_auc_score(labels == i, p[:, i]), abs=1e-6)
        ap = metrics.average_precision_score(labels == i, p[:, i])
        assert row["average_precision"] == close(ap, abs=1e-6)
        if row["f1"] == 0:  # never right: there is no spread to draw
            assert row["f1_ci95"] is None
        else:
            assert row["f1_ci95"][0] <= row["f1"] <= row["f1_ci95"][1]
    p = p / p.sum(1, keepdims=True)
    auc = metrics.roc_auc_score(labels, p, multi_class="ovr", average="macro")
    assert report["roc_auc_macro"] == close(auc, abs=1e-6)
    assert report["nll"] == close(metrics.log_loss(labels, p, labels=range(7)), abs=1e-5)
    assert sum(row["f1_ci95"] is not None for row in report["per_class"].values()) >= 2
    low, high = report["accuracy_ci95"]
    assert low < report["accuracy"] < high
    assert report["nll_calibrated"] <= report["nll"] and report["temperature"] != 1


def test_written_files(written: tuple[Path, dict]) -> None:
    folder, report = written
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert f"{report['accuracy'] * 100:.2f}" in page and "http://" not in page
    with (folder / "mistakes" / "index.csv").open(newline="", encoding="utf-8") as file:
        mistakes = list(csv.DictReader(file))
    labels, predicted, _ = saved(folder)
    assert len(mistakes) == int((labels != predicted).sum()) >= 25
    assert all((folder / "mistakes" / row["file"]).is_file() for row in mistakes)
    for name in ("confusion_counts", "roc", "precision_recall", "reliability", "robustness"):
        assert (folder / f"{name}.png").stat().st_size > 1000
    assert report["robustness"]["n"] == 20 and len(report["robustness"]["blur"]) == 5


def test_reports_are_not_overwritten(
    written: tuple[Path, dict], result: EvaluationResult, cfg: Any
) -> None:
    before = {path: path.stat().st_mtime_ns for path in written[0].rglob("*")}
    with pytest.raises(UserError, match="exists already"):
        make_report(result, written[0], FIGURES, {})
    for path in (written[0] / "report.html", written[0] / "report.json"):
        assert path.stat().st_mtime_ns == before[path]


def test_class_without_samples(cfg: Any, checkpoint: Path, tmp_path: Path) -> None:
    data = {**cfg["data"], "exclude": ["disgust"]}
    result = evaluate_checkpoint(checkpoint, data)
    report = make_report(result, tmp_path, {**QUICK, "num_robustness": 0}, {})
    row = report["per_class"]["disgust"]
    assert row["support"] == 0 and all(v is None for k, v in row.items() if k != "support")
    assert "no samples" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert report["macro_f1"] == pytest.approx(result.scores["macro_f1"], abs=1e-6)


def test_first_occurrences() -> None:
    kept = first_occurrences([b"a", b"b", b"a", b"c", b"b"], {b"c"})
    assert kept.tolist() == [True, True, False, False, False]


def test_duplicates_of_training_images_are_removed(
    result: EvaluationResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = without_duplicates(result)
    assert (plain["n"], plain["removed"], plain["in_train"]) == (len(result.labels), 0, 0)
    # The first three have the same content, and the checkpoint learnt from it.
    digest, store = type(result.part.store).digest, result.part.store
    first = {int(result.part.indices[i]) for i in range(3)}
    same = digest(store, min(first))
    monkeypatch.setattr(
        type(store), "digest", lambda self, i: same if i in first else digest(self, i)
    )
    seen = np.arange(len(result.labels)) < 3
    trained_on = {"n": 3, "near": 0, "unknown": [], "near_unknown": []}
    scores = {**result.scores, "trained_on": trained_on}
    numbers = without_duplicates(replace(result, seen=seen, scores=scores))
    assert (numbers["removed"], numbers["in_train"]) == (3, 3)
    right = (result.predicted == result.labels)[3:]
    assert numbers["accuracy"] == pytest.approx(right.mean()) and numbers["n"] == len(right)


def test_temperature_is_stored_in_the_checkpoint(
    cfg: dict[str, Any], result: EvaluationResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(temperature, "MIN_IMAGES", 1)
    path = make_checkpoint(cfg, tmp_path / "a.ckpt", NAMES)
    before = ckpt.read(path)["state_dict"]
    numbers = temperature.fit_checkpoint_temperature(result)
    temperature.store(path, numbers)
    content = ckpt.read(path)
    assert content[ckpt.CARD]["temperature"] == numbers["temperature"]
    assert content[ckpt.CARD]["calibration"]["split"] == "val"
    assert numbers["nll_calibrated"] <= numbers["nll"]
    assert all((before[key] == value).all() for key, value in content["state_dict"].items())
    again = evaluate_checkpoint(path, cfg["data"])
    assert again.scores == result.scores


def test_temperature_is_never_fitted_on_test(cfg: Any, checkpoint: Path, tmp_path: Path) -> None:
    entry = LedgerEntry(tmp_path / "ledger.jsonl", tmp_path)
    result = evaluate_checkpoint(checkpoint, cfg["data"], "test", entry=entry)
    with pytest.raises(UserError, match="fitted on val, never on test"):
        temperature.fit_checkpoint_temperature(result)
    report = make_report(result, tmp_path, FIGURES, {})
    assert report["temperature"] is None and report["ece_calibrated"] is None
    assert report["protocol"]["openings"] == 1 and not report["protocol"]["warnings"]
    second = make_checkpoint({**cfg, "seed": 5}, tmp_path / "b.ckpt", NAMES)
    again = evaluate_checkpoint(second, cfg["data"], "test", entry=entry)
    rows = protocol(again)
    assert rows["openings"] == 2 and rows["configurations"] == 2
    assert any("2 configurations" in line for line in rows["warnings"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("calibrate=true", "split=test"), "never on test"),
        (("calibrate=true", "split=train"), "never on test or train"),
        (("calibrate=true", "tta=flip"), "without test-time augmentation"),
        (("data.path=somewhere",), "does not apply: the checkpoint was trained on synthetic faces"),
        (("calibrate=true", "data.limit=5"), "all of its own val split"),
        (("weights=test",), "one of equal, val"),
    ],
)
def test_refused_in_one_line(
    arguments: tuple[str, ...], said: str, checkpoint: Path, tmp_path: Path
) -> None:
    done = evaluate(tmp_path, f"ckpt={checkpoint}", *arguments)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1


def test_ensemble_ignores_the_temperature_of_its_members(
    cfg: dict[str, Any], result: EvaluationResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(temperature, "MIN_IMAGES", 1)
    members = [make_checkpoint(cfg, tmp_path / f"{i}.ckpt", NAMES, seed=i) for i in range(2)]
    known = temperature.fit_checkpoint_temperature(result)
    for path in members:
        temperature.store(path, {**known, "temperature": 7.7})
    alone = evaluate_checkpoint(members[0], cfg["data"])
    assert calibration_numbers(alone)["temperature"] == 7.7
    both = evaluate_checkpoint(members, cfg["data"])
    flipped = evaluate_checkpoint(members[0], cfg["data"], tta="flip")
    for scored in (both, flipped):
        fitted = fit_temperature(scored.logits, scored.labels)
        assert calibration_numbers(scored)["temperature"] == pytest.approx(fitted)
    entry = LedgerEntry(tmp_path / "ledger.jsonl", tmp_path)
    on_test = evaluate_checkpoint(members, cfg["data"], "test", entry=entry)
    assert calibration_numbers(on_test)["temperature"] is None


def test_data_of_the_run_named_explicitly(cfg: Any, checkpoint: Path, tmp_path: Path) -> None:
    """data=synthetic with the same keys is recognised as the data of the run."""
    own = evaluate_checkpoint(checkpoint, cfg["data"], foreign=True)
    assert (
        not own.foreign and not own.mapping and protocol(own)["lines"][0].startswith("val selected")
    )
    content = ckpt.read(checkpoint)
    train = evaluate_checkpoint(checkpoint, cfg["data"], "train", foreign=True)
    card = {**content[ckpt.CARD], "fingerprints": {"train": train.scores["fingerprint"]}}
    path = tmp_path / "trained.ckpt"
    ckpt.write(path, {**content, ckpt.CARD: card})
    again = evaluate_checkpoint(path, cfg["data"], "train", foreign=True)
    assert "320 of 320 images are in the training data" in protocol(again)["warnings"][0]
    other = evaluate_checkpoint(checkpoint, {**cfg["data"], "seed": 9}, foreign=True)
    assert other.foreign and len(other.mapping) == 7


def test_run_directory_is_locked(tmp_path: Path) -> None:
    with paths.locked_run_dir(tmp_path, "metrics.json"):
        code = (
            "import sys; from pathlib import Path\n"
            "from emotion_lab.core.paths import locked_run_dir\n"
            "with locked_run_dir(Path(sys.argv[1])): print('in')"
        )
        arguments = [sys.executable, "-c", code, str(tmp_path)]
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and "another process works in" in done.stderr
    assert not list(tmp_path.iterdir())
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert done.stdout == "in\n"
    (tmp_path / "metrics.json").touch()
    with (
        pytest.raises(UserError, match=r"already holds metrics\.json"),
        paths.locked_run_dir(tmp_path, "metrics.json"),
    ):
        pytest.fail("the run directory holds results")


def test_sweep_does_not_overwrite_results(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "sweep" / "0").mkdir(parents=True)
    (tmp_path / "sweep" / "0" / "metrics.json").write_text("kept")
    sweep_dir = f"hydra.sweep.dir={tmp_path / 'sweep'}"
    done = evaluate(tmp_path, "-m", f"ckpt={checkpoint}", "report=false", sweep_dir)
    assert done.returncode != 0 and "already holds metrics.json" in done.stderr
    assert (tmp_path / "sweep" / "0" / "metrics.json").read_text() == "kept"


def test_results_are_not_overwritten(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("kept")
    done = evaluate(tmp_path, f"ckpt={checkpoint}", f"hydra.run.dir={tmp_path}")
    assert done.returncode == 2 and "already holds metrics.json" in done.stderr
    assert (tmp_path / "metrics.json").read_text() == "kept"


def test_nan_weights(cfg: Any, tmp_path: Path) -> None:
    path = make_checkpoint(cfg, tmp_path / "a.ckpt", NAMES)
    content = ckpt.read(path)
    weights = {key: value * float("nan") for key, value in content["state_dict"].items()}
    ckpt.write(path, {**content, "state_dict": weights})
    done = evaluate(tmp_path, f"ckpt={path}", "trainer.accelerator=cpu")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "NaN" in done.stderr.splitlines()[-1]


def test_evaluate_an_ensemble_from_the_command_line(
    checkpoint: Path, cfg: Any, tmp_path: Path
) -> None:
    """Two members in a folder with spaces and brackets, with weights fitted on val."""
    odd = tmp_path / "my [run] = 1"
    members = [make_checkpoint(cfg, odd / f"{i}.ckpt", NAMES, seed=i) for i in range(2)]
    done = evaluate(
        tmp_path,
        *(f"ckpt=[{members[0]},{members[1]}]", f"hydra.run.dir={tmp_path / 'out'}"),
        *("weights=val", "num_robustness=10", "num_explained=1", "trainer.accelerator=cpu"),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert sum(report["weights"]) == pytest.approx(1) and len(report["weights"]) == 2
    fitted = "the weights of the ensemble were fitted on these images: the score is too high"
    assert fitted in report["protocol"]["warnings"] and f"warning: {fitted}" in done.stdout
    assert report["temperature"] is None and report["nll_calibrated"] is None
    assert report["temperature_fitted_on"].startswith("not fitted: val has")
    assert done.stdout.splitlines()[-1] == str(tmp_path / "out")
    assert (tmp_path / "out" / "predictions.csv").is_file()
