"""Composition of the configs, and the errors for invalid command lines."""

from __future__ import annotations

import copy
import functools
import os
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from emotion_lab import train
from emotion_lab.cli.help import groups, show
from emotion_lab.config import compose, schema
from emotion_lab.config import overrides as command_line
from emotion_lab.core.errors import UserError
from emotion_lab.experiments.run import resume
from emotion_lab.experiments.run.checks import check_inputs, check_rates
from tests.conftest import TINY, composed, error_message

GROUPS = sorted(p.name for p in compose.CONF.iterdir() if p.is_dir())
#: Command of each group that train does not have.
ENTRIES_OF_GROUPS = {
    "detector": "live",
    "smoothing": "live",
    "backend": "live",
    "engine": "predict",
}


def parse(*argv: str, entry: str = "train") -> Any:
    """Compose a command line as ``app.run`` does."""
    overrides, multirun, _ = command_line.flags(command_line.quote_texts(list(argv)))
    return compose.precheck(entry, overrides, multirun)


def refused(*argv: str, entry: str = "train") -> str:
    """Return the error message of an invalid command line."""
    return error_message(parse, *argv, entry=entry)


@pytest.mark.parametrize("group", [name for name in GROUPS if name != "experiment"])
def test_every_file_composes(group: str) -> None:
    with initialize_config_dir(version_base="1.3", config_dir=str(compose.CONF)):
        for name in compose.options(group):
            entry = ENTRIES_OF_GROUPS.get(group, "train")
            cfg = hydra.compose(entry, overrides=[f"{group}={name}"])
            compose.check_values(cfg, entry)
            if group not in ("logger", "trainer"):
                assert cfg[group].name == name


@pytest.mark.parametrize("group", GROUPS)
def test_every_file_has_a_description(group: str) -> None:
    for path in (compose.CONF / group).glob("*.yaml"):
        first = path.read_text(encoding="utf-8").splitlines()[0]
        assert first.startswith("# ") and len(first) > 4, f"{path}: --help shows its first line"


def test_experiments_override_groups_and_keys() -> None:
    for name in compose.options("experiment"):
        cfg = parse(f"experiment={name}")
        own = OmegaConf.load(compose.CONF / "experiment" / f"{name}.yaml")
        for item in own.pop("defaults", []):
            if isinstance(item, str):  # another experiment that this one extends
                assert item in compose.options("experiment")
                continue
            for group, choice in item.items():
                group = group.replace("override /", "")
                if group in ("model", "loss", "data", "optim", "schedule", "augment"):
                    assert cfg[group].name == choice
        for key in compose.leaves(own):
            if not OmegaConf.is_config(OmegaConf.select(own, key)):
                assert OmegaConf.select(cfg, key) == OmegaConf.select(own, key), key
    # The command line overrides the experiment.
    assert parse("experiment=fer2013_senet", "optim.lr=0.5").optim.lr == 0.5


def test_configs_and_registries_agree() -> None:
    from emotion_lab.data.transforms import PRESETS
    from emotion_lab.data.types import DATASETS
    from emotion_lab.losses import LOSSES
    from emotion_lab.models import MODELS
    from emotion_lab.temporal.base import TEMPORAL

    names = sorted([*MODELS.names(), *TEMPORAL.names()])
    assert [n for n in compose.options("model") if n != "checkpoint"] == names
    assert compose.options("loss") == LOSSES.names()
    assert [n for n in compose.options("data") if n != "checkpoint"] == DATASETS.names()
    assert compose.options("augment") == sorted([*PRESETS, "device"])


@pytest.mark.parametrize("entry", schema.ENTRIES)
def test_help_names_every_group_choice_and_key(entry: str, capsys: Any) -> None:
    show(entry)
    text = capsys.readouterr().out
    for group in groups(entry):
        section = text.partition(f"\n  {group}=\n")[2].partition("=\n")[0]
        assert section
        for name in compose.options(group):
            readers = ("evaluate", "export", "compare")
            offered = (group, name) != ("data", "checkpoint") or entry in readers
            if group == "sweep":
                offered = (name == "grid") == (entry == "train")
            assert (f"\n    {name} " in f"\n{section}") == offered
    with initialize_config_dir(version_base="1.3", config_dir=str(compose.CONF)):
        cfg = hydra.compose(entry)
        # The help of sweep refers to that of train for the keys of train.
        elsewhere = [*hydra.compose("train")] if entry == "sweep" else []
    for key in compose.leaves(cfg):
        group = key.split(".")[0]
        if group in elsewhere:
            assert "emotion_lab.train --help" in text
            continue
        if key.count(".") == 1 and group != "logger" and not key.endswith(".name"):
            assert f"{key}=" in text or group == "mix", key


