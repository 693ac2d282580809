"""Fused optimisers agree with the others, for every memory format."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from emotion_lab.core import checkpoint as ckpt
from emotion_lab.models.base import MODELS, build_model
from emotion_lab.training.fit import fit
from emotion_lab.training.optim import build_optimizer, match_memory_format, supports_fused
from tests.conftest import composed
from tests.training.conftest import Tiny

OPTIMS = ("adam", "adamw", "sgd")
SMALL = {
    "vit": ("model.image_size=32",),
    "timm": ("model.backbone=resnet10t",),
    "torchvision": ("model.backbone=mobilenet_v2", "model.image_size=32"),
}


def test_supports_fused() -> None:
    cfg = composed("optim=adamw")
    clipped = composed("optim=adamw", "trainer.gradient_clip_val=1")
    late = composed("optim=sgd", "model.freeze=backbone", "model.unfreeze_at_epoch=1")
    for options, device, precision, sharded, expected in (
        (cfg, "cpu", "bf16-mixed", False, True),
        (cfg, "cuda:0", "32-true", False, True),
        (cfg, "cuda:0", "16-mixed", False, False),
        (cfg, "cpu", "32-true", True, False),
        (cfg, "mps", "32-true", False, False),
        (clipped, "cpu", "32-true", False, True),
        (clipped, "cpu", "bf16-mixed", False, False),
        (late, "cpu", "32-true", False, False),
    ):
        assert supports_fused(options, torch.device(device), precision, sharded) == expected


@pytest.mark.parametrize("optim", OPTIMS)
@pytest.mark.parametrize(
    "more",
    [("trainer.gradient_clip_val=1",), ("model.freeze=backbone", "model.unfreeze_at_epoch=1")],
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_fused_optimisers_train_with_all_options(
    tiny: Tiny, tmp_path: Path, optim: str, more: tuple[str, ...], precision: str
) -> None:
    cfg = tiny(f"optim={optim}", f"trainer.precision={precision}", "data.n=40", *more)
    assert len(fit(cfg, tmp_path).history.rows) == 2


def steps(optim: str, fused: bool, contiguous: bool = False) -> torch.Tensor:
    """Return a channels_last weight after three steps; its states may become contiguous."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(8, 4, 3, 3).to(memory_format=torch.channels_last))
    cfg = {"name": optim, "lr": 0.1, "momentum": 0.9}
    optimizer = build_optimizer(cfg, [{"params": [weight]}], fused)
    for number in range(3):
        weight.grad = torch.randn(8, 4, 3, 3).to(memory_format=torch.channels_last)
        if number == 1 and contiguous:
            state = optimizer.state[weight]
            for name, value in state.items():
                state[name] = value.contiguous() if value.ndim == 4 else value
            match_memory_format(optimizer)
        optimizer.step()
    return weight.detach()


@pytest.mark.parametrize("contiguous", [False, True])
@pytest.mark.parametrize("optim", OPTIMS)
def test_states_are_converted_to_the_memory_format_of_their_parameters(
    optim: str, contiguous: bool
) -> None:
    torch.testing.assert_close(steps(optim, True, contiguous), steps(optim, False))


@pytest.mark.parametrize("name", MODELS.names())
def test_gradients_have_the_memory_format_of_the_parameters(name: str) -> None:
    """The fused kernels require it; it holds for every network in channels_last."""
    more = SMALL.get(name, ("model.image_size=48",))
    net, spec = build_model(composed(f"model={name}", *more)["model"], 7)
    net.to(memory_format=torch.channels_last).train()
    output = net(torch.rand(2, spec.channels, spec.image_size, spec.image_size))
    parts = [output[0], *output[1]] if isinstance(output, tuple) else [output]
    sum(part.square().sum() for part in parts).backward()
    for key, parameter in net.named_parameters():
        grad = parameter.grad
        if grad is not None and grad.stride() != parameter.stride():
            # Dimensions of size 1 may have any stride: compare the order in memory.
            flat = torch.as_strided(grad, (grad.numel(),), (1,), grad.storage_offset())
            again = torch.empty_like(parameter).copy_(grad)
            other = torch.as_strided(again, (grad.numel(),), (1,))
            assert torch.equal(flat, other), key


def test_resume_from_states_in_another_memory_format(tiny: Tiny, tmp_path: Path) -> None:
    """Optimiser states that are contiguous and not fused give the same final weights."""
    cfg = tiny("optim=adamw", "optim.lr=0.01", "trainer.max_epochs=3", "schedule=none")
    run = tmp_path / "run"
    run.mkdir()
    fit({**cfg, "trainer": {**cfg["trainer"], "max_epochs": 2}}, run)
    last = run / "checkpoints" / "last.ckpt"
    content_bytes = last.read_bytes()
    weights = []
    for contiguous in (False, True):
        last.write_bytes(content_bytes)
        if contiguous:
            content = ckpt.read(last)
            for group in content["optimizer_states"][0]["param_groups"]:
                assert group["fused"] is True
                group["fused"] = None
            for state in content["optimizer_states"][0]["state"].values():
                state.update({k: v.contiguous() for k, v in state.items() if v.ndim == 4})
            ckpt.write(last, content)
        fit(cfg, run, last)
        weights.append(ckpt.read(last)["state_dict"])
    for key, value in weights[0].items():
        assert torch.equal(value, weights[1][key]), key
