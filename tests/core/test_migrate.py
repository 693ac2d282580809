"""Runs and checkpoints of earlier versions, whose config keys had other names."""

from __future__ import annotations

import copy
import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from emotion_lab.config import compose, schema
from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core import migrate, runs
from emotion_lab.core.errors import UserError
from emotion_lab.experiments.leaderboard import grouping
from emotion_lab.experiments.tuning import spec
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


def old_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of a history with the metrics of earlier versions."""
    return {
        key.replace("/criterion", "/loss"): row[key] for key in row if not key.endswith("/loss")
    }


def test_loss_of_earlier_versions_was_the_criterion() -> None:
    rows = [{"epoch": 1, "train/loss": 0.8, "val/loss": 0.9, "best": True}]
    (focal,) = migrate.migrate_history(rows, {"loss": {"name": "focal"}})
    assert focal == {"epoch": 1, "train/criterion": 0.8, "val/criterion": 0.9, "best": True}
    (ce,) = migrate.migrate_history(rows, {"loss": {"name": "ce"}})
    assert ce == {**focal, "val/loss": 0.9}  # the criterion of loss=ce is the cross-entropy
    assert migrate.migrate_history([ce], {"loss": {"name": "focal"}}) == [ce]
    for loss, monitor in (("ce", "val/loss"), ("focal", "val/criterion")):
        config = {"loss": {"name": loss}, "monitor": "val/loss", "schedule": {"name": "cosine"}}
        assert migrate.migrate_monitors(config) == {**config, "monitor": monitor}


def test_migrate_config_is_the_inverse_of_old_style() -> None:
    config = composed("augment=device", "loss=label_smoothing", "trainer.precision=fp32")
    old = old_style(config)
    assert "ema" in old["trainer"] and "smoothing" in old["loss"] and "ledger" in old
    assert migrate.migrate_config(old) == config
    assert migrate.migrate_config(config) == config


def test_data_labels_had_another_meaning() -> None:
    old = {"data": {"name": "fer2013", "labels": "majority", "votes": "x.csv"}}
    new = {"name": "fer2013", "label_source": "majority", "ferplus_csv": "x.csv"}
    assert migrate.migrate_config(old) == {"data": new}
    today = {"data": {"name": "fer2013", "labels": "ferplus", "label_source": "soft"}}
    assert migrate.migrate_config(today) == today


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("trainer.clip=1", "trainer.gradient_clip_val=1"),
        ("++data.votes=a b.csv", "++data.ferplus_csv=a b.csv"),
        ("data.labels=soft", "data.label_source=soft"),
        ("data.labels=original,majority", "data.label_source=original,majority"),
        ("data.labels=ferplus", "data.labels=ferplus"),
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
        *(*TINY, "trainer.precision=fp32", "schedule=step", "loss=focal", "monitor=val/loss"),
        f"hydra.run.dir={run}",
        cwd=run.parent,
    )
    assert completed.returncode == 0, completed.stderr
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    (run / "config.yaml").write_text(yaml.safe_dump(old_style(config)), encoding="utf-8")
    with (run / "history.csv").open(newline="") as stream:
        rows = [old_row(row) for row in csv.DictReader(stream)]
    with (run / "history.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for file in (run / "checkpoints").glob("*.ckpt"):
        content = torch.load(file, weights_only=True)
        if "callbacks" in content:
            history = content["callbacks"]["MetricsHistory"]
            history["rows"] = [old_row(row) for row in history["rows"]]
        content[ckpt.CARD]["config"] = old_style(content[ckpt.CARD]["config"])
        torch.save(content, file)
    return run


def test_an_old_run_is_read_and_ranked_with_a_new_one(old_run: Path) -> None:
    run = runs.read(old_run)
    assert run.config["trainer"]["precision"] == "fp32" and "ema_decay" in run.config["trainer"]
    assert run.config["monitor"] == run.metrics["monitor"]["name"] == "val/criterion"
    assert run.mode == "min" and all("val/loss" not in row for row in run.history())
    new_run = runs.Run(Path("new"), run.config, run.metrics, None)
    configurations = grouping.group([run, new_run], "accuracy")
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
    assert yaml.safe_load((again / "config.yaml").read_text())["monitor"] == "val/criterion"
    completed = command(
        f"resume={old_run}", "trainer.max_epochs=3", "trainer.accelerator=cpu", cwd=old_run.parent
    )
    assert completed.returncode == 0, completed.stderr
    *old, new = runs.read(old_run).history()
    assert len(old) == 2 and all(math.isnan(row["val/loss"]) for row in old)
    assert new["val/loss"] > new["val/criterion"] > 0


def test_a_search_of_an_earlier_version_is_not_continued(tmp_path: Path) -> None:
    """Its trials were compared by their criterion, further ones by the cross-entropy."""
    sweep = {key: 1 for key in spec.SWEEP}
    spec.SearchSpec([], [], sweep, "val/loss", "min").save(tmp_path)
    assert spec.load(tmp_path).monitor == "val/loss"
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "history.csv").write_text("epoch,val/loss,best\n1,0.5,True\n")
    with pytest.raises(UserError, match="val/loss was in an earlier version"):
        spec.load(tmp_path)
