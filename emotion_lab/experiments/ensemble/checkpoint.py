"""Build an ensemble: select members, summarise, and write ``ensemble.ckpt``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.core.tables import TextTable
from emotion_lab.evaluation.statistics import intervals
from emotion_lab.experiments.ensemble.candidates import EnsembleCandidates
from emotion_lab.experiments.ensemble.selection import (
    SelectionStep,
    counts,
    greedy,
    mix,
    nested,
    nll,
    score,
)


@dataclass(frozen=True)
class EnsembleSelection:
    """Selected members and their weights.

    Attributes:
        method: ``val`` (greedy selection) or ``all``.
        max_members: Maximum number of members for ``val``.
        weights: Float64 (M,), summing to 1; 0 for candidates that are not selected.
        steps: Steps of the greedy selection; empty for ``all``.
        nested: Result of ``selection.nested``; empty if not requested.
    """

    method: str
    max_members: int
    weights: np.ndarray
    steps: list[SelectionStep]
    nested: list[dict[str, Any]]


def select(
    candidates: EnsembleCandidates, method: str, max_members: int, num_splits: int
) -> EnsembleSelection:
    """Select the members.

    Args:
        method: ``val`` selects greedily on val, ``all`` takes all with equal weights.
        num_splits: Halvings of val to estimate the score of the selection; 0 for no estimate.
    """
    n_candidates = len(candidates.runs)
    if method == "all":
        weights = np.full(n_candidates, 1 / n_candidates)
        return EnsembleSelection(method, n_candidates, weights, [], [])
    arguments = (candidates.probabilities, candidates.labels, candidates.metric, max_members)
    steps = greedy(*arguments)
    weights = counts(steps, n_candidates) / len(steps)
    groups = candidates.groups
    if num_splits and groups is not None and len(set(groups)) < 2:
        raise UserError(
            "num_splits= halves val by data.group, and val has one group: set num_splits=0."
        )
    rows = nested(*arguments, num_splits, groups) if num_splits else []
    return EnsembleSelection(method, max_members, weights, steps, rows)


def _scores(mixed: np.ndarray, candidates: EnsembleCandidates) -> dict[str, Any]:
    """Return accuracy and macro F1 with intervals, NLL and the selection metric on val."""
    arguments = (candidates.labels, mixed.argmax(-1), len(candidates.classes))
    values = intervals(*arguments, groups=candidates.groups)
    value = float(score(mixed[None], candidates.labels, candidates.metric)[0])
    keys = ("accuracy", "accuracy_ci95", "macro_f1", "macro_f1_ci95")
    return {
        **{key: values[key] for key in keys},
        "loss": float(nll(mixed, candidates.labels)),
        "score": -value if candidates.metric == "loss" else value,
    }


def _warnings(
    candidates: EnsembleCandidates,
    selection: EnsembleSelection,
    selected: dict[str, Any],
    equal: dict[str, Any],
) -> list[str]:
    """Return warnings on selection bias, from the val scores of the selected and of all runs."""
    lines = ["val selected the best epoch of every member: all scores here are optimistic"]
    if selection.method == "all":
        return lines
    estimate = "" if selection.nested else "; set num_splits=10 for an unbiased estimate"
    lines.insert(
        0,
        f"val selected the members too: {selected['score']:.4f} on val is optimistic for the "
        f"ensemble{estimate}",
    )
    if selection.nested and len(selection.steps) > 1:
        # The last row repeats the whole procedure; the size of an earlier one was selected on val.
        last = selection.nested[-1]
        if last["better"] <= 0.5:
            lines.append(
                "on images that were not used for the selection, the ensemble is better than the "
                f"best single run in only {last['better']:.0%} of the repetitions: use the single "
                "run, or selection=all"
            )
        sign = -1 if candidates.metric == "loss" else 1
        if sign * equal["score"] >= sign * last["score"]:
            lines.append(
                f"all runs with equal weights score {equal['score']:.4f} without selection, which "
                f"is not worse than the estimate for this selection, {last['score']:.4f}: use "
                "selection=all"
            )
    if len(selection.steps) == 1:
        lines.append(
            "no average of two runs is better on val than "
            f"{candidates.names[selection.steps[0].member]} alone: the ensemble is this run"
        )
    return lines


def summary(candidates: EnsembleCandidates, selection: EnsembleSelection) -> dict[str, Any]:
    """Return the content of ``ensemble.json``, builtins only.

    ``members`` (every candidate with its ``count``, ``weight`` and scores on val), ``steps``,
    ``val`` (scores of the ensemble with intervals), ``best_single``, ``all_equal``, ``nested``,
    ``warnings``.
    """
    probabilities, metric = candidates.probabilities, candidates.metric
    n_runs = len(candidates.runs)
    n_selected = counts(selection.steps, n_runs) if selection.steps else np.ones(n_runs, int)
    members = [
        {
            "run": str(run.folder),
            "name": candidates.names[i],
            "model": run.config["model"]["name"],
            "seed": run.seed,
            "count": int(n_selected[i]),
            "weight": float(selection.weights[i]),
            **_scores(probabilities[i], candidates),
        }
        for i, run in enumerate(candidates.runs)
    ]
    best = (min if metric == "loss" else max)(members, key=lambda row: row["score"])
    selected = _scores(mix(probabilities, selection.weights), candidates)
    equal = _scores(mix(probabilities, np.ones(n_runs)), candidates)
    return {
        "choose": selection.method,
        "metric": metric,
        "size": len(selection.steps) or n_runs,
        "size_limit": selection.max_members,
        "n": len(candidates.labels),
        "groups": None if candidates.groups is None else len(set(candidates.groups)),
        "classes": candidates.classes,
        "fingerprint": candidates.fingerprint,
        "members": members,
        "steps": [
            {
                "size": i + 1,
                "added": candidates.names[step.member],
                "score": -step.score if metric == "loss" else step.score,
                "loss": step.nll,
            }
            for i, step in enumerate(selection.steps)
        ],
        "val": selected,
        "best_single": best["name"],
        "all_equal": equal,
        "nested": selection.nested,
        "notes": candidates.notes,
        "warnings": _warnings(candidates, selection, selected, equal),
    }


def _calibration(
    candidates: EnsembleCandidates, selection: EnsembleSelection, classes: list[str]
) -> dict[str, Any]:
    """Fit the temperature of the ensemble on val."""
    # torch is slow to import, and the functions above do not need it.
    from emotion_lab.evaluation.temperature import fit_calibration

    order = [candidates.classes.index(name) for name in classes]
    mixed = mix(candidates.probabilities, selection.weights)[:, order]
    logits = np.log(np.maximum(mixed, 1e-12))
    labels = np.argsort(order)[candidates.labels]
    return fit_calibration(logits, labels, candidates.fingerprint["hash"])


def write_checkpoint(
    candidates: EnsembleCandidates,
    selection: EnsembleSelection,
    content: dict[str, Any],
    path: Path,
) -> dict[str, Any]:
    """Write the ensemble as one checkpoint file.

    Returns:
        The keys of :func:`~emotion_lab.evaluation.temperature.fit_calibration`, ``parameters`` and
        ``bytes``.
    """
    from emotion_lab.core import checkpoint as ckpt
    from emotion_lab.models.ensemble import Ensemble
    from emotion_lab.models.finetune import count_parameters
    from emotion_lab.models.load import PREFIX, combine, load
    from emotion_lab.models.quantities_head import state_of

    selected = np.flatnonzero(selection.weights > 0)
    weights = selection.weights[selected].tolist()
    # Loading and combining reports damaged files and incompatible members before writing.
    checkpoints = load([candidates.checkpoints[i] for i in selected])
    net, card = combine(checkpoints, weights)
    margins = {checkpoint.card["input"]["crop_margin"] for checkpoint in checkpoints}
    if len(margins) > 1:
        raise UserError(
            f"the members were trained with different values of data.crop_margin "
            f"({', '.join(map(str, sorted(margins)))}), so live cannot crop faces for all of them."
        )
    calibration = _calibration(candidates, selection, card["classes"])
    card = {
        **card,
        "format": ckpt.ENSEMBLE_FORMAT,
        "temperature": calibration["temperature"],
        "calibration": calibration,
        "members": [checkpoint.card for checkpoint in checkpoints],
        "weights": weights,
        "ensemble": {
            "choose": selection.method,
            "metric": content["metric"],
            "size": content["size"],
            "hash": candidates.fingerprint["hash"],
            "score": content["val"]["score"],
            "nested": selection.nested[-1]["score"] if selection.nested else None,
        },
    }
    states = []
    for checkpoint in checkpoints:
        state = {f"{PREFIX}{key}": value for key, value in checkpoint.net.state_dict().items()}
        assert not isinstance(checkpoint.net, Ensemble)  # the candidates are runs
        states.append(state | state_of(checkpoint.net))
    ckpt.write(path, {"members": states, ckpt.CARD: card})
    return {**calibration, "parameters": count_parameters(net)[1], "bytes": path.stat().st_size}


def lines(content: dict[str, Any], num_splits: int) -> list[str | TextTable]:
    """Return the printed summary."""
    title = content["metric"].replace("_", " ").replace("f1", "F1")

    def row(name: str, weight: str, scores: dict[str, Any]) -> list[str]:
        return [name, weight, *(f"{scores[key]:.4f}" for key in ("accuracy", "macro_f1", "loss"))]

    ranked = sorted(content["members"], key=lambda member: -member["weight"])
    rows = [
        row(member["name"], f"{member['weight']:.3f}" if member["weight"] else "-", member)
        for member in ranked
    ]
    rows += [[], row("ensemble", f"of {content['size']}", content["val"])]
    if content["choose"] == "val":
        rows.append(row("all, equal weights", f"of {len(ranked)}", content["all_equal"]))
    text: list[str | TextTable] = [
        TextTable(["run", "weight", "accuracy", "macro F1", "NLL"], rows)
    ]
    text += [
        f"  step {step['size']}: + {step['added']}, {title} {step['score']:.4f}"
        for step in content["steps"]
    ]
    if content["nested"]:
        single, last = content["nested"][0], content["nested"][-1]
        half = "half of val" if content["groups"] is None else f"half of {content['groups']} groups"
        text.append(
            f"selection on one {half}, scores on the other, {num_splits} random splits: "
            f"{title} {last['score']:.4f}, best single run {single['score']:.4f}"
        )
    text += [f"  note: {note}" for note in content["notes"]]
    return [*text, *(f"  warning: {warning}" for warning in content["warnings"])]
