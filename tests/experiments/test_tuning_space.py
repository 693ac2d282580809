"""Search space: Hydra's override syntax, validated with the config of ``train``."""

from __future__ import annotations

import pytest
from optuna.trial import FixedTrial

from emotion_lab.config import compose
from emotion_lab.core.errors import UserError
from emotion_lab.experiments.tuning import space as spaces
from emotion_lab.experiments.tuning.study import suggest
from tests.conftest import error_message

FIXED = ["data=synthetic", "model=cnn"]


def test_intervals_ranges_and_choices() -> None:
    texts = [
        "optim.lr=tag(log,interval(1e-4,1e-2))",
        "model.dropout=interval(0,0.5)",
        "data.batch_size=range(32,129,32)",
        "trainer.max_epochs=interval(2,9)",
        "loss=ce,focal",
        "trainer.gradient_clip_val=null,1.0",
    ]
    lr, dropout, batch, epochs, loss, clip = spaces.read(texts, FIXED).dimensions
    assert (lr.low, lr.high, lr.log, lr.integer) == (1e-4, 1e-2, True, False)
    assert (dropout.low, dropout.high, dropout.log) == (0, 0.5, False)
    assert (batch.low, batch.high, batch.step, batch.integer) == (32, 128, 32, True)
    # The default of the key is an integer, so integers are drawn.
    assert epochs.integer and epochs.override(3) == "trainer.max_epochs=3"
    assert loss.options == ("ce", "focal") and loss.is_group
    assert clip.options == ("null", "1.0") and not clip.is_group


def test_values_have_four_digits_and_stay_within_bounds() -> None:
    (lr,) = spaces.read(["optim.lr=interval(1e-4,0.123456)"], FIXED).dimensions
    assert lr.override(0.00123456789) == "optim.lr=0.001235"
    for value in (1e-4, 0.0567891, 0.12345599, 0.123456):
        assert 1e-4 <= float(lr.override(value).split("=")[1]) <= 0.123456


def test_conditional_key_is_searched_if_the_group_has_it() -> None:
    space = spaces.read(["loss.gamma=interval(1,4)", "loss=ce,focal"], FIXED)
    assert [d.key for d in space.keys(["loss=ce"])] == []
    assert [d.key for d in space.keys(["loss=focal"])] == ["loss.gamma"]
    assert suggest(FixedTrial({"loss": "ce"}), space) == ["loss=ce"]
    trial = FixedTrial({"loss": "focal", "loss.gamma": 2.5})
    assert suggest(trial, space) == ["loss=focal", "loss.gamma=2.5"]


def test_fixed_keys_are_removed_from_the_default_space() -> None:
    default = list(compose.defaults("sweep", "optuna")["space"])
    names = [d.key for d in spaces.read(default, FIXED).dimensions]
    assert names == ["optim.lr", "optim.weight_decay"]
    remaining = spaces.read(default, [*FIXED, "optim.lr=0.01"]).dimensions
    assert [d.key for d in remaining] == ["optim.weight_decay"]


def test_epochs_of_a_trial() -> None:
    fixed = [*FIXED, "trainer.max_epochs=7"]
    assert spaces.read(["loss=ce,focal"], fixed).epochs(["loss=focal"]) == 7
    space = spaces.read(["trainer.max_epochs=3,5"], FIXED)
    assert space.epochs(["trainer.max_epochs=5"]) == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim.lx=1,2", "Unknown option 'optim.lx'. Did you mean 'optim.lr'?"),
        ("loss=ce,focla", "Unknown loss 'focla'. Did you mean 'focal'?"),
        ("loss=interval(1,2)", "a group takes names, loss=<one>,<other>"),
        ("loss.gamma=interval(0,2)", "Unknown option 'loss.gamma'"),
        ("optim.lr=interval(0.1,0.01)", "0.01 is not above 0.1"),
        ("optim.lr=interval(-1,0.01)", "optim.lr=-1.0 is not valid: expected a number above 0"),
        ("optim.lr=tag(log,interval(0,1))", "log requires a lower bound above 0"),
        ("optim.lr=tag(lag,interval(1,2))", "unknown tag 'lag'"),
        ("optim.lr=tag(log,choice(1,2))", "log requires an interval"),
        ("optim.lr=glob(*)", "list the values"),
        ("optim.lr=0.1,0.1", "needs two different values"),
        ("optim.lr=0.1", "has one value"),
        ("optim.lr=0.1,fast", "optim.lr=fast is not valid: expected a number"),
        ("data.batch_size=interval(1.5,20)", "data.batch_size takes whole numbers"),
        ("model.dropout=interval(0,1)", "model.dropout=1.0 is not valid"),
        ("seed=1,2", "the best of several seeds is chance"),
        ("data=synthetic,fer2013", "scores on different images cannot be compared"),
        ("data.fold=0,1", "scores on different images cannot be compared"),
        ("monitor=val/loss,val/accuracy", "compared by one metric"),
        ("hydra.run.dir=a,b", "not an option of a training"),
    ],
)
def test_invalid_space_is_rejected(text: str, message: str) -> None:
    assert message in error_message(spaces.read, [text], FIXED)


def test_duplicate_key_is_rejected() -> None:
    with pytest.raises(UserError, match="is searched twice"):
        spaces.read(["optim.lr=1,2", "optim.lr=3,4"], FIXED)


def test_gather_moves_several_values_into_the_space() -> None:
    typed = ["model=cnn", "loss=ce,focal", "optim.lr=interval(1,2)", "data.path=/a,b"]
    gathered = spaces.gather(typed)
    assert gathered[:2] == ["model=cnn", "data.path='/a,b'"]
    cfg = compose.precheck("sweep", ["data=synthetic", gathered[0], gathered[-1]])
    assert list(cfg.sweep.space) == ["loss=ce,focal", "optim.lr=interval(1,2)"]
    assert spaces.gather(["--help"]) == ["--help"]
    assert spaces.gather(["model=cnn"]) == ["model=cnn"]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["-m", "loss=ce,focal"], "takes no -m"),
        (["sweep=grid", "loss=ce,focal"], "emotion_lab.train -m"),
        (["sweep=lr_find", "loss=ce,focal"], "varies the learning rate only"),
        (["resume=x", "loss=ce,focal"], "resume= already sets the search space"),
        (["sweep.space=[optim.lr]", "loss=ce,focal"], "sweep.space= already sets the search space"),
        (["loss=ce", "loss=ce,focal"], "also has one value"),
    ],
)
def test_conflicting_arguments_are_rejected(typed: list[str], message: str) -> None:
    assert message in error_message(spaces.gather, typed)


def test_search_has_all_options_of_a_training() -> None:
    train = compose.precheck("train", ["experiment=fer2013_cnn", "optim.lr=0.5"])
    sweep = compose.precheck("sweep", ["experiment=fer2013_cnn", "optim.lr=0.5"])
    for key in train:
        if key not in ("sweep", "hydra"):
            assert sweep[key] == train[key], key
    assert sweep.sweep.name == "optuna"
