"""``logger=tensorboard``: event files in ``tensorboard/``."""

from __future__ import annotations

import contextlib
import io
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from emotion_lab.models.base import EmotionNet
from emotion_lab.training.loggers.base import (
    LOGGERS,
    LoggerContext,
    MediaLogger,
    bare_copy,
    is_fatal,
    never_fail,
    reason,
)

#: Where a run writes and what it logs to is no hyperparameter.
_NO_HYPERPARAMETER = ("logger", "sweep", "test_ledger", "resume", "test")


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def hyperparameters(cfg: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """Return the config under dotted keys, as the HParams tab takes it; null is left out."""
    chosen = {key: value for key, value in cfg.items() if key not in _NO_HYPERPARAMETER}
    plain = (bool, int, float, str)
    return {
        key: value if isinstance(value, plain) else str(value)
        for key, value in _leaves(chosen)
        if value is not None
    }


def _success() -> Any:
    """Return the summary that ends a run's line in the HParams tab."""
    # TensorBoard's own session_end_pb needs tensorflow.
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import metadata
    from tensorboard.plugins.hparams.api_pb2 import Status
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo

    end = SessionEndInfo(status=Status.Value("STATUS_SUCCESS"), end_time_secs=time.time())
    content = metadata.create_summary_metadata(HParamsPluginData(session_end_info=end))
    tag = metadata.SESSION_END_INFO_TAG
    return Summary(value=[Summary.Value(tag=tag, metadata=content, tensor=metadata.NULL_TENSOR)])


class TensorBoard(MediaLogger, TensorBoardLogger):
    """Lightning's logger, with hyperparameters and results that compare across runs.

    Args:
        start: The run.
        graph: Whether the network's graph is drawn.
        pictures_every: See :class:`MediaLogger`.
        explain: See :class:`MediaLogger`.
    """

    title = "tensorboard"

    def __init__(
        self,
        start: LoggerContext,
        graph: bool = True,
        pictures_every: int | None = None,
        explain: int = 0,
    ) -> None:
        # What a killed run logged after its last checkpoint is logged again: readers drop the
        # first version when they come to the purge step.
        super().__init__(
            start.folder,
            name="tensorboard",
            version="",
            default_hp_metric=False,
            purge_step=start.step,
        )
        self.graph, self.pictures_every, self.explain = graph, pictures_every, explain
        self._resumed = start.step is not None

    @never_fail
    def log_hyperparams(
        self, params: Any, metrics: dict[str, Any] | None = None, step: int | None = None
    ) -> None:
        """Write ``hparams.yaml`` and open the run's line in the HParams tab.

        Without the list of all hyperparameters that torch's ``add_hparams`` writes: TensorBoard
        takes that of one run for all, and a sweep over models would lack what only others have.
        """
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb

        super().log_hyperparams(params)
        self._summary(hparams_pb(hyperparameters(params)))

    @never_fail
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers under the optimiser step."""
        # Lightning adds the epoch to every call, so that it would stand there several times.
        super().log_metrics({k: v for k, v in metrics.items() if k != "epoch"}, step)
        if "train/loss" in metrics:
            # The end of an epoch, and of what its checkpoint knows: a run that is killed later
            # goes on from there and does not log it again.
            self.experiment.flush()

    def _summary(self, summary: Any) -> None:
        self.experiment._get_file_writer().add_summary(summary)

    @never_fail
    def network(self, net: EmotionNet) -> None:
        """Draw the graph in eval mode; one line where the network cannot be traced."""
        if not self.graph or self._resumed:
            return
        images = torch.zeros(1, net.spec.channels, net.spec.image_size, net.spec.image_size)
        try:
            work = bare_copy(net)
            # The tracer prints what it dislikes, and warns of every shape it takes for constant.
            with (
                contextlib.redirect_stdout(io.StringIO()),
                warnings.catch_warnings(),
                torch.no_grad(),
            ):
                warnings.simplefilter("ignore")
                self.experiment.add_graph(work, images)
        except Exception as error:
            if is_fatal(error):
                raise
            print(f"tensorboard: no graph, the network cannot be traced ({reason(error)})")

    @never_fail
    def pictures(self, pictures: Mapping[str, np.ndarray], step: int) -> None:
        """See :meth:`MediaLogger.pictures`."""
        for name, picture in pictures.items():
            self.experiment.add_image(name, picture, step, dataformats="HWC")

    @never_fail
    def results(self, facts: Mapping[str, float], checkpoint: Path, step: int) -> None:
        """Write the scores of the best checkpoint, the columns of the HParams tab.

        The run's line is ended here: of a run that did not come so far it stays open.
        """
        for name, value in facts.items():
            if name.startswith("best/"):
                self.experiment.add_scalar(name, value, step)
        self._summary(_success())

    @never_fail
    def close(self, status: str) -> None:
        """See :meth:`MediaLogger.close`."""
        self.finalize(status)
        if self._experiment is not None:
            self._experiment.close()


@LOGGERS.register("tensorboard")
def build(options: dict[str, Any], start: LoggerContext) -> Logger:
    """Build it."""
    return TensorBoard(start, **options)
