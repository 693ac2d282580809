"""From runs to ``ensemble.ckpt``, and the use of that file in other commands."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from emotion_lab import ensemble
from emotion_lab.config import compose
from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core import paths, runs
from emotion_lab.core.errors import UserError
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.data.checkpoint_data import CheckpointData
from emotion_lab.evaluation import temperature, test_ledger
from emotion_lab.evaluation.calibration import nll as nll_at
from emotion_lab.evaluation.evaluate import Predictor, evaluate, evaluate_checkpoint
from emotion_lab.evaluation.predictions_file import write_predictions
from emotion_lab.evaluation.statistics import intervals
from emotion_lab.experiments.ensemble.candidates import read
from emotion_lab.experiments.ensemble.checkpoint import (
    EnsembleSelection,
    lines,
    select,
    summary,
    write_checkpoint,
)
from emotion_lab.experiments.ensemble.figure import figure
from emotion_lab.experiments.ensemble.selection import SelectionStep, counts, mix, nll
from emotion_lab.inference.classifier import load_classifier
from emotion_lab.inference.derived import QUANTITIES
from emotion_lab.models.ensemble import Ensemble
from emotion_lab.models.load import combine, load, restore
from emotion_lab.reports.style import LIGHT, render
from tests.conftest import TINY, composed, error_message, make_checkpoint

NAMES = list(EMOTIONS)
TINY32 = (*TINY, "data.n=140", "data.size=32", "model.image_size=32", "augment=none")


@pytest.fixture(scope="module")
def cfg() -> dict[str, Any]:
    return composed(*TINY32)


def write_run(cfg: dict[str, Any], folder: Path, classes: list[str], seed: int) -> Path:
    """Write the run directory of an untrained network: checkpoint, predictions of val, scores."""
    (folder / "checkpoints").mkdir(parents=True)
    learned = QUANTITIES if seed == 1 else QUANTITIES[1::-1]
    file = make_checkpoint(cfg, folder / "checkpoints" / "best.ckpt", classes, seed, learned)
    result = evaluate_checkpoint(file, cfg["data"])
    names = [result.name(i) for i in range(len(result.labels))]
    arrays = (result.labels, result.predicted, result.probabilities)
    write_predictions(folder / "predictions_val.csv", names, *arrays, result.classes)
    monitor = {"name": "val/macro_f1", "best": result.scores["macro_f1"]}
    metrics = {"val": result.scores, "seed": seed, "monitor": monitor}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "config.yaml").write_text(yaml.safe_dump({**cfg, "seed": seed}))
    return folder


@pytest.fixture(scope="module")
def sweep(cfg: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five runs; the second has its classes in reverse order."""
    root = tmp_path_factory.mktemp("sweep")
    for i in range(5):
        write_run(cfg, root / str(i), NAMES[::-1] if i == 1 else NAMES, seed=i)
    return root


