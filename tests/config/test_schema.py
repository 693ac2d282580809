"""Schema: every key has a type and a role, and the descriptions of allowed values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import pytest
from omegaconf import OmegaConf

from emotion_lab.config import compose, schema
from emotion_lab.config.fields import AutoOrBool, Role, describe, integer, number
from emotion_lab.core.errors import UserError


def conf_keys() -> Iterator[tuple[str, str, str | None]]:
    """Yield (entry, dotted key, choice of its group) of every key in ``conf/``."""
    for entry in schema.ENTRIES:
        content = OmegaConf.load(compose.CONF / f"{entry}.yaml")
        for key in compose.leaves(content):
            if key.split(".")[0] not in ("defaults", "hydra"):
                yield entry, key, None
    for group in schema.GROUPS:
        for path in (compose.CONF / group).glob("*.yaml"):
            for key in compose.leaves(OmegaConf.load(path)):
                if key not in ("defaults", "name"):
                    yield "train", f"{group}.{key}", path.stem


def test_every_config_key_has_a_type_and_a_role() -> None:
    keys = list(conf_keys())
    assert len(keys) > 200
    for entry, key, choice in keys:
        assert schema.is_declared(key, entry, choice), (entry, key)
        assert isinstance(schema.role(key), Role)


def test_every_field_belongs_to_a_config_key() -> None:
    known = {key for _, key, _ in conf_keys()}
    known |= {f"{group}.name" for group in schema.GROUPS}
    assert {key for key, _, _ in schema.FIELDS} <= known


@pytest.mark.parametrize(
    ("key", "role"),
    [
        ("optim.lr", Role.IDENTITY),
        ("model", Role.IDENTITY),
        ("model.name", Role.IDENTITY),
        ("model.key_of_a_plugin", Role.IDENTITY),
        ("mix.mixup", Role.IDENTITY),
        ("seed", Role.IDENTITY),
        ("data.path", Role.LOCATION),
        ("reproduce", Role.LOCATION),
        ("overlay.font", Role.LOCATION),
        ("logger", Role.DISPLAY),
        ("logger.wandb.project", Role.DISPLAY),
        ("trainer.enable_progress_bar", Role.DISPLAY),
        ("trainer.num_threads", Role.EXECUTION),
        ("model.compile", Role.EXECUTION),
        ("deterministic", Role.EXECUTION),  # bench declares it too, with another role
        ("sweep.resume", Role.EXECUTION),
    ],
)
def test_roles(key: str, role: Role) -> None:
    assert schema.role(key) is role


def test_identity_leaves_out_all_other_roles() -> None:
    config = {
        "seed": 1,
        "logger": {"csv": {}},
        "data": {"path": "x", "batch_size": 8},
        "trainer": {"num_threads": 2, "max_epochs": 3},
    }
    expected = {"seed": 1, "data.batch_size": 8, "trainer.max_epochs": 3}
    assert schema.identity(config) == expected
    assert "seed" not in schema.identity(config, exclude=("seed",))


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int, "a whole number"),
        (integer(2), "a whole number of 2 or more"),
        (integer(0, 64), "a whole number from 0 to 64"),
        (number(gt=0, lt=1) | None, "a number above 0 and below 1"),
        (AutoOrBool, "auto, true or false"),
        (Literal["a", "b"] | None, "one of a, b"),
        (list[integer(1)], "a list of whole numbers of 1 or more"),
        (float | list[float] | None, "a number, or a list of numbers"),
        (list[str] | None, "a list of names"),
    ],
)
def test_descriptions(annotation: Any, words: str) -> None:
    assert describe(annotation) == words


def test_null_is_checked_by_choice() -> None:
    """Only networks of a library have an architecture's own dropout."""
    schema.check_value("model.dropout", None, "train", "timm")
    with pytest.raises(UserError, match="dropout=null is not valid"):
        schema.check_value("model.dropout", None, "train", "cnn")
