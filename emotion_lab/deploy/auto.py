"""The fastest runtime that is installed and gives PyTorch's answers."""

from __future__ import annotations

from typing import Any

from emotion_lab.deploy.base import RUNTIMES, Runtime, Source, Unusable

#: Fastest first, as measured on two CPU cores with small batches. The last always works.
ORDER = ("openvino", "onnx", "torch")


@RUNTIMES.register("auto")
def build(cfg: dict[str, Any], source: Source) -> Runtime:
    """Try the runtimes in :data:`ORDER`; the notes say why those before were passed over."""
    passed = []
    for name in ORDER[:-1]:
        try:
            runtime = RUNTIMES.get(name)({**cfg, "name": name}, source)
        except Unusable as error:
            passed.append(str(error))
            continue
        break
    else:
        runtime = RUNTIMES.get(ORDER[-1])({**cfg, "name": ORDER[-1]}, source)
    why = "the fastest that is installed" if not passed else "; ".join(passed)
    return Runtime(runtime.name, runtime.run, [f"auto: {why}", *runtime.notes])
