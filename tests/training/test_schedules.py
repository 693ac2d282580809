"""Learning-rate schedules: parameter groups keep the ratios of their rates (model.layer_decay)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau

from emotion_lab.config.compose import defaults
from emotion_lab.core.errors import UserError
from emotion_lab.training.optim import RelativeCosineAnnealingLR, build_schedule

STEPS, EPOCHS = 5, 8
DECAYED = (0.25, 0.5, 1.0)
SCHEDULES: list[tuple[str, dict[str, Any]]] = [
    ("cosine", {"min_lr": 1e-3}),
    ("cosine", {"min_lr": 1e-3, "warmup_epochs": 0.0}),
    ("cosine", {"min_lr": 5e-3}),  # above the first rate of the first group
    ("cosine", {"min_lr": 0.0}),
    ("plateau", {"min_lr": 5e-3, "patience": 0}),
    ("onecycle", {}),
    ("step", {"step_size": 2}),
    ("none", {}),
]


def make(name: str, changes: dict[str, Any], shares: tuple[float, ...]) -> tuple[Any, Any]:
    """Return an optimiser with the rates 0.01 x ``shares`` and its schedule."""
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.01 * s} for s in shares]
    optimizer = torch.optim.SGD(groups)
    cfg = {**defaults("schedule", name), **changes}
    return optimizer, build_schedule(cfg, optimizer, STEPS, EPOCHS)


def train(optimizer: Any, schedule: Any, steps: int) -> list[list[float]]:
    """Return the rates of the groups in each of ``steps`` steps; no metric improves."""
    rates = []
    for _ in range(steps):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        if isinstance(schedule, ReduceLROnPlateau):
            schedule.step(1.0)
        elif schedule is not None:
            schedule.step()
    return rates


@pytest.mark.filterwarnings("ignore:.*epoch parameter.*")
@pytest.mark.parametrize(("name", "changes"), SCHEDULES)
def test_groups_keep_their_relative_rates(name: str, changes: dict[str, Any]) -> None:
    """The last group has the rates of a run with one group, to the end; the others their share."""
    rates = train(*make(name, changes, DECAYED), STEPS * EPOCHS)
    alone = train(*make(name, changes, (1.0,)), STEPS * EPOCHS)
    for step, (row, (rate,)) in enumerate(zip(rates, alone, strict=True)):
        expected = [rate * share for share in DECAYED]
        assert row == pytest.approx(expected, rel=1e-6, abs=1e-15), step
    first = [row[0] for row in rates]
    if name == "cosine":
        assert first == sorted(first[:STEPS]) + sorted(first[STEPS:], reverse=True) or (
            changes.get("warmup_epochs") == 0 and first == sorted(first, reverse=True)
        )


@pytest.mark.filterwarnings("ignore:.*epoch parameter.*")
def test_resumed_cosine_of_groups() -> None:
    whole = train(*make("cosine", {"min_lr": 1e-3}, DECAYED), STEPS * EPOCHS)
    optimizer, schedule = make("cosine", {"min_lr": 1e-3}, DECAYED)
    train(optimizer, schedule, 17)
    again, resumed = make("cosine", {"min_lr": 1e-3}, DECAYED)
    resumed.load_state_dict(schedule.state_dict())
    again.load_state_dict(optimizer.state_dict())
    assert train(again, resumed, STEPS * EPOCHS - 17) == whole[17:]


def test_equal_rates_use_the_schedule_of_torch() -> None:
    """Runs without layer decay are reproduced to the last digit."""
    for shares in ((1.0,), (1.0, 1.0)):
        schedule = make("cosine", {"warmup_epochs": 0.0}, shares)[1]
        assert type(schedule) is CosineAnnealingLR
    schedule = make("cosine", {"warmup_epochs": 0.0}, DECAYED)[1]
    assert type(schedule) is RelativeCosineAnnealingLR


def test_minimum_above_the_learning_rate() -> None:
    with pytest.raises(UserError, match=r"schedule.min_lr=0.02 is above optim.lr=0.01"):
        make("cosine", {"min_lr": 0.02}, DECAYED)
