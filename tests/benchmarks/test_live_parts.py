"""Parts of the live benchmark: speed, stages, cost of outputs, the command from outside, peers."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emotion_lab.benchmarks.live import process, speed
from emotion_lab.benchmarks.live.peer import Peer, compare_peer
from emotion_lab.benchmarks.live.report import live_report
from emotion_lab.core.errors import UserError
from emotion_lab.video.overlay.overlay import Overlay
from emotion_lab.video.pipeline import Pipeline
from emotion_lab.video.types import Frame
from tests.benchmarks.test_live_benchmark import FixedDetector, RandomClassifier, config

FRAMES = [Frame(np.full((360, 480, 3), i, np.uint8), i, i / 30, 0.0) for i in range(12)]

#: A peer that sees one happy face in dark frames and two in others.
PEER = """
import json, sys
frames = sys.stdin.buffer
head = json.loads(frames.readline())
size = head["width"] * head["height"] * 3
print(json.dumps({"ready": True}), flush=True)
while pixels := frames.read(size):
    assert len(pixels) == size
    faces = [{"label": "Happy"}] * (1 if pixels[0] < 6 else 2)
    print(json.dumps({"faces": faces}), flush=True)
"""


def pipeline(kind: type[Pipeline] = Pipeline) -> Pipeline:
    return kind(FixedDetector(), RandomClassifier(), config("none"))


def test_rounds_alternate_and_are_saved() -> None:
    order: list[Any] = []
    saved: list[dict[str, Any]] = []

    def baseline(image: np.ndarray) -> int:
        order.append(int(image[0, 0, 0]))
        return 2

    def make() -> Pipeline:
        order.append("ours")
        return pipeline()

    result = speed.compare(FRAMES, baseline, make, 3, saved.append)
    assert len(saved) == 3 and saved[-1] == result and len(saved[0]["rounds"]) == 2
    groups = itertools.groupby(order, key=lambda one: one == "ours")
    parts = [list(part) for is_ours, part in groups if not is_ours]
    # After the warm-up the baseline sees every frame once, each round another part.
    assert parts == [[0, 1, 2], [0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]
    assert result["seed_faces"] == 2 and result["ours_faces"] == 1
    assert result["ratio"] == pytest.approx(result["ours_fps"] / result["seed_fps"], abs=0.006)


def test_stages_and_cost_of_the_outputs() -> None:
    overlay = Overlay({"timeline_s": 0.0}, RandomClassifier().classes)
    stages = speed.stage_ms(FRAMES, pipeline(), overlay, None)
    assert tuple(stages) == speed.STAGES and stages["decode"] is None
    assert stages["classify"] and stages["draw"]
    cost = speed.outputs_cost(FRAMES, pipeline, lambda: pipeline(speed.PlainPipeline), 2)
    assert cost["on_ms"] > 0 and cost["off_ms"] > 0
    (face,) = pipeline(speed.PlainPipeline)(FRAMES[0]).faces
    assert face.pose is None and face.quantities == {}


def write_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch, lines: int | None = None, end: str = ""
) -> None:
    """Replace the command ``live`` by a process that writes lines: as asked, or ``lines``."""
    script = folder / "live.py"
    script.write_text(
        "import sys, time\n"
        f"with open(sys.argv[1], 'w') as log:\n"
        f"    for i in range({lines} or int(sys.argv[2])):\n"
        "        log.write('{}\\n'); log.flush()\n"
        f"{end or 'time.sleep(20)'}\n"
    )

    def command(cfg: Any, clip: Path, run: Path, frames: int) -> list[str]:
        return [sys.executable, "-S", str(script), str(run / "log.jsonl"), str(frames)]

    monkeypatch.setattr(process, "live_command", command)


def test_first_frame_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_command(tmp_path, monkeypatch)
    first = process.first_frame({}, tmp_path, 2)
    assert first["rounds"] == 2 and 0 < first["median_s"] <= first["max_s"] < 10
    if not Path("/proc/self/maps").exists():
        pytest.skip("memory is measured on Linux only")
    result = process.memory({}, tmp_path, 3000)
    assert list(result["at"]) == ["1000", "1500", "3000"] and result["torch_imported"] is False
    assert all(1 < mib < 100 for mib in result["at"].values())
    assert abs(result["growth_mib"]) < 10


def test_a_command_that_ends_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_command(tmp_path, monkeypatch, lines=2, end="sys.exit('error: no such clip')")
    with pytest.raises(UserError, match="live ended after 2 frames: error: no such clip"):
        process.memory({}, tmp_path, 5000)


def test_command_line() -> None:
    cfg = {"ckpt": "my run", "detector": {"name": "haar"}, "backend": {"name": "auto"}}
    words = process.live_command(cfg, Path("a,b.mp4"), Path("/x"), 7)
    assert {"ckpt='my run'", "source='a,b.mp4'", "detector=haar", "max_frames=7"} <= {*words}
    assert not any(word.startswith("detector.file") for word in words)


def peer_command(folder: Path, code: str) -> str:
    script = folder / "peer program.py"
    script.write_text(code)
    return f"{sys.executable} -S '{script}'"


def test_a_peer_beside_ours(tmp_path: Path) -> None:
    class HappyClassifier(RandomClassifier):
        def __call__(self, crops: Any) -> np.ndarray:
            return np.float32([[0.9, 0.1]]).repeat(len(crops), axis=0)

    def make() -> Pipeline:
        return Pipeline(FixedDetector(), HappyClassifier(), config("none"))

    cfg = {"peer": peer_command(tmp_path, PEER), "peer_frames": 6, "peer_timeout_s": 10}
    row = compare_peer(FRAMES, make, {**cfg, "rounds": 2})
    assert row["frames"] == 6 and row["peer_faces"] == 1.5 and row["ours_faces"] == 1
    assert row["both_one_face"] == 3 and row["same_label"] == 1
    assert row["ratio"] == pytest.approx(row["ours_fps"] / row["peer_fps"], rel=0.01)
    result = {"detector": "yunet", "runtime": "torch", "agreement": {}, "peer": {"a.mp4": row}}
    text = "\n".join(map(str, live_report(result)))
    assert "a.mp4" in text and "100.0%" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("print(json", "sys.exit('no weights'); print(json"), "exit code 1.*: no weights"),
        (('"ready"', '"hello"'), "its first line must be"),
        (('json.dumps({"faces": faces})', "'50 %'"), "line 2 is not a JSON object: 50 %"),
        (('{"faces": faces}', '{"faces": [1]}'), "line 2 has no faces with a label each"),
        (("while pixels", "import time; time.sleep(5)\nwhile pixels"), "no line for 1 s"),
    ],
)
def test_a_peer_that_fails(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    command = peer_command(tmp_path, PEER.replace(*change, 1))
    error = pytest.raises(UserError, match=message)
    with error as caught, Peer(command, (480, 360), 1.0) as peer:
        peer.labels([FRAMES[0].image])
    assert "\n" not in str(caught.value) and "after 0 frames" in str(caught.value)


def test_a_peer_that_cannot_start() -> None:
    with pytest.raises(UserError, match="peer=no-such-program cannot be started"):
        Peer("no-such-program", (48, 36), 1.0)


def test_the_example_follows_the_protocol(tmp_path: Path) -> None:
    """``fer_peer.py`` with a stand-in for the package ``fer``."""
    (tmp_path / "fer").mkdir()
    (tmp_path / "fer" / "__init__.py").touch()
    (tmp_path / "fer" / "fer.py").write_text(
        "print('a message of the package')\n"
        "class FER:\n"
        "    def detect_emotions(self, image):\n"
        "        assert image.shape == (36, 48, 3)\n"
        "        assert image[0, 0].tolist() == [3, 2, 1]  # BGR\n"
        "        return [{'box': [1, 2, 3, 4], 'emotions': {'sad': 0.1, 'happy': 0.9}}]\n"
    )
    example = Path(__file__).parents[2] / "docs" / "examples" / "peer" / "fer_peer.py"
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import runpy; "
    code += f"runpy.run_path({str(example)!r}, run_name='__main__')"
    image = np.zeros((36, 48, 3), np.uint8) + np.uint8([1, 2, 3])
    with Peer(f"{sys.executable} -c {json.dumps(code)}", (48, 36), 20) as peer:
        assert peer.labels([image, image]) == [["happy"], ["happy"]]
