"""Say what a face shows, with ``emotion_lab.inference.loader``; no torch is imported.

python with_runtime.py senet.fp32.onnx face.png
"""

import sys

import cv2

from emotion_lab.core.errors import UserError
from emotion_lab.inference.loader import load

if len(sys.argv) != 3:
    sys.exit("usage: with_runtime.py <exported file> <picture of a face>")
try:
    model = load(sys.argv[1])  # .onnx, OpenVINO's .xml, .torchscript or .pt2
except UserError as error:  # missing, cut off, changed, or its runtime is not installed
    sys.exit(f"error: {error}")
picture = cv2.imread(sys.argv[2])
if picture is None:
    sys.exit(f"error: {sys.argv[2]} is missing or no picture.")
shares = model(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
for i in shares.argsort()[::-1]:
    print(f"{model.classes[i]} {shares[i]:.6f}")
