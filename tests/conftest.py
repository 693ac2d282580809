"""Shared fixtures and helpers: composed configs, tiny runs, commands, real data."""

from __future__ import annotations

import copy
import functools
import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests import figures, forked

# Before torch is imported, also in the processes that tests start. A pool of OpenMP threads does
# not survive a fork: a forked process that reuses a convolution of its parent would wait forever.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# W&B reports its own errors over the network, from threads that would hold locks during a fork.
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

# Background jobs of a shell script ignore SIGINT, and child processes inherit that. The tests that
# send Ctrl-C would wait forever.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Exclude the imported modules, several 100,000 objects, from garbage collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def single_thread() -> None:
    """Use one torch thread: small tensors are faster, results do not depend on the machine.

    The engine of autograd starts its threads, one for each kind of device, at the first backward
    pass. torch.export adds a kind; after that, no forked process could train (test_distributed).
    """
    import torch

    torch.set_num_threads(1)
    torch.ones(1, requires_grad=True).sum().backward()


@pytest.fixture(autouse=True)
def release_absl_stream() -> Iterator[None]:
    """Detach absl's log handler (imported by nncf), which would close pytest's captured stream."""
    yield
    if "absl.logging" in sys.modules:
        sys.modules["absl.logging"].get_absl_handler().python_handler.stream = sys.__stderr__


@pytest.fixture
def rendered_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Render the figures of a test and of its commands."""
    monkeypatch.setenv(figures.RENDER, "1")


@pytest.fixture(autouse=True)
def skip_rendering(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw figures without rendering them, unless a test asks for ``rendered_figures``."""
    if "rendered_figures" not in request.fixturenames:
        figures.skip_rendering(monkeypatch)


@pytest.fixture(scope="session")
def make_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that makes a directory once, for all workers of pytest-xdist.

    Its arguments are a name and the function that writes the files into a given directory.
    """
    base = tmp_path_factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def make(name: str, write: Callable[[Path], None]) -> Path:
        folder = root / name
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                part = tmp_path_factory.mktemp(f"{name}_part")
                write(part)
                part.rename(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def ferplus_csv() -> Path:
    """Return the real FER+ votes of the shared folder."""
    path = SHARED / "data" / "fer2013" / "fer2013new.csv"
    if not path.is_file():
        pytest.skip(f"{path} is missing")
    return path


@pytest.fixture(scope="session")
def fer2013_csv(make_once: Callable[..., Path]) -> Path:
    """Return the real fer2013.csv: $EMOTION_LAB_FER2013, or unpacked from the shared folder."""
    path = os.environ.get("EMOTION_LAB_FER2013")
    if path:
        return Path(path)
    unpack = SHARED / "data" / "fer2013" / "unpack.py"
    if not unpack.is_file():
        pytest.skip("the real FER2013 is missing (set EMOTION_LAB_FER2013=<fer2013.csv>)")

    def write(folder: Path) -> None:
        subprocess.run([sys.executable, str(unpack), str(folder), "csv"], check=True, timeout=200)

    return make_once("fer2013", write) / "fer2013.csv"


#: Overrides of a run that takes seconds: a tiny senet on a few synthetic faces.
TINY = (
    "data=synthetic",
    "data.n=80",
    "data.batch_size=16",
    "model=senet",
    "model.widths=[8,8,8,8]",
    "model.stem=8",
    "trainer=cpu",
    "trainer.max_epochs=2",
    "trainer.num_threads=1",
    "trainer.enable_progress_bar=false",
    "logger=none",
)


@functools.cache
def _composed(entry: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    from omegaconf import OmegaConf

    from emotion_lab.config import compose

    cfg = compose.precheck(entry, list(overrides))
    return compose.to_container(OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]))


def composed(*overrides: str, entry: str = "train") -> dict[str, Any]:
    """Return ``conf/<entry>.yaml`` composed with overrides, as plain dicts."""
    return copy.deepcopy(_composed(entry, overrides))


@pytest.fixture
def tiny() -> Callable[..., dict[str, Any]]:
    """Return a function that composes a tiny training config with further overrides."""
    return lambda *overrides: composed(*TINY, *overrides)


def run_training(
    cfg: dict[str, Any], run_dir: Path, resume: bool = False, callbacks: Any = ()
) -> dict[str, Any]:
    """Train, evaluate and close the loggers as the command does; return ``metrics.json``."""
    from emotion_lab.experiments.run.final_evaluation import finish_run
    from emotion_lab.training.fit import fit
    from emotion_lab.training.loggers import close

    run_dir.mkdir(parents=True, exist_ok=True)
    last = run_dir / "checkpoints" / "last.ckpt"
    result = fit(cfg, run_dir, last if resume else None, callbacks=callbacks)
    finish_run(cfg, run_dir, result)
    close(result.loggers, "success")
    return json.loads((run_dir / "metrics.json").read_text())


def error_message(function: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """Return the message of the UserError that a call raises; it must be a single line."""
    from emotion_lab.core.errors import UserError

    with pytest.raises(UserError) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def command(*arguments: str, module: str = "emotion_lab.train", cwd: Path) -> Any:
    """Run ``python -m <module> <arguments>`` and return the completed process."""
    if hasattr(os, "fork"):
        return forked.run(module, [*arguments], cwd, timeout=200)
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=200,
    )


def make_checkpoint(
    cfg: dict[str, Any],
    path: Path,
    classes: list[str],
    seed: int = 0,
    quantities: Sequence[str] = (),
) -> Path:
    """Write a checkpoint of an untrained network with BatchNorm whose outputs vary by image.

    Its head for ``quantities`` has random weights.
    """
    import torch

    from emotion_lab.core import checkpoint as ckpt
    from emotion_lab.data import contamination
    from emotion_lab.data.datamodule import EmotionData
    from emotion_lab.models.base import build_model
    from emotion_lab.training.fit import make_card

    torch.manual_seed(seed)
    data = EmotionData(cfg["data"])
    net, spec = build_model(cfg["model"], len(classes))
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.weight, 1, 0.3)
    torch.nn.init.normal_(net.backbone.net.classifier.weight, 0, 2)
    card = {**make_card(cfg, data, spec, data.fingerprints()), "epoch": 0, "classes": classes}
    card["trained_on"] = contamination.of_split(data.split("train")).entry()
    state = {f"model.{key}": value for key, value in net.state_dict().items()}
    if quantities:
        card["quantities"] = list(quantities)
        weight = torch.randn(len(quantities), net.backbone.net.classifier.in_features) / 4
        state["quantities_head.linear.weight"] = weight
        state["quantities_head.linear.bias"] = torch.zeros(len(quantities))
    ckpt.write(path, {"state_dict": state, ckpt.CARD: card})
    return path
