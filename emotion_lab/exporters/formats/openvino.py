"""OpenVINO's own files, straight from PyTorch."""

from __future__ import annotations

import html
import warnings
from pathlib import Path
from typing import Any

from emotion_lab.core.errors import UserError
from emotion_lab.exporters.base import DYNAMIC, FORMATS, ExportFormat, ExportJob
from emotion_lab.inference.loader import ENTRY, PIXELS, XML_ENTRY


def _quantized(model: Any, job: ExportJob) -> Any:
    """Return the model with 8-bit weights and activations."""
    from emotion_lab.exporters.quantize import quantize
    from emotion_lab.inference.openvino_core import core

    outside = [
        op.get_friendly_name()
        for op in model.get_ordered_ops()
        if op.get_type_name() not in ("Constant", "Parameter", "Result")
        and "__module.net" not in op.get_friendly_name()
        and ("__module." in op.get_friendly_name())
    ]

    def start(candidate: Any) -> Any:
        if not hasattr(candidate, "create_infer_request"):
            candidate = core().compile_model(candidate, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        request = candidate.create_infer_request()
        return lambda faces: request.infer([faces])[0].copy()

    return quantize(model, job, outside, start, lambda face: face)


@FORMATS.register("openvino")
class OpenVino(ExportFormat):
    """An .xml with the graph and a .bin with the weights.

    fp16 and bf16 keep weights in float16. Whether sums are done in float32 or bfloat16 is said
    when the file is opened, never left to the CPU. bfloat16 is for the network alone: a resized
    face in whole numbers up to 255 needs more than its 8 bits on the way.
    """

    suffix = ".xml"
    precisions = ("fp32", "fp16", "bf16", "int8")
    packages = ("openvino",)

    def write(self, job: ExportJob, path: Path) -> None:
        """See :meth:`ExportFormat.write`."""
        import torch

        from emotion_lab.exporters.graph import example
        from emotion_lab.inference.openvino_core import import_openvino

        ov = import_openvino()
        count = -1 if job.batch == DYNAMIC else int(job.batch)
        shape = ov.PartialShape([count, -1, -1, 3])
        faces = example(job.model, job.batch)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = ov.convert_model(job.model, example_input=faces, input=[(shape, ov.Type.u8)])
        model.inputs[0].get_tensor().set_names({"faces"})
        model.outputs[0].get_tensor().set_names({"probabilities"})
        prepared = [
            op for op in model.get_ordered_ops() if "__module.prepare" in op.get_friendly_name()
        ]
        prepared[-1].output(0).get_tensor().set_names({PIXELS})
        if job.precision == "int8":
            model = _quantized(model, job)
        model.set_rt_info("", ENTRY)
        try:
            ov.save_model(model, path, compress_to_fp16=job.precision in ("fp16", "bf16"))
        except RuntimeError as error:
            # Whatever hinders it, the words are those of a stream.
            if "iostream" not in str(error):
                raise
            raise UserError(f"{path.name} cannot be written: is the disk full?") from None

    def label(self, path: Path, text: str) -> None:
        """Fill in the entry that :meth:`write` left empty.

        Raises:
            RuntimeError: If it is not there, which is a mistake of this program.
        """
        entry = f'<{ENTRY} value="{html.escape(text)}" />'.encode()
        content, found = XML_ENTRY.subn(lambda _: entry, path.read_bytes(), count=1)
        if not found:
            raise RuntimeError(f"OpenVINO wrote no {ENTRY} entry")
        path.write_bytes(content)

    def files(self, path: Path) -> list[Path]:
        """See :meth:`ExportFormat.files`."""
        return [path.with_suffix(".bin"), path]

    def run_precision(self, precision: str) -> str:
        """See :meth:`ExportFormat.run_precision`."""
        return "bf16" if precision == "bf16" else "fp32"
