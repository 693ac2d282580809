"""Names from indices of unknown origin, and locks of run directories."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from emotion_lab.core import extras, paths
from emotion_lab.core.errors import UserError
from emotion_lab.core.paths import check_inside


@pytest.mark.parametrize("name", ["a.tar", "train/000000.tar", "train/é 1.png"])
def test_plain_names_are_returned(name: str) -> None:
    assert check_inside(name, "index") == name


@pytest.mark.parametrize(
    "name",
    [
        *("", "/", "/a", "a/", "a//b", "..", "../a", "a/../b", ".hidden", "a/.b", "C:a", "a\\b"),
        *("a\nb", "a\0b", None, 3, ["a"]),
    ],
)
def test_other_names_are_refused_in_one_line(name: object) -> None:
    with pytest.raises(UserError, match="index is refused") as caught:
        check_inside(name, "index")
    assert "\n" not in str(caught.value)


def test_locked_folder_error_names_the_config_key(tmp_path: Path) -> None:
    def error(*names: str, **options: str | None) -> str:
        with (
            paths.locked_run_dir(tmp_path),
            pytest.raises(UserError) as caught,
            paths.locked_run_dir(tmp_path, *names, **options),
        ):
            raise AssertionError
        return str(caught.value)

    assert "or set hydra.run.dir=<a new folder>" in error()
    assert "or set hydra.sweep.dir=<a new folder>" in error(key="hydra.sweep.dir")
    assert error(key=None).endswith("wait until it is done.")
    (tmp_path / "done").touch()
    with pytest.raises(UserError, match=r"already holds done.* Set out=<a new folder>"):
        paths.check_fresh(tmp_path, "done", key="out")


def test_a_training_folder_needs_a_name_that_tensorboard_and_torch_can_write(
    tmp_path: Path,
) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    with pytest.raises(UserError, match=r"hydra.run.dir=.*: the name is not UTF-8"):
        paths.check_training_folder(folder)
    paths.check_training_folder(tmp_path / "café")
    assert not any(tmp_path.iterdir())


def test_a_checkpoint_names_the_missing_extra_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "best.ckpt"
    file.write_bytes(b"\x80")
    paths.check_checkpoint(str(file), exported=True)
    monkeypatch.setattr(extras, "_is_installed", lambda package: False)
    with pytest.raises(
        UserError, match=r"is a checkpoint\. It needs torch, which is not installed"
    ):
        paths.check_checkpoint(str(file), exported=True)
