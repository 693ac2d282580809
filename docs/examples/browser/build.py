"""Assemble the web page as a folder of files for any static host.

    python docs/examples/browser/build.py OUT
    python docs/examples/browser/build.py OUT --model=senet.fp32.onnx --detector=yunet.onnx

The folder holds the page, onnxruntime-web, the model and, if given, the detector YuNet. It needs
no other host. onnxruntime-web is installed with npm on the first call.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
MODEL = ROOT / "emotion_lab" / "weights" / "fer2013.onnx"
#: Where npm installs; outside of docs, whose pages are built and checked.
NPM = ROOT / "build" / "npm"
PACKAGE = NPM / "node_modules" / "onnxruntime-web"
PAGE = ("index.html", "page.css", "page.js", "emotion.js", "yunet.js")
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


def install() -> None:
    """Install onnxruntime-web, the version in package.json, unless it is installed.

    Raises:
        SystemExit: If npm is missing or fails.
    """
    if PACKAGE.is_dir():
        return
    npm = shutil.which("npm")
    if not npm:
        raise SystemExit("error: npm is missing; install Node.js")
    NPM.mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE / "package.json", NPM)
    words = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund"]
    if subprocess.run(words, cwd=NPM).returncode:
        raise SystemExit("error: npm could not install onnxruntime-web")


def assemble(out: Path, model: Path, detector: Path | None = None) -> None:
    """Copy the page and everything it loads.

    Args:
        out: The folder, created if missing; files of the same name are replaced.
        model: An .onnx file that ``emotion_lab.export`` wrote.
        detector: YuNet's face_detection_yunet_2023mar.onnx; None for a page without detection.
    """
    (out / "ort").mkdir(parents=True, exist_ok=True)
    for name in PAGE:
        shutil.copy(HERE / name, out)
    for name in RUNTIME:
        shutil.copy(PACKAGE / "dist" / name, out / "ort")
    shutil.copy(model, out / "model.onnx")
    if detector:
        shutil.copy(detector, out / "detector.onnx")
    else:
        (out / "detector.onnx").unlink(missing_ok=True)


def main() -> int:
    """Assemble the folder and print how to open it; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="the folder to write")
    parser.add_argument("--model", type=Path, default=MODEL, help="default: fer2013")
    parser.add_argument("--detector", type=Path, help="face_detection_yunet_2023mar.onnx")
    args = parser.parse_args()
    for option in ("model", "detector"):
        file = getattr(args, option)
        if file and not (file.suffix == ".onnx" and file.is_file()):
            parser.error(f"--{option}={file} is not an .onnx file")
    install()
    assemble(args.out, args.model, args.detector)
    size = sum(file.stat().st_size for file in args.out.rglob("*") if file.is_file())
    print(f"{args.out}: {size / 1e6:.0f} MB, ready to copy to a static host")
    print(f"to try it: python -m http.server --bind 127.0.0.1 --directory {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
