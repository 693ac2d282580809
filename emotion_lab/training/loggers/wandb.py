"""``logger=wandb``: Weights & Biases, offline if no API key is configured."""

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
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np
import torch
from lightning.pytorch.loggers import Logger, WandbLogger

from emotion_lab.core import distributed
from emotion_lab.core.errors import UserError, first_line
from emotion_lab.core.io import write_json
from emotion_lab.models.base import EmotionNet
from emotion_lab.training.loggers.base import (
    LOGGERS,
    LoggerContext,
    MediaLogger,
    detached_copy,
    never_fail,
)

#: File in the run directory with id, project and URL of the run.
FILE = "wandb.json"
#: Seconds to wait for the W&B server.
INIT_TIMEOUT_S = 15.0


def has_api_key() -> bool:
    """Return whether an API key for the W&B server is in the environment or in ``.netrc``."""
    import wandb

    if os.environ.get("WANDB_API_KEY"):
        return True
    default = urlsplit(wandb.Settings().base_url).netloc
    server = urlsplit(os.environ.get("WANDB_BASE_URL") or wandb.Settings().base_url).netloc
    # The default server has two names and accepts the keys of both.
    names = {server, default, "api.wandb.ai"} if server in (default, "api.wandb.ai") else {server}
    netrc_path = os.environ.get("NETRC")
    paths = [Path(netrc_path)] if netrc_path else [Path.home() / f for f in (".netrc", "_netrc")]
    for path in paths:
        try:
            entries = netrc.netrc(path)
        except (OSError, netrc.NetrcParseError):
            continue
        if any(entries.authenticators(name) for name in names):
            return True
    return False


def is_offline(mode: str) -> bool:
    """Return whether a run with ``logger.wandb.mode=<mode>`` sends nothing over the network."""
    disabled = os.environ.get("WANDB_MODE") in ("offline", "dryrun", "disabled")
    return mode == "offline" or (mode == "auto" and (disabled or not has_api_key()))


def sweep_name(run_dir: Path) -> str | None:
    """Return the name of the sweep that a run directory belongs to, if any."""
    sweep = run_dir.resolve().parent
    # sweep.json is ours, multirun.yaml is Hydra's.
    if not any((sweep / name).is_file() for name in ("sweep.json", "multirun.yaml")):
        return None
    # By default a sweep's directory is DATE/TIME, and the time alone is not unique.
    dated = re.fullmatch(r"\d{4}-\d\d-\d\d", sweep.parent.name)
    return f"{sweep.parent.name}_{sweep.name}" if dated else sweep.name


def saved_run_id(context: LoggerContext) -> str | None:
    """Return the W&B id of the run that is resumed, None for a new run."""
    path = context.run_dir / FILE
    if context.step is None or not path.is_file():
        return None
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["id"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read ({first_line(error)}): repair or remove it. Without it, W&B "
            "starts a new run."
        ) from None


def start_run(options: Mapping[str, Any], context: LoggerContext) -> Any:
    """Start or resume the ``wandb.Run`` of a run directory, and write ``wandb.json``.

    The options are the keys of ``conf/logger/wandb.yaml``.
    """
    try:
        import wandb
    except ImportError:
        raise UserError("logger=wandb needs wandb: pip install wandb") from None
    cfg = context.cfg
    default_name = f"{cfg['model']['name']}, {cfg['loss']['name']}, seed {cfg['seed']}"
    identity = {
        "id": saved_run_id(context) or secrets.token_hex(4),
        "project": options["project"],
        "entity": options["entity"],
        "group": options["group"] or sweep_name(context.run_dir),
        "name": options["name"] or default_name,
    }
    settings = wandb.Settings(
        silent=True,
        # Do not send console output, host name, repository or packages; see docs/tracking.md.
        console="off",
        host="",
        disable_git=True,
        x_disable_meta=True,
        x_save_requirements=False,
        init_timeout=INIT_TIMEOUT_S,
        finish_timeout=float(options["upload_s"]),
    )

    def init(mode: Literal["online", "offline"]) -> Any:
        return wandb.init(
            **identity,
            mode=mode,
            dir=str(context.run_dir),
            job_type="train",
            tags=list(options["tags"]),
            resume="allow",
            # Finish a run that an earlier training in this process left open.
            reinit="finish_previous",
            settings=settings,
        )

    mode = options["mode"]
    run = init("offline") if is_offline(mode) else _init_online(init, mode)
    content = {
        **identity,
        "mode": "offline" if run.offline else "online",
        "url": None if run.offline else run.url,
    }
    write_json(context.run_dir / FILE, content)
    return run