def test_paths_reach_the_config() -> None:
    cfg = parse("data.path=a=[b] ${c}", "test_ledger=x y.jsonl", "hydra.run.dir=out/${seed} a=b")
    assert (cfg.data.path, cfg.test_ledger) == ("a=[b] ${c}", "x y.jsonl")
    assert cfg.hydra.run.dir == "out/0 a=b"


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (
            "model=senett",
            "Unknown model 'senett'. Did you mean 'senet'? Available: checkpoint, cnn, eff",
        ),
        ("logger=[csv,wandbb]", "Unknown logger 'wandbb'. Did you mean 'wandb'?"),
        ("experiment=none_such", "Unknown experiment 'none_such'."),
        ("model=base", "Unknown model 'base'."),
        ("model=null", "Unknown model 'null'."),
        ("model=[cnn,senet]", "model takes one name, not 2"),
        ("modle=cnn", "Unknown option 'modle'. Did you mean 'model'?"),
        ("optim.lrr=1", "Unknown option 'optim.lrr'. Did you mean 'optim.lr'?"),
        ("lr=1", "Unknown option 'lr'. Did you mean 'optim.lr'?"),
        ("data.batchsize=3", "Did you mean 'data.batch_size'?"),
        ("model.patch_size=8", "Unknown option 'model.patch_size'."),
        ("optim.lr=abc", "optim.lr=abc is not valid: expected a number"),
        ("optim.lr=nan", "optim.lr=nan is not valid"),
        ("optim.lr=-1", "optim.lr=-1 is not valid: expected a number above 0."),
        ("++optim.lr=-1", "optim.lr=-1 is not valid"),
        ("optim.lr=${seed}", "optim.lr=0 is not valid"),
        ("optim.lr=${x}", "optim.lr cannot be resolved"),
        ("trainer.max_epochs=1.5", "expected a whole number of 1 or more."),
        ("trainer.max_epochs=true", "expected a whole number"),
        ("trainer.devices=0", "expected a whole number of 1 or more, or -1"),
        ("trainer.max_time=1h", "expected DD:HH:MM:SS"),
        ("trainer.limit_train_batches=0", "expected a whole number of 1 or more, or a fraction"),
        ("trainer.enable_progress_bar=maybe", "expected auto, true or false"),
        ("data.exclude=disgust", "expected a list, for instance data.exclude=[disgust]."),
        ("data.batch_size=0", "data.batch_size=0 is not valid: expected a whole number of 1 or"),
        ("data.batch_size=null", "data.batch_size=null is not valid"),
        ("data.fold=-1", "expected a whole number of 0 or more."),
        ("data.sampler=random", "expected one of shuffle, weighted."),
        ("test=1", "expected true or false."),
        ("mix=5", "expected keys, for instance mix.mixup=<value>."),
        ("monitor=val/foo", "expected one of val/loss"),
        ("schedule.monitor=val/foo", "expected one of val/loss"),
        ("schedule.mode=up", "expected one of min, max"),
        ("trainer.strategy=foo", "expected one of auto, ddp"),
        ("~optim.lr", "removes a required key"),
        ("foo", "Cannot read 'foo': options are written key=value."),
        ("optim.lr=[1", "Cannot read 'optim.lr=[1'"),
        ("model=cnn,senet", "is a sweep: add -m"),
        ("--resume=x", "Write it without dashes: resume=x"),
        ("--multirunn", "Unknown flag '--multirunn'. Did you mean '--multirun'?"),
        ("--source a.jpg", "Unknown flag '--source'. Write it without dashes: source=a.jpg"),
        ("--config-nam a", "Unknown flag '--config-nam'. Did you mean '--config-name'?"),
        ("--cfg=nonsense", "Cannot read the command line"),
        ("hydra.foo=3", "hydra.foo"),
        ("trainer.clip=1", "Unknown option 'trainer.clip'. Did you mean 'trainer.gradient_clip"),
        ("trainer.ema=0.9", "Did you mean 'trainer.ema_decay'?"),
        ("augment.light=1", "Unknown option 'augment.light'."),
        ("data.votes=x.csv", "Did you mean 'data.ferplus_csv'?"),
        ("replay=x", "Did you mean 'reproduce'?"),
        ("experiment=seed_vit_4blocks", "Did you mean 'repro_vit_4blocks'?"),
        ("trainer.precision=bf16-mixed", "Did you mean 'bf16'?"),
    ],
)
def test_one_line_for_a_mistake(typed: str, message: str) -> None:
    groups = ("schedule=plateau",) if typed.startswith("schedule.") else ()
    assert message in refused(*groups, *typed.split())


