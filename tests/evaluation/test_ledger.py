"""The ledger of the test split: entries and the number of configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from emotion_lab.evaluation import test_ledger
from tests.conftest import composed

FINGERPRINT = {"hash": "aa", "known_as": None, "n": 3}


def card(config: dict[str, Any], epoch: int = 1) -> dict[str, Any]:
    return {"config": config, "epoch": epoch}


def test_openings_of_one_test_set(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    assert test_ledger.openings(ledger, "aa") == []
    configs = ({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 2, "b": 2})
    for index, config in enumerate(configs):
        setup = test_ledger.setup(card(config), "none")
        test_ledger.record(ledger, tmp_path, f"checkpoint {index}", setup, FINGERPRINT, 0.5)
    with ledger.open("a", encoding="utf-8") as stream:
        stream.write('torn line {"fing\n[1]\n3\n')
    other = {**FINGERPRINT, "hash": "bb"}
    test_ledger.record(ledger, tmp_path, "checkpoint 2", setup, other, 0.5)
    lines = test_ledger.openings(ledger, "aa")
    assert len(lines) == 3 and test_ledger.configurations(lines) == 2
    assert len(test_ledger.openings(ledger, "bb")) == 1


def test_epoch_tta_and_members_make_a_configuration() -> None:
    first, second = (card({"a": i}) for i in range(2))
    pair, reversed_pair = {"members": [first, second]}, {"members": [second, first]}
    assert test_ledger.setup(pair, "none") == test_ledger.setup(reversed_pair, "none")
    different = [
        test_ledger.setup(first, "none"),
        test_ledger.setup(first, "flip"),
        test_ledger.setup({**first, "epoch": 2}, "none"),
        test_ledger.setup(pair, "none"),
    ]
    assert test_ledger.configurations(different + different) == 4


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("trainer.enable_progress_bar=false", True),
        ("trainer.num_threads=1", True),
        ("data.path=elsewhere", True),
        ("logger=none", True),
        ("optim.lr=0.5", False),
        ("seed=1", False),
    ],
)
def test_only_identifying_keys_make_another_configuration(override: str, same: bool) -> None:
    configs = (composed(), composed(override))
    first, second = (test_ledger.setup(card(config), "none") for config in configs)
    assert (first == second) is same


def test_a_checkpoint_opened_by_an_earlier_version_is_the_same_configuration() -> None:
    """Earlier versions computed the hash over all keys."""
    line = {"checkpoint": "c", **test_ledger.setup(card({"a": 1}), "none")}
    assert test_ledger.configurations([{**line, "config": "hash of all keys"}, line]) == 1
    assert test_ledger.configurations([{**line, "tta": "flip"}, line]) == 2