def _init_online(init: Callable[[Literal["online", "offline"]], Any], mode: str) -> Any:
    """Start an online run; with ``mode=auto``, an offline one if the server is not reachable."""
    import wandb

    try:
        return init("online")
    except Exception as error:
        message = f"W&B cannot be used online ({first_line(error)})"
        if mode == "online":
            raise UserError(
                f"{message}. Set logger.wandb.mode=offline and upload the run later: wandb sync."
            ) from None
        print(f"wandb: {message}; logging offline", flush=True)
        # The failed init still holds the run id.
        wandb.teardown()
        return init("offline")


class Wandb(MediaLogger, WandbLogger):
    """Lightning's WandbLogger for a run of :func:`start_run`.

    W&B's step is the optimiser step. A resumed run continues at the step of its checkpoint, and the
    server discards repeated steps. ``run`` is None in all ranks but 0.
    """

    title = "wandb"

    def __init__(self, run: Any, options: Mapping[str, Any], run_dir: Path) -> None:
        super().__init__(
            project=options["project"], save_dir=str(run_dir), experiment=run, log_model=False
        )
        self.run = run
        self.pictures_every, self.explain = options["pictures_every"], options["explain"]
        self.graph, self.faces = options["graph"], options["faces"]
        self.upload_checkpoint = options["checkpoint"]

    @never_fail
    def log_hyperparams(self, params: Any) -> None:
        """Log the config."""
        super().log_hyperparams(params)

    @never_fail
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers under the optimiser step."""
        self.run.log(dict(metrics), step=step)

    @never_fail
    def log_network(self, net: EmotionNet) -> None:
        """Log the layers with their output shapes and parameters to W&B's graph."""
        if not self.graph:
            return
        net = detached_copy(net)
        size = net.spec.image_size
        inner = net.backbone.net
        # watch() prints how to disable the graph with its own options.
        with contextlib.redirect_stderr(io.StringIO()):
            self.run.watch(inner, log=None, log_graph=True)
        try:
            # W&B reads the graph from the gradient function of the output.
            with torch.enable_grad():
                net(torch.zeros(1, net.spec.channels, size, size))
        finally:
            self.run.unwatch(inner)

    @never_fail
    def log_images(self, images: Mapping[str, np.ndarray], step: int) -> None:
        """Log images; with ``logger.wandb.faces=false``, none that show faces."""
        import wandb

        with_faces = ("samples", "explain")
        allowed = {
            name: wandb.Image(image)
            for name, image in images.items()
            if self.faces or name.split("/")[-1] not in with_faces
        }
        self.run.log(allowed, step=step)

    @never_fail
    def log_results(self, results: Mapping[str, float], checkpoint: Path, step: int) -> None:
        """Write the summary; online, also upload the best checkpoint."""
        self.run.summary.update(dict(results))
        if self.upload_checkpoint and not self.run.offline:
            self.log_checkpoint(checkpoint, results)

    def log_checkpoint(self, checkpoint: Path, results: Mapping[str, float]) -> None:
        """Log a checkpoint as the artifact ``best-<run id>``."""
        import wandb

        artifact = wandb.Artifact(f"best-{self.run.id}", type="model", metadata=dict(results))
        artifact.add_file(str(checkpoint), name=checkpoint.name)
        self.run.log_artifact(artifact, aliases=["best"])

    def close(self, status: str) -> None:
        """Finish the run, also after a failure, so that the process can start another run."""
        if self.run is None:
            return
        try:
            self.run.finish(exit_code=0 if status == "success" else 1)
        except Exception as error:
            print(f"wandb: {first_line(error)}; upload the rest with wandb sync", flush=True)


@LOGGERS.register("wandb")
def build(options: dict[str, Any], context: LoggerContext) -> Logger:
    """Start the W&B run in rank 0 and build the logger."""
    run = start_run(options, context) if distributed.is_rank_zero() else None
    return Wandb(run, options, context.run_dir)
