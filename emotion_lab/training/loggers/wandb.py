"""``logger=wandb``: Weights & Biases, offline unless there is a key."""

from __future__ import annotations

import contextlib
import io
import json
import netrc
import os
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from emotion_lab.core.errors import UserError, unknown
from emotion_lab.core.io import atomic_write
from emotion_lab.models.base import EmotionNet
from emotion_lab.training.loggers.base import (
    LOGGERS,
    LoggerContext,
    MediaLogger,
    bare_copy,
    never_fail,
    reason,
)

#: The run's id and place, in the run folder.
FILE = "wandb.json"
#: Seconds until W&B counts as not reachable.
INIT_S = 15.0
MODES = ("auto", "online", "offline")


def logged_in() -> bool:
    """Tell whether there is a key for W&B's server: in the environment, or where login puts it."""
    import wandb

    if os.environ.get("WANDB_API_KEY"):
        return True
    server = urlsplit(os.environ.get("WANDB_BASE_URL") or wandb.Settings().base_url).netloc
    usual = urlsplit(wandb.Settings().base_url).netloc
    # The usual server has had two names, and takes the keys of both.
    names = {server, usual, "api.wandb.ai"} if server in (usual, "api.wandb.ai") else {server}
    given = os.environ.get("NETRC")
    for file in [Path(given)] if given else [Path.home() / name for name in (".netrc", "_netrc")]:
        try:
            found = netrc.netrc(file)
        except (OSError, netrc.NetrcParseError):
            continue
        if any(found.authenticators(name) for name in names):
            return True
    return False


def offline(mode: str) -> bool:
    """Tell whether nothing shall leave this machine.

    Raises:
        UserError: For an unknown mode.
    """
    if mode not in MODES:
        raise unknown("logger.wandb.mode", mode, MODES)
    refused = os.environ.get("WANDB_MODE") in ("offline", "dryrun", "disabled")
    return mode == "offline" or (mode == "auto" and (refused or not logged_in()))


def sweep_of(folder: Path) -> str | None:
    """Return the name of the sweep a run folder belongs to; None where it belongs to none."""
    sweep = folder.resolve().parent
    # Ours, and the one that Hydra writes.
    if not any((sweep / name).is_file() for name in ("sweep.json", "multirun.yaml")):
        return None
    # By default a sweep's folder is DATE/TIME, and the time alone comes again every day.
    day = re.fullmatch(r"\d{4}-\d\d-\d\d", sweep.parent.name)
    return f"{sweep.parent.name}_{sweep.name}" if day else sweep.name


def known_id(start: LoggerContext) -> str | None:
    """Return the id of the run that is resumed, None for a new one.

    Raises:
        UserError: If ``wandb.json`` cannot be read.
    """
    file = start.folder / FILE
    if start.step is None or not file.is_file():
        return None
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["id"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} cannot be read ({reason(error)}): mend or remove it; without it the run goes "
            "on as a new one in W&B."
        ) from None


def begin(options: Mapping[str, Any], start: LoggerContext) -> Any:
    """Begin a run, or go on with the one of the folder, and write down its id.

    Args:
        options: The keys of ``conf/logger/wandb.yaml``.
        start: The run.

    Returns:
        W&B's run.

    Raises:
        UserError: If W&B is not there, or online was asked for and it cannot be reached.
    """
    try:
        import wandb
    except ImportError:
        raise UserError("logger=wandb needs wandb: pip install wandb") from None
    cfg = start.cfg
    found = {
        "id": known_id(start) or secrets.token_hex(4),
        "project": options["project"],
        "entity": options["entity"],
        "group": options["group"] or sweep_of(start.folder),
        "name": options["name"]
        or f"{cfg['model']['name']}, {cfg['loss']['name']}, seed {cfg['seed']}",
    }
    settings = wandb.Settings(
        silent=True,
        # What is printed, the machine and its packages stay here; see docs/tracking.md.
        console="off",
        host="",
        disable_git=True,
        x_disable_meta=True,
        x_save_requirements=False,
        init_timeout=INIT_S,
        finish_timeout=float(options["upload_s"]),
    )

    def init(mode: str) -> Any:
        return wandb.init(
            **found,
            mode=mode,
            dir=str(start.folder),
            job_type="train",
            tags=list(options["tags"]),
            resume="allow",
            # Not the one that another training of this process left open.
            reinit="finish_previous",
            settings=settings,
        )

    run = init("offline") if offline(options["mode"]) else _online(init, options["mode"])
    card = {
        **found,
        "mode": "offline" if run.offline else "online",
        "url": None if run.offline else run.url,
    }
    atomic_write(start.folder / FILE, (json.dumps(card, indent=2) + "\n").encode())
    return run


