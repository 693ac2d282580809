"""The report of one evaluation: ``report.json``, ``report.html``, figures and ``mistakes/``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from emotion_lab.core.io import write_json
from emotion_lab.evaluation import calibration, curves, test_ledger
from emotion_lab.evaluation.deduplicated_score import without_duplicates
from emotion_lab.evaluation.explain import explain_network, overlay
from emotion_lab.evaluation.human_agreement import agreement
from emotion_lab.evaluation.quantities import score_quantities
from emotion_lab.evaluation.result import EvaluationResult
from emotion_lab.evaluation.robustness import robustness
from emotion_lab.evaluation.statistics import intervals
from emotion_lab.evaluation.temperature import fit_checkpoint_temperature
from emotion_lab.evaluation.vote_shares import check_intensity
from emotion_lab.reports import examples, figures
from emotion_lab.reports.evaluation_page import write_page
from emotion_lab.reports.style import FigureStyle, both

#: Misclassified images written as files, most confident first.
MISTAKE_FILES = 1000
#: Keys of the scores that ``report.json`` repeats, and those of them that scores may lack.
_OPTIONAL_SCORES = ("by_labels", "shared", "trained_on", "episodes")
_SCORES = ("n", "accuracy", "macro_f1", "classes", "confusion", "fingerprint", "tta")


def calibration_numbers(result: EvaluationResult) -> dict[str, Any]:
    """Return NLL, ECE and Brier score before and after temperature scaling.

    If the checkpoint has no temperature, one is fitted on val. The same applies to ensembles of
    several files and to test-time augmentation, for which checkpoints store no temperature.
    """
    logits, labels = result.logits, result.labels
    fitted = result.card.get("calibration") if result.scores["tta"] == "none" else None
    if fitted is None and not result.foreign and result.split == "val":
        fitted = fit_checkpoint_temperature(result)
    temperature = fitted_on = None
    # Checkpoints of older versions have no key "not_fitted".
    if fitted and fitted.get("not_fitted"):
        fitted_on = f"not fitted: {fitted['not_fitted']}"
    elif fitted:
        temperature = fitted["temperature"]
        fitted_on = f"{fitted['split']}, n = {fitted['n']:,}"
        if fitted["hash"] == result.scores["fingerprint"]["hash"]:
            fitted_on += ", the images of this report: calibrated values are slightly optimistic"
    numbers: dict[str, Any] = {"temperature": temperature, "temperature_fitted_on": fitted_on}
    for measure in (calibration.nll, calibration.ece, calibration.brier):
        calibrated = measure(logits, labels, temperature) if temperature else None
        numbers[measure.__name__] = measure(logits, labels)
        numbers[f"{measure.__name__}_calibrated"] = calibrated
    numbers["coverage"] = calibration.coverage(logits, labels, temperature or 1.0)
    return numbers


def protocol(result: EvaluationResult) -> dict[str, Any]:
    """Return which split selected the epoch, which is shown, and the test accesses."""
    prefix = "warning: "
    warnings = [note.removeprefix(prefix) for note in result.notes if note.startswith(prefix)]
    lines = [note for note in result.notes if not note.startswith(prefix)]
    stage, metric = str(result.card["monitor"]).split("/", 1)
    if result.split == stage and not result.foreign:
        lines.insert(0, f"{stage} selected the epoch: its score is slightly optimistic")
    openings = configurations = None
    if result.split == "test":
        openings = len(result.openings) + 1
        configurations = test_ledger.configurations([*result.openings, result.setup])
        if configurations > 1:
            warnings.append(
                f"this test set has been opened for {configurations} configurations: the best of "
                "several scores is optimistic"
            )
    return {
        "chosen_on": f"{stage} ({metric.replace('_', ' ')})",
        "shown": result.split,
        "known_as": result.scores["fingerprint"]["known_as"],
        "foreign": result.foreign,
        "openings": openings,
        "configurations": configurations,
        "lines": lines,
        "warnings": warnings,
    }


def numbers(result: EvaluationResult, roc: dict[str, Any], pr: dict[str, Any]) -> dict[str, Any]:
    """Return the part of ``report.json`` that is computed from the predictions alone."""
    scores, classes = result.scores, result.classes
    bootstrap = intervals(result.labels, result.predicted, len(classes), groups=result.groups)
    per_class = {}
    for i, name in enumerate(classes):
        row = scores["per_class"][name]
        if not row["support"]:
            row = {**dict.fromkeys(row), "support": 0}
        per_class[name] = {
            **row,
            "f1_ci95": bootstrap["f1_ci95"][i],
            "auc": roc[name]["auc"] if roc[name] else None,
            "average_precision": pr[name]["ap"] if pr[name] else None,
        }
    return {
        "split": result.split,
        **{key: scores[key] for key in _SCORES},
        "groups": bootstrap["groups"],
        "accuracy_ci95": bootstrap["accuracy_ci95"],
        "macro_f1_ci95": bootstrap["macro_f1_ci95"],
        "per_class": per_class,
        "roc_auc_macro": curves.macro_auc(roc),
        **calibration_numbers(result),
        **{key: scores[key] for key in _OPTIONAL_SCORES if key in scores},
        **({"mapping": result.mapping} if result.mapping else {}),
        "protocol": protocol(result),
    }


def draw_figures(
    result: EvaluationResult,
    report: dict[str, Any],
    roc: dict[str, Any],
    pr: dict[str, Any],
    folder: Path,
    history: Path | None,
) -> dict[str, dict[str, bytes]]:
    """Draw all figures in both styles; write the light ones to ``folder`` as PNG."""
    logits, labels, classes = result.logits, result.labels, result.classes
    temperature = report["temperature"]
    bins = calibration.reliability(logits, labels)
    calibrated = calibration.reliability(logits, labels, temperature) if temperature else None
    ece = {"ece": report["ece"], "ece_calibrated": report["ece_calibrated"]}
    confusion = partial(figures.confusion, report["confusion"], classes)
    confidence = result.probabilities.max(1)
    draw: dict[str, Callable[[FigureStyle], Figure]] = {
        "confusion_counts": partial(confusion, cells="count"),
        "confusion_normalized": partial(confusion, cells="percent"),
        "roc": partial(figures.roc, roc),
        "precision_recall": partial(figures.precision_recall, pr),
        "reliability": partial(figures.reliability, bins, calibrated, **ece),
        "confidence": partial(figures.confidence, confidence, result.predicted == labels),
        "coverage": partial(figures.coverage, report["coverage"]),
        "per_class": partial(figures.per_class, report["per_class"]),
    }
    if report.get("robustness"):
        draw["robustness"] = partial(figures.robustness, report["robustness"])
    if history is not None:
        draw["curves"] = partial(figures.curves, history)
    return {name: both(function, folder, name) for name, function in draw.items()}


def explanations(result: EvaluationResult, each: int) -> dict[str, Any]:
    """Return the maps of at most ``each`` right and wrong predictions of each class."""
    rows = examples.class_examples(result, each)
    chosen = [example.i for row in rows for example in (*row.right, *row.wrong)]
    images = np.stack([result.image(i) for i in chosen])
    maps, method = explain_network(result.net, images, result.predicted[chosen], result.device)
    overlays = dict(zip(chosen, map(overlay, images, maps), strict=True))
    return {"explained": examples.with_overlays(rows, overlays), "explained_by": method}


def make_report(
    result: EvaluationResult,
    run_dir: Path,
    options: dict[str, Any],
    facts: dict[str, Any],
    history: Path | None = None,
) -> dict[str, Any]:
    """Write ``report.json``, ``report.html``, the figures and ``mistakes/``.

    Args:
        result: Predictions and scores.
        run_dir: The run directory.
        options: ``num_mistakes`` (mistakes shown), ``num_explained`` (right and wrong images per
            class with an explanation map), ``num_robustness`` (images of the robustness test); 0
            leaves a part out.
        facts: Further content of the report: checkpoint, commit, hardware, versions, command, ...
        history: ``history.csv`` of the training run, for the learning curves.

    Returns:
        The content of ``report.json``.
    """
    probabilities = calibration.probabilities(result.logits)
    roc = curves.roc(probabilities, result.labels, result.classes)
    pr = curves.precision_recall(probabilities, result.labels, result.classes)
    report = {**numbers(result, roc, pr), **facts}
    if votes := agreement(result):
        report["votes"] = votes
    if intensity := check_intensity(result):
        report["intensity"] = intensity
    if quantities := score_quantities(result):
        report["quantities"] = quantities
    report["without_duplicates"] = without_duplicates(result)
    if options["num_robustness"]:
        report["robustness"] = robustness(result, options["num_robustness"], result.device)
    page: dict[str, Any] = {
        **report,
        "figures": draw_figures(result, report, roc, pr, run_dir, history),
        "mistakes": examples.worst_mistakes(result, options["num_mistakes"]),
        "mistakes_total": int((result.predicted != result.labels).sum()),
        "pairs": examples.confused_pairs(result),
        "files": {
            "report.json": "all numbers of this page",
            "predictions.csv": "all predictions with their probabilities",
            "mistakes/index.csv": "list of the misclassified images, which are PNG files",
        },
    }
    if options["num_explained"]:
        page |= explanations(result, options["num_explained"])
    examples.write_mistakes(result, run_dir / "mistakes", MISTAKE_FILES)
    write_json(run_dir / "report.json", report)
    write_page(run_dir, page)
    return report
