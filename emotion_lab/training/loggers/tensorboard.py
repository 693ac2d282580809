"""``logger=tensorboard``: event files in ``tensorboard/``."""

from __future__ import annotations

import contextlib
import io
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from emotion_lab.config import schema
from emotion_lab.core.errors import first_line
from emotion_lab.models.base import EmotionNet
from emotion_lab.models.temporal import TemporalNet
from emotion_lab.training.loggers.base import (
    LOGGERS,
    LoggerContext,
    MediaLogger,
    detached_copy,
    is_fatal,
    never_fail,
)


def hyperparameters(cfg: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """Return the config as the HParams tab accepts it: dotted keys, no null values."""
    return {
        key: value if isinstance(value, (bool, int, float, str)) else str(value)
        for key, value in schema.identity(dict(cfg)).items()
        if value is not None
    }


def _session_end() -> Any:
    """Return the protobuf summary that marks a run as successful in the HParams tab."""
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
    """Lightning's TensorBoardLogger with hyperparameters and results for comparing runs.

    The options are the keys of ``conf/logger/tensorboard.yaml``.
    """

    title = "tensorboard"

    def __init__(
        self,
        context: LoggerContext,
        graph: bool = True,
        pictures_every: int | None = None,
        explain: int = 0,
    ) -> None:
        # A resumed run repeats the steps after its checkpoint. With purge_step, readers discard
        # the events of those steps that the stopped run had logged.
        super().__init__(
            context.run_dir,
            name="tensorboard",
            version="",
            default_hp_metric=False,
            purge_step=context.step,
        )
        self.graph, self.pictures_every, self.explain = graph, pictures_every, explain
        self._resumed = context.step is not None

    @never_fail
    def log_hyperparams(
        self, params: Any, metrics: dict[str, Any] | None = None, step: int | None = None
    ) -> None:
        """Write ``hparams.yaml`` and start the run's session in the HParams tab.

        torch's ``add_hparams`` also writes a list of all hyperparameters. TensorBoard applies the
        list of one run to all, so a sweep over models would lack the keys of the other models.
        """
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb

        super().log_hyperparams(params)
        self._add_summary(hparams_pb(hyperparameters(params)))

    @never_fail
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers under the optimiser step."""
        # Lightning adds the epoch to every call; it would be logged several times a step.
        super().log_metrics({k: v for k, v in metrics.items() if k != "epoch"}, step)
        if "train/criterion" in metrics:
            # End of an epoch. A run that is killed later resumes after it, so its events must be
            # on disk.
            self.experiment.flush()

    def _add_summary(self, summary: Any) -> None:
        self.experiment._get_file_writer().add_summary(summary)

    @never_fail
    def log_network(self, net: EmotionNet) -> None:
        """Log the graph in eval mode; print one line if the network cannot be traced."""
        if not self.graph or self._resumed or isinstance(net, TemporalNet):  # it takes no images
            return
        images = torch.zeros(1, net.spec.channels, net.spec.image_size, net.spec.image_size)
        try:
            # torch's tracer prints errors and warns about every shape that it treats as constant.
            with (
                contextlib.redirect_stdout(io.StringIO()),
                warnings.catch_warnings(),
                torch.no_grad(),
            ):
                warnings.simplefilter("ignore")
                self.experiment.add_graph(detached_copy(net), images)
        except Exception as error:
            if is_fatal(error):
                raise
            print(f"tensorboard: no graph, the network cannot be traced ({first_line(error)})")

    @never_fail
    def log_images(self, images: Mapping[str, np.ndarray], step: int) -> None:
        """Log images to the Images tab."""
        for name, image in images.items():
            self.experiment.add_image(name, image, step, dataformats="HWC")

    @never_fail
    def log_results(self, results: Mapping[str, float], checkpoint: Path, step: int) -> None:
        """Log the scores of the best checkpoint, the metric columns of the HParams tab.

        The session ends with them; it stays open for a run that failed before.
        """
        for name, value in results.items():
            if name.startswith("best/"):
                self.experiment.add_scalar(name, value, step)
        self._add_summary(_session_end())

    @never_fail
    def finalize(self, status: str) -> None:
        """Write the events of the training to disk.

        Lightning calls it at the end of training. The event file stays open for the final
        evaluation: a closed writer would start a second file, and TensorBoard may read two files
        of the same second in the wrong order.
        """
        if self._experiment is not None:
            self._experiment.flush()

    @never_fail
    def close(self, status: str) -> None:
        """Write ``hparams.yaml`` and close the event file."""
        super().finalize(status)


@LOGGERS.register("tensorboard")
def build(options: dict[str, Any], context: LoggerContext) -> Logger:
    """Build the logger."""
    return TensorBoard(context, **options)