def _online(init: Callable[[str], Any], mode: str) -> Any:
    """Begin online; with ``mode: auto`` offline where that fails, which is said."""
    import wandb

    try:
        return init("online")
    except Exception as error:
        words = f"W&B cannot be used online ({reason(error)})"
        if mode == "online":
            raise UserError(
                f"{words}. Set logger.wandb.mode=offline and send the run later, wandb sync."
            ) from None
        print(f"wandb: {words}; going on offline", flush=True)
        # The half-begun run holds the id.
        wandb.teardown()
        return init("offline")


class Wandb(MediaLogger, WandbLogger):
    """Lightning's logger on a run that :func:`begin` began.

    W&B's own step is the optimiser step, so a resumed run goes on where it stopped, and what
    it repeats after its last checkpoint is dropped by the server.

    Args:
        run: W&B's run; None in any process but the first.
        options: The keys of ``conf/logger/wandb.yaml``.
        folder: The run folder.
    """

    title = "wandb"

    def __init__(self, run: Any, options: Mapping[str, Any], folder: Path) -> None:
        super().__init__(
            project=options["project"], save_dir=str(folder), experiment=run, log_model=False
        )
        self.run = run
        self.pictures_every, self.explain = options["pictures_every"], options["explain"]
        self.graph, self.faces = options["graph"], options["faces"]
        self.checkpoint = options["checkpoint"]

    @never_fail
    def log_hyperparams(self, params: Any) -> None:
        """Send the config."""
        super().log_hyperparams(params)

    @never_fail
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers under the optimiser step."""
        self.run.log(dict(metrics), step=step)

    @never_fail
    def network(self, net: EmotionNet) -> None:
        """Note the layers, their output shapes and parameters, as W&B's summary shows them."""
        if not self.graph:
            return
        work = bare_copy(net)
        size = net.spec.image_size
        inner = work.backbone.net
        # It says each time how to turn the graph off, in words of its own.
        with contextlib.redirect_stderr(io.StringIO()):
            self.run.watch(inner, log=None, log_graph=True)
        try:
            # W&B walks the graph of the output's gradient.
            with torch.enable_grad():
                work(torch.zeros(1, net.spec.channels, size, size))
        finally:
            self.run.unwatch(inner)

    @never_fail
    def pictures(self, pictures: Mapping[str, np.ndarray], step: int) -> None:
        """Show pictures; those with faces in them stay here with ``faces: false``."""
        import wandb

        with_faces = ("samples", "explain")
        shown = {
            name: wandb.Image(picture)
            for name, picture in pictures.items()
            if self.faces or name.split("/")[-1] not in with_faces
        }
        self.run.log(shown, step=step)

    @never_fail
    def results(self, facts: Mapping[str, float], checkpoint: Path, step: int) -> None:
        """Write the summary; online, keep the best checkpoint as an artifact."""
        self.run.summary.update(dict(facts))
        if self.checkpoint and not self.run.offline:
            self.keep(checkpoint, facts)

    def keep(self, checkpoint: Path, facts: Mapping[str, float]) -> None:
        """Log a checkpoint as the artifact ``best-<run id>``."""
        import wandb

        artifact = wandb.Artifact(f"best-{self.run.id}", type="model", metadata=dict(facts))
        artifact.add_file(str(checkpoint), name=checkpoint.name)
        self.run.log_artifact(artifact, aliases=["best"])

    def close(self, status: str) -> None:
        """Finish, also when it was lost, so that the next run of this process begins its own."""
        if self.run is None:
            return
        try:
            self.run.finish(exit_code=0 if status == "success" else 1)
        except Exception as error:
            print(f"wandb: {reason(error)}; what was not sent, wandb sync sends", flush=True)


@LOGGERS.register("wandb")
def build(options: dict[str, Any], start: LoggerContext) -> Logger:
    """Begin the run (in the first process of several) and build its logger."""
    run = begin(options, start) if rank_zero_only.rank == 0 else None
    return Wandb(run, options, start.folder)
