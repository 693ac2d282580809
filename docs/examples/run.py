"""Run the examples and compare their probabilities with ``emotion_lab.inference.loader``.

    python docs/examples/run.py                    # trains and exports a tiny network first
    python docs/examples/run.py --model=senet.fp32.onnx --cpp=docs/examples/cpp/build/face

The Python examples always run. The web page needs Chromium and onnxruntime-web (make browser), the
C++ example --cpp=<built program>. The exit code is 1 if a probability differs by more than 1e-5.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from emotion_lab.core.labels import EMOTIONS
from emotion_lab.inference.loader import load
from emotion_lab.synthetic.render import draw_face
from emotion_lab.synthetic.spec import sample_face

HERE = Path(__file__).resolve().parent
SCRIPTS = tuple(sorted((HERE / "python").glob("*.py")))
MODULES = HERE.parents[1] / "build" / "npm" / "node_modules"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
TOLERANCE = 1e-5
#: Sides of the faces: equal to, below, above and twice the input size of the network.
SIZES = (48, 31, 130, 96)

#: Class -> probability.
Probabilities = dict[str, float]

#: Opens the page at each address and posts the values of the bars and the frame.
_DRIVER = """<!doctype html>
<iframe id="page" width="390" height="844" allow="camera"></iframe>
<script type="module">
  const page = document.getElementById("page");
  const results = [];
  const frames = [];
  const post = (body) => fetch("/results", { method: "POST", body: JSON.stringify(body) });
  const wait = () => new Promise((go) => setTimeout(go, 50));
  try {
    for (const query of QUERIES) {
      page.src = `index.html?${query}`;
      await new Promise((go) => page.addEventListener("load", go, { once: true }));
      const all = (selector) => [...page.contentDocument.querySelectorAll(selector)];
      if (query === "camera") {
        while (!all("#bars li").length && !all("#message.alarm").length) await wait();
        all("#camera")[0].click();
      }
      for (;;) {
        const [alarm] = all("#message.alarm");
        if (alarm) throw new Error(alarm.textContent);
        const rows = all("#bars li");
        if (rows.length && rows.every((row) => row.dataset.probability)) {
          const read = (row) => [row.querySelector(".name").textContent, +row.dataset.probability];
          results.push(Object.fromEntries(rows.map(read)));
          frames.push(all("#stage")[0].dataset.frame.split(",").map(Number));
          break;
        }
        await wait();
      }
    }
    const sent = await page.contentWindow.fetch("OTHER", { mode: "no-cors" }).then(
      () => true, () => false);
    await post({ results, frames, sent });
  } catch (error) {
    await post({ error: error.message });
  }
</script>
"""


class ExampleError(Exception):
    """An example failed to run or returned other classes."""


def draw_faces(folder: Path) -> list[Path]:
    """Draw RGB faces of several sizes as PNG files."""
    paths = []
    for i, size in enumerate(SIZES):
        face = draw_face(sample_face(np.random.default_rng(i), EMOTIONS[i]), size, 3)
        paths.append(folder / f"face{i}.png")
        cv2.imwrite(str(paths[-1]), cv2.cvtColor(face, cv2.COLOR_RGB2BGR))
    return paths


def expected(model: Path, faces: Sequence[Path]) -> list[Probabilities]:
    """Return the probabilities of ``emotion_lab.inference.loader``."""
    network = load(model)
    images = [cv2.cvtColor(cv2.imread(str(face)), cv2.COLOR_BGR2RGB) for face in faces]
    return [dict(zip(network.classes, map(float, network(image)), strict=True)) for image in images]


def run_command(words: Sequence[str | Path]) -> Probabilities:
    """Run a command that prints one line ``<class> <probability>`` per class."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode:
        raise ExampleError(f"{' '.join(str(word) for word in words)}: {done.stderr.strip()}")
    pairs = (line.rsplit(" ", 1) for line in done.stdout.splitlines())
    return {name: float(probability) for name, probability in pairs}


def largest_difference(
    results: Sequence[Probabilities], references: Sequence[Probabilities]
) -> float:
    """Return the largest difference of a probability."""
    if [sorted(result) for result in results] != [sorted(result) for result in references]:
        raise ExampleError(f"other classes or faces: {results} instead of {references}")
    return max(
        abs(result[name] - reference[name])
        for result, reference in zip(results, references, strict=True)
        for name in reference
    )


def run_python(script: Path, model: Path, faces: Sequence[Path]) -> list[Probabilities]:
    """Run one of the Python examples."""
    return [run_command([sys.executable, script, model, face]) for face in faces]


def run_cpp(program: Path, model: Path, faces: Sequence[Path]) -> list[Probabilities]:
    """Run the C++ example, which reads PPM."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for face in faces:
            copy = Path(folder) / f"{face.stem}.ppm"
            cv2.imwrite(str(copy), cv2.imread(str(face)))
            results.append(run_command([program.resolve(), model, copy]))
    return results


def find_browser() -> str | None:
    """Return the path of a Chromium, None if not installed."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


class _Site(SimpleHTTPRequestHandler):
    """Serves the folder of the page; posted results go to a queue."""

    posted: queue.Queue[dict[str, Any]]

    def log_message(self, *_: Any) -> None:
        """Suppress the log."""

    def do_POST(self) -> None:
        """Receive the results."""
        self.posted.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()