@pytest.fixture(scope="module")
def built(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Return the run directory of an ensemble of runs 1, 0 and 3, with 1 counted twice."""
    folder = tmp_path_factory.mktemp("built")
    candidates = read(runs.find([sweep]), "loss")
    steps = []
    for member in (1, 0, 1, 3):
        weights = counts([*steps, SelectionStep(member, 0, 0)], 5)
        loss = float(nll(mix(candidates.probabilities, weights), candidates.labels))
        steps.append(SelectionStep(member, -loss, loss))
    selection = EnsembleSelection("val", 6, counts(steps, 5) / 4, steps, [])
    content = summary(candidates, selection)
    content |= write_checkpoint(candidates, selection, content, folder / "ensemble.ckpt")
    return folder, content


def images(n: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (n, 1, 32, 32), generator=generator, dtype=torch.uint8)


def test_checkpoint_predicts_the_weighted_average(built: tuple[Path, dict[str, Any]]) -> None:
    folder, content = built
    path = folder / "ensemble.ckpt"
    selected = [row for row in content["members"] if row["count"]]
    assert [(row["name"], row["count"]) for row in selected] == [("0", 1), ("1", 2), ("3", 1)]
    files = [Path(row["run"]) / "checkpoints" / "best.ckpt" for row in selected]
    weights = [row["weight"] for row in selected]
    assert weights == [0.25, 0.5, 0.25] and content["size"] == 4
    listed, _ = combine(load(files), weights)
    net, card = restore(path)
    assert isinstance(net, Ensemble) and not net.training
    with torch.inference_mode():
        torch.testing.assert_close(
            net(images()).softmax(1), listed(images()).softmax(1), atol=1e-6, rtol=0
        )
    assert card["weights"] == weights and len(card["members"]) == len(selected)
    assert card["ensemble"]["choose"] == "val" and card["format"] == ckpt.ENSEMBLE_FORMAT
    saved = torch.load(path, weights_only=True)
    ckpt.check_plain(saved)
    assert card["quantities"] == ckpt.quantities(saved) == ["valence", "arousal"]
    assert set(saved) == {"members", ckpt.CARD}
    assert content["parameters"] == sum(p.numel() for p in net.parameters())
    assert paths.find_checkpoint(folder) == path and ensemble.FILE == paths.ENSEMBLE


def test_learned_quantities_are_the_average_of_the_members(
    built: tuple[Path, dict[str, Any]],
) -> None:
    folder, content = built
    faces = list(images().permute(0, 2, 3, 1).numpy())
    selected = [row for row in content["members"] if row["count"]]
    expected = np.zeros((len(faces), 2))
    for row in selected:
        member = load_classifier(row["run"], "torch", threads=1)
        values = member.predict(faces)[1]
        order = [member.quantities.learned.index(name) for name in ("valence", "arousal")]
        expected += row["weight"] * values[:, order]
    ensemble = load_classifier(folder / "ensemble.ckpt", "torch", threads=1)
    probabilities, values = ensemble.predict(faces)
    assert probabilities.shape == (6, 7)
    np.testing.assert_allclose(values, expected, atol=1e-6)
    assert expected.std(0).min() > 1e-3
    assert ensemble.quantities.source["intensity"] == "derived"


def test_scores_agree_with_an_evaluation_of_the_checkpoint(
    cfg: dict[str, Any], built: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, content = built
    result = evaluate_checkpoint(folder / "ensemble.ckpt", cfg["data"])
    assert result.scores["accuracy"] == pytest.approx(content["val"]["accuracy"], abs=1e-6)
    assert result.scores["macro_f1"] == pytest.approx(content["val"]["macro_f1"], abs=1e-6)
    assert result.scores["loss"] == pytest.approx(content["val"]["loss"], abs=1e-5)
    assert content["temperature"] == 1 and "at least 200" in content["not_fitted"]
    assert content["nll_calibrated"] == pytest.approx(
        nll_at(result.logits, result.labels, content["temperature"]), abs=1e-5
    )
    assert any("members were selected on these images" in note for note in result.notes)
    # Other splits have no such note.
    other = evaluate_checkpoint(folder / "ensemble.ckpt", cfg["data"], "train")
    assert not any("members were selected" in note for note in other.notes)


def test_evaluation_with_given_predictions(
    cfg: dict[str, Any], built: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    path = built[0] / "ensemble.ckpt"
    result = evaluate_checkpoint(path, cfg["data"])
    predictor = Predictor(*restore(path), (path,))
    data = CheckpointData.open(predictor.card, cfg["data"], "val")
    again = evaluate(predictor, data, predictions=result.predictions)
    assert again.scores == result.scores and again.predictions is result.predictions


@pytest.mark.parametrize("runtime", ["torch", "onnx", "openvino"])
def test_every_backend_runs_it(runtime: str, built: tuple[Path, dict[str, Any]]) -> None:
    if runtime != "torch":
        pytest.importorskip(f"{runtime}runtime" if runtime == "onnx" else runtime)
    folder, content = built
    options = {"name": runtime, "precision": "fp32"}
    classifier = load_classifier(folder, options)
    faces = [image.permute(1, 2, 0).numpy() for image in images()]
    net, card = restore(folder / "ensemble.ckpt")
    with torch.inference_mode():
        expected = (net(images()) / content["temperature"]).softmax(1).numpy()
    np.testing.assert_allclose(classifier(faces), expected, atol=1e-5)
    assert classifier.classes == card["classes"]
    assert classifier.temperature == pytest.approx(content["temperature"])


def test_ensemble_as_a_member(built: tuple[Path, dict[str, Any]], sweep: Path) -> None:
    path, single = built[0] / "ensemble.ckpt", sweep / "1" / "checkpoints" / "best.ckpt"
    net, card = combine(load([single, path]), [0.25, 0.75])
    first, first_card = restore(single)
    inner, inner_card = restore(path)
    order = [inner_card["classes"].index(name) for name in first_card["classes"]]
    with torch.inference_mode():
        expected = 0.25 * first(images()).softmax(1) + 0.75 * inner(images()).softmax(1)[:, order]
        torch.testing.assert_close(net(images()).softmax(1), expected, atol=1e-6, rtol=0)
    assert len(card["members"]) == 1 + len(inner_card["members"])
    assert sum(card["weights"]) == pytest.approx(1) and "ensemble" not in card


def test_ledger_identity_ignores_the_order(built: tuple[Path, dict[str, Any]]) -> None:
    _, card = restore(built[0] / "ensemble.ckpt")
    many = len(card["members"])
    equal = test_ledger.setup({**card, "weights": [1 / many] * many}, "none")
    named = test_ledger.setup({"members": card["members"]}, "none")
    assert equal == named
    shifted = [0.9, *[0.1 / (many - 1)] * (many - 1)]
    weighted = test_ledger.setup({**card, "weights": shifted}, "none")
    assert weighted != equal
    turned = {**card, "members": card["members"][::-1], "weights": shifted[::-1]}
    assert test_ledger.setup(turned, "none") == weighted


def test_temperature_can_be_stored(
    cfg: dict[str, Any], built: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    path = tmp_path / "ensemble.ckpt"
    path.write_bytes((built[0] / "ensemble.ckpt").read_bytes())
    result = evaluate_checkpoint(path, cfg["data"])
    temperature.store(path, {**temperature.fit_checkpoint_temperature(result), "temperature": 2.5})
    net, card = restore(path)
    assert card["temperature"] == 2.5 and isinstance(net, Ensemble)


def test_damaged_checkpoint_is_rejected(built: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    content = ckpt.read(built[0] / "ensemble.ckpt")
    card, path = content[ckpt.CARD], tmp_path / "ensemble.ckpt"
    for change in ({"weights": [1.0]}, {"weights": [0.9] * len(card["members"])}, {"members": []}):
        ckpt.write(path, {**content, ckpt.CARD: {**card, **change}})
        with pytest.raises(UserError, match="members, cards and weights do not match"):
            restore(path)
    ckpt.write(path, {**content, ckpt.CARD: {**card, "format": ckpt.ENSEMBLE_FORMAT + 1}})
    with pytest.raises(UserError, match="upgrade"):
        restore(path)
    # A reader of single networks rejects this format number.
    state = {"state_dict": content["members"][0]}
    ckpt.write(path, {**state, ckpt.CARD: {**card, "format": ckpt.ENSEMBLE_FORMAT}})
    with pytest.raises(UserError, match="reads up to 1"):
        ckpt.read(path)
    path.write_bytes((built[0] / "ensemble.ckpt").read_bytes()[:5000])
    with pytest.raises(UserError, match="truncated"):
        paths.check_checkpoint(str(tmp_path))


@pytest.mark.usefixtures("rendered_figures")
def test_all_with_equal_weights(sweep: Path, tmp_path: Path) -> None:
    candidates = read(runs.find([sweep]), "monitor")
    assert candidates.metric == "macro_f1"
    selection = select(candidates, "all", 2, 5)
    content = summary(candidates, selection)
    assert not content["steps"] and not content["nested"] and content["size"] == 5
    assert {row["weight"] for row in content["members"]} == {0.2}
    assert content["val"] == content["all_equal"]
    assert not any("val selected the members" in warning for warning in content["warnings"])
    write_checkpoint(candidates, selection, content, tmp_path / "ensemble.ckpt")
    net, card = restore(tmp_path / "ensemble.ckpt")
    assert len(net.members) == 5 and card["ensemble"]["nested"] is None
    assert "ensemble" in "\n".join(map(str, lines(content, 0)))
    assert len(render(lambda style: figure(content, style), LIGHT)) > 1000


@pytest.mark.usefixtures("rendered_figures")
def test_summary_of_a_greedy_selection(sweep: Path) -> None:
    candidates = read(runs.find([sweep]), "loss")
    content = summary(candidates, select(candidates, "val", 6, 3))
    path = [row["score"] for row in content["steps"]]
    assert path == sorted(path, reverse=True)  # the NLL falls
    assert path[-1] == pytest.approx(content["val"]["loss"])
    single = min(row["loss"] for row in content["members"])
    assert path[0] == pytest.approx(single)
    assert content["best_single"] == content["steps"][0]["added"]
    assert len(content["nested"]) == 6 and "val selected the members too" in content["warnings"][0]
    text = "\n".join(map(str, lines(content, 3)))
    assert f"{content['nested'][-1]['score']:.4f}" in text and "3 random splits" in text
    json.dumps(content, allow_nan=False)
    assert len(render(lambda style: figure(content, style), LIGHT)) > 1000


def test_intervals_are_over_persons(sweep: Path) -> None:
    candidates = read(runs.find([sweep]), "loss")
    selection = select(candidates, "all", 6, 0)
    assert candidates.groups is None
    groups = [str(i % 3) for i in range(len(candidates.labels))]
    candidates = replace(candidates, groups=groups)
    predicted = mix(candidates.probabilities, selection.weights).argmax(-1)
    expected = intervals(candidates.labels, predicted, len(NAMES), groups=groups)
    assert summary(candidates, selection)["val"]["accuracy_ci95"] == expected["accuracy_ci95"]
    assert expected["accuracy_ci95"] != intervals(candidates.labels, predicted, 7)["accuracy_ci95"]


def test_warning_if_no_average_helps(sweep: Path) -> None:
    """One member is always correct, so the ensemble is this member."""
    candidates = read(runs.find([sweep]), "accuracy")
    candidates.probabilities[2] = np.eye(7)[candidates.labels]
    content = summary(candidates, select(candidates, "val", 6, 0))
    assert [row["added"] for row in content["steps"]] == ["2"] and content["size"] == 1
    assert "no average of two runs is better on val than 2" in " ".join(content["warnings"])
    assert "set num_splits=10" in content["warnings"][0]


def test_warning_if_the_selection_does_not_help(sweep: Path) -> None:
    candidates = read(runs.find([sweep]), "loss")
    rows = [{"size": i + 1, "score": 2.0, "score_std": 0.1, "better": 0.0} for i in range(4)]
    steps = [SelectionStep(1, -1.9, 1.9), SelectionStep(0, -1.8, 1.8)]
    candidates.probabilities[:] = 1 / 7
    content = summary(candidates, EnsembleSelection("val", 4, np.full(5, 0.2), steps, rows))
    text = " ".join(content["warnings"])
    assert "better than the best single run in only 0% of the repetitions" in text
    assert "all runs with equal weights score 1.9459 without selection" in text


def error(folders: list[Path], metric: str = "monitor") -> str:
    return error_message(lambda: read(runs.find(folders), metric))


def test_incompatible_runs_are_rejected(cfg: dict[str, Any], sweep: Path, tmp_path: Path) -> None:
    first = sweep / "0"
    assert "an ensemble needs two or more runs" in error([first])
    other = write_run(composed(*TINY32, "data.seed=5"), tmp_path / "seed", NAMES, 0)
    assert "not scored on the same val split" in error([first, other])
    folds = [
        write_run(composed(*TINY32, "data.folds=2", f"data.fold={i}"), tmp_path / f"f{i}", NAMES, 0)
        for i in range(2)
    ]
    assert "hold out different folds" in error(folds)
    lost = write_run(cfg, tmp_path / "lost", NAMES, 7)
    text = (lost / "config.yaml").read_text()
    (lost / "config.yaml").write_text(text.replace("monitor: val/macro_f1", "monitor: val/loss"))
    assert "monitored by different metrics (val/loss, val/macro_f1)" in error([first, lost])
    assert read(runs.find([first, lost]), "accuracy").metric == "accuracy"
    (lost / "config.yaml").write_text(text.replace("monitor: val/macro_f1", "monitor: train/loss"))
    twin = Path(shutil.copytree(lost, tmp_path / "twin"))
    assert "train/loss, which is no metric of val" in error([lost, twin])
    (lost / "checkpoints" / "best.ckpt").unlink()
    assert "needs the checkpoint of every run" in error([first, lost], "loss")


def test_repeated_runs_count_once(sweep: Path, tmp_path: Path) -> None:
    again = Path(shutil.copytree(sweep / "3", tmp_path / "again"))
    candidates = read(runs.find([sweep / "0", sweep / "3", again]), "loss")
    assert [run.folder for run in candidates.runs] == [sweep / "0", again]
    (note,) = candidates.notes
    assert note == f"{sweep / '3'} is left out: {again} has the same config and seed 3"
    built = summary(candidates, select(candidates, "all", 2, 0))
    assert [row["weight"] for row in built["members"]] == [0.5, 0.5]
    assert f"  note: {note}" in lines(built, 0)
    assert "the same config and seed" in error([sweep / "3", again])


def test_missing_or_foreign_predictions_are_rejected(sweep: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(sweep / "3", tmp_path / "other run"))
    file = Path(shutil.copy(sweep / "2" / "predictions_val.csv", other))
    message = error([sweep / "0", other])
    assert f"{other} is inconsistent" in message and "rescore=true" in message
    file.unlink()
    message = error([sweep / "0", other])
    assert f"no predictions of val in {other}" in message
    assert f"emotion_lab.evaluate 'ckpt={other}' rescore=true" in message


def test_members_of_different_input_size_are_rejected(
    cfg: dict[str, Any], sweep: Path, tmp_path: Path
) -> None:
    other = write_run(composed(*TINY32, "model.image_size=40"), tmp_path / "large", NAMES, 3)
    candidates = read(runs.find([sweep / "0", other]), "loss")
    selection = select(candidates, "all", 2, 0)
    path = tmp_path / "ensemble.ckpt"
    with pytest.raises(UserError, match="must take the same images"):
        write_checkpoint(candidates, selection, summary(candidates, selection), path)
    assert not path.exists()


def test_validation_of_the_command(sweep: Path, tmp_path: Path) -> None:
    def validate(*overrides: str) -> list[str]:
        return ensemble.validate(compose.precheck("ensemble", [*overrides]), [*overrides])

    with pytest.raises(UserError, match="runs is missing"):
        validate()
    for option in ("selection=best", "max_members=0", "metric=f1"):
        with pytest.raises(UserError, match=f"{option} is not valid"):
            validate(f"runs={sweep}", option)
    out = tmp_path / "out"
    assert validate(f"runs={sweep}", f"out={out}") == [f"hydra.run.dir='{out}'"]
    out.mkdir()
    (out / "ensemble.ckpt").write_bytes(b"there")
    with pytest.raises(UserError, match=r"already holds ensemble.ckpt.* Set out=<a new folder>"):
        validate(f"runs={sweep}", f"out={out}")
