"""``report.json``, ``report.html`` and the pictures of one evaluation, put together."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.core.io import write_json
from emotion_lab.evaluation import calibration, curves
from emotion_lab.evaluation.deduplicated_score import without_duplicates
from emotion_lab.evaluation.explain import explain, method_name, overlay
from emotion_lab.evaluation.human_agreement import agreement
from emotion_lab.evaluation.result import EvaluationResult
from emotion_lab.evaluation.robustness import robustness
from emotion_lab.evaluation.statistics import intervals
from emotion_lab.evaluation.temperature import fit_checkpoint_temperature
from emotion_lab.evaluation.test_ledger import configurations as count_setups
from emotion_lab.models.ensemble import Ensemble
from emotion_lab.reports import examples, figures
from emotion_lab.reports.evaluation_page import write_page
from emotion_lab.reports.style import both

#: Misclassified images that are left as files, most confident first.
MISTAKE_FILES = 1000


def calibration_numbers(judged: EvaluationResult) -> dict[str, Any]:
    """Return NLL, ECE and Brier score before and after the temperature.

    A checkpoint without a fitted temperature gets one where the split shown may choose it; so do
    lists of checkpoints and test-time augmentation, for which none is kept.
    """
    logits, labels = judged.logits, judged.labels
    known = judged.card.get("calibration") if judged.scores["tta"] == "none" else None
    if known is None and not judged.foreign and judged.split == "val":
        known = fit_checkpoint_temperature(judged)
    temperature = known["temperature"] if known else None
    where = None
    if known:
        where = f"{known['split']}, n = {known['n']:,}"
        if known["hash"] == judged.scores["fingerprint"]["hash"]:
            where += ", the split shown here: the numbers after it are a little too good"
    found: dict[str, Any] = {"temperature": temperature, "temperature_fitted_on": where}
    for name, measure in (
        ("nll", calibration.nll),
        ("ece", calibration.ece),
        ("brier", calibration.brier),
    ):
        found[name] = measure(logits, labels)
        found[f"{name}_calibrated"] = measure(logits, labels, temperature) if temperature else None
    found["coverage"] = calibration.coverage(logits, labels, temperature or 1.0)
    return found


def protocol(judged: EvaluationResult) -> dict[str, Any]:
    """Say which split chose, which is shown, and how often the test split was opened."""
    monitor = str(judged.card["monitor"])
    warnings = [n.removeprefix("warning: ") for n in judged.notes if n.startswith("warning: ")]
    lines = [note for note in judged.notes if not note.startswith("warning: ")]
    stage, metric = monitor.split("/", 1)
    if judged.split == stage and not judged.foreign:
        lines.insert(0, f"{stage} chose the epoch: its score is a little too good")
    openings = configurations = None
    if judged.split == "test":
        openings = len(judged.openings) + 1
        configurations = count_setups([*judged.openings, judged.setup])
        if configurations > 1:
            warnings.append(
                f"this test set has been opened for {configurations} configurations: the best of "
                "several is no longer an unseen score"
            )
    return {
        "chosen_on": f"{stage} ({metric.replace('_', ' ')})",
        "shown": judged.split,
        "known_as": judged.scores["fingerprint"]["known_as"],
        "foreign": judged.foreign,
        "openings": openings,
        "configurations": configurations,
        "lines": lines,
        "warnings": warnings,
    }


def numbers(judged: EvaluationResult, roc: dict[str, Any], pr: dict[str, Any]) -> dict[str, Any]:
    """Return the part of ``report.json`` that follows from the predictions alone."""
    scores, classes = judged.scores, judged.classes
    sure = intervals(judged.labels, judged.predicted, len(classes))
    per_class = {}
    for i, name in enumerate(classes):
        row = scores["per_class"][name]
        if not row["support"]:
            row = {**dict.fromkeys(("precision", "recall", "f1")), "support": 0}
        per_class[name] = {
            **row,
            "f1_ci95": sure["f1_ci95"][i],
            "auc": roc[name]["auc"] if roc[name] else None,
            "average_precision": pr[name]["ap"] if pr[name] else None,
        }
    kept = ("n", "accuracy", "macro_f1", "classes", "confusion", "fingerprint", "tta")
    return {
        "split": judged.split,
        **{key: scores[key] for key in kept},
        "accuracy_ci95": sure["accuracy_ci95"],
        "macro_f1_ci95": sure["macro_f1_ci95"],
        "per_class": per_class,
        "roc_auc_macro": curves.macro_auc(roc),
        **calibration_numbers(judged),
        **{key: scores[key] for key in ("by_labels", "shared", "skipped") if key in scores},
        **({"mapping": judged.mapping} if judged.mapping else {}),
        "protocol": protocol(judged),
    }


def draw(
    judged: EvaluationResult,
    report: dict[str, Any],
    roc: dict[str, Any],
    pr: dict[str, Any],
    folder: Path,
    history: Path | None,
) -> dict[str, dict[str, bytes]]:
    """Draw every figure in both styles; the light ones are left in ``folder`` as PNG."""
    logits, labels, classes = judged.logits, judged.labels, judged.classes
    temperature = report["temperature"]
    calibrated = calibration.reliability(logits, labels, temperature) if temperature else None
    wanted = {
        "confusion_counts": lambda s: figures.confusion(report["confusion"], classes, s, False),
        "confusion_normalized": lambda s: figures.confusion(report["confusion"], classes, s, True),
        "roc": partial(figures.roc, roc),
        "precision_recall": partial(figures.precision_recall, pr),
        "reliability": lambda s: figures.reliability(
            calibration.reliability(logits, labels),
            calibrated,
            s,
            report["ece"],
            report["ece_calibrated"],
        ),
        "confidence": lambda s: figures.confidence(
            judged.probabilities.max(1), judged.predicted == labels, s
        ),
        "coverage": partial(figures.coverage, report["coverage"]),
        "per_class": partial(figures.per_class, report["per_class"]),
    }
    if report.get("robustness"):
        wanted["robustness"] = partial(figures.robustness, report["robustness"])
    if history is not None:
        wanted["curves"] = partial(figures.curves, history)
    return {name: both(function, folder, name) for name, function in wanted.items()}


def maps(
    judged: EvaluationResult, rows: list[examples.ClassExamples]
) -> tuple[dict[int, np.ndarray], str]:
    """Explain the samples of ``rows``: what spoke for the class that was predicted.

    Returns:
        Index of a prediction -> image under its map; and how the maps were made.
    """
    chosen = [e.i for row in rows for e in (*row.right, *row.wrong)]
    images = np.stack([judged.image(i) for i in chosen])
    targets = judged.predicted[chosen]
    net = judged.net
    if isinstance(net, Ensemble):
        heats = [
            explain(member, images, np.asarray(order)[targets], judged.device)
            for member, order in zip(net.members, net.orders, strict=True)
        ]
        heat = np.average(heats, axis=0, weights=net.weights.tolist())
        how = f"{method_name(net.members[0])}, mean of the members by their weight"
    else:
        heat, how = explain(net, images, targets, judged.device), method_name(net)
    overlays = {i: overlay(images[at], heat[at]) for at, i in enumerate(chosen)}
    return overlays, how


def make_report(
    judged: EvaluationResult,
    run_dir: Path,
    options: dict[str, Any],
    facts: dict[str, Any],
    data_cfg: dict[str, Any],
    history: Path | None = None,
) -> dict[str, Any]:
    """Write ``report.json``, ``report.html``, the PNGs and ``mistakes/``.

    Args:
        judged: The predictions.
        run_dir: The run folder.
        options: ``mistakes`` (shown and written), ``explain`` (samples of each class right and
            wrong, 0 for none), ``robustness`` (images, 0 to leave it out).
        facts: What else the report says: checkpoint, commit, hardware, versions, command, ...
        data_cfg: The data that the checkpoint was trained on.
        history: The run's ``history.csv``, for the learning curves.

    Returns:
        The content of ``report.json``.

    Raises:
        UserError: For broken predictions, or a folder that holds a report.
    """
    probabilities = calibration.probabilities(judged.logits)
    roc = curves.roc(probabilities, judged.labels, judged.classes)
    pr = curves.precision_recall(probabilities, judged.labels, judged.classes)
    report = {**numbers(judged, roc, pr), **facts}
    votes = agreement(judged)
    if votes:
        report["votes"] = votes
    report["without_duplicates"] = without_duplicates(judged, data_cfg)
    if options["num_robustness"]:
        report["robustness"] = robustness(judged, options["num_robustness"], judged.device)
    images = draw(judged, report, roc, pr, run_dir, history)
    wrong = int((judged.predicted != judged.labels).sum())
    page: dict[str, Any] = {
        **report,
        "figures": images,
        "mistakes": examples.worst_mistakes(judged, options["num_mistakes"]),
        "mistakes_total": wrong,
        "pairs": examples.confused_pairs(judged),
        "files": {
            "report.json": "the numbers of this page",
            "predictions.csv": "every prediction with its probabilities",
            "mistakes/index.csv": "misclassified images, beside it as PNG",
        },
    }
    if options["num_explained"]:
        rows = examples.class_examples(judged, options["num_explained"])
        overlays, how = maps(judged, rows)
        page |= {"explained": examples.with_overlays(rows, overlays), "explained_by": how}
    examples.write_mistakes(judged, run_dir / "mistakes", MISTAKE_FILES)
    write_json(run_dir / "report.json", report)
    write_page(run_dir, page)
    return report
