"""Evaluate checkpoints: predictions, ``metrics.json`` and the report, in one run directory."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from emotion_lab.config.overrides import as_typed, override_key
from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core import paths
from emotion_lab.core.environment import choose_accelerator, git_commit, hardware, versions
from emotion_lab.core.errors import UserError
from emotion_lab.core.io import write_json
from emotion_lab.core.paths import find_checkpoint
from emotion_lab.data.checkpoint_data import CheckpointData, data_config, is_foreign
from emotion_lab.evaluation import temperature
from emotion_lab.evaluation.ensemble_weights import fit_ensemble_weights
from emotion_lab.evaluation.evaluate import LedgerEntry, Predictor, check_ledger, evaluate, identity
from emotion_lab.evaluation.metrics import report_text
from emotion_lab.evaluation.predict import Predictions
from emotion_lab.evaluation.result import EvaluationResult
from emotion_lab.evaluation.vote_shares import fit_checkpoint_shares
from emotion_lab.experiments.run.cross_dataset import run_cross_dataset
from emotion_lab.experiments.run.head_turn import accuracy_by_turn, build_landmark_detector
from emotion_lab.experiments.run.rescore import rescore
from emotion_lab.experiments.run.smoother import update_smoother
from emotion_lab.inference.frame_outputs import FrameOutputs
from emotion_lab.models.finetune import count_parameters
from emotion_lab.models.load import LoadedCheckpoint, combine, load
from emotion_lab.reports.evaluation import make_report
from emotion_lab.reports.run_files import save_results
from emotion_lab.training.fit import quiet


def _load_predictor(
    cfg: dict[str, Any], loaded: list[LoadedCheckpoint], device: str
) -> tuple[Predictor, Predictions | None, str]:
    """Build the predictor of the config.

    Returns:
        The predictor; its predictions of the split, if the fit of the ensemble weights has
        computed them; and the name of the inference backend.
    """
    weights = predictions = fitted_on = None
    if len(loaded) > 1 and cfg["weights"] == "val":
        foreign = is_foreign(cfg["data"], loaded[0].card)
        data_cfg = data_config({"name": "checkpoint"} if foreign else cfg["data"], loaded[0].card)
        weights, predictions, fitted_on = fit_ensemble_weights(loaded, data_cfg, device, cfg["tta"])
        print("weights, fitted on val: " + ", ".join(f"{weight:.3f}" for weight in weights))
        if cfg["split"] != "val" or foreign:
            predictions = None
    files = tuple(checkpoint.path for checkpoint in loaded)
    net, card = combine(loaded, weights)
    if fitted_on is not None:
        card["weights_fitted_on"] = fitted_on
    predictor = Predictor(net, card, files, device, cfg["tta"])
    if cfg["backend"]["name"] == "torch":
        return predictor, predictions, f"torch {torch.__version__} fp32 on {device}"
    from emotion_lab.inference.classifier import open_backend

    _, backend = open_backend(files[0], cfg["backend"])
    print(f"backend: {backend.name} ({'; '.join(backend.notes)})")
    return dataclasses.replace(predictor, run=backend.run), predictions, backend.name


def _facts(predictor: Predictor, backend: str) -> dict[str, Any]:
    """Return model, checkpoint, backend, hardware and versions for ``metrics.json``."""
    card = predictor.card
    members = card.get("members", [card])
    single = len(members) == 1
    return {
        "model": members[0]["config"]["model"]["name"] if single else ckpt.describe(card),
        "parameters": count_parameters(predictor.net)[1],
        "seed": members[0]["seed"] if single else [member["seed"] for member in members],
        "checkpoint": ", ".join(str(path) for path in predictor.checkpoints),
        "checkpoint_sha256": identity(predictor.checkpoints),
        **{key: card[key] for key in ("weights",) if key in card},
        "runtime": backend,
        "commit": git_commit(),
        "hardware": hardware(predictor.device),
        "versions": versions(),
    }


def _write_report(
    result: EvaluationResult,
    cfg: dict[str, Any],
    facts: dict[str, Any],
    run_dir: Path,
    checkpoint: LoadedCheckpoint,
) -> None:
    """Write the report; ``checkpoint`` gives the learning curves."""
    history = checkpoint.path.parent.parent / "history.csv"
    options = {key: cfg[key] for key in ("num_mistakes", "num_explained", "num_robustness")}
    if "frame" in result.card:  # its input is no image
        options |= {"num_explained": 0, "num_robustness": 0}
    single = "members" not in result.card and history.is_file()
    report = make_report(result, run_dir, options, facts, history if single else None)
    low, high = report["accuracy_ci95"]
    print(f"accuracy {report['accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%})")
    for row in report.get("quantities", []):
        ccc = "-" if row["ccc"] is None else f"{row['ccc']:.3f}"
        print(
            f"{row['quantity']}, {row['source']}: CCC {ccc}, RMSE {row['rmse']:.3f} "
            f"({row['n']:,} images)"
        )
    print(f"report: {run_dir / 'report.html'}")


def _calibrate(result: EvaluationResult, checkpoint: Path, run_dir: Path) -> None:
    """Fit the temperature, and with votes the vote shares; save both in the checkpoint."""
    calibration = temperature.fit_checkpoint_temperature(result)
    shares = fit_checkpoint_shares(result, calibration["temperature"])
    temperature.store(checkpoint, calibration, shares)
    result.card |= {"temperature": calibration["temperature"], "calibration": calibration}
    print(f"{temperature.describe(calibration)}; saved in {checkpoint}")
    if "frame" in result.card:
        update_smoother(checkpoint, result, calibration["temperature"])
    if shares is not None:
        result.card["vote_shares"] = shares
        write_json(run_dir / "vote_shares.json", shares)
        print(f"vote shares fitted on {shares['n']:,} images of val; saved in {checkpoint}")


def check_typed(typed: dict[str, Any], used: dict[str, Any], overrides: Sequence[str]) -> None:
    """Refuse a typed key of ``data`` that the division of the training run replaces.

    Args:
        typed: The composed ``data`` group.
        used: The ``data`` group that is evaluated.
        overrides: As typed.
    """
    for text in overrides:
        key = override_key(text).removeprefix("data.")
        value = typed.get(key)
        if text.startswith("data.") and value is not None and used.get(key) != value:
            raise UserError(
                f"data.{key}={value} cannot change: the checkpoint was trained on this data with "
                f"data.{key}={json.dumps(used.get(key))}, and another division would score "
                f"training images. Remove data.{key}=."
            )


def run_evaluation(cfg: dict[str, Any], overrides: list[str], run_dir: Path) -> float:
    """Evaluate ``ckpt`` on a split, write the results and return the accuracy.

    ``overrides`` are those of the command, ``run_dir`` exists.
    """
    quiet()
    loaded = load([find_checkpoint(path) for path in paths.as_list(cfg["ckpt"])])
    device = choose_accelerator(cfg["trainer"]["accelerator"])
    data_cfg = data_config(cfg["data"], loaded[0].card)
    if cfg["rescore"]:
        accuracy = rescore(run_dir, data_cfg, device)
        print(f"val accuracy {accuracy:.4f}, as in metrics.json: predictions_val.csv is recreated")
        print(run_dir)
        return accuracy
    split, foreign = cfg["split"], is_foreign(cfg["data"], loaded[0].card)
    for checkpoint in loaded:
        print(f"checkpoint: {checkpoint.path} ({ckpt.describe(checkpoint.card)})")
    detector = build_landmark_detector(cfg["face_detector"], cfg["face_detector_file"])
    predictor, predictions, backend = _load_predictor(cfg, loaded, device)
    entry = LedgerEntry(Path(cfg["test_ledger"]), run_dir)
    check_ledger(split, entry)
    frame = FrameOutputs.of_card(predictor.card)
    if frame is not None and cfg["tta"] != "none":
        raise UserError(
            f"tta={cfg['tta']} is for images, and ckpt is a temporal model: set tta=none."
        )
    if frame is not None and cfg["datasets"]:
        raise UserError(
            "datasets= is for networks of single images, and ckpt is a temporal model: set "
            "data=clips data.path=<folder>."
        )
    command = f"python -m emotion_lab.evaluate {shlex.join(as_typed(overrides))}"
    if cfg["datasets"]:
        facts = {**_facts(predictor, backend), "command": command}
        accuracy = run_cross_dataset(predictor, cfg, run_dir, facts)
        print(run_dir)
        return accuracy
    data = CheckpointData.open(predictor.card, data_cfg, split, foreign, frame)
    check_typed(cfg["data"], data.module.cfg, overrides)
    result = evaluate(predictor, data, entry, predictions)
    if predictor.run is not None:
        result.notes.append(
            f"predicted by {backend} (backend={cfg['backend']['name']}); robustness and "
            "explanation maps use PyTorch"
        )
    if cfg["calibrate"]:
        # Before the checkpoint is hashed.
        _calibrate(result, loaded[0].path, run_dir)
    facts = _facts(predictor, backend)
    write_json(run_dir / "metrics.json", {split: result.scores, **facts})
    save_results(run_dir, result, "predictions.csv")
    print("\n" + report_text(result.scores, split))
    if cfg["report"]:
        if detector is not None:
            facts["pose"] = accuracy_by_turn(result, detector)
        _write_report(result, cfg, {**facts, "command": command}, run_dir, loaded[0])
    print(run_dir)
    return result.scores["accuracy"]
