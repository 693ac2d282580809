"""OpenVINO's files, converted directly from PyTorch."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from emotion_lab.core.errors import UserError
from emotion_lab.inference.conversion.base import FORMATS, ExportFormat, ExportJob, quiet
from emotion_lab.inference.metadata import ENTRY, XML_ENTRY
from emotion_lab.inference.openvino_core import PIXELS


def _quantized(model: Any, job: ExportJob) -> Any:
    """Return the model with 8-bit weights and activations."""
    from emotion_lab.inference.conversion.quantize import quantize
    from emotion_lab.inference.openvino_core import core

    outside_network = [
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

    return quantize(model, job, outside_network, start, lambda faces: faces)


@FORMATS.register("openvino")
class OpenVino(ExportFormat):
    """An .xml file with the graph and a .bin file with the weights.

    fp16 and bf16 store float16 weights. The metadata names the precision of the computation, which
    is set when the file is opened, because OpenVINO would choose it by CPU. bf16 applies to the
    network only: resized pixels are integers up to 255 and need more than its 8 significant bits
    during interpolation.
    """

    suffix = ".xml"
    precisions = ("fp32", "fp16", "bf16", "int8")
    packages = ("openvino",)

    def write(self, job: ExportJob, path: Path) -> None:
        """See :meth:`ExportFormat.write`."""
        import torch

        from emotion_lab.inference.openvino_core import import_openvino

        ov, module = import_openvino(), job.model
        shape = ov.PartialShape(list(module.input_shape(job.batch)))
        with torch.no_grad(), quiet():
            model = ov.convert_model(
                module, example_input=module.example(job.batch), input=[(shape, ov.Type.u8)]
            )
        model.inputs[0].get_tensor().set_names({module.input_name})
        for output, name in zip(model.outputs, module.output_names, strict=True):
            output.get_tensor().set_names({name})
        resizing = [
            op for op in model.get_ordered_ops() if "__module.preprocess" in op.get_friendly_name()
        ]
        if resizing:
            resizing[-1].output(0).get_tensor().set_names({PIXELS})
        if job.precision == "int8":
            model = _quantized(model, job)
        model.set_rt_info("", ENTRY)
        try:
            ov.save_model(model, path, compress_to_fp16=job.precision in ("fp16", "bf16"))
        except RuntimeError as error:
            # The message is the same for every cause.
            if "iostream" not in str(error):
                raise
            raise UserError(f"{path.name} cannot be written: is the disk full?") from None

    def label(self, path: Path, text: str) -> None:
        """Fill in the entry that :meth:`write` left empty."""
        entry = f'<{ENTRY} value="{html.escape(text)}" />'.encode()
        content, count = XML_ENTRY.subn(lambda _: entry, path.read_bytes(), count=1)
        if not count:
            raise RuntimeError(f"OpenVINO wrote no {ENTRY} entry")
        path.write_bytes(content)

    def files(self, path: Path) -> list[Path]:
        """See :meth:`ExportFormat.files`."""
        return [path.with_suffix(".bin"), path]

    def run_precision(self, precision: str) -> str:
        """See :meth:`ExportFormat.run_precision`."""
        return "bf16" if precision == "bf16" else "fp32"
