"""torch.export's own archive, .pt2: what AOTInductor and ExecuTorch start from."""

from __future__ import annotations

import io
from pathlib import Path

from emotion_lab.exporters.base import FORMATS, ExportJob
from emotion_lab.exporters.formats.archive import Archive


@FORMATS.register("torch_export")
class TorchExport(Archive):
    """An ExportedProgram."""

    suffix = ".pt2"

    def write(self, job: ExportJob, path: Path) -> None:
        """See :meth:`Format.write`."""
        import torch

        from emotion_lab.exporters.graph import example, open_sizes

        faces = example(job.model, job.batch)
        sizes = open_sizes(job.batch)
        with torch.no_grad():
            program = torch.export.export(job.model, (faces,), dynamic_shapes=(sizes,))
        for node in program.graph.nodes:
            # Where each line of ours stood on this machine is nobody's business.
            for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node"):
                node.meta.pop(key, None)
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
        # Not by torch itself: it ends the whole process where the disk is full.
        path.write_bytes(buffer.getbuffer())
