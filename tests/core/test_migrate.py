"""Runs and checkpoints of earlier versions, whose config keys had other names."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from emotion_lab.config import compose, schema
from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core import migrate, runs
from emotion_lab.experiments.leaderboard import grouping
from tests.conftest import TINY, command, composed


def old_style(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config with the keys and values of earlier versions."""
    old = {}
    for group, values in copy.deepcopy(config).items():
        names = {new: key for key, new in migrate._GROUPS.get(group, {}).items()}
        if isinstance(values, dict):
            values = {names.get(key, key): value for key, value in values.items()}
        old[{"test_ledger": "ledger", "reproduce": "replay"}.get(group, group)] = values
    old["trainer"]["precision"] = "32-true"
    return old


def test_migrate_config_is_the_inverse_of_old_style() -> None:
    config = composed("augment=device", "loss=label_smoothing", "trainer.precision=fp32")
    old = old_style(config)
    assert "ema" in old["trainer"] and "smoothing" in old["loss"] and "ledger" in old
    assert migrate.migrate_config(old) == config
    assert migrate.migrate_config(config) == config


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("trainer.clip=1", "trainer.gradient_clip_val=1"),
        ("++data.votes=a b.csv", "++data.ferplus_csv=a b.csv"),
        ("trainer.precision=bf16-mixed", "trainer.precision=bf16"),
        ("trainer.precision=32,16-mixed", "trainer.precision=fp32,fp16"),
        ("experiment=seed_senet", "experiment=repro_senet"),
        ("optim.lr=0.1", "optim.lr=0.1"),
        ("~logger", "~logger"),
    ],
)
def test_overrides(old: str, new: str) -> None:
    assert migrate.migrate_override(old) == new


def test_every_new_name_is_a_key_of_a_config() -> None:
    known = {"backend"}
    for path in compose.CONF.rglob("*.yaml"):
        group = f"{path.parent.name}." if path.parent.name in schema.GROUPS else ""
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        known |= {f"{group}{key}" for key in content}
        known |= {f"{k}.{inner}" for k, v in content.items() if isinstance(v, dict) for inner in v}
    for old, names in migrate.RENAMED.items():
        assert set(names) <= known, old
        assert old not in known or old in ("robustness", "n", "size"), old


@pytest.fixture(scope="module")
def old_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run whose files hold the keys of earlier versions."""
    run = tmp_path_factory.mktemp("old") / "run"
    completed = command(
        *(*TINY, "trainer.precision=fp32", "schedule=step"), f"hydra.run.dir={run}", cwd=run.parent
    )
    assert completed.returncode == 0, completed.stderr
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    (run / "config.yaml").write_text(yaml.safe_dump(old_style(config)), encoding="utf-8")
    for file in (run / "checkpoints").glob("*.ckpt"):
        content = torch.load(file, weights_only=True)
        content[ckpt.CARD]["config"] = old_style(content[ckpt.CARD]["config"])
        torch.save(content, file)
    return run


def test_an_old_run_is_read_and_ranked_with_a_new_one(old_run: Path) -> None:
    run = runs.read(old_run)
    assert run.config["trainer"]["precision"] == "fp32" and "ema_decay" in run.config["trainer"]
    new_run = runs.Run(Path("new"), run.config, run.metrics, None)
    configurations = grouping.group([run, new_run], None)
    assert len(configurations.groups) == 1


def test_an_old_checkpoint_is_evaluated(old_run: Path) -> None:
    completed = command(
        *(f"ckpt={old_run}", "report=false", "trainer.accelerator=cpu", "hydra.run.dir=scored"),
        module="emotion_lab.evaluate",
        cwd=old_run.parent,
    )
    assert completed.returncode == 0, completed.stderr


def test_an_old_run_is_resumed_and_reproduced(old_run: Path) -> None:
    again = old_run.parent / "again"
    completed = command(f"reproduce={old_run}", f"hydra.run.dir={again}", cwd=old_run.parent)
    assert completed.returncode == 0, completed.stderr
    assert "identical to the last digit" in completed.stdout
    completed = command(
        f"resume={old_run}", "trainer.max_epochs=3", "trainer.accelerator=cpu", cwd=old_run.parent
    )
    assert completed.returncode == 0, completed.stderr
