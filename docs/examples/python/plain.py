"""Classify a face with onnxruntime, OpenCV and numpy only.

python plain.py senet.fp32.onnx face.png
"""

import json
import sys

import cv2
import onnxruntime

if len(sys.argv) != 3 or not sys.argv[1].endswith(".onnx"):
    sys.exit("usage: plain.py <exported .onnx> <face image>")
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
metadata = json.loads(session.get_modelmeta().custom_metadata_map["emotion_lab"])
image = cv2.imread(sys.argv[2])
if image is None:
    sys.exit(f"error: {sys.argv[2]} is missing or not an image.")
faces = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)[None]  # uint8 (1, H, W, 3), any H and W
probabilities = session.run(["probabilities"], {"faces": faces})[0][0]  # float32 (K,), sum 1
for i in probabilities.argsort()[::-1]:
    print(f"{metadata['classes'][i]} {probabilities[i]:.6f}")
