"""From runs to ``ensemble.ckpt``, and what every later command makes of that file."""

from __future__ import annotations

import json
import shutil
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
from emotion_lab.evaluation import temperature
from emotion_lab.evaluation import test_ledger as seal
from emotion_lab.evaluation.calibration import fit_temperature
from emotion_lab.evaluation.calibration import nll as nll_at
from emotion_lab.evaluation.evaluate import evaluate_checkpoint
from emotion_lab.evaluation.predictions_file import write_predictions
from emotion_lab.experiments.ensemble.candidates import read
from emotion_lab.experiments.ensemble.checkpoint import (
    EnsembleSelection,
    choose,
    lines,
    summary,
    write_checkpoint,
)
from emotion_lab.experiments.ensemble.figure import figure
from emotion_lab.experiments.ensemble.selection import SelectionStep, counts, mix, nll
from emotion_lab.inference.classifier import load_classifier
from emotion_lab.models.ensemble import Ensemble
from emotion_lab.models.load import restore, restore_all
from emotion_lab.reports.style import LIGHT, render
from tests.conftest import TINY, composed, make_checkpoint

NAMES = list(EMOTIONS)
TINY32 = (*TINY, "data.n=140", "data.size=32", "model.image_size=32", "augment=none")


@pytest.fixture(scope="module")
def cfg() -> dict[str, Any]:
    return composed(*TINY32)


def write_run(cfg: dict[str, Any], folder: Path, classes: list[str], seed: int) -> Path:
    """Write the run folder of an untrained network: checkpoint, predictions of val, scores."""
    (folder / "checkpoints").mkdir(parents=True)
    file = make_checkpoint(cfg, folder / "checkpoints" / "best.ckpt", classes, seed)
    judged = evaluate_checkpoint(file, cfg["data"], "val", folder, "cpu")
    names = [judged.name(i) for i in range(len(judged.labels))]
    write_predictions(
        folder / "predictions_val.csv",
        names,
        judged.labels,
        judged.predicted,
        judged.probabilities,
        judged.classes,
    )
    metrics = {
        "val": judged.scores,
        "seed": seed,
        "monitor": {"name": "val/macro_f1", "best": judged.scores["macro_f1"]},
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "config.yaml").write_text(yaml.safe_dump({**cfg, "seed": seed}))
    return folder


