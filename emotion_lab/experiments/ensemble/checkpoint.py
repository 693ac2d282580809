"""From chosen members to ``ensemble.ckpt``, ``ensemble.json``, a picture and lines to read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.core.errors import UserError
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
    """Who takes part.

    Attributes:
        how: ``val`` or ``all``.
        size: Members at most, for ``val``.
        weights: Shares, float64 (M,), summing to 1; 0 for who does not take part.
        steps: Of the selection; empty for ``all``.
        nested: Result of ``selection.nested``; empty if not requested.
    """

    how: str
    size: int
    weights: np.ndarray
    steps: list[SelectionStep]
    nested: list[dict[str, Any]]


def choose(candidates: EnsembleCandidates, how: str, size: int, repeats: int) -> EnsembleSelection:
    """Choose the members.

    Args:
        candidates: Who there is.
        how: ``val`` chooses greedily, ``all`` takes all with the same weight.
        size: Members at most, for ``val``.
        repeats: Halvings of val that estimate what the choice is worth; 0 leaves that out.
    """
    many = len(candidates.runs)
    if how == "all":
        return EnsembleSelection(how, many, np.full(many, 1 / many), [], [])
    given, labels, metric = candidates.given, candidates.labels, candidates.metric
    steps = greedy(given, labels, metric, size)
    weights = counts(steps, many) / len(steps)
    rows = nested(given, labels, metric, size, repeats) if repeats else []
    return EnsembleSelection(how, size, weights, steps, rows)


def _scores(mixed: np.ndarray, candidates: EnsembleCandidates) -> dict[str, Any]:
    """Return accuracy and macro F1 with intervals, NLL and the metric that chooses, of val."""
    found = intervals(candidates.labels, mixed.argmax(-1), len(candidates.classes))
    value = float(score(mixed[None], candidates.labels, candidates.metric)[0])
    kept = ("accuracy", "accuracy_ci95", "macro_f1", "macro_f1_ci95")
    return {
        **{key: found[key] for key in kept},
        "loss": float(nll(mixed, candidates.labels)),
        "score": -value if candidates.metric == "loss" else value,
    }


def _warnings(
    candidates: EnsembleCandidates,
    choice: EnsembleSelection,
    chosen: dict[str, Any],
    equal: dict[str, Any],
) -> list[str]:
    """Return what a reader of the scores has to know."""
    lines = ["val chose the epoch of every member: all scores here are a little too good"]
    if choice.how == "all":
        return lines
    lines.insert(
        0, f"val chose the members too: {chosen['score']:.4f} on val is too good for the ensemble"
    )
    if not choice.nested:
        lines[0] += "; set num_splits=10 for an estimate"
    elif len(choice.steps) > 1:
        # The last row repeats the whole procedure; an earlier one would owe its size to val.
        last = choice.nested[-1]
        if last["better"] <= 0.5:
            lines.append(
                "on images that had no part in the choice, the ensemble beats the best single run "
                f"in {last['better']:.0%} of the repeats only: take the single run, or selection=all"
            )
        sign = -1 if candidates.metric == "loss" else 1
        if sign * equal["score"] >= sign * last["score"]:
            lines.append(
                f"all runs alike score {equal['score']:.4f} without any choice, no less than the "
                f"{last['score']:.4f} that this choice is worth: take selection=all"
            )
    if len(choice.steps) == 1:
        lines.append(
            f"no average of two is better on val than {candidates.names[choice.steps[0].member]} "
            "alone: the ensemble is this run"
        )
    return lines


def summary(candidates: EnsembleCandidates, choice: EnsembleSelection) -> dict[str, Any]:
    """Return the content of ``ensemble.json``, builtins only.

    ``members`` (every candidate with its ``count``, ``weight`` and scores on val), ``steps``,
    ``val`` (the ensemble's own scores with intervals), ``best_single``, ``all_equal``, ``nested``,
    ``warnings``.
    """
    given, metric = candidates.given, candidates.metric
    often = counts(choice.steps, len(given)) if choice.steps else np.ones(len(given), int)
    members = []
    for i, run in enumerate(candidates.runs):
        about = {
            "run": str(run.folder),
            "name": candidates.names[i],
            "model": run.config["model"]["name"],
            "seed": run.seed,
            "count": int(often[i]),
            "weight": float(choice.weights[i]),
        }
        members.append({**about, **_scores(given[i], candidates)})
    better = min if metric == "loss" else max
    chosen = _scores(mix(given, choice.weights), candidates)
    equal = _scores(mix(given, np.ones(len(given))), candidates)
    return {
        "choose": choice.how,
        "metric": metric,
        "size": len(choice.steps) or len(given),
        "size_limit": choice.size,
        "n": len(candidates.labels),
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
            for i, step in enumerate(choice.steps)
        ],
        "val": chosen,
        "best_single": better(members, key=lambda row: row["score"])["name"],
        "all_equal": equal,
        "nested": choice.nested,
        "notes": candidates.notes,
        "warnings": _warnings(candidates, choice, chosen, equal),
    }


def write_checkpoint(
    candidates: EnsembleCandidates, choice: EnsembleSelection, found: dict[str, Any], path: Path
) -> dict[str, Any]:
    """Write the one file that every later command takes as a checkpoint.

    Args:
        candidates: Who there is.
        choice: Who takes part.
        found: See :func:`summary`; kept in short in the card.
        path: The file.

    Returns:
        ``temperature``, ``nll``, ``nll_calibrated`` (fitted on val), ``parameters`` and ``bytes``.

    Raises:
        UserError: If a checkpoint is damaged, the members do not take the same images, or the file
            cannot be written.
    """
    # torch is slow to import, and nothing above needs it.
    from emotion_lab.core import checkpoint as ckpt
    from emotion_lab.evaluation.calibration import fit_temperature
    from emotion_lab.evaluation.calibration import nll as nll_at
    from emotion_lab.models.finetune import count_parameters
    from emotion_lab.models.load import PREFIX, combine, load

    taken = [i for i, weight in enumerate(choice.weights) if weight > 0]
    files = [candidates.checkpoints[i] for i in taken]
    weights = [float(choice.weights[i]) for i in taken]
    # Built once, so that a damaged file or an odd member is told now and not at first use.
    loaded = load(files)
    net, card = combine(loaded, weights)
    margins = {one.card["input"]["crop_margin"] for one in loaded}
    if len(margins) > 1:
        raise UserError(
            f"the members were trained with different data.crop_margin "
            f"({', '.join(map(str, sorted(margins)))}): live could not cut faces for both."
        )
    mixed = mix(candidates.given, choice.weights)
    # In the order of the classes that the file has.
    order = [candidates.classes.index(name) for name in card["classes"]]
    place = np.argsort(order)
    logits = np.log(np.maximum(mixed[:, order], 1e-12))
    labels = place[candidates.labels]
    temperature = fit_temperature(logits, labels)
    calibration = {
        "temperature": temperature,
        "split": "val",
        "n": len(labels),
        "hash": candidates.fingerprint["hash"],
        "nll": nll_at(logits, labels),
        "nll_calibrated": nll_at(logits, labels, temperature),
    }
    last = choice.nested[-1] if choice.nested else None
    how = {
        "choose": choice.how,
        "metric": found["metric"],
        "size": found["size"],
        "hash": candidates.fingerprint["hash"],
        "score": found["val"]["score"],
        "nested": last["score"] if last else None,
    }
    states = [
        {f"{PREFIX}{key}": value for key, value in one.net.state_dict().items()} for one in loaded
    ]
    card = {
        **card,
        "format": ckpt.ENSEMBLE_FORMAT,
        "temperature": temperature,
        "calibration": calibration,
        "members": [one.card for one in loaded],
        "weights": weights,
        "ensemble": how,
    }
    ckpt.write(path, {"members": states, ckpt.CARD: card})
    kept = ("temperature", "nll", "nll_calibrated")
    return {
        **{key: calibration[key] for key in kept},
        "parameters": count_parameters(net)[1],
        "bytes": path.stat().st_size,
    }


def lines(found: dict[str, Any], nested_times: int) -> list[str]:
    """Return :func:`summary` as lines for the terminal.

    Args:
        found: The summary.
        nested_times: How often val was halved.
    """
    width = max(8, *(len(row["name"]) for row in found["members"]))
    title = found["metric"].replace("_", " ").replace("f1", "F1")
    head = f"{'run':<{width}}  {'weight':>6}  {'accuracy':>8}  {'macro F1':>8}  {'NLL':>8}"
    shown = [head]

    def row(name: str, weight: str, scores: dict[str, Any]) -> str:
        return (
            f"{name:<{width}}  {weight:>6}  {scores['accuracy']:>8.4f}  "
            f"{scores['macro_f1']:>8.4f}  {scores['loss']:>8.4f}"
        )

    ranked = sorted(found["members"], key=lambda one: -one["weight"])
    shown += [
        row(one["name"], f"{one['weight']:.3f}" if one["weight"] else "-", one) for one in ranked
    ]
    shown += ["", row("ensemble", f"of {found['size']}", found["val"])]
    if found["choose"] == "val":
        shown.append(row("all alike", f"of {len(ranked)}", found["all_equal"]))
        for step in found["steps"]:
            shown.append(f"  {step['size']}: + {step['added']}, {title} {step['score']:.4f}")
    if found["nested"]:
        single, last = found["nested"][0], found["nested"][-1]
        shown.append(
            f"one half of val chose, the other was scored, {nested_times} times both ways: "
            f"{title} {last['score']:.4f}, best single run {single['score']:.4f}"
        )
    shown += [f"  {note}" for note in found["notes"]]
    shown += [f"  warning: {warning}" for warning in found["warnings"]]
    return shown
