"""Networks from checkpoints and from saved ensembles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core.errors import UserError
from emotion_lab.core.paths import find_checkpoint
from emotion_lab.models import quantities_head
from emotion_lab.models.base import MODELS, EmotionNet
from emotion_lab.models.ensemble import Ensemble
from emotion_lab.models.network import Network
from emotion_lab.models.temporal import build_network, with_frame_input
from emotion_lab.temporal.base import TEMPORAL, is_temporal

#: Prefix of the network in the state_dict of the LightningModule.
PREFIX = "model."


@dataclass(frozen=True)
class LoadedCheckpoint:
    """Network of a checkpoint (float32, on the CPU, in eval mode) and its metadata."""

    path: Path
    net: Network
    card: dict[str, Any]


def _build_network(path: Path, state: dict[str, Tensor] | None, card: dict[str, Any]) -> EmotionNet:
    """Build the network that a card describes and load its weights."""
    missing = {"config", "classes", "input"} - set(card)
    if missing or state is None:
        raise UserError(
            f"{path} is damaged: {', '.join(sorted(missing)) or 'the weights'} missing."
        )
    plugin, name = card.get("plugins", {}).get("model"), card["config"]["model"]["name"]
    if plugin and name not in (*MODELS.names(), *TEMPORAL.names()):
        raise UserError(
            f"{path} was trained with model={name} of the plug-in {plugin}: add plugins=[{plugin}]."
        )
    # The checkpoint contains all weights: no download or other file is needed.
    model = {**card["config"]["model"], "pretrained": False, "weights": None}
    model |= {key: card["input"][key] for key in ("image_size", "channels", "mean", "std")}
    net, _ = build_network(model, len(card["classes"]))
    weights = {k[len(PREFIX) :]: value for k, value in state.items() if k.startswith(PREFIX)}
    try:
        net.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path}: the weights do not fit the network of its config ({reason})"
        ) from None
    net.quantities = quantities_head.weights_of(state, card)
    return net.eval()


def _class_order(card: dict[str, Any], classes: Sequence[str]) -> list[int]:
    return [card["classes"].index(name) for name in classes]


def _build_ensemble(path: Path, content: dict[str, Any]) -> Ensemble:
    """Build the members of a saved ensemble and load their weights."""
    card = content[ckpt.CARD]
    states, cards, weights = content["members"], card.get("members"), card.get("weights")
    valid = all(isinstance(part, list) and part for part in (states, cards, weights))
    valid = valid and len(states) == len(cards) == len(weights)
    valid = valid and all(isinstance(w, float) and 0 < w <= 1 for w in weights)
    if not valid or not math.isclose(sum(weights), 1, abs_tol=1e-6):
        raise UserError(f"{path} is damaged: members, cards and weights do not match.")
    nets = [_build_network(path, *member) for member in zip(states, cards, strict=True)]
    _check_compatible(
        [LoadedCheckpoint(path, net, member) for net, member in zip(nets, cards, strict=True)]
    )
    orders = [_class_order(member, card["classes"]) for member in cards]
    return Ensemble(nets, orders, weights).eval()


def restore(path: Path) -> tuple[Network, dict[str, Any]]:
    """Load the network (float32, CPU, eval mode) and the card of a checkpoint or ensemble.

    A temporal model, which does not take images, is refused.
    """
    net, card = _restore(path)
    if "frame" in card:
        raise UserError(
            f"{path} is a temporal model, and a network of single images is expected: it is used "
            f"with evaluate, compare and smoothing=temporal. Its frame network: "
            f"{card['frame']['ckpt']}."
        )
    return net, card


def _restore(path: Path) -> tuple[Network, dict[str, Any]]:
    content = ckpt.read(path)
    card = content[ckpt.CARD]
    net: Network
    if "members" in content:
        net = _build_ensemble(path, content)
    else:
        net = _build_network(path, content.get("state_dict"), card)
    return net, {**card, "quantities": quantities_head.learned(net)}


def checkpoint_model(model: dict[str, Any]) -> dict[str, Any]:
    """Return the ``model`` group completed by the checkpoint that it names.

    For ``model=checkpoint`` it is the group of the checkpoint that training starts from. What the
    command sets is kept: the input, freezing and learning rate factors. A temporal model takes the
    input of its frame network. Other groups are returned unchanged.
    """
    if is_temporal(model):
        return with_frame_input(model)
    if model["name"] != "checkpoint":
        return model
    if model["weights"] is None:
        raise UserError("model=checkpoint needs model.weights=<checkpoint or run directory>.")
    path = find_checkpoint(model["weights"])
    card = ckpt.read(path)[ckpt.CARD]
    if "members" in card:
        raise UserError(f"{path} is an ensemble: set model.weights=<the checkpoint of a member>.")
    if "frame" in card:
        raise UserError(f"{path} is a temporal model, which cannot be fine-tuned: train a new one.")
    own = {**card["config"]["model"], "pretrained": False}
    own |= {key: card["input"][key] for key in ("image_size", "channels", "mean", "std")}
    chosen = {key: value for key, value in model.items() if key != "name" and value is not None}
    return {**own, **chosen, "weights": str(path)}


def load(paths: Sequence[Path]) -> list[LoadedCheckpoint]:
    """Load checkpoints, also temporal models; see :func:`restore`."""
    return [LoadedCheckpoint(path, *_restore(path)) for path in paths]


def _check_compatible(checkpoints: Sequence[LoadedCheckpoint]) -> None:
    """Refuse ensemble members with different classes or input, and temporal models."""
    first = checkpoints[0]
    for checkpoint in checkpoints:
        if "frame" in checkpoint.card:
            raise UserError(
                f"{checkpoint.path} is a temporal model, which cannot be a member of an ensemble."
            )
    for other in checkpoints[1:]:
        if set(other.card["classes"]) != set(first.card["classes"]):
            raise UserError(
                f"{other.path} has the classes {', '.join(other.card['classes'])}, "
                f"{first.path} {', '.join(first.card['classes'])}"
                ": the members of an ensemble must have the same classes."
            )
        spec, expected = other.net.spec, first.net.spec
        if (spec.image_size, spec.channels) != (expected.image_size, expected.channels):
            raise UserError(
                f"{other.path} takes {spec.image_size} px with {spec.channels} channels, "
                f"{first.path} {expected.image_size} px with {expected.channels}: the members of "
                "an ensemble must take the same images."
            )


def combine(
    checkpoints: Sequence[LoadedCheckpoint], weights: Sequence[float] | None = None
) -> tuple[Network, dict[str, Any]]:
    """Combine one or several checkpoints into one network.

    Args:
        checkpoints: Loaded checkpoints; the members of a saved ensemble share its weight.
        weights: Weight of each checkpoint; None weights all equally.

    Returns:
        The network and the card of the first checkpoint. For several checkpoints, the card
        lists ``members`` (their cards) and ``weights``, and the temperature is 1, because no
        temperature was fitted to the average.
    """
    first = checkpoints[0]
    if len(checkpoints) == 1:
        return first.net, first.card
    _check_compatible(checkpoints)
    classes = first.card["classes"]
    nets, orders, member_weights, cards = [], [], [], []
    equal = [1 / len(checkpoints)] * len(checkpoints)
    for checkpoint, weight in zip(checkpoints, equal if weights is None else weights, strict=True):
        net, order = checkpoint.net, _class_order(checkpoint.card, classes)
        if isinstance(net, Ensemble):
            nets += net.networks()
            orders += [[inner[i] for i in order] for inner in net.class_orders]
            member_weights += [weight * inner for inner in net.weights.tolist()]
            cards += checkpoint.card["members"]
        else:
            nets.append(net)
            orders.append(order)
            member_weights.append(weight)
            cards.append(checkpoint.card)
    net = Ensemble(nets, orders, member_weights).eval()
    card = {k: v for k, v in first.card.items() if k not in ("calibration", "ensemble")}
    card |= {"temperature": 1.0, "members": cards, "weights": member_weights}
    return net, {**card, "quantities": net.quantities}