@pytest.fixture(scope="module")
def sweep(cfg: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five runs; the second has its classes the other way round."""
    root = tmp_path_factory.mktemp("sweep")
    for i in range(5):
        write_run(cfg, root / str(i), NAMES[::-1] if i == 1 else NAMES, seed=i)
    return root


@pytest.fixture(scope="module")
def built(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Return the run folder of an ensemble of runs 1, 0 and 3, of which 1 counts twice."""
    folder = tmp_path_factory.mktemp("built")
    candidates = read(runs.find([sweep]), "loss")
    steps = []
    for member in (1, 0, 1, 3):
        weights = counts([*steps, SelectionStep(member, 0, 0)], 5)
        loss = float(nll(mix(candidates.given, weights), candidates.labels))
        steps.append(SelectionStep(member, -loss, loss))
    choice = EnsembleSelection("val", 6, counts(steps, 5) / 4, steps, [])
    found = summary(candidates, choice)
    found |= write_checkpoint(candidates, choice, found, folder / "ensemble.ckpt")
    return folder, found


def images(n: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (n, 1, 32, 32), generator=generator, dtype=torch.uint8)


# --- the file -------------------------------------------------------------------------------


def test_the_file_says_what_its_members_say(built: tuple[Path, dict[str, Any]]) -> None:
    folder, found = built
    path = folder / "ensemble.ckpt"
    taken = [row for row in found["members"] if row["count"]]
    assert [(row["name"], row["count"]) for row in taken] == [("0", 1), ("1", 2), ("3", 1)]
    files = [Path(row["run"]) / "checkpoints" / "best.ckpt" for row in taken]
    weights = [row["weight"] for row in taken]
    assert weights == [0.25, 0.5, 0.25] and found["size"] == 4
    listed, _ = restore_all(files, weights)
    net, card = restore(path)
    assert isinstance(net, Ensemble) and not net.training
    with torch.inference_mode():
        torch.testing.assert_close(
            net(images()).softmax(1), listed(images()).softmax(1), atol=1e-6, rtol=0
        )
    assert card["weights"] == weights and len(card["members"]) == len(taken)
    assert card["ensemble"]["choose"] == "val" and card["format"] == ckpt.ENSEMBLE_FORMAT
    content = torch.load(path, weights_only=True)
    ckpt.check_plain(content)
    assert set(content) == {"members", ckpt.CARD}
    assert found["parameters"] == sum(p.numel() for p in net.parameters())
    assert ckpt.find(folder) == path and ensemble.FILE == ckpt.ENSEMBLE


def test_its_scores_are_those_of_the_saved_predictions(
    cfg: dict[str, Any], built: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """What was computed from files is what the file's network says of the images."""
    folder, found = built
    judged = evaluate_checkpoint(folder / "ensemble.ckpt", cfg["data"], "val", tmp_path, "cpu")
    assert judged.scores["accuracy"] == pytest.approx(found["val"]["accuracy"], abs=1e-6)
    assert judged.scores["macro_f1"] == pytest.approx(found["val"]["macro_f1"], abs=1e-6)
    assert judged.scores["loss"] == pytest.approx(found["val"]["loss"], abs=1e-5)
    assert found["temperature"] == pytest.approx(
        fit_temperature(judged.logits, judged.labels), rel=1e-3
    )
    assert found["nll_calibrated"] == pytest.approx(
        nll_at(judged.logits, judged.labels, found["temperature"]), abs=1e-5
    )
    assert any("these images chose the members" in note for note in judged.notes)
    # Of other images it is not said.
    other = evaluate_checkpoint(folder / "ensemble.ckpt", cfg["data"], "train", tmp_path, "cpu")
    assert not any("chose the members" in note for note in other.notes)


def test_a_network_and_its_predictions_are_taken_as_given(
    cfg: dict[str, Any], built: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    path = built[0] / "ensemble.ckpt"
    judged = evaluate_checkpoint(path, cfg["data"], "val", tmp_path, "cpu")
    again = evaluate_checkpoint(
        path,
        cfg["data"],
        "val",
        tmp_path,
        "cpu",
        network=restore(path),
        predictions=judged.predictions,
    )
    assert again.scores == judged.scores and again.predictions is judged.predictions


@pytest.mark.parametrize("runtime", ["torch", "onnx", "openvino"])
def test_every_runtime_takes_it(runtime: str, built: tuple[Path, dict[str, Any]]) -> None:
    if runtime != "torch":
        pytest.importorskip(f"{runtime}runtime" if runtime == "onnx" else runtime)
    folder, found = built
    options = {"name": runtime, "precision": "fp32"}
    classifier = load_classifier(folder, options)
    faces = [image.permute(1, 2, 0).numpy() for image in images()]
    net, card = restore(folder / "ensemble.ckpt")
    with torch.inference_mode():
        expected = (net(images()) / found["temperature"]).softmax(1).numpy()
    np.testing.assert_allclose(classifier(faces), expected, atol=1e-5)
    assert classifier.classes == card["classes"]
    assert classifier.temperature == pytest.approx(found["temperature"])


def test_it_may_be_a_member_itself(built: tuple[Path, dict[str, Any]], sweep: Path) -> None:
    path, one = built[0] / "ensemble.ckpt", sweep / "1" / "checkpoints" / "best.ckpt"
    net, card = restore_all([one, path], [0.25, 0.75])
    first, its = restore(one)
    inner, inner_card = restore(path)
    order = [inner_card["classes"].index(name) for name in its["classes"]]
    with torch.inference_mode():
        expected = 0.25 * first(images()).softmax(1) + 0.75 * inner(images()).softmax(1)[:, order]
        torch.testing.assert_close(net(images()).softmax(1), expected, atol=1e-6, rtol=0)
    assert len(card["members"]) == 1 + len(inner_card["members"])
    assert sum(card["weights"]) == pytest.approx(1) and "ensemble" not in card


def test_the_ledger_knows_its_weights(built: tuple[Path, dict[str, Any]]) -> None:
    _, card = restore(built[0] / "ensemble.ckpt")
    many = len(card["members"])
    equal = seal.setup({**card, "weights": [1 / many] * many}, "none")
    named = seal.setup({"members": card["members"]}, "none")
    assert equal == named
    shifted = [0.9, *[0.1 / (many - 1)] * (many - 1)]
    assert seal.setup({**card, "weights": shifted}, "none") != equal
    turned = {**card, "members": card["members"][::-1], "weights": shifted[::-1]}
    assert seal.setup(turned, "none") == seal.setup({**card, "weights": shifted}, "none")


def test_a_temperature_can_be_kept_in_it(
    cfg: dict[str, Any], built: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    path = tmp_path / "ensemble.ckpt"
    path.write_bytes((built[0] / "ensemble.ckpt").read_bytes())
    judged = evaluate_checkpoint(path, cfg["data"], "val", tmp_path, "cpu")
    temperature.store(path, {**temperature.fit_checkpoint_temperature(judged), "temperature": 2.5})
    net, card = restore(path)
    assert card["temperature"] == 2.5 and isinstance(net, Ensemble)


def test_damaged_files(built: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    content = ckpt.read(built[0] / "ensemble.ckpt")
    card, path = content[ckpt.CARD], tmp_path / "ensemble.ckpt"
    many = len(card["members"])
    for change in ({"weights": [1.0]}, {"weights": [0.9] * many}, {"members": []}):
        ckpt.write(path, {**content, ckpt.CARD: {**card, **change}})
        with pytest.raises(UserError, match="members, cards and weights do not match"):
            restore(path)
    ckpt.write(path, {**content, ckpt.CARD: {**card, "format": ckpt.ENSEMBLE_FORMAT + 1}})
    with pytest.raises(UserError, match="upgrade"):
        restore(path)
    # A reader of single networks refuses the number, rather than miss the weights.
    state = {"state_dict": content["members"][0]}
    ckpt.write(path, {**state, ckpt.CARD: {**card, "format": ckpt.ENSEMBLE_FORMAT}})
    with pytest.raises(UserError, match="reads up to 1"):
        ckpt.read(path)
    path.write_bytes((built[0] / "ensemble.ckpt").read_bytes()[:5000])
    with pytest.raises(UserError, match="truncated"):
        paths.check_checkpoint(str(tmp_path))


# --- the choice -----------------------------------------------------------------------------


def test_all_of_them_alike(sweep: Path, tmp_path: Path) -> None:
    candidates = read(runs.find([sweep]), "monitor")
    assert candidates.metric == "macro_f1"
    choice = choose(candidates, "all", 2, 5)
    found = summary(candidates, choice)
    assert not found["steps"] and not found["nested"] and found["size"] == 5
    assert {row["weight"] for row in found["members"]} == {0.2}
    assert found["val"] == found["all_equal"]
    assert not any("val chose the members" in warning for warning in found["warnings"])
    write_checkpoint(candidates, choice, found, tmp_path / "ensemble.ckpt")
    net, card = restore(tmp_path / "ensemble.ckpt")
    assert len(net.members) == 5 and card["ensemble"]["nested"] is None
    assert "ensemble" in "\n".join(lines(found, 0))
    assert len(render(lambda style: figure(found, style), LIGHT)) > 1000


def test_the_summary_tells_steps_and_what_they_are_worth(sweep: Path) -> None:
    candidates = read(runs.find([sweep]), "loss")
    found = summary(candidates, choose(candidates, "val", 6, 3))
    path = [row["score"] for row in found["steps"]]
    assert path == sorted(path, reverse=True)  # the NLL falls
    assert path[-1] == pytest.approx(found["val"]["loss"])
    single = min(row["loss"] for row in found["members"])
    assert path[0] == pytest.approx(single)
    assert found["best_single"] == found["steps"][0]["added"]
    assert len(found["nested"]) == 6 and "val chose the members too" in found["warnings"][0]
    text = "\n".join(lines(found, 3))
    assert f"{found['nested'][-1]['score']:.4f}" in text and "3 times both ways" in text
    json.dumps(found, allow_nan=False)
    assert len(render(lambda style: figure(found, style), LIGHT)) > 1000


def test_an_average_that_does_not_help_is_said(sweep: Path) -> None:
    """The first member is always right: it stands alone, and alone it is written down."""
    candidates = read(runs.find([sweep]), "accuracy")
    candidates.given[2] = np.eye(7)[candidates.labels]
    found = summary(candidates, choose(candidates, "val", 6, 0))
    assert [row["added"] for row in found["steps"]] == ["2"] and found["size"] == 1
    assert any("no average of two is better on val than 2" in line for line in found["warnings"])
    assert "set num_splits=10" in found["warnings"][0]


def test_a_choice_that_is_worth_nothing_is_said(sweep: Path) -> None:
    candidates = read(runs.find([sweep]), "loss")
    rows = [{"size": i + 1, "score": 2.0, "score_std": 0.1, "better": 0.0} for i in range(4)]
    steps = [SelectionStep(1, -1.9, 1.9), SelectionStep(0, -1.8, 1.8)]
    candidates.given[:] = 1 / 7
    found = summary(candidates, EnsembleSelection("val", 4, np.full(5, 0.2), steps, rows))
    words = " ".join(found["warnings"])
    assert "beats the best single run in 0% of the repeats only" in words
    assert "all runs alike score 1.9459 without any choice" in words


# --- what is refused ------------------------------------------------------------------------


def refused(places: list[Path], metric: str = "monitor") -> str:
    with pytest.raises(UserError) as caught:
        read(runs.find(places), metric)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_runs_that_cannot_be_put_together(cfg: dict[str, Any], sweep: Path, tmp_path: Path) -> None:
    first = sweep / "0"
    assert "one run is no ensemble" in refused([first])
    other = write_run(composed(*TINY32, "data.seed=5"), tmp_path / "seed", NAMES, 0)
    assert "not scored on the same val split" in refused([first, other])
    folds = [
        write_run(composed(*TINY32, "data.folds=2", f"data.fold={i}"), tmp_path / f"f{i}", NAMES, 0)
        for i in range(2)
    ]
    assert "hold out different folds" in refused(folds)
    lost = write_run(cfg, tmp_path / "lost", NAMES, 7)
    text = (lost / "config.yaml").read_text()
    (lost / "config.yaml").write_text(text.replace("monitor: val/macro_f1", "monitor: val/loss"))
    assert "chosen by different metrics (val/loss, val/macro_f1)" in refused([first, lost])
    assert read(runs.find([first, lost]), "accuracy").metric == "accuracy"
    (lost / "config.yaml").write_text(text.replace("monitor: val/macro_f1", "monitor: train/loss"))
    twin = Path(shutil.copytree(lost, tmp_path / "twin"))
    assert "train/loss, which is no score of val" in refused([lost, twin])
    (lost / "checkpoints" / "best.ckpt").unlink()
    assert "needs the checkpoint of every run" in refused([first, lost], "loss")


def test_equal_runs_count_once(sweep: Path, tmp_path: Path) -> None:
    again = Path(shutil.copytree(sweep / "3", tmp_path / "again"))
    found = read(runs.find([sweep / "0", sweep / "3", again]), "loss")
    assert [run.folder for run in found.runs] == [sweep / "0", again]
    assert [f"{sweep / '3'} is left out: {again} has the same config and seed 3"] == found.notes
    built = summary(found, choose(found, "all", 2, 0))
    assert [row["weight"] for row in built["members"]] == [0.5, 0.5]
    assert f"  {found.notes[0]}" in lines(built, 0)
    assert "the same config and seed" in refused([sweep / "3", again])


def test_predictions_that_are_lost_or_of_another_run(sweep: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(sweep / "3", tmp_path / "other run"))
    file = other / "predictions_val.csv"
    shutil.copy(sweep / "2" / "predictions_val.csv", file)
    said = refused([sweep / "0", other])
    assert f"{other} is not whole" in said and "rescore=true" in said
    file.unlink()
    said = refused([sweep / "0", other])
    assert f"no predictions of val in {other}" in said
    assert f"emotion_lab.evaluate 'ckpt={other}' rescore=true" in said


def test_members_of_another_size(cfg: dict[str, Any], sweep: Path, tmp_path: Path) -> None:
    """The same val, other input: told before anything is written."""
    large = composed(*TINY32, "model.image_size=40")
    other = write_run(large, tmp_path / "large", NAMES, 3)
    candidates = read(runs.find([sweep / "0", other]), "loss")
    choice = choose(candidates, "all", 2, 0)
    found = summary(candidates, choice)
    with pytest.raises(UserError, match="must take the same images"):
        write_checkpoint(candidates, choice, found, tmp_path / "ensemble.ckpt")
    assert not (tmp_path / "ensemble.ckpt").exists()


def test_the_command_line(sweep: Path, tmp_path: Path) -> None:
    def prepared(*overrides: str) -> list[str]:
        return ensemble.validate(compose.precheck("ensemble", [*overrides]), [*overrides])

    with pytest.raises(UserError, match="runs is missing"):
        prepared()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "ensemble.ckpt").touch()
    with pytest.raises(UserError, match="Set out=<a new folder>"):
        prepared(f"runs={sweep}", f"out={tmp_path / 'full'}")
    with pytest.raises(UserError, match="selection=best is not valid"):
        prepared(f"runs={sweep}", "selection=best")
    with pytest.raises(UserError, match="max_members=0 is not valid"):
        prepared(f"runs={sweep}", "max_members=0")
    with pytest.raises(UserError, match="metric=f1 is not valid"):
        prepared(f"runs={sweep}", "metric=f1")
    out = tmp_path / "out"
    assert prepared(f"runs={sweep}", f"out={out}") == [f"hydra.run.dir='{out}'"]
    assert not out.exists()
    out.mkdir()
    (out / "ensemble.ckpt").write_bytes(b"there")
    with pytest.raises(UserError, match="already holds ensemble.ckpt"):
        prepared(f"runs={sweep}", f"out={out}")
