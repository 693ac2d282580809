"""Division of a network into stages and classifier head, by the names of its modules."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

#: Modules whose children are the blocks; any other child of a network is one stage.
CONTAINERS = ("features", "encoder", "encoder.layers", "layers", "blocks", "trunk_output")
NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)


def last_layer(net: nn.Module) -> str:
    """Return the name of the last layer with parameters, usually the classifier."""
    layers = [
        name for name, module in net.named_modules() if list(module.parameters(recurse=False))
    ]
    return layers[-1] if layers else ""


def named_stages(net: nn.Module, heads: Sequence[str]) -> list[list[str]]:
    """Divide a network into stages by the names and order of its children.

    A normalisation layer belongs to the stage before it, single layers before the first block
    form the stem, and layers between the last block and the head belong to the last stage.
    ``heads`` are the module prefixes of the classifier heads, which belong to no stage.

    Returns:
        Module prefixes of each stage, from input to output.
    """
    modules: list[tuple[str, nn.Module]] = []

    def walk(prefix: str, module: nn.Module) -> None:
        for name, child in module.named_children():
            path = f"{prefix}.{name}" if prefix else name
            if path in heads or next(child.parameters(), None) is None:
                continue
            contains_head = any(head.startswith(path + ".") for head in heads)
            if path in CONTAINERS or contains_head:
                walk(path, child)
            else:
                modules.append((path, child))

    walk("", net)
    stages: list[list[str]] = []
    in_stem = True
    head_parents = {head.rpartition(".")[0] for head in heads} - {""}
    for path, module in modules:
        is_layer = "." not in path and next(module.children(), None) is None
        next_to_head = any(path.startswith(parent + ".") for parent in head_parents)
        extends_stage = isinstance(module, NORMS) or next_to_head or (in_stem and is_layer)
        if stages and extends_stage:
            stages[-1].append(path)
        else:
            stages.append([path])
        in_stem = in_stem and is_layer
    return stages
