"""The end of a training run: evaluate the best checkpoint, write ``metrics.json`` and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from emotion_lab.core.environment import choose_accelerator
from emotion_lab.core.io import write_json
from emotion_lab.evaluation import selection_bias, temperature
from emotion_lab.evaluation.evaluate import LedgerEntry, evaluate_checkpoint
from emotion_lab.evaluation.metrics import report_text
from emotion_lab.experiments.run import before_after
from emotion_lab.experiments.run.smoother import write_smoother
from emotion_lab.reports import logger_media
from emotion_lab.reports.run_files import save_results, write_learning_curves
from emotion_lab.training.fit import FitResult


def finish_run(cfg: dict[str, Any], run_dir: Path, fitted: FitResult) -> float:
    """Evaluate ``best.ckpt`` on val, and on test with ``test=true``; write all results.

    Returns:
        The best value of the monitored metric.
    """
    best = run_dir / "checkpoints" / "best.ckpt"
    device = choose_accelerator(cfg["trainer"]["accelerator"])
    entry = LedgerEntry(Path(cfg["test_ledger"]), run_dir)
    scores: dict[str, Any] = {}
    printed = list(fitted.data.source.notes)
    pictures: dict[str, Path] = {}
    for split in ("val", "test") if cfg["test"] else ("val",):
        result = evaluate_checkpoint(best, cfg["data"], split, device, entry=entry, printed=printed)
        printed += result.notes
        pictures |= save_results(run_dir, result, f"predictions_{split}.csv")
        scores[split] = result.scores
        if split == "val":
            # Before test is opened: the ledger records the hash of the final checkpoint file.
            calibration = temperature.fit_checkpoint_temperature(result)
            temperature.store(best, calibration)
            val_result = result
            print(f"calibration: {temperature.describe(calibration)}")
            comparison = write_smoother(run_dir, result, calibration["temperature"])
    compared = before_after.measure(cfg, val_result, device)
    text = "\n".join(report_text(scores[split], split) for split in scores)
    (run_dir / "classification_report.txt").write_text(text, encoding="utf-8")
    bias = selection_bias.of_run(run_dir, cfg, fitted.facts["epochs"], fitted.data.split("val"))
    metrics = {**scores, "seed": cfg["seed"], "checkpoint": str(best), **fitted.facts}
    metrics |= {"selection_bias": bias} if bias is not None else {}
    if comparison is not None:
        metrics["smoothing"] = comparison
    metrics |= {"before_after": compared} if compared is not None else {}
    write_json(run_dir / "metrics.json", metrics)
    title = f"{cfg['model']['name']}, {cfg['loss']['name']}, seed {cfg['seed']}"
    pictures = {"curves": write_learning_curves(run_dir, title), **pictures}
    print("\n" + text)
    if bias is not None and bias["epochs"] > 1:
        print(selection_bias.describe(bias))
    if compared is not None:
        print(before_after.line(compared))
    # Last: a failing logger must not lose results.
    summary = logger_media.summary_metrics(metrics, calibration["temperature"])
    logger_media.log_results(fitted.loggers, pictures, val_result, summary, best)
    return float(fitted.facts["monitor"]["best"])
