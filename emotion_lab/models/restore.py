"""From a checkpoint back to the network, asking nobody for anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from emotion_lab import checkpoint as ckpt
from emotion_lab.errors import UserError
from emotion_lab.models.base import EmotionNet, build_model

#: Where the network lies inside the LightningModule.
PREFIX = "model."


def restore(path: Path) -> tuple[EmotionNet, dict[str, Any]]:
    """Rebuild the network of a checkpoint, in eval mode.

    Returns:
        The network (float32, CPU) and the checkpoint's card.

    Raises:
        UserError: If the file is not ours, or its weights do not fit the network it names.
    """
    content = ckpt.read(path)
    card = content[ckpt.CARD]
    missing = {"config", "classes", "input"} - set(card)
    if missing or "state_dict" not in content:
        lacks = ", ".join(sorted(missing)) or "its weights"
        raise UserError(f"{path} is damaged: it lacks {lacks}.")
    # The weights are in the file: nothing is fetched, and no foreign file is needed any more.
    model = {**card["config"]["model"], "pretrained": False, "weights": None}
    model |= {key: card["input"][key] for key in ("image_size", "channels", "mean", "std")}
    net, _ = build_model(model, len(card["classes"]))
    state = {
        key[len(PREFIX) :]: value
        for key, value in content["state_dict"].items()
        if key.startswith(PREFIX)
    }
    try:
        net.load_state_dict(state, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: its weights do not fit its own network ({reason})") from None
    return net.eval(), card
