"""Run the examples and hold their answers against ``emotion_lab.inference.loader``.

    python docs/examples/run.py                                   # exports a tiny network first
    python docs/examples/run.py --model=senet.fp32.onnx --cpp=docs/examples/cpp/build/face

The Python ones always run; the page where Chromium and browser/node_modules are there; the C++ one
where --cpp= says what was built. The exit code is 1 if a probability differs by more than 1e-4.
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
MODULES = HERE / "browser" / "node_modules"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
TOLERANCE = 1e-4
#: Sides of the faces: the network's own, below, above, twice.
SIZES = (48, 31, 130, 96)

#: Class -> probability.
Answer = dict[str, float]

#: Opens the page with one face after the other, and posts what its bars say.
_DRIVER = """<!doctype html>
<iframe id="page" width="390" height="844"></iframe>
<script type="module">
  const page = document.getElementById("page");
  const answers = [];
  const post = (body) => fetch("/answers", { method: "POST", body: JSON.stringify(body) });
  try {
    for (const face of FACES) {
      page.src = `index.html?photo=${face}`;
      await new Promise((go) => page.addEventListener("load", go, { once: true }));
      for (;;) {
        const alarm = page.contentDocument.querySelector("#said.alarm");
        if (alarm) throw new Error(alarm.textContent);
        const rows = [...page.contentDocument.querySelectorAll("#bars li")];
        if (rows.length && rows.every((row) => row.dataset.share)) {
          const read = (row) => [row.querySelector(".name").textContent, +row.dataset.share];
          answers.push(Object.fromEntries(rows.map(read)));
          break;
        }
        await new Promise((go) => setTimeout(go, 50));
      }
    }
    await post({ answers });
  } catch (error) {
    await post({ error: error.message });
  }
</script>
"""


class Failed(Exception):
    """An example did not run, or answered something else."""


def draw_faces(folder: Path) -> list[Path]:
    """Draw colour faces of several sizes as PNG."""
    paths = []
    for i, size in enumerate(SIZES):
        face = draw_face(sample_face(np.random.default_rng(i), EMOTIONS[i]), size, 3)
        paths.append(folder / f"face{i}.png")
        cv2.imwrite(str(paths[-1]), cv2.cvtColor(face, cv2.COLOR_RGB2BGR))
    return paths


def expected(model: Path, faces: Sequence[Path]) -> list[Answer]:
    """Return what ``emotion_lab.inference.loader`` says."""
    known = load(model)
    shares = [known(cv2.cvtColor(cv2.imread(str(face)), cv2.COLOR_BGR2RGB)) for face in faces]
    return [dict(zip(known.classes, map(float, each), strict=True)) for each in shares]


def printed(words: Sequence[str | Path]) -> Answer:
    """Run a command that prints a line ``<class> <probability>`` for each class.

    Raises:
        Failed: If it ends with an error.
    """
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"{' '.join(str(word) for word in words)}: {done.stderr.strip()}")
    pairs = (line.rsplit(" ", 1) for line in done.stdout.splitlines())
    return {name: float(share) for name, share in pairs}


def largest_difference(found: Sequence[Answer], wanted: Sequence[Answer]) -> float:
    """Return by how much a probability differs at most.

    Raises:
        Failed: If faces or classes are not the same.
    """
    if [sorted(each) for each in found] != [sorted(each) for each in wanted]:
        raise Failed(f"other classes or faces: {found} instead of {wanted}")
    both = zip(found, wanted, strict=True)
    return max(abs(a[name] - b[name]) for a, b in both for name in b)


def python_answers(script: Path, model: Path, faces: Sequence[Path]) -> list[Answer]:
    """Run one of the Python examples."""
    return [printed([sys.executable, script, model, face]) for face in faces]


def cpp_answers(program: Path, model: Path, faces: Sequence[Path]) -> list[Answer]:
    """Run the C++ example, which reads PPM."""
    answers = []
    with tempfile.TemporaryDirectory() as folder:
        for face in faces:
            copy = Path(folder) / f"{face.stem}.ppm"
            cv2.imwrite(str(copy), cv2.imread(str(face)))
            answers.append(printed([program.resolve(), model, copy]))
    return answers


def browser() -> str | None:
    """Return a Chromium, if there is one."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


