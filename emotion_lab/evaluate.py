"""Score a checkpoint: ``python -m emotion_lab.evaluate ckpt=<run> split=val``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from emotion_lab.cli import app
from emotion_lab.config import compose
from emotion_lab.config.overrides import quote
from emotion_lab.core import paths, runs
from emotion_lab.core.errors import UserError

if TYPE_CHECKING:
    from emotion_lab.evaluation.predict import Predictions
    from emotion_lab.models.load import LoadedCheckpoint

RESULTS = ("metrics.json", "report.html", "mistakes")
#: What may be said when predictions are brought back.
RESTORE_KEYS = ("ckpt", "rescore", "split", "data.path", "data.num_workers", "report")


def validate(cfg: DictConfig, overrides: list[str]) -> list[str]:
    """Check what is cheap to check, before Hydra makes the run folder."""
    paths.check_checkpoint(cfg.ckpt, several=True)
    if cfg.rescore:
        return _prepare_restore(cfg, overrides)
    if cfg.calibrate:
        if cfg.split != "val" or cfg.tta != "none":
            raise UserError(
                "calibrate=true fits on val, never on test or train, and without test-time "
                "augmentation, as live answers: set split=val tta=none."
            )
        if cfg.data.name != "checkpoint" or len(paths.as_list(cfg.ckpt)) > 1 or cfg.data.limit:
            raise UserError(
                "calibrate=true fits one checkpoint on all of its own val split: give one ckpt "
                "and no other data."
            )
    _check_runtime(cfg)
    if not str(cfg.hydra.mode or "").endswith("MULTIRUN"):
        paths.check_fresh(str(cfg.hydra.run.dir), *RESULTS)
    return []


def _prepare_restore(cfg: DictConfig, overrides: list[str]) -> list[str]:
    """Check ``rescore=true``: one finished run, nothing that would change what it answers."""
    for text in overrides:
        key = text.lstrip("+~").split("=", 1)[0]
        if key not in RESTORE_KEYS and not key.startswith(("trainer", "hydra")):
            raise UserError(
                f"rescore=true writes again what train wrote of val; '{text}' does not apply. "
                f"Allowed: {', '.join(RESTORE_KEYS)}."
            )
    folders = [Path(path) for path in paths.as_list(cfg.ckpt)]
    if cfg.split != "val" or len(folders) > 1 or not runs.is_run(folders[0]):
        raise UserError(
            "rescore=true writes predictions_val.csv of one finished run of train: give "
            "ckpt=<its run folder>, split=val."
        )
    if not str(cfg.hydra.mode or "").endswith("MULTIRUN"):
        place = quote(str(folders[0]), interpolate=True)
        return [f"hydra.run.dir={place}", "hydra.output_subdir=null"]
    raise UserError("rescore=true works in the folder of one run: leave -m out.")


def _check_runtime(cfg: DictConfig) -> None:
    """Check what answers in PyTorch's place.

    Raises:
        UserError: If it cannot, or an option does not apply.
    """
    name = cfg.backend.name
    if name == "torch":
        for key in ("precision", "device", "threads"):
            if cfg.backend[key] not in (None, "auto"):
                raise UserError(
                    f"backend.{key}={cfg.backend[key]} does not apply: backend=torch scores in "
                    "float32 as training does, on the device of trainer=cpu or trainer=gpu."
                )
        return
    if len(paths.as_list(cfg.ckpt)) > 1:
        raise UserError(
            f"backend={name} runs one file: python -m emotion_lab.ensemble makes one of several "
            "runs. Or set backend=torch."
        )
    if cfg.calibrate:
        raise UserError("calibrate=true fits what PyTorch says: set backend=torch.")
    if cfg.tta == "tencrop":
        raise UserError(
            f"tta=tencrop makes fractions of grey levels, which backend={name} does not take: set "
            "backend=torch, or tta=flip."
        )


def data_config(cfg: dict[str, Any], card: dict[str, Any]) -> dict[str, Any]:
    """Return the data to read: the checkpoint's own where ``data=`` names no other."""
    if cfg["data"]["name"] != "checkpoint":
        return cfg["data"]
    given = {key: value for key, value in cfg["data"].items() if value is not None}
    then = card["config"]["data"]
    if then["name"] == "synthetic" and given.get("path"):
        raise UserError(
            f"data.path={given['path']} does not apply: the checkpoint was trained on drawn faces. "
            "Set data=image_folder data.path=<folder>, or data=fer2013."
        )
    # A checkpoint of an earlier version knows nothing of keys that came later.
    return {**compose.defaults("data", then["name"]), **then, **given, "name": then["name"]}


def ensemble_weights(
    loaded: list[LoadedCheckpoint], data: dict[str, Any], run_dir: Path, device: str, tta: str
) -> tuple[list[float], Predictions]:
    """Fit how much each member of an ensemble counts, on the val split of its own data.

    Returns:
        The shares, and what the members so weighted say of val.
    """
    import numpy as np
    import torch

    from emotion_lab.evaluation.ensemble_weights import fit_weights
    from emotion_lab.evaluation.evaluate import evaluate_checkpoint
    from emotion_lab.evaluation.predict import Predictions

    members = [
        evaluate_checkpoint(
            one.path, data, "val", run_dir, device, tta=tta, network=(one.net, one.card)
        )
        for one in loaded
    ]
    classes = members[0].classes
    orders = [[member.classes.index(name) for name in classes] for member in members]
    given = [m.probabilities[:, order] for m, order in zip(members, orders, strict=True)]
    shares = [float(share) for share in fit_weights(given, members[0].labels)]
    mean = np.einsum("m,mnk->nk", np.float32(shares), np.stack(given))
    logits = torch.from_numpy(mean).clamp_min(1e-12).log()
    first = members[0].predictions
    return shares, Predictions(logits, first.labels, first.positions)


