"""From checkpoints back to the network, asking nobody for anything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core.errors import UserError
from emotion_lab.models.base import EmotionNet, build_model
from emotion_lab.models.ensemble import Ensemble

#: Where the network lies inside the LightningModule.
PREFIX = "model."


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint, read once.

    Attributes:
        path: The file.
        net: Float32, on the CPU, in eval mode.
        card: What the checkpoint says of itself.
    """

    path: Path
    net: EmotionNet | Ensemble
    card: dict[str, Any]


def _network(path: Path, state: dict[str, Tensor] | None, card: dict[str, Any]) -> EmotionNet:
    """Build the network of a card and fill in its weights.

    Raises:
        UserError: If something is missing, or the weights do not fit.
    """
    missing = {"config", "classes", "input"} - set(card)
    if missing or state is None:
        lacks = ", ".join(sorted(missing)) or "its weights"
        raise UserError(f"{path} is damaged: it lacks {lacks}.")
    # The weights are in the file: nothing is fetched, and no foreign file is needed any more.
    model = {**card["config"]["model"], "pretrained": False, "weights": None}
    model |= {key: card["input"][key] for key in ("image_size", "channels", "mean", "std")}
    net, _ = build_model(model, len(card["classes"]))
    own = {k[len(PREFIX) :]: value for k, value in state.items() if k.startswith(PREFIX)}
    try:
        net.load_state_dict(own, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: its weights do not fit its own network ({reason})") from None
    return net.eval()


def _order(of: dict[str, Any], classes: Sequence[str]) -> list[int]:
    """Return where each of ``classes`` stands in the output of a card's network."""
    return [of["classes"].index(name) for name in classes]


def _ensemble(path: Path, content: dict[str, Any]) -> Ensemble:
    """Rebuild the members of an ensemble's own file.

    Raises:
        UserError: If it is not whole.
    """
    card = content[ckpt.CARD]
    states, cards, weights = content["members"], card.get("members"), card.get("weights")
    whole = all(isinstance(part, list) and part for part in (states, cards, weights))
    whole = whole and len(states) == len(cards) == len(weights)
    whole = whole and all(isinstance(w, float) and 0 < w <= 1 for w in weights)
    if not whole or not math.isclose(sum(weights), 1, abs_tol=1e-6):
        raise UserError(f"{path} is damaged: members, cards and weights do not match.")
    members = [
        LoadedCheckpoint(path, _network(path, state, its), its)
        for state, its in zip(states, cards, strict=True)
    ]
    _same_shape(members)
    orders = [_order(its, card["classes"]) for its in cards]
    return Ensemble([m.net for m in members], orders, weights).eval()  # type: ignore[misc]


def restore(path: Path) -> tuple[EmotionNet | Ensemble, dict[str, Any]]:
    """Rebuild the network of a checkpoint, or of an ensemble's own file, in eval mode.

    Returns:
        The network (float32, CPU) and the checkpoint's card.

    Raises:
        UserError: If the file is not ours, or its weights do not fit the network it names.
    """
    content = ckpt.read(path)
    if "members" in content:
        return _ensemble(path, content), content[ckpt.CARD]
    return _network(path, content.get("state_dict"), content[ckpt.CARD]), content[ckpt.CARD]


def load(paths: Sequence[Path]) -> list[LoadedCheckpoint]:
    """Read checkpoints, each once; see :func:`restore`."""
    return [LoadedCheckpoint(path, *restore(path)) for path in paths]


def _same_shape(loaded: Sequence[LoadedCheckpoint]) -> None:
    """Refuse members of different classes or input.

    Raises:
        UserError: Naming what differs.
    """
    first = loaded[0]
    for one in loaded[1:]:
        if set(one.card["classes"]) != set(first.card["classes"]):
            raise UserError(
                f"{one.path} knows {', '.join(one.card['classes'])}, "
                f"{first.path} {', '.join(first.card['classes'])}"
                ": the members of an ensemble must have the same classes."
            )
        spec, wanted = one.net.spec, first.net.spec
        if (spec.image_size, spec.channels) != (wanted.image_size, wanted.channels):
            raise UserError(
                f"{one.path} takes {spec.image_size} px with {spec.channels} channels, "
                f"{first.path} {wanted.image_size} px with {wanted.channels}: the members of an "
                "ensemble must take the same images."
            )


def combine(
    loaded: Sequence[LoadedCheckpoint], weights: Sequence[float] | None = None
) -> tuple[EmotionNet | Ensemble, dict[str, Any]]:
    """Make one network of one or several checkpoints.

    Args:
        loaded: Checkpoints; the members of an ensemble's own file count as one with its weight.
        weights: Shares of the checkpoints; None weighs all the same.

    Returns:
        The network and the first checkpoint's card; with several, ``members`` in it lists the
        cards of all and ``weights`` their shares, and the temperature is 1, for nothing was fitted
        to the average.

    Raises:
        UserError: For members of different classes or input.
    """
    first = loaded[0]
    if len(loaded) == 1:
        return first.net, first.card
    _same_shape(loaded)
    classes = first.card["classes"]
    nets: list[EmotionNet] = []
    orders, shares, cards = [], [], []
    given = [1 / len(loaded)] * len(loaded) if weights is None else list(weights)
    for one, share in zip(loaded, given, strict=True):
        order = _order(one.card, classes)
        if isinstance(one.net, Ensemble):
            nets += list(one.net.members)  # type: ignore[arg-type]
            orders += [[inner[i] for i in order] for inner in one.net.orders]
            shares += [share * inner for inner in one.net.weights.tolist()]
            cards += one.card["members"]
        else:
            nets.append(one.net)
            orders.append(order)
            shares.append(share)
            cards.append(one.card)
    own = {k: v for k, v in first.card.items() if k not in ("calibration", "ensemble")}
    together = Ensemble(nets, orders, shares).eval()
    return together, {**own, "temperature": 1.0, "members": cards, "weights": shares}


def restore_all(
    paths: Sequence[Path], weights: Sequence[float] | None = None
) -> tuple[EmotionNet | Ensemble, dict[str, Any]]:
    """Rebuild one network, or several as an ensemble, in eval mode; see :func:`combine`.

    Raises:
        UserError: For a bad checkpoint, or members of different classes or input.
    """
    return combine(load(paths), weights)
