"""The public package ``fer`` as a peer of ``bench benchmark=live``.

In an environment of its own, here without the packages for clips and MTCNN, which it does not use;
tried with fer 25.10.3:

    python -m venv fer-env
    fer-env/bin/pip install --no-deps fer
    fer-env/bin/pip install tensorflow-cpu "opencv-contrib-python<5" requests pillow "setuptools<81"
    python -m emotion_lab.bench benchmark=live ckpt=fer2013 clip=<clip.mp4> \
      peer="fer-env/bin/python docs/examples/peer/fer_peer.py"
"""

import json
import os
import sys


def main() -> None:
    """Label the frames of standard input; see docs/live_speed.md for the protocol."""
    # Libraries print progress and warnings: keep standard output for the results.
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import numpy as np
    from fer.fer import FER  # the package itself exports nothing since 25.10

    frames = sys.stdin.buffer
    head = json.loads(frames.readline())
    width, height = head["width"], head["height"]
    detector = FER()
    print(json.dumps({"ready": True}), file=results, flush=True)
    while pixels := frames.read(width * height * 3):
        rgb = np.frombuffer(pixels, np.uint8).reshape(height, width, 3)
        found = detector.detect_emotions(rgb[:, :, ::-1].copy())  # fer expects BGR
        faces = [
            {
                "label": max(face["emotions"], key=face["emotions"].get),
                "box": [int(value) for value in face["box"]],
            }
            for face in found
        ]
        print(json.dumps({"faces": faces}), file=results, flush=True)


if __name__ == "__main__":
    main()
