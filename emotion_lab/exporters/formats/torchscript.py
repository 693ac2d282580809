"""TorchScript: for programs in C++ that hold libtorch."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

from emotion_lab.exporters.base import FORMATS, ExportJob
from emotion_lab.exporters.formats.archive import Archive


@FORMATS.register("torchscript")
class TorchScript(Archive):
    """Traced; torch itself prefers torch_export, and keeps reading these."""

    suffix = ".torchscript"
    fixes_batch = False

    def write(self, job: ExportJob, path: Path) -> None:
        """See :meth:`Format.write`."""
        import torch

        from emotion_lab.exporters.graph import example

        with torch.no_grad(), warnings.catch_warnings():
            # Of its own deprecation, and of the shape that the network checks in Python.
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(job.model, example(job.model), check_trace=False)
            buffer = io.BytesIO()
            torch.jit.save(torch.jit.freeze(traced.eval()), buffer)
        # Not by torch itself: it ends the whole process where the disk is full.
        path.write_bytes(buffer.getbuffer())