@contextmanager
def _served(folder: Path) -> Iterator[tuple[str, queue.Queue[dict[str, Any]]]]:
    posted: queue.Queue[dict[str, Any]] = queue.Queue()
    site = type("Site", (_Site,), {"posted": posted})
    handler = functools.partial(site, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", posted
        finally:
            server.shutdown()


@dataclass(frozen=True)
class Visit:
    """What the page showed.

    Attributes:
        results: The bars at each address.
        frames: Left, top and side of the frame in pixels of the image, at each address.
        sent: Whether the page could send a request to another host.
    """

    results: list[Probabilities]
    frames: list[list[int]]
    sent: bool


def visit_page(
    program: str,
    model: Path,
    queries: Sequence[str],
    files: Sequence[Path] = (),
    detector: Path | None = None,
    clip: Path | None = None,
    timeout: float = 240,
) -> Visit:
    """Assemble the page and open it in a headless Chromium.

    Args:
        program: Path of Chromium.
        model: The exported file.
        queries: ``photo=<name>`` of a file, or ``camera`` to press the button Camera.
        files: Photos to put beside the page.
        detector: YuNet's .onnx; None for a page without detection.
        clip: A .y4m or .mjpeg file that the camera shows, repeated.
        timeout: Seconds for all addresses.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name) / "site"
        command = [sys.executable, HERE / "browser" / "build.py", folder, f"--model={model}"]
        command += [f"--detector={detector}"] if detector else []
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        for file in files:
            shutil.copy(file, folder)
        with _served(folder) as (address, posted), _served(folder) as (other, _):
            driver = _DRIVER.replace("QUERIES", json.dumps(queries)).replace("OTHER", other)
            (folder / "driver.html").write_text(driver)
            words = [program, "--headless", "--disable-gpu", "--no-first-run"]
            words += ["--disable-background-networking", f"--user-data-dir={name}/profile"]
            if clip:
                words += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
                words += [f"--use-file-for-fake-video-capture={clip}"]
            if hasattr(os, "geteuid") and os.geteuid() == 0:
                words.append("--no-sandbox")  # Chromium has no sandbox for root
            # Without a debugging port it would print the page and exit; 0 selects a free port.
            words += ["--remote-debugging-port=0", f"{address}/driver.html"]
            process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                result = posted.get(timeout=timeout)
            except queue.Empty:
                raise ExampleError(f"the page sent no result within {timeout:g} s") from None
            finally:
                process.terminate()
                process.wait(30)
    if "error" in result:
        raise ExampleError(f"the page shows: {result['error']}")
    return Visit(**result)


def run_browser(program: str, model: Path, faces: Sequence[Path]) -> list[Probabilities]:
    """Open square photos, which the frame of the page covers completely, and read the bars."""
    return visit_page(program, model, [f"photo={face.name}" for face in faces], faces).results


def export_tiny(folder: Path) -> Path:
    """Train a tiny network on synthetic faces for one epoch; return its exported file."""
    run, out = folder / "run", folder / "export"
    small = ["data=synthetic", "data.n=400", "model=senet", "model.widths=[8,8,8,8]"]
    small += ["model.stem=8", "trainer=cpu", "trainer.max_epochs=1", "logger=none"]
    for words in (
        ["train", *small, f"hydra.run.dir={run}"],
        ["export", f"ckpt={run}", "format=onnx", f"hydra.run.dir={out}"],
    ):
        module = f"emotion_lab.{words[0]}"
        done = subprocess.run(
            [sys.executable, "-m", module, *words[1:]], cwd=folder, capture_output=True, text=True
        )
        if done.returncode:
            raise ExampleError(f"{module}: {done.stderr.strip()}")
    return next(out.glob("*.onnx"))


def main() -> int:
    """Run the available examples and print one line for each; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="an exported .onnx; default: a tiny new one")
    parser.add_argument("--cpp", type=Path, help="the built C++ example")
    args = parser.parse_args()
    if args.model and (args.model.suffix != ".onnx" or not args.model.is_file()):
        parser.error(f"--model={args.model} is not an .onnx file, the only format of the examples")
    chromium, failed = find_browser(), False
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        faces = draw_faces(folder)
        model = args.model or export_tiny(folder)
        references = expected(model, faces)
        examples: dict[str, Any] = {
            f"python/{script.name}": functools.partial(run_python, script) for script in SCRIPTS
        }
        if args.cpp:
            examples["cpp"] = functools.partial(run_cpp, args.cpp)
        else:
            print("cpp: not run, set --cpp=<built program>")
        if not chromium:
            print("browser: not run, Chromium is not installed")
        elif not MODULES.is_dir():
            print("browser: not run, first run: make browser")
        else:
            examples["browser"] = functools.partial(run_browser, chromium)
        for name, run in examples.items():
            try:
                difference = largest_difference(run(model, faces), references)
            except ExampleError as error:
                print(f"{name}: FAILED, {error}")
                failed = True
                continue
            passed = difference <= TOLERANCE
            failed |= not passed
            verdict = "passed" if passed else "FAILED"
            print(f"{name}: {verdict}, {len(faces)} faces, largest difference {difference:.1g}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
