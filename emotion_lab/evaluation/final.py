"""The end of a training run: score the best checkpoint, write ``metrics.json`` and the pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from emotion_lab.core.environment import choose_accelerator
from emotion_lab.core.io import write_json
from emotion_lab.evaluation import media
from emotion_lab.evaluation import temperature as calibrate
from emotion_lab.evaluation.evaluate import evaluate_checkpoint, save_results
from emotion_lab.evaluation.metrics import report_text
from emotion_lab.reports import plots
from emotion_lab.training.fit import FitResult


def finish(cfg: dict[str, Any], run_dir: Path, fitted: FitResult) -> float:
    """Score ``best.ckpt`` on val, and on test when ``test=true``, and write the results.

    Returns:
        The best value of the monitored metric, for sweeps.
    """
    best = run_dir / "checkpoints" / "best.ckpt"
    device = choose_accelerator(cfg["trainer"]["accelerator"])
    splits = ["val"] + (["test"] if cfg["test"] else [])
    ledger = Path(cfg["test_ledger"])
    results: dict[str, Any] = {}
    texts = []
    for split in splits:
        judged = evaluate_checkpoint(best, cfg["data"], split, run_dir, device, ledger)
        save_results(run_dir, judged, f"predictions_{split}.csv")
        results[split] = judged.scores
        if split == "val":
            # Before test is opened: the ledger names the checkpoint as it stays.
            found = calibrate.fit_checkpoint_temperature(judged)
            calibrate.store(best, found)
            val, temperature = judged, found["temperature"]
            print(
                f"calibration: temperature {found['temperature']:.3f}, fitted on val, NLL "
                f"{found['nll']:.4f} -> {found['nll_calibrated']:.4f}"
            )
        texts.append(report_text(results[split], split))
    (run_dir / "classification_report.txt").write_text("\n".join(texts), encoding="utf-8")
    metrics = {
        **results,
        "seed": cfg["seed"],
        "checkpoint": str(best),
        **fitted.facts,
    }
    write_json(run_dir / "metrics.json", metrics)
    name = f"{cfg['model']['name']}, {cfg['loss']['name']}, seed {cfg['seed']}"
    pictures = {"curves": plots.curves(run_dir / "history.csv", run_dir / "curves.png", name)}
    for split in splits:
        pictures[f"{split}/confusion"] = run_dir / f"confusion_{split}.png"
        pictures[f"{split}/samples"] = run_dir / f"samples_{split}.png"
    print("\n" + "\n".join(texts))
    # Last: everything of value is written.
    media.report(fitted.loggers, pictures, val, media.numbers(metrics, temperature), best)
    return float(fitted.facts["monitor"]["best"])