def test_a_path_without_a_key_gets_the_key_of_the_source() -> None:
    for entry, hint in (("predict", " Did you mean source=photo.jpg?"), ("train", "")):
        text = error_message(compose.precheck, entry, ["photo.jpg"])
        assert text == f"Cannot read 'photo.jpg': options are written key=value.{hint}"


def test_the_final_learning_rate_is_checked_before_the_data_is_loaded() -> None:
    overrides = ["schedule.min_lr=0.1", "optim.lr=0.001,0.5"]
    cfg = compose.precheck("train", overrides, multirun=True)
    with pytest.raises(UserError, match=r"schedule\.min_lr=0\.1 is above optim\.lr=0\.001"):
        check_rates(cfg, overrides)
    check_rates(cfg, ["schedule.min_lr=0.1", "optim.lr=0.5"])
    check_rates(cfg, ["schedule=none", *overrides])


def test_the_name_of_a_group_is_chosen_with_the_group() -> None:
    for group, value in (
        ("optim", "foo"),
        ("optim", "null"),
        ("schedule", "step"),
        ("loss", "a,b"),
    ):
        message = refused(f"{group}.name={value}", *["-m"] * ("," in value))
        assert f"'{group}.name={value}' does not apply" in message
        assert f"Choose with {group}=<name>: {', '.join(compose.options(group))}." in message
    assert parse("optim.name=adamw").optim.name == "adamw"  # the default: nothing changes


def test_an_unknown_choice_lists_all_and_says_how() -> None:
    text = refused("loss=cee")
    assert all(name in text for name in compose.options("loss"))
    assert text.endswith("Set it with loss=<name>.")


def test_mistakes_of_evaluate() -> None:
    assert "Unknown option 'model'" in refused("model=cnn", entry="evaluate")
    assert "expected one of train, val, test" in refused("split=dev", entry="evaluate")
    assert "whole number of 1 or more" in refused("data.limit=abc", entry="evaluate")


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("model=cnn,senett", "Unknown model 'senett'"),
        ("model=choice(cnn,senett)", "Unknown model 'senett'"),
        ("seed=1,x", "seed=x is not valid"),
        ("seed=1,-2", "seed=-2 is not valid"),
        ("seed=range(-1,3)", "seed=-1 is not valid"),
        ("optim.lr=0.1,null", "optim.lr=null is not valid"),
        ("optim.lr=interval(0,1)", "cannot be swept: list the values"),
    ],
)
def test_every_value_of_a_sweep_is_checked(typed: str, message: str) -> None:
    assert message in refused("-m", typed)


def test_valid_overrides() -> None:
    assert set(parse("logger=[tensorboard,wandb]").logger) == {"tensorboard", "wandb"}
    cfg = parse("logger=none", "model.mean=null", "model.channels=null", "data.exclude=[disgust]")
    assert not cfg.logger and cfg.model.mean is None and cfg.data.exclude == ["disgust"]
    cfg = parse("trainer.patience=null", "trainer.num_threads=2", "trainer.max_time=00:01:00:00")
    assert cfg.trainer.patience is None and cfg.trainer.num_threads == 2
    assert parse("experiment=fer2013_senet", "trainer.ema_decay=null").trainer.ema_decay is None
    assert parse("optim.lr=1", "+note=x", "data.limit=null", "logger=csv").note == "x"
    cfg = parse("-m", "model=cnn,senet", "seed=1,2")
    assert (cfg.model.name, cfg.seed) == ("cnn", 1)
    assert str(cfg.hydra.mode).endswith("MULTIRUN")


@functools.cache
def default_config() -> Any:
    return parse()


def prepared(*argv: str, **changes: Any) -> list[str]:
    """Call ``train.validate`` on a default config with ``changes`` and the overrides ``argv``."""
    cfg = copy.deepcopy(default_config())
    for key, value in changes.items():
        OmegaConf.update(cfg, key.replace("__", "."), value)
    return train.validate(cfg, command_line.quote_texts(list(argv)))


def not_prepared(*argv: str, **changes: Any) -> str:
    return error_message(prepared, *argv, **changes)


