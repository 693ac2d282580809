"""Say what a face shows, with onnxruntime, OpenCV and numpy alone.

python plain.py senet.fp32.onnx face.png
"""

import json
import sys

import cv2
import onnxruntime

if len(sys.argv) != 3 or not sys.argv[1].endswith(".onnx"):
    sys.exit("usage: plain.py <exported .onnx> <picture of a face>")
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
about = json.loads(session.get_modelmeta().custom_metadata_map["emotion_lab"])
picture = cv2.imread(sys.argv[2])
if picture is None:
    sys.exit(f"error: {sys.argv[2]} is missing or no picture.")
faces = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)[None]  # uint8 (1, H, W, 3), any H and W
shares = session.run(["probabilities"], {"faces": faces})[0][0]  # float32 (K,), they sum to 1
for i in shares.argsort()[::-1]:
    print(f"{about['classes'][i]} {shares[i]:.6f}")