class _Site(SimpleHTTPRequestHandler):
    """The page's folder; what is posted goes to a queue."""

    posted: queue.Queue[dict[str, Any]]

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        """Keep the answers."""
        self.posted.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()


@contextmanager
def _served(folder: Path) -> Iterator[tuple[str, queue.Queue[dict[str, Any]]]]:
    posted: queue.Queue[dict[str, Any]] = queue.Queue()
    site = type("Site", (_Site,), {"posted": posted})
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(site, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", posted
    finally:
        server.shutdown()
        server.server_close()


def browser_answers(
    program: str, model: Path, faces: Sequence[Path], timeout: float = 120
) -> list[Answer]:
    """Open the page in a headless Chromium and read its bars.

    Args:
        program: Chromium.
        model: The exported file.
        faces: Square pictures, all of which lies in the page's frame.
        timeout: Seconds for all of them.

    Raises:
        Failed: If the page says that something is wrong, or nothing in time.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name) / "site"
        shutil.copytree(HERE / "browser", folder, ignore=shutil.ignore_patterns("node_modules"))
        # Chromium gets it through the server, which follows links.
        (folder / "node_modules").symlink_to(MODULES.resolve(), target_is_directory=True)
        shutil.copy(model, folder / "model.onnx")
        for face in faces:
            shutil.copy(face, folder)
        names = json.dumps([face.name for face in faces])
        (folder / "driver.html").write_text(_DRIVER.replace("FACES", names))
        with _served(folder) as (address, posted):
            words = [program, "--headless", "--disable-gpu", "--no-first-run"]
            words += ["--disable-background-networking", f"--user-data-dir={name}/profile"]
            if hasattr(os, "geteuid") and os.geteuid() == 0:
                words.append("--no-sandbox")  # root has none
            # A way in, without which it would print the page and end; 0 takes a free port.
            words += ["--remote-debugging-port=0", f"{address}/driver.html"]
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            process = subprocess.Popen(words, **quiet)
            try:
                answer = posted.get(timeout=timeout)
            except queue.Empty:
                raise Failed(f"the page gave no answer in {timeout:g} s") from None
            finally:
                process.terminate()
                process.wait(30)
    if "error" in answer:
        raise Failed(f"the page says: {answer['error']}")
    return answer["answers"]


def export_tiny(folder: Path) -> Path:
    """Train a tiny network on drawn faces for an epoch and export it; returns the file.

    Raises:
        Failed: If that does not work.
    """
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
            raise Failed(f"{module}: {done.stderr.strip()}")
    return next(out.glob("*.onnx"))


def main() -> int:
    """Run what can be run; one line for each example."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="an exported .onnx; else a tiny one is made")
    parser.add_argument("--cpp", type=Path, help="the built C++ example")
    given = parser.parse_args()
    if given.model and (given.model.suffix != ".onnx" or not given.model.is_file()):
        parser.error(f"--model={given.model} is no .onnx file; the examples read no other")
    chromium, failed = browser(), False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        faces = draw_faces(folder)
        model = given.model or export_tiny(folder)
        wanted = expected(model, faces)
        ways: dict[str, Any] = {
            f"python/{script.name}": functools.partial(python_answers, script) for script in SCRIPTS
        }
        if given.cpp:
            ways["cpp"] = functools.partial(cpp_answers, given.cpp)
        else:
            print("cpp: not run, --cpp=<the built program> is not given")
        if not chromium:
            print("browser: not run, there is no Chromium")
        elif not MODULES.is_dir():
            print(f"browser: not run, first: npm install --prefix {MODULES.parent}")
        else:
            ways["browser"] = functools.partial(browser_answers, chromium)
        for way, run in ways.items():
            try:
                worst = largest_difference(run(model, faces), wanted)
            except Failed as error:
                print(f"{way}: FAILED, {error}")
                failed = True
                continue
            good = worst <= TOLERANCE
            failed |= not good
            words = "passed" if good else "FAILED"
            print(f"{way}: {words}, {len(faces)} faces, largest difference {worst:.1g}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