def test_a_sweep_runs_one_device_a_job(tmp_path: Path) -> None:
    mode = parse("-m", "trainer.devices=2,3", "seed=1,2").hydra.mode
    assert "trainer.devices=2" in not_prepared(hydra__mode=mode, trainer__devices=2)
    assert "one device a job" in not_prepared(hydra__mode=mode, trainer__num_nodes=2)
    assert prepared(trainer__devices=2) == []
    assert "add -m, or name" in not_prepared("hydra.sweep.dir=x")
    # The folder is fixed here, so that Hydra's own clock cannot name another.
    place = str(tmp_path / "a sweep")
    assert prepared(hydra__mode=mode, hydra__sweep__dir=place) == [f"hydra.sweep.dir='{place}'"]


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    run = tmp_path / "a b=c"
    (run / "checkpoints").mkdir(parents=True)
    assert prepared(hydra__run__dir=str(run)) == []
    (run / "checkpoints" / "last.ckpt").touch()
    assert "already holds a run" in not_prepared(hydra__run__dir=str(run))
    # Resuming uses the same directory and changes no identifying key.
    mode = parse("-m", "seed=1,2").hydra.mode
    for place in (str(run), str(run / "checkpoints" / "last.ckpt")):
        typed = (f"resume={place}", "trainer.max_epochs=9", "data.path=x", "test=true")
        assert prepared(*typed, resume=place)[0] == f"hydra.run.dir='{run}'"
        for text in ("model=cnn", "data.batch_size=3", "seed=1", "++optim.lr=1", "trainers=x"):
            assert f"'{text}' cannot change" in not_prepared(*typed, text, resume=place)
        for text in ("trainer.ema_decay=0.9", "trainer.monitor_mode=min"):
            assert "cannot change on resume" in not_prepared(f"resume={place}", text, resume=place)
        assert "swept" in not_prepared(resume=place, hydra__mode=mode)
    assert "nothing to resume" in not_prepared(resume=str(tmp_path))
    assert "no such run" in not_prepared(resume=str(tmp_path / "none"))


def test_a_run_directory_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot create the run directory" in not_prepared(hydra__run__dir=f"{tmp_path}/file/x")
    if Path("/proc/self").exists():  # not writable, even for root
        assert "cannot create the run directory" in not_prepared(hydra__run__dir="/proc/new/x")
    if os.geteuid():
        tmp_path.chmod(0o500)
        assert "cannot create the run directory" in not_prepared(hydra__run__dir=f"{tmp_path}/y")
        tmp_path.chmod(0o700)


def resumed(typed: list[str], saved: dict[str, Any]) -> dict[str, Any]:
    """Return the config of a run that is resumed with the overrides ``typed``."""
    cfg = parse(*typed)
    cfg = OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])
    return resume.resumed_config(cfg, typed, saved)


def test_resume_merges_allowed_overrides() -> None:
    saved = composed(*TINY, "seed=3", "schedule=step", "trainer.ema_decay=0.9")
    typed = ["resume=x", "data.path=a${b}", "trainer=default", "trainer.max_epochs=9", "logger=csv"]
    config = resumed(typed, saved)
    assert config["data"] == {**saved["data"], "path": "a${b}"}
    changed = {"max_epochs": 9, "accelerator": "auto"}
    assert {**config["trainer"], **changed} == config["trainer"]
    assert config["trainer"]["ema_decay"] == 0.9
    assert set(config["logger"]) == {"csv"} and not saved["logger"]
    assert (config["seed"], config["resume"], config["model"]) == (3, None, saved["model"])
    config = resumed(["resume=x", "trainer.max_epochs=9"], saved)
    assert config["trainer"] == {**saved["trainer"], "max_epochs": 9}


def test_a_stored_config_gets_the_defaults_of_its_own_choices() -> None:
    stored = composed(*TINY, "schedule=none", "loss=focal")
    older = copy.deepcopy(stored)
    for group, key in (("distill", "precompute"), ("loss", "gamma"), ("data", "split_seed")):
        del older[group][key]
    # The current command has other choices, whose keys are not those of the run.
    assert compose.complete(older, composed("schedule=cosine", "loss=ce")) == stored
    assert compose.complete(stored, composed()) == stored


def test_votes_head_without_votes_is_refused_before_the_data(tmp_path: Path) -> None:
    words = [f"data.path={tmp_path}", "votes_head.weight=0.5"]
    with pytest.raises(UserError, match=r"weight=0.5 needs .*: set data.ferplus_csv=<fer2013new"):
        check_inputs(compose.precheck("train", words), set())
    check_inputs(compose.precheck("train", [*words, f"data.ferplus_csv={tmp_path}"]), set())