def describe(card: dict[str, Any]) -> str:
    """Say what a checkpoint is, in a few words."""
    if "members" not in card:
        return f"epoch {card['epoch'] + 1}, {card['config']['model']['name']}"
    names = [member["config"]["model"]["name"] for member in card["members"]]
    kinds = [f"{names.count(name)} {name}" for name in dict.fromkeys(names)]
    return f"ensemble of {', '.join(kinds)}"


def evaluate(cfg: DictConfig) -> float:
    """Score, write the results and the report; returns the accuracy."""
    import torch
    from hydra.core.hydra_config import HydraConfig

    from emotion_lab.core import checkpoint as ckpt
    from emotion_lab.core.environment import choose_accelerator, git_commit, hardware, versions
    from emotion_lab.core.io import write_json
    from emotion_lab.evaluation import temperature
    from emotion_lab.evaluation.evaluate import (
        evaluate_checkpoint,
        identity,
        save_results,
    )
    from emotion_lab.evaluation.metrics import report_text
    from emotion_lab.models.finetune import count_parameters
    from emotion_lab.models.load import combine, load
    from emotion_lab.reports.evaluation import make_report
    from emotion_lab.training.fit import quiet

    quiet()
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    plain = compose.to_container(cfg)
    files = [ckpt.find(path) for path in paths.as_list(plain["ckpt"])]
    loaded = load(files)
    cards = [one.card for one in loaded]
    device = choose_accelerator(plain["trainer"]["accelerator"])
    if plain["rescore"]:
        from emotion_lab.evaluation.rescore import restore

        accuracy = restore(run_dir, data_config(plain, cards[0]), device)
        print(f"val accuracy {accuracy:.4f}, as in metrics.json: predictions_val.csv is back")
        print(run_dir)
        return accuracy
    split, foreign = plain["split"], plain["data"]["name"] != "checkpoint"
    for file, card in zip(files, cards, strict=True):
        print(f"checkpoint: {file} ({describe(card)})")
    own = data_config({"data": {"name": "checkpoint"}}, cards[0])
    data = data_config(plain, cards[0])
    weights = known = None
    if len(files) > 1 and plain["weights"] == "val":
        fitted_on = own if foreign else data
        weights, known = ensemble_weights(loaded, fitted_on, run_dir, device, plain["tta"])
        print("weights, fitted on val: " + ", ".join(f"{share:.3f}" for share in weights))
        if split != "val" or foreign:
            known = None
    runtime = None
    if plain["backend"]["name"] != "torch":
        from emotion_lab.inference.classifier import open_runtime

        _, _, runtime = open_runtime(files[0], plain["backend"])
        print(f"runtime: {runtime.name} ({'; '.join(runtime.notes)})")
    judged = evaluate_checkpoint(
        files,
        data,
        split,
        run_dir,
        device,
        Path(plain["test_ledger"]),
        plain["tta"],
        foreign,
        network=combine(loaded, weights),
        predictions=known,
        run=runtime.run if runtime else None,
    )
    if runtime:
        judged.notes.append(
            f"answered by {runtime.name} (backend={plain['backend']['name']}); corruptions and "
            "maps are PyTorch's"
        )
    # Those of an ensemble's own file count one by one.
    cards = [member for card in cards for member in card.get("members", [card])]
    scores = judged.scores
    if plain["calibrate"]:
        # Before the checkpoint's hash is taken.
        found = temperature.fit_checkpoint_temperature(judged)
        temperature.store(files[0], found)
        judged.card["calibration"] = found
        print(f"temperature {found['temperature']:.3f} kept in {files[0]}")
    facts = {
        "model": describe(judged.card) if len(cards) > 1 else cards[0]["config"]["model"]["name"],
        "parameters": count_parameters(judged.net)[1],
        "seed": cards[0]["seed"] if len(cards) == 1 else [card["seed"] for card in cards],
        "checkpoint": ", ".join(str(file) for file in files),
        "checkpoint_sha256": identity(files),
        **{key: judged.card[key] for key in ("weights",) if key in judged.card},
        "runtime": runtime.name if runtime else f"torch {torch.__version__} fp32 on {device}",
        "commit": git_commit(),
        "hardware": hardware(device),
        "versions": versions(),
    }
    write_json(run_dir / "metrics.json", {split: scores, **facts})
    save_results(run_dir, judged, "predictions.csv")
    print("\n" + report_text(scores, split))
    if plain["report"]:
        typed = shlex.join(HydraConfig.get().overrides.task)
        history = files[0].parent.parent / "history.csv"
        made = make_report(
            judged,
            run_dir,
            {key: plain[key] for key in ("num_mistakes", "num_explained", "num_robustness")},
            {**facts, "command": f"python -m emotion_lab.evaluate {typed}"},
            own if judged.foreign else data,
            history if "members" not in judged.card and history.is_file() else None,
        )
        low, high = made["accuracy_ci95"]
        print(f"accuracy {made['accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%})")
        print(f"report: {run_dir / 'report.html'}")
    print(run_dir)
    return scores["accuracy"]


def main() -> None:
    """Entry point of ``emotion-evaluate``."""
    app.run("evaluate", evaluate, validate, RESULTS)


if __name__ == "__main__":
    main()
