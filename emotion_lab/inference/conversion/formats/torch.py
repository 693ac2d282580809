"""torch's own files: TorchScript for C++ programs with libtorch, and torch.export's archive."""

from __future__ import annotations

import io
import zipfile
from abc import abstractmethod
from pathlib import Path

from emotion_lab.inference.conversion.base import FORMATS, ExportFormat, ExportJob, quiet
from emotion_lab.inference.metadata import EXTRA


class Archive(ExportFormat):
    """A zip file that torch writes, in float32; the metadata is one more zip entry."""

    precisions = ("fp32",)

    @abstractmethod
    def serialize(self, job: ExportJob, buffer: io.BytesIO) -> None:
        """Export the model into ``buffer``."""

    def write(self, job: ExportJob, path: Path) -> None:
        """See :meth:`ExportFormat.write`."""
        import torch

        buffer = io.BytesIO()
        with torch.no_grad():
            self.serialize(job, buffer)
        # torch itself must not write the file: on a full disk it aborts the process.
        path.write_bytes(buffer.getbuffer())

    def label(self, path: Path, text: str) -> None:
        """See :meth:`ExportFormat.label`."""
        with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
            root = archive.namelist()[0].split("/", 1)[0]
            archive.writestr(zipfile.ZipInfo(f"{root}/{EXTRA}"), text)


@FORMATS.register("torchscript")
class TorchScript(Archive):
    """A traced module. torch has deprecated TorchScript and still reads it."""

    suffix = ".torchscript"
    fixes_batch = False

    def serialize(self, job: ExportJob, buffer: io.BytesIO) -> None:
        """See :meth:`Archive.serialize`."""
        import torch

        # torch warns about the deprecation and about the shape check of the network in Python.
        with quiet():
            traced = torch.jit.trace(job.model, job.model.example(), check_trace=False)
            torch.jit.save(torch.jit.freeze(traced.eval()), buffer)


@FORMATS.register("torch_export")
class TorchExport(Archive):
    """An ExportedProgram (.pt2), the input of AOTInductor and ExecuTorch."""

    suffix = ".pt2"

    def serialize(self, job: ExportJob, buffer: io.BytesIO) -> None:
        """See :meth:`Archive.serialize`."""
        import torch

        example, shapes = job.model.example(job.batch), job.model.dynamic_shapes(job.batch)
        program = torch.export.export(job.model, (example,), dynamic_shapes=(shapes,))
        for node in program.graph.nodes:
            # These contain source file paths of this machine.
            for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node"):
                node.meta.pop(key, None)
        torch.export.save(program, buffer)
